"""What a comparison of two states returns: the record of what differs, per array, group and attribute."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from icemagic.display import Part, Report, Shown, Table, count, filled, size

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
class ArrayDiff:
    """How one array differs between two versions."""

    path: str
    """Path of the array, without a leading slash."""
    status: str
    """``added``, ``removed``, ``resized``, ``changed`` or ``rewritten`` (only with the bytes it had)."""
    changed_chunks: int
    """Chunks whose stored reference differs: written anew, added or removed; without the identical ones."""
    total_chunks: int
    """Chunks of the array's grid in the newer version (in the older one, for a removed array)."""
    bytes: int
    """Stored bytes of the chunks that only the second version holds."""
    changes: tuple[Change, ...] = ()
    """Shape, dtype, codecs and other properties of the array, before and after (attributes stand in ``Diff``)."""
    identical_chunks: int = 0
    """Chunks that were written with the bytes they had before; known of uncommitted changes only."""


@dataclass(frozen=True, repr=False)
class Diff(Shown):
    """How two versions differ in structure and chunks."""

    a: str
    """The first side, in words."""
    b: str
    """The second side, in words."""
    arrays: tuple[ArrayDiff, ...] = ()
    """One entry per array that differs, in order of path."""
    groups: Mapping[str, str] = field(default_factory=dict)
    """Path of a group to ``added`` or ``removed``; the root group has the path ``/``."""
    attributes: tuple[Change, ...] = ()
    """Attributes of arrays and groups, before and after."""

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
            for status in ("added", "removed", "resized", "changed", "rewritten")
            if any(array.status == status for array in self.arrays)
        ]
        words += [
            f"{count(number, 'group')} {status}"
            for status in ("added", "removed")
            if (number := sum(found == status for found in self._named_groups().values()))
        ]
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
        """Return one row per array that differs, with the numbers of its :class:`ArrayDiff`."""
        import pandas as pd

        columns = ["path", "status", "changed_chunks", "total_chunks", "bytes", "identical_chunks"]
        rows = [tuple(getattr(array, column) for column in columns) for array in self.arrays]
        return pd.DataFrame(rows, columns=columns)

    def parts(self) -> tuple[Part, ...]:
        """Return the tables below the summary, for reports that hold a diff."""
        rows = [
            (
                array.path,
                array.status,
                f"{array.changed_chunks:,} of {array.total_chunks:,}",
                size(array.bytes),
                f"{array.identical_chunks:,}" if array.identical_chunks else "",
                "; ".join(change.words() for change in array.changes),
            )
            for array in self.arrays
        ]
        edits = [(change.path, change.words()) for change in self.attributes]
        return (
            Table(("group", "status"), tuple(self._named_groups().items())),
            filled(("array", "status", "chunks", "written", "identical", "what changed"), rows),
            Table(("attributes of", "what changed"), tuple(edits)),
        )

    def _report(self) -> Report:
        return Report(f"{self.a} → {self.b}: {self.summary()}", self.parts())
