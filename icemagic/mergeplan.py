"""What a merge is asked for, and what it comes to: choices, conflicts, and the plan that brings theirs into ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from icemagic import chunkmerge, coordinates, merge
from icemagic.chunkmerge import Mix, Stores
from icemagic.merge import Edit, Side, attributes_of, definition, differing_chunks
from icemagic.nodes import ENCODING, Node, comparable
from icemagic.structure import dtype_words

if TYPE_CHECKING:
    import icechunk

_SHOWN = 4


@dataclass(frozen=True)
class Choices:
    """Which side wins where both changed the same."""

    everything: Side | None = None
    arrays: Mapping[str, Side] = field(default_factory=dict)
    """Path of a node, or of a dimension, with a leading slash, to the side that wins there."""

    def of(self, path: str) -> Side | None:
        """Return the side that wins for a node or for the rows of a dimension."""
        return self.arrays.get(path, self.everything)


@dataclass(frozen=True)
class Conflict:
    """What both sides changed differently in one place."""

    path: str
    """Path of a node, or of a dimension, with a leading slash."""
    what: str
    """The place in words that follow the name of the node."""
    kind: str
    """What is in conflict in a few words, such as ``60 values`` or ``attribute units``."""
    sides: tuple[str, str]
    """What ours and theirs have there."""
    solved: Side | None = None
    """The side that was chosen."""
    appended: int | None = None
    """Position of the first row, where both sides appended rows of their own to a named dimension."""

    @property
    def name(self) -> str:
        """Path without the leading slash."""
        return self.path.lstrip("/") or "/"

    def words(self) -> str:
        """Say what is in conflict and where."""
        return f"{self.name} {self.what}"


@dataclass(frozen=True)
class Plan:
    """What brings theirs into ours."""

    stores: Stores
    edits: tuple[Edit, ...]
    mixes: tuple[Mix, ...]
    conflicts: tuple[Conflict, ...]
    notes: tuple[str, ...]
    """What else is worth knowing, one sentence each."""
    before: Mapping[str, Node]
    """The nodes that the edits change, as they are in ours."""
    after: Mapping[str, Node]
    """The same as they will be; chunks to be merged count as changed and have no length yet."""

    @property
    def unsolved(self) -> tuple[Conflict, ...]:
        """The conflicts for which no side was chosen."""
        return tuple(conflict for conflict in self.conflicts if conflict.solved is None)

    def say(self, by: Mapping[str, str] = MappingProxyType({})) -> str:
        """Say the conflicts that are not solved, with what `by` says of a path; of many only the first few."""
        said = [f"{conflict.words()}{by.get(conflict.path, '')}" for conflict in self.unsolved[:_SHOWN]]
        more = [f"and {len(self.unsolved) - _SHOWN:,} more"] if len(self.unsolved) > _SHOWN else []
        return "; ".join(said + more)

    def apply(self, target: icechunk.IcechunkStore) -> None:
        """Do it in a writable state that is as ours."""
        merge.apply(self.edits, self.stores.theirs, target)
        for mix in self.mixes:
            chunkmerge.write(self.stores, mix, target)


def incomparable(base: Node | None, ours: Node, theirs: Node) -> str:
    """Say what forbids to merge two changed nodes part by part; an empty text where nothing does."""
    if base is not None and base.is_array != ours.is_array:
        return "its creation"
    if not ours.is_array:
        return ""
    if definition(ours) != definition(theirs):
        return "its creation" if base is None else "its definition"
    if ours.metadata["chunk_grid"]["name"] != "regular":
        return "its chunks, which are of several sizes"
    key = next((key for key in ENCODING if _recoded(key, base, ours, theirs)), None)
    return f"attribute {key}, without which its numbers mean something else" if key else ""


def _recoded(key: str, base: Node | None, ours: Node, theirs: Node) -> bool:
    """Whether an attribute means that the numbers of two sides do not go into one array."""
    a, b, c = (comparable(attributes_of(node), key) for node in (base, ours, theirs))
    if b == c:
        return False
    return base is None or a not in (b, c) or _wrote(theirs if a == c else ours, base)


def _wrote(side: Node, base: Node) -> bool:
    return side.metadata["shape"] != base.metadata["shape"] or bool(differing_chunks(side, base))


def is_coordinate(node: Node | None, length: int | None) -> bool:
    """Whether a node is a coordinate of some length, or neither is there."""
    if node is None or length is None:
        return node is None and length is None
    return node.is_array and list(node.metadata["shape"]) == [length]


def beside(path: str, name: str) -> str:
    """Return the path of another node in the group of one."""
    return f"/{coordinates.beside(path, name)}"


def node_words(node: Node | None) -> str:
    """Say in a few words what a node is."""
    if node is None:
        return "not there"
    if not node.is_array:
        return "a group"
    shape = " × ".join(f"{length:,}" for length in node.metadata["shape"])
    return f"{shape} {dtype_words(node.metadata)}".lstrip()
