"""Transactions: all or nothing, verified, one at a time, with the configured compression."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from signal import ITIMER_REAL, SIGALRM, setitimer, signal
from typing import Any

import icechunk
import icechunk.testing
import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec

from icemagic import IcechunkStore
from icemagic.config import Config
from icemagic.errors import (
    CommitLostError,
    ConflictError,
    NothingToCommitError,
    NotWritableError,
    TransactionError,
    UnknownVersionError,
)
from icemagic.writing import active_store


@pytest.fixture(params=["memory", "local"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> IcechunkStore:
    place = f"memory:{uuid.uuid4()}" if request.param == "memory" else str(tmp_path / "store")
    return begun(IcechunkStore.create(place))


def begun(store: IcechunkStore) -> IcechunkStore:
    with store.transaction("first"):
        for name in ("a", "b"):
            zarr.create_array(store, name=name, shape=6, chunks=2, dtype="i4")[...] = 1
    return store


def array(store: IcechunkStore, name: str = "a", mode: str = "r") -> zarr.Array[Any]:
    return zarr.open_array(store, path=name, mode=mode)


def write(store: IcechunkStore, value: int, name: str = "a", at: int | slice = slice(None)) -> None:
    array(store, name, "r+")[at] = value


def messages(store: IcechunkStore) -> list[str]:
    return [version.message for version in store.log(ref=store.current_branch)]


# -- how it ends -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_any_exception_discards_everything_and_comes_through(error: type[BaseException], store: IcechunkStore) -> None:
    tip = store.version
    with pytest.raises(error, match="mine"), store.transaction("with a message, even") as txn:
        write(store, 2)
        zarr.create_group(store, path="new")
        raise error("mine")
    assert txn.version is None
    assert store.version == tip
    assert store.repo.lookup_branch("main") == tip.id
    assert array(store)[0] == 1
    with store.transaction("works again"):
        write(store, 3)
    assert array(store)[0] == 3


def test_a_generator_that_is_closed_inside_a_transaction_discards(store: IcechunkStore) -> None:
    def writing() -> Iterator[None]:
        with store.transaction("never"):
            write(store, 2)
            yield

    generator = writing()
    next(generator)
    generator.close()
    assert messages(store) == ["first"]
    assert array(store)[0] == 1


def test_leaving_with_changes_that_nobody_committed_raises_and_keeps_the_branch(store: IcechunkStore) -> None:
    with (
        pytest.raises(TransactionError, match=r"changes that nobody committed; they are discarded\.\nCall txn\.commit"),
        store.transaction(),
    ):
        write(store, 2)
    assert messages(store) == ["first"]
    assert array(store)[0] == 1


def test_a_message_given_commits_on_a_clean_exit(store: IcechunkStore) -> None:
    with store.transaction("second", metadata={"station": "rosalia"}) as txn:
        write(store, 2)
        assert txn.version is None
    assert txn.version == store.version
    assert (txn.version.message, txn.version.metadata["station"]) == ("second", "rosalia")
    assert messages(store) == ["second", "first"]


def test_commit_returns_the_version_and_keeps_it(store: IcechunkStore) -> None:
    first = store.version
    with store.transaction() as txn:
        write(store, 2)
        version = txn.commit(message="second", metadata={"n": 1, "nested": {"deep": [1, 2]}})
        assert array(store)[0] == 2
        assert store.version == version
        assert store.status().uncommitted.is_empty
    assert txn.version is version
    assert (version.parent, version.message) == (first.id, "second")
    assert version.metadata["nested"] == {"deep": [1, 2]}
    assert "icemagic" in version.metadata
    assert store.repo.lookup_branch("main") == version.id


@pytest.mark.parametrize("message", ["", "  \n"])
def test_an_empty_message_is_refused_and_the_transaction_goes_on(message: str, store: IcechunkStore) -> None:
    with store.transaction() as txn:
        write(store, 2)
        with pytest.raises(TransactionError, match="needs a message"):
            txn.commit(message)
        txn.commit("second")
    assert messages(store) == ["second", "first"]


def test_a_transaction_that_changes_nothing_makes_no_version(store: IcechunkStore) -> None:
    with store.transaction("nothing") as txn:
        assert array(store)[0] == 1
    assert txn.version is None
    with store.transaction() as txn, pytest.raises(NothingToCommitError, match="Nothing was changed"):
        txn.commit("nothing")
    with store.transaction("discarded") as txn:
        write(store, 2)
        txn.discard()
        assert array(store)[0] == 1
    assert messages(store) == ["first"]


def test_one_transaction_is_one_commit(store: IcechunkStore) -> None:
    with store.transaction() as txn:
        write(store, 2)
        txn.commit("second")
        with pytest.raises(TransactionError, match="over: it was committed as"):
            txn.commit("third")
        with pytest.raises(NotWritableError, match="over: it was committed as"):
            write(store, 3)
        assert array(store)[0] == 2
    assert messages(store) == ["second", "first"]


def test_an_exception_after_the_commit_keeps_the_commit(store: IcechunkStore) -> None:
    with pytest.raises(ValueError, match="late"), store.transaction() as txn:
        write(store, 2)
        txn.commit("second")
        raise ValueError("late")
    assert (store.version, array(store)[0]) == (txn.version, 2)


def test_an_interrupt_during_the_commit_leaves_the_store_on_what_was_committed(tmp_path: Path) -> None:
    begun(IcechunkStore.create(tmp_path / "slow"))
    storage = icechunk.local_filesystem_storage(str(tmp_path / "slow"))
    slow = icechunk.testing.LatencyStorage(storage, write_latency_ms=400)
    store = IcechunkStore.open(icechunk.Repository.open(slow))

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal(SIGALRM, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt), store.transaction() as txn:
            zarr.open_group(store, mode="r+").attrs["a"] = 1
            setitimer(ITIMER_REAL, 0.2)
            txn.commit("second")
    finally:
        setitimer(ITIMER_REAL, 0)
        signal(SIGALRM, before)
    tip = icechunk.Repository.open(storage).lookup_branch("main")
    assert store.version.id == tip
    assert (txn.version is None) == (store.version.message == "first")


@pytest.mark.parametrize("elsewhere", [False, True], ids=["same thread", "other thread"])
def test_nested_transactions_on_one_store_are_refused(elsewhere: bool, store: IcechunkStore) -> None:  # noqa: FBT001
    found: list[BaseException] = []

    def nest() -> None:
        try:
            with store.transaction("inner"):
                write(store, 9)
        except TransactionError as error:
            found.append(error)

    with store.transaction("outer"):
        write(store, 2)
        if elsewhere:
            thread = threading.Thread(target=nest)
            thread.start()
            thread.join()
        else:
            nest()
        write(store, 3, "b")
    assert "a transaction is open on this store" in str(found[0])
    assert (messages(store), array(store)[0], array(store, "b")[0]) == (["outer", "first"], 2, 3)


# -- others ------------------------------------------------------------------------------------------------------------


def test_a_transaction_starts_from_the_newest_version_of_the_branch(store: IcechunkStore) -> None:
    other = IcechunkStore.open(store.repo)
    with other.transaction("theirs"):
        write(other, 5)
    assert array(store)[0] == 1
    with store.transaction("mine"):
        assert array(store)[0] == 5
        write(store, 6, "b")
    assert messages(store) == ["mine", "theirs", "first"]


def test_changes_of_different_chunks_made_at_the_same_time_are_both_kept(store: IcechunkStore) -> None:
    other = IcechunkStore.open(store.repo)
    with store.transaction() as txn:
        write(store, 2, at=0)
        with other.transaction("theirs"):
            write(other, 3, at=5)
            write(other, 3, "b")
        version = txn.commit("mine")
    assert version.parent == other.version.id
    assert array(store)[:].tolist() == [2, 1, 1, 1, 1, 3]
    assert array(store, "b")[0] == 3
    assert messages(store) == ["mine", "theirs", "first"]


def test_a_conflict_names_the_arrays_and_commits_nothing_and_the_store_stays_usable(store: IcechunkStore) -> None:
    other = IcechunkStore.open(store.repo)
    with pytest.raises(ConflictError, match=r"the same: a at \[0:2\] \(\w{8} theirs[^;]*\)\. Nothing") as caught:
        with store.transaction("mine"):
            write(store, 2, at=0)
            write(store, 2, "b", at=0)
            with other.transaction("theirs"):
                write(other, 3, at=1)
                write(other, 3, "b", at=5)
        pytest.fail("the conflict went unseen")
    assert "Run the cell again" in caught.value.hint
    assert messages(store) == ["theirs", "first"]
    assert store.status().behind == 1
    with store.transaction("again"):
        write(store, 2, at=0)
    assert array(store)[:].tolist() == [2, 3, 1, 1, 1, 1]
    assert messages(store) == ["again", "theirs", "first"]


def test_the_conflict_names_every_array_that_both_changed(store: IcechunkStore) -> None:
    other = IcechunkStore.open(store.repo)
    with pytest.raises(ConflictError, match=r"the same: a at [^;]*; b at [^;]*\. Noth"), store.transaction("mine"):
        for name in ("a", "b"):
            write(store, 2, name)
        with other.transaction("theirs"):
            for name in ("a", "b"):
                write(other, 3, name)


def test_a_branch_deleted_meanwhile_is_said_and_nothing_is_committed(store: IcechunkStore) -> None:
    store.branch("dev")
    store.switch("dev")
    with pytest.raises(UnknownVersionError, match=r"'dev' was deleted meanwhile\. Nothing was committed"):
        with store.transaction("gone"):
            write(store, 2)
            store.repo.delete_branch("dev")
        pytest.fail("the commit went through")
    assert array(store)[0] == 1
    with pytest.raises(UnknownVersionError, match="no branch 'dev' any more"), store.transaction("gone"):
        pass
    store.switch("main")
    assert messages(store) == ["first"]


def test_a_commit_that_a_program_without_the_lock_replaced_is_reported(tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    begun(IcechunkStore.create(folder))
    repo_file, done = folder / "repo", threading.Event()
    before = repo_file.read_bytes()

    def replace() -> None:
        """Do what the slower of two writers without a lock does: put back a file that does not know of the other."""
        while not done.is_set():
            if repo_file.read_bytes() != before:
                other = folder / "repo.other"
                other.write_bytes(before)
                other.replace(repo_file)
                return

    # The slow read leaves the writer time between our commit and the look at the branch.
    slow = icechunk.testing.LatencyStorage(icechunk.local_filesystem_storage(str(folder)), read_latency_ms=250)
    store = IcechunkStore.open(icechunk.Repository.open(slow))
    writer = threading.Thread(target=replace)
    writer.start()
    try:
        with pytest.raises(CommitLostError, match="is not on main: another"), store.transaction() as txn:
            zarr.open_group(store, mode="r+").attrs["a"] = 1
            txn.commit("second")
    finally:
        done.set()
        writer.join()
    assert txn.version is None
    store = IcechunkStore.open(folder)
    assert messages(store) == ["first"]
    with store.transaction("again"):
        write(store, 2)
    assert messages(store) == ["again", "first"]


# -- compression -------------------------------------------------------------------------------------------------------


def codecs(store: Any, name: str) -> tuple[Any, ...]:
    return zarr.open_array(store, path=name, mode="r").compressors


def by_to_zarr(store: IcechunkStore) -> None:
    xr.Dataset({"new": ("x", np.arange(9.0))}).to_zarr(store, mode="a")


def by_dask(store: IcechunkStore) -> None:
    xr.Dataset({"new": ("x", np.arange(9.0))}).chunk(x=3).to_zarr(store, mode="a")


def strings(store: IcechunkStore) -> None:
    xr.Dataset({"new": ("x", np.array(["a", "bc"], dtype=object))}).to_zarr(store, mode="a")


def times(store: IcechunkStore) -> None:
    xr.Dataset({"new": ("x", np.array(["2025-01-01"], dtype="M8[ns]"))}).to_zarr(store, mode="a")


def shards(store: IcechunkStore) -> None:
    zarr.create_array(store, name="new", shape=8, chunks=(2,), shards=(4,), dtype="f4")


CREATIONS: dict[str, Callable[[IcechunkStore], Any]] = {
    "to_zarr": by_to_zarr,
    "dask": by_dask,
    "strings": strings,
    "times": times,
    "shards": shards,
    "zarr.create_array": lambda store: zarr.create_array(store, name="new", shape=3, dtype="i4"),
    "zarr.create": lambda store: zarr.create(shape=3, store=store, path="new", dtype="i4"),
    "zarr.open_array": lambda store: zarr.open_array(store, path="new", mode="a", shape=3, dtype="i4"),
    "zarr.save_array": lambda store: zarr.save_array(store, np.arange(3), path="new"),
    "group.create_array": lambda store: zarr.open_group(store).create_array("new", shape=3, dtype="bool"),
    "group.require_array": lambda store: zarr.open_group(store).require_array("new", shape=3, dtype="i4"),
    "zeros": lambda store: zarr.zeros(3, store=store, path="new"),
    "scalar": lambda store: zarr.create_array(store, name="new", shape=(), dtype="i4"),
}


@pytest.mark.parametrize("create", CREATIONS.values(), ids=CREATIONS.keys())
def test_arrays_created_without_codecs_get_zstd_level_5(create: Callable[[IcechunkStore], Any]) -> None:
    store = IcechunkStore.create(f"memory:{uuid.uuid4()}")
    with store.transaction("new"):
        create(store)
    assert codecs(store, "new") == (ZstdCodec(level=5),)


@pytest.mark.parametrize(
    ("algorithm", "level", "expected"),
    [
        ("zstd", 11, (ZstdCodec(level=11),)),
        ("gzip", 3, (GzipCodec(level=3),)),
        ("blosc-lz4", 4, ("lz4", 4)),
        ("blosc-zstd", 9, ("zstd", 9)),
        ("none", 5, ()),
    ],
)
def test_the_configured_algorithm_and_level_reach_the_arrays(
    algorithm: str, level: int, expected: tuple[Any, ...]
) -> None:
    config = Config(compression_algorithm=algorithm, compression_level=level)
    store = IcechunkStore.create(f"memory:{uuid.uuid4()}", config=config)
    with store.transaction("new"):
        by_to_zarr(store)
    found = codecs(store, "new")
    if algorithm.startswith("blosc"):
        assert isinstance(found[0], BloscCodec)
        assert (found[0].to_dict()["configuration"]["cname"], found[0].clevel) == expected
    else:
        assert found == expected
    assert xr.open_zarr(store).new.values.tolist() == list(range(9))


def test_codecs_of_one_s_own_win() -> None:
    store = IcechunkStore.create(f"memory:{uuid.uuid4()}")
    ds = xr.Dataset({"one": ("x", np.arange(9.0)), "two": ("x", np.arange(9.0)), "three": ("x", np.arange(9.0))})
    ds["two"].encoding["compressors"] = (GzipCodec(level=2),)
    with store.transaction("new"):
        ds.to_zarr(store, encoding={"one": {"compressors": (ZstdCodec(level=1),)}})
        zarr.create_array(store, name="four", shape=3, dtype="i4", compressors=None)
    found = [codecs(store, name) for name in ("one", "two", "three", "four")]
    assert found == [(ZstdCodec(level=1),), (GzipCodec(level=2),), (ZstdCodec(level=5),), ()]


def test_arrays_outside_the_transaction_and_in_other_threads_keep_zarr_s_own_default() -> None:
    store = IcechunkStore.create(f"memory:{uuid.uuid4()}")
    plain = zarr.storage.MemoryStore()
    zarr.create_array(plain, name="before", shape=3, dtype="i4")
    usual = codecs(plain, "before")
    assert usual != (ZstdCodec(level=5),)

    def elsewhere() -> None:
        zarr.create_array(plain, name="during", shape=3, dtype="i4")

    with store.transaction("new"):
        zarr.create_array(store, name="a", shape=3, dtype="i4")
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    zarr.create_array(plain, name="after", shape=3, dtype="i4")
    with pytest.raises(ValueError, match="broken"), store.transaction("broken"):
        raise ValueError("broken")
    zarr.create_array(plain, name="after an error", shape=3, dtype="i4")
    for name in ("during", "after", "after an error"):
        assert codecs(plain, name) == usual


def test_two_stores_in_transactions_at_once_each_give_their_own_codecs() -> None:
    one, two = (
        IcechunkStore.create(f"memory:{uuid.uuid4()}", config=Config(compression_level=level)) for level in (7, 8)
    )
    with one.transaction("one"):
        zarr.create_array(one, name="before", shape=3, dtype="i4")
        with two.transaction("two"):
            zarr.create_array(two, name="a", shape=3, dtype="i4")
        zarr.create_array(one, name="after", shape=3, dtype="i4")
    assert codecs(two, "a") == (ZstdCodec(level=8),)
    assert codecs(one, "before") == codecs(one, "after") == (ZstdCodec(level=7),)


def test_a_transaction_can_be_left_in_another_thread_than_it_was_entered_in() -> None:
    store = IcechunkStore.create(f"memory:{uuid.uuid4()}")
    plain = zarr.storage.MemoryStore()
    zarr.create_array(plain, name="before", shape=3, dtype="i4")
    with ThreadPoolExecutor(1) as other:
        transaction = store.transaction("entered here, left there")
        transaction.__enter__()
        zarr.create_array(store, name="a", shape=3, dtype="i4")
        other.submit(transaction.__exit__, None, None, None).result()
    assert messages(store) == ["entered here, left there"]
    zarr.create_array(plain, name="after", shape=3, dtype="i4")
    assert codecs(plain, "after") == codecs(plain, "before")
    assert active_store() is None


# -- any sequence ------------------------------------------------------------------------------------------------------


ENDINGS = st.sampled_from(["commit", "message", "error", "discard"])


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(2, 99), ENDINGS), max_size=6))
def test_after_any_sequence_of_transactions_every_version_reads_what_was_committed(
    steps: list[tuple[int, int, str]],
) -> None:
    store = begun(IcechunkStore.create(f"memory:{uuid.uuid4()}"))
    states = [[1] * 6]
    for at, value, ending in steps:
        after = [*states[-1][:at], value, *states[-1][at + 1 :]]
        with suppress(IndexError), store.transaction("step" if ending == "message" else None) as txn:
            write(store, value, at=at)
            if ending == "commit":
                txn.commit("step")
            elif ending == "discard":
                txn.discard()
            elif ending == "error":
                [].pop()
        if txn.version:
            states.append(after)
        assert (txn.version is not None) == (ending in ("commit", "message"))
        assert array(store)[:].tolist() == states[-1]
    for version, state in zip(store.list_versions(), states, strict=True):
        assert array(IcechunkStore.open(store.repo, version=version))[:].tolist() == state
