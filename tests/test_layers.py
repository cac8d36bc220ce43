"""Imports inside the package go down its floors only, and only the shells know the notebook."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "icemagic"

# Highest first. A module imports from lower floors, or from its own floor as long as nothing leads back.
FLOORS = {
    "door": {"__init__"},
    "shells": {"magics", "answers", "cells", "commands", "completion", "progress", "savepoints", "lines", "trials",
               "widgets"},
    "place": {"store", "junction", "workbench", "inquiry", "comparison", "standpoint"},
    "verbs": {
        "transaction", "history", "logs", "touching", "sources", "bisection", "restore", "ingest", "fit", "provenance",
        "diff", "arraydiff", "structure", "identical", "values", "datasets",
        "refs", "tree", "show", "sample", "opening", "merge", "conflicts", "guards", "standing", "operations", "oplog",
        "rescue", "usage", "holdings", "census", "expiry", "collection", "backups", "doctor",
        "lineage", "chunkmerge", "rowmerge", "mergeplan", "threeway", "merging",
        "blame", "attribution", "timeline", "following",
    },
    "ground": {"providers", "storage", "config", "layout", "locking", "interrupts", "coordinates", "selecting", "nodes",
               "forks", "latereads", "writing", "decoding", "graph", "touches"},
    "cellar": {"records", "differences", "display", "pictures", "stepplot", "svg", "errors", "redaction"},
}  # fmt: skip
HEIGHT = {module: -number for number, modules in enumerate(FLOORS.values()) for module in modules}
FLOOR = {module: floor for floor, modules in FLOORS.items() for module in modules}

NOTEBOOK = {"IPython", "ipywidgets", "traitlets", "anywidget"}
SLOW = NOTEBOOK | {"xarray", "pandas", "dask", "filelock"}


@dataclass(frozen=True)
class Import:
    """One imported name: a module of the package by its own name, another package by its first part."""

    file: Path
    line: int
    module: str
    target: str
    inside: bool

    def __str__(self) -> str:
        return f"{self.file.name}:{self.line}: {self.module} imports {self.target}"


def imports(package: Path) -> Iterator[Import]:
    """Yield every import in a package, wherever it stands: in functions and under TYPE_CHECKING too."""
    for file in sorted(package.rglob("*.py")):
        path = file.relative_to(package).with_suffix("").parts
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            for name in _names(node, [package.name, *path[:-1]]):
                first, *rest = name.split(".")
                inside = first == package.name
                target = _module(package, rest) if inside else first
                yield Import(file, node.lineno, path[0], target, inside)


def _names(node: ast.AST, folder: list[str]) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    above = folder[: len(folder) + 1 - node.level] if node.level else []
    start = ".".join([*above, *([node.module] if node.module else [])])
    return [f"{start}.{alias.name}" for alias in node.names]


def _module(package: Path, names: list[str]) -> str:
    """Return the module that a dotted name inside the package lies in; a name of the package's own is the door's."""
    is_module = names and ((package / f"{names[0]}.py").exists() or (package / names[0]).is_dir())
    return names[0] if is_module else "__init__"


def offences(package: Path) -> list[str]:
    """Return what breaks the rules, one sentence each."""
    found = [one for one in imports(package) if one.module != one.target]
    modules = {file.relative_to(package).with_suffix("").parts[0] for file in package.rglob("*.py")}
    homeless = [
        f"{module} is on no floor: give it one in tests/test_layers.py" for module in sorted(modules - set(FLOOR))
    ]
    if homeless:
        return homeless
    inner = [one for one in found if one.inside]
    upward = [
        f"{one}, up from {FLOOR[one.module]} to {FLOOR[one.target]}"
        for one in inner
        if HEIGHT[one.target] > HEIGHT[one.module]
    ]
    notebook = [
        f"{one}: only the shells may"
        for one in found
        if not one.inside and one.target in NOTEBOOK and HEIGHT[one.module] < HEIGHT["magics"]
    ]
    return [*upward, *notebook, *_circles(inner)]


def _circles(found: list[Import]) -> list[str]:
    graph: dict[str, set[str]] = {}
    for one in found:
        graph.setdefault(one.module, set()).add(one.target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return [f"in a circle: {' <- '.join(error.args[1])}"]
    return []


def test_imports_go_down_only():
    assert not offences(PACKAGE), "\n".join(offences(PACKAGE))


@pytest.mark.parametrize(
    ("file", "source", "offence"),
    [
        pytest.param("diff.py", "import icemagic.store", "diff imports store, up from verbs to place", id="up"),
        pytest.param("diff.py", "from icemagic import IcechunkStore", "up from verbs to door", id="to the door"),
        pytest.param("diff.py", "from .store import IcechunkStore", "up from verbs to place", id="relative"),
        pytest.param("errors.py", "def f():\n    from icemagic import config", "errors.py:2", id="in a function"),
        pytest.param("diff.py", "from icemagic import tree", "in a circle: diff <- tree <- diff", id="circle"),
        pytest.param("store.py", "from IPython import get_ipython", "only the shells may", id="notebook below"),
        pytest.param("extra.py", "", "extra is on no floor", id="new module"),
        pytest.param("widgets/picker.py", "from ..store import IcechunkStore\nimport ipywidgets", "", id="shell"),
    ],
)
def test_an_offence_is_seen_and_named(tmp_path, file, source, offence):
    package = tmp_path / "icemagic"
    (package / "widgets").mkdir(parents=True)
    for name in ("__init__", "store", "config", "diff"):
        (package / f"{name}.py").touch()
    (package / "tree.py").write_text("from icemagic import diff")
    (package / file).write_text(source)
    assert offence in "\n".join(offences(package))
    assert offence or not offences(package)


def test_importing_the_package_loads_neither_notebook_nor_tables():
    code = "import sys, icemagic; print(*{name.partition('.')[0] for name in sys.modules})"
    run = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    loaded = SLOW & set(run.stdout.split())
    assert not loaded
