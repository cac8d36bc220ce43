"""Finds the chunks that were replaced by the bytes that they had: a slice written back unchanged, for example.

Only chunks of the same stored length are read, which compressed ones hardly ever have by chance, and of those whose
first bytes differ no more than these.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import accumulate, compress
from math import inf
from typing import TYPE_CHECKING

from zarr.abc.store import RangeByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from icemagic.nodes import Node, chunk_key, together

if TYPE_CHECKING:
    import icechunk

    Stores = tuple[icechunk.IcechunkStore, icechunk.IcechunkStore]

MOST_BYTES = 64_000_000
"""Most bytes of chunks that a comparison reads on each side to tell identical ones apart."""
MOST_CHUNKS = 256
"""Most chunks that it looks at for that."""
_BEGINNING = 4_096

Chunk = tuple[int, ...]
Pair = tuple[str, str]
"""The paths of one array on both sides."""


def chunks(
    stores: Stores,
    nodes: Mapping[Pair, tuple[Node, Node]],
    *,
    most_bytes: float = inf,
    most_chunks: float = inf,
) -> dict[Pair, set[Chunk]]:
    """Return the chunks of each array whose references differ and whose bytes do not.

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
    read = [place for place, total in zip(alike, upto, strict=True) if total <= most_bytes]
    read = read if len(alike) <= most_chunks else []
    same = sync(
        together(
            _same_bytes([chunk_key(path, at) for path in pair], nodes[pair][1].chunks[at][1], stores)
            for pair, at in read
        )
    )
    found: dict[Pair, set[Chunk]] = {}
    for pair, at in compress(read, same):
        found.setdefault(pair, set()).add(at)
    return found


def _alike(old: Node, new: Node) -> list[Chunk]:
    """Return the chunks whose references differ and whose stored lengths do not."""
    if not old.is_array or not new.is_array or old.metadata["codecs"] != new.metadata["codecs"]:
        return []
    both = old.chunks.keys() & new.chunks.keys()
    return sorted(at for at in both if old.chunks[at] != new.chunks[at] and old.chunks[at][1] == new.chunks[at][1])


async def _same_bytes(keys: Iterable[str], length: int, stores: Stores) -> bool:
    """Whether two stores hold the same under a key each; where the beginnings differ, no more is read."""
    places = list(zip(stores, keys, strict=True))
    for end in sorted({min(length, _BEGINNING), length}):
        part = RangeByteRequest(0, end)
        one, other = [await store.get(key, default_buffer_prototype(), part) for store, key in places]
        if one is None or other is None or one.to_bytes() != other.to_bytes():
            return False
    return True
