"""Finds the newest version that two versions have in common, merges counted.

icechunk knows one parent of a version. A merge records the version that it brought in, which counts as a second parent
here: what was merged once is not merged again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from icemagic import history

if TYPE_CHECKING:
    import icechunk


@dataclass(frozen=True)
class Ancestry:
    """A version and all that came before it, along parents and merges."""

    parents: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Id of each version to the ids of those that it was made from."""
    times: dict[str, datetime] = field(default_factory=dict)
    """Id of each version to when it was committed (UTC)."""
    expired: set[str] = field(default_factory=set)
    """Ids of versions that were merged in and are not there any more."""


@dataclass(frozen=True)
class Base:
    """The version from which two versions are told apart."""

    id: str
    """Snapshot id; icechunk's empty root where they share no version."""
    others: tuple[str, ...] = ()
    """Common versions that are as near: two branches were merged into each other at the same time."""
    expired: tuple[str, ...] = ()
    """Versions that one of them merged in and that expired since, so that the base may be older than it was."""


def ancestry(repo: icechunk.Repository, snapshot_id: str) -> Ancestry:
    """Return a version and all that came before it, along parents and merges."""
    found = Ancestry()
    starts = [snapshot_id]
    while starts:
        for info in repo.ancestry(snapshot_id=starts.pop()):
            if info.id in found.parents:
                break
            merged = history.version_of(info).merged
            if merged is not None and not history.is_there(repo, merged):
                found.expired.add(merged)
                merged = None
            starts += [merged] if merged else []
            found.parents[info.id] = tuple(filter(None, (info.parent_id, merged)))
            found.times[info.id] = info.written_at
    return found


def base(repo: icechunk.Repository, ours: str, theirs: str) -> Base:
    """Return the newest version that two versions have in common.

    Where several are nearest, none of which came before another, the one that was committed last is taken.
    """
    a, b = ancestry(repo, ours), ancestry(repo, theirs)
    common = a.parents.keys() & b.parents.keys()
    passed = {parent for one in common for parent in a.parents[one]}
    # Whoever has a version has all that came before it, so the nearest are those from which no common one was made.
    newest, *others = sorted(common - passed, key=lambda one: (a.times[one], one), reverse=True)
    return Base(newest, tuple(others), tuple(sorted(a.expired | b.expired)))


def follows(repo: icechunk.Repository, snapshot_id: str, earlier: str) -> bool:
    """Whether a version was made on top of an earlier one, merges not counted."""
    return any(info.id == earlier for info in repo.ancestry(snapshot_id=snapshot_id))
