"""Garbage collection: first a plan that says what would go, then exactly that plan.

It frees the files of expired versions and of versions that no branch or tag reaches, and prunes the backups of the
metadata file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from icemagic.backups import Backups, check_zone, prunable, prune
from icemagic.census import CHANGED, PLAN_AGAIN, TOLERANCE, Census, check_gone, newest_first, take, version_table
from icemagic.display import Lines, Report, Shown, count, size
from icemagic.errors import TransactionError
from icemagic.locking import locked
from icemagic.records import Version, utc
from icemagic.rescue import kind

if TYPE_CHECKING:
    import icechunk

DAY = timedelta(days=1)
"""How old a file must be before garbage collection takes it, unless told otherwise."""


@dataclass(frozen=True)
class Garbage:
    """How many files nothing needs."""

    chunks: int
    manifests: int
    snapshots: int
    transaction_logs: int
    bytes: int

    def words(self) -> str:
        """Say the numbers in a line."""
        kinds = (
            (self.chunks, "chunk"),
            (self.manifests, "manifest"),
            (self.snapshots, "snapshot"),
            (self.transaction_logs, "transaction log"),
        )
        return f"{', '.join(count(number, noun) for number, noun in kinds)}: {size(self.bytes)}"


@dataclass(frozen=True, repr=False)
class CollectPlan(Shown):
    """What a garbage collection would take."""

    cutoff: datetime
    """Only files from before this moment go."""
    versions: tuple[Version, ...]
    """Versions that go: no branch or tag reaches them. Newest first."""
    stashes: tuple[Version, ...]
    """Stashes that go, newest first."""
    garbage: Garbage
    """Files that go, those of expired versions among them."""
    backups: Backups = field(compare=False)
    """Backups of the metadata file, and how many of them go."""

    def _report(self) -> Report:
        backups = f"{count(self.backups.prunable_files, 'backup')} of the metadata file"
        return Report(
            f"to delete, for good: {size(self.garbage.bytes + self.backups.prunable_bytes)}",
            (
                Lines((f"from before {utc(self.cutoff)}, and on no branch or tag", self.garbage.words())),
                Lines((f"{backups}: {size(self.backups.prunable_bytes)}",)),
                version_table("goes", self.versions),
                version_table("stash that goes", self.stashes),
            ),
        )


@dataclass(frozen=True, repr=False)
class Collected(Shown):
    """What a garbage collection took."""

    garbage: Garbage
    backups: int
    """Backups of the metadata file that were deleted."""
    bytes: int
    """Bytes of all files that were deleted."""
    failed: tuple[str, ...] = ()
    """Why files could not be deleted; they stay garbage."""

    def _report(self) -> Report:
        lines = (self.garbage.words(), f"{count(self.backups, 'backup')} of the metadata file")
        failed = tuple(f"not deleted: {reason}" for reason in self.failed)
        return Report(f"deleted: {size(self.bytes)}", (Lines((*lines, *failed)),))


def plan_collect(
    repo: icechunk.Repository,
    *,
    before: datetime | None = None,
    now: datetime,
    open_since: datetime | None = None,
    recent: bool = False,
) -> CollectPlan:
    """Return what a garbage collection would take.

    Parameters
    ----------
    repo : icechunk.Repository
    before : datetime, optional
        Only files from before this moment go; without it a day before `now`, or before `open_since` where that is
        earlier.
    now : datetime
    open_since : datetime, optional
        Start of the oldest session that is open: what it wrote is on no branch yet, and must not go. The storage may
        tell earlier times than this machine, by up to :data:`~icemagic.census.TOLERANCE`.
    recent : bool, default False
        Whether files that are younger than a day may go.

    Raises
    ------
    TransactionError
        When the cut-off is not safely before `open_since`, or within a day of `now` without `recent`.
    ValueError
        When a time has no zone.
    """
    for moment in filter(None, (before, now, open_since)):
        check_zone(moment)
    safe = open_since and open_since - TOLERANCE
    cutoff = before or min(filter(None, (now - DAY, safe)))
    if open_since and safe and cutoff > safe:
        message = f"A session is open since {utc(open_since)}, and a cut-off at {utc(cutoff)} could take what it wrote."
        raise TransactionError(message, "Commit or discard that work first, or choose an earlier cut-off.")
    if cutoff > now - DAY and not recent:
        message = (
            f"The cut-off {utc(cutoff)} is less than a day ago: work that somebody has not committed yet would go."
        )
        hint = "Choose an earlier one, or say --recent (recent=True) if nobody else writes here."
        raise TransactionError(message, hint)
    found = take(repo)
    going = _collectable(repo, found, cutoff)
    return CollectPlan(
        cutoff=cutoff,
        versions=newest_first(one for one in going if kind(one) == "commit"),
        stashes=newest_first(one for one in going if kind(one) != "commit"),
        garbage=_garbage(repo.garbage_collect(cutoff, dry_run=True)),
        backups=prunable(repo, cutoff),
    )


def collect(repo: icechunk.Repository, plan: CollectPlan, *, open_since: datetime | None = None) -> Collected:
    """Delete exactly what a plan says, with its cut-off.

    Raises
    ------
    TransactionError
        When the repository changed since the plan was made, a session that is open since `open_since` could lose what
        it wrote, or another version than planned went.
    """
    with locked(repo):
        present = take(repo).versions
        now = datetime.now(UTC)
        if plan_collect(repo, before=plan.cutoff, now=now, open_since=open_since, recent=True) != plan:
            raise TransactionError(CHANGED, PLAN_AGAIN)
        summary = repo.garbage_collect(plan.cutoff)
        gone = present.keys() - take(repo).versions.keys()
    check_gone(gone, {version.id for version in (*plan.versions, *plan.stashes)})
    # Only now: the collection is an operation too, and moves on what the log needs.
    pruned = prune(repo, plan.cutoff)
    garbage = _garbage(summary)
    return Collected(garbage, pruned.files, garbage.bytes + pruned.bytes, tuple(summary.delete_errors))


def _collectable(repo: icechunk.Repository, found: Census, cutoff: datetime) -> list[Version]:
    """Return what icechunk would drop: versions that nothing reaches, by the time that the storage gave their files."""
    reachable = found.reachable()
    unreachable = [version for version in found.versions.values() if version.id not in reachable]
    if not unreachable:
        return []
    written = {
        item.key.rpartition("/")[2]: item.created_at for item in repo.storage.list_objects_metadata(prefix="snapshots")
    }
    return [one for one in unreachable if one.id in written and _surely_before(written[one.id], cutoff)]


def _surely_before(written: datetime, cutoff: datetime) -> bool:
    """Whether a file is older: some storage tells whole seconds only, and may have cut off the rest."""
    return written + timedelta(seconds=1) <= cutoff if written.microsecond == 0 else written < cutoff


def _garbage(summary: icechunk.GCSummary) -> Garbage:
    return Garbage(
        chunks=summary.chunks_deleted,
        manifests=summary.manifests_deleted,
        snapshots=summary.snapshots_deleted,
        transaction_logs=summary.transaction_logs_deleted,
        bytes=summary.bytes_deleted,
    )
