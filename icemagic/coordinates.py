"""Says regions of an array in coordinates, and finds the region that coordinates mean.

A dimension's coordinate is the one-dimensional array of its name in the same group (CF conventions, 1.3); where there
is none, positions are said instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from icemagic.errors import SelectionError, did_you_mean

if TYPE_CHECKING:
    import icechunk
    import pandas as pd
    import xarray as xr
    import zarr

Box = tuple[range, ...]
"""A range of positions, or of chunk numbers, for every dimension."""
Selection = Mapping[str, tuple[str, str]]
"""Dimension to its first and last label, both included, as typed."""


def boxes(chunks: Iterable[Sequence[int]]) -> list[Box]:
    """Return disjoint boxes that hold exactly the given chunk numbers, few of them, in order."""
    return joined(tuple(range(at, at + 1) for at in chunk) for chunk in {tuple(chunk) for chunk in chunks})


def joined(parts: Iterable[Box]) -> list[Box]:
    """Return fewer disjoint boxes that hold the same as the given disjoint ones, in order."""
    found = list(parts)
    for axis in reversed(range(len(found[0]) if found else 0)):
        found = _merged(found, axis)
    return sorted(found, key=lambda box: [side.start for side in box])


def _merged(found: list[Box], axis: int) -> list[Box]:
    """Join the boxes that are alike but for `axis`, on which one begins where another ends."""

    def others(box: Box) -> list[tuple[int, int]]:
        return [(side.start, side.stop) for at, side in enumerate(box) if at != axis]

    joined: list[Box] = []
    for _, alike in groupby(sorted(found, key=lambda box: (others(box), box[axis].start)), key=others):
        row: list[Box] = []
        for box in alike:
            if row and row[-1][axis].stop == box[axis].start:
                last = row.pop()
                box = (*last[:axis], range(last[axis].start, box[axis].stop), *last[axis + 1 :])  # noqa: PLW2901
            row.append(box)
        joined += row
    return joined


def positions(box: Box, chunk_shape: Sequence[int], shape: Sequence[int]) -> Box:
    """Return the positions of the elements in a box of chunks; chunks beyond the shape count with their full length."""
    return tuple(
        range(side.start * chunk, min(side.stop * chunk, length) if side.start * chunk < length else side.stop * chunk)
        for side, chunk, length in zip(box, chunk_shape, shape, strict=True)
    )


def stored_chunk(array: zarr.Array[Any]) -> tuple[int, ...]:
    """Return the shape of what is stored as one piece: of a shard, where the array has shards."""
    return array.shards or array.chunks


def words(store: icechunk.IcechunkStore, path: str, region: Box) -> str:
    """Say a region of an array in coordinates, such as ``epoch 2025-01-01T10:00 … 10:59:55, all sid``.

    Parameters
    ----------
    store : icechunk.IcechunkStore
        Holds the array and its coordinates.
    path : str
        Path of the array.
    region : Box
        Positions, one range for every dimension of the array.
    """
    import zarr

    array = zarr.open_array(store, path=path, mode="r")
    names = array.metadata.dimension_names or (None,) * array.ndim  # type: ignore[union-attr]  # format 3 has them
    sides = zip(names, array.shape, region, strict=True)
    return ", ".join(_side(store, path, name, length, side) for name, length, side in sides) or "its one value"


def _side(store: icechunk.IcechunkStore, path: str, name: str | None, length: int, side: range) -> str:
    if len(side) == length and side.start == 0:
        return f"all {name or 'positions'}"
    ends = _labels(store, path, name, length, side) if name else None
    if ends is None:
        return f"{name or ''}[{side.start}:{side.stop}]"
    return f"{name} {_span(*ends)}"


def _labels(store: icechunk.IcechunkStore, path: str, name: str, length: int, side: range) -> tuple[Any, Any] | None:
    """Return the first and the last label of a range; None where no coordinate covers it."""
    import zarr

    try:
        coordinate = zarr.open_array(store, path=beside(path, name), mode="r")
    except FileNotFoundError:
        return None
    if coordinate.ndim != 1 or coordinate.shape[0] != length or not len(side) or side.stop > length:
        return None
    first, last = decoded(coordinate, [coordinate[side.start], coordinate[side.stop - 1]])
    return first, last


def decoded(array: zarr.Array[Any], stored: Sequence[Any]) -> np.ndarray[Any, Any]:
    """Return what some stored values of an array mean, such as times for numbers of seconds."""
    import xarray as xr

    values = xr.Variable(("value",), np.array(stored), dict(array.attrs))
    return xr.conventions.decode_cf_variable(array.name, values).values


def beside(path: str, name: str) -> str:
    """Return the path of a sibling of a node."""
    return f"{path.strip('/').rpartition('/')[0]}/{name}".lstrip("/")


def _span(first: Any, last: Any) -> str:  # noqa: ANN401  a label of any type
    if first == last:
        return label(first)
    start, end = label(first), label(last)
    if isinstance(first, np.datetime64) and start[: len("2025-01-01T")] == end[: len("2025-01-01T")]:
        end = end[len("2025-01-01T") :]
    return f"{start} … {end}"


def label(value: Any) -> str:  # noqa: ANN401  a label of any type
    """Say one label; times without the zeros at their end."""
    if isinstance(value, np.datetime64):
        text = str(np.datetime_as_string(value))
        text = text.rstrip("0").rstrip(".") if "." in text else text
        return text.removesuffix(":00")
    return str(value)


def parse_selection(text: str) -> tuple[str, tuple[str, str]]:
    """Read ``DIMENSION=LABEL`` or ``DIMENSION=FIRST/LAST``.

    Raises
    ------
    SelectionError
        When it is neither.
    """
    name, equals, labels = text.partition("=")
    first, slash, last = labels.partition("/")
    if not (name and equals and first and (last or not slash)):
        message = f"{text!r} is no selection."
        raise SelectionError(message, "For example: --sel epoch=2025-01-01T10:00/2025-01-01T11:00")
    return name, (first, last or first)


def region(dataset: xr.Dataset, name: str, selection: Selection) -> Box:
    """Return the positions that labels mean in one variable, both ends included as in xarray's ``sel``.

    Raises
    ------
    SelectionError
        When a dimension or a label is not there, or nothing lies between the labels.
    """
    variable = dataset[name]
    if unknown := selection.keys() - set(map(str, variable.dims)):
        message = f"{name} has no dimension {', '.join(sorted(unknown))}."
        raise SelectionError(message, did_you_mean(min(unknown), map(str, variable.dims)))
    return tuple(
        _between(variable.get_index(dim), str(dim), *selection[str(dim)]) if dim in selection else range(length)
        for dim, length in variable.sizes.items()
    )


def _between(index: pd.Index[Any], name: str, first: str, last: str) -> range:
    try:
        ends = _typed(index, first), _typed(index, last)
        # A descending coordinate runs from its largest label to its smallest; either order is understood.
        chosen = _chosen(index, *ends) or _chosen(index, *reversed(ends))
    except (KeyError, ValueError, TypeError) as error:
        message = f"{name} has no label {first if first == last else f'{first} or {last}'}."
        raise SelectionError(message, _range(index)) from error
    if not chosen and first == last:
        raise SelectionError(f"{name} has no label {first}.", did_you_mean(first, map(label, index.values)))
    if not chosen:
        raise SelectionError(f"{name} has nothing between {first} and {last}.", _range(index))
    return chosen


def _chosen(index: pd.Index[Any], first: Any, last: Any) -> range:  # noqa: ANN401  labels of any type
    return range(*index.slice_indexer(first, last).indices(len(index)))


def _range(index: pd.Index[Any]) -> str:
    return f"It runs from {label(index.values[0])} to {label(index.values[-1])}." if len(index) else "It is empty."


def _typed(index: pd.Index[Any], text: str) -> Any:  # noqa: ANN401  pandas types it too narrowly
    """Return a label as the index holds it; times stay text, which pandas reads as a whole day or hour where it is."""
    if index.dtype.kind in "iuf":
        return float(text) if index.dtype.kind == "f" else int(text)
    return text
