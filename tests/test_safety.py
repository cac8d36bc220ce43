"""The seven ways to lose data on plain icechunk, each beside the same mistake made through icemagic.

The plain half asserts the damage, so that a release of icechunk that mends it is noticed; the other half asserts that
the mistake does no harm, or is refused in one sentence before anything is committed.
"""

from __future__ import annotations

import gc
import logging
import pickle
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dask.array as da
import icechunk
import numpy as np
import pytest
import xarray as xr
import zarr
from icechunk.distributed import merge_sessions
from icechunk.testing import LatencyStorage
from icechunk.xarray import to_icechunk

from icemagic import IcechunkStore
from icemagic.census import TOLERANCE
from icemagic.errors import ConflictError, GuardError, TransactionError, UnknownVersionError
from icemagic.rescue import stashes
from icemagic.transaction import Terms


@pytest.fixture
def repo(tmp_path: Path) -> icechunk.Repository:
    """Return a local repository without versions."""
    return icechunk.Repository.create(icechunk.local_filesystem_storage(str(tmp_path / "store")))


def commit(repo: icechunk.Repository, write: Callable[[icechunk.Session], object], message: str = "first") -> None:
    session = repo.writable_session("main")
    write(session)
    session.commit(message)


def numbers(repo: icechunk.Repository, length: int = 10, chunk: int = 10) -> None:
    """Commit an array x of zeros."""
    commit(
        repo,
        lambda session: zarr.create_array(
            session.store, name="x", shape=length, chunks=chunk, dtype="i4", fill_value=0, compressors=None
        ),
    )


def x(of: Any) -> zarr.Array:
    """Return the array x of a store or session, to be written."""
    return zarr.open_array(of if isinstance(of, icechunk.IcechunkStore) else of.store, path="x", mode="r+")


def newest(repo: icechunk.Repository) -> list[int]:
    return zarr.open_array(repo.readonly_session("main").store, path="x", mode="r")[:].tolist()


def messages(repo: icechunk.Repository) -> list[str]:
    return [info.message for info in repo.ancestry(branch="main")][-2::-1]


def state(repo: icechunk.Repository) -> object:
    """Return all that a refused operation must leave as it was."""
    info = repo.inspect_repo_info()
    return info["branches"], info["tags"], sorted(found["id"] for found in info["snapshots"])


# -- S1: an append that was done by half -------------------------------------------------------------------------------


def observations(first: int, length: int, sids: str = "ab", value: float = 1.0) -> xr.Dataset:
    values = np.full((length, len(sids)), value) + np.arange(len(sids))
    coords = {"epoch": np.arange(first, first + length), "sid": list(sids)}
    return xr.Dataset({"snr": (("epoch", "sid"), values), "phase": (("epoch", "sid"), -values)}, coords=coords)


ENCODING = {"snr": {"chunks": (5, 2)}, "phase": {"chunks": (5, 2)}, "epoch": {"chunks": (5,)}}


def observed(repo: icechunk.Repository, encoding: dict[str, Any] = ENCODING) -> None:
    """Commit ten epochs of two satellites."""
    commit(repo, lambda session: observations(0, 10).to_zarr(session.store, encoding=encoding))


def resize_one(session: icechunk.Session) -> None:
    zarr.open_array(session.store, path="snr", mode="r+").resize((15, 2))


def shrink_one(session: icechunk.Session) -> None:
    zarr.open_array(session.store, path="epoch", mode="r+").resize((5,))


def retry_a_failed_append(session: icechunk.Session) -> None:
    """Append with dask chunks that straddle the stored ones, and once more as the message advises."""
    misaligned = observations(10, 7).chunk(epoch=4)
    with suppress(ValueError):
        to_icechunk(misaligned, session, append_dim="epoch")
    to_icechunk(misaligned, session, append_dim="epoch", align_chunks=True)


def append_without_a_variable(session: icechunk.Session) -> None:
    observations(10, 5).drop_vars("phase").to_zarr(session.store, append_dim="epoch")


def append_with_one_more(session: icechunk.Session) -> None:
    more = observations(10, 5)
    more.assign(doppler=more["snr"]).to_zarr(session.store, append_dim="epoch")


HALF_DONE = [resize_one, shrink_one, retry_a_failed_append, append_without_a_variable, append_with_one_more]


@pytest.mark.parametrize("mistake", HALF_DONE)
def test_s1_plain_icechunk_commits_an_append_done_by_half_and_the_group_no_longer_opens(repo, mistake):
    observed(repo)
    commit(repo, mistake, "half")
    with pytest.raises(ValueError, match="conflicting sizes for dimension 'epoch'"):
        xr.open_zarr(repo.readonly_session("main").store, consolidated=False)


@pytest.mark.parametrize("mistake", HALF_DONE)
def test_s1_icemagic_refuses_an_append_done_by_half_and_names_arrays_and_sizes(repo, mistake):
    observed(repo)
    before, store = state(repo), IcechunkStore.open(repo)
    with pytest.raises(GuardError, match=r"Nothing was committed: .* epoch is \d+ in \w+.* and \d+ in \w+"):
        with store.transaction("half"):
            mistake(store.session)
        pytest.fail("it was committed")
    assert state(repo) == before
    xr.testing.assert_identical(xr.open_zarr(store).load(), observations(0, 10))
    with store.transaction("whole"):
        observations(10, 5, value=7).to_zarr(store, append_dim="epoch")
    whole = xr.concat([observations(0, 10), observations(10, 5, value=7)], "epoch")
    xr.testing.assert_identical(xr.open_zarr(store).load(), whole)


def append_other_satellites(session: icechunk.Session) -> None:
    observations(10, 5, sids="cd", value=7).to_zarr(session.store, append_dim="epoch")


ONE_CHUNK = {name: {"chunks": chunks} for name, chunks in (("snr", (20, 2)), ("phase", (20, 2)), ("epoch", (20,)))}


@pytest.mark.parametrize("encoding", [ENCODING, ONE_CHUNK], ids=["chunk by chunk", "into the last chunk"])
def test_s1_plain_icechunk_gives_old_rows_the_labels_of_an_append(repo, encoding):
    observed(repo, encoding)
    commit(repo, append_other_satellites, "other satellites")
    found = xr.open_zarr(repo.readonly_session("main").store, consolidated=False)
    assert found["sid"].values.tolist() == ["c", "d"]
    assert found["snr"].sel(sid="c", epoch=0) == observations(0, 10)["snr"].sel(sid="a", epoch=0)


@pytest.mark.parametrize("encoding", [ENCODING, ONE_CHUNK], ids=["chunk by chunk", "into the last chunk"])
def test_s1_icemagic_refuses_an_append_under_other_labels(repo, encoding):
    observed(repo, encoding)
    before, store = state(repo), IcechunkStore.open(repo)
    with pytest.raises(GuardError, match=r"Nothing was committed: .*sid got other labels, while phase, snr keep"):
        with store.transaction("other satellites"):
            append_other_satellites(store.session)
        pytest.fail("it was committed")
    assert state(repo) == before
    xr.testing.assert_identical(xr.open_zarr(store).load(), observations(0, 10))


def test_s1_an_array_written_anew_as_a_whole_may_have_other_labels_and_sizes(repo):
    observed(repo)
    store = IcechunkStore.open(repo)
    with store.transaction("all anew"):
        observations(0, 4, sids="cdef").to_zarr(store, mode="w")
    xr.testing.assert_identical(xr.open_zarr(store).load(), observations(0, 4, sids="cdef"))


# -- S2: overwriting what is still to be read --------------------------------------------------------------------------


def series(repo: icechunk.Repository) -> None:
    """Commit the numbers from 1 to 20 in four chunks."""
    made = xr.Dataset({"x": ("epoch", np.arange(1.0, 21))})
    commit(repo, lambda session: made.to_zarr(session.store, encoding={"x": {"chunks": (5,)}}))


def by_xarray(store: icechunk.IcechunkStore) -> None:
    (xr.open_zarr(store, chunks={}, consolidated=False) * 2).to_zarr(store, mode="w", consolidated=False)


def by_xarray_backend(store: icechunk.IcechunkStore) -> None:
    lazy = xr.open_dataset(store, engine="zarr", chunks={}, consolidated=False) * 2
    lazy.to_zarr(store, mode="w", consolidated=False)


def by_dask_from_store(store: icechunk.IcechunkStore) -> None:
    (da.from_zarr(store, component="x") * 2).to_zarr(store, component="x", overwrite=True)


def by_dask_from_array(store: icechunk.IcechunkStore) -> None:
    lazy = xr.Dataset({"x": ("epoch", da.from_zarr(zarr.open_group(store, mode="r+")["x"]))})
    (lazy * 2).to_zarr(store, mode="w", consolidated=False)


OVERWRITES = [by_xarray, by_xarray_backend, by_dask_from_store, by_dask_from_array]


@pytest.mark.parametrize("overwrite", OVERWRITES)
def test_s2_plain_icechunk_reads_nothing_where_the_source_was_overwritten(repo, overwrite):
    series(repo)
    commit(repo, lambda session: overwrite(session.store), "twice")
    found = zarr.open_array(repo.readonly_session("main").store, path="x", mode="r")[:]
    assert (np.isnan(found) | (found == 0)).all()


@pytest.mark.parametrize("of_session", [True, False], ids=["store of the session", "store"])
@pytest.mark.parametrize("overwrite", OVERWRITES)
def test_s2_through_icemagic_the_source_is_read_as_it_was_or_nothing_is_committed(repo, overwrite, of_session):
    series(repo)
    store = IcechunkStore.open(repo)
    with suppress(TransactionError), store.transaction("twice"):
        overwrite(store.session.store if of_session else store)
    expected = np.arange(1.0, 21) * (2 if messages(repo)[-1] == "twice" else 1)
    np.testing.assert_array_equal(zarr.open_array(store, path="x", mode="r")[:], expected)


def test_s2_the_refusal_says_which_array_and_how_to_read_it(repo):
    series(repo)
    store = IcechunkStore.open(repo)
    with pytest.raises(GuardError, match="x was removed or made anew in this transaction before") as refused:  # noqa: SIM117
        with store.transaction("twice"):
            by_dask_from_store(store)
    assert "xr.open_zarr" in refused.value.hint
    assert messages(repo) == ["first"]


def test_s2_what_xarray_opened_before_or_in_the_transaction_is_right_and_committed(repo):
    series(repo)
    store = IcechunkStore.open(repo)
    before = xr.open_zarr(store, chunks={})
    with store.transaction("twice"):
        by_xarray(store)
        by_xarray(store)
        inside = xr.open_zarr(store, chunks={})
        (inside + before).to_zarr(store, mode="w")
    np.testing.assert_array_equal(xr.open_zarr(store)["x"], np.arange(1.0, 21) * 5)
    assert messages(repo) == ["first", "twice"]


@pytest.mark.parametrize("shards", [None, (10,)])
def test_s2_an_array_made_anew_is_filled_piece_by_piece_and_read_back_where_it_is_empty(repo, shards):
    series(repo)
    store = IcechunkStore.open(repo)
    with store.transaction("anew"):
        made = zarr.open_group(store).create_array(
            "x", shape=20, chunks=5, shards=shards, dtype="f8", fill_value=0, overwrite=True
        )
        made[:] = 0
        assert made[:].tolist() == [0] * 20
        for at in range(3, 12):
            made[at : at + 1] = at
    assert newest(repo) == [0.0] * 3 + list(range(3, 12)) + [0.0] * 8


@pytest.mark.parametrize("name", ["c", "g/c", "g/c/x", "deep/er/x"])
@pytest.mark.parametrize("shape", [(20,), (4, 5), ()])
def test_s2_the_array_is_known_whatever_its_name_and_shape(repo, name, shape):
    values = np.arange(1.0, 1 + np.prod(shape, dtype=int)).reshape(shape)
    store = IcechunkStore.open(repo)
    with store.transaction("first"):
        zarr.create_array(store, name=name, data=values)
    with pytest.raises(GuardError, match=f"^{name} was removed or made anew"), store.transaction("again"):
        before = zarr.open_array(store, path=name, mode="r+")
        zarr.create_array(store, name=name, shape=shape, dtype="f8", overwrite=True)
        before[...]
    with store.transaction("in time"):
        before = zarr.open_array(store, path=name, mode="r")
        zarr.create_array(store, name=name, data=before[...] * 0, overwrite=True)
        zarr.open_array(store, path=name, mode="r+")[...] = before[...] * 2
    np.testing.assert_array_equal(zarr.open_array(store, path=name, mode="r")[...], values * 2)


# -- S3: forks that write into one chunk -------------------------------------------------------------------------------


def halves(session: icechunk.Session) -> tuple[Any, Any]:
    """Return two forks of a session; each wrote one half of a chunk."""
    left, right = session.fork(), session.fork()
    x(left)[:5] = 1
    x(right)[5:] = 2
    return left, right


def at_once(session: icechunk.Session) -> None:
    session.merge(*halves(session))


def one_after_the_other(session: icechunk.Session) -> None:
    for fork in halves(session):
        session.merge(fork)


def after_a_journey(session: icechunk.Session) -> None:
    journey = [pickle.loads(pickle.dumps(session.fork())) for _ in range(2)]
    x(journey[0])[:5] = 1
    x(journey[1])[5:] = 2
    session.merge(*(pickle.loads(pickle.dumps(fork)) for fork in journey))


def merged_before(session: icechunk.Session) -> None:
    """Merge as icechunk's reduction of dask's workers does: forks into one another first."""
    session.merge(merge_sessions(*halves(session)))


def of_a_fork(session: icechunk.Session) -> None:
    fork = session.fork()
    fork.merge(*halves(fork))
    session.merge(fork)


def beside_the_session(session: icechunk.Session) -> None:
    fork = session.fork()
    x(session)[:5] = 1
    x(fork)[5:] = 2
    session.merge(fork)


def named(repo: icechunk.Repository) -> None:
    """Commit an array x of zeros in one chunk, with a named dimension."""
    made = xr.Dataset({"x": ("dim_0", np.zeros(10, dtype="i4"))})
    commit(repo, lambda session: made.to_zarr(session.store, consolidated=False))


FORKS = [at_once, one_after_the_other, after_a_journey, merged_before, of_a_fork, beside_the_session]


@pytest.mark.parametrize("write", FORKS)
def test_s3_plain_icechunk_keeps_one_half_of_a_chunk_that_two_forks_wrote(repo, write):
    named(repo)
    commit(repo, write, "halves")
    assert newest(repo) in ([1] * 5 + [0] * 5, [0] * 5 + [2] * 5)


@pytest.mark.parametrize("write", FORKS)
def test_s3_icemagic_refuses_to_merge_forks_that_wrote_the_same_chunk(repo, write):
    named(repo)
    before, store = state(repo), IcechunkStore.open(repo)
    with pytest.raises(ConflictError, match=r"wrote the same chunk of x: \[0\]"):
        with store.transaction("halves"):
            write(store.session)
        pytest.fail(f"it was committed: {newest(repo)}")
    assert state(repo) == before
    assert newest(repo) == [0] * 10


def test_s3_a_refused_merge_takes_over_neither_fork_and_the_work_goes_on(repo):
    numbers(repo)
    store = IcechunkStore.open(repo)
    with store.transaction("whole"):
        with pytest.raises(ConflictError, match="Nothing was merged"):
            store.session.merge(*halves(store.session))
        assert x(store)[:].tolist() == [0] * 10
        x(store)[:] = 3
    assert newest(repo) == [3] * 10


def test_s3_forks_of_whole_chunks_and_a_fork_made_after_a_merge_lose_nothing(repo):
    numbers(repo, length=20)
    store = IcechunkStore.open(repo)
    with store.transaction("whole chunks"):
        x(store)[18:] = 9
        left, right = store.session.fork(), store.session.fork()
        x(left)[:10] = 1
        x(right)[10:15] = 2
        store.session.merge(left, right)
        later = store.session.fork()
        x(later)[5:10] = 3
        store.session.merge(later)
        lazy = xr.Dataset({"x": ("dim_0", da.full(10, 4, dtype="i4", chunks=10))})
        x(store).update_attributes({"seen": True})
        assert lazy.sizes == {"dim_0": 10}
    assert newest(repo) == [1] * 5 + [3] * 5 + [2] * 5 + [0] * 3 + [9] * 2


def test_s3_dask_chunks_that_share_a_stored_chunk_are_refused_and_nothing_is_committed(repo):
    named(repo)
    before, store = state(repo), IcechunkStore.open(repo)
    halves = xr.Dataset({"x": ("dim_0", da.concatenate([da.full(5, 1, dtype="i4"), da.full(5, 2, dtype="i4")]))})
    with pytest.raises(ValueError, match="would overlap multiple Dask chunks"), store.transaction("halves"):
        to_icechunk(halves, store.session, mode="r+", region={"dim_0": slice(0, 10)})
    assert state(repo) == before


def test_s3_dask_writes_whole_chunks_through_forks_of_the_session(repo):
    made = xr.Dataset({"x": ("epoch", da.arange(40, chunks=5))})
    store = IcechunkStore.open(repo)
    with store.transaction("forty"):
        to_icechunk(made, store.session)
    with store.transaction("more"):
        to_icechunk(made + 40, store.session, append_dim="epoch")
    assert newest(repo) == list(range(80))


# -- S4: two writers of one chunk --------------------------------------------------------------------------------------


def test_s4_plain_icechunk_throws_the_half_of_the_other_writer_away_with_its_default_solver(repo):
    numbers(repo)
    session = repo.writable_session("main")
    x(session)[5:] = 8
    commit(repo, lambda theirs: x(theirs).__setitem__(slice(0, 5), 7), "theirs")
    session.commit("ours", rebase_with=icechunk.BasicConflictSolver())
    assert newest(repo) == [0] * 5 + [8] * 5
    assert messages(repo) == ["first", "theirs", "ours"]


@pytest.mark.parametrize(
    ("choice", "expected"), [(None, None), ("ours", [0] * 5 + [8] * 5), ("theirs", [7] * 5 + [0] * 5)]
)
def test_s4_icemagic_refuses_a_chunk_that_someone_else_wrote_unless_a_side_is_chosen(repo, choice, expected):
    numbers(repo)
    ours, theirs = IcechunkStore.open(repo), IcechunkStore.open(repo)
    with ours.transaction() as txn:
        x(ours)[5:] = 8
        with theirs.transaction("theirs"):
            x(theirs)[:5] = 7
        before = state(repo)
        said = (
            r"committed to main meanwhile and changed the same: x at all positions \(\w+ theirs.*Nothing was committed"
        )
        with pytest.raises(ConflictError, match=said) as refused:
            txn.commit("ours")
        assert state(repo) == before
        assert "Run the cell again" in refused.value.hint
        assert "--ours x or --theirs x" in refused.value.hint
        x(ours).update_attributes({"ours": 1})
        if choice is None:
            txn.discard()
        else:
            txn.commit("ours", terms=Terms(choices={"/x": choice}))
    assert newest(repo) == (expected or [7] * 5 + [0] * 5)
    assert messages(repo) == ["first", "theirs"] + ["ours"] * (choice is not None)


def test_s4_a_choice_for_one_array_decides_no_conflict_in_another(repo):
    numbers(repo)
    commit(repo, lambda session: zarr.create_array(session.store, name="y", data=np.zeros(4), chunks=4), "y")
    ours, theirs = IcechunkStore.open(repo), IcechunkStore.open(repo)
    with ours.transaction() as txn:
        for name in "xy":
            zarr.open_array(ours, path=name, mode="r+")[:2] = 8
        with theirs.transaction("theirs"):
            for name in "xy":
                zarr.open_array(theirs, path=name, mode="r+")[2:4] = 7
        with pytest.raises(ConflictError, match="changed the same: y at"):
            txn.commit("ours", terms=Terms(choices={"/x": "ours"}))
        txn.discard()
    assert messages(repo) == ["first", "y", "theirs"]


def test_s4_two_writers_of_different_chunks_lose_nothing(repo):
    numbers(repo, chunk=5)
    ours, theirs = IcechunkStore.open(repo), IcechunkStore.open(repo)
    with ours.transaction("ours"):
        x(ours)[5:] = 8
        with theirs.transaction("theirs"):
            x(theirs)[:5] = 7
    assert newest(repo) == [7] * 5 + [8] * 5


# -- S5: garbage collection under open work ----------------------------------------------------------------------------


def soon() -> datetime:
    """Return a moment after all that was written so far."""
    return datetime.now(UTC) + timedelta(seconds=1)


def test_s5_plain_icechunk_collects_what_an_open_session_wrote_and_commits_it_all_the_same(repo):
    numbers(repo, length=400, chunk=200)
    session = repo.writable_session("main")
    x(session)[:] = np.arange(400)
    repo.garbage_collect(soon())
    session.commit("unreadable")
    with pytest.raises(icechunk.StorageError, match="object not found"):
        newest(repo)


@pytest.mark.parametrize("recent", [True, False])
@pytest.mark.parametrize("own", [True, False], ids=["its own", "another store's"])
def test_s5_icemagic_refuses_to_collect_what_an_open_transaction_wrote(repo, tmp_path, own, recent):
    numbers(repo, length=400, chunk=200)
    store = IcechunkStore.open(tmp_path / "store")
    upkeep = store if own else IcechunkStore.open(tmp_path / "store")
    early = upkeep.plan_collect(before=soon(), recent=True)
    store.begin()
    x(store)[:] = np.arange(400)
    with pytest.raises(TransactionError, match=r"A session is open since .* could take what it wrote"):
        upkeep.plan_collect(before=soon(), recent=recent)
    with pytest.raises(TransactionError, match=r"A session is open since .* could take what it wrote"):
        upkeep.collect(early)
    # The longest way that is allowed: as far as the transaction is old.
    upkeep.collect(upkeep.plan_collect(before=store.begun.started - TOLERANCE, recent=True))
    store.commit("readable")
    assert newest(repo) == list(range(400))


def test_s5_a_path_by_another_name_leads_to_the_same_open_transaction(repo, tmp_path):
    numbers(repo, length=400, chunk=200)
    (tmp_path / "link").symlink_to(tmp_path / "store")
    store = IcechunkStore.open(tmp_path / "store")
    store.begin()
    x(store)[:] = np.arange(400)
    with pytest.raises(TransactionError, match="A session is open since"):
        IcechunkStore.open(tmp_path / "link").plan_collect(before=soon(), recent=True)
    store.discard()


def test_s5_work_of_another_process_is_kept_by_the_day_that_collection_leaves(repo):
    numbers(repo, length=400, chunk=200)
    session = repo.writable_session("main")  # as of another process: icemagic knows nothing of it
    x(session)[:] = np.arange(400)
    store = IcechunkStore.open(repo)
    with pytest.raises(TransactionError, match="less than a day ago: work that somebody has not committed yet"):
        store.plan_collect(before=soon())
    store.collect(store.plan_collect())
    session.commit("readable")
    assert newest(repo) == list(range(400))


def test_s5_what_open_work_stands_on_does_not_expire_under_it(repo):
    numbers(repo)
    store, other = IcechunkStore.open(repo), IcechunkStore.open(repo)
    store.begin()
    x(store)[:] = 5
    with other.transaction("theirs"):
        zarr.create_array(other, name="y", shape=4, dtype="i4")
    with suppress(TransactionError):
        other.expire(other.plan_expire(before=soon()))
    store.commit("ours")
    assert newest(repo) == [5] * 10


@pytest.mark.parametrize("begun", [True, False])
def test_s5_work_whose_base_expired_by_another_program_is_committed_all_the_same(repo, begun):
    numbers(repo, length=20)
    store = IcechunkStore.open(repo)

    def work() -> None:
        x(store)[:10] = 5
        commit(repo, lambda session: x(session).__setitem__(slice(10, 20), 7), "theirs")
        repo.expire_snapshots(soon())

    if begun:
        store.begin()
        work()
        with pytest.raises(UnknownVersionError, match="expired meanwhile"):
            store.status()
        store.commit("ours")
    else:
        with store.transaction("ours"):
            work()
    assert newest(repo) == [5] * 10 + [7] * 10
    assert store.status().version.message == "ours"


def test_s5_a_store_on_a_version_that_expired_says_so_and_goes_on_from_the_newest(repo):
    numbers(repo)
    store = IcechunkStore.open(repo)
    commit(repo, lambda session: x(session).__setitem__(slice(0, 10), 7), "theirs")
    repo.expire_snapshots(soon())
    assert "(expired)" in repr(store)
    with pytest.raises(UnknownVersionError, match="expired meanwhile") as refused:
        store.status()
    assert "%ice refresh" in refused.value.hint
    store.refresh()
    assert zarr.open_array(store, path="x", mode="r")[:].tolist() == [7] * 10


# -- S6: two writers of one folder -------------------------------------------------------------------------------------


def together(*work: Callable[[], object]) -> list[object]:
    """Do pieces of work at the same time and return what each gave or raised."""
    gate, outcomes = threading.Barrier(len(work)), [None] * len(work)

    def run(number: int) -> None:
        gate.wait()
        try:
            outcomes[number] = work[number]()
        except Exception as error:  # noqa: BLE001  an outcome like any other
            outcomes[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(work))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def slow(folder: Path) -> icechunk.Repository:
    """Open a folder in which every write takes so long that two commits of the same moment overlap."""
    storage = icechunk.local_filesystem_storage(str(folder))
    return icechunk.Repository.open(LatencyStorage(storage, write_latency_ms=150))


def test_s6_plain_icechunk_loses_one_of_two_commits_to_a_folder_and_reports_both(repo, tmp_path):
    numbers(repo, length=2, chunk=1)
    reported: list[object] = []
    # How many rounds it takes is up to chance, in theory: once a round suffices.
    for _ in range(20):
        sessions = [slow(tmp_path / "store").writable_session("main") for _ in range(2)]
        for number, session in enumerate(sessions):
            x(session)[number] += 1
        outcomes = together(*(lambda one=session: one.commit("reported") for session in sessions))
        reported += [outcome for outcome in outcomes if isinstance(outcome, str)]
        kept = {info.id for info in repo.ancestry(branch="main")}
        if not kept.issuperset(reported):
            break
    assert not kept.issuperset(reported)
    assert sum(newest(repo)) < len(reported)


def test_s6_through_icemagic_two_commits_to_a_folder_are_both_kept(repo, tmp_path):
    numbers(repo, length=2, chunk=1)
    stores = [IcechunkStore.open(slow(tmp_path / "store")) for _ in range(2)]
    reported = []

    def work(number: int) -> str:
        with stores[number].transaction() as txn:
            x(stores[number])[number] += 1
            return txn.commit("reported").id

    for _ in range(2):
        reported += together(lambda: work(0), lambda: work(1))
    assert {info.id for info in repo.ancestry(branch="main") if info.message == "reported"} == set(reported)
    assert len(set(reported)) == 4
    assert newest(repo) == [2, 2]


# -- S7: work that nobody committed ------------------------------------------------------------------------------------


def test_s7_plain_icechunk_drops_uncommitted_work_without_a_word(repo, caplog, capfd, recwarn):
    numbers(repo, chunk=5)
    before = state(repo)
    x(repo.writable_session("main"))[:] = 5
    gc.collect()
    assert state(repo) == before
    assert (caplog.records, recwarn.list, *capfd.readouterr()) == ([], [], "", "")
    assert newest(repo) == [0] * 10


def test_s7_icemagic_saves_work_whose_store_nobody_holds_any_more_and_says_so(repo, caplog):
    numbers(repo, chunk=5)
    store = IcechunkStore.open(repo)
    store.begin()
    x(store)[:] = 5
    with caplog.at_level(logging.WARNING, "icemagic"):
        del store
        gc.collect()
    saved = [record.getMessage() for record in caplog.records]
    assert len(saved) == 1
    assert "Uncommitted changes of" in saved[0]
    assert "%ice stash pop takes them out again" in saved[0]
    assert [(version.message, version.id[:8] in saved[0]) for version in stashes(repo)] == [
        ("Uncommitted work on main", True)
    ]
    assert newest(repo) == [0] * 10
    again = IcechunkStore.open(repo)
    again.pop()
    again.commit("popped")
    assert newest(repo) == [5] * 10


FORGETFUL = """
    import sys
    import zarr
    from icemagic import IcechunkStore

    store = IcechunkStore.open(sys.argv[1])
    store.begin()
    zarr.open_array(store, path="x", mode="r+")[:] = 5
    {end}
"""


@pytest.mark.parametrize("end", ["pass", "del store", "sys.exit(3)", "raise ValueError"])
def test_s7_icemagic_saves_uncommitted_work_when_the_process_ends_by_itself_and_says_so(repo, tmp_path, end):
    numbers(repo, chunk=5)
    script = textwrap.dedent(FORGETFUL).format(end=end)
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "store"], capture_output=True, text=True, check=False
    )
    assert done.returncode == {"sys.exit(3)": 3, "raise ValueError": 1}.get(end, 0)
    assert "Uncommitted changes of" in done.stderr
    (saved,) = stashes(repo)
    assert saved.id[:8] in done.stderr
    again = zarr.open_array(repo.readonly_session(snapshot_id=saved.id).store, path="x", mode="r")
    assert again[:].tolist() == [5] * 10
    assert newest(repo) == [0] * 10


def test_s7_a_transaction_that_is_left_with_uncommitted_changes_raises(repo):
    numbers(repo)
    store = IcechunkStore.open(repo)
    with pytest.raises(TransactionError, match="changes that nobody committed; they are disc"), store.transaction():
        x(store)[:] = 5
    assert messages(repo) == ["first"]
