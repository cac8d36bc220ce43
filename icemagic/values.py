"""Compares the values of one array in two states, block by block, each stored chunk read once per side.

Two values are the same when they are equal, or both missing, or, where they are numbers and a tolerance is given, when
``abs(b - a) <= atol + rtol * abs(a)``, which infinity never is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, product
from math import lcm, prod, sqrt
from typing import Any

import numpy as np

from icemagic.coordinates import Box, joined
from icemagic.differences import Place

Values = np.ndarray[Any, Any]

_BYTES_A_VALUE = 48  # of both sides: as stored, decoded, and what reading and comparing need for a moment
_SLAB = 65_536  # values compared at a time: they fit into a processor's cache
_WORDS = (1, 2, 4, 8)
MOST_PLACES = 6
"""Places of one array that a record names; further ones are counted."""
_AT_ONCE = 16
_NUMBERS = "iufcmM"
_MOST_RUNS = 8
_MOST_KEPT = 2_000


@dataclass(frozen=True)
class Tolerance:
    """When two numbers count as the same, and how much memory a comparison may take."""

    atol: float = 0.0
    rtol: float = 0.0
    memory: int = 256_000_000
    """Bytes; one chunk of each side is held even where these are more."""

    @property
    def elements(self) -> int:
        """How many values of each side may be held at a time."""
        return max(1, self.memory // _BYTES_A_VALUE)


@dataclass
class Tally:
    """Counts what differs between two arrays, block by block."""

    tolerance: Tolerance
    changed: int = 0
    nan_appeared: int = 0
    nan_vanished: int = 0
    max_abs: Any = None
    max_rel: float | None = None
    max_at: tuple[int, ...] | None = None
    """Position of the largest absolute difference."""
    more_places: int = 0
    """How many boxes were left out, because they were very many."""
    _places: list[Box] = field(default_factory=list)
    _count: int = 0
    _sum: Any = 0.0
    _squares: float = 0.0

    def add(self, a: Values, b: Values, start: Sequence[int]) -> None:
        """Compare two blocks of one shape, of one dimension or more, that begin at the position `start`."""
        rows = max(1, _SLAB // max(1, prod(a.shape[1:])))
        changed: Values | None = None
        for row in range(0, len(a), rows):
            one, other = a[row : row + rows], b[row : row + rows]
            if _same_bits(one, other):
                continue
            changed = np.zeros(a.shape, bool) if changed is None else changed
            changed[row : row + rows] = self._compare(one, other, (start[0] + row, *start[1:]))
        if changed is not None:
            self._places += _parts(changed, start)
            if len(self._places) > 2 * _MOST_KEPT:
                self.places()

    @property
    def is_of_times(self) -> bool:
        """Whether the differences are those of times."""
        return isinstance(self.max_abs, np.timedelta64)

    def numbers(self) -> dict[str, Any]:
        """Return the counts and numbers by their names in the record of an array."""
        mean: Any = self._sum / self._count if self._count else None
        if self.is_of_times:
            mean = np.array(round(mean)).astype(self.max_abs.dtype)[()]
        return {
            "changed_values": self.changed,
            "nan_appeared": self.nan_appeared,
            "nan_vanished": self.nan_vanished,
            "max_abs": self.max_abs,
            "max_rel": self.max_rel,
            "mean": mean,
            "rmse": sqrt(self._squares / self._count) if self._count and not self.is_of_times else None,
        }

    def fields(
        self,
        dimensions: int,
        place: Callable[[Box], Place],
        point: Callable[[tuple[int, ...]], Mapping[str, Any]],
    ) -> dict[str, Any]:
        """Return numbers and places by their names in the record of an array.

        Parameters
        ----------
        dimensions : int
            Of the array; one without any was compared as one of one value.
        place, point : callable
            Say a box, and one position, in coordinates.
        """
        places = [box[:dimensions] for box in self.places()]
        return {
            **self.numbers(),
            "boxes": tuple(map(place, places[:MOST_PLACES])),
            "more_boxes": len(places[MOST_PLACES:]) + self.more_places,
            "max_at": None if self.max_at is None else point(self.max_at[:dimensions]),
        }

    def places(self) -> list[Box]:
        """Return boxes around what differs; the gaps of one with many gaps lie inside."""
        self._places = joined(self._places)
        self.more_places += len(self._places[_MOST_KEPT:])
        del self._places[_MOST_KEPT:]
        return self._places

    def _compare(self, a: Values, b: Values, start: tuple[int, ...]) -> Values:
        """Count what differs in a part, and return where."""
        if not _comparable(a.dtype, b.dtype):
            self.changed += a.size
            return np.ones(a.shape, bool)
        changed = np.asarray(a != b, bool)
        absent = _missing(a), _missing(b)
        both = absent[0] & absent[1]
        changed &= ~both
        self.nan_vanished += int(np.count_nonzero(absent[0]) - np.count_nonzero(both))
        self.nan_appeared += int(np.count_nonzero(absent[1]) - np.count_nonzero(both))
        if a.dtype.kind in _NUMBERS and b.dtype.kind in _NUMBERS:
            at = np.flatnonzero(changed & ~absent[0] & ~absent[1])
            old, new = a.ravel()[at], b.ravel()[at]
            apart = _apart(old, new)
            if not (beyond := self._beyond(apart, old)).all():
                changed.ravel()[at[~beyond]] = False
                at, old, new, apart = at[beyond], old[beyond], new[beyond], apart[beyond]
            self._measure(apart, old, new, lambda most: _position(int(at[most]), a.shape, start))
        self.changed += int(np.count_nonzero(changed))
        return changed

    def _beyond(self, apart: Values, old: Values) -> Values:
        """Say which differences are larger than the tolerance; those of times have none."""
        if old.dtype.kind in "mM" or not (self.tolerance.atol or self.tolerance.rtol):
            return np.ones(apart.shape, bool)
        with np.errstate(invalid="ignore"):  # infinity is near to nothing else, however large the tolerance
            limit = self.tolerance.atol + self.tolerance.rtol * _magnitude(old)
        return np.asarray(~np.isfinite(apart) | (np.abs(apart) > limit))

    def _measure(self, apart: Values, old: Values, new: Values, where: Callable[[int], tuple[int, ...]]) -> None:
        """Take differences into account; `where` tells the position of one."""
        if not apart.size:
            return
        size = np.abs(apart)
        with np.errstate(over="ignore", invalid="ignore"):
            self._count += apart.size
            self._sum += apart.sum().item()
            self._squares += float((size**2).sum())
        most = int(size.argmax())
        largest = _distance(old[most], new[most], size[most])
        if self.max_abs is None or largest > self.max_abs:
            self.max_abs, self.max_at = largest, where(most)
        if old.dtype.kind in "mM" or not (sized := (old != 0) & np.isfinite(old)).any():
            return
        with np.errstate(over="ignore", invalid="ignore"):
            relative = float((size[sized] / _magnitude(old[sized])).max())
        self.max_rel = max(relative, self.max_rel or 0.0)


def _position(at: int, shape: tuple[int, ...], start: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(one) + first for one, first in zip(np.unravel_index(at, shape), start, strict=True))


def _same_bits(a: Values, b: Values) -> bool:
    """Whether two parts are alike to the bit, which is quickly seen; False may mean that it is not known."""
    if a.dtype != b.dtype or a.dtype.kind not in "biufmM" or a.dtype.itemsize not in _WORDS:
        return False
    bits = f"u{a.dtype.itemsize}"
    return bool(np.array_equal(np.ascontiguousarray(a).view(bits), np.ascontiguousarray(b).view(bits)))


def _comparable(a: np.dtype[Any], b: np.dtype[Any]) -> bool:
    families = "biufc", "M", "m", "OUTS"
    return any(a.kind in family and b.kind in family for family in families)


def _missing(values: Values) -> Values:
    """Return where values are missing: NaN, NaT, or what does not equal itself."""
    match values.dtype.kind:
        case "f" | "c":
            return np.isnan(values)
        case "m" | "M":
            return np.isnat(values)
        case "O":
            return np.asarray(values != values, bool)  # noqa: PLR0124  NaN among objects
    return np.zeros(values.shape, bool)


def _apart(old: Values, new: Values) -> Values:
    """Return new minus old as floating point numbers, those of times in the finer of their units."""
    if old.dtype.kind in "mM":
        return (new - old).astype("i8").astype("f8")
    wide = np.result_type(old.dtype, new.dtype, "f8")
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(new.astype(wide) - old.astype(wide))


def _magnitude(numbers: Values) -> Values:
    """Return absolute values as floating point numbers: among integers, that of the smallest overflows."""
    return np.abs(numbers.astype(np.result_type(numbers.dtype, "f8")))


def _distance(old: Any, new: Any, size: Any) -> Any:  # noqa: ANN401  numbers of any kind
    """Return the absolute difference of two numbers: exactly for integers, as a timedelta for times."""
    if np.asarray(old).dtype.kind in "mM":
        return np.abs(new - old)
    if np.asarray(old).dtype.kind in "iu" and np.asarray(new).dtype.kind in "iu":
        return abs(int(new) - int(old))
    return float(size)


def _parts(changed: Values, start: Sequence[int]) -> list[Box]:
    """Return boxes around what differs in a part: exact ones where it falls into few pieces along every dimension."""
    if not changed.any():
        return []
    sides = []
    for axis in range(changed.ndim):
        others = tuple(other for other in range(changed.ndim) if other != axis)
        sides.append(_runs(np.flatnonzero(changed.any(axis=others)), start[axis]))
    return [
        box
        for box in product(*sides)
        if changed[tuple(slice(side.start - at, side.stop - at) for side, at in zip(box, start, strict=True))].any()
    ]


def _runs(found: Values, start: int) -> list[range]:
    """Return the runs of consecutive positions; one that spans them all where they are many."""
    gaps = np.flatnonzero(np.diff(found) > 1)
    if len(gaps) >= _MOST_RUNS:
        gaps = gaps[:0]
    edges = [0, *(gaps + 1).tolist(), len(found)]
    return [range(start + int(found[low]), start + int(found[high - 1]) + 1) for low, high in pairwise(edges)]


def blocks(numbers: Iterable[Box], piece: Sequence[int], within: Box, most: int) -> Iterator[Box]:
    """Yield the positions of blocks that together hold given chunks, as far as these lie within a region.

    Parameters
    ----------
    numbers : iterable of Box
        Disjoint boxes of chunk numbers.
    piece : sequence of int
        Shape of a chunk.
    within : Box
        Positions beyond which nothing is of interest.
    most : int
        Most values of a block; a single chunk may have more.
    """
    held = max(1, most // max(1, prod(piece)))
    for box in numbers:
        for part in _split(box, held):
            block = tuple(
                range(max(side.start * size, limit.start), min(side.stop * size, limit.stop))
                for side, size, limit in zip(part, piece, within, strict=True)
            )
            if all(map(len, block)):
                yield block


def _split(box: Box, most: int) -> Iterator[Box]:
    """Yield parts of a box that hold at most so many chunks each."""
    if prod(map(len, box)) <= most:
        yield box
        return
    axis = max(range(len(box)), key=lambda at: len(box[at]))
    side = box[axis]
    middle = side.start + len(side) // 2
    for half in (range(side.start, middle), range(middle, side.stop)):
        yield from _split((*box[:axis], half, *box[axis + 1 :]), most)


def batches(found: Iterable[Box], most: int) -> Iterator[list[Box]]:
    """Yield blocks together that hold few enough values to be read beside each other."""
    batch: list[Box] = []
    for block in found:
        if batch and (len(batch) == _AT_ONCE or sum(prod(map(len, one)) for one in (*batch, block)) > most):
            yield batch
            batch = []
        batch.append(block)
    if batch:
        yield batch


def shared_pieces(one: Sequence[int], other: Sequence[int], most: int) -> tuple[int, ...]:
    """Return the shape of blocks that whole chunks of two grids fill; of the larger chunks where that is too much."""
    common = tuple(map(lcm, one, other))
    return common if prod(common) <= most else tuple(map(max, one, other))
