"""Work over several cells: nothing of it is lost, and a cell that fails leaves nothing in it."""

from __future__ import annotations

import gc
import logging
import textwrap
import uuid
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

import numpy as np
import pytest
import xarray as xr
import zarr

from icemagic import IcechunkStore
from icemagic.errors import ConflictError, GuardError, NothingToCommitError, SelectionError, TransactionError
from icemagic.guards import Checks
from icemagic.rescue import stashes
from icemagic.transaction import Terms
from shells import Kernel, Typed, running_kernel


@pytest.fixture(params=["memory", "local"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> IcechunkStore:
    place = f"memory:{uuid.uuid4()}" if request.param == "memory" else str(tmp_path / "store")
    store = IcechunkStore.create(place)
    with store.transaction("first"):
        root = zarr.open_group(store)
        root.create_array("x", shape=400, chunks=100, dtype="f8", compressors=None, dimension_names=["t"])[:] = 0
    return store


def values(store: IcechunkStore, name: str = "x") -> list[float]:
    """Return the first value of each chunk."""
    return zarr.open_group(store, mode="r")[name][::100].tolist()


def write(store: IcechunkStore, chunk: int, value: float) -> None:
    zarr.open_group(store)["x"][100 * chunk : 100 * (chunk + 1)] = value


# -- begin, commit, discard --------------------------------------------------------------------------------------------


def test_begun_work_is_one_commit_in_the_end(store: IcechunkStore):
    store.begin()
    write(store, 0, 1)
    write(store, 2, 3)
    assert values(IcechunkStore.open(store.repo)) == [0, 0, 0, 0]
    committed = store.commit("work")
    assert committed.version.message == "work"
    assert committed.diff.arrays[0].changed_chunks == 2
    assert values(store) == values(IcechunkStore.open(store.repo)) == [1, 0, 3, 0]
    assert not store.in_transaction


def test_discarded_work_leaves_nothing_and_ends(store: IcechunkStore):
    store.begin()
    write(store, 0, 1)
    assert "over" in str(store.discard())
    assert values(store) == [0, 0, 0, 0]
    assert not store.in_transaction
    assert store.begun is None


def test_a_refused_commit_leaves_the_work_open(store: IcechunkStore):
    other = IcechunkStore.open(store.repo)
    store.begin()
    write(store, 0, 1)
    with other.transaction("theirs"):
        write(other, 0, 9)
    with pytest.raises(ConflictError):
        store.commit("work")
    assert values(store) == [1, 0, 0, 0]
    assert store.in_transaction
    store.discard()


def test_status_shows_uncommitted_work_and_foretells_the_conflict(store: IcechunkStore):
    store.begin()
    write(store, 0, 1)
    assert store.status().forecast == ()
    other = IcechunkStore.open(store.repo)
    with other.transaction("elsewhere"):
        write(other, 1, 9)
    assert "without conflict" in str(store.status())
    with other.transaction("here"):
        write(other, 0, 9)
    shown = str(store.status())
    assert "would conflict" in shown
    assert "x at t[0:100]" in shown
    assert "here by" in shown
    store.discard()


@pytest.mark.parametrize("verb", ["switch", "checkout", "begin", "reset", "undo", "restore", "revert", "amend"])
def test_begun_work_keeps_the_store_where_it_is(store: IcechunkStore, verb: str):
    store.begin()
    argument = {"switch": ["main"], "begin": [], "undo": [], "amend": ["better"]}.get(verb, ["main"])
    with pytest.raises(TransactionError, match="Commit or discard it first"):
        getattr(store, verb)(*argument)
    assert store.in_transaction
    store.discard()


def test_nothing_begun_and_nothing_changed_are_told_apart(store: IcechunkStore):
    with pytest.raises(TransactionError, match="No transaction was begun"):
        store.commit("work")
    store.begin()
    with pytest.raises(NothingToCommitError):
        store.commit("work")
    with pytest.raises(NothingToCommitError):
        store.stash()
    store.discard()


def test_arrays_made_in_begun_work_get_the_codec_of_the_store(store: IcechunkStore):
    store.begin()
    made = zarr.open_group(store).create_array("y", shape=10, chunks=5, dtype="f8")
    store.discard()
    plain = zarr.create_array({}, shape=10, chunks=5, dtype="f8")
    assert [codec.to_dict() for codec in made.compressors] == [codec.to_dict() for codec in store.config.codecs()]
    assert [codec.to_dict() for codec in plain.compressors] != [codec.to_dict() for codec in store.config.codecs()]


def test_a_commit_that_fails_after_a_choice_leaves_the_work_and_the_conflict_as_they_were(store: IcechunkStore):
    other = IcechunkStore.open(store.repo)
    store.begin()
    write(store, 0, 1)
    with other.transaction("theirs"):
        write(other, 0, 9)
    for _ in range(2):
        with pytest.raises(NothingToCommitError):
            store.commit("work", terms=Terms(choices={"/x": "theirs"}))
        assert values(store) == [1, 0, 0, 0]
        with pytest.raises(ConflictError):
            store.commit("work")
    refusing = Checks(expect={"never": lambda _: False})
    with pytest.raises(GuardError):
        store.commit("work", terms=Terms(checks=refusing, choices={"/x": "ours"}))
    with pytest.raises(ConflictError):
        store.commit("work")
    store.commit("work", terms=Terms(choices={"/x": "ours"}))
    assert values(IcechunkStore.open(store.repo)) == [1, 0, 0, 0]


def test_what_must_hold_is_asked_of_the_outcome_together_with_what_others_committed(store: IcechunkStore):
    other = IcechunkStore.open(store.repo)
    asked: list[list[float]] = []
    lines = {"few": lambda ds: asked.append(ds["x"].values[::100].tolist()) or float(ds["x"].max()) < 8}
    store.begin()
    write(store, 0, 1)
    with other.transaction("theirs"):
        write(other, 1, 9)
    with pytest.raises(GuardError, match="few must hold"):
        store.commit("work", terms=Terms(checks=Checks(expect=lines)))
    assert asked == [[1, 0, 0, 0], [1, 9, 0, 0]]
    assert values(IcechunkStore.open(store.repo)) == [0, 9, 0, 0]
    assert values(store)[0] == 1
    store.commit("work")
    assert values(store) == [1, 9, 0, 0]


def test_a_session_and_a_store_that_the_user_holds_stay_those_of_the_transaction(store: IcechunkStore):
    store.begin()
    write(store, 0, 1)
    held = store.session
    array = zarr.open_array(held.store, path="x", mode="r+")
    point = store.begun.savepoint()
    write(store, 1, 5)
    store.begun.roll_back(point)
    array[200:300] = 7
    assert values(store) == [1, 0, 7, 0]
    other = IcechunkStore.open(store.repo)
    with other.transaction("theirs"):
        write(other, 3, 9)
    assert held is store.session
    store.commit("work", terms=Terms(choices={"/x": "ours"}))
    assert values(store) == [1, 0, 7, 9]


# -- savepoints --------------------------------------------------------------------------------------------------------


def test_rolling_back_to_a_savepoint_brings_everything_back(store: IcechunkStore):
    store.begin()
    root = zarr.open_group(store)
    write(store, 0, 1)
    root.create_array("made", shape=200, chunks=100, dtype="f8")[:] = 5
    root.attrs["note"] = "before"
    point = store.begun.savepoint()
    write(store, 0, 2)
    write(store, 1, 2)
    root["x"].resize(100)
    del root["made"]
    root.create_group("g").create_array("z", shape=1, dtype="i4")
    root.attrs["note"] = "after"
    store.begun.roll_back(point)
    if not store.url.startswith("memory:"):  # there the same is written again
        assert not store.begun.roll_back(point)
    assert [(array.path, array.changed_chunks, array.identical_chunks) for array in store.begun.changes().arrays] == [
        ("made", 2, 0),
        ("x", 1, 0),
    ]
    assert values(store) == [1, 0, 0, 0]
    assert values(store, "made") == [5, 5]
    assert dict(zarr.open_group(store, mode="r").attrs) == {"note": "before"}
    assert "g" not in zarr.open_group(store, mode="r")
    store.commit("work")
    assert values(IcechunkStore.open(store.repo)) == [1, 0, 0, 0]


def test_a_savepoint_before_any_change_leaves_nothing_to_commit(store: IcechunkStore):
    store.begin()
    point = store.begun.savepoint()
    write(store, 0, 2)
    store.begun.roll_back(point)
    with pytest.raises(NothingToCommitError):
        store.commit("work")
    store.discard()


# -- stash -------------------------------------------------------------------------------------------------------------


def test_a_stash_is_put_away_and_taken_out_on_top_of_what_came_since(store: IcechunkStore):
    store.begin()
    write(store, 0, 1)
    store.stash("half done")
    assert values(store) == [0, 0, 0, 0]
    assert [version.message for version in store.stashes()] == ["half done"]
    with store.transaction("since"):
        write(store, 3, 9)
    store.pop()
    assert values(store) == [1, 0, 0, 9]
    assert len(store.stashes()) == 0
    assert len(store.unreachable()) == 1
    store.commit("done")
    assert values(store) == [1, 0, 0, 9]


def test_a_stash_that_conflicts_stays_where_it_is(store: IcechunkStore):
    store.begin()
    write(store, 0, 1)
    store.stash()
    with store.transaction("since"):
        write(store, 0, 9)
    with pytest.raises(ConflictError, match=r"x at t\[0:100\]: 100 values .*since"):
        store.pop()
    assert not store.in_transaction
    assert len(store.stashes()) == 1
    assert values(store) == [9, 0, 0, 0]


# -- nothing is forgotten ----------------------------------------------------------------------------------------------


def test_closing_a_store_saves_its_uncommitted_work(store: IcechunkStore, caplog: pytest.LogCaptureFixture):
    store.begin()
    write(store, 0, 1)
    with caplog.at_level(logging.WARNING, "icemagic"):
        store.close()
    assert "were saved as version" in caplog.text
    again = IcechunkStore.open(store.repo)
    again.pop()
    assert values(again) == [1, 0, 0, 0]
    again.discard()


def test_work_in_a_forgotten_store_is_saved(store: IcechunkStore, caplog: pytest.LogCaptureFixture):
    repo = store.repo
    forgotten = IcechunkStore.open(repo)
    forgotten.begin()
    write(forgotten, 0, 1)
    with caplog.at_level(logging.WARNING, "icemagic"):
        del forgotten
        gc.collect()
    assert "were saved as version" in caplog.text
    assert len(stashes(repo)) == 1


@pytest.mark.parametrize("end", ["commit", "discard", "stash"])
def test_ended_work_is_not_saved_again(store: IcechunkStore, end: str, caplog: pytest.LogCaptureFixture):
    before = len(store.unreachable())
    store.begin()
    write(store, 0, 1)
    getattr(store, end)(*(["work"] if end == "commit" else []))
    store.close()
    gc.collect()
    assert len(IcechunkStore.open(store.repo).unreachable()) == before + (end == "stash")
    assert not caplog.records


# -- restore and revert ------------------------------------------------------------------------------------------------


def test_restore_and_revert_are_commits_that_say_what_they_did(store: IcechunkStore):
    with store.transaction("second"):
        write(store, 0, 1)
    with store.transaction("third"):
        write(store, 3, 3)
    reverted = store.revert("HEAD~1")
    assert reverted.version.message.startswith("Revert ")
    assert "second" in reverted.version.message
    assert values(store) == [0, 0, 0, 3]
    restored = store.restore("HEAD~1", "x")
    assert restored.version.message == f"Restore x from {store.list_versions()[-3].id[:8]}"
    assert values(store) == [1, 0, 0, 3]
    assert len(store.list_versions()) == 5


def test_a_region_needs_an_array(store: IcechunkStore):
    with pytest.raises(TransactionError, match="needs an array"):
        store.restore("HEAD", None, {"epoch": ("1", "2")})
    with pytest.raises(SelectionError, match="Did you mean x"):
        store.restore("HEAD", "X")


# -- in the notebook ---------------------------------------------------------------------------------------------------

MAKE = 'zarr.open_group(store).create_array("x", shape=400, chunks=100, dtype="f8")[:] = 0'
SET = 'zarr.open_group(store)["x"][{}:{}] = {}'


@pytest.fixture
def shell(shell: Typed) -> Typed:
    shell.open_memory()
    shell.get('%%commit "first"', MAKE)
    return shell


def test_a_cell_that_fails_leaves_the_changes_of_earlier_cells(shell: Typed, capsys: pytest.CaptureFixture[str]):
    store = shell["store"]
    shell.get("%ice begin")
    shell.get(SET.format(0, 100, 1))
    assert not shell.run(SET.format(100, 200, 2), SET.format(0, 100, 7), "1/0").success
    assert "what this cell changed in store is taken back" in capsys.readouterr().out
    assert values(store) == [1, 0, 0, 0]
    shell.get(SET.format(300, 400, 4))
    shell.get('%ice commit "work"')
    assert values(store) == [1, 0, 0, 4]


def test_the_commit_of_several_cells_records_those_that_took_part(shell: Typed):
    shell.get("%ice begin")
    shell.get(SET.format(0, 100, 1))
    shell.run(SET.format(100, 200, 2), "1/0")
    shell.get('%ice commit "work"')
    source = shell["store"].show().origin.source
    assert SET.format(0, 100, 1) in source
    assert SET.format(100, 200, 2) not in source
    assert '%ice commit "work"' in source


def test_a_commit_cell_waits_for_begun_work(shell: Typed):
    shell.get("%ice begin")
    assert "inside another transaction" in shell.refusal('%%commit "it"', SET.format(0, 100, 1))
    shell.get("%ice discard")
    shell.get('%%commit "it"', SET.format(0, 100, 1))


def test_a_dry_run_of_begun_work_shows_it_and_keeps_it(shell: Typed):
    shell.get("%ice begin")
    shell.get(SET.format(0, 100, 1))
    said = str(shell.get('%ice commit "work" --dry-run --max-chunks 0'))
    assert "would be refused" in said
    assert shell["store"].in_transaction
    assert values(shell["store"]) == [1, 0, 0, 0]
    shell.get("%ice discard")


@pytest.fixture(scope="module")
def kernel_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("long")


@pytest.mark.kernel
def test_a_kernel_that_shuts_down_saves_uncommitted_work(kernel_folder: Path):
    with running_kernel(kernel_folder) as kernel:
        _start(kernel)
        kernel.ok('%%commit "first"', MAKE)
        kernel.ok("%ice begin")
        kernel.ok(SET.format(0, 100, 1))
        kernel.manager.shutdown_kernel(now=False)
    with running_kernel(kernel_folder) as kernel:
        _start(kernel)
        assert "Uncommitted work on main" in kernel.ok("%ice stash list").result
        kernel.ok("%ice stash pop")
        assert kernel.ok('zarr.open_group(store)["x"][::100].tolist()').result == "[1.0, 0.0, 0.0, 0.0]"


def _start(kernel: Kernel) -> None:
    kernel.ok("import zarr", "%load_ext icemagic")
    kernel.ok("%ice open store --create")


_SLOW = """
    import icechunk, zarr, threading, time, signal
    from icechunk.testing import LatencyStorage
    storage = LatencyStorage(icechunk.local_filesystem_storage({folder!r}), write_latency_ms=0)
    repo = icechunk.Repository.create(storage)
    storage.write_latency_ms = 800
    %load_ext icemagic
    store = IcechunkStore.open(repo)

    def press_stop(*moments):
        # So many seconds from now, as the stop button does.
        for moment in moments:
            threading.Timer(moment, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT)).start()
"""


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[Kernel]:
    """Run a kernel with a store in which a commit takes seconds."""
    (tmp_path / "slow").mkdir()
    with running_kernel(tmp_path) as kernel:
        kernel.ok(textwrap.dedent(_SLOW).format(folder=str(tmp_path / "slow")))
        yield kernel


def messages_of(kernel: Kernel) -> str:
    return kernel.ok("[v.message for v in IcechunkStore.open(repo).list_versions()]").result


@pytest.mark.kernel
@pytest.mark.parametrize(
    "cells",
    [
        [['%%commit "slow"', "press_stop(0.4)", 'zarr.open_group(store).attrs["n"] = 1']],
        [["%ice begin"], ['zarr.open_group(store).attrs["n"] = 1'], ["press_stop(0.4)", '%ice commit "slow"']],
    ],
    ids=["one cell", "several cells"],
)
def test_the_stop_button_during_a_commit_answers_at_once_and_then_tells_the_truth(slow: Kernel, cells: list[list[str]]):
    for cell in cells[:-1]:
        slow.ok(*cell)
    said: list[float] = []
    started = perf_counter()
    outcome = slow.run(*cells[-1], on_output=lambda o: said.append(perf_counter()) if o.stderr and not said else None)
    assert "The commit is finishing" in outcome.stderr
    assert said[0] - started < 0.4 + 1
    assert outcome.error.startswith("KeyboardInterrupt")
    landed = messages_of(slow) == "['slow']"
    assert landed
    assert ("Committed as" in outcome.traceback) == landed
    assert ("Nothing was committed" in outcome.traceback) != landed
    assert slow.ok('store.version.message if store.version else ""').result == "'slow'"
    assert slow.ok("store.in_transaction").result == "False"


@pytest.mark.kernel
def test_a_second_press_of_the_stop_button_leaves_the_commit_to_itself_and_says_so(slow: Kernel):
    slow.ok("%ice begin")
    slow.ok('zarr.open_group(store).attrs["n"] = 1')
    started = perf_counter()
    outcome = slow.run("press_stop(0.4, 0.8)", '%ice commit "slow"')
    assert perf_counter() - started < 0.8 + 1
    assert "still under way" in outcome.traceback
    assert "still under way" in slow.run("%ice discard").error
    slow.ok("while store.begun.finishing: time.sleep(0.1)")
    assert messages_of(slow) == "['slow']"
    assert "committed already" in slow.ok("%ice discard").result
    assert slow.ok("store.version.message").result == "'slow'"


def test_lazy_data_read_in_begun_work_can_be_overwritten(store: IcechunkStore):
    ds = xr.Dataset({"y": ("t", np.arange(6.0))})
    with store.transaction("data"):
        ds.to_zarr(store, group="g", consolidated=False)
    store.begin()
    lazy = xr.open_zarr(store, group="g", consolidated=False, chunks={})
    (lazy * 2).to_zarr(store, group="g", mode="w", consolidated=False)
    store.commit("twice")
    assert xr.open_zarr(store, group="g", consolidated=False).y.values.tolist() == [0, 2, 4, 6, 8, 10]
