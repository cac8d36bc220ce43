"""Takes the picture in the README: a real notebook in a real JupyterLab. Run by `make picture`; needs a Chromium."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_notebook
from playwright.sync_api import expect, sync_playwright

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

import servers  # noqa: E402  the tests' own helper starts the same JupyterLab

PREPARATION = """\
%load_ext icemagic
%icechunk open stores/rosalia/rinex --create
from icemagic.sample import gnss_day
day = gnss_day("2025-01-01", "canopy", interval="30s")
morning, evening = (day.isel(epoch=slice(start, start + 1440)) for start in (0, 1440))"""
SHOWN = (
    '%%commit "Add the morning of 2025-01-01"\nds = preprocess_dataset(morning)\nds.to_zarr(store)',
    '%%commit "Add the evening"\nds = preprocess_dataset(evening)\nds.to_zarr(store, append_dim="epoch")',
    "VersionPicker(store)",
)
RUN_ALL = "async () => await window.jupyterapp.commands.execute('notebook:run-all-cells')"


def main() -> None:
    """Execute the cells in JupyterLab and save what a user sees."""
    os.environ |= {"GIT_AUTHOR_NAME": "Ada", "GIT_AUTHOR_EMAIL": "ada@example.org"}
    hidden = {"jupyter": {"source_hidden": True, "outputs_hidden": True}}
    cells = [new_code_cell(PREPARATION, metadata=hidden), *map(new_code_cell, SHOWN)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    with tempfile.TemporaryDirectory() as folder, servers.jupyter_lab(Path(folder)) as lab, sync_playwright() as driver:
        nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), lab.root / "icemagic.ipynb")
        quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        chromium = driver.chromium.launch(executable_path=servers.find_chromium(), args=quiet)
        page = chromium.new_page(viewport={"width": 1120, "height": 1300}, device_scale_factor=1.5)
        page.goto(lab.notebook_url("icemagic.ipynb"))
        page.wait_for_selector("#jupyterlab-splash", state="detached")
        expect(page.locator("#jp-main-statusbar")).to_contain_text(re.compile(r"\| Idle"), timeout=60_000)
        page.evaluate(RUN_ALL)
        page.locator(".widget-dropdown").first.wait_for()
        page.locator(".jp-WindowedPanel-outer").evaluate("panel => panel.scrollTop = 0")
        page.wait_for_timeout(1000)
        page.locator(".jp-NotebookPanel-notebook").screenshot(path=HERE / "icemagic.png")
        chromium.close()


if __name__ == "__main__":
    main()
