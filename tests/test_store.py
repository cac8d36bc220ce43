"""The store: what it refuses, what stays as it was, and where it stands."""

from __future__ import annotations

import multiprocessing as mp
import pickle
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import dask
import dask.array
import icechunk
import numpy as np
import pytest
import xarray as xr
import zarr
from dask.tokenize import tokenize
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from icemagic import IcechunkStore
from icemagic.errors import (
    AmbiguousVersionError,
    NotWritableError,
    StorageURLError,
    StoreExistsError,
    StoreNotFoundError,
    TransactionError,
    UnknownVersionError,
)
from icemagic.locking import LOCK_NAME

LAZY = pytest.mark.parametrize("chunks", [{}, None], ids=["dask", "plain"])


def dataset(factor: float = 1.0) -> xr.Dataset:
    """Return numbers in four chunks, each a multiple of its index."""
    ds = xr.Dataset({"v": ("x", np.arange(1000.0) * factor)}, {"x": np.arange(1000)})
    ds["v"].encoding["chunks"] = (250,)
    return ds


def put(store: IcechunkStore, factor: float, message: str = "put") -> str:
    with store.transaction(message) as txn:
        dataset(factor).to_zarr(store, mode="w")
    assert txn.version is not None
    return txn.version.id


def factor_of(ds: xr.Dataset) -> float:
    """Return the factor with which a dataset was put; refuses anything torn between two versions."""
    values = ds["v"].values
    assert np.array_equal(values, np.arange(1000.0) * values[1])
    return float(values[1])


def read(store: IcechunkStore) -> float:
    return factor_of(xr.open_zarr(store, chunks=None))


def contents(store: IcechunkStore) -> dict[str, bytes]:
    """Return every key and its bytes, as plain icechunk reads them at the version that the store stands on."""
    plain = store.repo.readonly_session(snapshot_id=store.session.snapshot_id).store

    async def everything() -> dict[str, bytes]:
        found = {}
        async for key in plain.list():
            value = await plain.get(key, default_buffer_prototype())
            assert value is not None
            found[key] = value.to_bytes()
        return found

    return sync(everything())


@pytest.fixture(params=["memory", "local"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"memory:{uuid.uuid4()}" if request.param == "memory" else str(tmp_path / "store")


@pytest.fixture
def store(url: str) -> IcechunkStore:
    store = IcechunkStore.create(url)
    put(store, 1, "one")
    put(store, 2, "two")
    return store


@pytest.fixture
def local(tmp_path: Path) -> IcechunkStore:
    store = IcechunkStore.create(tmp_path / "local")
    put(store, 1, "one")
    put(store, 2, "two")
    return store


@pytest.fixture(scope="module")
def worker() -> Iterator[ProcessPoolExecutor]:
    """Return another process, which shares nothing with this one."""
    with ProcessPoolExecutor(1, mp_context=mp.get_context("spawn")) as executor:
        yield executor


# -- the snippets ------------------------------------------------------------------------------------------------------

SNIPPETS = """
from icemagic import IcechunkStore, preprocess_dataset
import xarray as xr

raw_data = xr.Dataset(
    {"SNR": (("epoch", "sid"), [[40.0, 41.0], [42.0, float("nan")], [43.0, 44.0]])},
    {"epoch": xr.date_range("2024-01-15", periods=3, freq="20D", use_cftime=False), "sid": ["G01|L1|C", "G02|L1|C"]},
)

store = IcechunkStore.open_or_create(storage="file:///path/to/store", read_only=False)

with store.transaction() as txn:
    ds = preprocess_dataset(raw_data)
    ds.to_zarr(store, mode="a")
    txn.commit(message="Added 2024-01-15 data")

versions = store.list_versions()                       # oldest first, without icechunk's empty root snapshot
store_v1 = IcechunkStore.open(storage="file:///path/to/store", version=versions[0])
ds = xr.open_zarr(store_v1)
xr.testing.assert_identical(ds.load().drop_encoding(), raw_data.drop_encoding())

ds = xr.open_zarr(store)
subset = ds.sel(epoch=slice("2024-01-01", "2024-01-31"))
assert subset.sizes == {"epoch": 1, "sid": 2}, subset.sizes
print(versions[0].message)
"""


def test_the_snippets_of_the_readme_run_in_a_script_that_imports_only_xarray_and_icemagic(tmp_path: Path) -> None:
    script = SNIPPETS.replace("file:///path/to/store", (tmp_path / "store").as_uri())
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == "Added 2024-01-15 data\n"


# -- writes outside a transaction --------------------------------------------------------------------------------------


def put_key(store: IcechunkStore) -> None:
    sync(store.set("c/0", default_buffer_prototype().buffer.from_bytes(b"1")))


def put_key_if_absent(store: IcechunkStore) -> None:
    sync(store.set_if_not_exists("n/zarr.json", default_buffer_prototype().buffer.from_bytes(b"{}")))


def put_region(store: IcechunkStore) -> None:
    dataset(9).isel(x=slice(0, 250)).to_zarr(store, region={"x": slice(0, 250)})


WRITES: dict[str, Callable[[IcechunkStore], Any]] = {
    "to_zarr a": lambda store: dataset(9).to_zarr(store, mode="a"),
    "to_zarr w": lambda store: dataset(9).to_zarr(store, mode="w"),
    "to_zarr w-": lambda store: dataset(9).to_zarr(store, mode="w-", group="new"),
    "to_zarr new group": lambda store: dataset(9).to_zarr(store, group="deep/new", mode="a"),
    "to_zarr append": lambda store: dataset(9).to_zarr(store, append_dim="x"),
    "to_zarr region": put_region,
    "to_zarr dask": lambda store: dataset(9).chunk(x=250).to_zarr(store, mode="a"),
    "open_group w": lambda store: zarr.open_group(store, mode="w"),
    "open_group new": lambda store: zarr.open_group(store, path="new", mode="a"),
    "create_group": lambda store: zarr.create_group(store, path="new"),
    "create_array": lambda store: zarr.create_array(store, name="new", shape=3, dtype="i4"),
    "overwrite array": lambda store: zarr.create_array(store, name="v", shape=3, dtype="i4", overwrite=True),
    "array assignment": lambda store: zarr.open_array(store, path="v", mode="r+").__setitem__(0, 9),
    "resize": lambda store: zarr.open_array(store, path="v", mode="r+").resize((3,)),
    "append": lambda store: zarr.open_array(store, path="v", mode="r+").append(np.zeros(3)),
    "attributes": lambda store: zarr.open_group(store, mode="r+").attrs.update({"a": 1}),
    "delete member": lambda store: zarr.open_group(store, mode="r+").__delitem__("v"),
    "set": put_key,
    "set_if_not_exists": put_key_if_absent,
    "delete": lambda store: sync(store.delete("v/c/0")),
    "delete_dir": lambda store: sync(store.delete_dir("v")),
    "clear": lambda store: sync(store.clear()),
    "sync_clear": lambda store: store.sync_clear(),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
def test_every_write_outside_a_transaction_is_refused_in_one_sentence_and_changes_nothing(
    write: Callable[[IcechunkStore], Any], store: IcechunkStore
) -> None:
    before, version = contents(store), store.version
    refusal = r"^The store is not in a transaction, so nothing was written\.\n.*%%commit"
    with pytest.raises(NotWritableError, match=refusal):
        write(store)
    assert contents(store) == before
    assert store.version == version
    assert store.repo.lookup_branch("main") == version.id


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
def test_every_write_to_a_store_opened_read_only_is_refused_and_changes_nothing(
    write: Callable[[IcechunkStore], Any], store: IcechunkStore
) -> None:
    reader = IcechunkStore.open(store.url, read_only=True)
    with pytest.raises(NotWritableError, match="is open read-only"):
        write(reader)
    assert contents(reader) == contents(store)


def test_zarr_objects_kept_from_a_transaction_cannot_write_after_it(store: IcechunkStore) -> None:
    with store.transaction() as txn:
        group = zarr.open_group(store, mode="r+")
        array = group["v"]
        array[0] = 9
        txn.commit("nine")
        with pytest.raises(NotWritableError, match="The transaction is over: it was committed as"):
            array[1] = 9
    before = contents(store)
    for write in (lambda: array.__setitem__(2, 9), lambda: group.attrs.update(a=1), lambda: group.create_group("g")):
        with pytest.raises(NotWritableError, match="not in a transaction"):
            write()
    assert contents(store) == before
    assert xr.open_zarr(store, chunks=None).v[0] == 9


def test_zarr_objects_kept_from_a_transaction_write_into_no_later_one_by_another_store(store: IcechunkStore) -> None:
    other = IcechunkStore.open(store.repo)
    with store.transaction("a") as txn:
        array = zarr.open_array(store, path="v", mode="r+")
        array[0] = 5
    with other.transaction(), pytest.raises(NotWritableError):
        array[0] = 6
    assert txn.version == store.version


# -- lazy data stay what they were -------------------------------------------------------------------------------------


def commit_more(store: IcechunkStore) -> None:
    put(store, 3)


def overwrite_with_other_chunks(store: IcechunkStore) -> None:
    with store.transaction("rechunked"):
        dataset(4).drop_encoding().chunk(x=30).to_zarr(store, mode="w")


def remove_array(store: IcechunkStore) -> None:
    with store.transaction("removed"):
        del zarr.open_group(store, mode="r+")["v"]


def discard_by_error(store: IcechunkStore) -> None:
    with pytest.raises(KeyError), store.transaction():
        dataset(5).to_zarr(store, mode="w")
        raise KeyError


def discard_by_verb(store: IcechunkStore) -> None:
    with store.transaction():
        dataset(5).to_zarr(store, mode="w")
        store.discard()


def switch_branch(store: IcechunkStore) -> None:
    store.branch("old", "HEAD~1")
    store.switch("old")


def commit_elsewhere(store: IcechunkStore) -> None:
    put(IcechunkStore.open(store.repo), 6)
    store.refresh()


MOVES: dict[str, Callable[[IcechunkStore], Any]] = {
    "commit": commit_more,
    "overwrite": overwrite_with_other_chunks,
    "remove": remove_array,
    "error": discard_by_error,
    "discard": discard_by_verb,
    "checkout": lambda store: store.checkout("HEAD~1"),
    "switch": switch_branch,
    "other store": commit_elsewhere,
    "close": lambda store: store.close(),
}


@LAZY
@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES.keys())
def test_a_lazy_dataset_keeps_reading_the_version_it_was_opened_at(
    move: Callable[[IcechunkStore], Any], chunks: dict[str, int] | None, store: IcechunkStore
) -> None:
    lazy = xr.open_zarr(store, chunks=chunks)
    array = zarr.open_array(store, path="v", mode="r")
    move(store)
    assert factor_of(lazy) == 2
    assert array[1] == 2


@LAZY
@pytest.mark.parametrize(("move", "arguments"), [("checkout", ["HEAD~1"]), ("switch", ["old"]), ("refresh", [])])
def test_a_lazy_dataset_of_a_store_opened_read_only_keeps_its_version_too(
    move: str, arguments: list[str], chunks: dict[str, int] | None, store: IcechunkStore
) -> None:
    reader = IcechunkStore.open(store.url, read_only=True)
    lazy = xr.open_zarr(reader, chunks=chunks)
    store.branch("old", "HEAD~1")
    put(store, 3)
    getattr(reader, move)(*arguments)
    assert read(reader) == (3 if move == "refresh" else 1)
    assert factor_of(lazy) == 2


def test_a_lazy_dataset_keeps_its_version_when_another_process_overwrites(local: IcechunkStore) -> None:
    lazy, plain = xr.open_zarr(local, chunks={}), xr.open_zarr(local, chunks=None)
    script = f"""
        import numpy as np, xarray as xr
        from icemagic import IcechunkStore
        store = IcechunkStore.open({local.url!r})
        with store.transaction("elsewhere"):
            xr.Dataset({{"v": ("x", np.arange(1000.) * 7)}}, {{"x": np.arange(1000)}}).to_zarr(store, mode="w")
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True)
    assert read(local) == 2
    assert local.status().behind == 1
    local.refresh()
    assert read(local) == 7
    assert factor_of(lazy) == factor_of(plain) == 2


@LAZY
@pytest.mark.parametrize("before", [2, 3], ids=["clean", "dirty"])
@pytest.mark.parametrize("mode", ["w", "a"])
def test_data_can_be_overwritten_with_what_is_lazily_read_from_them_in_the_same_transaction(
    mode: str, before: int, chunks: dict[str, int] | None, store: IcechunkStore
) -> None:
    with store.transaction() as txn:
        if before != read(store):
            dataset(before).to_zarr(store, mode="w")
        lazy = xr.open_zarr(store, chunks=chunks)
        twice = lazy * 2
        twice.drop_encoding().to_zarr(store, mode=mode)
        assert read(store) == 2 * before
        txn.commit("twice")
    assert read(store) == 2 * before
    assert factor_of(lazy) == before


def test_a_region_can_be_overwritten_with_what_is_lazily_read_from_another(store: IcechunkStore) -> None:
    with store.transaction("moved"):
        lazy = xr.open_zarr(store, chunks={})
        lazy[["v"]].isel(x=slice(750, 1000)).drop_vars("x").to_zarr(store, region={"x": slice(0, 250)})
    values = xr.open_zarr(store, chunks=None).v.values
    assert np.array_equal(values, np.concatenate([np.arange(750, 1000), np.arange(250, 1000)]) * 2)


def test_versions_opened_lazily_do_not_mix_in_one_dask_computation(store: IcechunkStore) -> None:
    two = xr.open_zarr(store, chunks={})
    with store.transaction("three") as txn:
        open_before = xr.open_zarr(store, chunks={})
        dataset(3).to_zarr(store, mode="w")
        open_after = xr.open_zarr(store, chunks={})
        with pytest.raises(TransactionError, match="in a transaction cannot be sent"):
            pickle.dumps(store)
        tokens = tokenize(store)
        dataset(4).to_zarr(store, mode="w")
        assert tokenize(store) != tokens
        open_last = xr.open_zarr(store, chunks={})
    four = xr.open_zarr(store, chunks={})
    together = xr.concat([two.v, open_before.v, open_after.v, open_last.v, four.v], "version").isel(x=1)
    assert together.values.tolist() == [2, 2, 3, 4, 4]
    assert txn.version is not None


# -- where it stands ---------------------------------------------------------------------------------------------------


def test_it_is_a_real_icechunk_and_zarr_store(store: IcechunkStore) -> None:
    assert isinstance(store, icechunk.IcechunkStore)
    assert isinstance(store, zarr.abc.store.Store)
    assert isinstance(store.repo, icechunk.Repository)
    assert store.session.snapshot_id == store.version.id
    assert zarr.open_group(store, mode="r")["v"][1] == 2
    assert [name for name, _ in zarr.open_group(store).arrays()] in (["v", "x"], ["x", "v"])
    assert factor_of(xr.open_dataset(store, engine="zarr")) == 2
    assert xr.open_datatree(store, engine="zarr")["v"].shape == (1000,)
    assert dask.array.from_zarr(store, component="v")[1].compute() == 2


def test_after_its_own_commit_it_stands_on_the_new_version(store: IcechunkStore) -> None:
    at = put(store, 3)
    assert store.version.id == at == store.repo.lookup_branch("main")
    assert read(store) == 3
    assert store.current_branch == "main"
    assert [version.message for version in store.list_versions()] == ["one", "two", "put"]


def test_another_store_s_commit_is_seen_after_refresh_and_counted_before(store: IcechunkStore) -> None:
    other = IcechunkStore.open(store.url)
    for factor in (3, 4):
        put(other, factor)
    assert (read(store), store.status().behind) == (2, 2)
    assert store.refresh().behind == 0
    assert read(store) == 4


def test_checkout_takes_a_tag_a_version_a_prefix_and_a_branch(store: IcechunkStore) -> None:
    one, two = store.list_versions()
    store.tag("v1", one)
    store.branch("dev", one)
    for ref, factor in (("v1", 1), (two, 2), (one.id[:8], 1), ("main~1", 1), ("dev", 1), ("main", 2)):
        store.checkout(ref)
        assert (read(store), store.current_branch) == (factor, ref if ref in ("dev", "main") else None)
    store.checkout("v1")
    with pytest.raises(TransactionError, match="not on a branch"), store.transaction():
        pass
    assert store.refresh().branch is None
    assert read(store) == 1
    with pytest.raises(UnknownVersionError):
        store.checkout("v9")
    assert read(store) == 1


def test_another_store_at_a_version_is_read_only_and_leaves_this_one_where_it_stands(store: IcechunkStore) -> None:
    for number, message in ((1, "one"), (2, "two")):
        with store.transaction(message):
            zarr.open_group(store).attrs["n"] = number
    before = store.version
    other = store.at("HEAD~1")
    assert type(other) is type(store)
    assert other.version is not None
    assert (other.version.message, other.current_branch, other.url) == ("one", None, store.url)
    with pytest.raises(NotWritableError), other.transaction():
        pass
    assert (store.version, store.current_branch) == (before, "main")
    with store.transaction("three"):
        zarr.open_group(store).attrs["n"] = 3
    assert other.version.message == "one"
    assert zarr.open_group(other, mode="r").attrs["n"] == 1


def test_switch_goes_to_a_branch_whose_commits_leave_the_other_alone(store: IcechunkStore) -> None:
    store.branch("dev")
    assert store.current_branch == "main"
    store.switch("dev")
    put(store, 3)
    assert read(store) == 3
    with pytest.raises(UnknownVersionError, match="no branch 'mian'"):
        store.switch("mian")
    assert store.current_branch == "dev"
    store.switch("main")
    assert read(store) == 2


@pytest.mark.parametrize("verb", ["switch", "checkout", "refresh", "close"])
def test_a_store_does_not_move_during_a_transaction(verb: str, store: IcechunkStore) -> None:
    arguments = ("main",) if verb in ("switch", "checkout") else ()
    with store.transaction("three"):
        dataset(3).to_zarr(store, mode="w")
        with pytest.raises(TransactionError, match="has to wait"):
            getattr(store, verb)(*arguments)
    assert read(store) == 3


# -- read-only ---------------------------------------------------------------------------------------------------------


def test_read_only_refuses_transactions_tags_branches_and_a_writable_twin(store: IcechunkStore) -> None:
    reader = IcechunkStore.open(store.url, read_only=True)
    for write in (
        lambda: reader.transaction("x").__enter__(),
        lambda: reader.tag("t"),
        lambda: reader.branch("b"),
        lambda: reader.with_read_only(read_only=False),
        reader.with_read_only,
    ):
        with pytest.raises(NotWritableError, match="is open read-only"):
            write()
    assert (list(store.tags()), list(store.branches())) == ([], ["main"])
    assert reader.status().read_only
    twin = reader.with_read_only(read_only=True)
    assert twin.read_only
    with pytest.raises(icechunk.ReadOnlyError):
        sync(twin.set("v/c/0", default_buffer_prototype().buffer.from_bytes(b"1")))


def test_open_or_create_read_only_creates_nothing(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError):
        IcechunkStore.open_or_create(tmp_path / "absent", read_only=True)
    assert not (tmp_path / "absent").exists()


def test_a_pickled_store_reads_the_same_version_and_cannot_write(local: IcechunkStore) -> None:
    reader = IcechunkStore.open(local.url, read_only=True)
    for store in (local, reader):
        copy = pickle.loads(pickle.dumps(store))
        assert isinstance(copy, IcechunkStore)
        assert (copy.version, copy.url, copy.current_branch) == (store.version, store.url, "main")
        assert read(copy) == 2
        with pytest.raises(NotWritableError), copy.transaction("x"):
            pass
        with pytest.raises(NotWritableError):
            put_key(copy)
    local.checkout("main~1")
    assert read(pickle.loads(pickle.dumps(local))) == 1


def test_a_pickled_store_and_lazy_data_read_in_other_processes(
    local: IcechunkStore, worker: ProcessPoolExecutor
) -> None:
    local.checkout("HEAD~1")
    lazy = xr.open_zarr(local, chunks={})
    plain = xr.open_zarr(local, chunks=None)
    assert worker.submit(read, local).result() == 1
    assert worker.submit(factor_of, plain).result() == 1
    local.switch("main")
    with dask.config.set(scheduler="processes", pool=worker):
        assert float(lazy.v.sum().compute()) == np.arange(1000.0).sum()


def test_lazy_data_of_an_open_transaction_are_read_in_other_processes_with_its_changes(
    local: IcechunkStore, worker: ProcessPoolExecutor
) -> None:
    with local.transaction("three"):
        dataset(3).to_zarr(local, mode="w")
        lazy = xr.open_zarr(local, chunks={})
        dataset(4).to_zarr(local, mode="w")
        with dask.config.set(scheduler="processes", pool=worker):
            assert float(lazy.v.sum().compute()) == np.arange(1000.0).sum() * 3


def test_a_store_in_a_transaction_or_in_memory_refuses_to_be_pickled_but_has_a_dask_token() -> None:
    store = IcechunkStore.create(f"memory:{uuid.uuid4()}")
    put(store, 1)
    with pytest.raises(TransactionError, match="lives in this process only"):
        pickle.dumps(store)
    assert tokenize(store)
    assert factor_of(xr.open_zarr(store, chunks={})) == 1


# -- opening -----------------------------------------------------------------------------------------------------------


def test_open_says_what_lies_near_a_mistyped_path_and_creates_nothing(tmp_path: Path) -> None:
    IcechunkStore.create(tmp_path / "rosalia" / "rinex")
    with pytest.raises(StoreNotFoundError, match=r"rosalia/rinex") as caught:
        IcechunkStore.open(tmp_path / "rosalia" / "rinx")
    assert "There is no icechunk repository at" in caught.value.message
    with pytest.raises(StoreNotFoundError, match=r"rosalia/rinex"):
        IcechunkStore.open(tmp_path / "rosalya" / "rinex")
    assert [path.name for path in tmp_path.rglob("rin*")] == ["rinex"]


def test_a_file_or_other_files_in_the_way_are_named_and_left_alone(tmp_path: Path) -> None:
    file, full = tmp_path / "file", tmp_path / "full"
    file.write_text("mine")
    full.mkdir()
    (full / "notes.txt").write_text("mine")
    for make in (IcechunkStore.create, IcechunkStore.open_or_create):
        with pytest.raises(StorageURLError, match="is a file"):
            make(file)
        with pytest.raises(StoreExistsError, match="There are other files at"):
            make(full)
    with pytest.raises(StoreNotFoundError):
        IcechunkStore.open(full)
    assert file.read_text() == "mine"
    assert [path.name for path in full.iterdir()] == ["notes.txt"]


def test_create_refuses_a_place_that_holds_a_repository(store: IcechunkStore) -> None:
    with pytest.raises(StoreExistsError, match="Open it with"):
        IcechunkStore.create(store.url)
    assert read(IcechunkStore.open_or_create(store.url)) == 2


def test_a_creation_that_broke_off_is_taken_up(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / LOCK_NAME).touch()
    put(IcechunkStore.open_or_create(tmp_path / "store"), 1)
    assert read(IcechunkStore.open(tmp_path / "store")) == 1


@pytest.mark.parametrize("name", ["with space", "Grüße-ß-日本", "per%20cent", "dots..in.it"])
def test_any_folder_name_is_a_path_and_its_url_leads_back(name: str, tmp_path: Path) -> None:
    store = IcechunkStore.create(tmp_path / name)
    put(store, 1)
    assert (tmp_path / name / "repo").is_file()
    assert read(IcechunkStore.open(str(tmp_path / name))) == 1
    assert read(IcechunkStore.open(store.url)) == 1


def test_relative_paths_lie_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = IcechunkStore.create("stores/rosalia/rinex")
    monkeypatch.chdir("/")
    put(store, 1)
    assert read(IcechunkStore.open(tmp_path / "stores/rosalia/rinex")) == 1


def test_an_open_repository_is_taken_as_it_is_and_a_local_one_is_locked(tmp_path: Path) -> None:
    storage = icechunk.local_filesystem_storage(str(tmp_path / "plain"))
    repo = icechunk.Repository.create(storage)
    (tmp_path / "plain" / LOCK_NAME).unlink(missing_ok=True)
    store = IcechunkStore.open(repo)
    put(store, 1)
    assert store.repo is repo
    assert (tmp_path / "plain" / LOCK_NAME).exists()
    assert read(IcechunkStore.open_or_create(repo)) == 1


def test_version_is_a_record_a_tag_a_branch_a_prefix_or_a_date(store: IcechunkStore) -> None:
    one, two = store.list_versions()
    store.tag("v1", one)
    store.branch("dev", one)
    now = f"@{{{two.time.isoformat()}}}"
    for version, factor in ((one, 1), ("v1", 1), ("dev", 1), ("main", 2), (two.id[:7], 2), (one.id, 1), (now, 2)):
        opened = IcechunkStore.open(store.url, version=version)
        assert (read(opened), opened.current_branch) == (factor, None)
    assert read(IcechunkStore.open(store.url, branch="dev")) == 1
    for unknown in ("nope", "main~2", "@{2001-01-01}"):
        with pytest.raises(UnknownVersionError):
            IcechunkStore.open(store.url, version=unknown)
    store.tag("dev", two)
    with pytest.raises(AmbiguousVersionError):
        IcechunkStore.open(store.url, version="dev")
    with pytest.raises(UnknownVersionError, match="no branch"):
        IcechunkStore.open(store.url, branch="mian")


RACE = """
    import sys
    import zarr
    from icemagic import IcechunkStore
    from icemagic.errors import TransactionError

    print("ready", flush=True)
    for path in map(str.strip, sys.stdin):
        store = IcechunkStore.open_or_create(path)
        while True:
            try:
                with store.transaction() as txn:
                    zarr.create_array(store, name=sys.argv[1], shape=3, dtype="i4")
                    print(txn.commit(sys.argv[1]).id, flush=True)
                break
            except TransactionError:
                pass  # all made the root group in their first commit, and only one can be the first
"""


def test_open_or_create_by_six_processes_at_once_makes_one_repository_and_keeps_every_commit(tmp_path: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(RACE)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
    with ExitStack() as stack:
        racers = [stack.enter_context(subprocess.Popen([*command, f"a{i}"], **pipes)) for i in range(6)]
        for racer in racers:
            stack.callback(racer.kill)
        assert [racer.stdout.readline() for racer in racers] == ["ready\n"] * 6
        for path in (tmp_path / "1", tmp_path / "2", tmp_path / "3"):
            for racer in racers:
                racer.stdin.write(f"{path}\n")
            ids = {racer.stdout.readline().strip() for racer in racers}
            assert {version.id for version in IcechunkStore.open(path).list_versions()} == ids
            assert len(ids) == 6
