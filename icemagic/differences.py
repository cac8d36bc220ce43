"""What a comparison of two states returns: the record of what differs, per array, group and attribute."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np

from icemagic.display import Document, Lines, Part, Report, Shown, Table, count, filled, label, size, to_markdown

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Change:
    """One property before and after; None stands for absent."""

    path: str
    what: str
    before: Any
    after: Any

    def words(self) -> str:
        """Say the change as ``what: before → after``."""
        if self.before is None:
            return f"{self.what}: added {self.after!r}"
        if self.after is None:
            return f"{self.what}: removed {self.before!r}"
        return f"{self.what}: {self.before!r} → {self.after!r}"


@dataclass(frozen=True)
class Place:
    """A box of an array in which something differs."""

    words: str
    """In coordinates, such as ``epoch 2025-01-01T10:00 … 10:59:55, all sid``."""
    positions: tuple[range, ...]
    """In positions, one range for every dimension."""
    what: str = "changed"
    """What happened to it: ``changed`` or, to whole chunks, also ``written`` and ``removed``."""

    def __str__(self) -> str:
        return self.words


@dataclass(frozen=True)
class ArrayDiff:
    """How one array differs between two states; what is said of values is None where they were not compared.

    Numbers about differences are those of the second state minus the first, over the values that differ and are numbers
    on both sides, in the unit of the array (a timedelta for times); None where that makes no sense, as for strings.
    """

    path: str
    """Path of the array, without a leading slash."""
    status: str
    """``added``, ``removed``, ``moved``, ``resized``, ``changed`` or ``rewritten`` (only with the bytes it had)."""
    changed_chunks: int
    """Chunks that were written, removed or replaced; without the identical ones."""
    total_chunks: int
    """Chunks of the array's grid in the second state (in the first one, for a removed array)."""
    bytes: int
    """Stored bytes of the chunks that only the second state holds."""
    changes: tuple[Change, ...] = ()
    """Shape, dtype, codecs and other properties of the array, before and after (attributes stand in ``Diff``)."""
    identical_chunks: int = 0
    """Chunks that were replaced by the same bytes, of those that were looked at (see :mod:`icemagic.identical`)."""
    written_chunks: int = 0
    """Changed chunks that only the second state holds."""
    removed_chunks: int = 0
    """Changed chunks that only the first state holds."""
    boxes: tuple[Place, ...] = ()
    """Where it differs: whole chunks or, where values were compared, the values. Only the first few of many."""
    more_boxes: int = 0
    """Further places, which are only counted."""
    moved_from: str | None = None
    """Path that it had in the first state, where that was another one."""
    changed_values: int | None = None
    total_values: int | None = None
    """Values that both states have room for: the common part of their shapes."""
    nan_appeared: int | None = None
    """Values that are missing (NaN, NaT) in the second state only; they count as changed."""
    nan_vanished: int | None = None
    max_abs: Any = None
    """Largest absolute difference."""
    max_rel: float | None = None
    """Largest absolute difference relative to the first state, where that is neither zero nor infinite."""
    max_at: Mapping[str, Any] | None = None
    """Where the largest absolute difference is: dimension to label, or to position where it has no coordinate."""
    mean: Any = None
    """Mean difference."""
    rmse: float | None = None
    """Root of the mean square difference."""
    units: str | None = None
    """What the array's attribute says of its unit."""

    @property
    def replaced_chunks(self) -> int:
        """Changed chunks that both states hold."""
        return self.changed_chunks - self.written_chunks - self.removed_chunks

    def kinds(self) -> str:
        """Say how many of the changed chunks were written, replaced and removed."""
        numbers = {"written": self.written_chunks, "replaced": self.replaced_chunks, "removed": self.removed_chunks}
        return ", ".join(f"{number:,} {kind}" for kind, number in numbers.items() if number)

    def where(self) -> list[str]:
        """Say the places as sentences, where these tell more than that the array came, went or changed all over."""
        all_over = self.changed_values is None and self.changed_chunks == self.total_chunks
        if all_over or self.status in ("added", "removed"):
            return []
        said = [f"{self.path} {place.what} for {place}" for place in self.boxes]
        if len(said) == 1 and not self.more_boxes and self.mean is not None:
            shift = f"{_short(self.mean, sign='+')} {self.units or ''}".rstrip()
            which = "the numbers among them " if self.nan_appeared or self.nan_vanished else ""
            said = [f"{said[0]}: {count(self.changed_values or 0, 'value')}, {which}by {shift} on average"]
        return [*said, *([f"{self.path} differs in {count(self.more_boxes, 'more place')}"] * bool(self.more_boxes))]


@dataclass(frozen=True, repr=False)
class Diff(Shown):
    """How two states of a store differ in structure, chunks and, where they were compared, values."""

    a: str
    """The first side, in words."""
    b: str
    """The second side, in words."""
    arrays: tuple[ArrayDiff, ...] = ()
    """One entry per array that differs, in order of path."""
    groups: Mapping[str, str] = field(default_factory=dict)
    """Path of a group to ``added``, ``removed`` or ``moved from PATH``; the root group has the path ``/``."""
    attributes: tuple[Change, ...] = ()
    """Attributes of arrays and groups, before and after."""
    notes: tuple[str, ...] = ()
    """What the comparison left out, in words."""

    @property
    def is_empty(self) -> bool:
        """Whether the two sides hold the same arrays, chunks and attributes."""
        return not (self.arrays or self.groups or self.attributes)

    @property
    def bytes(self) -> int:
        """Stored bytes of all chunks that only the second side holds."""
        return sum(array.bytes for array in self.arrays)

    def summary(self) -> str:
        """Say in one line what differs."""
        if self.is_empty:
            return "nothing differs"
        words = [
            count(sum(array.status == status for array in self.arrays), "array") + f" {status}"
            for status in ("added", "removed", "moved", "resized", "changed", "rewritten")
            if any(array.status == status for array in self.arrays)
        ]
        kinds = [status.partition(" ")[0] for status in self._named_groups().values()]
        words += [f"{count(kinds.count(kind), 'group')} {kind}" for kind in dict.fromkeys(kinds)]
        if any(array.changed_values is not None for array in self.arrays):
            words.append(count(sum(array.changed_values or 0 for array in self.arrays), "value"))
        if chunks := sum(array.changed_chunks for array in self.arrays):
            words.append(count(chunks, "chunk"))
        if self.bytes:
            words.append(f"{size(self.bytes)} written")
        if identical := sum(array.identical_chunks for array in self.arrays):
            words.append(f"{count(identical, 'chunk')} rewritten with the same bytes")
        if self.attributes:
            words.append(count(len(self.attributes), "attribute"))
        return ", ".join(words)

    def _named_groups(self) -> Mapping[str, str]:
        """Return the groups worth naming: the root comes and goes with what is in it."""
        only_root = not (self.arrays or self.attributes or self.groups.keys() - {"/"})
        return {path: status for path, status in self.groups.items() if path != "/" or only_root}

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row per array that differs, with what its :class:`ArrayDiff` holds."""
        import pandas as pd

        columns = [one.name for one in fields(ArrayDiff)]
        rows = [[getattr(array, column) for column in columns] for array in self.arrays]
        return pd.DataFrame(rows, columns=columns)

    def to_json(self) -> Document:
        """Return everything as JSON; positions as pairs of start and stop, what is not finite as text."""
        return Document(json.dumps(_plain(self), indent=2, ensure_ascii=False), "json")

    def to_markdown(self) -> Document:
        """Return what is shown as Markdown, for a report or a pull request."""
        return Document(to_markdown(self._report()), "markdown")

    def parts(self) -> tuple[Part, ...]:
        """Return what stands below the summary, for reports that hold a diff."""
        places = [line for array in self.arrays for line in array.where()]
        compared = any(array.changed_values is not None for array in self.arrays)
        whole = ["the places are those of whole chunks"] * (bool(places) and not compared)
        edits = [(change.path, change.words()) for change in self.attributes]
        return (
            Lines((*places, *whole, *self.notes)),
            Table(("group", "status"), tuple(self._named_groups().items())),
            filled(
                ("array", "status", "chunks", "of these", "written", "identical", "what changed"),
                [_structure(array) for array in self.arrays],
            ),
            filled(
                ("array", "values changed", "NaN", "mean", "RMSE", "largest", "where", "largest relative"),
                [_numbers(array) for array in self.arrays if array.changed_values is not None],
            ),
            Table(("attributes of", "what changed"), tuple(edits)),
        )

    def _report(self) -> Report:
        return Report(f"{self.a} → {self.b}: {self.summary()}", self.parts())


def _structure(array: ArrayDiff) -> tuple[str, ...]:
    moved = [f"moved from {array.moved_from}"] * (array.moved_from is not None)
    return (
        array.path,
        array.status,
        _part(array.changed_chunks, array.total_chunks) if array.total_chunks else "",  # datasets have no chunks
        array.kinds(),
        size(array.bytes) if array.total_chunks or array.bytes else "",
        f"{array.identical_chunks:,}" if array.identical_chunks else "",
        "; ".join([*moved, *(change.words() for change in array.changes)]),
    )


def _numbers(array: ArrayDiff) -> tuple[str, ...]:
    missing = {"appeared": array.nan_appeared, "vanished": array.nan_vanished}
    return (
        array.path,
        _part(array.changed_values or 0, array.total_values or 0),
        ", ".join(f"{number:,} {what}" for what, number in missing.items() if number),
        _short(array.mean),
        _short(array.rmse),
        _short(array.max_abs),
        ", ".join(f"{dim} {label(value)}" for dim, value in (array.max_at or {}).items()),
        _short(array.max_rel),
    )


def _part(part: int, whole: int) -> str:
    return f"{part:,} of {whole:,} ({100 * part / max(1, whole):.3g} %)"


def _short(value: Any, *, sign: str = "") -> str:  # noqa: ANN401  a number, or the difference of two times
    return "" if value is None else f"{value:{sign}.4g}" if isinstance(value, float) else str(value)


def _plain(value: Any) -> Any:  # noqa: ANN401  whatever a record holds, as JSON
    """Return a record and what is in it as JSON knows it."""
    match value:
        case ArrayDiff() | Diff() | Change() | Place():
            return {one.name: _plain(getattr(value, one.name)) for one in fields(value)}
        case Mapping():
            return {str(key): _plain(one) for key, one in value.items()}
        case tuple() | list() | range():
            return [_plain(one) for one in ((value.start, value.stop) if isinstance(value, range) else value)]
        case np.number() | np.bool_():
            return _plain(value.item())
    known = value is None or isinstance(value, str | int) or (isinstance(value, float) and isfinite(value))
    return value if known else label(value)
