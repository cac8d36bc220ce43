"""Merges one array that two sides changed value by value, a chunk at a time.

A value that one side changed is taken from that side, a value that both changed alike is no conflict, and one that both
changed differently is. Numbers are compared bit by bit: NaN equals the same NaN, and -0.0 differs from 0.0. Strings and
other objects are compared by what they hold. A chunk that was never written holds the fill value, and what lies beyond
the shape of a side is not there on that side: it is not a value that it changed.

Ours is the side that is merged into, theirs the one that is brought in. Only three chunks are in memory at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from icemagic.coordinates import Box, joined, positions, stored_chunk
from icemagic.merge import Side

if TYPE_CHECKING:
    import icechunk
    import zarr

Values = np.ndarray[Any, Any]
Mask = np.ndarray[Any, np.dtype[np.bool_]]
State = Literal["base", "ours", "theirs"]
At = tuple[int, ...]
"""Numbers of a chunk, one for every dimension."""
_PLACES = 500
"""Most places that are told apart, in one chunk and in one array; of more only the region around them is known."""


@dataclass(frozen=True)
class Stores:
    """The three states."""

    base: icechunk.IcechunkStore
    ours: icechunk.IcechunkStore
    theirs: icechunk.IcechunkStore

    def array(self, state: State, path: str) -> zarr.Array[Any]:
        """Open an array for reading."""
        import zarr

        return zarr.open_array(self.of(state), path=path, mode="r")

    def of(self, state: State) -> icechunk.IcechunkStore:
        """Return one of the three."""
        return {"base": self.base, "ours": self.ours, "theirs": self.theirs}[state]

    def trio(self, path: str, *, is_new: bool) -> Trio:
        """Open an array of both sides, and of base unless it is new there."""
        base = None if is_new else self.array("base", path)
        return Trio(base, self.array("ours", path), self.array("theirs", path))


@dataclass(frozen=True)
class Trio:
    """One array on three sides, of one data type and chunk shape."""

    base: zarr.Array[Any] | None
    ours: zarr.Array[Any]
    theirs: zarr.Array[Any]

    def blocks(self, region: Box) -> tuple[Block, Block, Block]:
        """Return what base, ours and theirs hold in a region."""
        ours, theirs = (_block(array, region) for array in (self.ours, self.theirs))
        if self.base is None:
            none = np.full(ours.values.shape, self.ours.fill_value, self.ours.dtype)
            return Block(none, np.zeros(none.shape, dtype=bool)), ours, theirs
        return _block(self.base, region), ours, theirs


@dataclass(frozen=True)
class Block:
    """A region of an array on one side."""

    values: Values
    present: Mask
    """Which of the values lie inside the shape of that side."""


def _block(array: zarr.Array[Any], region: Box) -> Block:
    within = tuple(range(side.start, min(side.stop, length)) for side, length in zip(region, array.shape, strict=True))
    shape = tuple(map(len, region))
    present = np.zeros(shape, dtype=bool)
    present[tuple(slice(0, len(side)) for side in within)] = True
    part = tuple(slice(side.start, max(side.start, side.stop)) for side in within)
    if present.all():
        return Block(np.asarray(array[part]), present)
    values = np.full(shape, array.fill_value, array.dtype)
    if present.any():
        values[tuple(slice(0, len(side)) for side in within)] = array[part]
    return Block(values, present)


def differing(one: Values, other: Values) -> Mask:
    """Return where two arrays of one shape and data type differ: bit by bit where they hold numbers."""
    if one.dtype.hasobject:
        return np.asarray(one != other, dtype=bool)
    word = math.gcd(one.dtype.itemsize, 8)
    a, b = (np.ascontiguousarray(side).reshape(-1).view(f"u{word}") for side in (one, other))
    return np.asarray((a != b).reshape(*one.shape, one.dtype.itemsize // word).any(axis=-1))


@dataclass(frozen=True)
class Decided:
    """Positions along one dimension where all values come from one side."""

    axis: int
    rows: Mask
    """For each position of the merged array, whether it is one of them."""
    side: Side


@dataclass(frozen=True)
class Mix:
    """How the chunks of one array are merged."""

    path: str
    shape: tuple[int, ...]
    """Shape of the merged array."""
    chunk: tuple[int, ...]
    """Shape of its stored chunks."""
    chunks: tuple[At, ...]
    """Chunks to be merged; none of them lies beyond the shape."""
    decided: tuple[Decided, ...] = ()
    choice: Side | None = None
    """Side whose values win where both changed one; without it ours stay."""
    is_new: bool = False
    """Whether base has no such array, or another one of that name."""

    def region(self, at: At) -> Box:
        """Return the positions of a chunk."""
        return positions(tuple(range(number, number + 1) for number in at), self.chunk, self.shape)


@dataclass(frozen=True)
class Spots:
    """Where values of one array are in conflict."""

    count: int = 0
    boxes: tuple[Box, ...] = ()
    exact: bool = True
    """Whether the boxes hold these values alone, or others between them, too."""

    def __add__(self, other: Spots) -> Spots:
        boxes = tuple(joined((*self.boxes, *other.boxes)))
        exact = self.exact and other.exact and len(boxes) <= _PLACES
        return Spots(self.count + other.count, boxes if len(boxes) <= _PLACES else (around(boxes),), exact)


@dataclass(frozen=True)
class Found:
    """What merging the chunks of an array comes to."""

    spots: Spots
    written: tuple[At, ...]
    """Chunks that hold values of both sides."""
    copied: tuple[At, ...]
    """Chunks that become as they are in theirs; all others stay as they are in ours."""
    first: tuple[Any, Any] | None
    """The first values that are in conflict, ours and theirs, as stored."""


def examine(stores: Stores, mix: Mix) -> Found:
    """Return what merging the chunks of an array comes to; nothing is written."""
    spots, first = Spots(), None
    written: list[At] = []
    copied: list[At] = []
    trio = stores.trio(mix.path, is_new=mix.is_new)
    for at in mix.chunks:
        blocks = trio.blocks(mix.region(at))
        taken, clash = _rule(mix, at, *blocks)
        _, ours, theirs = blocks
        apart = differing(ours.values, theirs.values)
        if not ours.present.all() or (apart & taken).any():
            as_theirs = theirs.present.all() and not (apart & ~taken).any()
            (copied if as_theirs else written).append(at)
        if clash.any():
            spots += _spots(clash, mix.region(at))
            first = first or (ours.values[clash][0], theirs.values[clash][0])
    return Found(spots, tuple(written), tuple(copied), first)


def write(stores: Stores, mix: Mix, target: icechunk.IcechunkStore) -> None:
    """Write the merged chunks into an array of `target` that has its merged shape already and else is as in ours."""
    import zarr

    trio, into = stores.trio(mix.path, is_new=mix.is_new), zarr.open_array(target, path=mix.path, mode="r+")
    for at in mix.chunks:
        region = mix.region(at)
        base, ours, theirs = trio.blocks(region)
        taken, _ = _rule(mix, at, base, ours, theirs)
        into[tuple(slice(side.start, side.stop) for side in region)] = np.where(taken, theirs.values, ours.values)


def changes(old: zarr.Array[Any], new: zarr.Array[Any], chunks: Iterable[At]) -> Iterator[tuple[Box, Mask]]:
    """Yield the positions of some chunks, and which values in them are other ones than before."""
    for at in sorted(chunks):
        if all(number * size < length for number, size, length in zip(at, stored_chunk(new), new.shape, strict=True)):
            region = positions(tuple(range(number, number + 1) for number in at), stored_chunk(new), new.shape)
            yield region, differing(_block(old, region).values, _block(new, region).values)


def changes_rows(old: zarr.Array[Any], new: zarr.Array[Any], chunks: Iterable[At], *, axis: int, rows: Mask) -> bool:
    """Whether some chunks of an array hold other values than before in some positions along an axis."""
    size = stored_chunk(new)[axis]
    wanted = (at for at in chunks if rows[at[axis] * size : (at[axis] + 1) * size].any())
    for region, apart in changes(old, new, wanted):
        inside = np.flatnonzero(rows[region[axis].start : region[axis].stop])
        if np.take(apart, inside, axis=axis).any():
            return True
    return False


def _rule(mix: Mix, at: At, base: Block, ours: Block, theirs: Block) -> tuple[Mask, Mask]:
    """Return which values of a chunk are taken from theirs, and which both sides changed differently."""
    we, they = (differing(side.values, base.values) | ~base.present for side in (ours, theirs))
    apart = differing(ours.values, theirs.values) & ours.present & theirs.present
    taken, clash = (apart & they & ~we) | (theirs.present & ~ours.present), apart & we & they
    if mix.choice == "theirs":
        taken |= clash
    for decided in mix.decided:
        side = mix.region(at)[decided.axis]
        rows = (slice(None),) * decided.axis + (decided.rows[side.start : side.stop],)
        taken[rows], clash[rows] = decided.side == "theirs", False
    return taken, clash


def _spots(clash: Mask, region: Box) -> Spots:
    """Return where a mask over a region is true."""
    number = int(clash.sum())
    ends = [np.flatnonzero(clash.any(axis=tuple(other for other in range(clash.ndim) if other != axis))) for axis in
            range(clash.ndim)]  # fmt: skip
    whole = tuple(
        range(side.start + int(end[0]), side.start + int(end[-1]) + 1) for side, end in zip(region, ends, strict=True)
    )
    if number == math.prod(map(len, whole)):
        return Spots(number, (whole,))
    if number > _PLACES:
        return Spots(number, (whole,), exact=False)
    offset = [side.start for side in region]
    units = (tuple(range(place, place + 1) for place in spot) for spot in (np.argwhere(clash) + offset).tolist())
    return Spots(number, tuple(joined(units)))


def around(boxes: tuple[Box, ...]) -> Box:
    """Return the smallest box around several."""
    return tuple(
        range(min(side.start for side in sides), max(side.stop for side in sides)) for sides in zip(*boxes, strict=True)
    )
