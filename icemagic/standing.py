"""Guards that a store carries itself, so that every user of icemagic has them.

They lie in the repository's own metadata under ``icemagic_guards``::

    {"protected": ["main"], "arrays": {"SNR": {"dtype": "float32", "units": "dB-Hz", "range": [0, 70]},
                                       "epoch": {"increasing": true, "unique": true}}}

A protected branch takes no commit, reset or deletion. What is demanded of an array is checked in every transaction that
touches it: its data type and units in its metadata, its valid range in the chunks that were written, increasing and
unique values in the whole array. Format 1 of icechunk has no such metadata.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from icemagic import decoding
from icemagic.coordinates import positions, stored_chunk, words
from icemagic.display import Lines, Report, Shown, Table, count, label
from icemagic.errors import GuardError, UnknownVersionError, did_you_mean
from icemagic.locking import locked
from icemagic.records import Verdict

if TYPE_CHECKING:
    import icechunk

KEY = "icemagic_guards"
_NEWEST_FORMAT = 2


@dataclass(frozen=True)
class Demand:
    """What an array must be like."""

    dtype: str | None = None
    """NumPy's name of its data type."""
    units: str | None = None
    """Its attribute ``units``."""
    range: tuple[float, float] | None = None
    """Smallest and largest valid value, after decoding; NaN is not checked."""
    increasing: bool = False
    """Whether each value must be larger than the one before (one dimension)."""
    unique: bool = False
    """Whether no value may occur twice."""

    def words(self) -> str:
        """Say what is demanded."""
        said = [f"dtype {self.dtype}"] if self.dtype else []
        said += [f"units {self.units}"] if self.units else []
        said += [f"between {self.range[0]:g} and {self.range[1]:g}"] if self.range else []
        return ", ".join(said + ["increasing"] * self.increasing + ["unique"] * self.unique)


@dataclass(frozen=True, repr=False)
class Standing(Shown):
    """The guards that a store carries."""

    protected: tuple[str, ...] = ()
    """Branches that take no commit, reset or deletion."""
    arrays: Mapping[str, Demand] | None = None
    """Path of an array to what is demanded of it."""

    def _report(self) -> Report:
        demands = self.arrays or {}
        branches = f"protected: {', '.join(self.protected)}" if self.protected else "no branch is protected"
        rows = tuple((path, demand.words()) for path, demand in demands.items())
        title = f"standing guards: {branches}, {count(len(demands), 'array')} with demands"
        return Report(title, (Table(("array", "must be"), rows), Lines(())))


def standing(repo: icechunk.Repository) -> Standing:
    """Return the guards that a repository carries."""
    held: Any = repo.metadata.get(KEY) if repo.spec_version >= _NEWEST_FORMAT else None
    if not isinstance(held, Mapping):
        return Standing()
    demands = {path: _demand(one) for path, one in held.get("arrays", {}).items()}
    return Standing(tuple(held.get("protected", ())), demands)


def _demand(held: Mapping[str, Any]) -> Demand:
    """Read one demand; what a later version of icemagic may have added is passed over."""
    known = {key: value for key, value in held.items() if key in Demand.__dataclass_fields__}
    return replace(Demand(**known), range=tuple(held["range"]) if "range" in held else None)


def protect(repo: icechunk.Repository, branch: str) -> Standing:
    """Protect a branch: it then takes no commit, reset or deletion.

    Raises
    ------
    UnknownVersionError
        When there is no such branch.
    """
    if branch not in repo.list_branches():
        raise UnknownVersionError(f"There is no branch {branch!r}.", did_you_mean(branch, repo.list_branches()))
    with locked(repo):
        held = standing(repo)
        return _store(repo, Standing((*(set(held.protected) - {branch}), branch), held.arrays))


def unprotect(repo: icechunk.Repository, branch: str) -> Standing:
    """Take the protection of a branch away."""
    with locked(repo):
        held = standing(repo)
        return _store(repo, Standing(tuple(name for name in held.protected if name != branch), held.arrays))


def demand(repo: icechunk.Repository, path: str, wanted: Demand) -> Standing:
    """Demand something of an array from now on; an empty demand takes the old one away."""
    with locked(repo):
        held = standing(repo)
        others = {name: one for name, one in (held.arrays or {}).items() if name != path}
        return _store(repo, Standing(held.protected, others | ({path: wanted} if wanted != Demand() else {})))


def _store(repo: icechunk.Repository, guards: Standing) -> Standing:
    if repo.spec_version < _NEWEST_FORMAT:
        raise GuardError("A repository of format 1 cannot carry guards.", "%ice upgrade brings it to format 2.")
    arrays = {
        path: {key: value for key, value in asdict(one).items() if value} for path, one in (guards.arrays or {}).items()
    }
    ordered = Standing(tuple(sorted(guards.protected)), guards.arrays)
    repo.update_metadata({KEY: {"protected": list(ordered.protected), "arrays": arrays}})
    return ordered


def refuse_protected(repo: icechunk.Repository, branch: str, what: str) -> None:
    """Refuse what a protected branch does not take.

    Raises
    ------
    GuardError
        When the branch is protected.
    """
    if branch in standing(repo).protected:
        hint = f"Work on another branch: %ice branch NAME, %ice switch NAME. %ice guard --unprotect {branch} ends it."
        raise GuardError(f"The branch {branch!r} is protected against a {what}.", hint)


def judge(session: icechunk.Session, guards: Standing) -> list[Verdict]:
    """Check what is demanded of the arrays that a session touched."""
    if not guards.arrays:
        return []
    status = session.status()
    touched = {*status.new_arrays, *status.updated_arrays, *status.updated_chunks}
    wanted = {path: one for path, one in guards.arrays.items() if f"/{path.strip('/')}" in touched}
    return [
        Verdict(f"{path} must be {wanted[path].words()}", not faults, "; ".join(faults))
        for path in sorted(wanted)
        for faults in [_faults(session.store, path, wanted[path], status.updated_chunks.get(f"/{path.strip('/')}", []))]
    ]


def _faults(store: icechunk.IcechunkStore, path: str, wanted: Demand, chunks: list[list[int]]) -> list[str]:
    import zarr

    array = zarr.open_array(store, path=path, mode="r")
    units = array.attrs.get("units")
    faults = []
    if wanted.dtype and array.dtype != np.dtype(wanted.dtype):
        faults.append(f"its dtype is {array.dtype}")
    if wanted.units and units != wanted.units:
        faults.append(f"its units are {units!r}")
    if wanted.range:
        faults += _outside(store, path, wanted.range, chunks)
    if wanted.increasing or wanted.unique:
        values = decoding.read(array, (slice(None),) * array.ndim)
        faults += _disorder(values, wanted)
    return faults


def _disorder(values: np.ndarray[Any, Any], wanted: Demand) -> list[str]:
    faults = []
    if wanted.increasing and values.size > 1:
        falls = np.flatnonzero(~(values[1:] > values[:-1]))
        if falls.size:
            at = int(falls[0])
            faults.append(f"{label(values[at + 1])} follows {label(values[at])}, in {count(falls.size, 'place')}")
    if wanted.unique:
        found, times = np.unique(values, return_counts=True)
        if (times > 1).any():
            faults.append(f"{label(found[times > 1][0])} occurs {times[times > 1][0]} times")
    return faults


def _outside(
    store: icechunk.IcechunkStore, path: str, valid: tuple[float, float], chunks: list[list[int]]
) -> list[str]:
    import zarr

    array = zarr.open_array(store, path=path, mode="r")
    wrong, where = 0, ""
    for at in sorted(chunks):
        region = positions(tuple(range(number, number + 1) for number in at), stored_chunk(array), array.shape)
        if any(side.start >= length for side, length in zip(region, array.shape, strict=True)):
            continue  # a chunk that was cut off
        values = decoding.read(array, tuple(slice(side.start, side.stop) for side in region))
        bad = (values < valid[0]) | (values > valid[1])
        if bad.any() and not where:
            first = np.unravel_index(int(bad.argmax()), bad.shape)
            point = tuple(
                range(side.start + int(i), side.start + int(i) + 1) for side, i in zip(region, first, strict=True)
            )
            where = f"{values[first]:g} at {words(store, path, point)}"
        wrong += int(bad.sum())
    return [f"{count(wrong, 'value')} lie outside, the first is {where}"] if wrong else []
