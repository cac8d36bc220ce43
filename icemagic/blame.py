"""Says which version last wrote each chunk of an array, how many versions did, and what is stored.

It follows from the transaction logs of the versions and the chunk table of one; no data are read. What counts:

- A version writes a chunk when its log names it, with identical bytes too. Deleting a chunk, or cutting it off, counts
  as well: nothing is stored then, and it reads as the fill value.
- A merge writes what it merged in. An array made anew starts anew; moving or resizing it changes nothing.
- Of versions that expired, icechunk keeps one log with that of the version after them, which stands for all of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from zarr.core.sync import sync

from icemagic import coordinates, history, provenance, selecting
from icemagic.attribution import Blame, Dimension, Numbers, Why
from icemagic.coordinates import Box
from icemagic.errors import SelectionError
from icemagic.nodes import Chunks, chunk_shape, dimension_names, find_array, read_nodes
from icemagic.records import Version
from icemagic.touches import Touch, touches

if TYPE_CHECKING:
    import icechunk

    from icemagic.selecting import Selection

_CELLS = 3
"""Most cells that are shown of what wrote a region."""


def blame(repo: icechunk.Repository, snapshot_id: str, path: str, selection: Selection | None = None) -> Blame:
    """Return which version last wrote each chunk of an array, of the chunks that it has in a snapshot.

    Parameters
    ----------
    repo : icechunk.Repository
    snapshot_id : str
        Up to which version; not icechunk's empty root snapshot.
    path : str
        Path of the array.
    selection : Selection, optional
        Only the chunks that this region cuts.

    Raises
    ------
    SelectionError
        When the array or the region is not there.
    """
    session = repo.readonly_session(snapshot_id=snapshot_id)
    wanted = find_array(session.store, path)
    node = sync(read_nodes(session.store, [wanted]))[wanted]
    shape, chunk = node.metadata["shape"], chunk_shape(node.metadata)
    if node.metadata["chunk_grid"]["name"] != "regular":
        raise SelectionError(f"{path!r} has chunks of different sizes, which blame cannot name.")
    region = tuple(map(range, shape))
    if selection:
        region = selecting.region_of(session.store, wanted, selection)
    grid = tuple(range(side.start // size, -(-side.stop // size)) for side, size in zip(region, chunk, strict=True))
    node_id = session.get_node_id(wanted)
    line = _line(repo, snapshot_id, node_id)
    found = _tally(line, node_id, grid, node.chunks)
    return Blame(
        path=wanted.lstrip("/"),
        at=line[-1][0],
        dimensions=tuple(
            _labelled(session.store, wanted, Dimension(*side))
            for side in zip(dimension_names(node.metadata), shape, chunk, grid, strict=True)
        ),
        total=prod(-(-length // size) for length, size in zip(shape, chunk, strict=True)),
        versions=found.versions,
        follows_expired=found.follows_expired,
        writers=found.writers,
        writes=found.writes,
        stored=found.stored,
    )


def why(repo: icechunk.Repository, snapshot_id: str, path: str, selection: Selection | None = None) -> Why:
    """Return which versions last wrote a region of an array, and how the newest of them came about.

    Parameters and errors are those of :func:`blame`.
    """
    found = blame(repo, snapshot_id, path, selection)
    newest = found.last_writers()[:_CELLS]
    return Why(found, tuple((version, provenance.origin(repo, version.id)) for version in newest))


def _line(repo: icechunk.Repository, snapshot_id: str, node_id: str) -> list[tuple[Version, Touch]]:
    """Return the versions from the one that made an array, oldest first."""
    line = []
    for version, touch in touches(repo, history.versions(repo, snapshot_id)):
        line.append((version, touch))
        if node_id in touch.made:
            break
    return line[::-1]


def _labelled(store: icechunk.IcechunkStore, path: str, dim: Dimension) -> Dimension:
    """Return a dimension with the labels of its chunks."""
    first = [number * dim.chunk for number in dim.numbers]
    last = [min(start + dim.chunk, dim.length) - 1 for start in first]
    labels = coordinates.labels(store, path, dim.name, dim.length, first + last)
    return dim if labels is None else replace(dim, first=labels[: len(first)], last=labels[len(first) :])


@dataclass(frozen=True)
class _Tally:
    """Which version wrote what of a grid; the fields are those of :class:`Blame`."""

    versions: tuple[Version, ...]
    follows_expired: bool
    writers: Numbers
    writes: Numbers
    stored: Numbers


def _tally(line: list[tuple[Version, Touch]], node_id: str, grid: Box, chunks: Chunks) -> _Tally:
    shape = tuple(map(len, grid))
    writers, writes, stored = np.full(prod(shape), -1), np.zeros(prod(shape), dtype=int), np.full(prod(shape), -1)
    at, known = _inside(np.array([*chunks], dtype=int).reshape(len(chunks), len(shape)), grid)
    stored[at] = np.array([length for _, length in chunks.values()], dtype=int)[known]
    versions: list[Version] = []
    for version, touch in line:
        if node_id in touch.chunks and (at := _inside(touch.chunks[node_id], grid)[0]).size:
            writers[at] = len(versions)
            writes[at] += 1
            versions.append(version)
    oldest, touch = line[0]
    # Format 1 keeps no log of versions that expired: what no log names was written by them.
    nobodys = (stored >= 0) & (writers < 0)
    if nobodys.any() and versions[:1] != [oldest]:
        versions.insert(0, oldest)
        writers[writers >= 0] += 1
    writers[nobodys], writes[nobodys] = 0, 1
    expired = versions[:1] == [oldest] and (touch.follows_expired or bool(nobodys.any()))
    return _Tally(tuple(versions), expired, *(one.reshape(shape) for one in (writers, writes, stored)))


def _inside(chunks: np.ndarray[Any, Any], grid: Box) -> tuple[Numbers, np.ndarray[Any, np.dtype[np.bool_]]]:
    """Return where chunks lie in a flattened part of the grid, and which of them lie in it at all."""
    shape = np.array([len(side) for side in grid], dtype=int)
    inner = chunks - np.array([side.start for side in grid], dtype=int)
    known = ((inner >= 0) & (inner < shape)).all(axis=1)
    steps = np.array([prod(shape[axis + 1 :].tolist()) for axis in range(len(shape))], dtype=int)
    return inner[known] @ steps, known
