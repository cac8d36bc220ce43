"""One writer at a time on a local repository: no commit is lost, and a dead holder blocks nobody."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
import uuid
from pathlib import Path

import icechunk
import pytest
import zarr

from icemagic import IcechunkStore, locking
from icemagic.errors import TransactionError
from processes import Start

COMMITS = 60

WRITER = """
    import sys
    import zarr
    from icemagic import IcechunkStore

    folder, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    store = IcechunkStore.open(folder)
    print("ready", flush=True)
    sys.stdin.readline()
    for i in range(count):
        with store.transaction() as txn:
            zarr.open_array(store, path=name, mode="r+")[i] = i + 1
            print(txn.commit(f"{name} {i}").id, flush=True)
        if i % 10 == 0:
            store.tag(f"{name}-tag-{i}")
            store.branch(f"{name}-branch-{i}")
"""

HOLDER = """
    import sys
    from icemagic import IcechunkStore
    from icemagic.locking import locked

    with locked(IcechunkStore.open(sys.argv[1]).repo):
        print("held", flush=True)
        sys.stdin.readline()
"""

READER = """
    import os, sys
    import filelock
    import zarr
    from icemagic import IcechunkStore
    from icemagic.errors import TransactionError

    os.chdir(sys.argv[1])  # somebody else may not look into the folder of the tests
    if os.geteuid() == 0:
        os.seteuid(65534)
    store = IcechunkStore.open(sys.argv[1])
    print(zarr.open_array(store, path="one", mode="r")[0], store.log().of, len(store.list_versions()))
    try:
        with store.transaction("no"):
            zarr.open_array(store, path="one", mode="r+")[0] = 9
    except TransactionError as error:
        print(type(error).__name__, str(error).splitlines()[0])
"""


def begun(folder: Path) -> IcechunkStore:
    store = IcechunkStore.create(folder)
    with store.transaction("first"):
        for name in ("one", "two"):
            zarr.create_array(store, name=name, shape=COMMITS, chunks=1, dtype="i4")[0] = 0
    return store


def test_two_processes_with_60_commits_each_make_120_and_keep_every_tag_and_branch(
    tmp_path: Path, start: Start
) -> None:
    store = begun(tmp_path / "shared")
    writers = [start(WRITER, tmp_path / "shared", name, COMMITS) for name in ("one", "two")]
    assert [writer.stdout.readline() for writer in writers] == ["ready\n"] * 2
    reported: set[str] = set()
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        out, err = writer.communicate()
        assert writer.returncode == 0, err
        reported |= set(out.split())
    store.refresh()
    first, *committed = store.list_versions()
    assert first.message == "first"
    assert len(committed) == 2 * COMMITS
    assert {version.id for version in committed} == reported
    names = {f"{name}-{{}}-{i}" for name in ("one", "two") for i in range(0, COMMITS, 10)}
    assert set(store.tags()) == {name.format("tag") for name in names}
    assert set(store.branches()) == {name.format("branch") for name in names} | {"main"}
    for name in ("one", "two"):
        assert zarr.open_array(store, path=name, mode="r")[:].tolist() == list(range(1, COMMITS + 1))


def test_threads_with_stores_of_their_own_lose_no_commit(tmp_path: Path) -> None:
    begun(tmp_path / "shared")
    failures: list[BaseException] = []

    def write(name: str) -> None:
        try:
            store = IcechunkStore.open(tmp_path / "shared")
            for i in range(15):
                with store.transaction(f"{name} {i}"):
                    zarr.open_array(store, path=name, mode="r+")[i] = i + 1
        except BaseException as error:  # noqa: BLE001  a thread's failure has to reach the test
            failures.append(error)

    threads = [threading.Thread(target=write, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(IcechunkStore.open(tmp_path / "shared").list_versions()) == 31


def test_a_holder_keeps_others_waiting_and_its_death_by_kill_9_frees_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: Start
) -> None:
    store = begun(tmp_path / "shared")
    tip = store.version
    holder = start(HOLDER, tmp_path / "shared")
    assert holder.stdout.readline() == "held\n"
    with monkeypatch.context() as patch:
        patch.setattr(locking, "PATIENCE", 0.2)
        for write in (lambda: store.tag("t"), lambda: store.branch("b"), lambda: commit(store)):
            with pytest.raises(TransactionError, match=r"Another process has been writing to .*; nothing was changed"):
                write()
    assert (list(store.tags()), list(store.branches()), store.version) == ([], ["main"], tip)
    os.kill(holder.pid, signal.SIGKILL)
    assert holder.wait() == -signal.SIGKILL
    holder.communicate()
    before = time.monotonic()
    commit(store)
    assert time.monotonic() - before < 10
    assert store.version.parent == tip.id


def commit(store: IcechunkStore) -> None:
    with store.transaction("more"):
        zarr.open_array(store, path="one", mode="r+")[0] = 7


def test_nothing_is_locked_in_memory_or_while_reading(tmp_path: Path) -> None:
    store = IcechunkStore.create(f"memory:{uuid.uuid4()}")
    with locking.locked(store.repo), locking.locked(store.repo):
        pass
    local = begun(tmp_path / "shared")
    with locking.locked(local.repo):
        again = IcechunkStore.open(tmp_path / "shared")
        assert zarr.open_array(again, path="one", mode="r")[0] == 0
        assert len(again.list_versions()) == 1
        assert again.log().versions
        assert again.tree().nodes


def test_the_lock_is_free_again_after_an_error(tmp_path: Path) -> None:
    store = begun(tmp_path / "shared")
    with pytest.raises(LookupError), locking.locked(store.repo):
        raise LookupError
    commit(store)
    assert store.version.message == "more"


def test_a_folder_that_cannot_be_written_can_be_read_and_says_so_on_commit(start: Start) -> None:
    # Not pytest's own folder: it is closed to everybody else, and root has to become somebody else to be refused.
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent, "shared")
        store = begun(folder)
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        Path(parent).chmod(0o755)
        reader = start(READER, folder)
        out, err = reader.communicate()
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755)
        assert reader.returncode == 0, err
        read, refused = out.splitlines()
        assert read == "0 main 1"
        assert "cannot be written; nothing was changed" in refused
        assert store.refresh().version == store.version


def test_an_open_repository_of_a_local_folder_takes_the_same_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun(tmp_path / "shared")
    repo = icechunk.Repository.open(icechunk.local_filesystem_storage(str(tmp_path / "shared")))
    monkeypatch.setattr(locking, "PATIENCE", 0.2)
    with locking.locked(repo), pytest.raises(TransactionError, match="Another process"):
        commit(IcechunkStore.open(repo))
