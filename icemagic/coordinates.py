"""Says regions of an array in coordinates.

A dimension's coordinate is the one-dimensional array of its name in the same group (CF conventions, 1.3); where there
is none, positions are said instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from icemagic import decoding
from icemagic.display import label

if TYPE_CHECKING:
    import icechunk
    import zarr

Box = tuple[range, ...]
"""A range of positions, or of chunk numbers, for every dimension."""
LabelAt = Callable[[int], Any]
"""Returns the label at a position."""


def boxes(chunks: Iterable[Sequence[int]]) -> list[Box]:
    """Return disjoint boxes that hold exactly the given chunk numbers, few of them, in order."""
    rows: list[Box] = []
    for chunk in sorted({tuple(chunk) for chunk in chunks}):
        start, last = tuple(range(at, at + 1) for at in chunk[:-1]), chunk[-1:]
        if rows and last and rows[-1][:-1] == start and rows[-1][-1].stop == last[0]:
            rows[-1] = (*start, range(rows[-1][-1].start, last[0] + 1))
        else:
            rows.append((*start, *(range(at, at + 1) for at in last)))
    return joined(rows)


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
    """Say one region of an array in coordinates; :class:`Labels` says many."""
    return Labels(store).words(path, region)


class Labels:
    """Says regions of the arrays of one state in coordinates, reading each piece of a coordinate once."""

    def __init__(self, store: icechunk.IcechunkStore) -> None:
        self._store = store
        self._arrays: dict[str, zarr.Array[Any] | None] = {}
        self._pieces: dict[tuple[str, int], np.ndarray[Any, Any]] = {}

    def words(self, path: str, region: Box) -> str:
        """Say a region of an array, such as ``epoch 2025-01-01T10:00 … 10:59:55, all sid``.

        Parameters
        ----------
        path : str
            Path of the array.
        region : Box
            Positions, one range for every dimension of the array.
        """
        array = self._opened(path)
        names = array.metadata.dimension_names or (None,) * array.ndim  # type: ignore[union-attr]  # format 3 has them
        return say(names, array.shape, region, lambda name, length: self._label_at(path, name, length))

    def point(self, path: str, at: Sequence[int]) -> dict[str, Any]:
        """Return the labels of one value by dimension; its position where a dimension has no coordinate."""
        array = self._opened(path)
        found: dict[str, Any] = {}
        for name, length, position in zip(decoding.dimensions(array), array.shape, at, strict=True):
            label_at = self._label_at(path, name, length)
            value = label_at(position) if label_at else position
            found[name] = value.item() if isinstance(value, np.number | np.str_ | np.bool_) else value
        return found

    def coordinate(self, path: str, name: str, length: int) -> zarr.Array[Any] | None:
        """Return the coordinate of a dimension of an array, None where there is no such one."""
        array = self._array(beside(path, name))
        return None if array is None or array.ndim != 1 or array.shape[0] != length else array

    def _label_at(self, path: str, name: str, length: int) -> LabelAt | None:
        """Return what gives the labels of a dimension, None where there is no such coordinate."""
        array = self.coordinate(path, name, length)
        return None if array is None else lambda position: self._label(beside(path, name), array, position)

    def _opened(self, path: str) -> zarr.Array[Any]:
        array = self._array(path.strip("/"))
        assert array is not None
        return array

    def _array(self, path: str) -> zarr.Array[Any] | None:
        import zarr

        if path not in self._arrays:
            try:
                self._arrays[path] = zarr.open_array(self._store, path=path, mode="r")
            except FileNotFoundError:
                self._arrays[path] = None
        return self._arrays[path]

    def _label(self, path: str, array: zarr.Array[Any], position: int) -> Any:  # noqa: ANN401  a label of any type
        piece = array.chunks[0]
        start = position // piece * piece
        if (path, start) not in self._pieces:
            self._pieces[path, start] = decoding.read(array, (slice(start, start + piece),))
        return self._pieces[path, start][position - start]


def say(
    names: Sequence[str | None],
    shape: Sequence[int],
    region: Box,
    coordinate: Callable[[str, int], LabelAt | None],
) -> str:
    """Say a region in coordinates; `coordinate` gives the labels of a dimension of some name and length."""
    sides = zip(names, shape, region, strict=True)
    return all_sides(_side(name, length, side, coordinate) for name, length, side in sides)


def _side(name: str | None, length: int, side: range, coordinate: Callable[[str, int], LabelAt | None]) -> str:
    whole = len(side) == length and side.start == 0
    label_at = coordinate(name, length) if name and side and side.stop <= length and not whole else None
    return side_words(name, length, side, label_at and (label_at(side.start), label_at(side.stop - 1)))


def side_words(name: str | None, length: int, side: range, ends: tuple[Any, Any] | None) -> str:
    """Say one side of a region of an array that is `length` long, by its first and last label where they are known."""
    if len(side) == length and side.start == 0:
        return f"all {name or 'positions'}"
    if ends is None:
        return f"{name or ''}[{side.start}:{side.stop}]"
    return f"{name} {_span(*ends)}"


def all_sides(sides: Iterable[str]) -> str:
    """Say a region from what was said of each of its sides."""
    return ", ".join(sides) or "its one value"


def labels(
    store: icechunk.IcechunkStore, path: str, name: str | None, length: int, at: Sequence[int]
) -> np.ndarray[Any, Any] | None:
    """Return the labels at some positions of a dimension, in order of position; None where no coordinate covers them.

    Each chunk of the coordinate that holds one of them is read, once.
    """
    if name is None or not len(at) or max(at) >= length:
        return None
    coordinate = Labels(store).coordinate(path, name, length)
    if coordinate is None:
        return None
    return decoding.decode(coordinate.oindex[np.asarray(at)], dict(coordinate.attrs), dims=(name,))


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
