"""Lists the groups and arrays of a version, and what lies in storage under a repository."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import icechunk
from zarr.core.sync import sync

from icemagic.display import Lines, Report, Shown, Table, size
from icemagic.nodes import chunk_shape, read_chunks, read_metadata, total_chunks
from icemagic.structure import codec_words, dtype_words

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

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


@dataclass(frozen=True)
class Node:
    """One group or array of a tree."""

    path: str
    kind: str
    """``group`` or ``array``."""
    shape: tuple[int, ...] = ()
    dtype: str = ""
    chunks: tuple[int, ...] = ()
    dims: tuple[str, ...] = ()
    codecs: str = ""
    stored_chunks: int = 0
    """Chunks that were written; the others read as the fill value."""
    total_chunks: int = 0
    bytes: int = 0
    """Stored bytes of the chunks in this version."""


@dataclass(frozen=True)
class Kept:
    """One kind of files of a repository."""

    name: str
    meaning: str
    files: int
    bytes: int


@dataclass(frozen=True, repr=False)
class Tree(Shown):
    """Groups and arrays of one version, and what lies in storage under the repository."""

    title: str
    nodes: tuple[Node, ...]
    kept: tuple[Kept, ...]
    remark: str = ""
    """Why nothing is said of the storage, where that is so."""

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row a group or array, with the fields of ``Node``."""
        import pandas as pd

        return pd.DataFrame([vars(node) for node in self.nodes], columns=[column.name for column in fields(Node)])

    def _report(self) -> Report:
        rows = [self._row(node) for node in self.nodes]
        kept = [(kept.name, kept.meaning, f"{kept.files:,}", size(kept.bytes)) for kept in self.kept]
        return Report(
            self.title,
            (
                Table(("name", "shape", "dtype", "chunk", "codecs", "stored chunks", "stored"), tuple(rows)),
                Table(("in storage", "what it is", "files", "size"), tuple(kept)),
                Lines((self.remark,) if self.remark else ()),
            ),
        )

    @staticmethod
    def _row(node: Node) -> tuple[str, ...]:
        parts = node.path.strip("/").split("/")
        name = "/" if node.path == "/" else "  " * len(parts) + parts[-1]
        if node.kind == "group":
            return (f"{name}/" if node.path != "/" else name, "", "", "", "", "", "")
        dims = node.dims or ("",) * len(node.shape)
        shape = " × ".join(f"{dim} {length:,}".strip() for dim, length in zip(dims, node.shape, strict=True))
        chunk = " × ".join(f"{length:,}" for length in node.chunks)
        stored = f"{node.stored_chunks:,} of {node.total_chunks:,}"
        return (name, shape or "scalar", node.dtype, chunk, node.codecs, stored, size(node.bytes))


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
