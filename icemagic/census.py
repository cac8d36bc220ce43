"""Reads the list of all versions that a repository of format 2 keeps, and compares what went with what was to go.

icechunk keeps versions that no branch or tag reaches until garbage collection, and lists them with all others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from icemagic.display import Table
from icemagic.errors import TransactionError
from icemagic.records import Version, first_line, short, utc

if TYPE_CHECKING:
    import icechunk

TOLERANCE = timedelta(minutes=1)
"""How much the clocks of two machines, or of a machine and a storage, may differ."""
CHANGED = "The repository changed since the plan was made; nothing was done."
PLAN_AGAIN = "Make a new plan and read it."


class Census(NamedTuple):
    """What one reading of a repository tells."""

    branches: Mapping[str, str]
    tags: Mapping[str, str]
    versions: Mapping[str, Version]
    """All by id, icechunk's empty root snapshot among them; it alone has no parent."""

    def reachable(self) -> set[str]:
        """Return the ids of those that a branch or tag reaches."""
        found: set[str] = set()
        for tip in (*self.branches.values(), *self.tags.values()):
            at: str | None = tip
            while at and at not in found:
                found.add(at)
                at = self.versions[at].parent
        return found

    def line(self, tip: str) -> list[Version]:
        """Return the versions up to one, newest first, without icechunk's empty root snapshot."""
        line, at = [], self.versions[tip]
        while at.parent:
            line.append(at)
            at = self.versions[at.parent]
        return line


def take(repo: icechunk.Repository) -> Census:
    """Return the branches, tags and versions of a repository.

    Raises
    ------
    TransactionError
        When it is of format 1.
    """
    if repo.spec_version == 1:
        message = "A repository of format 1 does not tell which versions no branch or tag reaches."
        raise TransactionError(message, "%ice upgrade makes it format 2.")
    info = repo.inspect_repo_info()
    versions = (
        Version(
            id=found["id"],
            message=found["message"],
            time=datetime.fromisoformat(found["flushed_at"]),
            parent=found.get("parent_id"),
            metadata=found["metadata"],
        )
        for found in info["snapshots"]
    )
    return Census(info["branches"], info["tags"], {version.id: version for version in versions})


def newest_first(versions: Iterable[Version]) -> tuple[Version, ...]:
    """Return versions by time."""
    return tuple(sorted(versions, key=lambda version: (version.time, version.id), reverse=True))


def check_gone(gone: Iterable[str], planned: Iterable[str]) -> None:
    """Compare the ids of versions that went with those that were to go.

    Raises
    ------
    TransactionError
        When they differ.
    """
    if odd := set(gone) ^ set(planned):
        names = ", ".join(map(short, sorted(odd)))
        message = f"Another program wrote at the same moment: {names} went or stayed unplanned."
        raise TransactionError(message, "Look at what is left: %ice log, %ice rescue.")


def version_table(what: str, versions: Iterable[Version]) -> Table:
    """Return a table of versions whose first column says what becomes of them."""
    rows = [(short(version.id), utc(version.time), first_line(version.message)) for version in versions]
    return Table((what, "time", "message"), tuple(rows))
