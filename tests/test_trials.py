"""``%%bisect``: how a cell gives its verdict, and that the store is put back whatever happens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr

from icemagic import IcechunkStore
from icemagic.bisection import Bisected
from icemagic.magics import IceError
from shells import WRITE, Typed

READ = 'x = zarr.open_array(store, path="x", mode="r")[:]'


@pytest.fixture
def shell(shell: Typed) -> Typed:
    """Return a shell whose store holds x = number … number + 3 in the versions 0 to 9; tag v1 stands on 0."""
    store = shell.open_memory()
    for number in range(10):
        with store.transaction(f"write {number}"):
            zarr.create_array(store, name="x", data=np.arange(4) + number, overwrite=True)
    store.tag("v1", "HEAD~9")
    return shell


def first_bad(shell: Typed, *lines: str, options: str = "--good v1") -> str:
    answer = shell.get(f"%%bisect {options}", *lines)
    assert isinstance(answer, Bisected)
    (version,) = answer.candidates
    return version.message


VERDICTS = {
    "assert": "assert x[0] < 6",
    "assert with a message": "assert x[0] < 6, 'too large'",
    "assert before other lines": "assert x[0] < 6\ny = 1",
    "assert in a function": "def check(x):\n    assert x[0] < 6\ncheck(x)",
    "function that asserts": "np.testing.assert_array_less(x[:1], 6)",
    "bool": "bool(x[0] < 6)",
    "numpy bool": "x[0] < 6",
    "array of one value": "(x < 6)[:1]",
    "data array": "xr.DataArray(x).min() < 6",
    "dask": 'xr.Dataset({"x": ("t", x)}).chunk(t=2).x.min() < 6',
    "number": "max(0, 6 - int(x[0]))",
    "text": "'' if x[0] >= 6 else 'fine'",
    "semicolon": "x[0] < 6;",
    "await": "import asyncio\nawait asyncio.sleep(0)\nx[0] < 6",
    "await an assert": "import asyncio\nasync def f():\n    assert x[0] < 6\nawait f()",
    "magic": "%time x[0] < 6",
}


@pytest.mark.parametrize("verdict", VERDICTS.values(), ids=VERDICTS)
def test_a_verdict_is_read_from_an_assert_or_the_last_expression(shell: Typed, verdict: str):
    assert first_bad(shell, READ, verdict) == "write 6"


def test_either_end_may_be_any_version(shell: Typed):
    assert first_bad(shell, READ, "x[0] < 4", options="--good HEAD~8 --bad main~2") == "write 4"
    shell.get("%ice checkout HEAD~3")
    assert first_bad(shell, READ, "x[0] < 6", options="--good v1") == "write 6"


NO_VERDICT = {
    "nothing": "x = 1",
    "only a comment": "# nothing",
    "None": "print(x)",
    "several values": "x < 6",
    "no value": "x[:0]",
}


@pytest.mark.parametrize("body", NO_VERDICT.values(), ids=NO_VERDICT)
def test_a_cell_without_a_verdict_is_refused(shell: Typed, body: str):
    assert "neither good nor bad" in shell.refusal("%%bisect --good v1", READ, body)


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (["assert x[0] < 6"], "assert x[0] < 6"),
        (["assert x[0] < 6, f'{x[0]} is too large'"], "AssertionError: 6 is too large"),
        (["x[0] < 6"], "not true: x[0] < 6"),
    ],
)
def test_each_run_says_why(shell: Typed, lines: list[str], why: str):
    answer = shell.get("%%bisect --good v1", READ, *lines)
    assert why in [run.why for run in answer.runs if run.verdict == "bad"]
    assert {run.why for run in answer.runs if run.verdict == "good"} == {""}


CANNOT_RUN = {
    "exception": ("raise ValueError('first line\\nsecond line')", "ValueError: first line …"),
    "exception without words": ("raise KeyError", "raise KeyError"),
    "ice": ("%ice show nope", "IceError: No branch, tag or version is called 'nope'."),
    "write": ("zarr.open_array(store, path='x')[0] = 1", "NotWritableError"),
    "transaction": ("with store.transaction('no'):\n        pass", "NotWritableError"),
    "hidden": ("%run bad.py", "showed an error and went on"),
}


@pytest.mark.parametrize(("body", "why"), CANNOT_RUN.values(), ids=CANNOT_RUN)
def test_a_version_on_which_the_cell_cannot_run_is_skipped_with_the_reason(
    shell: Typed, tmp_path: Path, body: str, why: str
):
    (tmp_path / "bad.py").write_text("1/0")
    answer = shell.get("%%bisect --good v1", READ, f"if x[0] in (4, 5):\n    {body}", "x[0] < 7")
    assert [version.message for version in answer.candidates] == ["write 7"]
    skipped = [run for run in answer.runs if run.verdict == "skipped"]
    assert skipped
    assert all(why in run.why for run in skipped)
    assert "without a verdict" in str(answer)


def test_what_runs_print_or_show_is_dropped(shell: Typed, capsys: pytest.CaptureFixture[str]):
    capsys.readouterr()
    noise = "print('NOISE')\nimport sys\nprint('NOISE', file=sys.stderr)\ndisplay('NOISE')"
    shell.get("%%bisect --good v1;".removesuffix(";"), READ, noise, "x[0] < 6")
    written = capsys.readouterr()
    assert "NOISE" not in written.out + written.err
    shell.get("print('heard')")
    assert "heard" in capsys.readouterr().out


def test_what_the_cell_assigns_stays_and_the_store_is_put_back(shell: Typed):
    store, tip = shell["store"], shell["store"].version
    assert first_bad(shell, READ, "seen = store", "x[0] < 6") == "write 6"
    assert shell["store"] is store
    assert (store.version, store.current_branch) == (tip, "main")
    assert isinstance(shell["seen"], IcechunkStore)
    assert shell["seen"].opened_read_only
    shell.get('%%commit "after"', WRITE)


ENDINGS = {
    "interrupt": "raise KeyboardInterrupt",
    "exit": "raise SystemExit",
    "cancelled": "import asyncio\nawait asyncio.sleep(0)\nraise asyncio.CancelledError",
    "no verdict": "x",
    "rebound": "store = 5\nx[0] < 6",
    "deleted": "del store\nx[0] < 6",
}


@pytest.mark.parametrize("body", ENDINGS.values(), ids=ENDINGS)
def test_the_store_is_put_back_whatever_ends_the_cell(shell: Typed, body: str, capsys: pytest.CaptureFixture[str]):
    store = shell["store"]
    shell.run("%%bisect --good v1", READ, body)
    assert shell["store"] is store
    shell.get("print('heard')")
    assert "heard" in capsys.readouterr().out


def test_a_begun_transaction_is_neither_seen_nor_touched(shell: Typed):
    shell.get("%ice begin")
    shell.get("zarr.open_array(store, path='x')[:] = 1000")
    assert first_bad(shell, READ, "x[0] < 6") == "write 6"
    assert shell["store"].in_transaction
    shell.get('%ice commit "it"')
    assert shell["store"].version.message == "it"


def test_another_store_is_named(shell: Typed):
    shell.get("mine = store", "del store")
    shell.open_memory("latest")
    body = READ.replace("store", "mine")
    assert first_bad(shell, body, "x[0] < 6", options="--good v1 --store mine") == "write 6"


MISTAKES = [
    "",
    "v1",
    "--good",
    "--good nope",
    "--good v1 --bad nope",
    "--good v1 --store nope",
    "--good HEAD",
    "--good HEAD --bad v1",
    "--good v1 --nosuch",
]


@pytest.mark.parametrize("options", MISTAKES)
def test_a_mistake_in_the_line_is_refused_before_the_cell_runs(shell: Typed, options: str):
    assert len(shell.refusal(f"%%bisect {options}", "ran = True", "True").splitlines()) == 2
    assert "ran" not in shell.ip.user_ns


def test_a_wrong_premise_is_told(shell: Typed):
    assert "given as bad, passes" in shell.refusal("%%bisect --good v1", "True")
    assert "given as good, fails, too" in shell.refusal("%%bisect --good v1", "False")
    assert "cannot be run" in shell.refusal("%%bisect --good v1", "nosuchname < 6")


def test_faulty_python_is_reported_by_python_and_nothing_runs(shell: Typed):
    result = shell.run("%%bisect --good v1", "ran = True", "x = (")
    assert isinstance(result.error_before_exec or result.error_in_exec, SyntaxError)
    assert "ran" not in shell.ip.user_ns


def test_a_long_search_shows_how_far_it_is(shell: Typed, capsys: pytest.CaptureFixture[str]):
    shell.get("%config IceMagic.progress_after = 0.0")
    capsys.readouterr()
    assert first_bad(shell, READ, "x[0] < 6") == "write 6"
    out = capsys.readouterr().out
    assert "run 1: " in out
    assert "run 2: " in out


def test_unloading_takes_the_magic_away(shell: Typed):
    shell.get("%unload_ext icemagic")
    assert "bisect" not in shell.ip.magics_manager.magics["cell"]
    shell.get("%load_ext icemagic")
    assert first_bad(shell, READ, "x[0] < 6") == "write 6"


def test_an_answer_that_is_refused_is_an_error_of_ours(shell: Typed):
    assert isinstance(shell.run("%%bisect --good v1", "True").error_in_exec, IceError)
