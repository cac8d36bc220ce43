"""The made-up observations are the same everywhere and behave as a receiver's do."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from icemagic.errors import DatasetError
from icemagic.ingest import preprocess_dataset
from icemagic.sample import gnss_day, signals

SPEED_OF_LIGHT = 299_792_458.0
L1 = 1575.42e6


@pytest.fixture(scope="module")
def day() -> xr.Dataset:
    return gnss_day()


@pytest.fixture(scope="module")
def canopy() -> xr.Dataset:
    return gnss_day(receiver="canopy")


def digest(ds: xr.Dataset) -> str:
    """Hash every byte of a dataset: labels, values, the places of NaN."""
    made = hashlib.sha256()
    for name in sorted(map(str, ds.variables)):
        values = ds[name].values
        made.update(" ".join(values).encode() if values.dtype == object else values.tobytes())
    return made.hexdigest()[:16]


@pytest.mark.parametrize(("receiver", "expected"), [("reference", "78c721e8ce8bf39c"), ("canopy", "ee4ca6d3e942f37e")])
def test_the_same_arguments_give_the_same_bytes_on_every_machine(receiver: str, expected: str) -> None:
    assert digest(gnss_day("2025-01-01", receiver, interval="30s", hours=3, systems="GEC")) == expected


def test_another_seed_or_day_gives_other_values() -> None:
    one, other, next_day = gnss_day(hours=1), gnss_day(hours=1, seed=1), gnss_day("2025-01-02", hours=1)
    assert len({digest(one), digest(other), digest(next_day)}) == 3


def test_a_part_of_the_day_and_a_coarser_interval_are_parts_of_the_whole(day: xr.Dataset) -> None:
    part = gnss_day("2025-01-01T06:00", hours=1.5, interval="30s")
    xr.testing.assert_identical(part, day.sel(epoch=part["epoch"], sid=part["sid"]))
    left_out = day.sel(epoch=part["epoch"]).drop_sel(sid=part["sid"])
    assert np.isnan(left_out["SNR"].values).all()


def test_the_default_is_a_day_every_five_seconds_with_four_variables(day: xr.Dataset) -> None:
    assert day.sizes["epoch"] == 17_280
    assert 100 <= day.sizes["sid"] <= 300
    assert {str(name): (str(v.dtype), v.attrs["units"]) for name, v in day.items()} == {
        "SNR": ("float32", "dB-Hz"),
        "Pseudorange": ("float64", "m"),
        "Phase": ("float64", "cycles"),
        "Doppler": ("float32", "Hz"),
    }
    assert day["epoch"].values[-1] == np.datetime64("2025-01-01T23:59:55")
    assert "G01|L1|C" in day["sid"]


def test_the_two_receivers_hear_different_signals(day: xr.Dataset, canopy: xr.Dataset) -> None:
    ours, theirs = set(day["sid"].values), set(canopy["sid"].values)
    assert ours - theirs
    assert theirs - ours
    assert len(ours & theirs) > 100


@pytest.mark.parametrize("receiver", ["reference", "canopy"])
def test_the_index_of_signals_has_room_for_every_hour(receiver: str) -> None:
    index = list(signals(receiver, "GEC"))
    assert index == sorted(set(index))
    sizes = set()
    for hour in ("00", "07", "15"):
        heard = gnss_day(f"2025-03-01T{hour}:00", receiver, hours=1, interval="1min", systems="GEC")
        sizes.add(heard.sizes["sid"])
        assert list(preprocess_dataset(heard, sid=index)["sid"].values) == index
    assert len(sizes) > 1 or sizes < {len(index)}


def test_values_are_in_the_range_of_real_receivers(day: xr.Dataset, canopy: xr.Dataset) -> None:
    for ds in (day, canopy):
        assert 0.6 < np.isnan(ds["SNR"].values).mean() < 0.75
        assert 20 <= np.nanmin(ds["SNR"]) < np.nanmax(ds["SNR"]) <= 55
        assert np.nanmax(np.abs(ds["Doppler"])) < 5000
        gps = ds["Pseudorange"].values[:, ds["sid"].str.startswith("G")]
        assert 2.0e7 < np.nanmin(gps) < 2.1e7
        assert 2.5e7 < np.nanmax(gps) < 2.6e7
        # A multiple of a quarter is exact in binary, so this is no approximation.
        steps = ds["SNR"].values * 4
        assert np.array_equal(steps, np.rint(steps), equal_nan=True)


def test_satellites_rise_and_set_once_or_twice_a_day(day: xr.Dataset) -> None:
    heard = np.isfinite(day["SNR"].values[:, day["sid"].str.endswith("L1|C")])
    rises = (heard[1:] & ~heard[:-1]).sum(axis=0)
    assert set(rises) <= {0, 1, 2, 3}
    assert rises.mean() > 1
    assert (heard.sum(axis=0) * 5 / 3600 > 2).all()
    assert 12 < heard.sum(axis=1).mean() < 28


def test_phase_doppler_and_pseudorange_tell_of_one_motion(day: xr.Dataset) -> None:
    wave = SPEED_OF_LIGHT / L1
    for sid in ("G01|L1|C", "E05|L1|C"):
        one = day.sel(sid=sid)
        metres = one["Phase"].values * wave
        doppler = one["Doppler"].values.astype("f8")
        # Positive for an approaching satellite: minus the rate of the phase, to within the noise.
        rate = np.diff(metres) / 5
        assert np.nanmax(np.abs(rate + (doppler[1:] + doppler[:-1]) / 2 * wave)) < 0.2
        assert np.nanstd(rate) > 100
        # The ionosphere delays the code and advances the phase, a few metres; the ambiguity is constant.
        ambiguity = one["Pseudorange"].values - metres
        assert 1 < np.nanmax(ambiguity) - np.nanmin(ambiguity) < 40


def test_one_satellite_is_delayed_more_on_a_lower_frequency(day: xr.Dataset) -> None:
    delay = (day["Pseudorange"].sel(sid="G20|L5|Q") - day["Pseudorange"].sel(sid="G20|L1|C")).values
    assert 1 < np.nanmedian(delay) < 15


def test_the_canopy_weakens_signals_more_the_lower_the_satellite(day: xr.Dataset, canopy: xr.Dataset) -> None:
    both = [sid for sid in day["sid"].values if sid in canopy["sid"] and sid.endswith("L1|C")]
    lost = (day["SNR"].sel(sid=both) - canopy["SNR"].sel(sid=both)).values
    distance = day["Pseudorange"].sel(sid=both).values
    gps = [sid.startswith("G") for sid in both]
    high = lost[:, gps][distance[:, gps] < 2.1e7]
    low = lost[:, gps][distance[:, gps] > 2.4e7]
    assert 1 < np.nanmean(high) < np.nanmean(low) - 2
    assert np.nanmin(lost) > -4  # noise, and antennas of different make
    heard = [np.isfinite(ds["SNR"].sel(sid=both).values).sum() for ds in (day, canopy)]
    assert heard[1] < heard[0]


def test_a_weak_signal_loses_its_phase_before_its_code(canopy: xr.Dataset) -> None:
    code, phase = np.isfinite(canopy["Pseudorange"].values), np.isfinite(canopy["Phase"].values)
    assert not (phase & ~code).any()
    assert 0 < (code & ~phase).sum() < 0.1 * code.sum()


def test_it_resembles_the_real_receivers(shared_data: Path) -> None:
    for receiver in ("reference", "canopy"):
        made = gnss_day("2025-01-01", receiver, hours=6, interval="30s")
        with xr.open_dataset(shared_data / f"rosalia_{receiver}_2025-001_00-06h.nc") as opened:
            real = opened.isel(epoch=slice(None, None, 6), sid=[sid[0] in "GE" for sid in opened["sid"].values]).load()
        heard = [np.isfinite(ds["SNR"].values).sum(axis=1).mean() for ds in (made, real)]
        assert 0.7 < heard[0] / heard[1] < 1.5
        for share in (25, 50, 75):
            difference = np.nanpercentile(made["SNR"], share) - np.nanpercentile(real["SNR"], share)
            assert abs(difference) < 6
        for name in set(real.data_vars):
            assert made[name].dtype == real[name].dtype
            assert made[name].attrs["units"] == real[name].attrs["units"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"receiver": "canpy"}, "There is no receiver 'canpy'"),
        ({"systems": "GX"}, "systems='GX'"),
        ({"systems": ""}, "systems=''"),
        ({"date": "yesterday"}, "date='yesterday'"),
        ({"interval": "often"}, "interval='often'"),
        ({"interval": "0s"}, "every 0s"),
        ({"hours": 0}, "No epoch lies in 0 hours"),
        ({"hours": float("nan")}, "hours=nan"),
        ({"date": "NaT"}, "from NaT"),
    ],
)
def test_what_names_no_observations_is_refused_in_one_sentence(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DatasetError) as caught:
        gnss_day(**arguments)
    assert sentence in caught.value.message
    assert caught.value.hint
