"""Gives back the cell that made a version."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from icemagic import provenance
from icemagic.display import Code, Lines, Part, Report, Shown
from icemagic.errors import IcemagicError
from icemagic.records import Origin, Version
from icemagic.redaction import REDACTED
from icemagic.show import version_at

if TYPE_CHECKING:
    import icechunk


@dataclass(frozen=True, repr=False)
class CellCode(Shown):
    """The source of the cell that made a version, and what else was recorded about it in one line."""

    version: Version
    origin: Origin

    @property
    def is_cut(self) -> bool:
        """Whether only the beginning of a very long cell was recorded."""
        return len(self.origin.source or "") > provenance.SOURCE_LIMIT

    @property
    def is_redacted(self) -> bool:
        """Whether secrets in it were replaced."""
        return REDACTED in (self.origin.source or "")

    def runnable(self) -> str:
        """Return the source, to be run again.

        Raises
        ------
        IcemagicError
            When none is recorded, or only its beginning.
        """
        if self.origin.source is None:
            raise IcemagicError(f"{self.version.summary()} cannot be run again: {self._missing()}.", _SHOW)
        if self.is_cut:
            message = f"{self.version.summary()} cannot be run again: only the beginning of its cell is recorded."
            raise IcemagicError(message, "%ice code shows it.")
        return self.origin.source

    def _report(self) -> Report:
        where = " ".join(
            f"{word} {self.origin.facts[fact]}"
            for fact, word in (("execution count", "cell"), ("notebook", "of"), ("script", "script"))
            if fact in self.origin.facts
        )
        facts = Lines((" · ".join(filter(None, (self.version.byline(), where))),))
        if self.origin.source is None:
            return Report(self.version.summary(), (facts, Lines((self._missing(),))))
        said = (
            "only its beginning is recorded" if self.is_cut else "",
            f"it was the body of a {self.origin.magic} cell" if self.origin.magic else "",
            f"secrets in it were replaced by {REDACTED}" if self.is_redacted else "",
        )
        parts: list[Part] = [facts, Code(self.origin.source), Lines(tuple(filter(None, said)))]
        return Report(self.version.summary(), tuple(parts))

    def _missing(self) -> str:
        """Say what is recorded instead of a source."""
        if self.origin.source_hash:
            return f"only the hash {self.origin.source_hash} of its cell is recorded"
        if "script" in self.origin.facts:
            return "it was made by a script, whose source is not recorded"
        if isinstance(self.version.metadata.get(provenance.KEY), str):
            return "what was recorded of its cell lay in an earlier version, which expired"
        return "no cell is recorded"


_SHOW = "%ice show tells what is recorded."


def code(repo: icechunk.Repository, snapshot_id: str) -> CellCode:
    """Return the source of the cell that made a version.

    Raises
    ------
    UnknownVersionError
        For icechunk's empty root snapshot.
    """
    version = version_at(repo, snapshot_id)
    return CellCode(version, provenance.origin(repo, version.id))
