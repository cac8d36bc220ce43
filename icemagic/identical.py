"""Finds the chunks that were replaced by the bytes that they had: a slice written back unchanged, for example.

Only chunks of the same stored length are read, which compressed ones hardly ever have by chance, and of those whose
first bytes differ no more than these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, compress
from math import inf
from typing import TYPE_CHECKING

from zarr.abc.store import ByteRequest, RangeByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import WrapperStore

from icemagic.nodes import Node, chunk_key, together

if TYPE_CHECKING:
    import icechunk

    Stores = tuple[icechunk.IcechunkStore, icechunk.IcechunkStore]

MOST_BYTES = 64_000_000
"""Most bytes of chunks that a comparison reads on each side to tell identical ones apart."""
MOST_CHUNKS = 64
"""Most chunks of committed versions that it looks at for that."""
_BEGINNING = 4_096
_MOST_KEPT = 4_096

Chunk = tuple[int, ...]
Pair = tuple[str, str]
"""The paths of one array on both sides."""


@dataclass
class Found:
    """What a look at the chunks of two sides found."""

    same: dict[Pair, set[Chunk]] = field(default_factory=dict)
    """The chunks of each array whose references differ and whose bytes do not."""
    read: tuple[dict[str, bytes], dict[str, bytes]] = field(default_factory=lambda: ({}, {}))
    """Small chunks of either side that were read as a whole and differ, so that nobody has to read them again."""


def chunks(
    stores: Stores,
    nodes: Mapping[Pair, tuple[Node, Node]],
    *,
    most_bytes: float = inf,
    most_chunks: float = inf,
) -> Found:
    """Find the chunks of each array that were replaced by the bytes that they had.

    Parameters
    ----------
    stores : tuple of icechunk.IcechunkStore
        The two sides.
    nodes : mapping
        Path of an array on either side to what it is there.
    most_bytes, most_chunks : float
        Beyond these no chunk is looked at, and so none is found.
    """
    alike = [(pair, at) for pair, (old, new) in nodes.items() for at in _alike(old, new)]
    upto = accumulate(nodes[pair][1].chunks[at][1] for pair, at in alike)
    looked_at = [place for place, total in zip(alike, upto, strict=True) if total <= most_bytes]
    looked_at = looked_at if len(alike) <= most_chunks else []
    found = Found()
    same = sync(
        together(
            _same_bytes([chunk_key(path, at) for path in pair], nodes[pair][1].chunks[at][1], stores, found)
            for pair, at in looked_at
        )
    )
    for pair, at in compress(looked_at, same):
        found.same.setdefault(pair, set()).add(at)
    return found


def _alike(old: Node, new: Node) -> list[Chunk]:
    """Return the chunks whose references differ and whose stored lengths do not."""
    if not old.is_array or not new.is_array or old.metadata["codecs"] != new.metadata["codecs"]:
        return []
    both = old.chunks.keys() & new.chunks.keys()
    return sorted(at for at in both if old.chunks[at] != new.chunks[at] and old.chunks[at][1] == new.chunks[at][1])


async def _same_bytes(keys: Sequence[str], length: int, stores: Stores, found: Found) -> bool:
    """Whether two stores hold the same under a key each; where the beginnings differ, no more is read."""
    for end in sorted({min(length, _BEGINNING), length}):
        part = RangeByteRequest(0, end)
        held = [await store.get(key, default_buffer_prototype(), part) for store, key in zip(stores, keys, strict=True)]
        one, other = (None if value is None else value.to_bytes() for value in held)
        if one is None or other is None or one != other:
            if one is not None and other is not None and end == length and len(found.read[0]) < _MOST_KEPT:
                found.read[0][keys[0]], found.read[1][keys[1]] = one, other
            return False
    return True


class Remembering(WrapperStore[Store]):
    """A store that gives what was read already without reading it again."""

    def __init__(self, store: Store, read: Mapping[str, bytes]) -> None:
        super().__init__(store)
        self._read = read

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Return a value."""
        if byte_range is None and key in self._read:
            return prototype.buffer.from_bytes(self._read[key])
        return await super().get(key, prototype, byte_range)
