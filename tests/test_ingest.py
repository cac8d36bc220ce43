"""A dataset that went through preprocess_dataset, batch by batch, comes back from the store value for value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dask
import hypothesis.strategies as st
import icechunk
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp

from icemagic.config import Config
from icemagic.errors import ConfigError, DatasetError
from icemagic.ingest import preprocess_dataset
from icemagic.store import IcechunkStore

SIDS = ["G01|L1|C", "G01|L2|W", "E02|L1|C", "E02|L5|Q", "R03|L1|C"]
START = np.datetime64("2025-01-01", "ns")
SMALL = Config(chunk_strategies={"rinex": {"epoch": 4, "sid": -1}})


def observations(seconds: Any = (0, 5, 10), sids: Any = ("G01|L1|C", "E02|L1|C"), unit: str = "ns") -> xr.Dataset:
    """Return a small dataset in which every cell's value is known from its labels."""
    seconds = np.asarray(seconds)
    epochs = (START + (seconds * 1e9).astype("m8[ns]")).astype(f"M8[{unit}]")
    cells = np.add.outer(seconds * 10.0, [SIDS.index(sid) if sid in SIDS else 9 for sid in sids])
    return xr.Dataset(
        {"SNR": (("epoch", "sid"), cells.astype("f4")), "Pseudorange": (("epoch", "sid"), cells * 1e7 / 3)},
        {"epoch": epochs, "sid": np.array(sids)},
        {"station": "Rosalia"},
    )


def write(ds: xr.Dataset, store: Any, **how: Any) -> None:
    """Write as a user does, without the consolidated metadata that Zarr v3 warns of and icechunk does without."""
    ds.to_zarr(store, consolidated=False, **how)


def append(batches: list[xr.Dataset], store: Any, **prepare: Any) -> None:
    """Write the first batch and append the others, each prepared for the store."""
    for i, batch in enumerate(batches):
        ds = preprocess_dataset(batch, store=store, **(prepare if i == 0 else {}))
        write(ds, store, **({"append_dim": "epoch"} if i else {"mode": "a"}))


def read(store: Any, group: str | None = None) -> xr.Dataset:
    return xr.open_zarr(store, group=group, consolidated=False, chunks=None)


# ---------------------------------------------------------------------------------------------- value for value


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[xr.Dataset], xr.Dataset]:
    """Draw batches as bad as real ones, and the one dataset that they are parts of, built with NumPy alone."""
    seconds = np.sort(draw(hnp.arrays("i8", st.integers(1, 12), elements=st.integers(0, 10**6), unique=True)))
    fraction = draw(st.sampled_from([0, 1, 250_000_000, 999_999_999]))
    epochs = START + seconds.astype("m8[s]") + np.timedelta64(fraction, "ns")
    shape = (len(epochs), len(SIDS))
    truth = {
        "SNR": draw(hnp.arrays("f4", shape, elements=st.floats(width=32, allow_subnormal=False))),
        "Phase": draw(hnp.arrays("f8", shape, elements=st.floats(allow_subnormal=False))),
        "seen": draw(hnp.arrays("i8", shape, elements=st.integers(0, 2**62) | st.just(-(2**63)))).view("M8[ns]"),
    }
    note = np.array(draw(st.lists(st.text("abc|é", max_size=12), min_size=len(epochs), max_size=len(epochs))))
    cuts = sorted(draw(st.sets(st.integers(1, len(epochs)), max_size=3)) | {len(epochs)})
    batches = []
    for start, stop in zip([0, *cuts], cuts, strict=False):
        columns = draw(st.permutations(range(len(SIDS))))
        columns = np.array(columns[: draw(st.integers(1, len(SIDS)))])
        absent = np.setdiff1d(np.arange(len(SIDS)), columns)
        for name, values in truth.items():
            values[start:stop, absent] = "NaT" if name == "seen" else np.nan
        rows = np.array(draw(st.permutations([*range(start, stop), *draw(st.lists(st.integers(start, stop - 1)))])))
        batch = xr.Dataset(
            {name: (("epoch", "sid"), values[np.ix_(rows, columns)]) for name, values in truth.items()},
            {"epoch": epochs[rows], "sid": np.array(SIDS)[columns], "note": ("epoch", note[rows])},
        )
        if fraction == 0:
            batch = batch.assign_coords(epoch=batch["epoch"].values.astype(f"M8[{draw(st.sampled_from(['s', 'us']))}]"))
        elif draw(st.booleans()):
            batch = batch.chunk({"epoch": draw(st.integers(1, 5))})
        batches.append(batch)
    expected = xr.Dataset(
        {name: (("epoch", "sid"), values) for name, values in truth.items()},
        {"epoch": epochs, "sid": np.array(SIDS), "note": ("epoch", note)},
    )
    return batches, expected


@settings(max_examples=30, deadline=None)
@given(histories())
def test_batches_in_any_order_with_repeats_and_subsets_read_back_value_for_value(
    history: tuple[list[xr.Dataset], xr.Dataset],
) -> None:
    batches, expected = history
    store = zarr.storage.MemoryStore()
    for i, batch in enumerate(batches):
        ds = preprocess_dataset(batch, sid=SIDS if i == 0 else None, store=store, config=SMALL)
        write(ds, store, **({"append_dim": "epoch"} if i else {"mode": "a"}))
    found = read(store)
    assert {name: v.dtype for name, v in found.items()} == {name: v.dtype for name, v in expected.items()}
    xr.testing.assert_identical(found, expected)


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays("i8", st.integers(1, 8), elements=st.integers(0, 4)),
    st.data(),
)
def test_repeated_epochs_are_dropped_exactly_when_pandas_calls_the_rows_duplicates(
    seconds: np.ndarray[Any, Any], data: st.DataObject
) -> None:
    values = data.draw(hnp.arrays("f8", (len(seconds), 2), elements=st.sampled_from([1.0, np.nan])))
    raw = observations(seconds)
    raw["SNR"] = ("epoch", "sid"), values
    raw = raw.drop_vars("Pseudorange")
    rows = pd.DataFrame(values, index=raw["epoch"].values).rename_axis("epoch").reset_index().drop_duplicates()
    if rows["epoch"].is_unique:
        expected = rows.sort_values("epoch").set_index("epoch")
        found = preprocess_dataset(raw)
        np.testing.assert_array_equal(found["epoch"].values, expected.index.values)
        np.testing.assert_array_equal(found["SNR"].values, expected.values)
    else:
        with pytest.raises(DatasetError, match="more than once with different SNR"):
            preprocess_dataset(raw)


def test_real_hours_of_both_receivers_equal_the_source_at_every_version(shared_data: Path) -> None:
    repo = icechunk.Repository.create(icechunk.in_memory_storage())
    two_hours = Config(chunk_strategies={"rinex": {"epoch": 1440, "sid": -1}})
    sources = {
        name: xr.open_dataset(shared_data / f"rosalia_{name}_2025-001_00-06h.nc") for name in ("canopy", "reference")
    }
    hours = [slice(f"2025-01-01T{hour:02}:00:00", f"2025-01-01T{hour:02}:59:59") for hour in range(6)]
    versions = []
    for i, hour in enumerate(hours):
        session = repo.writable_session("main")
        for group, source in sources.items():
            batch = source.sel(epoch=hour)
            heard = np.isfinite(batch["SNR"]).any("epoch").values
            sid = source["sid"].values if i == 0 else None
            ds = preprocess_dataset(batch.isel(sid=heard), store=session.store, group=group, sid=sid, config=two_hours)
            assert ds.sizes == {"epoch": 720, "sid": source.sizes["sid"]}
            assert not heard.all()
            write(ds, session.store, group=group, **({"append_dim": "epoch"} if i else {"mode": "a"}))
        versions.append((session.commit(f"hour {i}"), hour.stop))
    for version, end in versions:
        store = repo.readonly_session(snapshot_id=version).store
        for group, source in sources.items():
            found = read(store, group)
            xr.testing.assert_identical(found, source.sel(epoch=slice(None, end)))
            assert {name: v.dtype for name, v in found.items()} == {name: v.dtype for name, v in source.items()}
    # Every second hour fills the chunk that the one before began.
    assert zarr.open_array(store, path="canopy/SNR", mode="r").chunks == (1440, 295)
    assert zarr.open_array(store, path="canopy/epoch", mode="r").nchunks == 3


# ---------------------------------------------------------------------------------------------- what the source brings


def test_the_encodings_of_a_netcdf_file_do_not_reach_the_store(tmp_path: Path) -> None:
    raw = observations().assign(lock=(("epoch", "sid"), np.ones((3, 2), "i2")))
    how = {"zlib": True, "complevel": 5, "chunksizes": (1, 2), "dtype": "i2", "scale_factor": 0.1, "_FillValue": -1}
    raw.to_netcdf(tmp_path / "raw.nc", encoding={"SNR": how, "epoch": {"units": "seconds since 2024-01-01"}})
    with xr.open_dataset(tmp_path / "raw.nc") as opened:
        store = zarr.storage.MemoryStore()
        ds = preprocess_dataset(opened)
        write(ds, store, mode="a")
        xr.testing.assert_identical(read(store), opened)
    assert ds.encoding == {}
    assert set(ds["SNR"].encoding) == {"chunks"}
    assert "zlib" in opened["SNR"].encoding
    assert zarr.open_array(store, path="SNR", mode="r").dtype == ds["SNR"].dtype
    assert "source" not in str(read(store).attrs)


@pytest.mark.parametrize(
    "labels",
    [
        np.array(["G01|L1|C", "E02|L1|C"]),
        np.array(["G01|L1|C", "E02|L1|C"], dtype=object),
        np.array(["G01|L1|C", "E02|L1|C"], dtype="S8"),
        np.array(["G01|L1|C", "E02|L1|C"], dtype=np.dtypes.StringDType()),
        pd.Index(["G01|L1|C", "E02|L1|C"], dtype="str"),
        pd.CategoricalIndex(["G01|L1|C", "E02|L1|C"]),
    ],
    ids=["U8", "object", "bytes", "StringDType", "pandas str", "categorical"],
)
def test_labels_of_any_string_type_are_stored_at_variable_length(labels: Any) -> None:
    store = zarr.storage.MemoryStore()
    raw = observations().assign_coords(sid=labels)
    append([raw, raw.assign_coords(epoch=raw["epoch"] + np.timedelta64(1, "h"))], store)
    stored = zarr.open_array(store, path="sid", mode="r")
    assert stored.dtype == np.dtypes.StringDType()
    assert list(stored[:]) == ["G01|L1|C", "E02|L1|C"]


def test_a_later_batch_may_bring_longer_strings() -> None:
    store = zarr.storage.MemoryStore()
    batches = [observations([t]).assign(note=("epoch", [text])) for t, text in ((0, "ok"), (5, "cycle slip on G01"))]
    append(batches, store)
    assert list(read(store)["note"].values) == ["ok", "cycle slip on G01"]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_sub_second_epochs_are_exact_after_whole_seconds_of_any_resolution(unit: str) -> None:
    store = zarr.storage.MemoryStore()
    late = observations([10, 10.000000001, 86400 * 365 * 100])
    append([observations(unit=unit), late], store)
    expected = np.concatenate([observations()["epoch"].values, late["epoch"].values])
    np.testing.assert_array_equal(read(store)["epoch"].values, expected)


def test_a_time_outside_the_range_of_nanoseconds_is_refused() -> None:
    far = observations([0]).assign_coords(epoch=np.array(["3000-01-01"], "M8[s]"))
    with pytest.raises(DatasetError, match=r"'epoch' holds times that datetime64\[ns\] cannot: 3000-01-01"):
        preprocess_dataset(far)


def test_durations_are_stored_exactly_with_a_gap() -> None:
    store = zarr.storage.MemoryStore()
    first = observations().assign(age=("epoch", np.array([1, "NaT", 10**6], "m8[s]"), {"units": "s"}))
    second = observations([20, 25, 30]).assign(age=("epoch", np.array([1, 2, 3], "m8[ns]")))
    append([first, second], store)
    found = read(store)["age"].values
    np.testing.assert_array_equal(found, np.array([10**9, "NaT", 10**15, 1, 2, 3], "m8[ns]"))


# ---------------------------------------------------------------------------------------------- fitting what is stored


def test_signals_are_put_in_the_stored_order_and_the_record_says_so() -> None:
    store = zarr.storage.MemoryStore()
    append([observations([0], SIDS)], store)
    ds = preprocess_dataset(observations([5], ["E02|L1|C", "G01|L1|C"]), store=store)
    assert list(ds["sid"].values) == SIDS
    assert {"sid put in the order of the index", "sid padded from 2 to 5"} <= set(ds.ice.prepared.changes)
    np.testing.assert_array_equal(ds["SNR"].values, [[50, np.nan, 52, np.nan, np.nan]])
    ds = preprocess_dataset(observations([5], SIDS[::-1]), store=store)
    assert "sid put in the order of the index" in ds.ice.prepared.changes
    np.testing.assert_array_equal(ds["SNR"].values, observations([5], SIDS)["SNR"].values)


def test_without_an_index_the_signals_keep_their_order() -> None:
    backwards = SIDS[::-1]
    assert list(preprocess_dataset(observations(sids=backwards))["sid"].values) == backwards
    store = zarr.storage.MemoryStore()
    assert list(preprocess_dataset(observations(sids=backwards), store=store)["sid"].values) == backwards
    append([observations(sids=SIDS)], store)
    other_group = preprocess_dataset(observations(sids=backwards), store=store, group="a/b")
    assert list(other_group["sid"].values) == backwards


def test_a_signal_that_the_index_lacks_is_refused_by_name_and_not_dropped() -> None:
    with pytest.raises(DatasetError, match=r"2 signals .* not in the index of 1: E02\|L1\|C, R03\|L1\|C"):
        preprocess_dataset(observations(sids=["E02|L1|C", "G01|L1|C", "R03|L1|C"]), sid=["G01|L1|C"])


def test_a_given_index_other_than_the_stored_one_is_refused() -> None:
    store = zarr.storage.MemoryStore()
    append([observations(sids=SIDS)], store)
    for other in (SIDS[::-1], [*SIDS, "S36|L1|C"]):
        with pytest.raises(DatasetError, match="is not the one stored in the root group"):
            preprocess_dataset(observations([20]), store=store, sid=other)
    preprocess_dataset(observations([20]), store=store, sid=SIDS)


def test_within_a_transaction_the_dataset_is_fitted_to_its_store_and_group() -> None:
    store = IcechunkStore.open_or_create("memory:ingest-active")
    with store.transaction("begin"):
        write(preprocess_dataset(observations(sids=SIDS)), store, group="canopy", mode="a")
        # What the transaction itself wrote counts already.
        ds = preprocess_dataset(observations([20], ["E02|L1|C"]), group="canopy")
        write(ds, store, group="canopy", append_dim="epoch")
    assert ds.sizes["sid"] == len(SIDS)
    assert preprocess_dataset(observations([20], ["E02|L1|C"]), group="canopy").sizes["sid"] == 1
    assert read(store, "canopy").sizes == {"epoch": 4, "sid": 5}


def test_padding_leaves_what_describes_the_absent_signals() -> None:
    store = zarr.storage.MemoryStore()
    whole = observations(sids=SIDS).assign_coords(
        band=("sid", ["L1", "L2", "L1", "L5", "L1"]),
        channel=("sid", np.arange(5, dtype="i2")),
        wave=("sid", np.arange(5) / 3),
    )
    part = whole.isel(sid=[3, 1]).assign_coords(epoch=observations([20, 25, 30])["epoch"])
    append([whole, part.assign_coords(wave=part["wave"].astype("f4"))], store)
    found = read(store)
    np.testing.assert_array_equal(found["wave"].values[[0, 2, 4]], np.array([0, 2, 4]) / 3)
    assert list(found["band"].values) == ["L1", "L2", "L1", "L5", "L1"]
    np.testing.assert_array_equal(found["channel"].values, np.arange(5))
    assert found["channel"].dtype == np.dtype("i2")


def test_padded_times_keep_the_encoding_in_which_they_are_exact() -> None:
    store = zarr.storage.MemoryStore()
    hour = np.timedelta64(1, "h").astype("m8[ns]")
    first = observations([0], SIDS[:2]).assign(sent=(("epoch", "sid"), np.array([["2025-01-01"] * 2], "M8[ns]")))
    second = first.assign(sent=first["sent"] + np.timedelta64(1, "ns")).assign_coords(epoch=first["epoch"] + hour)
    append([first, second], store, sid=SIDS)
    midnight = np.datetime64("2025-01-01", "ns")
    expected = [[midnight] * 2 + ["NaT"] * 3, [midnight + np.timedelta64(1, "ns")] * 2 + ["NaT"] * 3]
    np.testing.assert_array_equal(read(store)["sent"].values, np.array(expected, "M8[ns]"))


@pytest.mark.parametrize("dtype", ["i4", "u1", "?"])
def test_what_cannot_hold_nan_is_padded_only_after_a_conversion(dtype: str) -> None:
    raw = observations()
    raw["lli"] = ("epoch", "sid"), np.ones((3, 2), dtype)
    np.testing.assert_array_equal(preprocess_dataset(raw)["lli"].values, raw["lli"].values)
    with pytest.raises(DatasetError, match=r"'lli' .* cannot hold NaN for the 3 absent signals"):
        preprocess_dataset(raw, sid=SIDS)
    assert np.isnan(preprocess_dataset(raw.assign(lli=raw["lli"].astype("float64")), sid=SIDS)["lli"].values).sum() == 9


def test_values_that_the_stored_array_would_round_are_refused() -> None:
    store = zarr.storage.MemoryStore()
    append([observations()], store)
    later = observations([20])
    with pytest.raises(DatasetError, match=r"'SNR' \(float64\) would be rounded: the store holds it as float32"):
        preprocess_dataset(later.assign(SNR=later["SNR"].astype("f8")), store=store)
    write(
        preprocess_dataset(later.assign(Pseudorange=later["Pseudorange"].astype("f4")), store=store),
        store,
        append_dim="epoch",
    )


def test_epochs_that_the_units_of_a_foreign_store_cannot_hold_are_refused() -> None:
    store = zarr.storage.MemoryStore()
    foreign = preprocess_dataset(observations())
    foreign["epoch"].encoding = {"units": "seconds since 2025-01-01", "dtype": "int64"}
    write(foreign, store, mode="w")
    with pytest.raises(DatasetError, match=r"'epoch' .* would be rounded: the store holds it as seconds since"):
        preprocess_dataset(observations([20.5]), store=store)
    append_one = preprocess_dataset(observations([20, 3600 * 24 * 40]), store=store)
    write(append_one, store, append_dim="epoch")
    np.testing.assert_array_equal(read(store)["epoch"].values, observations([0, 5, 10, 20, 3600 * 24 * 40])["epoch"])


def test_epochs_that_are_stored_already_are_counted_in_the_record() -> None:
    store = zarr.storage.MemoryStore()
    append([observations()], store)
    changes = preprocess_dataset(observations([5, 7, 10]), store=store).ice.prepared.changes
    assert "2 of the epochs are stored already; an append belongs after 2025-01-01T00:00:10.000000000" in changes
    assert preprocess_dataset(observations([11]), store=store).ice.prepared.changes == ()


def test_variables_that_an_append_would_leave_short_are_named_in_the_record() -> None:
    store = zarr.storage.MemoryStore()
    append([observations()], store)
    other = observations([20]).rename(Pseudorange="Phase")
    changes = preprocess_dataset(other, store=store).ice.prepared.changes
    assert changes == ("Phase, Pseudorange: not both here and stored; an append needs the same variables",)


# ---------------------------------------------------------------------------------------------- chunks, dask, no copies


def test_chunks_are_those_of_the_kind_on_every_variable_and_coordinate() -> None:
    config = Config(chunk_strategies={"rinex": {"epoch": 34560, "sid": -1}, "vod": {"epoch": 7, "sid": 1}})
    raw = observations().expand_dims(band=[1, 2])
    assert preprocess_dataset(raw, config=config).ice.prepared.chunks == {
        "SNR": (2, 34560, 2), "Pseudorange": (2, 34560, 2), "epoch": (34560,), "sid": (2,), "band": (2,)
    }  # fmt: skip
    store = zarr.storage.MemoryStore()
    write(preprocess_dataset(raw, "vod", config=config), store)
    assert zarr.open_array(store, path="SNR", mode="r").chunks == (2, 7, 1)
    assert zarr.open_array(store, path="epoch", mode="r").chunks == (7,)
    with pytest.raises(ConfigError, match="vodd"):
        preprocess_dataset(raw, "vodd", config=config)


def test_dask_arrays_stay_lazy_and_fill_the_stored_chunks() -> None:
    store = zarr.storage.MemoryStore()
    source = observations(np.arange(30), SIDS)
    for start, stop in ((0, 3), (3, 17), (17, 30)):
        batch = source.isel(epoch=slice(start, stop), sid=[0, 2, 3]) if start else source.isel(epoch=slice(stop))
        with dask.config.set(scheduler=refuse_to_compute):
            # The chunks of the first write stay, whatever the configuration says by then.
            ds = preprocess_dataset(batch.chunk(epoch=2), store=store, config=Config() if start else SMALL)
        assert ds["SNR"].chunks is not None
        assert ds["SNR"].encoding["chunks"] == (4, 5)
        write(ds, store, **({"append_dim": "epoch"} if start else {"mode": "a"}))
    found = read(store)
    xr.testing.assert_equal(found.isel(sid=[0, 2, 3]), source.isel(sid=[0, 2, 3]))
    assert np.isnan(found.isel(epoch=slice(3, None), sid=[1, 4])["SNR"].values).all()


def refuse_to_compute(*args: Any, **kwargs: Any) -> None:
    raise AssertionError("something was computed")


def test_what_needs_no_change_is_neither_loaded_nor_copied(tmp_path: Path) -> None:
    raw = observations()
    assert np.shares_memory(preprocess_dataset(raw)["SNR"].values, raw["SNR"].values)
    assert np.shares_memory(preprocess_dataset(raw, sid=raw["sid"].values)["SNR"].values, raw["SNR"].values)
    raw.isel(epoch=[2, 0, 1]).to_netcdf(tmp_path / "raw.nc")
    with xr.open_dataset(tmp_path / "raw.nc") as opened:
        ds = preprocess_dataset(opened)
        assert not ds["SNR"].variable._in_memory
        xr.testing.assert_equal(ds, raw)


def test_the_dataset_that_was_given_stays_as_it_was() -> None:
    raw = observations([5, 0, 0], SIDS[:2], unit="s").assign(note=("epoch", ["b", "a", "a"]))
    raw["epoch"].attrs["units"] = "UTC"
    raw["SNR"].encoding = {"zlib": True}
    before, encoding = raw.copy(deep=True), dict(raw["SNR"].encoding)
    ds = preprocess_dataset(raw, sid=SIDS)
    ds["SNR"][:] = 0
    ds["SNR"].attrs["x"] = 1
    xr.testing.assert_identical(raw, before)
    assert raw["SNR"].encoding == encoding
    assert raw["epoch"].dtype == np.dtype("M8[s]")


def test_a_prepared_dataset_prepared_again_is_the_same() -> None:
    once = preprocess_dataset(observations([5, 0, 0]), sid=SIDS)
    twice = preprocess_dataset(once, sid=SIDS)
    xr.testing.assert_identical(twice, once)
    assert {n: v.encoding for n, v in twice.variables.items()} == {n: v.encoding for n, v in once.variables.items()}


# ---------------------------------------------------------------------------------------------- the record


def test_the_record_says_what_was_changed_and_belongs_to_one_object_only() -> None:
    raw = observations([5, 0, 0])
    raw["epoch"].attrs["units"] = "UTC"
    raw["SNR"].encoding = {"zlib": True}
    ds = preprocess_dataset(raw, sid=SIDS)
    assert ds.ice.prepared.changes == (
        "epoch: attributes units dropped; the encoding of times has them",
        "encodings of the source dropped: zlib",
        "1 row dropped that repeated an epoch with the same values",
        "epochs sorted",
        "sid padded from 2 to 5",
    )
    assert "Prepared for rinex: 2 epochs × 5 sids" in repr(ds.ice.prepared)
    assert "epochs sorted" in ds.ice.prepared._repr_html_()
    assert not {"icemagic", "prepared"} & (set(ds.attrs) | set(ds.encoding))
    for other in (raw, ds.copy(), ds.isel(epoch=[0]), ds.drop_vars("SNR")):
        with pytest.raises(DatasetError, match="no record"):
            _ = other.ice.prepared


# ---------------------------------------------------------------------------------------------- one clear sentence each


def plain() -> xr.Dataset:
    return observations()


BAD: dict[str, tuple[Any, str]] = {
    "a DataArray": (lambda: plain()["SNR"], "takes a Dataset; this is the DataArray 'SNR'"),
    "a list": (lambda: [1, 2], "takes an xarray.Dataset, not list"),
    "epochs of another name": (lambda: plain().rename(epoch="time"), "no dimension 'epoch'; it has 'time', 'sid'"),
    "one signal": (lambda: plain().isel(sid=0), "no dimension 'sid'"),
    "signals without labels": (lambda: plain().drop_vars("sid"), "'sid' has no labels"),
    "no epochs": (lambda: plain().isel(epoch=slice(0)), "empty: 'epoch' has length 0"),
    "no signals": (lambda: plain().isel(sid=slice(0)), "empty: 'sid' has length 0"),
    "no variables": (lambda: plain()[["epoch", "sid"]], "no data variables"),
    "numbered epochs": (lambda: plain().assign_coords(epoch=[1, 2, 3]), "'epoch' must be datetime64"),
    "spelled epochs": (lambda: plain().assign_coords(epoch=["2025", "2026", "2027"]), "'epoch' must be datetime64"),
    "a time zone": (
        lambda: plain().assign_coords(epoch=pd.date_range("2025", periods=3, tz="CET")),
        "'epoch' must be datetime64 without time zone; it is",
    ),
    "NaT": (
        lambda: plain().assign_coords(epoch=np.array(["2025", "NaT", "NaT"], "M8[ns]")),
        "2 of 3 epochs are NaT",
    ),
    "a signal twice": (
        lambda: plain().assign_coords(sid=["G01", "G01"]),
        "'sid' of the dataset has G01 more than once",
    ),
    "numbered signals": (lambda: plain().assign_coords(sid=[1, 2]), "'sid' must hold strings"),
    "a nameless signal": (
        lambda: plain().assign_coords(sid=np.array(["G01", None], dtype=object)),
        "'sid' should hold strings, but has nan",
    ),
    "bytes": (lambda: plain().assign_coords(sid=np.array([b"G01", b"\xff"])), "'sid' holds bytes that are not ASCII"),
    "mixed objects": (
        lambda: plain().assign(x=("sid", np.array(["a", 1.5], dtype=object))),
        "'x' should hold strings, but has 1.5",
    ),
    "a MultiIndex": (
        lambda: plain().assign_coords(xr.Coordinates.from_pandas_multiindex(pd.MultiIndex.from_tuples([(1, 2)]), "k")),
        "'k' is a MultiIndex",
    ),
    "an epoch with two values": (
        lambda: plain().isel(epoch=[0, 1, 1]).assign(x=("epoch", [1.0, 2.0, 3.0])),
        "more than once with different x: 2025-01-01T00:00:05",
    ),
    "an epoch with a value and a gap": (
        lambda: plain().isel(epoch=[0, 1, 1]).assign(x=("epoch", [1.0, 2.0, np.nan])),
        "more than once with different x: 2025-01-01T00:00:05",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_stored_is_refused_in_one_sentence_with_a_hint(case: str) -> None:
    bad, sentence = BAD[case]
    with pytest.raises(DatasetError) as caught:
        preprocess_dataset(bad())
    assert sentence in caught.value.message
    assert caught.value.message.endswith(".")
    assert caught.value.hint


@pytest.mark.parametrize(
    ("sid", "sentence"),
    [("G01|L1|C", "is one string"), (["a", "a"], "has a more than once"), ([1], "has 1, which is not a string")],
)
def test_an_index_that_cannot_be_one_is_refused(sid: Any, sentence: str) -> None:
    with pytest.raises(DatasetError, match=sentence):
        preprocess_dataset(observations(), sid=sid)


@pytest.mark.parametrize(
    ("case", "remedy"),
    [
        ("spelled epochs", "ds.assign_coords("),
        ("a time zone", "ds.assign_coords("),
        ("NaT", "ds.isel("),
        ("a signal twice", "ds.drop_duplicates("),
        ("a MultiIndex", "ds.reset_index("),
        ("an epoch with two values", "ds.drop_duplicates("),
        ("an epoch with a value and a gap", "ds.groupby("),
    ],
)
def test_what_a_hint_says_works_as_it_stands(case: str, remedy: str) -> None:
    bad, _ = BAD[case]
    with pytest.raises(DatasetError) as caught:
        preprocess_dataset(bad())
    code = caught.value.hint[caught.value.hint.index(remedy) :].split(" keeps")[0].split(" the first")[0].rstrip(".")
    preprocess_dataset(eval(code, {"ds": bad(), "pd": pd}))  # noqa: S307  the hint is ours


def test_the_place_of_the_store_picks_the_chunk_strategy(tmp_path):
    config = Config(chunk_strategies={"rinex": {"epoch": 100, "sid": -1}, "vod": {"epoch": 7, "sid": 1}})
    for kind, expected in (("vod", (7, 1)), ("rinex", (100, 2)), ("other", (100, 2))):
        store = IcechunkStore.create(tmp_path / "stores" / "rosalia" / kind, config=config)
        with store.transaction("first"):
            made = preprocess_dataset(observations())
            made.to_zarr(store)
        assert made.ice.prepared.chunks["SNR"] == expected
        assert zarr.open_array(store, path="SNR", mode="r").chunks == expected
    assert preprocess_dataset(observations(), "rinex", store=store, config=config).ice.prepared.kind == "rinex"
