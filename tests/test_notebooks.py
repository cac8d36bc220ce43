"""The notebooks are committed as a reader should find them: run once from top to bottom, and clean."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

PROJECT = Path(__file__).parents[1]
NOTEBOOKS = sorted((PROJECT / "notebooks").glob("*.ipynb"))

# A path of the machine that ran the notebook: it would not be found anywhere else.
MACHINE_PATH = re.compile(
    rf"/(?:home|Users|root)/[\w.-]+|/tmp/[\w.-]+|/var/folders/[\w.-]+|[A-Z]:\\Users\\|{re.escape(str(PROJECT))}"
)


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request: pytest.FixtureRequest) -> nbformat.NotebookNode:
    return nbformat.read(request.param, as_version=4)


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def texts(cell: nbformat.NotebookNode) -> Iterator[str]:
    """Yield everything that a code cell shows, as text."""
    for output in cell.outputs:
        yield output.get("text", "")
        yield from output.get("traceback", ())
        yield from (value for kind, value in output.get("data", {}).items() if kind.startswith("text/"))


TUTORIALS = [
    "01-first-store-and-commit",
    "02-gnss-day",
    "03-going-back-in-time",
    "04-why-icechunk",
    "05-i-broke-it",
    "06-what-changed-and-why",
    "07-branches",
]


def test_the_tutorials_are_there_in_order():
    assert [path.stem for path in NOTEBOOKS] == TUTORIALS


def test_cells_ran_once_in_order(notebook):
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))


def test_something_is_shown(notebook):
    assert any(cell.outputs for cell in code_cells(notebook))


def test_a_title_comes_first(notebook):
    first = notebook.cells[0]
    assert first.cell_type == "markdown"
    assert first.source.startswith("# ")


def test_no_state_of_widgets_is_kept(notebook):
    # A page made from it would be blank: it waits for scripts from the web.
    assert "widgets" not in notebook.metadata


def test_it_runs_on_any_python_3_kernel(notebook):
    assert notebook.metadata.kernelspec.name == "python3"


def test_no_path_of_one_machine_is_in_it(notebook):
    found = [path for cell in notebook.cells for path in MACHINE_PATH.findall(cell.source)]
    found += [path for cell in code_cells(notebook) for text in texts(cell) for path in MACHINE_PATH.findall(text)]
    assert not found


def test_no_magic_was_mistyped(notebook):
    # IPython only prints a UsageError, and nbval passes the cell.
    errors = [output.text for cell in code_cells(notebook) for output in cell.outputs if output.get("name") == "stderr"]
    assert not [text for text in errors if text.startswith("UsageError")]


def test_an_error_is_shown_only_where_it_is_announced(notebook):
    for cell in code_cells(notebook):
        if any(output.output_type == "error" for output in cell.outputs):
            assert "raises-exception" in cell.metadata.get("tags", []), cell.source


def test_no_cell_is_kept_from_the_comparison(notebook):
    tags = {tag for cell in code_cells(notebook) for tag in cell.metadata.get("tags", [])}
    assert not {"nbval-skip"} & tags
    assert not any("NBVAL_SKIP" in cell.source for cell in code_cells(notebook))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_readme_names_it(path):
    assert f"notebooks/{path.name}" in (PROJECT / "README.md").read_text(encoding="utf-8")
