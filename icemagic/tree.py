"""Lists the groups and arrays of a version, and what lies in storage under a repository."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import icechunk
from zarr.core.sync import sync

from icemagic.diff import chunk_shape, codec_words, dtype_words, read_chunks, read_metadata, total_chunks
from icemagic.records import Kept, Node, Tree

if TYPE_CHECKING:
    from collections.abc import Mapping

_MEANING = {
    "chunks": "chunk data: the values of all versions, each chunk once",
    "manifests": "metadata: which chunk lies where (and chunks small enough to lie in it)",
    "snapshots": "version snapshots: groups, arrays and attributes of each version",
    "transactions": "metadata: what each version changed",
    "repo": "metadata: branches, tags, messages and settings",
    "refs": "metadata: branches and tags (format 1)",
    "config.yaml": "metadata: settings (format 1)",
    "overwritten": "backups of the metadata file, one per operation",
    "icemagic.lock": "the lock that keeps writers apart",
}
_FOREIGN = "not icechunk's"


def tree(repo: icechunk.Repository, store: icechunk.IcechunkStore, *, title: str) -> Tree:
    """Return the nodes of the state that `store` reads and the files of `repo` in storage, by kind."""
    return Tree(title, sync(_nodes(store)), *kept(repo))


async def _nodes(store: icechunk.IcechunkStore) -> tuple[Node, ...]:
    nodes, open_paths = [], [""]
    while open_paths:
        path = open_paths.pop()
        metadata = await read_metadata(store, path)
        if metadata is None:
            continue
        if metadata["node_type"] == "array":
            nodes.append(await _array(store, path, metadata))
            continue
        nodes.append(Node(path or "/", "group"))
        names = [name async for name in store.list_dir(path) if name != "zarr.json"]
        open_paths += sorted((f"{path}/{name}".lstrip("/") for name in names), reverse=True)
    return tuple(nodes)


async def _array(store: icechunk.IcechunkStore, path: str, metadata: Mapping[str, Any]) -> Node:
    chunks = await read_chunks(store, f"/{path}")
    return Node(
        path=path or "/",
        kind="array",
        shape=tuple(metadata["shape"]),
        dtype=dtype_words(metadata),
        chunks=chunk_shape(metadata),
        dims=tuple(name or "" for name in metadata.get("dimension_names") or ()),
        codecs=codec_words(metadata),
        stored_chunks=len(chunks),
        total_chunks=total_chunks(metadata, chunks),
        bytes=sum(length for _, length in chunks.values()),
    )


def kept(repo: icechunk.Repository) -> tuple[tuple[Kept, ...], str]:
    """Return the files of a repository by kind, and a remark where they cannot be listed."""
    files: dict[str, list[int]] = defaultdict(list)
    try:
        for item in repo.storage.list_objects_metadata():
            files[item.key.split("/")[0]].append(item.size_bytes)
    except icechunk.StorageError:
        return (), "This storage does not let its files be listed."
    order = [name for name in _MEANING if name in files] + sorted(files.keys() - _MEANING.keys())
    return tuple(Kept(name, _MEANING.get(name, _FOREIGN), len(files[name]), sum(files[name])) for name in order), ""
