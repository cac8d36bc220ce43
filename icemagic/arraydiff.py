"""Compares one array in two states: its chunks by their references, its values on demand."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from icemagic import decoding, merge, structure
from icemagic.coordinates import Box, Labels, boxes, positions
from icemagic.differences import ArrayDiff, Place
from icemagic.nodes import Node, chunk_shape, total_chunks
from icemagic.values import MOST_PLACES, Tally, Tolerance, Values, batches, blocks, shared_pieces

if TYPE_CHECKING:
    from collections.abc import Callable

    import zarr
    from zarr.abc.store import Store

    Tick = Callable[[int], None]

SAME = "same"
Chunk = tuple[int, ...]


@dataclass(frozen=True)
class State:
    """One of the two states that are compared."""

    store: Store
    labels: Labels


@dataclass(frozen=True)
class Pair:
    """One array as it is in both states, or in one of them."""

    old_path: str | None
    new_path: str | None
    old: Node | None
    new: Node | None
    identical: frozenset[Chunk] = frozenset()
    """Chunks that are known to have been replaced by the same bytes."""
    within: Box | None = None
    """Positions that alone are of interest."""

    @property
    def path(self) -> str:
        """Path in the second state or, where it is not there, in the first."""
        return (self.new_path or self.old_path or "/").lstrip("/") or "/"

    @property
    def last(self) -> Node:
        """The array in the second state or, where it is not there, in the first."""
        node = self.new or self.old
        assert node is not None
        return node


@dataclass(frozen=True)
class Chunks:
    """The chunks of an array that differ."""

    written: set[Chunk] = field(default_factory=set)
    removed: set[Chunk] = field(default_factory=set)
    replaced: set[Chunk] = field(default_factory=set)

    @property
    def everything(self) -> set[Chunk]:
        """All of them."""
        return self.written | self.removed | self.replaced


def compare(pair: Pair) -> tuple[ArrayDiff, Chunks]:
    """Return how an array differs, its places and values left out, and which of its chunks do."""
    chunks = _chunks(pair)
    changed = chunks.everything
    changes = []
    if pair.old and pair.new:
        changes = structure.changes(pair.path, *(structure.properties(node) for node in (pair.old, pair.new)))
    held = pair.new.chunks if pair.new else {}
    return ArrayDiff(
        path=pair.path,
        status=_status(pair, changed=bool(changed or changes)),
        changed_chunks=len(changed),
        total_chunks=total_chunks(pair.last.metadata, pair.last.chunks),
        bytes=sum(held[at][1] for at in changed if at in held),
        changes=tuple(changes),
        identical_chunks=len(pair.identical),
        written_chunks=len(chunks.written),
        removed_chunks=len(chunks.removed),
        moved_from=pair.old_path.lstrip("/") if pair.old_path and pair.new_path != pair.old_path and pair.new else None,
    ), chunks


def _status(pair: Pair, *, changed: bool) -> str:
    if pair.old is None or pair.new is None:
        return "added" if pair.old is None else "removed"
    if pair.old.metadata["shape"] != pair.new.metadata["shape"]:
        return "resized"
    if pair.old_path != pair.new_path:
        return "moved"
    return "changed" if changed else "rewritten" if pair.identical else SAME


def _chunks(pair: Pair) -> Chunks:
    if pair.old is None or pair.new is None:
        every = set(pair.last.chunks)
        found = Chunks(written=every) if pair.old is None else Chunks(removed=every)
    elif chunk_shape(pair.old.metadata) != chunk_shape(pair.new.metadata):
        found = Chunks(written=set(pair.new.chunks))  # on another grid no chunk is comparable: all of them were written
    else:
        before, after = pair.old.chunks, pair.new.chunks
        found = Chunks(
            after.keys() - before.keys(),
            before.keys() - after.keys(),
            {at for at in before.keys() & after.keys() if before[at] != after[at]} - pair.identical,
        )
    if pair.within is None:
        return found
    return Chunks(*(_inside(some, pair) for some in (found.written, found.removed, found.replaced)))


def _inside(chunks: Iterable[Chunk], pair: Pair) -> set[Chunk]:
    """Return the chunks that the positions of interest cut."""
    assert pair.within is not None
    numbers = [
        range(side.start // piece, -(-side.stop // piece))
        for side, piece in zip(pair.within, chunk_shape(pair.last.metadata), strict=True)
    ]
    return {at for at in chunks if all(one in side for one, side in zip(at, numbers, strict=True))}


def places(pair: Pair, chunks: Chunks, before: State, after: State) -> dict[str, Any]:
    """Say where the chunks that differ are, by the names in the record of an array."""
    if pair.old is None or pair.new is None or not chunk_shape(pair.new.metadata):
        return {}
    piece = chunk_shape(pair.new.metadata)
    beyond = {at for at in chunks.removed if merge.beyond(at, pair.new.metadata["shape"], pair.new)}
    found = [
        (what, state, path, positions(box, piece, node.metadata["shape"]))
        for what, state, path, node, some in (
            ("changed", after, pair.new_path, pair.new, chunks.replaced),
            ("written", after, pair.new_path, pair.new, chunks.written),
            ("removed", after, pair.new_path, pair.new, chunks.removed - beyond),
            ("removed", before, pair.old_path, pair.old, beyond),
        )
        for box in boxes(some)
    ]
    return {
        "boxes": tuple(
            Place(state.labels.words(path or "/", region), region, what)
            for what, state, path, region in found[:MOST_PLACES]
        ),
        "more_boxes": len(found[MOST_PLACES:]),
    }


@dataclass(frozen=True)
class Work:
    """What is read to compare the values of an array."""

    pair: Pair
    within: Box
    """Positions that both sides have room for, as far as they are of interest."""
    blocks: tuple[Box, ...]

    @property
    def size(self) -> int:
        """How many values of each side are read."""
        return sum(prod(map(len, block)) for block in self.blocks)


def work(pair: Pair, chunks: Chunks, tolerance: Tolerance) -> Work | None:
    """Return what has to be read; None where the array is not on both sides in the same number of dimensions."""
    if pair.old is None or pair.new is None:
        return None
    shapes = [node.metadata["shape"] for node in (pair.old, pair.new)]
    if len(shapes[0]) != len(shapes[1]):
        return None
    shared = tuple(range(min(lengths)) for lengths in zip(*shapes, strict=True))
    within = tuple(
        range(side.start, max(side.start, min(side.stop, limit.stop)))
        for side, limit in zip(pair.within or shared, shared, strict=True)
    )
    return Work(pair, within, tuple(_blocks(pair.old, pair.new, chunks, within, tolerance.elements)))


def _blocks(old: Node, new: Node, chunks: Chunks, within: Box, most: int) -> Iterable[Box]:
    one, other = (chunk_shape(node.metadata) for node in (old, new))
    if any(len(piece) != len(within) for piece in (one, other)):  # an irregular grid
        return blocks([within], (1,) * len(within), within, most)
    if one == other and _same_meaning(old, new):
        return blocks(boxes(chunks.everything), one, within, most)
    piece = shared_pieces(one, other, most)
    numbers = (range(side.start // size, -(-side.stop // size)) for side, size in zip(within, piece, strict=True))
    return blocks([tuple(numbers)], piece, within, most)


def _same_meaning(old: Node, new: Node) -> bool:
    """Whether equal chunks mean equal values, and chunks that neither side holds, too."""
    attributes = [structure.encoding(node.metadata) for node in (old, new)]
    return not structure.changes("", *attributes)


def values(todo: Work, before: State, after: State, tolerance: Tolerance, tick: Tick) -> dict[str, Any]:
    """Compare the values of an array, by the names in the record of an array; `tick` is told what each block held."""
    import zarr

    pair, tally = todo.pair, Tally(tolerance)
    sides = [
        zarr.open_array(state.store, path=path or "/", mode="r")
        for state, path in ((before, pair.old_path), (after, pair.new_path))
    ]
    with ThreadPoolExecutor() as pool:
        for batch in batches(todo.blocks, tolerance.elements):
            old, new = (list(pool.map(partial(_read, side), batch)) for side in sides)
            for block, one, other in zip(batch, old, new, strict=True):
                tally.add(one, other, [side.start for side in block] or [0])
                tick(one.size)
    labels, path = after.labels, pair.new_path or "/"
    return {
        "total_values": prod(map(len, todo.within)),
        "units": None if tally.is_of_times else pair.last.metadata.get("attributes", {}).get("units"),
        **tally.fields(len(todo.within), lambda box: Place(labels.words(path, box), box), partial(labels.point, path)),
    }


def _read(array: zarr.Array[Any], block: Box) -> Values:
    return np.atleast_1d(decoding.read(array, tuple(slice(side.start, side.stop) for side in block)))
