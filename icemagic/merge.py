"""Carries what changed between two states over to a third: the one three-way rule of conflicts, revert and stashes.

Base, ours and theirs are three states of one repository: snapshots or open sessions. What only ours changed is taken as
raw bytes, what only theirs changed stays, and what both changed differently is a conflict:

- a chunk that both wrote, an attribute that both changed, a node that both added;
- a shape that both changed, even alike: each may have appended rows of its own;
- a definition (data type, chunks, codecs, fill value, dimension names) changed on one side of an array that the other
  side changed in any way;
- a node that one side removed and the other changed, or in which it made something new;
- a shape that one side cut where the other wrote, and an attribute that says how values are encoded
  (https://docs.xarray.dev/en/stable/internals/time-coding.html, CF conventions 8.1) changed on one side while the other
  wrote chunks.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from icemagic.nodes import ENCODING, Node, chunk_key, chunk_shape, comparable, read_metadata, read_nodes, together

if TYPE_CHECKING:
    import icechunk

Side = Literal["ours", "theirs"]
OTHER: Mapping[Side, Side] = {"ours": "theirs", "theirs": "ours"}
Nodes = Mapping[str, Node]

_MERGED = ("attributes", "shape", "consolidated_metadata")


@dataclass(frozen=True)
class Clash:
    """What both sides changed in one node."""

    path: str
    """Path of the node with a leading slash, as icechunk writes it."""
    what: str
    """In words: ``shape``, ``attribute units``, ``its removal``; ``chunks`` where both sides wrote the same chunks."""
    chunks: tuple[tuple[int, ...], ...] = ()
    """Numbers of those chunks."""


@dataclass(frozen=True)
class Edit:
    """What has to be done to a node of theirs."""

    path: str
    metadata: Mapping[str, Any] | None
    """Zarr metadata that it gets; None removes it."""
    anew: bool = False
    """Whether the node is made anew, because its definition differs or it is not there."""
    chunks: tuple[tuple[int, ...], ...] = ()
    """Chunks that become as they are in ours."""


def compare(
    base: icechunk.IcechunkStore,
    ours: icechunk.IcechunkStore,
    theirs: icechunk.IcechunkStore,
    *,
    our_paths: set[str],
    their_paths: set[str],
    choices: Mapping[str, Side] | None = None,
) -> tuple[list[Edit], list[Clash]]:
    """Return the edits that carry ours over to theirs, and what stands in the way.

    Parameters
    ----------
    base, ours, theirs : icechunk.IcechunkStore
        The three states.
    our_paths, their_paths : set of str
        Paths of the nodes that each side may have changed since `base`, with a leading slash.
    choices : mapping, optional
        Path of a node to the side that wins where both changed the same.
    """
    a, b, c = (sync(read_nodes(store, our_paths)) for store in (base, ours, theirs))
    edits: list[Edit] = []
    clashes: list[Clash] = []
    for path in sorted(our_paths):
        edit, found = _node(path, a.get(path), b.get(path), c.get(path), (choices or {}).get(path))
        edits += [edit] if edit else []
        clashes += found
    clashes += _orphans(edits, c, theirs, their_paths - our_paths)
    return edits, clashes


def apply(edits: Iterable[Edit], source: icechunk.IcechunkStore, target: icechunk.IcechunkStore) -> None:
    """Do the edits in `target`; chunks are copied from `source` as raw bytes."""
    sync(_apply(list(edits), source, target))


def without(edits: Iterable[Edit], chunks: Mapping[str, set[tuple[int, ...]]]) -> list[Edit]:
    """Return the edits without some chunks, given by the path of their array."""
    return [
        replace(edit, chunks=tuple(at for at in edit.chunks if at not in chunks.get(edit.path, ()))) for edit in edits
    ]


def settle(
    edits: Iterable[Edit], paths: Iterable[str], theirs: icechunk.IcechunkStore, target: icechunk.IcechunkStore
) -> None:
    """Give the nodes that a rebase touched the metadata that the edits say, or theirs where no edit names them."""
    wanted = {path: node.metadata for path, node in sync(read_nodes(theirs, paths)).items()}
    wanted |= {edit.path: edit.metadata for edit in edits if edit.metadata is not None}
    for path, metadata in wanted.items():
        if sync(read_metadata(target, path)) not in (None, metadata):
            sync(_set_metadata(target, path, metadata))


async def _set_metadata(target: icechunk.IcechunkStore, path: str, metadata: Mapping[str, Any]) -> None:
    document = default_buffer_prototype().buffer.from_bytes(json.dumps(metadata).encode())
    await target.set(f"{path.strip('/')}/zarr.json".lstrip("/"), document)


def _node(
    path: str, base: Node | None, ours: Node | None, theirs: Node | None, choice: Side | None
) -> tuple[Edit | None, list[Clash]]:
    if ours == base or (ours == theirs and not _both_resized(base, ours)):
        return None, []
    if theirs == base:
        return take(path, ours, theirs), []
    what = _whole(base, ours, theirs)
    if what is not None:
        return (take(path, ours, theirs), []) if choice == "ours" else (None, [] if choice else [Clash(path, what)])
    assert base is not None
    assert ours is not None
    assert theirs is not None
    return _parts(path, base, ours, theirs, choice)


def _both_resized(base: Node | None, both: Node | None) -> bool:
    """Whether two sides that are alike changed a shape, as two appends of fill values do: these have no chunks."""
    if base is None or both is None or not (base.is_array and both.is_array):
        return False
    return bool(base.metadata["shape"] != both.metadata["shape"])


def take(path: str, ours: Node | None, theirs: Node | None) -> Edit:
    """Make the node of theirs as it is in ours."""
    if ours is None:
        return Edit(path, None)
    if theirs is None or ours.is_array != theirs.is_array or (ours.is_array and definition(ours) != definition(theirs)):
        return Edit(path, ours.metadata, anew=True, chunks=tuple(sorted(ours.chunks)))
    return Edit(path, ours.metadata, chunks=tuple(sorted(differing_chunks(ours, theirs))))


def _whole(base: Node | None, ours: Node | None, theirs: Node | None) -> str | None:
    """Say what forbids to merge two changed nodes part by part, if anything does."""
    if base is None:
        return "its creation"
    if ours is None or theirs is None:
        return "its removal"
    if base.is_array and not definition(base) == definition(ours) == definition(theirs):
        return "its definition"
    return None


def _parts(path: str, base: Node, ours: Node, theirs: Node, choice: Side | None) -> tuple[Edit | None, list[Clash]]:
    """Merge shape, attributes and chunks of a node that both sides changed."""
    attributes, clashing = merged_attributes(base, ours, theirs, choice)
    clashes = [] if choice else [Clash(path, f"attribute {key}") for key in clashing]
    metadata = {**theirs.metadata, "attributes": attributes}
    if not ours.is_array:
        return Edit(path, metadata), clashes
    mine, others = differing_chunks(ours, base), differing_chunks(theirs, base)
    both = {at for at in mine & others if ours.chunks.get(at) != theirs.chunks.get(at)}
    shape, cut = _shape(base, ours, theirs, mine, others)
    recoded = _encoding(base, ours, theirs, mine, others)
    if choice is None:
        clashes += [Clash(path, "shape")] if cut else []
        clashes += [Clash(path, f"attribute {key}, without which its numbers mean something else") for key in recoded]
        clashes += [Clash(path, "chunks", tuple(sorted(both)))] if both else []
    elif recoded:  # numbers of both encodings do not go into one array
        return (take(path, ours, theirs) if choice == "ours" else None), []
    chunks = mine - both if choice == "theirs" else mine
    if cut:
        shape = (theirs if choice == "theirs" else ours).metadata["shape"]
        resized = {at for at in ours.chunks.keys() | theirs.chunks.keys() if _is_resized(at, base, ours, theirs)}
        chunks = chunks - resized if choice == "theirs" else chunks | resized
    outside = {at for at in theirs.chunks.keys() | chunks if beyond(at, shape, base)}
    # What lies outside of the shape must not come back when the array grows again.
    chunks = (chunks - outside) | (outside & theirs.chunks.keys())
    return Edit(path, {**metadata, "shape": shape}, chunks=tuple(sorted(chunks))), clashes


def merged_attributes(
    base: Node | None, ours: Node, theirs: Node, choice: Side | None
) -> tuple[dict[str, Any], list[str]]:
    """Return the merged attributes, and the keys that both sides changed differently, whichever side is chosen."""
    a, b, c = (attributes_of(node) for node in (base, ours, theirs))
    merged, clashing = dict(c), []
    for key in {**a, **b}:
        mine, others = (comparable(side, key) != comparable(a, key) for side in (b, c))
        if not mine or comparable(b, key) == comparable(c, key):
            continue
        clashing += [key] if others else []
        if others and choice != "ours":
            continue
        merged.pop(key, None)
        merged |= {key: b[key]} if key in b else {}
    return merged, clashing


def attributes_of(node: Node | None) -> dict[str, Any]:
    """Return the attributes of a node; none where there is no node."""
    return dict(node.metadata.get("attributes", {})) if node else {}


def _shape(
    base: Node, ours: Node, theirs: Node, mine: set[tuple[int, ...]], others: set[tuple[int, ...]]
) -> tuple[list[int], bool]:
    """Return the merged shape, and whether the two sides contradict each other in it."""
    a, b, c = (list(node.metadata["shape"]) for node in (base, ours, theirs))
    if a not in (b, c):
        return c, True
    # A chunk that is gone counts, too: rows that were cut off and made anew hold fill values, which are values.
    shape, changed = (c, mine) if b == a else (b, others)
    return shape, b != c and any(beyond(at, shape, base) for at in changed)


def _is_resized(at: tuple[int, ...], *sides: Node) -> bool:
    """Whether a chunk holds more of the array on one side than on another."""
    return len({extent(at, side.metadata["shape"], side) for side in sides}) > 1


def extent(at: tuple[int, ...], shape: Sequence[int], node: Node) -> tuple[int, ...]:
    """Return how much of a chunk lies inside a shape, for each dimension."""
    sides = zip(at, chunk_shape(node.metadata), shape, strict=False)
    return tuple(max(0, min(chunk, length - number * chunk)) for number, chunk, length in sides)


def beyond(at: tuple[int, ...], shape: list[int], node: Node) -> bool:
    """Whether a chunk lies outside of a shape; on an irregular grid that is not known."""
    sides = zip(at, chunk_shape(node.metadata), shape, strict=False)
    return any(number * chunk >= length for number, chunk, length in sides)


def _encoding(
    base: Node, ours: Node, theirs: Node, mine: set[tuple[int, ...]], others: set[tuple[int, ...]]
) -> list[str]:
    """Return the encoding attributes that one side changed while the other wrote chunks."""
    a, b, c = (node.metadata.get("attributes", {}) for node in (base, ours, theirs))
    return [
        key
        for key in ENCODING
        if (others and comparable(b, key) != comparable(a, key) == comparable(c, key))
        or (mine and comparable(c, key) != comparable(a, key) == comparable(b, key))
    ]


def _orphans(edits: Iterable[Edit], known: Nodes, theirs: icechunk.IcechunkStore, their_paths: set[str]) -> list[Clash]:
    """Find what would lie in a group that the other side removed."""
    edits = list(edits)
    removed = {edit.path for edit in edits if edit.metadata is None}
    replaced = removed | {edit.path for edit in edits if edit.anew}
    made = {edit.path for edit in edits if edit.metadata is not None} | (known.keys() - removed)
    clashes = [
        Clash(edit.path, "its group, which one side removed")
        for edit in edits
        if edit.metadata is not None and not _exists(parent_of(edit.path), made, theirs)
    ]
    added = sync(read_nodes(theirs, {path for path in their_paths if replaced & groups_above(path)}))
    return clashes + [Clash(path, "its group, which one side removed") for path in added]


def _exists(path: str | None, made: set[str], theirs: icechunk.IcechunkStore) -> bool:
    return path is None or path in made or sync(read_metadata(theirs, path)) is not None


def parent_of(path: str) -> str | None:
    """Return the path of the group that a node lies in; None for the root."""
    return None if path == "/" else path.rpartition("/")[0] or "/"


def groups_above(path: str) -> set[str]:
    """Return the paths of all groups that a node lies in."""
    parent = parent_of(path)
    return set() if parent is None else {parent} | groups_above(parent)


def differing_chunks(one: Node, other: Node) -> set[tuple[int, ...]]:
    """Return the chunks that are not stored as the same thing in two arrays."""
    return {at for at in one.chunks.keys() | other.chunks.keys() if one.chunks.get(at) != other.chunks.get(at)}


def same_encoding(one: Node, other: Node) -> bool:
    """Whether the bytes of a chunk mean the same in two arrays."""
    a, b = (node.metadata.get("attributes", {}) for node in (one, other))
    return definition(one) == definition(other) and all(comparable(a, key) == comparable(b, key) for key in ENCODING)


def definition(node: Node) -> str:
    """Return what makes chunks readable: all metadata but shape and attributes."""
    rest = {key: value for key, value in node.metadata.items() if key not in _MERGED}
    return json.dumps(rest, sort_keys=True)


async def _apply(edits: list[Edit], source: icechunk.IcechunkStore, target: icechunk.IcechunkStore) -> None:
    for edit in edits:
        if edit.metadata is None or edit.anew:
            await _remove(target, edit.path)
    for edit in edits:
        if edit.metadata is None:
            continue
        node = Node(edit.metadata)
        outside = {at for at in edit.chunks if beyond(at, node.metadata["shape"], node)}
        # Under their new shape arrays have no such chunks any more: icechunk would not delete them.
        await together(target.delete(chunk_key(edit.path, at)) for at in outside)
        if await read_metadata(target, edit.path) != edit.metadata:
            await _set_metadata(target, edit.path, edit.metadata)
        await together(copy_key(chunk_key(edit.path, at), source, target) for at in edit.chunks if at not in outside)


async def _remove(target: icechunk.IcechunkStore, path: str) -> None:
    """Remove a node; what is in a group has edits of its own, or stays."""
    metadata = await read_metadata(target, path)
    if metadata is not None and metadata["node_type"] == "group":
        await target.delete(f"{path.strip('/')}/zarr.json".lstrip("/"))
    else:
        await target.delete_dir(path.strip("/"))


async def copy_key(key: str, source: icechunk.IcechunkStore, target: icechunk.IcechunkStore) -> None:
    """Copy what lies under a key as raw bytes, or delete it where nothing does."""
    value = await source.get(key, default_buffer_prototype())
    await (target.delete(key) if value is None else target.set(key, value))
