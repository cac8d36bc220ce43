"""Makes GNSS observations that look like a receiver's, for tutorials and tests: no files, the same bytes everywhere.

Satellites move on circular orbits round the turning Earth: the user algorithm of IS-GPS-200 (table 20-IV) without
eccentricity and corrections. Seen from a station in a forest they rise and set, and each signal gives

- Pseudorange (RINEX 3.04, 3.2): distance, receiver clock, troposphere and ionosphere;
- Phase (3.3): the same in cycles, the ionosphere with the other sign, and an unknown whole number of cycles;
- Doppler (3.4): positive for an approaching satellite, so minus the rate of Phase;
- SNR: rises with the elevation. Below the canopy the vegetation optical depth tau along the slant path weakens it by
  ``10 log10(e) tau / cos(zenith angle)`` dB (Beer-Lambert; Humphrey and Frankenberg 2023, Biogeosciences 20, 1789).

Real constellations, relativity, light time and the curvature of the atmosphere are left out.

Numbers come from sums, products, quotients and square roots only, which IEEE 754 defines to the last bit, and noise
from a hash of seed, signal and epoch. So all machines make the same bytes (``numpy.sin`` would not), and a part of a
day is the same as that part of the whole day.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from icemagic.errors import DatasetError, did_you_mean

type Floats = NDArray[np.float64]

SPEED_OF_LIGHT = 299_792_458.0  # m/s
GRAVITY = 3.986005e14  # m3/s2, Earth's, with the next one as in IS-GPS-200
EARTH_RATE = 7.2921151467e-5 / (2 * math.pi)  # turns/s
LATITUDE, LONGITUDE, HEIGHT = 47.7 / 360, 16.3 / 360, 400.0  # turns and m: the Rosalia forest in Austria
ORIGIN = np.datetime64("2025-01-01", "ns")

MASK = 0.08716  # sine of 5 degrees of elevation, below which nothing is tracked
CODE_LIMIT, PHASE_LIMIT = 20.0, 24.0  # dB-Hz of SNR, below which the code or the phase is lost
DB_PER_TAU = 4.342944819  # 10 log10(e)


class Orbits(NamedTuple):
    """A constellation, evenly spread."""

    radius: float  # m
    inclination: float  # turns
    planes: int
    satellites: int


class Signal(NamedTuple):
    """What is sent on one band with one code."""

    name: str
    frequency: float  # Hz
    gain: float  # dB
    first: int = 1  # number of the first satellite that sends it


CONSTELLATIONS = {
    "G": Orbits(26_559_700.0, 55 / 360, 6, 31),
    "E": Orbits(29_599_800.0, 56 / 360, 3, 27),
    "C": Orbits(27_906_100.0, 55 / 360, 3, 27),
}
_GPS = (Signal("L1|C", 1575.42e6, 0), Signal("L2|W", 1227.6e6, -7), Signal("L2|L", 1227.6e6, -1, 8))
_GALILEO = (Signal("L1|C", 1575.42e6, 0), Signal("L5|Q", 1176.45e6, 2), Signal("L7|Q", 1207.14e6, 1))
_BEIDOU = (Signal("L2|I", 1561.098e6, -1), Signal("L6|I", 1268.52e6, 1), Signal("L7|I", 1207.14e6, 0, 17))
RECEIVERS: dict[str, dict[str, tuple[Signal, ...]]] = {
    "reference": {"G": (*_GPS, Signal("L5|Q", 1176.45e6, 2, 14)), "E": _GALILEO, "C": _BEIDOU},
    "canopy": {"G": _GPS, "E": (*_GALILEO, Signal("L8|Q", 1191.795e6, 3)), "C": _BEIDOU},
}
"""What each of the two receivers tracks. They are of different make, so that neither's signals include the other's."""
VARIABLES = {
    "SNR": (np.float32, {"units": "dB-Hz", "long_name": "signal to noise density ratio"}),
    "Pseudorange": (np.float64, {"units": "m"}),
    "Phase": (np.float64, {"units": "cycles", "long_name": "carrier phase"}),
    "Doppler": (np.float32, {"units": "Hz", "long_name": "Doppler shift, positive when approaching"}),
}


def signals(receiver: str = "reference", systems: str = "GE") -> tuple[str, ...]:
    """Return all signals that a receiver can track, sorted: the `sid` index that a store for it should begin with.

    Raises
    ------
    DatasetError
        For an unknown receiver or system.
    """
    sent = ((satellite, signal) for satellite, signals in _tracked(receiver, systems) for signal in signals)
    return tuple(sorted(f"{satellite.name}|{signal.name}" for satellite, signal in sent))


def gnss_day(
    date: str | np.datetime64 = "2025-01-01",
    receiver: str = "reference",
    *,
    interval: str = "5s",
    hours: float = 24.0,
    systems: str = "GE",
    seed: int = 0,
) -> xr.Dataset:
    """Return a day of observations: SNR, Pseudorange, Phase and Doppler over (epoch, sid).

    SNR (float32, dB-Hz, steps of 0.25), Pseudorange (float64, m), Phase (float64, cycles) and Doppler (float32, Hz) are
    NaN where a signal is not tracked, about 70 % of all cells. `epoch` is datetime64[ns]; `sid` holds ``SV|band|code``,
    sorted, of the signals that were tracked at least once, as in a converted RINEX file.

    Parameters
    ----------
    date : str or datetime64
        First epoch.
    receiver : {"reference", "canopy"}
        In the open or below the trees; they track different signals.
    interval : str
        Time between epochs, for example ``"5s"`` or ``"1min"``.
    hours : float
        Length.
    systems : str
        Letters of G (GPS), E (Galileo) and C (BeiDou).
    seed : int
        Another seed makes other noise.

    Raises
    ------
    DatasetError
        For an unknown receiver or system, or when no epoch lies in that time.
    """
    tracked = _tracked(receiver, systems)
    epochs = _epochs(date, interval, hours)
    t = (epochs - ORIGIN).astype(np.int64) / 1e9
    columns: dict[str, _Column] = {}
    for satellite, sent in tracked:
        view = _look(satellite, t)
        for signal in sent:
            column = _observe(view, signal, receiver, f"{seed}|{receiver}|{satellite.name}|{signal.name}", epochs)
            if column.rows.size:
                columns[f"{satellite.name}|{signal.name}"] = column
    sid = sorted(columns)
    variables = {}
    for name, (dtype, attrs) in VARIABLES.items():
        values = np.full((epochs.size, len(sid)), np.nan, dtype)
        for at, label in enumerate(sid):
            values[columns[label].rows, at] = columns[label].values[name]
        variables[name] = ("epoch", "sid"), values, attrs
    about = {"title": f"made-up observations, {receiver} receiver", "source": "icemagic.sample"}
    return xr.Dataset(variables, {"epoch": epochs, "sid": np.array(sid, dtype=object)}, about)


class _Satellite(NamedTuple):
    name: str
    orbits: Orbits
    at: int  # place in its constellation, from 0


class _View(NamedTuple):
    """A satellite as seen from the station, while it is above the mask."""

    rows: NDArray[np.intp]
    t: Floats  # s since ORIGIN
    rise: Floats  # sine of the elevation
    east: Floats  # of the unit vector towards it
    north: Floats
    distance: Floats  # m
    rate: Floats  # m/s


class _Column(NamedTuple):
    """The observations of one signal, while it is tracked."""

    rows: NDArray[np.intp]
    values: dict[str, Floats]


def _tracked(receiver: str, systems: str) -> list[tuple[_Satellite, list[Signal]]]:
    """Return the satellites, each with its signals that the receiver tracks."""
    if receiver not in RECEIVERS:
        raise DatasetError(f"There is no receiver {receiver!r}.", did_you_mean(receiver, RECEIVERS))
    if not systems or set(systems) - set(CONSTELLATIONS):
        raise DatasetError(f"systems={systems!r} is not made of known letters.", "G is GPS, E Galileo, C BeiDou.")
    return [
        (
            _Satellite(f"{letter}{at + 1:02}", orbits, at),
            [signal for signal in RECEIVERS[receiver][letter] if at + 1 >= signal.first],
        )
        for letter, orbits in CONSTELLATIONS.items()
        if letter in systems
        for at in range(orbits.satellites)
    ]


def _epochs(date: str | np.datetime64, interval: str, hours: float) -> NDArray[np.datetime64]:
    try:
        step, start = pd.Timedelta(interval).to_timedelta64().astype("m8[ns]"), np.datetime64(date, "ns")
        length = np.timedelta64(round(hours * 3_600_000), "ms").astype("m8[ns]")
    except (ValueError, OverflowError) as error:
        hint = 'For example gnss_day("2025-01-01", interval="5s", hours=6).'
        raise DatasetError(
            f"date={date!r}, interval={interval!r}, hours={hours!r} is no time: {error}.", hint
        ) from None
    if not (step.astype(np.int64) > 0 and length.astype(np.int64) > 0 and not np.isnat(start)):
        msg = f"No epoch lies in {hours} hours from {date} every {interval}."
        raise DatasetError(msg, 'For example gnss_day("2025-01-01", interval="5s", hours=6).')
    return start + np.arange(0, length.astype(np.int64), step.astype(np.int64)).astype("m8[ns]")


def _sin_cos(turns: Floats) -> tuple[Floats, Floats]:
    """Return sine and cosine of an angle in turns, by Taylor series in the eighth of a turn round each quarter."""
    quarter = np.rint(turns * 4)
    x = (turns - quarter / 4) * (2 * math.pi)
    x2 = x * x
    sine, cosine = np.zeros_like(x), np.zeros_like(x)
    for n in range(16, -1, -2):
        cosine = 1 - cosine * x2 / ((n + 1) * (n + 2))
        sine = 1 - sine * x2 / ((n + 2) * (n + 3))
    sine = x * sine
    which = quarter.astype(np.int64) % 4
    odd = which % 2 == 1
    return (
        np.where(odd, cosine, sine) * np.where(which >= 2, -1.0, 1.0),  # noqa: PLR2004  the lower half of the circle
        np.where(odd, sine, cosine) * np.where((which == 1) | (which == 2), -1.0, 1.0),  # noqa: PLR2004  the left half
    )


def _look(satellite: _Satellite, t: Floats) -> _View:
    """Put a satellite on its orbit and look at it from the station."""
    orbits = satellite.orbits
    plane, slot = satellite.at % orbits.planes, satellite.at // orbits.planes
    motion = math.sqrt(GRAVITY / (orbits.radius * orbits.radius * orbits.radius)) / (2 * math.pi)
    # A third of a slot between neighbouring planes keeps the satellites from rising all at once.
    start = (slot + plane / 3) / math.ceil(orbits.satellites / orbits.planes)
    su, cu = _sin_cos(start + motion * t)
    so, co = _sin_cos(plane / orbits.planes - EARTH_RATE * t)
    (si, sp, sl), (ci, cp, cl) = _sin_cos(np.array([orbits.inclination, LATITUDE, LONGITUDE]))
    x, y, z = co * cu - so * su * ci, so * cu + co * su * ci, su * si
    # The station on the WGS 84 ellipsoid; its axes point up, east and north.
    curvature = 6_378_137.0 / np.sqrt(1 - 6.69437999014e-3 * sp * sp)
    here = (
        (curvature + HEIGHT) * cp * cl,
        (curvature + HEIGHT) * cp * sl,
        (curvature * (1 - 6.69437999014e-3) + HEIGHT) * sp,
    )
    dx, dy, dz = orbits.radius * x - here[0], orbits.radius * y - here[1], orbits.radius * z - here[2]
    distance = np.sqrt(dx * dx + dy * dy + dz * dz)
    rise = (cp * cl * dx + cp * sl * dy + sp * dz) / distance
    east = (cl * dy - sl * dx) / distance
    north = (cp * dz - sp * cl * dx - sp * sl * dy) / distance
    along, turning = 2 * math.pi * motion * orbits.radius, 2 * math.pi * EARTH_RATE * orbits.radius
    vx = along * (-co * su - so * cu * ci) + turning * y
    vy = along * (-so * su + co * cu * ci) - turning * x
    rate = (dx * vx + dy * vy + dz * along * cu * si) / distance
    rows = np.flatnonzero(rise > MASK)
    return _View(rows, t[rows], rise[rows], east[rows], north[rows], distance[rows], rate[rows])


def _observe(view: _View, signal: Signal, receiver: str, name: str, epochs: NDArray[np.datetime64]) -> _Column:
    """Return what a receiver makes of one signal."""
    key = _key(name)
    noise = _mix(_mix(epochs[view.rows].view(np.uint64)) ^ np.uint64(key))
    snr = 34 + signal.gain + 16 * view.rise * (2 - view.rise) + float(key % 9) / 4 - 1 + _triangle(noise, 0)
    low = 1 - view.rise
    snr += 1.5 * low * low * _sin_cos(9 * view.rise + float(key % 8) / 8)[0]  # reflections from the ground
    if receiver == "canopy":
        snr -= DB_PER_TAU * _optical_depth(view) / view.rise
    snr = np.rint(snr * 4) / 4
    day, daily = _sin_cos(view.t / 43_200 + float(_key(receiver) % 8) / 8)
    clock, clock_rate = 150 * day, 150 * daily * (2 * math.pi / 43_200)
    base = view.distance + clock + 2.4 / view.rise
    ionosphere = _ionosphere(view) * (1575.42e6 / signal.frequency) * (1575.42e6 / signal.frequency)
    wave = SPEED_OF_LIGHT / signal.frequency
    cycles = (base - ionosphere) / wave + float(key % 40_000_000) - 20_000_000 + 0.01 * _triangle(noise, 32)
    heard = snr >= CODE_LIMIT
    values = {
        "SNR": snr,
        "Pseudorange": np.round(base + ionosphere + 0.8 * _triangle(noise, 16), 3),
        "Phase": np.where(snr >= PHASE_LIMIT, np.round(cycles, 3), np.nan),
        "Doppler": np.round(0.2 * _triangle(noise, 48) - (view.rate + clock_rate) / wave, 3),
    }
    return _Column(view.rows[heard], {name: column[heard] for name, column in values.items()})


def _optical_depth(view: _View) -> Floats:
    """Return tau of the canopy: gaps and crowns round the receiver, and 5 % more water before dawn than after noon."""
    patches = _sin_cos(1.7 * view.east + 0.6 * view.north)[0] * _sin_cos(1.3 * view.north - 0.2)[1]
    water = _sin_cos((view.t - 4 * 3600) / 86_400)[1]
    return (0.6 + 0.35 * patches) * (1 + 0.05 * water)


def _ionosphere(view: _View) -> Floats:
    """Return the delay on L1 in m: a thin shell at 350 km with a bulge at 14 h local time."""
    _, bulge = _sin_cos(view.t / 86_400 + LONGITUDE - 14 / 24)
    return (2 + 3 * np.maximum(bulge, 0)) / np.sqrt(1 - 0.8986 * (1 - view.rise * view.rise))


def _key(name: str) -> int:
    """Hash a text to 64 bits (FNV-1a)."""
    key = 0xCBF29CE484222325
    for byte in name.encode():
        key = (key ^ byte) * 0x100000001B3 % 2**64
    return key


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Make random bits of a counter (SplitMix64: Steele, Lea and Flood 2014, doi:10.1145/2660193.2660195)."""
    z = values + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _triangle(bits: NDArray[np.uint64], shift: int) -> Floats:
    """Return noise between -1 and 1 of triangular density, from 16 of the bits."""
    low, high = (bits >> np.uint64(shift)) & np.uint64(255), (bits >> np.uint64(shift + 8)) & np.uint64(255)
    return (low.astype(np.float64) + high.astype(np.float64)) / 255 - 1
