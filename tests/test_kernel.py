"""What only a real kernel shows: messages, interrupts, completion, progress, and failures seen by other programs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from shells import WRITE, Kernel, Outcome, running_kernel

pytestmark = pytest.mark.kernel
_numbers = count()
_IN_TIME = 0.05


@pytest.fixture(scope="module")
def _kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    with running_kernel(tmp_path_factory.mktemp("kernel"), JPY_SESSION_NAME="a/notebook.ipynb") as kernel:
        kernel.ok("import asyncio, time, zarr, numpy as np")
        loaded = kernel.ok("%load_ext icemagic")
        assert (loaded.stdout, loaded.stderr, loaded.shown) == ("", "", [])
        yield kernel


@pytest.fixture
def kernel(_kernel: Kernel) -> Kernel:
    """Return the kernel with a new empty store."""
    number = next(_numbers)
    _kernel.ok(f"%ice open memory:kernel-{number} --create")
    return _kernel


def log(kernel: Kernel) -> list[str]:
    """Return the messages of the versions, newest first."""
    return eval(kernel.ok("[v.message for v in store.list_versions()][::-1]").result)  # noqa: S307


# -- cells -------------------------------------------------------------------------------------------------------------


def test_a_commit_shows_the_last_expression_then_the_version(kernel: Kernel):
    outcome = kernel.ok('%%commit "it"', WRITE, "'last'")
    assert outcome.shown[0] == "'last'"
    assert re.match(r"\[main \w{8}\] it\n", outcome.result)
    assert kernel.ok("_").result == outcome.result


@pytest.mark.parametrize("wait", ["time.sleep(0.01)", "await asyncio.sleep(0.01)"])
def test_an_interrupted_bisection_puts_the_store_back_and_what_runs_print_is_not_sent(kernel: Kernel, wait: str):
    for number in range(3):
        kernel.ok(f'%%commit "{number}"', WRITE.replace("1", str(number)))
    kernel.ok("import os, signal", "before = id(store)", "n = lambda: zarr.open_group(store, mode='r').attrs['n']")
    body = ("print('NOISE')", "display('NOISE')", f"for _ in range(500): {wait}", "n() < 1")
    stopped = kernel.run("%%bisect --good HEAD~2", "os.kill(os.getpid(), signal.SIGINT)", "print('NOISE')", *body)
    assert stopped.status == "error"
    assert re.match("KeyboardInterrupt|CancelledError", stopped.error)
    assert "NOISE" not in stopped.stdout + "".join(stopped.shown)
    assert kernel.ok("id(store) == before").result == "True"
    found = kernel.ok("%%bisect --good HEAD~2", *body[:2], wait, body[-1])
    assert re.match(r"the first bad version is \w{8} 1\n", found.result)
    assert (found.stdout, len(found.shown)) == ("", 1)


def test_replay_asks_the_front_end_for_a_new_cell(kernel: Kernel):
    kernel.ok('%%commit "it"', WRITE)
    reply = kernel.client.execute_interactive("%ice replay", output_hook=lambda _: None, timeout=60)
    (payload,) = reply["content"]["payload"]
    assert payload == {"source": "set_next_input", "text": f'%%commit "it"\n{WRITE}', "replace": False}


# The loop ticks: a kernel whose loop sleeps without end may see an interrupt late, with icemagic or without.
@pytest.mark.parametrize(
    "loop",
    [
        "print('go', flush=True)\nwhile True:\n    time.sleep(0.01)",
        "print('go', flush=True)\nwhile True:\n    await asyncio.sleep(0.01)",
        "async def f():\n    print('go', flush=True)\n    while True:\n        await asyncio.sleep(0.01)\nawait f()",
    ],
    ids=["loop", "awaiting loop", "await in a function"],
)
def test_an_interrupted_cell_commits_nothing_and_the_next_one_does(kernel: Kernel, loop: str):
    outcome = kernel.interrupted('%%commit "it"', WRITE, loop)
    assert outcome.status == "error"
    assert re.match("KeyboardInterrupt|CancelledError", outcome.error)
    assert "Nothing was committed." in outcome.traceback
    assert log(kernel) == []
    kernel.ok('%%commit "next"', WRITE)
    assert log(kernel) == ["next"]


FAILING = {
    "exception": "1/0",
    "exception after await": "await asyncio.sleep(0)\n1/0",
    "exit": "raise SystemExit",
    "hidden by capture": "get_ipython().run_cell_magic('capture', '', '1/0')",
    "syntax": "x = = 1",
    "return": "return 1",
    "bash": "get_ipython().run_cell_magic('bash', '', 'exit 3')",
}


@pytest.mark.parametrize("body", FAILING.values(), ids=FAILING)
def test_a_failed_cell_sends_an_error_and_commits_nothing(kernel: Kernel, body: str):
    outcome = kernel.run('%%commit "it"', WRITE, body)
    assert (outcome.status, bool(outcome.error)) == ("error", True)
    assert log(kernel) == []


def test_a_traceback_points_at_the_line_of_the_users_cell(kernel: Kernel):
    text = kernel.run('%%commit "it"', "", "await asyncio.sleep(0)", "1/0  # here").traceback
    assert re.search(r"Cell In\[\d+\], line 4\n", text)
    assert "----> 4 1/0  # here" in text
    assert text.endswith("Nothing was committed.")


def test_a_refusal_sends_an_error_of_two_lines(kernel: Kernel):
    outcome = kernel.run("%ice lgo")
    assert outcome.error.startswith("IceError: There is no verb 'lgo'.")
    assert outcome.traceback == outcome.error
    assert len(outcome.traceback.splitlines()) == 2


def test_awaiting_cells_of_every_form_commit(kernel: Kernel):
    forms = [
        "await asyncio.sleep(0)",
        "async with asyncio.timeout(9):\n    await asyncio.sleep(0)",
        "async def gen():\n    yield 1\nasync for x in gen():\n    pass",
        "async def f():\n    return 5\nassert await asyncio.gather(f(), f()) == [5, 5]",
        "task = asyncio.create_task(asyncio.sleep(0))\nawait task",
    ]
    for number, form in enumerate(forms):
        kernel.ok(f'%%commit "{number}"', form, WRITE.replace("1", str(number)))
    assert log(kernel) == [str(number) for number in range(len(forms))][::-1]


def test_a_commit_records_notebook_and_execution_count_of_its_cell(kernel: Kernel):
    for lines in ((), ("await asyncio.sleep(0)",)):
        kernel.ok('%%commit "it"', *lines, f"{WRITE} + {len(lines)}")
        said = kernel.ok("store.version.metadata['icemagic']['count'], store.version.metadata['icemagic']['notebook']")
        number = kernel.ok(
            "import re",
            'found = [n for n, text in enumerate(In) if re.match(r"(await )?get_ipython..\\.run_cell_magic", text)]',
            "found[-1]",
        )
        assert said.result == f"({number.result}, 'notebook.ipynb')"


def test_a_warning_about_the_users_code_is_shown_once(kernel: Kernel):
    assert kernel.ok('%%commit "it"', "2 is 8").stderr.count("SyntaxWarning") == 1


# -- completion --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def completing(_kernel: Kernel) -> Kernel:
    """Return the kernel with a store that has versions, branches and tags."""
    _kernel.ok("%ice open memory:completing --create --as reference")
    _kernel.ok("%ice open memory:completing2 --create --as canopy")
    _kernel.ok("store = canopy")
    for number in (1, 2):
        _kernel.ok(f'%%commit "{number}"', f'zarr.open_group(canopy).attrs["n"] = {number}')
    for line in ("%ice tag v1.0-rc", "%ice tag v1.1", "%ice branch dev", "%ice branch feature/ünï"):
        _kernel.ok(line)
    _kernel.complete("%ice show ")
    _kernel.complete("x.")  # IPython's own first completion loads Jedi
    return _kernel


REFS = ["dev", "feature/ünï", "main", "v1.0-rc", "v1.1", "HEAD"]
OFFERED = {
    "%ice ch": ["checkout", "cherry-pick"],
    "%icechunk ch": ["checkout", "cherry-pick"],
    "ice ch": ["checkout", "cherry-pick"],
    "x = %ice sw": ["switch"],
    "a, b = %ice sw": ["switch"],
    "x = 1\n%ice sw": ["switch"],
    "if x:\n    %ice sw": ["switch"],
    "%ice help di": ["diff", "discard"],
    "%ice checkout ": [*REFS, "--store"],
    "%ice checkout v": ["v1.0-rc", "v1.1"],
    "%ice checkout v1.0-": ["v1.0-rc"],
    "%ice checkout feature/ü": ["feature/ünï"],
    "%ice switch d": ["dev"],
    "%ice switch v": ["v"],
    "%ice diff main..": [f"main..{name}" for name in REFS],
    "%ice diff ..de": ["..dev"],
    "%ice diff main dev": ["dev"],
    "%ice diff main dev --st": ["--store"],
    "%ice tag new de": ["dev"],
    "%ice log --gr": ["--grep", "--graph"],
    "%ice log --grep x --l": ["--limit"],
    "%%bisect --good v": ["v1.0-rc", "v1.1"],
    "%%bisect --good v1.1 --": ["--bad", "--store"],
    "%ice log --store ": ["canopy", "reference", "store"],
    "%ice log --store reference d": ["d"],
    "%ice close r": ["reference"],
    "%ice open x --": ["--create", "--as", "--read-only", "--branch", "--version", "--storage-config"],
    "%ice open x --create --r": ["--read-only"],
    "%ice status nothing": ["nothing"],
    "%ice nosuch f": ["f"],
    '%%commit "m" --store ': ["canopy", "reference", "store"],
    '%%commit "m" --store ref': ["reference"],
}


@pytest.mark.parametrize("jedi", [True, False])
@pytest.mark.parametrize("code", OFFERED)
def test_tab_offers_what_may_stand_there_and_nothing_else_in_time(completing: Kernel, code: str, *, jedi: bool):
    completing.ok(f"get_ipython().Completer.use_jedi = {jedi}")
    completing.complete("%ice show ")
    offered, seconds = min((completing.complete(code) for _ in range(3)), key=lambda answer: answer[1])
    assert sorted(offered) == sorted(OFFERED[code])
    assert seconds < _IN_TIME


def test_tab_offers_snapshots_from_two_characters_on(completing: Kernel):
    full = completing.ok("store.version.id").result.strip("'")
    assert full[:8] not in completing.complete(f"%ice show {full[:1]}")[0]
    assert full[:8] in completing.complete(f"%ice show {full[:2]}")[0]
    assert full[:8] in completing.complete(f"%ice show {full[:2].lower()}")[0]
    assert f"main..{full[:8]}" in completing.complete(f"%ice diff main..{full[:4]}")[0]


def test_tab_offers_all_verbs_on_an_empty_line(completing: Kernel):
    from icemagic.commands import VERBS

    for code in ("%ice ", "x = %ice ", "%icechunk "):
        assert completing.complete(code)[0] == list(VERBS)


def test_tab_on_other_lines_is_ipythons_own(completing: Kernel):
    completing.ok("class Thing:\n    nice_name = 1\nice = Thing()\nicechunk_thing = Thing()")
    assert ".nice_name" in {f".{name.rpartition('.')[2]}" for name in completing.complete("ice.nice")[0]}
    assert "icechunk_thing" in completing.complete("ice = icechunk_th")[0]
    assert "icechunk_thing" in completing.complete("ice + icechunk_th")[0]
    completing.ok("del ice")


def test_tab_on_a_storage_that_takes_half_a_second_answers_in_time_and_knows_more_later(completing: Kernel):
    completing.ok(
        "import icechunk",
        "from icechunk.testing import LatencyStorage",
        "slow_storage = LatencyStorage(icechunk.in_memory_storage())",
        "slow = IcechunkStore.open(icechunk.Repository.create(slow_storage))",
        "store = slow",
    )
    completing.ok('%%commit "it" --store slow', 'zarr.open_group(slow).attrs["n"] = 1')
    completing.ok("%ice branch faraway --store slow")
    completing.ok("slow_storage.read_latency_ms = 500")
    first, seconds = completing.complete("%ice checkout --store slow f")
    assert (first, seconds < 2 * _IN_TIME) == (["f"], True)
    times = []
    for _ in range(400):
        offered, seconds = completing.complete("%ice checkout --store slow f")
        times.append(seconds)
        if offered != ["f"]:
            break
    assert offered == ["faraway"]
    assert sorted(times)[len(times) // 2] < _IN_TIME


# -- progress ----------------------------------------------------------------------------------------------------------

LONG = "for n in range(8):\n    zarr.open_group(store).attrs['n'] = n\n    {}(0.05)"


@pytest.mark.parametrize("sleep", ["time.sleep", "await asyncio.sleep"])
def test_a_long_cell_shows_a_line_that_moves_and_ends_in_that_cell(kernel: Kernel, sleep: str):
    kernel.ok("%config IceMagic.progress_after = 0.05")
    outcome = kernel.ok('%%commit "it"', LONG.format(sleep))
    kernel.ok("%config IceMagic.progress_after = 2.0")
    assert outcome.kinds[0] == "display_data"
    assert outcome.kinds[1] == "update_display_data"
    assert outcome.kinds.count("display_data") == 1
    assert outcome.shown[0].startswith("writing: ")
    assert re.fullmatch(r"wrote \d.* in \d+ s", outcome.shown[outcome.kinds.index("execute_result") - 1])
    assert outcome.kinds[-1] == "execute_result"


def test_a_short_cell_shows_no_such_line(kernel: Kernel):
    assert kernel.ok('%%commit "it"', WRITE).kinds == ["execute_result"]


@pytest.mark.parametrize("failing", ["1/0", "await asyncio.sleep(0)\n1/0"])
def test_a_failing_cell_ends_the_line_and_its_thread(kernel: Kernel, failing: str):
    kernel.ok("%config IceMagic.progress_after = 0.05")
    outcome = kernel.run('%%commit "it"', "time.sleep(0.2)", failing)
    kernel.ok("%config IceMagic.progress_after = 2.0")
    assert outcome.status == "error"
    assert outcome.shown[-1].startswith("wrote ")
    assert kernel.ok("import threading; [t.name for t in threading.enumerate() if 'progress' in t.name]").result == "[]"


# -- programs that run notebooks ---------------------------------------------------------------------------------------


def notebook(*cells: str) -> nbformat.NotebookNode:
    """Return a notebook that opens a store and goes on with some cells."""
    sources = ["%load_ext icemagic", "import zarr", "%ice open memory:n --create", *cells]
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])


STOPPING = {
    "a failing commit": '%%commit "it"\n1/0',
    "a failure hidden in a commit": '%%commit "it"\n%%capture\n1/0',
    "a refused line": "%ice lgo",
}


def test_nbclient_stops_at_a_failed_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    document = notebook(STOPPING["a failing commit"], "1 + 1")
    with pytest.raises(CellExecutionError):
        NotebookClient(document, timeout=60, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert document.cells[-2].outputs[-1].output_type == "error"
    assert not document.cells[-1].outputs
    assert document.cells[-1].execution_count is None


def test_nbval_fails_on_each_failure(tmp_path: Path):
    path = tmp_path / "failing.ipynb"
    nbformat.write(notebook(*STOPPING.values()), path)
    command = [sys.executable, "-m", "pytest", "-q", "-c", "/dev/null", "--rootdir", tmp_path]
    command += ["-p", "no:cacheprovider", "-p", "nbval.plugin", "--nbval-lax", "--nbval-current-env", path]
    env = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "IPYTHONDIR": str(tmp_path / "ipython")}
    run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=env)
    assert f"{len(STOPPING)} failed, 3 passed" in run.stdout.splitlines()[-1], run.stdout


def test_outcomes_of_other_cells_are_not_mixed_in(kernel: Kernel):
    seen: list[Outcome] = []
    kernel.run("print('one')", on_output=seen.append)
    assert kernel.ok("print('two')").stdout == "two\n"
