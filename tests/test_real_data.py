"""Real observations of two receivers, ingested hour by hour: every version gives back the source, value for value."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from icemagic import IcechunkStore, preprocess_dataset

RECEIVERS = ("canopy", "reference")
HOURS = 6
STEPS = 720  # epochs in an hour, one every 5 s


@pytest.fixture(scope="module")
def sources(shared_data: Path) -> dict[str, xr.Dataset]:
    """Return the files as they are, read into memory."""
    found = {}
    for receiver in RECEIVERS:
        with xr.open_dataset(shared_data / f"rosalia_{receiver}_2025-001_00-06h.nc", engine="h5netcdf") as ds:
            found[receiver] = ds.load()
    return found


@pytest.fixture(scope="module")
def store(sources: dict[str, xr.Dataset], tmp_path_factory: pytest.TempPathFactory) -> IcechunkStore:
    """Return a store with six commits, an hour of both receivers each."""
    store = IcechunkStore.create(tmp_path_factory.mktemp("stores") / "rosalia" / "rinex")
    for hour in range(HOURS):
        with store.transaction(f"hour {hour}"):
            for receiver, source in sources.items():
                part = source.isel(epoch=slice(hour * STEPS, (hour + 1) * STEPS))
                ready = preprocess_dataset(part, store=store, group=receiver)
                ready.to_zarr(store, group=receiver, **({"append_dim": "epoch"} if hour else {"mode": "a"}))
    return store


def assert_same(found: xr.Dataset, source: xr.Dataset) -> None:
    """Refuse any difference of names, dimensions, dtypes, values (NaN where NaN was) and attributes of variables."""
    assert set(found.variables) == set(source.variables)
    assert dict(found.sizes) == dict(source.sizes)
    for name, expected in source.variables.items():
        variable = found.variables[name]
        assert variable.dims == expected.dims, name
        if expected.dtype.kind in "OUT":
            assert variable.values.tolist() == expected.values.tolist(), name
            continue
        assert variable.dtype == expected.dtype, name
        np.testing.assert_array_equal(variable.values, expected.values, err_msg=str(name))
        assert variable.attrs == expected.attrs, name


def test_the_observations_bring_what_makes_ingest_hard(sources: dict[str, xr.Dataset]) -> None:
    canopy, reference = (sources[receiver] for receiver in RECEIVERS)
    assert canopy.sizes["epoch"] == reference.sizes["epoch"] == HOURS * STEPS
    assert set(canopy.sid.values) != set(reference.sid.values)
    assert all(ds.sid.dtype.kind in "OUT" for ds in sources.values())
    for ds in sources.values():
        missing = float(ds.SNR.isnull().mean())
        assert 0.1 < missing < 1


def test_every_version_gives_back_its_hours_value_for_value(
    store: IcechunkStore, sources: dict[str, xr.Dataset]
) -> None:
    versions = store.list_versions()
    assert [version.message for version in versions] == [f"hour {hour}" for hour in range(HOURS)]
    for hours, version in enumerate(versions, start=1):
        at = IcechunkStore.open(store.url, version=version)
        for receiver, source in sources.items():
            found = xr.open_zarr(at, group=receiver, chunks=None).load()
            assert_same(found, source.isel(epoch=slice(0, hours * STEPS)))


@pytest.mark.parametrize("receiver", RECEIVERS)
@pytest.mark.parametrize(("begin", "end"), [("01:30", "03:29:55"), ("00:59:55", "01:00"), ("05:59:55", "23:00")])
def test_a_time_range_reads_exactly_its_epochs(
    begin: str, end: str, receiver: str, store: IcechunkStore, sources: dict[str, xr.Dataset]
) -> None:
    span = slice(f"2025-01-01T{begin}", f"2025-01-01T{end}")
    found = xr.open_zarr(store, group=receiver).sel(epoch=span)
    expected = sources[receiver].sel(epoch=span)
    assert expected.sizes["epoch"] > 0
    assert_same(found.load(), expected)


def test_each_commit_changes_only_what_it_appended(store: IcechunkStore) -> None:
    for hour in range(1, HOURS):
        diff = store.diff(f"main~{HOURS - hour}", f"main~{HOURS - 1 - hour}")
        assert {array.status for array in diff.arrays if array.path.endswith(("SNR", "epoch"))} == {"resized"}
        assert diff.groups == {}
        for array in diff.arrays:
            for change in array.changes:
                assert change.what == "shape"
                assert change.after[0] - change.before[0] == STEPS


def test_the_receivers_meet_on_their_common_signals(store: IcechunkStore, sources: dict[str, xr.Dataset]) -> None:
    stored = {receiver: xr.open_zarr(store, group=receiver) for receiver in RECEIVERS}
    found, expected = (
        xr.merge([of[name].SNR.rename(name) for name in RECEIVERS], join="inner", compat="override")
        for of in (stored, sources)
    )
    assert found.sizes["sid"] > 0
    for name in RECEIVERS:
        np.testing.assert_array_equal(found[name].values, expected[name].values)


def test_a_shift_of_one_satellite_for_one_hour_is_said_in_words(sources: dict[str, xr.Dataset], tmp_path: Path) -> None:
    store = IcechunkStore.create(tmp_path / "store")
    ready = preprocess_dataset(sources["reference"])
    hour = slice("2025-01-01T02:00", "2025-01-01T02:59:55")
    seen = ready.SNR.sel(epoch=hour).notnull().all("epoch")
    signals = [sid for sid in ready.sid.values[seen.values] if sid.startswith("G09|")]
    assert len(signals) == 3
    with store.transaction("six hours"):
        ready.to_zarr(store)
    ready.SNR.loc[{"epoch": hour, "sid": signals}] += 2
    with store.transaction("calibrate G09"):
        ready[["SNR"]].drop_vars(["epoch", "sid"]).to_zarr(store, mode="r+")
    found = store.diff(values=True)
    (snr,) = found.arrays
    assert found.summary().startswith("1 array changed, 2,160 values, 1 chunk, ")
    place = f"epoch 2025-01-01T02:00 … 02:59:55, sid {signals[0]} … {signals[-1]}"
    assert snr.where() == [f"SNR changed for {place}: 2,160 values, by +2 dB-Hz on average"]
    assert (snr.nan_appeared, snr.nan_vanished) == (0, 0)
    assert snr.max_abs == pytest.approx(2, abs=1e-5)
    assert snr.max_at["sid"] in signals
    assert store.diff(atol=2.1).arrays[0].changed_values == 0
