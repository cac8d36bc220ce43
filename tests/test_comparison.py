"""Values, places and sides of a comparison against what fully read datasets say; and what is read for it."""

from __future__ import annotations

import json
import math
import tracemalloc
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import icechunk
import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.core.sync import sync

from icemagic import IcechunkStore
from icemagic.differences import ArrayDiff, Diff
from icemagic.errors import SelectionError, TransactionError, UnknownVersionError
from icemagic.values import Tally, Tolerance

ALL = {"consolidated": False}


def new_store() -> IcechunkStore:
    return IcechunkStore.create(f"memory:{uuid.uuid4()}")


def opened(store: Any, ref: str | None = None) -> xr.Dataset:
    """Return a version, fully read."""
    at = store if ref is None else store.repo.readonly_session(snapshot_id=store.resolve(ref)).store
    return xr.open_zarr(at, **ALL).load()


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Collect the keys of all chunks that are read."""
    read: list[str] = []
    get = icechunk.IcechunkStore.get

    async def counting(self: Any, key: str, *arguments: Any, **more: Any) -> Any:
        if not key.endswith("zarr.json"):
            read.append(key)
        return await get(self, key, *arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(icechunk.IcechunkStore, "get", counting)
        yield read


# -- any two versions --------------------------------------------------------------------------------------------------

LENGTHS = st.integers(1, 9)
ENCODINGS = st.sampled_from(
    [
        {"dtype": "f4"},
        {"dtype": "f8", "_FillValue": -9999.0},
        {"dtype": "i2", "scale_factor": 0.5, "_FillValue": -1},
        {"dtype": "i4", "_FillValue": -7},
    ]
)
EDIT = st.tuples(
    st.sampled_from(["write", "write", "write", "fill", "append", "cut", "rechunk", "scale", "drop chunk"]),
    st.integers(0, 8),
    st.integers(0, 4),
    st.integers(1, 4),
)


class Edited:
    """A store with one variable over time and place, and the edits that can be made to it."""

    def __init__(self, encoding: dict[str, Any], length: int) -> None:
        self.store = new_store()
        self.count = 0
        values = xr.Dataset(
            {"t": (("time", "site"), self.fresh((length, 5)), {"units": "K"})},
            {"time": np.arange(length) * 3 + 2000, "site": ["a", "b", "c", "d", "e"]},
        )
        with self.store.transaction("first"):
            values.to_zarr(self.store, mode="w", encoding={"t": {**encoding, "chunks": (3, 2)}}, **ALL)

    def fresh(self, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        self.count += math.prod(shape)
        return np.arange(self.count - math.prod(shape), self.count, dtype="f8").reshape(shape)

    def apply(self, verb: str, row: int, column: int, rows: int) -> None:
        array = zarr.open_array(self.store, path="t", mode="r+")
        match verb:
            case "write":
                region = np.s_[row : row + rows, column : column + 2]
                array[region] = self.fresh(array[region].shape)
            case "fill":
                array[row : row + rows] = array.attrs.get("_FillValue", -1) if array.dtype.kind == "i" else math.nan
            case "append":
                now = opened(self.store)
                more = xr.Dataset(
                    {"t": (("time", "site"), self.fresh((rows, 5)))},
                    {"time": now.time[-1].item() + 3 + np.arange(rows) * 3, "site": now.site},
                )
                more.to_zarr(self.store, append_dim="time", **ALL)
            case "cut" if array.shape[0] > rows:
                for path in ("t", "time"):
                    one = zarr.open_array(self.store, path=path, mode="r+")
                    one.resize((array.shape[0] - rows, *one.shape[1:]))
            case "rechunk":
                now = opened(self.store)
                now.t.encoding |= {"chunks": (rows, 3)}
                now[["t"]].drop_vars(["time", "site"]).to_zarr(self.store, mode="a", **ALL)
            case "scale" if array.dtype.kind == "i":
                array.attrs["scale_factor"] = 2.0 + rows
            case "drop chunk":
                sync(self.store.delete(f"t/c/{row // 3}/{column // 2}"))


def numbers(a: xr.Dataset, b: xr.Dataset) -> dict[str, Any]:
    """Compare what both versions have room for, read as a whole."""
    rows = min(a.sizes["time"], b.sizes["time"])
    one, other = (side.t.values[:rows] for side in (a, b))
    tally = Tally(Tolerance())
    tally.add(one, other, [0, 0])
    return {"total_values": one.size, **tally.numbers()}


def changed_positions(a: xr.Dataset, b: xr.Dataset) -> set[tuple[int, ...]]:
    rows = min(a.sizes["time"], b.sizes["time"])
    one, other = (side.t.values[:rows] for side in (a, b))
    return set(map(tuple, np.argwhere((one != other) & ~(np.isnan(one) & np.isnan(other))).tolist()))


def of_t(found: Diff) -> ArrayDiff | None:
    return next((array for array in found.arrays if array.path == "t"), None)


@settings(max_examples=30, deadline=None)
@given(ENCODINGS, LENGTHS, st.lists(st.lists(EDIT, min_size=1, max_size=3), min_size=1, max_size=3))
def test_the_values_of_any_two_versions_are_compared_as_fully_read_datasets_say(
    encoding: dict[str, Any], length: int, versions: list[list[tuple[Any, ...]]]
):
    edited = Edited(encoding, length)
    store = edited.store
    for edits in versions:
        with store.transaction() as txn:
            for edit in edits:
                edited.apply(*edit)
            if txn.plain.has_uncommitted_changes:
                txn.commit("edit")
    made = [version.id for version in store.list_versions()]
    for a in made:
        for b in made:
            one, other = opened(store, a), opened(store, b)
            with counted(pytest.MonkeyPatch()) as read:
                whole = store.diff(a, b, values=True)
            found = of_t(whole)
            right = numbers(one, other)
            if found is None or found.changed_values is None:
                assert right["changed_values"] == 0
                continue
            assert {key: getattr(found, key) for key in right} == pytest.approx(right, nan_ok=True)
            check_places(found, one, other)
            what = {change.what for change in (*found.changes, *whole.attributes)}
            redefined = bool(what & {"chunks", "fill value", "dtype", "codecs", "scale_factor"})
            check_reads(found, [key for key in read if key.startswith("t/c/")], redefined=redefined)


def check_places(found: ArrayDiff, one: xr.Dataset, other: xr.Dataset) -> None:
    changed = changed_positions(one, other)
    inside = {
        tuple(at + side.start for at, side in zip(index, place.positions, strict=True))
        for place in found.boxes
        for index in np.ndindex(*map(len, place.positions))
    }
    if not found.more_boxes:
        assert changed <= inside
    for place in found.boxes:
        rows, columns = place.positions
        assert changed & {(row, column) for row in rows for column in columns}
    if found.max_at:
        before, after = (side.t.sel(found.max_at).item() for side in (one, other))
        assert abs(after - before) == pytest.approx(found.max_abs)


def check_reads(found: ArrayDiff, read: list[str], *, redefined: bool) -> None:
    assert all(read.count(key) <= 2 for key in set(read)), "a chunk was read twice on one side"
    if not redefined:
        assert len(read) <= 2 * (found.changed_chunks + found.identical_chunks)


# -- what can be compared ----------------------------------------------------------------------------------------------

HOURS = np.arange("2025-01-01T00", "2025-01-02T00", dtype="M8[h]").astype("M8[ns]")


def snr(n_hours: int = 24) -> xr.Dataset:
    """Return a day of hourly values of three signals."""
    values = np.arange(n_hours * 3, dtype="f4").reshape(n_hours, 3)
    return xr.Dataset(
        {"SNR": (("epoch", "sid"), values, {"units": "dB-Hz"})},
        {"epoch": HOURS[:n_hours], "sid": ["G01|L1|C", "G02|L1|C", "R01|L1|C"]},
    )


@pytest.fixture
def store() -> IcechunkStore:
    """Return a store with one version, in chunks of six hours."""
    store = new_store()
    with store.transaction("first"):
        snr().to_zarr(store, encoding={"SNR": {"chunks": (6, 3)}}, **ALL)
    return store


def shifted(
    dataset: xr.Dataset, by: float = 2, hours: tuple[str, str] = ("2025-01-01T10", "2025-01-01T11")
) -> xr.Dataset:
    out = dataset.copy(deep=True)
    out.SNR.loc[{"epoch": slice(*hours), "sid": "G02|L1|C"}] += by
    return out


def write(store: IcechunkStore, dataset: xr.Dataset, message: str = "write") -> None:
    with store.transaction(message):
        dataset.to_zarr(store, mode="r+", **ALL)


SAID = "SNR changed for epoch 2025-01-01T10:00 … 11:00, sid G02|L1|C: 2 values, by +2 dB-Hz on average"


def test_chunks_are_told_written_removed_replaced_and_identical_and_where_they_are():
    store, noise = new_store(), np.random.default_rng(1).random(4000)
    with store.transaction("first"):
        hours = np.arange(4000) * np.timedelta64(1, "h") + HOURS[0]
        xr.Dataset({"a": ("time", noise)}, {"time": hours}).to_zarr(store, encoding={"a": {"chunks": 1000}}, **ALL)
    with store.transaction("changes"):
        array = zarr.open_array(store, path="a", mode="r+")
        array[:2000] = array[:2000]
        array[2000:3000] = 0.5
        sync(store.delete("a/c/3"))
    (found,) = store.diff().arrays
    assert (found.changed_chunks, found.total_chunks, found.identical_chunks) == (2, 4, 2)
    assert (found.written_chunks, found.replaced_chunks, found.removed_chunks) == (0, 1, 1)
    assert found.where() == [
        "a changed for time 2025-03-25T08:00 … 2025-05-05T23:00",
        "a removed for time 2025-05-06T00:00 … 2025-06-16T15:00",
    ]
    (back,) = store.diff("HEAD", "HEAD~1").arrays
    assert (back.written_chunks, back.replaced_chunks, back.removed_chunks, back.identical_chunks) == (1, 1, 0, 2)


def test_the_open_work_can_be_either_side_and_is_what_is_compared_unless_told_otherwise(store: IcechunkStore):
    with store.transaction() as txn:
        assert store.diff().is_empty
        zarr.open_array(store, path="SNR", mode="r+")[10:12, 1] += 2
        for found, by in (
            (store.diff(values=True), 2),
            (store.diff("WORKING", values=True), 2),
            (store.diff("main", "WORKING", values=True), 2),
            (store.diff("WORKING", "HEAD", values=True), -2),
            (store.diff("WORKING", snr()), -2),
            (store.diff(snr(), "WORKING"), 2),
        ):
            assert [(one.path, one.changed_values, one.mean) for one in found.arrays] == [("SNR", 2, by)]
        assert store.diff("WORKING", "WORKING").is_empty
        assert [one.status for one in store.diff(IcechunkStore.open(store.repo)).arrays] == ["changed"]
        txn.discard()
    with pytest.raises(TransactionError, match="No transaction is open"):
        store.diff("WORKING")


def test_open_work_is_compared_with_a_version_of_another_branch(store: IcechunkStore):
    store.branch("dev")
    write(store, shifted(snr(), 5))
    store.switch("dev")
    with store.transaction() as txn:
        zarr.open_array(store, path="SNR", mode="r+")[10:12, 1] += 2
        found = store.diff("main", "WORKING", values=True)
        txn.discard()
    assert [(one.path, one.changed_values, one.mean) for one in found.arrays] == [("SNR", 2, -3)]


def test_a_version_of_another_repository_is_compared_by_its_bytes(store: IcechunkStore, tmp_path: Path):
    other = IcechunkStore.create(tmp_path / "other")
    with other.transaction("first"):
        snr().to_zarr(other, encoding={"SNR": {"chunks": (6, 3)}}, **ALL)
    assert store.diff(other).is_empty
    assert store.diff("HEAD", other).is_empty
    write(other, shifted(snr()))
    (found,) = store.diff(other).arrays
    assert (found.status, found.changed_chunks, found.identical_chunks) == ("changed", 1, 0)
    (valued,) = store.diff(other, values=True).arrays
    assert valued.where() == [SAID]


def test_the_same_repository_opened_twice_is_compared_by_its_references(
    store: IcechunkStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    one = IcechunkStore.create(tmp_path / "one")
    with one.transaction("first"):
        snr().to_zarr(one, encoding={"SNR": {"chunks": (6, 3)}}, **ALL)
    two = IcechunkStore.open(tmp_path / "one")
    with counted(monkeypatch) as read:
        assert one.diff(two).is_empty
    assert read == []


@pytest.mark.parametrize("form", ["dataset", "dask", "array", "path", "file"])
def test_datasets_and_files_are_compared_with_their_values(store: IcechunkStore, tmp_path: Path, form: str):
    changed = shifted(snr())
    changed.to_netcdf(tmp_path / "changed.nc")
    operand = {
        "dataset": changed,
        "dask": changed.chunk(epoch=5),
        "array": changed.SNR,
        "path": tmp_path / "changed.nc",
        "file": str(tmp_path / "changed.nc"),
    }[form]
    (found,) = store.diff("HEAD", operand).arrays
    assert found.where() == [SAID]
    assert (found.changed_values, found.total_values, found.max_abs) == (2, 72, 2)
    assert found.max_at == {"epoch": np.datetime64("2025-01-01T10", "ns"), "sid": "G02|L1|C"}
    assert store.diff(operand, "HEAD").arrays[0].mean == -2
    assert store.diff("HEAD", operand, "SNR").arrays[0].changed_values == 2
    assert store.diff("HEAD", operand, atol=2.0).is_empty


def test_values_of_equal_labels_are_compared_wherever_they_lie(store: IcechunkStore):
    part = shifted(snr()).isel(epoch=slice(20, 6, -1), sid=[2, 1])
    found = store.diff("HEAD", part)
    (array,) = [one for one in found.arrays if one.path == "SNR"]
    assert (array.status, array.changed_values, array.total_values, array.mean) == ("resized", 2, 28, 2)
    assert set(found.notes) == {
        "epoch: 10 of HEAD have no counterpart, so they are not compared",
        "sid: 1 of HEAD have no counterpart, so they are not compared",
    }
    assert {one.path: one.changed_values for one in found.arrays} == {"SNR": 2, "epoch": 0, "sid": 0}


@pytest.mark.parametrize("seed", range(5))
def test_a_dataset_is_compared_as_xarray_aligns_it(store: IcechunkStore, seed: int):
    rng = np.random.default_rng(seed)
    part = snr().isel(epoch=rng.permutation(24)[:17], sid=rng.permutation(3)[:2])
    part["SNR"] = part.SNR.where(rng.random(part.SNR.shape) > 0.2) + (rng.random(part.SNR.shape) > 0.5)
    (found,) = store.diff("HEAD", part, "SNR", memory=48 * 5).arrays
    one, other = xr.align(snr().SNR, part.SNR, join="inner")
    other = other.transpose(*one.dims).sel(one.coords)
    apart = (other - one).values
    assert found.changed_values == int(((apart != 0) | np.isnan(apart)).sum())
    assert found.nan_appeared == int(np.isnan(apart).sum())
    assert found.mean == pytest.approx(apart[(apart != 0) & ~np.isnan(apart)].mean())


def test_a_dataset_is_compared_with_the_group_that_is_named():
    store = new_store()
    with store.transaction("first"):
        snr().to_zarr(store, group="site/rinex", **ALL)
    (found,) = store.diff("HEAD", shifted(snr()), "site/rinex").arrays
    assert (found.path, found.changed_values) == ("SNR", 2)
    (found,) = store.diff("HEAD", shifted(snr()), "site/rinex/SNR").arrays
    assert (found.path, found.changed_values) == ("SNR", 2)


@pytest.mark.parametrize(
    ("operand", "said"),
    [
        ("nothing.nc", "There is no file 'nothing.nc'"),
        ("broken.nc", "'broken.nc' cannot be read"),
        (snr().SNR.rename(None), "DataArray cannot be compared"),
        (3, "int cannot be compared"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    store: IcechunkStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operand: Any, said: str
):
    monkeypatch.chdir(tmp_path)
    Path("broken.nc").write_bytes(b"not netCDF")
    with pytest.raises(SelectionError, match=said):
        store.diff("HEAD", operand)


# -- a part of it ------------------------------------------------------------------------------------------------------


def test_an_array_or_a_group_alone_can_be_compared():
    store = new_store()
    with store.transaction("first"):
        for path in ("a", "g/a", "g/h/a", "ga"):
            zarr.create_array(store, name=path, shape=4, chunks=2, dtype="i4")[...] = 1
    with store.transaction("second"):
        for path in ("a", "g/a", "g/h/a", "ga"):
            zarr.open_array(store, path=path, mode="r+")[...] = 2
    assert [one.path for one in store.diff(array="g").arrays] == ["g/a", "g/h/a"]
    assert [one.path for one in store.diff(array="/g/a/").arrays] == ["g/a"]
    assert [one.path for one in store.diff(array="a").arrays] == ["a"]
    with pytest.raises(SelectionError, match="Neither side has an array or group 'b'"):
        store.diff(array="b")


def test_a_region_in_coordinates_alone_can_be_compared(store: IcechunkStore):
    changed = shifted(shifted(snr()), 7, ("2025-01-01T20", "2025-01-01T20"))
    changed.attrs["note"] = "x"
    write(store, changed)
    inside = {"epoch": ("2025-01-01T11", "2025-01-01T19")}
    (found,) = store.diff(selection=inside).arrays
    assert (found.changed_chunks, [str(place) for place in found.boxes]) == (
        2,
        ["epoch 2025-01-01T06:00 … 11:00, all sid", "epoch 2025-01-01T18:00 … 23:00, all sid"],
    )
    (found,) = store.diff(selection=inside, values=True).arrays
    assert (found.changed_values, found.total_values, found.mean) == (1, 27, 2)
    assert store.diff(selection=inside).attributes == ()
    (found,) = store.diff("HEAD~1", changed, selection=inside).arrays
    assert (found.changed_values, found.total_values) == (1, 27)
    for operand in ("HEAD", changed):
        with pytest.raises(SelectionError, match="'epok'"):
            store.diff("HEAD~1", operand, selection={"epok": ("a", "b")})
        with pytest.raises(SelectionError, match="sid has no label X01"):
            store.diff("HEAD~1", operand, selection={"sid": ("X01", "X01")})


def test_arrays_without_names_of_dimensions_are_no_part_of_a_region():
    store = new_store()
    for value in (1, 2):
        with store.transaction("step"):
            for name, dims in (("named", ["y"]), ("nameless", None)):
                zarr.create_array(
                    store, name=name, shape=4, chunks=2, dtype="i4", dimension_names=dims, overwrite=True
                )[...] = value
    assert [one.path for one in store.diff(selection={"y": ("0", "1")}).arrays] == ["named"]


def test_places_are_said_by_position_where_there_is_no_coordinate_of_one_dimension():
    store = new_store()
    with store.transaction("first"):
        for name, dims in (("a", ["y", "x"]), ("b", None)):
            zarr.create_array(store, name=name, shape=(6, 4), chunks=(2, 2), dtype="i4", dimension_names=dims)[...] = 1
        zarr.create_array(store, name="x", shape=(6, 4), dtype="f8", dimension_names=["y", "x"])[...] = 1
    with store.transaction("second"):
        for name in ("a", "b"):
            zarr.open_array(store, path=name, mode="r+")[3, 1] = 5
    assert {one.path: str(one.boxes[0]) for one in store.diff().arrays} == {"a": "y[2:4], x[0:2]", "b": "[2:4], [0:2]"}
    valued = {one.path: (str(one.boxes[0]), one.max_at) for one in store.diff(values=True).arrays}
    assert valued == {"a": ("y[3:4], x[1:2]", {"y": 3, "x": 1}), "b": ("[3:4], [1:2]", {"dim_0": 3, "dim_1": 1})}


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (np.array([50.0, 40.0, 30.0, 20.0]), "y 30.0 … 20.0"),
        (np.array([1, 2, 3, 4]), "y 3 … 4"),
        (np.array(["a", "b", "c", "d"]), "y c … d"),
        (
            np.array(["2024-12-30", "2024-12-31", "2025-01-01", "2025-01-02"], "M8[ns]"),
            "y 2025-01-01T00:00 … 2025-01-02T00:00",
        ),
    ],
)
def test_places_are_said_in_labels_of_every_kind(labels: np.ndarray[Any, Any], said: str):
    store = new_store()
    with store.transaction("first"):
        xr.Dataset({"a": ("y", np.zeros(4))}, {"y": labels}).to_zarr(store, encoding={"a": {"chunks": 2}}, **ALL)
    with store.transaction("second"):
        zarr.open_array(store, path="a", mode="r+")[2:] = 1
    assert [str(place) for place in store.diff().arrays[0].boxes] == [said]
    assert [str(place) for place in store.diff(values=True).arrays[0].boxes] == [said]


# -- limits ------------------------------------------------------------------------------------------------------------


def test_the_memory_that_a_comparison_of_values_takes_is_bounded_whatever_the_array_holds():
    store, bound = new_store(), 16_000_000
    with store.transaction("first"):
        array = zarr.create_array(store, name="a", shape=(4000, 2000), chunks=(100, 500), dtype="f8")
        array[...] = 1
    with store.transaction("second"):
        zarr.open_array(store, path="a", mode="r+")[...] = 2
    tracemalloc.start()
    (found,) = store.diff(values=True, memory=bound).arrays
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.changed_values == 8_000_000
    assert peak < bound * 1.25
    assert store.compared == (8_000_000, 8_000_000)


def test_what_is_shown_does_not_grow_with_the_number_of_chunks():
    store = new_store()
    with store.transaction("first"):
        zarr.create_array(store, name="a", shape=(40, 40), chunks=(1, 1), dtype="i1")[...] = 1
    with store.transaction("second"):
        array = zarr.open_array(store, path="a", mode="r+")
        array[...] = array[...] + np.indices((40, 40)).sum(0) % 2
    for found in (store.diff(), store.diff(values=True)):
        (array_diff,) = found.arrays
        assert array_diff.changed_chunks == 800
        assert len(array_diff.boxes) + array_diff.more_boxes == 800 or array_diff.changed_values == 800
        assert len(array_diff.boxes) <= 6
        assert len(str(found)) < 2000
        assert len(found._repr_html_()) < 5000
        assert len(found.to_json().text) < 5000


def test_text_html_markdown_json_and_table_hold_the_same_facts(store: IcechunkStore):
    write(store, shifted(snr()))
    found = store.diff(values=True)
    for shown in (str(found), found._repr_html_(), found.to_markdown().text.replace("\\", "")):
        for fact in (SAID, "1 of 4 (25 %)", "1 replaced", "2 of 72 (2.78 %)", "epoch 2025-01-01T10:00, sid G02|L1|C"):
            assert fact in shown
    held = json.loads(found.to_json().text)["arrays"][0]
    row = found.to_dataframe().iloc[0]
    assert held["changed_values"] == row.changed_values == 2
    assert held["mean"] == row["mean"] == 2
    words = "epoch 2025-01-01T10:00 … 11:00, sid G02|L1|C"
    assert held["boxes"] == [{"words": words, "positions": [[10, 12], [1, 2]], "what": "changed"}]
    assert held["max_at"] == {"epoch": "2025-01-01T10:00", "sid": "G02|L1|C"}


def test_numbers_that_are_not_finite_are_json_all_the_same():
    store = new_store()
    for value in (1.0, math.inf):
        with store.transaction("step"):
            zarr.create_array(store, name="a", shape=1, dtype="f8", overwrite=True)[...] = value
    assert json.loads(store.diff(values=True).to_json().text)["arrays"][0]["max_abs"] == "inf"


def test_a_version_that_names_nothing_is_refused(store: IcechunkStore):
    with pytest.raises(UnknownVersionError):
        store.diff("HEAD", "mian")
