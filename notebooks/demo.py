"""What `make demo` runs: the GNSS tutorial in a clean folder, then a look at the stores that it made.

Without files the tutorial ingests the day that icemagic generates; with files it does the same job on those.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert import HTMLExporter

from icemagic import IcechunkStore
from icemagic.layout import sites

HERE = Path(__file__).resolve().parent
BUILD = HERE.parent / "build" / "demo"
CELL_SECONDS = 1800
"""A cell may take long on somebody's own year of observations, but not for ever."""


def main() -> int:
    """Run the demonstration; return the exit code."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, help="netCDF files with the dimensions epoch and sid")
    parser.add_argument("--into", type=Path, help="a new folder for the stores and the page, instead of build/demo")
    given = parser.parse_args()
    missing = [str(file) for file in given.files if not file.is_file()]
    if missing:
        print(f"There is no file {', '.join(missing)}.", file=sys.stderr)
        print("A name with spaces needs quotes of its own: make demo DATA=\"'my file.nc'\"", file=sys.stderr)
        return 2
    (notebook,) = HERE.glob("02*.ipynb")
    folder = new_folder(given.into)
    os.environ["ICEMAGIC_DEMO_DATA"] = os.pathsep.join(str(file.resolve()) for file in given.files)
    os.environ["ICEMAGIC_DEMO_STORES"] = str(folder)
    print(
        f"running notebooks/{notebook.name} on {', '.join(map(str, given.files)) or 'a generated day'} ...", flush=True
    )
    page = folder / notebook.with_suffix(".html").name
    failure = run(notebook, page)
    if failure is not None:
        print(f"{failure.ename}: {failure.evalue}\nThe page so far: {page}", file=sys.stderr)
        return 1
    show(folder / "stores")
    print(f"\nthe page:   {page}\nthe stores: {folder / 'stores'}")
    return 0


def new_folder(into: Path | None) -> Path:
    """Make the folder for the stores and the page; only build/demo may exist already, and is emptied."""
    folder = BUILD if into is None else into.resolve()
    if into is None:
        shutil.rmtree(BUILD, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def run(notebook: Path, page: Path) -> CellExecutionError | None:
    """Execute a notebook beside its page; write the page, and return what stopped the notebook before its end."""
    nb = nbformat.read(notebook, as_version=4)
    client = NotebookClient(nb, timeout=CELL_SECONDS, resources={"metadata": {"path": str(page.parent)}})
    failure = None
    # The kernel's own remarks go to a file: each start brings one about encryption between processes of one machine.
    with page.with_name("kernel.log").open("w") as log:
        try:
            client.execute(stderr=log)
        except CellExecutionError as error:
            failure = error
    html, _ = HTMLExporter().from_notebook_node(nb)
    page.write_text(html, encoding="utf-8")
    return failure


def show(root: Path) -> None:
    """Print the log of every store and what its newest version changed."""
    for site in sites(root).sites:
        for kind in site.kinds:
            store = IcechunkStore.open(root / site.name / kind, read_only=True)
            print(f"\n{store.log()}\n\n{store.diff()}")


if __name__ == "__main__":
    sys.exit(main())
