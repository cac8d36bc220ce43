"""Says regions of an array in coordinates, and finds the region that coordinates mean.

A dimension's coordinate is the one-dimensional array of its name in the same group (CF conventions, 1.3); where there
is none, positions are said instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
from zarr.core.sync import sync

from icemagic.errors import SelectionError, did_you_mean
from icemagic.nodes import read_metadata

if TYPE_CHECKING:
    import icechunk
    import pandas as pd
    import xarray as xr
    import zarr

Box = tuple[range, ...]
"""A range of positions, or of chunk numbers, for every dimension."""
Selection = Mapping[str, tuple[str, str]]
"""Dimension to its first and last label, both included, as typed."""

_COMPARED = 10_000
"""Most labels among which the nearest to a mistyped one is looked for, which takes a second for ten times as many."""


def boxes(chunks: Iterable[Sequence[int]]) -> list[Box]:
    """Return disjoint boxes that hold exactly the given chunk numbers, few of them, in order."""
    found = [tuple(range(at, at + 1) for at in chunk) for chunk in sorted({tuple(chunk) for chunk in chunks})]
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
    return joined(_side(store, path, name, length, side) for name, length, side in sides)


def joined(sides: Iterable[str]) -> str:
    """Say a region from what was said of each of its sides."""
    return ", ".join(sides) or "its one value"


def _side(store: icechunk.IcechunkStore, path: str, name: str | None, length: int, side: range) -> str:
    whole = len(side) == length and side.start == 0
    ends = None if whole or not side else labels(store, path, name, length, (side.start, side.stop - 1))
    return side_words(name, length, side, ends)


def side_words(name: str | None, length: int, side: range, ends: Iterable[Any] | None) -> str:
    """Say one side of a region of an array that is `length` long, by its first and last label where they are known."""
    if len(side) == length and side.start == 0:
        return f"all {name or 'positions'}"
    if ends is None:
        return f"{name or ''}[{side.start}:{side.stop}]"
    return f"{name} {_span(*ends)}"


def labels(
    store: icechunk.IcechunkStore, path: str, name: str | None, length: int, at: Sequence[int]
) -> np.ndarray[Any, Any] | None:
    """Return the labels at some positions of a dimension, in order of position; None where no coordinate covers them.

    Each chunk of the coordinate that holds one of them is read, once.
    """
    import zarr

    if name is None or not len(at) or max(at) >= length:
        return None
    try:
        coordinate = zarr.open_array(store, path=beside(path, name), mode="r")
    except FileNotFoundError:
        return None
    if coordinate.ndim != 1 or coordinate.shape[0] != length:
        return None
    return np.asarray(_decoded(name, coordinate, coordinate.oindex[np.asarray(at)]).values)


def _decoded(name: str, coordinate: zarr.Array[Any], raw: Any) -> xr.Variable:  # noqa: ANN401  as Zarr types it
    import xarray as xr

    values = np.asarray(raw)
    values = values.astype(object) if values.dtype.kind == "T" else values  # as xarray reads texts
    return xr.conventions.decode_cf_variable(name, xr.Variable((name,), values, dict(coordinate.attrs)))


def is_coordinate(metadata: Mapping[str, Any], dim: str, length: int) -> bool:
    """Whether an array, given by its Zarr metadata, is the coordinate of a dimension of some length."""
    return (metadata.get("shape"), metadata.get("dimension_names")) == ([length], [dim])


def index(store: icechunk.IcechunkStore, path: str, *, start: int = 0) -> pd.Index[Any]:
    """Return the labels that a coordinate holds from a position on; no chunks before it are read."""
    import zarr

    coordinate = zarr.open_array(store, path=path, mode="r")
    return _decoded(path.rpartition("/")[2], coordinate, coordinate[start:]).to_index()


def variable(store: icechunk.IcechunkStore, path: str) -> xr.Variable:
    """Return an array as xarray decodes it; lazy, so that only what is looked at is read.

    Nothing else of its group is looked at, so nothing that is wrong with it stands in the way.

    Raises
    ------
    SelectionError
        When the array has no names of dimensions.
    """
    import xarray as xr
    from xarray.backends import ZarrStore

    group, _, name = path.strip("/").rpartition("/")
    try:
        source = ZarrStore.open_group(store, group=group or None, mode="r", consolidated=False)
        encoded = source.open_store_variable(name)
    except KeyError as error:
        if "dimension_names" not in str(error):
            raise
        text = f"The dimensions of {path.strip('/')} have no names, so nothing can be selected in it."
        raise SelectionError(text, "Arrays that xarray writes have them.") from None
    return xr.conventions.decode_cf_variable(name, encoded)


def region_of(store: icechunk.IcechunkStore, path: str, selection: Selection) -> Box:
    """Return what :func:`region` does for an array of a store; only the coordinates of the selection are read."""
    import xarray as xr

    name = path.strip("/").rpartition("/")[2]
    array = xr.DataArray(variable(store, path))
    for dim in selection.keys() & array.sizes.keys():
        coordinate = beside(path, dim)
        metadata = sync(read_metadata(store, coordinate))
        if is_coordinate(metadata or {}, dim, array.sizes[dim]):
            array = array.assign_coords({dim: index(store, coordinate)})
    return region(xr.Dataset({name: array}) if name not in array.coords else array.coords.to_dataset(), name, selection)


def typed(selection: Mapping[str, str | tuple[str, str]]) -> Selection:
    """Return a selection in which labels may be typed as on the magic line: ``LABEL`` or ``FIRST/LAST``."""
    return {
        name: parse_selection(f"{name}={labels}")[1] if isinstance(labels, str) else labels
        for name, labels in selection.items()
    }


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
        raise SelectionError(message, "For example: epoch=2025-01-01T10:00/2025-01-01T11:00")
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
        chosen = _either_way(index, first, last)
    except (KeyError, ValueError, TypeError) as error:
        message = f"{name} has no label {first if first == last else f'{first} or {last}'}."
        raise SelectionError(message, _range(index)) from error
    if not chosen and first == last:
        near = did_you_mean(first, index) if index.inferred_type == "string" and len(index) <= _COMPARED else ""
        raise SelectionError(f"{name} has no label {first}.", near or _range(index))
    if not chosen:
        raise SelectionError(f"{name} has nothing between {first} and {last}.", _range(index))
    return chosen


def find(index: pd.Index[Any], first: str, last: str) -> range:
    """Return the positions that labels mean, both ends included; none where they are not there.

    Raises
    ------
    SelectionError
        When the labels repeat, or are times in no order, so that it cannot be told.
    """
    try:
        return _either_way(index, first, last)
    except (ValueError, TypeError):  # no label of this index is written so
        return range(0)
    except KeyError:
        # Of times in no order pandas finds no part, such as a day; of repeated labels no beginning.
        is_times = index.dtype.kind in "mM"
        if index.is_unique and (index.is_monotonic_increasing or not is_times):
            return range(0)
        if first == last and not is_times and _typed(index, first) not in index:
            return range(0)
    span = first if first == last else f"{first} … {last}"
    raise SelectionError(f"The labels of {index.name} repeat or are in no order, so {span} cannot be found in it.")


def _either_way(index: pd.Index[Any], first: str, last: str) -> range:
    """Find labels in either order: a descending coordinate runs from its largest label to its smallest."""
    ends = _typed(index, first), _typed(index, last)
    return _chosen(index, *ends) or _chosen(index, *reversed(ends))


def _chosen(index: pd.Index[Any], first: Any, last: Any) -> range:  # noqa: ANN401  labels of any type
    return range(*index.slice_indexer(first, last).indices(len(index)))


def _range(index: pd.Index[Any]) -> str:
    return f"It runs from {label(index.values[0])} to {label(index.values[-1])}." if len(index) else "It is empty."


def _typed(index: pd.Index[Any], text: str) -> Any:  # noqa: ANN401  pandas types it too narrowly
    """Return a label as the index holds it; times stay text, which pandas reads as a whole day or hour where it is."""
    if index.dtype.kind in "iuf":
        return float(text) if index.dtype.kind == "f" else int(text)
    return text
