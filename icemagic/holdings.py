"""Follows the stored chunks through the versions of a repository, each against the one before it.

A chunk is stored once, however many versions hold it. The table of an array is read only where its manifests differ
from those of the version before: manifests are never rewritten.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from itertools import batched, compress
from typing import TYPE_CHECKING, NamedTuple

from zarr.core.sync import sync

from icemagic.nodes import together

if TYPE_CHECKING:
    import icechunk

Chunks = dict[object, int]
"""What tells one stored chunk from all others, and its bytes in the repository."""

_NOTHING = ""
"""Stands for the parent of a version that has none among those looked at."""
_BATCH = 64
_NATIVE = 1  # the number of icechunk.ChunkType.native


class Step(NamedTuple):
    """How the stored chunks of a version differ from those of the version before it."""

    id: str
    written: Mapping[str, Chunks]
    """Chunks that came to an array, by path; those that moved with it to another path among them."""
    introduced: Chunks
    """Chunks that are new to the version."""
    dropped: AbstractSet[object]
    """Chunks that it no longer holds."""


class _Held(NamedTuple):
    """The chunk table of an array, and what tells it from another one without reading it."""

    manifests: str
    chunks: Chunks


_Tables = dict[str, _Held]
"""Chunk tables by path."""


def steps(repo: icechunk.Repository, parents: Mapping[str, str | None]) -> Iterator[Step]:
    """Yield how each of some snapshots differs from its parent, parents first.

    Parameters
    ----------
    repo : icechunk.Repository
    parents : mapping of str to str or None
        Parent by snapshot id; a parent that is not itself a key counts as empty.
    """
    children: dict[str, list[str]] = defaultdict(list)
    for snapshot_id, parent in parents.items():
        children[parent if parent is not None and parent in parents else _NOTHING].append(snapshot_id)
    parent_of = {child: parent for parent, found in children.items() for child in found}
    held: dict[str, _Tables] = {_NOTHING: {}}
    for batch in batched(_depth_first(children), _BATCH):
        _add_tables(repo, held, {snapshot_id: parent_of[snapshot_id] for snapshot_id in batch})
        for snapshot_id in batch:
            parent = parent_of[snapshot_id]
            yield _step(snapshot_id, held[parent], held[snapshot_id])
            children[parent].remove(snapshot_id)
            # Only the tables of versions with children to come stay in memory.
            for done in (parent, snapshot_id):
                if not children[done] and done != _NOTHING:
                    del held[done]


def _depth_first(children: Mapping[str, list[str]]) -> Iterator[str]:
    waiting = list(children[_NOTHING])
    while waiting:
        snapshot_id = waiting.pop()
        yield snapshot_id
        waiting += children[snapshot_id]


def total(found: Iterable[Step]) -> Chunks:
    """Return all chunks of some versions, each once."""
    chunks: Chunks = {}
    for step in found:
        chunks |= step.introduced
    return chunks


def _step(snapshot_id: str, before: _Tables, after: _Tables) -> Step:
    written = {path: _without(held, before.get(path)) for path, held in after.items() if held != before.get(path)}
    gone = {chunk for path, held in before.items() for chunk in _without(held, after.get(path))}
    came = {chunk: length for chunks in written.values() for chunk, length in chunks.items()}
    introduced = {chunk: came[chunk] for chunk in came.keys() - gone}
    return Step(snapshot_id, written, introduced, gone - came.keys())


def _without(held: _Held, other: _Held | None) -> Chunks:
    if held is other:
        return {}
    return {chunk: held.chunks[chunk] for chunk in held.chunks.keys() - (other.chunks.keys() if other else set())}


def _add_tables(repo: icechunk.Repository, held: dict[str, _Tables], parents: Mapping[str, str]) -> None:
    """Add the chunk tables of snapshots, each listed after its parent; what did not change is taken from there."""
    marks = dict(zip(parents, sync(together(_marks(repo, snapshot_id) for snapshot_id in parents)), strict=True))
    changed: dict[str, list[str]] = {}
    for snapshot_id, parent in parents.items():
        known = marks[parent] if parent in marks else {path: table.manifests for path, table in held[parent].items()}
        changed[snapshot_id] = [path for path, mark in marks[snapshot_id].items() if known.get(path) != mark]
    read = dict(zip(parents, sync(together(_read(repo, *one) for one in changed.items())), strict=True))
    for snapshot_id, parent in parents.items():
        held[snapshot_id] = {
            path: _Held(mark, read[snapshot_id][path]) if path in read[snapshot_id] else held[parent][path]
            for path, mark in marks[snapshot_id].items()
        }


async def _marks(repo: icechunk.Repository, snapshot_id: str) -> dict[str, str]:
    """Return for each array what names its chunk table: its manifests, which are never rewritten."""
    nodes = (await repo.inspect_snapshot_async(snapshot_id))["nodes"]
    return {node["path"]: json.dumps([node["id"], node["manifest_refs"]]) for node in nodes if "manifest_refs" in node}


async def _read(repo: icechunk.Repository, snapshot_id: str, paths: list[str]) -> dict[str, Chunks]:
    if not paths:
        return {}
    store = (await repo.readonly_session_async(snapshot_id=snapshot_id)).store
    return {path: await _stored(store, path) for path in paths}


async def _stored(store: icechunk.IcechunkStore, path: str) -> Chunks:
    """Return the stored chunks of an array: those in files of their own and those inside a manifest, not virtual ones.

    A chunk inside a manifest is its array's own, wherever else its bytes occur.
    """
    found: Chunks = {}
    async for coords, kinds, places, offsets, lengths, inline in store.array_chunk_iterator(path):
        rows = zip(zip(places, offsets.tolist(), strict=True), lengths.tolist(), strict=True)
        found |= compress(rows, (kinds == _NATIVE).tolist())
        found |= {(path, tuple(coords[row].tolist()), chunk): len(chunk) for row, chunk in inline.items()}
    return found
