"""Whatever happens to the processes that write, what was reported as committed is there, whole, and work goes on."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import icechunk
import numpy as np
import pytest
import zarr

from icemagic import IcechunkStore
from icemagic.locking import LOCK_NAME
from processes import Start, let_go

ROUNDS = 10

CROWD = """
    import sys
    import numpy as np
    import zarr
    from icemagic import IcechunkStore
    from icemagic.errors import ConflictError

    folder, name, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    store = IcechunkStore.open(folder)
    print("ready", flush=True)
    sys.stdin.readline()
    for turn in range(count):
        value = name * 1000 + turn
        while True:  # both sides append: the loser does it again on the newest version, as --retry does
            try:
                with store.transaction() as txn:
                    zarr.open_array(store, path="rows", mode="r+").append(np.full(3, value, dtype="i4"))
                    zarr.open_array(store, path="own", mode="r+")[name] = value
                    print("commit", txn.commit(f"{value}").id, value, flush=True)
                break
            except ConflictError:
                continue
        if turn % 3 == 0:
            store.tag(f"tag-{value}")
            print("tag", f"tag-{value}", store.version.id, flush=True)
        if turn % 4 == name % 4:
            plan = store.plan_collect()
            try:
                print("freed", store.collect(plan).garbage.chunks, 0, flush=True)
            except Exception as error:
                # Somebody else collected the same in between, and the plan is no longer true.
                if "changed since the plan" not in str(error):
                    raise
"""


def crowd_store(folder: Path) -> IcechunkStore:
    """Return a store with one version, and garbage that is days old."""
    config = icechunk.RepositoryConfig(inline_chunk_threshold_bytes=0)
    repo = icechunk.Repository.create(icechunk.local_filesystem_storage(str(folder)), config=config)
    store = IcechunkStore.open(repo)
    with store.transaction("first"):
        zarr.create_array(store, name="rows", shape=(0,), chunks=(4,), dtype="i4")
        zarr.create_array(store, name="own", shape=(8,), chunks=(1,), dtype="i4")
    store.begin()
    zarr.open_array(store, path="own", mode="r+")[:] = 7
    store.discard()
    week_ago = time.time() - 7 * 86_400
    for chunk in (folder / "chunks").iterdir():
        os.utime(chunk, (week_ago, week_ago))
    return store


@pytest.mark.parametrize("number", [2, 4])
def test_processes_that_append_tag_and_collect_garbage_at_once_lose_nothing_and_report_nothing_untrue(
    tmp_path: Path, start: Start, number: int
) -> None:
    turns = 5 if number == 4 else 8
    for attempt in range(ROUNDS):
        folder = tmp_path / f"store{attempt}"
        store = crowd_store(folder)
        garbage = len(list((folder / "chunks").iterdir()))
        crowd = [start(CROWD, folder, name, turns) for name in range(number)]
        assert [process.stdout.readline() for process in crowd] == ["ready\n"] * number
        for process in crowd:
            let_go(process)
        reported: dict[str, list[tuple[str, str]]] = {"commit": [], "tag": [], "freed": []}
        for process in crowd:
            out, err = process.communicate()
            assert process.returncode == 0, err
            for line in out.splitlines():
                what, one, other = line.split()
                reported[what].append((one, other))
        store.refresh()
        first, *committed = store.list_versions()
        assert {(version.id, version.message) for version in committed} == set(reported["commit"])
        assert len(committed) == number * turns
        assert {(name, store.resolve(name)) for name in store.tags()} == set(reported["tag"])
        rows = zarr.open_array(store, path="rows", mode="r")[:].reshape(-1, 3)
        assert [f"{row[0]}" for row in rows] == [version.message for version in committed]
        assert (rows == rows[:, :1]).all()
        # The garbage is gone, once; and every version can still be read.
        assert sum(int(chunks) for chunks, _ in reported["freed"]) == garbage
        for at, version in enumerate([first, *committed]):
            pinned = IcechunkStore.open(folder, version=version)
            assert zarr.open_array(pinned, path="rows", mode="r")[:].tolist() == rows[:at].ravel().tolist()


# -- kill -9 -----------------------------------------------------------------------------------------------------------

LOOP = """
    import sys
    import numpy as np
    import zarr
    from icemagic import IcechunkStore

    store = IcechunkStore.open(sys.argv[1])
    number = int(sys.argv[2])
    print("ready", flush=True)
    while True:
        number += 1
        with store.transaction() as txn:
            array = zarr.open_array(store, path="x", mode="r+")
            array[:] = np.full(array.shape, number, dtype="i4")
            print(txn.commit(f"{number}").id, flush=True)
"""


def numbered_store(folder: Path) -> IcechunkStore:
    """Return a store with one version, whose array has chunks in files of their own."""
    store = IcechunkStore.create(folder)
    with store.transaction("0"):
        array = zarr.create_array(
            store, name="x", shape=(3, 4_000), chunks=(1, 4_000), dtype="i4", fill_value=-1, compressors=None
        )
        array[:] = 0
    return store


def check_whole(store: IcechunkStore, reported: list[str]) -> int:
    """See that a store holds all that was reported, and each version whole; returns the number of the newest."""
    versions = store.list_versions()
    ids = [version.id for version in versions]
    assert set(reported) <= set(ids)
    # What was committed and not yet reported when the end came may be there, too: one version a run.
    assert [version.message for version in versions] == [f"{number}" for number in range(len(versions))]
    newest = zarr.open_array(store, path="x", mode="r")[:]
    assert (newest == len(versions) - 1).all()
    return len(versions) - 1


def commit_soon(store: IcechunkStore, number: int) -> str:
    """Commit once more; a lock that a dead process left must not hold it up."""
    started = time.monotonic()
    with store.transaction() as txn:
        zarr.open_array(store, path="x", mode="r+")[:] = number
        version = txn.commit(f"{number}")
    assert time.monotonic() - started < 5
    return version.id


def test_after_kill_9_at_50_random_moments_all_that_was_reported_is_whole_and_the_next_commit_works(
    tmp_path: Path, start: Start
) -> None:
    numbered_store(tmp_path / "store")
    reported: list[str] = []
    newest = 0
    seed = time.time_ns()
    moments = np.random.default_rng(seed)
    inside = 0
    waiting = start(LOOP, tmp_path / "store", newest)
    for turn in range(50):
        process, turn_started = waiting, newest
        assert process.stdout.readline() == "ready\n", process.stderr.read()
        time.sleep(moments.uniform(0, 0.06))
        os.kill(process.pid, signal.SIGKILL)
        out, _ = process.communicate()
        reported += out.split()
        store = IcechunkStore.open(tmp_path / "store")
        newest = check_whole(store, reported)
        assert newest - turn_started - len(out.split()) in (0, 1), f"seed {seed}, turn {turn}"
        inside += _was_inside(tmp_path / "store", newest)
        newest += 1
        reported.append(commit_soon(store, newest))
        if turn < 49:
            waiting = start(LOOP, tmp_path / "store", newest)
    assert inside > 0, "no kill came while a commit was under way; the test shows nothing"
    for version in IcechunkStore.open(tmp_path / "store").list_versions()[::10]:
        pinned = IcechunkStore.open(tmp_path / "store", version=version)
        assert (zarr.open_array(pinned, path="x", mode="r")[:] == int(version.message)).all()


def _was_inside(folder: Path, versions: int) -> bool:
    """Whether files of a commit lie there that never landed."""
    return len(list((folder / "chunks").iterdir())) > 3 * versions


# -- a full disk -------------------------------------------------------------------------------------------------------

FULL = """
    import resource, sys
    import numpy as np
    import zarr
    import icechunk
    from icemagic import IcechunkStore
    from icemagic.errors import IcemagicError

    folder, limit, length = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    store = IcechunkStore.open(folder)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))  # no file may grow beyond it
    number = 0
    while True:
        number += 1
        try:
            with store.transaction() as txn:
                array = zarr.open_array(store, path="x", mode="r+")
                array[:] = np.full(array.shape, number, dtype="i4")
                if length:
                    zarr.create_array(store, name="big", data=np.arange(length * number), chunks=length * number,
                                      compressors=None, overwrite=True)
                print(txn.commit(f"{number}").id, flush=True)
        except (icechunk.IcechunkError, IcemagicError, OSError) as error:
            print("full", type(error).__name__, str(error).partition("\\n")[0], file=sys.stderr, flush=True)
            break
    # The store is told, and stands where it stood; with room again the same process goes on.
    assert not store.in_transaction
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    with store.transaction() as txn:
        array = zarr.open_array(store, path="x", mode="r+")
        array[:] = np.full(array.shape, number, dtype="i4")
        print(txn.commit(f"{number}").id, flush=True)
"""


@pytest.mark.parametrize(
    ("limit", "length"),
    [(100_000, 2_000), (17_000, 0)],
    ids=["while a chunk is written", "while the metadata file is written"],
)
def test_on_a_full_disk_the_commit_fails_with_an_error_and_nothing_before_or_after_it_is_harmed(
    tmp_path: Path, start: Start, limit: int, length: int
) -> None:
    numbered_store(tmp_path / "store")
    writer = start(FULL, tmp_path / "store", limit, length)
    out, err = writer.communicate(timeout=120)
    assert writer.returncode == 0, err
    assert err.startswith("full ")
    reported = out.split()
    assert len(reported) > 2
    newest = check_whole(IcechunkStore.open(tmp_path / "store"), reported)
    assert newest == len(reported)
    commit_soon(IcechunkStore.open(tmp_path / "store"), newest + 1)
    check_whole(IcechunkStore.open(tmp_path / "store"), reported)


def test_a_lock_file_that_was_left_behind_holds_nobody_up(tmp_path: Path) -> None:
    store = numbered_store(tmp_path / "store")
    (tmp_path / "store" / LOCK_NAME).write_text("4711")
    commit_soon(store, 1)
    assert not store.doctor().findings
