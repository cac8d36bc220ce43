"""Compares datasets: those in memory or in netCDF files have no chunk tables, so their values are read.

Where a dimension has labels on both sides, none of them twice, the values of equal labels are compared; else those at
equal positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from icemagic import structure
from icemagic.coordinates import Box, LabelAt, say
from icemagic.differences import ArrayDiff, Change, Diff, Place
from icemagic.errors import MissingExtraError, SelectionError, did_you_mean
from icemagic.selecting import region
from icemagic.values import Tally, Tolerance, blocks

if TYPE_CHECKING:
    import os

    import icechunk
    import xarray as xr

    from icemagic.selecting import Selection

    Tick = Callable[[int, int], None]


@dataclass(frozen=True)
class Side:
    """One side of a comparison."""

    name: str
    """What the record calls it."""
    dataset: xr.Dataset


def from_store(store: icechunk.IcechunkStore, group: str) -> xr.Dataset:
    """Open a group of a store; nothing but its coordinates is read.

    Raises
    ------
    SelectionError
        When there is no such group, or it is no dataset.
    """
    import xarray as xr

    try:
        dataset: xr.Dataset = xr.open_dataset(
            store,  # type: ignore[arg-type]  # typed too narrowly: this is what open_zarr does
            engine="zarr",
            group=group or None,
            consolidated=False,
            chunks=None,
            cache=False,
        )
    except (FileNotFoundError, ValueError, KeyError) as error:  # xarray's answers to what is no dataset
        reason = str(error).partition("\n")[0]
        text = f"The group {group or '/'} cannot be opened as a dataset: {reason}"
        raise SelectionError(text, "%ice tree shows what there is.") from None
    return dataset


def from_file(path: str | os.PathLike[str]) -> xr.Dataset:
    """Open a netCDF file; nothing but its coordinates is read.

    Raises
    ------
    SelectionError
        When there is no such file, or it is none that xarray reads.
    MissingExtraError
        When no package is installed that reads netCDF files.
    """
    import xarray as xr

    try:
        dataset: xr.Dataset = xr.open_dataset(path, chunks=None, cache=False)
    except FileNotFoundError:
        raise SelectionError(f"There is no file {str(path)!r}.", "Give its path from the working directory.") from None
    except (ValueError, OSError) as error:  # no backend takes the file, or one fails on it
        if not xr.backends.list_engines().keys() & {"netcdf4", "h5netcdf"}:
            raise MissingExtraError("No package is installed that reads netCDF.", "pip install netCDF4") from None
        reason = str(error).partition("\n")[0]
        raise SelectionError(f"{str(path)!r} cannot be read: {reason}", "Is it a netCDF file?") from None
    return dataset


def compare(
    a: Side, b: Side, tolerance: Tolerance, tick: Tick, *, array: str | None = None, selection: Selection | None = None
) -> Diff:
    """Compare two datasets, values included.

    Parameters
    ----------
    a, b : Side
    tolerance : Tolerance
    tick : callable
        Told how many values were compared, of how many.
    array : str, optional
        Name of the one variable that is compared.
    selection : mapping, optional
        The region that is compared, in coordinates of the second side.

    Raises
    ------
    SelectionError
        When there is no such variable or region.
    """
    one, other = a.dataset, b.dataset
    names = _names(one, other, array, selection or {})
    rows = {str(dim): _Rows.of(one, other, str(dim)) for dim in one.sizes.keys() & other.sizes.keys()}
    pairs = [_Pair(name, one.variables.get(name), other.variables.get(name)) for name in names]
    shared = [_shared(pair, other, rows, selection or {}) for pair in pairs]
    total, done = sum(_size(some) for some in shared), 0
    found, attributes = [], []
    for pair, some in zip(pairs, shared, strict=True):
        tally = None
        if some is not None and pair.old is not None and pair.new is not None:
            tally = Tally(tolerance)
            for block, old, new in _blocks(pair.old, pair.new, some, tolerance.elements):
                tally.add(np.atleast_1d(old), np.atleast_1d(new), [side.start for side in block] or [0])
                done += old.size
                tick(done, total)
        found += _record(pair, some, tally, other)
        attributes += pair.attributes()
    if array is None and not selection:
        attributes += structure.changes("/", *(_plain(side.attrs) for side in (one, other)))
    notes = tuple(words for dim, row in sorted(rows.items()) if (words := row.words(dim, (a.name, b.name))))
    return Diff(a=a.name, b=b.name, arrays=tuple(found), attributes=tuple(attributes), notes=notes)


@dataclass(frozen=True)
class _Rows:
    """Positions along a dimension that belong together."""

    old: np.ndarray[Any, Any]
    new: np.ndarray[Any, Any]
    only_old: int
    only_new: int

    @classmethod
    def of(cls, one: xr.Dataset, other: xr.Dataset, dim: str) -> _Rows:
        """Return which positions of one dimension of two datasets belong together."""
        lengths = one.sizes[dim], other.sizes[dim]
        first, second = one.indexes.get(dim), other.indexes.get(dim)
        old = new = np.arange(min(lengths))
        if first is not None and second is not None and first.is_unique and second.is_unique:
            where = first.get_indexer(second)
            new = np.flatnonzero(where >= 0)
            old = where[new]
        return cls(old, new, lengths[0] - len(old), lengths[1] - len(new))

    def within(self, side: range) -> _Rows:
        """Return those of which the second position lies in a range."""
        kept = (self.new >= side.start) & (self.new < side.stop)
        return _Rows(self.old[kept], self.new[kept], 0, 0)

    def words(self, dim: str, names: tuple[str, str]) -> str:
        """Say what has no counterpart, if anything does."""
        alone = [f"{n:,} of {name}" for n, name in zip((self.only_old, self.only_new), names, strict=True) if n]
        return f"{dim}: {' and '.join(alone)} have no counterpart, so they are not compared" if alone else ""


@dataclass(frozen=True)
class _Pair:
    """One variable on both sides, or on one."""

    name: str
    old: xr.Variable | None
    new: xr.Variable | None

    def attributes(self) -> list[Change]:
        """Return the attributes that differ."""
        if self.old is None or self.new is None:
            return []
        return structure.changes(self.name, *(_plain(side.attrs) for side in (self.old, self.new)))

    def changes(self) -> list[Change]:
        """Return what else differs in its definition."""
        if self.old is None or self.new is None:
            return []
        return structure.changes(self.name, *(_definition(side) for side in (self.old, self.new)))


def _definition(variable: xr.Variable) -> dict[str, Any]:
    return {
        "shape": variable.shape,
        "dtype": "string" if variable.dtype.kind in "OTU" else str(variable.dtype),  # text comes in many guises
        "dimensions": tuple(map(str, variable.dims)),
    }


def _plain(attributes: Mapping[Any, Any]) -> dict[str, Any]:
    """Return attributes as JSON has them: netCDF gives NumPy's numbers."""
    return {
        str(key): value.tolist() if isinstance(value, np.generic | np.ndarray) else value
        for key, value in attributes.items()
    }


def _names(one: xr.Dataset, other: xr.Dataset, array: str | None, selection: Selection) -> list[str]:
    """Return the names of the variables that are compared."""
    names = sorted(map(str, {*one.variables, *other.variables}))
    if array is not None and array not in names:
        raise SelectionError(f"Neither side has a variable {array!r}.", did_you_mean(array, names))
    if unknown := selection.keys() - set(map(str, other.sizes)):
        raise SelectionError(
            f"There is no dimension {min(unknown)!r}.", did_you_mean(min(unknown), map(str, other.sizes))
        )
    chosen = [name for name in names if array in (None, name)]
    if not selection:
        return chosen
    second = {str(name): set(map(str, variable.dims)) for name, variable in other.variables.items()}
    return [name for name in chosen if name in second and selection.keys() <= second[name]]


def _shared(pair: _Pair, other: xr.Dataset, rows: Mapping[str, _Rows], selection: Selection) -> list[_Rows] | None:
    """Return the rows of each dimension that both sides have; None where they cannot be compared."""
    if pair.old is None or pair.new is None or pair.old.dims != pair.new.dims:
        return None
    wanted = region(other, pair.name, selection) if selection else tuple(map(range, pair.new.shape))
    return [rows[str(dim)].within(side) for dim, side in zip(pair.new.dims, wanted, strict=True)]


def _size(shared: list[_Rows] | None) -> int:
    return 0 if shared is None else prod(len(row.new) for row in shared)


def _blocks(
    old: xr.Variable, new: xr.Variable, shared: list[_Rows], most: int
) -> Iterator[tuple[Box, np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """Yield blocks of the rows that both sides have, with the values of both."""
    within = tuple(range(len(row.new)) for row in shared)
    stored = old.encoding.get("preferred_chunks") or new.encoding.get("preferred_chunks") or {}
    # By whole chunks where these are known, so that none is read twice.
    piece = tuple(min(int(stored.get(dim, 1)), len(side) or 1) for dim, side in zip(old.dims, within, strict=True))
    numbers = tuple(range(-(-len(side) // size)) for side, size in zip(within, piece, strict=True))
    for block in blocks([numbers], piece, within, most):
        yield block, _read(old, [row.old for row in shared], block), _read(new, [row.new for row in shared], block)


def _read(variable: xr.Variable, rows: list[np.ndarray[Any, Any]], block: Box) -> np.ndarray[Any, Any]:
    wanted = {
        dim: _indexer(row[side.start : side.stop]) for dim, row, side in zip(variable.dims, rows, block, strict=True)
    }
    return np.asarray(variable.isel(wanted).values)


def _indexer(positions: np.ndarray[Any, Any]) -> slice | np.ndarray[Any, Any]:
    """Return positions as a slice where they follow each other, which is read faster."""
    first, last = int(positions[0]), int(positions[-1])
    return slice(first, last + 1) if np.array_equal(positions, np.arange(first, last + 1)) else positions


def _record(pair: _Pair, shared: list[_Rows] | None, tally: Tally | None, other: xr.Dataset) -> list[ArrayDiff]:
    """Return the record of a variable, if it differs."""
    if pair.old is None or pair.new is None:
        return [ArrayDiff(pair.name, "added" if pair.old is None else "removed", 0, 0, 0)]
    changes = tuple(pair.changes())
    if not changes and not (tally and tally.changed):
        return []
    array = ArrayDiff(pair.name, "resized" if pair.old.shape != pair.new.shape else "changed", 0, 0, 0, changes=changes)
    if tally is None or shared is None:
        return [array]
    names = tuple(map(str, pair.new.dims))
    shape = pair.new.shape

    def place(box: Box) -> Place:
        region = _in_second(box, shared)
        return Place(say(names, shape, region, _coordinates(other)), region)

    def point(at: tuple[int, ...]) -> dict[str, Any]:
        region = _in_second(tuple(range(one, one + 1) for one in at), shared)
        return {name: _label(other, name, side.start) for name, side in zip(names, region, strict=True)}

    units = pair.new.attrs.get("units")
    return [replace(array, total_values=_size(shared), units=units, **tally.fields(len(names), place, point))]


def _in_second(box: Box, shared: list[_Rows]) -> Box:
    """Return where shared rows lie in the second dataset, with what lies between them."""
    return tuple(
        range(int(row.new[side.start]), int(row.new[side.stop - 1]) + 1) for row, side in zip(shared, box, strict=True)
    )


def _coordinates(dataset: xr.Dataset) -> Callable[[str, int], LabelAt | None]:
    return lambda name, _: (lambda position: _label(dataset, name, position)) if name in dataset.indexes else None


def _label(dataset: xr.Dataset, name: str, position: int) -> Any:  # noqa: ANN401  a label of any type
    """Return a label, or the position where the dimension has no coordinate."""
    return dataset.indexes[name].values[position] if name in dataset.indexes else position
