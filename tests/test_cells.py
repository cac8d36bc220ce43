"""``%%commit``: the cell runs as IPython runs any cell, and it commits as a whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from icemagic.magics import IceError
from shells import WRITE, Typed, tip


@pytest.fixture
def shell(shell: Typed) -> Typed:
    shell.open_memory()
    return shell


GOOD = {
    "variables": "x = 1",
    "last expression": "1 + 1",
    "semicolon": "1 + 1;",
    "imports": "import math\nfrom math import pi",
    "def": "def f(x):\n    return x\nf(1)",
    "decorator": "import functools\n@functools.cache\ndef f():\n    return 1\nf()",
    "class": "class C:\n    '''Text.'''\n    x = 1",
    "lambda and comprehension see the variables": "k = 2\n[(lambda: i * k)() for i in range(3)]",
    "docstring": "'''Only a text'''",
    "comment": "# nothing but this: it's",
    "blank first lines": "\n\n  \nx = 1",
    "blank last lines": "x = 1\n\n\n",
    "unicode": "größe = 'ünï 🧊'\ngröße",
    "del": "x = 1\ndel x",
    "ice": "%ice log",
    "ice assigned": "found = %ice status",
    "shell": "files = !ls",
    "shell with what python cannot read": '!echo \\* "it\'s" > /dev/null',
    "shell that fails quietly": "!false",
    "help": "?zarr.open_group",
    "help after": "zarr.open_group?",
    "magic": "%pwd",
    "time": "%time 1 + 1",
    "with": "import io\nwith io.StringIO() as f:\n    f.write('x')",
    "try": "try:\n    1/0\nexcept ZeroDivisionError:\n    x = 2",
    "await": "import asyncio\nawait asyncio.sleep(0)",
    "await in the last expression": "import asyncio\nasync def f():\n    return 3\nawait f()",
    "async with": "import contextlib\nasync with contextlib.AsyncExitStack() as s:\n    x = 1",
    "async for": "async def gen():\n    yield 1\nasync for x in gen():\n    pass",
    "own async def that nobody awaits": "async def f():\n    return 3",
    "global": "x = 1\ndef f():\n    global x\n    x += 1\nf()",
}


@pytest.mark.parametrize("body", GOOD.values(), ids=GOOD)
def test_a_cell_that_python_runs_commits_once(shell: Typed, body: str):
    before = tip(shell["store"])
    shell.run('%%commit "it"', WRITE, body).raise_error()
    (version,) = shell["store"].list_versions()
    assert (version.message, version.parent) == ("it", before)
    assert tip(shell["store"]) == shell["store"].version.id


@pytest.mark.parametrize("body", GOOD.values(), ids=GOOD)
def test_a_cell_leaves_the_same_variables_as_without_the_magic(shell: Typed, body: str):
    def variables() -> dict[str, str]:
        return {
            name: repr(value)
            for name, value in shell.ip.user_ns.items()
            if not name.startswith("_") and name not in ("store", "In", "Out", "f", "C", "s", "gen", "found")
        }

    shell.run(body).raise_error()
    plain = variables()
    for name in plain.keys() - {"zarr", "np", "xr", "exit", "quit", "get_ipython", "open"}:
        if name not in ("IcechunkStore", "VersionPicker", "preprocess_dataset"):
            del shell.ip.user_ns[name]
    shell.run('%%commit "it"', body).raise_error()
    assert variables() == plain


SHOWN = {
    "x = 41\nx + 1": "42",
    "x = 41\nx + 1;": None,
    "x = 41\nx + 1; # quiet": None,
    "41; 42": "42",
    "'a'\n'b'": "'b'",
    "None": None,
    "x = 1": None,
    "import asyncio\nawait asyncio.sleep(0, 42)": "42",
    "import asyncio\nawait asyncio.sleep(0, 42);": None,
    '"""text"""': "'text'",
    "# ;\n42": "42",
    "!echo \\*\n42": "42",
    "!echo \\*\n42;": None,
}


@pytest.mark.parametrize("write", ["", WRITE])
@pytest.mark.parametrize(("body", "expected"), SHOWN.items(), ids=map(repr, SHOWN))
def test_the_last_expression_is_shown_unless_a_semicolon_ends_it(
    shell: Typed, capsys: pytest.CaptureFixture[str], body: str, expected: str | None, write: str
):
    capsys.readouterr()
    shell.run('%%commit "it"', write, body).raise_error()
    lines = capsys.readouterr().out.splitlines()
    shown = [
        line for line in lines[: next(i for i, line in enumerate(lines) if line.startswith("Out["))] if line != "*"
    ]
    assert shown == ([expected] if expected else [])


def test_what_to_zarr_returns_is_not_shown(shell: Typed, capsys: pytest.CaptureFixture[str]):
    capsys.readouterr()
    shell.run('%%commit "it"', 'xr.Dataset({"v": ("x", [1.0])}).to_zarr(store)').raise_error()
    assert "ZarrStore" not in capsys.readouterr().out


BAD = {
    "exception": "1/0",
    "exception in a function": "def f():\n    1/0\nf()",
    "own exception": "class Mine(Exception): pass\nraise Mine",
    "base exception": "class Mine(BaseException): pass\nraise Mine",
    "assert": "assert 1 == 2",
    "exit": "raise SystemExit",
    "exit 0": "import sys\nsys.exit(0)",
    "interrupt": "raise KeyboardInterrupt",
    "generator exit": "raise GeneratorExit",
    "stop iteration": "raise StopIteration('x')",
    "cancelled": "import asyncio\nawait asyncio.sleep(0)\nraise asyncio.CancelledError",
    "exception after await": "import asyncio\nawait asyncio.sleep(0)\n1/0",
    "exception inside await": "async def f():\n    1/0\nawait f()",
    "stop iteration after await": "import asyncio\nawait asyncio.sleep(0)\nraise StopIteration('x')",
    "bash": "%%bash\nexit 3",
    "time around": "%%time\n1/0",
    "capture around": "%%capture\n1/0",
    "capture kept": "%%capture out\n1/0",
    "run": "%run bad.py",
    "time of an expression": "%time 1/0",
    "magic that is not there": "%nosuchmagic",
    "ice that fails": "%ice show nothing",
    "commit inside": '%%commit "inner"\n1',
    "commit inside that awaits": '%%commit "inner"\nimport asyncio\nawait asyncio.sleep(0)',
    "a transaction inside": 'with store.transaction("inner"):\n    pass',
    "switch inside": "%ice switch main",
    "close inside": "%ice close",
    "open inside": "%ice open memory:other --create",
    "name error": "nothing_of_that_name",
    "uncaught in a display that asks for it": "raise RuntimeError from ValueError('x')",
}


# IPython warns of a SystemExit that it swallows.
@pytest.mark.filterwarnings("ignore:To exit")
@pytest.mark.parametrize("body", BAD.values(), ids=BAD)
def test_a_cell_that_fails_commits_nothing_and_leaves_the_store_usable(shell: Typed, body: str):
    Path("bad.py").write_text("x = 1\n1/0\n")
    store, before = shell["store"], tip(shell["store"])
    magic, _, rest = body.partition("\n")
    # A cell magic has to stand first; what is written must then be written inside it.
    cell = f"{magic}\n{WRITE}\n{rest}" if magic.startswith("%%") and magic != "%%bash" else f"{WRITE}\n{body}"
    if magic == "%%bash":
        cell = f"get_ipython().run_cell_magic('bash', '', {rest!r})"
        cell = f"{WRITE}\n{cell}"
    result = shell.run('%%commit "it"', cell)
    assert not result.success
    assert tip(store) == before
    assert shell["store"] is store
    assert not store.in_transaction
    assert store.version is None
    shell.get('%%commit "next"', WRITE)
    assert [version.message for version in store.list_versions()] == ["next"]


UNREADABLE = {
    "syntax": ("x = 1\ny = = 2", 3),
    "blank lines first": ("\n\nx = = 2", 4),
    "return": ("x = 1\nreturn x", 3),
    "return in an awaiting cell": ("import asyncio\nawait asyncio.sleep(0)\nreturn 1", 4),
    "indentation": ("x = 1\n  y = 2", 3),
    "open bracket": ("x = (1,\n", 2),
    "await in a function": ("def f():\n    await g()", 3),
    "break": ("break", 2),
    "return behind another statement": ("x = 1; return x", 2),
    "return inside a block": ("x = 1\nif x:\n    y = 1\n    return x", 5),
}


@pytest.mark.parametrize(("body", "line"), UNREADABLE.values(), ids=UNREADABLE)
def test_a_cell_that_python_cannot_read_is_refused_at_its_line_and_nothing_runs(
    shell: Typed, capsys: pytest.CaptureFixture[str], body: str, line: int
):
    before = tip(shell["store"])
    count = shell.ip.execution_count
    capsys.readouterr()
    result = shell.run('%%commit "it"', body)
    assert isinstance(result.error_before_exec or result.error_in_exec, SyntaxError)
    assert f"Cell In[{count}], line {line}" in capsys.readouterr().out
    assert "x" not in shell.ip.user_ns
    assert tip(shell["store"]) == before


def test_an_error_shows_the_line_as_typed_and_says_that_nothing_was_committed(
    shell: Typed, capsys: pytest.CaptureFixture[str]
):
    count = shell.ip.execution_count
    capsys.readouterr()
    shell.run('%%commit "it"', "", "files = !ls", "# a remark", "1/0  # here")
    text = capsys.readouterr().out
    assert f"Cell In[{count}], line 5" in text
    assert "----> 5 1/0  # here" in text
    assert text.rstrip().endswith("ZeroDivisionError: division by zero\nNothing was committed.")
    assert "icemagic" not in text.replace("File", ""), text


# IPython's own %%time cannot hold a cell that awaits.
@pytest.mark.parametrize(
    ("head", "awaits"), [("", False), ("", True), ("\n\n   \n", False), ("\n\n   \n", True), ("%%time\n", False)]
)
def test_line_numbers_count_from_the_top_of_the_whole_cell(
    shell: Typed, capsys: pytest.CaptureFixture[str], head: str, *, awaits: bool
):
    around, inside = (head, "") if head.startswith("%%") else ("", head)
    body = "import asyncio\nawait asyncio.sleep(0)\n1/0" if awaits else "x = 1\n\n1/0"
    cell = f'{around}%%commit "it"\n{inside}{body}'
    number = cell.split("\n").index("1/0") + 1
    count = shell.ip.execution_count
    capsys.readouterr()
    shell.run(cell)
    assert f"Cell In[{count}], line {number}" in capsys.readouterr().out


def test_a_function_of_an_earlier_cell_shows_the_lines_of_that_cell(shell: Typed, capsys: pytest.CaptureFixture[str]):
    count = shell.ip.execution_count
    shell.get('%%commit "one"', "def broken():", "    return 1/0  # the place")
    capsys.readouterr()
    shell.run('%%commit "two"', "broken()")
    text = capsys.readouterr().out
    assert f"Cell In[{count}], line 3, in broken()" in text
    assert "----> 3     return 1/0  # the place" in text


def test_time_and_capture_around_a_commit_leave_it_as_it_is(shell: Typed):
    shell.get("%%time", '%%commit "timed"', WRITE)
    shell.get("%%capture seen", '%%commit "captured"', WRITE.replace("1", "2"), "print('said')")
    assert [version.message for version in shell["store"].list_versions()] == ["timed", "captured"]
    assert "said" in shell["seen"].stdout


def test_time_and_capture_inside_a_commit_leave_it_as_it_is(shell: Typed):
    shell.get('%%commit "timed"', "%%time", WRITE)
    shell.get('%%commit "captured"', "%%capture seen", WRITE.replace("1", "2"), "print('said')")
    assert [version.message for version in shell["store"].list_versions()] == ["timed", "captured"]
    assert "said" in shell["seen"].stdout


def test_a_failure_hidden_by_another_magic_is_told_in_two_lines(shell: Typed):
    assert "nothing was committed" in shell.refusal('%%commit "it"', "%%capture", WRITE, "1/0")


def test_a_failure_of_an_earlier_cell_does_not_stop_a_later_commit(shell: Typed):
    shell.run("1/0")
    shell.get('%%commit "it"', WRITE)
    assert len(shell["store"].list_versions()) == 1


def test_a_commit_inside_a_commit_is_refused_and_named(shell: Typed):
    result = shell.run('%%commit "outer"', '%%commit "inner"', "1")
    assert isinstance(result.error_in_exec, IceError)
    assert "inside another" in str(result.error_in_exec)


CELLS = [
    f'%%commit "it"\n{WRITE}',
    '%%commit "it"\nimport asyncio\nawait asyncio.sleep(0)',
    '%%commit "it"\nx = = 1',
    '%%commit "a"\n%%commit "b"\nawait f()',
    "%%time\n1",
    "%ice log",
    "get_ipython().run_cell_magic('commit', 'x', 5)",
    "get_ipython().run_cell_magic('commit', x)\ny = 1",
    "get_ipython().run_cell_magic('commit', (",
    "",
    "x = 1",
]


@pytest.mark.parametrize("cell", CELLS)
def test_transforming_a_cell_twice_gives_the_same_and_changes_nothing(shell: Typed, cell: str):
    before, names = tip(shell["store"]), set(shell.ip.user_ns)
    count, cached = shell.ip.execution_count, len(shell.ip.compile._filename_map)
    assert shell.ip.transform_cell(cell) == shell.ip.transform_cell(cell)
    assert (tip(shell["store"]), set(shell.ip.user_ns), shell.ip.execution_count) == (before, names, count)
    assert len(shell.ip.compile._filename_map) == cached


@pytest.mark.parametrize("cell", [cell for cell in CELLS if not cell.startswith("%%commit")])
def test_cells_of_others_are_not_rewritten(shell: Typed, cell: str):
    ours = shell.ip.transform_cell(cell)
    shell.get("%unload_ext icemagic")
    assert shell.ip.transform_cell(cell) == ours


def test_without_autoawait_an_awaiting_cell_is_refused_and_nothing_runs(shell: Typed):
    shell.get("%autoawait off")
    result = shell.run('%%commit "it"', WRITE, "import asyncio", "await asyncio.sleep(0)")
    assert isinstance(result.error_before_exec or result.error_in_exec, SyntaxError)
    assert shell["store"].version is None
