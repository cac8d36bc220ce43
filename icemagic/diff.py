"""Compares two states of a store: structure and chunk tables without reading data, and on demand values.

Metadata and chunk tables are compared directly, so any two states can be: versions in any order and on any branches, a
transaction under way, states of another repository. Within one repository only those nodes are looked at that icechunk
knows to have changed between the newest common version and either side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import inf
from typing import TYPE_CHECKING

import icechunk
from zarr.core.sync import sync

from icemagic import arraydiff, history, identical, structure
from icemagic.arraydiff import Pair, State
from icemagic.coordinates import Labels
from icemagic.differences import ArrayDiff, Change, Diff
from icemagic.errors import SelectionError, did_you_mean
from icemagic.nodes import dimension_names, is_within, node_paths, read_metadata, read_nodes
from icemagic.selecting import region_of
from icemagic.storage import same_place

if TYPE_CHECKING:
    from icemagic.nodes import Node
    from icemagic.records import Version
    from icemagic.selecting import Selection
    from icemagic.values import Tolerance

UNCOMMITTED = "uncommitted changes"
"""What a record calls the work of an open transaction."""


@dataclass(frozen=True)
class Side:
    """One side of a comparison."""

    name: str
    """What the record calls it."""
    repo: icechunk.Repository
    session: icechunk.Session
    """Reads it; writable, where it has uncommitted changes."""

    @property
    def store(self) -> icechunk.IcechunkStore:
        """The store of its session."""
        return self.session.store

    def pending(self) -> set[str]:
        """Return the paths of what is not committed."""
        return set() if self.session.read_only else paths_of(self.session.status())


@dataclass(frozen=True)
class Question:
    """What a comparison is asked for."""

    array: str | None = None
    """Path of the one array, or the group with all in it, that is compared."""
    selection: Selection = field(default_factory=dict)
    """The region that is compared, in coordinates of the second side."""
    values: Tolerance | None = None
    """Given, values are compared, too."""
    tick: Callable[[int, int], None] | None = None
    """Told how many values were compared, of how many at most."""


def version_side(repo: icechunk.Repository, snapshot_id: str, name: str) -> Side:
    """Return a snapshot as a side."""
    return Side(name, repo, repo.readonly_session(snapshot_id=snapshot_id))


def between(
    repo: icechunk.Repository, a: str, b: str, *, names: tuple[str, str], question: Question | None = None
) -> Diff:
    """Compare two snapshots, in any order and on any branches; `names` is what the record calls them."""
    return compare(version_side(repo, a, names[0]), version_side(repo, b, names[1]), question)


def of_version(repo: icechunk.Repository, version: Version, question: Question | None = None) -> Diff | None:
    """Compare a version with the one before it; None where that one expired."""
    if version.parent is None or follows_expired(repo, version):
        return None
    names = (history.title(repo, version.parent), version.summary())
    return between(repo, version.parent, version.id, names=names, question=question)


def follows_expired(repo: icechunk.Repository, version: Version) -> bool:
    """Whether versions before this one expired; icechunk then keeps one log of all that they and this one changed."""
    return "synthetic_composite" in repo.inspect_transaction_log(version.id)


def compare(a: Side, b: Side, question: Question | None = None) -> Diff:
    """Compare two sides.

    Raises
    ------
    SelectionError
        When neither side has the array that is asked for, or the second one has not the region.
    """
    question = question or Question()
    paths = _paths(a, b)
    if question.array is not None:
        _refuse_unknown(question.array, (a, b))
        paths = {path for path in paths if is_within(path, question.array)}
    before, after = (sync(read_nodes(side.store, paths)) for side in (a, b))
    pairs = _pairs(before, after, _moves(a, b, before, after))
    if question.selection:
        pairs = _selected(pairs, b, question)
    found = _identical(pairs, a, b)
    pairs = [_with_identical(pair, found.same.get(_places(pair), set()), related=_related(a, b)) for pair in pairs]
    states = _state(a, found.read[0]), _state(b, found.read[1])
    return Diff(
        a=a.name,
        b=b.name,
        arrays=_arrays(pairs, states, question),
        groups={} if question.selection else _groups(pairs),
        attributes=() if question.selection else _attributes(pairs),
    )


def of_nodes(before: Mapping[str, Node], after: Mapping[str, Node], *, names: tuple[str, str]) -> Diff:
    """Compare what is known of two states of one repository, by path; places are not said."""
    pairs = _pairs(before, after, {})
    arrays = (arraydiff.compare(pair)[0] for pair in pairs if pair.last.is_array)
    differing = tuple(array for array in arrays if array.status != arraydiff.SAME)
    return Diff(*names, arrays=differing, groups=_groups(pairs), attributes=_attributes(pairs))


def rewritten(base: icechunk.Session, session: icechunk.Session) -> dict[str, set[tuple[int, ...]]]:
    """Return the chunks of each array that a session wrote with the bytes that they had before."""
    paths, stores = session.status().updated_chunks, (base.store, session.store)
    old, new = (sync(read_nodes(store, paths)) for store in stores)
    both = {(path, path): (old[path], new[path]) for path in old.keys() & new.keys()}
    return {path: found for (path, _), found in identical.chunks(stores, both).same.items()}


# -- what to look at ---------------------------------------------------------------------------------------------------


def _paths(a: Side, b: Side) -> set[str]:
    """Return the paths of all nodes that may differ."""
    if not _related(a, b):
        return node_paths(a.store) | node_paths(b.store)
    try:
        committed = touched(a.repo, a.session.snapshot_id, b.session.snapshot_id)
    except icechunk.SnapshotNotFoundError:  # open work may stand on a version that expired
        return node_paths(a.store) | node_paths(b.store)
    return committed | a.pending() | b.pending()


def _related(a: Side, b: Side) -> bool:
    """Whether both sides are of one repository."""
    return a.repo is b.repo or same_place(a.repo, b.repo)


def touched(repo: icechunk.Repository, a: str, b: str) -> set[str]:
    """Return the paths of all nodes that may differ between two snapshots."""
    if a == b:
        return set()
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


def _refuse_unknown(wanted: str, sides: tuple[Side, Side]) -> None:
    if all(sync(read_metadata(side.store, wanted.strip("/"))) is None for side in sides):
        known = {path.lstrip("/") for side in sides for path in node_paths(side.store)}
        raise SelectionError(f"Neither side has an array or group {wanted!r}.", did_you_mean(wanted, known))


def _moves(a: Side, b: Side, before: Mapping[str, Node], after: Mapping[str, Node]) -> dict[str, str]:
    """Return new to old path of the nodes that were moved: icechunk gives a node an id that it keeps."""
    if not _related(a, b):
        return {}
    gone, come = before.keys() - after.keys(), after.keys() - before.keys()
    if not gone or not come:
        return {}
    ids = {a.session.get_node_id(path): path for path in gone}
    moved = {path: ids.get(b.session.get_node_id(path)) for path in come}
    return {new: old for new, old in moved.items() if old is not None}


def _pairs(before: Mapping[str, Node], after: Mapping[str, Node], moves: Mapping[str, str]) -> list[Pair]:
    """Return what stands on both sides, or on one, in order of path."""
    pairs = []
    for path in sorted((before.keys() | after.keys()) - set(moves.values())):
        old_path = moves.get(path, path)
        old, new = before.get(old_path), after.get(path)
        if old and new and old.is_array != new.is_array:
            # An array that took the place of a group, or the other way round, is one removed and one added.
            pairs += [Pair(old_path, None, old, None), Pair(None, path, None, new)]
        else:
            pairs.append(Pair(old_path if old else None, path if new else None, old, new))
    return pairs


def _selected(pairs: list[Pair], b: Side, question: Question) -> list[Pair]:
    """Return the arrays that have the dimensions of the selection, with the region that it means in them."""
    wanted = set(question.selection)
    fitting = [pair for pair in pairs if pair.last.is_array and wanted <= set(dimension_names(pair.last.metadata))]
    if not fitting:
        nodes = sync(read_nodes(b.store, node_paths(b.store))).values()
        known = {name for node in nodes for name in dimension_names(node.metadata) if name}
        if unknown := wanted - known:
            hint = did_you_mean(min(unknown), known) or "None has a dimension with a name."
            raise SelectionError(f"No array has a dimension {min(unknown)!r}.", hint)
    return [replace(pair, within=region_of(b.store, pair.path, question.selection)) for pair in fitting if pair.new]


# -- the answer --------------------------------------------------------------------------------------------------------


def _identical(pairs: list[Pair], a: Side, b: Side) -> identical.Found:
    """Find the chunks that were replaced by the same bytes.

    Of two versions only few chunks are looked at, so that no data are read where many were replaced. Between two
    repositories all references differ, so all chunks of equal length are read.
    """
    both = {
        (pair.old_path, pair.new_path): (pair.old, pair.new)
        for pair in pairs
        if pair.old_path and pair.new_path and pair.old and pair.new
    }
    if not _related(a, b):
        return identical.chunks((a.store, b.store), both)
    committed = a.session.read_only and b.session.read_only
    most_chunks = identical.MOST_CHUNKS if committed else inf
    return identical.chunks((a.store, b.store), both, most_bytes=identical.MOST_BYTES, most_chunks=most_chunks)


def _with_identical(pair: Pair, chunks: set[tuple[int, ...]], *, related: bool) -> Pair:
    """Return an array with what is known of some chunks; what is the same in two repositories was not replaced."""
    if related or not chunks:
        return replace(pair, identical=frozenset(chunks))
    assert pair.old is not None
    assert pair.new is not None
    known = {**pair.old.chunks, **{at: pair.new.chunks[at] for at in chunks}}
    return replace(pair, old=replace(pair.old, chunks=known))


def _state(side: Side, read: Mapping[str, bytes]) -> State:
    return State(identical.Remembering(side.store, read) if read else side.store, Labels(side.store))


def _places(pair: Pair) -> tuple[str, str]:
    return pair.old_path or "", pair.new_path or ""


def _arrays(pairs: list[Pair], states: tuple[State, State], question: Question) -> tuple[ArrayDiff, ...]:
    found = [(pair, *arraydiff.compare(pair)) for pair in pairs if pair.last.is_array]
    if question.values is None:
        return tuple(
            replace(array, **arraydiff.places(pair, chunks, *states))
            for pair, array, chunks in found
            if array.status != arraydiff.SAME
        )
    work = [(array, arraydiff.work(pair, chunks, question.values)) for pair, array, chunks in found]
    tick = _ticker(question, sum(todo.size for _, todo in work if todo))
    compared = (
        replace(array, **arraydiff.values(todo, *states, question.values, tick)) if todo else array
        for array, todo in work
    )
    return tuple(filter(None, map(_unless_same, compared)))


def _unless_same(array: ArrayDiff) -> ArrayDiff | None:
    """Return an array that differs; it may do so by an attribute alone that says what its numbers mean."""
    if array.status != arraydiff.SAME:
        return array
    return replace(array, status="changed") if array.changed_values else None


def _ticker(question: Question, total: int) -> Callable[[int], None]:
    done = 0

    def tick(more: int) -> None:
        nonlocal done
        done += more
        if question.tick:
            question.tick(done, total)

    return tick


def _attributes(pairs: list[Pair]) -> tuple[Change, ...]:
    return tuple(
        change
        for pair in pairs
        if pair.old and pair.new
        for change in structure.changes(
            pair.path, *(node.metadata.get("attributes", {}) for node in (pair.old, pair.new))
        )
    )


def _groups(pairs: list[Pair]) -> dict[str, str]:
    """Return what came of each group that is not where it was."""
    found = {}
    for pair in pairs:
        if pair.last.is_array:
            continue
        if pair.old is None or pair.new is None:
            found[pair.path] = "added" if pair.old is None else "removed"
        elif pair.old_path != pair.new_path:
            found[pair.path] = f"moved from {(pair.old_path or '').lstrip('/')}"
    return found
