"""Reads from icechunk's transaction logs what each version touched, and remembers it in memory.

A log names nodes by their ids, which stay when a node is moved and are new when an array is made anew. No data and no
chunk tables are read.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import batched, chain
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
from zarr.core.sync import sync

from icemagic.nodes import together
from icemagic.records import Version

if TYPE_CHECKING:
    import icechunk

_BATCH = 64
_OTHERS = ("new_groups", "updated_groups", "deleted_groups", "deleted_arrays")
_ROOM = 16_000_000
"""Most numbers (of 4 bytes) that are remembered of one repository."""
_EACH = 256
"""What one version takes up besides its chunks, in such numbers."""


@dataclass(frozen=True, eq=False)
class Touch:
    """What one version touched."""

    chunks: Mapping[str, np.ndarray[Any, np.dtype[np.int32]]]
    """Id of an array to the numbers of its chunks that were written, deleted or cut off; shape (chunks, dimensions)."""
    made: frozenset[str]
    """Ids of the arrays that are new."""
    redefined: frozenset[str]
    """Ids of the arrays whose metadata changed: shape, attributes and so on."""
    others: frozenset[str]
    """Ids of the groups that are new or changed, and of all nodes that are gone."""
    moved: Mapping[str, str]
    """Path of a group or array to the path that it had before."""
    nodes_came_or_went: bool
    """Whether any group or array is new, moved or gone."""
    follows_expired: bool
    """Whether versions before it expired; it then stands for all that they and it touched."""

    def path_before(self, path: str) -> str:
        """Return where what is now at a path, or would be, was before: it may have moved with a group around it."""
        at = path
        while at not in self.moved:
            at = at.rpartition("/")[0]
            if not at:
                return path
        return self.moved[at] + path[len(at) :]

    @property
    def size(self) -> int:
        """How much of the room it takes up."""
        return _EACH + sum(numbers.size for numbers in self.chunks.values())


class _Memory:
    """What is known of one repository; what was asked for longest ago is forgotten first."""

    def __init__(self) -> None:
        # By id and parent: when versions expire, the one after them gets another parent, and one log of them all.
        self._known: OrderedDict[tuple[str, str | None], Touch] = OrderedDict()
        self.taken = 0

    def get(self, version: Version) -> Touch | None:
        key = (version.id, version.parent)
        if key in self._known:
            self._known.move_to_end(key)
        return self._known.get(key)

    def keep(self, version: Version, touch: Touch) -> None:
        self._known[version.id, version.parent] = touch
        self.taken += touch.size
        while self.taken > _ROOM:
            _, forgotten = self._known.popitem(last=False)
            self.taken -= forgotten.size


_memories: WeakKeyDictionary[icechunk.Repository, _Memory] = WeakKeyDictionary()


def touches(repo: icechunk.Repository, versions: Iterable[Version]) -> Iterator[tuple[Version, Touch]]:
    """Yield versions with what each touched, in the given order; logs are read a few at a time, as they are asked for.

    Parameters
    ----------
    repo : icechunk.Repository
    versions : iterable of Version
        Without icechunk's empty root snapshot, which in format 1 has no log.
    """
    memory = _memories.setdefault(repo, _Memory())
    for batch in batched(versions, _BATCH):
        known = [memory.get(version) for version in batch]
        missing = [version for version, touch in zip(batch, known, strict=True) if touch is None]
        read = dict(zip(missing, sync(together(_read(repo, version.id) for version in missing)), strict=True))
        for version, touch in read.items():
            memory.keep(version, touch)
        yield from ((version, touch or read[version]) for version, touch in zip(batch, known, strict=True))


async def _read(repo: icechunk.Repository, snapshot_id: str) -> Touch:
    log = await repo.inspect_transaction_log_async(snapshot_id)
    came_or_went = ("new_groups", "new_arrays", "deleted_groups", "deleted_arrays", "moved_nodes")
    return Touch(
        chunks={entry["node_id"]: _numbers(entry["chunks"]) for entry in log["updated_chunks"]},
        made=frozenset(log["new_arrays"]),
        redefined=frozenset(log["updated_arrays"]),
        others=frozenset(chain(*(log[kind] for kind in _OTHERS))),
        moved={pair["to"]: pair["from"] for pair in log["moved_nodes"]},
        nodes_came_or_went=any(log[kind] for kind in came_or_went),
        follows_expired="synthetic_composite" in log,
    )


def _numbers(chunks: list[list[int]]) -> np.ndarray[Any, np.dtype[np.int32]]:
    dimensions = len(chunks[0]) if chunks else 0
    return np.array(chunks, dtype=np.int32).reshape(len(chunks), dimensions)
