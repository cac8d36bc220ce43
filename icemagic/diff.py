"""Compares two states of a store by their metadata and chunk tables, without reading data.

icechunk's own ``diff`` knows which nodes one line of history touched. Every two versions share an ancestor (if only
the empty root), so the nodes that may differ are those touched between it and either side; their metadata and chunk
tables are then compared directly. That works in both directions and across sibling branches.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from itertools import accumulate, compress
from math import inf
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from zarr.abc.store import RangeByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from icemagic import history
from icemagic.differences import ArrayDiff, Change, Diff
from icemagic.nodes import Node, chunk_key, chunk_shape, read_nodes, together, total_chunks
from icemagic.records import Version

if TYPE_CHECKING:
    import icechunk


def between(repo: icechunk.Repository, a: str, b: str, *, names: tuple[str, str]) -> Diff:
    """Compare two snapshots, in any order and on any branches.

    Parameters
    ----------
    repo : icechunk.Repository
    a, b : str
        Snapshot ids.
    names : tuple of str
        What the two sides are called in the record.
    """
    paths = touched(repo, a, b) if a != b else set()
    sides = (repo.readonly_session(snapshot_id=snapshot).store for snapshot in (a, b))
    return of_nodes(*(sync(read_nodes(store, paths)) for store in sides), names=names)


def of_version(repo: icechunk.Repository, version: Version) -> Diff | None:
    """Compare a version with the one before it; None where that one expired."""
    if version.parent is None or follows_expired(repo, version):
        return None
    names = (history.title(repo, version.parent), version.summary())
    return between(repo, version.parent, version.id, names=names)


COMPARED = 64_000_000
"""Most bytes of chunks that are read to tell those apart that were written with the bytes they had."""
_BEGINNING = 4_096


def follows_expired(repo: icechunk.Repository, version: Version) -> bool:
    """Whether versions before this one expired; icechunk then keeps one log of all that they and this one changed."""
    return "synthetic_composite" in repo.inspect_transaction_log(version.id)


def working(base: icechunk.Session, session: icechunk.Session, *, name: str) -> Diff:
    """Compare the uncommitted changes of a session with the snapshot `name` that it stands on and `base` reads."""
    paths = paths_of(session.status())
    before, after = (sync(read_nodes(one.store, paths)) for one in (base, session))
    same = rewritten(base, session, most=COMPARED)
    return of_nodes(before, after, names=(name, "uncommitted changes"), same=same)


def rewritten(
    base: icechunk.Session, session: icechunk.Session, *, most: float = inf
) -> dict[str, set[tuple[int, ...]]]:
    """Return the chunks of each array that a session wrote with the bytes that they had before.

    Only chunks of the same stored length are read, which compressed ones hardly ever have by chance, and of these at
    most `most` bytes.
    """
    paths, stores = session.status().updated_chunks, (base.store, session.store)
    old, new = (sync(read_nodes(store, paths)) for store in stores)
    alike = [(path, at) for path in sorted(old.keys() & new.keys()) for at in _alike(old[path], new[path])]
    upto = accumulate(new[path].chunks[at][1] for path, at in alike)
    read = [place for place, total in zip(alike, upto, strict=True) if total <= most]
    same = sync(together(_same_bytes(chunk_key(path, at), new[path].chunks[at][1], stores) for path, at in read))
    found: dict[str, set[tuple[int, ...]]] = defaultdict(set)
    for path, at in compress(read, same):
        found[path].add(at)
    return dict(found)


def _alike(old: Node, new: Node) -> list[tuple[int, ...]]:
    """Return the chunks whose references differ and whose stored lengths do not."""
    if not old.is_array or not new.is_array or old.metadata["codecs"] != new.metadata["codecs"]:
        return []
    both = old.chunks.keys() & new.chunks.keys()
    return sorted(at for at in both if old.chunks[at] != new.chunks[at] and old.chunks[at][1] == new.chunks[at][1])


async def _same_bytes(key: str, length: int, stores: tuple[icechunk.IcechunkStore, icechunk.IcechunkStore]) -> bool:
    """Whether two stores hold the same under a key; where the beginnings differ, no more is read."""
    for end in sorted({min(length, _BEGINNING), length}):
        part = RangeByteRequest(0, end)
        one, other = [await store.get(key, default_buffer_prototype(), part) for store in stores]
        if one is None or other is None or one.to_bytes() != other.to_bytes():
            return False
    return True


def touched(repo: icechunk.Repository, a: str, b: str) -> set[str]:
    """Return the paths of all nodes that may differ between two snapshots."""
    line = {info.id for info in repo.ancestry(snapshot_id=a)}
    base = next(info.id for info in repo.ancestry(snapshot_id=b) if info.id in line)
    sides = (side for side in (a, b) if side != base)
    return {path for side in sides for path in paths_of(repo.diff(from_snapshot_id=base, to_snapshot_id=side))}


def paths_of(diff: icechunk.Diff) -> set[str]:
    """Return the paths of all nodes that icechunk says were touched, with a leading slash."""
    moved = {path for pair in diff.moved_nodes for path in pair}
    return moved.union(
        diff.new_groups,
        diff.new_arrays,
        diff.deleted_groups,
        diff.deleted_arrays,
        diff.updated_groups,
        diff.updated_arrays,
        diff.updated_chunks,
    )


def of_nodes(
    before: Mapping[str, Node],
    after: Mapping[str, Node],
    *,
    names: tuple[str, str],
    same: Mapping[str, set[tuple[int, ...]]] = MappingProxyType({}),
) -> Diff:
    """Compare nodes, given by path; `same` are the chunks of each array that are known to hold the same bytes."""
    arrays, groups, attributes = [], {}, []
    for path in sorted(before.keys() | after.keys()):
        a, b = before.get(path), after.get(path)
        name = path.lstrip("/") or "/"
        # An array that took the place of a group, or the other way round, is one removed and one added.
        both = a is not None and b is not None and a.is_array == b.is_array
        for node, status in ((a, "removed"), (b, "added")):
            if both or node is None:
                continue
            if node.is_array:
                arrays.append(_one_sided(name, node, status))
            else:
                groups[name] = status
        if a is not None and b is not None and both:
            attributes += _changes(name, a.metadata.get("attributes", {}), b.metadata.get("attributes", {}))
            if a.is_array and (array := _two_sided(name, a, b, same.get(path, set()))):
                arrays.append(array)
    return Diff(a=names[0], b=names[1], arrays=tuple(arrays), groups=groups, attributes=tuple(attributes))


def _one_sided(name: str, node: Node, status: str) -> ArrayDiff:
    written = sum(length for _, length in node.chunks.values()) if status == "added" else 0
    return ArrayDiff(name, status, len(node.chunks), total_chunks(node.metadata, node.chunks), written)


def _two_sided(name: str, a: Node, b: Node, same: set[tuple[int, ...]]) -> ArrayDiff | None:
    if chunk_shape(a.metadata) == chunk_shape(b.metadata):
        changed = {at for at in a.chunks.keys() | b.chunks.keys() if a.chunks.get(at) != b.chunks.get(at)}
    else:
        changed = set(b.chunks)  # on another grid no chunk is comparable: all of them were written
    changed -= same
    written = sum(b.chunks[at][1] for at in changed if at in b.chunks)
    changes = _changes(name, *(_properties(node.metadata) for node in (a, b)))
    if not (changed or changes or same):
        return None
    status = "changed" if changed or changes else "rewritten"
    if a.metadata["shape"] != b.metadata["shape"]:
        status = "resized"
    total = total_chunks(b.metadata, b.chunks)
    return ArrayDiff(name, status, len(changed), total, written, tuple(changes), len(same))


def _properties(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return what defines an array besides its attributes, in a person's words."""
    return {
        "shape": tuple(metadata["shape"]),
        "dtype": dtype_words(metadata),
        "chunks": chunk_shape(metadata),
        "codecs": codec_words(metadata),
        "fill value": metadata["fill_value"],
        "dimensions": tuple(metadata.get("dimension_names") or ()),
    }


def dtype_words(metadata: Mapping[str, Any]) -> str:
    """Say the data type of an array; types with settings, such as ``numpy.datetime64``, get them in brackets."""
    data_type = metadata["data_type"]
    if isinstance(data_type, str):
        return data_type
    return f"{data_type['name']}[{', '.join(map(str, data_type.get('configuration', {}).values()))}]"


def codec_words(metadata: Mapping[str, Any]) -> str:
    """Say the codecs of an array in one line, such as ``zstd level 5``."""
    return ", ".join(_codec_word(codec) for codec in metadata["codecs"] if codec["name"] != "bytes") or "none"


def _codec_word(codec: Mapping[str, Any]) -> str:
    settings = codec.get("configuration", {})
    level = next((settings[key] for key in ("level", "clevel") if key in settings), None)
    return str(codec["name"]) if level is None else f"{codec['name']} level {level}"


def _changes(path: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    keys = dict.fromkeys((*before, *after))
    differing = (key for key in keys if _text(before, key) != _text(after, key))
    return [Change(path, key, before.get(key), after.get(key)) for key in differing]


def _text(properties: Mapping[str, Any], key: str) -> str | None:
    """Return a value in a form that compares: NaN equals NaN, and absent differs from null."""
    return json.dumps(properties[key], sort_keys=True) if key in properties else None
