"""Reads what icechunk holds of one state of a store: the metadata and chunk tables of its groups and arrays."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any

from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from icemagic.errors import SelectionError, did_you_mean

if TYPE_CHECKING:
    import icechunk

ENCODING = ("scale_factor", "add_offset", "_FillValue", "missing_value", "units", "calendar", "dtype", "_Unsigned")
"""Attributes without which the numbers of a chunk mean something else."""
_AT_ONCE = 16

Chunks = dict[tuple[int, ...], tuple[object, int]]
"""Chunk coordinates to what tells the stored chunk from another one, and its stored bytes."""


@dataclass(frozen=True)
class Node:
    """Zarr metadata and stored chunks of one group or array."""

    metadata: Mapping[str, Any]
    chunks: Chunks = field(default_factory=dict)

    @property
    def is_array(self) -> bool:
        """Whether it is an array; otherwise it is a group."""
        return bool(self.metadata["node_type"] == "array")


def chunk_key(path: str, at: Iterable[int]) -> str:
    """Return the key of a chunk; icechunk knows Zarr's default form alone."""
    return "/".join([path.strip("/"), "c", *map(str, at)]).lstrip("/")


def chunk_shape(metadata: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the shape of an array's stored chunks (of its shards, where it has them); empty for an irregular grid."""
    return tuple(metadata["chunk_grid"]["configuration"].get("chunk_shape", ()))


def dimension_names(metadata: Mapping[str, Any]) -> tuple[str | None, ...]:
    """Return the name of each dimension of an array, None where it has none; nothing for a group."""
    return tuple(metadata.get("dimension_names") or (None,) * len(metadata.get("shape", ())))


def comparable(values: Mapping[str, Any], key: str) -> str | None:
    """Return a value in a form that compares: NaN equals NaN, and absent differs from null."""
    return json.dumps(values[key], sort_keys=True) if key in values else None


def is_within(path: str, folder: str) -> bool:
    """Whether a path is another one or lies below it, with or without slashes at the ends."""
    inside = folder.strip("/")
    return not inside or f"{path.strip('/')}/".startswith(f"{inside}/")


def total_chunks(metadata: Mapping[str, Any], chunks: Chunks) -> int:
    """Return how many chunks an array has, written or not; for an irregular grid only those written are known."""
    if metadata["chunk_grid"]["name"] != "regular":
        return len(chunks)
    sides = zip(metadata["shape"], chunk_shape(metadata), strict=True)
    return prod(-(-length // chunk) for length, chunk in sides)


async def read_chunks(store: icechunk.IcechunkStore, path: str) -> Chunks:
    """Return the chunk table of an array; chunks never written are absent."""
    table: Chunks = {}
    async for coords, _, places, offsets, lengths, inline in store.array_chunk_iterator(path):
        for row, (coord, place, offset, length) in enumerate(
            zip(coords.tolist(), places, offsets.tolist(), lengths.tolist(), strict=True)
        ):
            table[tuple(coord)] = (inline.get(row) or (place, offset), length)
    return table


async def read_metadata(store: icechunk.IcechunkStore, path: str) -> Mapping[str, Any] | None:
    """Return the Zarr metadata of a node, or None where there is none."""
    document = await store.get(f"{path.lstrip('/')}/zarr.json".lstrip("/"), default_buffer_prototype())
    return None if document is None else dict(json.loads(document.to_bytes()))


def node_paths(store: icechunk.IcechunkStore) -> set[str]:
    """Return the paths of all groups and arrays, with a leading slash."""

    async def names() -> set[str]:
        return {f"/{key}" async for key in store.list() if key.rpartition("/")[2] == "zarr.json"}

    return {name.removesuffix("/zarr.json") or "/" for name in sync(names())}


def find_node(store: icechunk.IcechunkStore, path: str) -> str:
    """Return the path of a group or array that is there, with a leading slash.

    Raises
    ------
    SelectionError
        When nothing is there; the hint names the nearest.
    """
    return _found(store, path)[0]


def find_array(store: icechunk.IcechunkStore, path: str) -> str:
    """Return the path of an array that is there, with a leading slash; a group is refused as well.

    Raises
    ------
    SelectionError
        When there is none; the hint names the nearest.
    """
    wanted, metadata = _found(store, path)
    if metadata["node_type"] != "array":
        inside = [one.lstrip("/") for one in node_paths(store) if one != wanted and is_within(one, wanted)]
        raise SelectionError(f"{path!r} is a group, not an array.", did_you_mean(path, inside))
    return wanted


def _found(store: icechunk.IcechunkStore, path: str) -> tuple[str, Mapping[str, Any]]:
    """Return the path of a node with a leading slash, and its metadata."""
    wanted = f"/{path.strip('/')}"
    metadata = sync(read_metadata(store, wanted))
    if metadata is None:
        known = [one.lstrip("/") for one in node_paths(store) if one != "/"]
        raise SelectionError(f"There is no array or group {path!r} in that version.", did_you_mean(path, known))
    return wanted, metadata


async def read_nodes(store: icechunk.IcechunkStore, paths: Iterable[str]) -> dict[str, Node]:
    """Return those of the nodes that are there, with their metadata and chunk tables."""
    wanted = sorted(paths)
    found = await together(_read_node(store, path) for path in wanted)
    return {path: node for path, node in zip(wanted, found, strict=True) if node is not None}


async def _read_node(store: icechunk.IcechunkStore, path: str) -> Node | None:
    metadata = await read_metadata(store, path)
    if metadata is None:
        return None
    return Node(metadata, await read_chunks(store, path) if metadata["node_type"] == "array" else {})


async def together[T](work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Do pieces of work beside each other, a few at a time."""
    gate = asyncio.Semaphore(_AT_ONCE)

    async def wait(piece: Coroutine[Any, Any, T]) -> T:
        async with gate:
            return await piece

    return await asyncio.gather(*map(wait, work))
