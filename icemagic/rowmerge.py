"""Tells what two sides did to the rows of a dimension: how many there are, and what labels them.

A row is a position along a dimension, in all arrays of a group that have it; the coordinate of the dimension labels it.
Values of two sides may only be put side by side in one row where both mean the same row. So the rows are in conflict

- when both sides appended rows, unless these have the same labels as far as both reach;
- when one side appended rows and the other removed some;
- when both labelled a row anew or removed it, and not alike;
- when one side labelled rows anew or removed them, and the other side changed a value in one of them.

Rows in conflict are decided for one side as a whole: their number, and all values in the rows that either side
appended, removed or labelled anew. Without a coordinate nothing tells whether appended rows are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from icemagic.chunkmerge import Decided, Mask, State, Stores, changes_rows, differing
from icemagic.coordinates import words
from icemagic.merge import Side, definition, differing_chunks, same_encoding
from icemagic.nodes import Node, chunk_shape

Lengths = tuple[int | None, int, int]
"""Of base, ours and theirs; None where base has no such array."""
Three = tuple[Node | None, Node | None, Node | None]
"""One node in base, ours and theirs."""
_NAMED = 3


@dataclass(frozen=True)
class Rows:
    """What two sides did to the rows of one dimension."""

    path: str
    """Path that the coordinate of the dimension has or would have, with a leading slash."""
    lengths: Lengths
    length: int
    """How many rows the merged arrays have, unless the rows are in conflict."""
    touched: Mask
    """Which rows either side appended, removed or labelled anew."""
    conflict: str = ""
    """What is in conflict, in words; ``{ours}`` and ``{theirs}`` stand for the names of the two sides."""
    appended: bool = False
    """Whether both appended rows of their own."""

    def merged_length(self, side: Side | None) -> int:
        """Return how many rows the merged arrays have; those in conflict are as in `side`, or as in ours."""
        _, ours, theirs = self.lengths
        return self.length if not self.conflict else theirs if side == "theirs" else ours

    def decided(self, axis: int, side: Side | None) -> tuple[Decided, ...]:
        """Return which rows come from which side as a whole."""
        return (Decided(axis, self.touched, side or "ours"),) if self.conflict else ()


@dataclass(frozen=True)
class _Labels:
    """What became of the labels of each row, as masks over all rows that any side has."""

    new: Mask
    """Rows that base does not have."""
    ours: Mask
    """Rows of base that ours removed or labelled anew."""
    theirs: Mask
    """Rows of base that theirs removed or labelled anew."""
    apart: Mask
    """Rows that are not the same in ours and theirs, or that only one of them has."""


def judge(
    stores: Stores, path: str, lengths: Lengths, coordinate: Three | None, along: Mapping[str, tuple[int, Three]]
) -> Rows:
    """Return what two sides did to the rows of a dimension.

    Parameters
    ----------
    stores : Stores
    path : str
        Path that the coordinate of the dimension has or would have.
    lengths : tuple
        Length of the dimension on each side.
    coordinate : tuple of Node, optional
        The coordinate, where there is one on every side that has the dimension.
    along : mapping
        Path of each other array that a side changed, to the axis on which it has the dimension and its nodes.
    """
    if coordinate is None and lengths[1] == lengths[2] and lengths[0] in (None, lengths[1]):
        return Rows(path, lengths, lengths[1], np.zeros(0, dtype=bool))
    labels = _labels(stores, path, lengths, coordinate)
    base, ours, theirs = (length or 0 for length in lengths)
    meant = min(ours, theirs) if ours < base and theirs < base else max(ours, theirs)
    length = theirs if ours == base else ours if theirs == base else meant
    rows = Rows(path, lengths, length, labels.ours | labels.theirs | labels.new)

    def said(state: State, place: range) -> str:
        name = path.rpartition("/")[2]
        return words(stores.of(state), path, (place,)) if coordinate else f"{name}[{place.start}:{place.stop}]"

    if _appended_apart(lengths, labels, labelled=coordinate is not None):
        text = f"{said('ours', range(base, ours))} in {{ours}} and {said('theirs', range(base, theirs))} in {{theirs}}"
        return replace(rows, conflict=f"in rows that both appended: {text}", appended=True)
    if min(ours, theirs) < base < max(ours, theirs):
        return replace(rows, conflict=f"in its length: {ours:,} in {{ours}} and {theirs:,} in {{theirs}}")
    alone_by: tuple[tuple[Side, Side, Mask], ...] = (
        ("ours", "theirs", labels.ours & ~labels.theirs),
        ("theirs", "ours", labels.theirs & ~labels.ours),
    )
    for one, other, alone in alone_by:
        if written := [array for array, (axis, nodes) in along.items()
                       if _writes(stores, array, axis, nodes, side=other, rows=alone[:base])]:  # fmt: skip
            where = _places(alone[:base], lambda place: said("base", place))
            text = f"in rows that {{{one}}} removed or labelled anew and {{{other}}} wrote in {_some(written)}: {where}"
            return replace(rows, conflict=text)
    if (both := (labels.ours & labels.theirs & labels.apart)[:base]).any():
        where = _places(both, lambda place: said("base", place))
        return replace(rows, conflict=f"in rows that both removed or labelled anew: {where}")
    return rows


def _appended_apart(lengths: Lengths, labels: _Labels, *, labelled: bool) -> bool:
    """Whether both sides appended rows that are not known to be the same."""
    base, ours, theirs = lengths
    shared = labels.new[: min(ours, theirs)]
    apart = bool((labels.apart[: shared.size] & shared).any())
    if base is None:
        return apart if labelled else ours != theirs
    return bool(shared.any()) and (apart or not labelled)


def _labels(stores: Stores, path: str, lengths: Lengths, coordinate: Three | None) -> _Labels:
    size = max(length or 0 for length in lengths)
    in_base, in_ours, in_theirs = (_first(length or 0, size) for length in lengths)
    found = _Labels(~in_base, in_base & ~in_ours, in_base & ~in_theirs, in_ours != in_theirs)
    if coordinate is None:
        return found
    base, ours, theirs = coordinate
    assert ours is not None
    assert theirs is not None
    recoded = [base is not None and not same_encoding(base, side) for side in (ours, theirs)]
    # Numbers that mean something else do not compare: as far as can be told all labels are other ones.
    found.ours[:] |= in_base & recoded[0]
    found.theirs[:] |= in_base & recoded[1]
    if not same_encoding(ours, theirs):
        found.apart[:] = True
        return found
    is_new = base is None or any(recoded)
    chunk, trio = chunk_shape(ours.metadata)[0], stores.trio(path, is_new=is_new)
    before = base if base is not None and not is_new else Node({})
    changed = differing_chunks(ours, theirs) | differing_chunks(ours, before) | differing_chunks(theirs, before)
    shared = range((lengths[0] or 0) // chunk, -(-min(lengths[1:]) // chunk))
    for number in sorted({at for (at,) in changed}.union(shared)):
        part = slice(number * chunk, min((number + 1) * chunk, size))
        if part.start >= part.stop:
            continue
        a, b, c = trio.blocks((range(part.start, part.stop),))
        found.ours[part] |= a.present & b.present & differing(a.values, b.values)
        found.theirs[part] |= a.present & c.present & differing(a.values, c.values)
        # A row that was appended without a label is not known to be the same as another one.
        bare = ~differing(b.values, np.full_like(b.values, trio.ours.fill_value)) & (lengths[0] is not None)
        found.apart[part] |= b.present & c.present & (differing(b.values, c.values) | (found.new[part] & bare))
    return found


def _first(number: int, size: int) -> Mask:
    """Return a mask that holds for the first of some places."""
    mask = np.zeros(size, dtype=bool)
    mask[:number] = True
    return mask


def _writes(stores: Stores, path: str, axis: int, nodes: Three, *, side: Side, rows: Mask) -> bool:
    """Whether a side changed a value of an array in some rows of base."""
    base, after = nodes[0], nodes[1 if side == "ours" else 2]
    if not rows.any() or after is None or after == base:
        return False
    if base is None or not base.is_array or definition(base) != definition(after):
        return True
    chunks = differing_chunks(base, after)
    return changes_rows(stores.array("base", path), stores.array(side, path), chunks, axis=axis, rows=rows)


def _places(rows: Mask, say: Callable[[range], str]) -> str:
    """Say which rows a mask means; of many runs only the first few."""
    ends = np.flatnonzero(np.diff(rows, prepend=False, append=False)).reshape(-1, 2).tolist()
    more = [f"{len(ends) - _NAMED:,} more places"] if len(ends) > _NAMED else []
    return " and ".join([say(range(*run)) for run in ends[:_NAMED]] + more)


def _some(paths: list[str]) -> str:
    names = [path.rpartition("/")[2] for path in sorted(paths)]
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
