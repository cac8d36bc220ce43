"""Brings what theirs changed since a common state into ours, value by value, and says what both changed differently.

Base, ours and theirs are three states of one repository; ours is merged into. For each group and array:

- what only one side changed is taken from that side, chunks as raw bytes;
- of attributes each key is merged by itself, and of arrays each value (:mod:`icemagic.chunkmerge`);
- rows are merged where both sides mean the same ones (:mod:`icemagic.rowmerge`);
- what both made, made anew or removed alike is no conflict;
- an array that both changed, one of them in its definition (data type, chunks, codecs, fill value, dimension names) or
  in an attribute that says how its numbers are encoded, is a conflict as a whole;
- so is a node that one side removed and the other changed, and one that both made of different kinds;
- a node that was moved is one removed and one added: a conflict where the other side changed it;
- an array that only one side has gets fill values in rows that the other side appended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from zarr.core.sync import sync

from icemagic import diff
from icemagic.chunkmerge import At, Found, Mix, Stores, around, changes, examine
from icemagic.coordinates import words
from icemagic.decoding import decode
from icemagic.display import count, label
from icemagic.merge import (
    OTHER,
    Edit,
    Side,
    attributes_of,
    beyond,
    definition,
    differing_chunks,
    extent,
    groups_above,
    merged_attributes,
    parent_of,
    take,
)
from icemagic.mergeplan import Choices, Conflict, Plan, beside, incomparable, is_coordinate, node_words
from icemagic.nodes import Node, chunk_shape, dimension_names, read_nodes
from icemagic.rowmerge import Lengths, Rows, Three, judge

if TYPE_CHECKING:
    import icechunk

_SHOWN = 2


def plan(repo: icechunk.Repository, ids: tuple[str, str, str], *, choices: Choices, names: tuple[str, str]) -> Plan:
    """Return what brings theirs into ours, and what is in conflict; nothing is written.

    Parameters
    ----------
    repo : icechunk.Repository
    ids : tuple of str
        Snapshots of base, ours and theirs.
    choices : Choices
        Sides that win where both changed the same.
    names : tuple of str
        What ours and theirs are called.
    """
    base, ours, theirs = ids
    stores = Stores(*(repo.readonly_session(snapshot_id=snapshot).store for snapshot in ids))
    paths = set().union(*(diff.touched(repo, base, side) for side in (ours, theirs) if side != base))
    return _Comparison(stores, paths, choices, names).plan()


class _Comparison:
    """One comparison under way."""

    def __init__(self, stores: Stores, paths: set[str], choices: Choices, names: tuple[str, str]) -> None:
        self.stores, self.choices = stores, choices
        self.names: Mapping[Side, str] = {"ours": names[0], "theirs": names[1]}
        self.base, self.ours, self.theirs = (
            sync(read_nodes(store, paths)) for store in (stores.base, stores.ours, stores.theirs)
        )
        self.paths = sorted(self.base.keys() | self.ours.keys() | self.theirs.keys())
        self.rows: dict[tuple[str, int | None, Lengths], Rows] = {}
        self.edits: dict[str, Edit] = {}
        self.mixes: list[Mix] = []
        self.conflicts: list[Conflict] = []
        self.notes: list[str] = []
        self.put_together: set[str] = set()

    def plan(self) -> Plan:
        """Compare node by node, then see that rows and groups of what comes from two sides go together."""
        for path in self.paths:
            self._node(path, *self._three(path))
        for path in self.paths:
            self._fit_rows(path)
        for path in self.paths:
            self._fit_groups(path)
        self.conflicts += [
            self._rows_conflict(rows, has_name=axis is None)
            for (_, axis, _), rows in self.rows.items()
            if rows.conflict
        ]
        edits = [self.edits[path] for path in sorted(self.edits)]
        return Plan(
            self.stores,
            tuple(edits),
            tuple(self.mixes),
            tuple(sorted(self.conflicts, key=lambda conflict: conflict.path)),
            tuple(self.notes),
            {edit.path: self.ours[edit.path] for edit in edits if edit.path in self.ours},
            {edit.path: self._after(edit, edit.metadata) for edit in edits if edit.metadata is not None},
        )

    def _three(self, path: str) -> Three:
        return self.base.get(path), self.ours.get(path), self.theirs.get(path)

    # -- nodes ---------------------------------------------------------------------------------------------------------

    def _node(self, path: str, base: Node | None, ours: Node | None, theirs: Node | None) -> None:
        rows = self._rows_of(path)
        we, they = ours != base, theirs != base
        if ours == theirs:
            return
        if ours is None or theirs is None or ours.is_array != theirs.is_array:
            what = "its creation" if base is None else "its removal"
        elif (we and they) or any(one.conflict for one in rows):
            what = incomparable(base, ours, theirs)
        else:
            what = "nothing"
        if not what and ours and theirs:
            self._parts(path, base, ours, theirs, rows)
        elif they and (not we or self._is_rewritten(path, "ours")):
            self.edits[path] = take(path, theirs, ours)
        elif we and they and not self._is_rewritten(path, "theirs"):
            self._whole(path, what)

    def _is_rewritten(self, path: str, side: Side) -> bool:
        """Whether a side wrote an array, but only the values that it had."""
        base, after = self.base.get(path), (self.ours if side == "ours" else self.theirs).get(path)
        if base is None or after is None or not after.is_array or base.metadata != after.metadata:
            return False
        old, new = self.stores.array("base", path), self.stores.array(side, path)
        return not any(apart.any() for _, apart in changes(old, new, differing_chunks(base, after)))

    def _whole(self, path: str, what: str) -> None:
        """Note that a node comes from one side as a whole."""
        _, ours, theirs = self._three(path)
        choice = self.choices.of(path)
        sides = node_words(ours), node_words(theirs)
        self.conflicts.append(Conflict(path, f"in {what}", what, sides, choice))
        if choice == "theirs":
            self.edits[path] = take(path, theirs, ours)

    def _parts(self, path: str, base: Node | None, ours: Node, theirs: Node, rows: list[Rows]) -> None:
        """Merge attributes, rows and values of a node that both sides have."""
        choice = self.choices.of(path)
        # There, ours is who brings something in.
        attributes, clashing = merged_attributes(base, theirs, ours, OTHER[choice] if choice else None)
        for key in clashing:
            we, they = (f"{held[key]!r}" if key in held else "not there" for held in map(attributes_of, (ours, theirs)))
            self.conflicts.append(Conflict(path, f"in attribute {key}", f"attribute {key}", (we, they), choice))
        metadata = {**ours.metadata, "attributes": attributes}
        chunks: set[At] = set()
        if ours.is_array:
            metadata["shape"] = [one.merged_length(self.choices.of(one.path)) for one in rows]
            chunks = self._values(path, metadata["shape"], rows)
            self.put_together.add(path)
        if chunks or metadata != ours.metadata or (self.mixes and self.mixes[-1].path == path):
            self.edits[path] = Edit(path, metadata, chunks=tuple(sorted(chunks)))

    def _values(self, path: str, shape: list[int], rows: list[Rows]) -> set[At]:
        """Return the chunks that become as in theirs, and note those that are to be merged value by value."""
        _, ours, theirs = self._three(path)
        assert ours is not None
        assert theirs is not None
        before = self.base.get(path)
        is_new = before is None or definition(before) != definition(ours)
        base = Node({"shape": [0] * len(shape)}) if before is None or is_new else before
        mine, others = differing_chunks(theirs, base), differing_chunks(ours, base)

        def reach(at: At, side: Sequence[int]) -> tuple[int, ...]:
            return extent(at, side, ours)

        def is_shared(at: At) -> bool:
            """Whether a chunk may hold values of both sides; rows of fill values leave no chunk."""
            before, we, they = (reach(at, node.metadata["shape"]) for node in (base, ours, theirs))
            return at in mine & others or before not in (we, they) or (at in mine and they != reach(at, shape))

        both = mine | others
        if not any(one.conflict for one in rows):
            both = set(filter(is_shared, both))
        outside = {at for at in ours.chunks.keys() | mine | others if beyond(at, shape, ours)}
        decided = [one.decided(axis, self.choices.of(one.path)) for axis, one in enumerate(rows)]
        chunk, choice = chunk_shape(ours.metadata), self.choices.of(path)
        mix = Mix(path, tuple(shape), chunk, tuple(sorted(both - outside)), sum(decided, ()), choice, is_new=is_new)
        found = examine(self.stores, mix)
        if found.written:
            self.mixes.append(replace(mix, chunks=found.written))
        if found.spots.count:
            self.conflicts.append(self._values_conflict(path, found, choice))
        # What lies outside of the shape goes: icechunk drops it with the commit, and until then it would be counted.
        return (mine - both - outside) | set(found.copied) | (outside & ours.chunks.keys())

    def _values_conflict(self, path: str, found: Found, choice: Side | None) -> Conflict:
        spots = found.spots
        number = count(spots.count, "value")
        few = spots.exact and len(spots.boxes) <= _SHOWN
        boxes = spots.boxes if few else (around(spots.boxes),)
        where = " and at ".join(words(self.stores.ours, path, box) for box in boxes)
        what = f"{'at' if few else 'within'} {where}: {number}"
        more = ", …" if spots.count > 1 else ""
        meant = decode(np.array(found.first or ()), dict(self.stores.array("ours", path).attrs), dims=("value",))
        we, they = (f"{label(value)}{more}" for value in meant)
        return Conflict(path, what, number, (we, they), choice)

    # -- rows ----------------------------------------------------------------------------------------------------------

    def _rows_of(self, path: str) -> list[Rows]:
        """Return what became of the rows along each dimension of an array that both sides have."""
        _, ours, theirs = self._three(path)
        if ours is None or theirs is None or not (ours.is_array and theirs.is_array):
            return []
        both = zip(dimension_names(ours.metadata), dimension_names(theirs.metadata), strict=False)
        if len(ours.metadata["shape"]) != len(theirs.metadata["shape"]):
            return []
        return [self._rows_along(path, axis, one if one == other else None) for axis, (one, other) in enumerate(both)]

    def _rows_along(self, path: str, axis: int, name: str | None) -> Rows:
        base, ours, theirs = self._three(path)
        assert ours is not None
        assert theirs is not None
        at = base.metadata["shape"][axis] if base and base.is_array and axis < len(base.metadata["shape"]) else None
        lengths: Lengths = (at, ours.metadata["shape"][axis], theirs.metadata["shape"][axis])
        dimension, key_axis = (path, axis) if name is None else (beside(path, name), None)
        labels = self._three(dimension)
        if name and base is None and labels[0] and len(labels[0].metadata.get("shape", ())) == 1:
            lengths = (labels[0].metadata["shape"][0], *lengths[1:])
        key = (dimension, key_axis, lengths)
        if key not in self.rows:
            coordinate = labels if name and all(map(is_coordinate, labels, lengths)) else None
            along = {path: (axis, self._three(path))}
            if name:
                along = self._along(path, name, without=dimension if coordinate else "")
            self.rows[key] = judge(self.stores, dimension, lengths, coordinate, along)
        return self.rows[key]

    def _along(self, path: str, name: str, *, without: str) -> dict[str, tuple[int, Three]]:
        """Return the arrays beside one that have a dimension of some name: on which axis, and their nodes."""
        return {
            one: (dimension_names(node.metadata).index(name), self._three(one))
            for one in self.paths
            for node in self._three(one)
            if parent_of(one) == parent_of(path) and one != without and node and name in dimension_names(node.metadata)
        }

    def _rows_conflict(self, rows: Rows, *, has_name: bool) -> Conflict:
        what = rows.conflict
        for side, name in self.names.items():
            what = what.replace(f"{{{side}}}", name)
        start, ours, theirs = rows.lengths
        sides = count(ours, "row"), count(theirs, "row")
        first = start if rows.appended and has_name else None
        return Conflict(rows.path, what, "rows", sides, self.choices.of(rows.path), appended=first)

    def _fit_rows(self, path: str) -> None:
        """See that the rows of an array that comes from one side as a whole go with those of its group."""
        base, ours, theirs = self._three(path)
        edit = self.edits.get(path)
        origin: Side = "theirs" if edit else "ours"
        node, other = (theirs, ours) if edit else (ours, theirs)
        if path in self.put_together or ours == theirs or node is None or not node.is_array:
            return
        shape = list(node.metadata["shape"])
        for axis, name in enumerate(dimension_names(node.metadata)):
            for rows in self._rows_named(path, name):
                side = self.choices.of(rows.path)
                if rows.conflict and side not in (None, origin):
                    self._strand(path, name, origin, alone=base is None and other is None)
                elif base is None and other is None and rows.lengths[1 + (origin == "theirs")] == shape[axis]:
                    more = rows.merged_length(side) - shape[axis]
                    if more > 0 and not rows.conflict:
                        shape[axis] += more
                        self.notes.append(f"{path.lstrip('/')} gets fill values in {count(more, 'row')} of {name}")
        if shape != node.metadata["shape"]:
            self.edits[path] = replace(edit or Edit(path, None), metadata={**node.metadata, "shape": shape})

    def _rows_named(self, path: str, name: str | None) -> list[Rows]:
        return [rows for rows in self.rows.values() if name is not None and rows.path == beside(path, name)]

    def _strand(self, path: str, name: str | None, origin: Side, *, alone: bool) -> None:
        """Note that an array has rows of one side where those of the other were chosen."""
        _, ours, theirs = self._three(path)
        side = OTHER[origin]
        what = (
            f"in its rows along {name}, which are to come from {self.names[side]}: it comes from {self.names[origin]}"
        )
        dropped = alone and self.choices.arrays.get(path) == side
        sides = node_words(ours), node_words(theirs)
        self.conflicts.append(Conflict(path, what, "rows", sides, side if dropped else None))
        if dropped and origin == "theirs":
            self.edits.pop(path, None)
        elif dropped:
            self.edits[path] = Edit(path, None)

    # -- groups --------------------------------------------------------------------------------------------------------

    def _fit_groups(self, path: str) -> None:
        """See that what stays, or is made, lies in groups that stay, where one side removed them."""
        edit = self.edits.get(path)
        if (edit.metadata is None) if edit else path not in self.ours:
            return
        above = sorted(groups_above(path))
        by_theirs = [group for group in above if group in self.edits and self.edits[group].metadata is None]
        by_ours = [
            group for group in above if group in self.base and group not in self.ours and group not in self.edits
        ]
        if not (by_theirs or by_ours):
            return
        choice = self.choices.of(path)
        if all(conflict.path != path for conflict in self.conflicts):
            who = self.names["theirs" if by_theirs else "ours"]
            sides = node_words(self.ours.get(path)), node_words(self.theirs.get(path))
            self.conflicts.append(Conflict(path, f"in its group, which {who} removed", "its group", sides, choice))
            if choice == ("theirs" if by_theirs else "ours"):
                self.edits.pop(path, None)
                self.edits |= {path: Edit(path, None)} if path in self.ours else {}
                return
        for group in by_theirs:
            del self.edits[group]
        self.edits |= {group: take(group, self.theirs[group], None) for group in by_ours if group in self.theirs}

    # -- what comes of it ----------------------------------------------------------------------------------------------

    def _after(self, edit: Edit, metadata: Mapping[str, Any]) -> Node:
        """Return a node as an edit leaves it; what is to be merged value by value has no length yet."""
        ours, theirs = self.ours.get(edit.path), self.theirs.get(edit.path)
        chunks = dict(ours.chunks) if ours and not edit.anew else {}
        for at in edit.chunks:
            chunks.pop(at, None)
            chunks |= {at: theirs.chunks[at]} if theirs and at in theirs.chunks else {}
        mixed = [at for mix in self.mixes if mix.path == edit.path for at in mix.chunks]
        return Node(metadata, chunks | dict.fromkeys(mixed, ("merged", 0)))
