"""Expires versions: first a plan that says what would go, then exactly that plan.

icechunk takes every version older than a cut-off out of the history, at once and for good, except the tips of branches
and tags. Versions that no branch or tag reaches, such as stashes, go too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from icemagic.backups import check_zone
from icemagic.census import CHANGED, PLAN_AGAIN, Census, check_gone, newest_first, take, version_table
from icemagic.display import Lines, Report, Shown, Table, count, size
from icemagic.errors import RefNameError, TransactionError, UnknownVersionError, did_you_mean
from icemagic.holdings import steps, total
from icemagic.locking import locked
from icemagic.provenance import KEY
from icemagic.records import Version, first_line, short, utc

if TYPE_CHECKING:
    import icechunk


@dataclass(frozen=True)
class LostCell:
    """The source of a cell that only a version that goes holds."""

    version: str
    """Snapshot id of the version that holds it."""
    source_hash: str
    first_line: str


@dataclass(frozen=True, repr=False)
class ExpirePlan(Shown):
    """What an expiry would take."""

    cutoff: datetime
    """Versions from before this moment go."""
    keep: int | None
    """Newest versions that every branch keeps, where the cut-off follows from that."""
    versions: tuple[Version, ...]
    """Versions of branches and tags that go, newest first."""
    unreachable: tuple[Version, ...]
    """Versions that go and that no branch or tag reaches, newest first; stashes are among them."""
    branches: tuple[str, ...]
    tags: tuple[str, ...]
    cells: tuple[LostCell, ...]
    """Recorded sources of cells that nothing that stays holds."""
    bytes: int
    """Bytes of chunks that nothing that stays holds: garbage collection frees them."""

    def _report(self) -> Report:
        names = [f"branch {name}" for name in self.branches] + [f"tag {name}" for name in self.tags]
        cells = [(short(cell.version), cell.source_hash, cell.first_line) for cell in self.cells]
        lines = (
            f"from before {utc(self.cutoff)}" + (f", the newest {self.keep} of every branch stay" if self.keep else ""),
            f"go too: {', '.join(names)}" if names else "all branches and tags stay, and the versions they stand on",
            f"garbage collection could then free {size(self.bytes)} of chunks",
        )
        return Report(
            f"to expire, for good: {count(len(self.versions) + len(self.unreachable), 'version')}",
            (
                Lines(lines),
                version_table("goes", self.versions),
                version_table("goes, on no branch or tag", self.unreachable),
                Table(("version", "hash", "cell whose source is lost"), tuple(cells)),
            ),
        )


@dataclass(frozen=True, repr=False)
class Expired(Shown):
    """What an expiry took: exactly its plan."""

    plan: ExpirePlan

    def _report(self) -> Report:
        gone = count(len(self.plan.versions) + len(self.plan.unreachable), "version")
        return Report(f"expired: {gone}", (Lines((f"%ice gc can free {size(self.plan.bytes)} of chunks in time",)),))


def plan_expire(
    repo: icechunk.Repository,
    *,
    before: datetime | None = None,
    keep: int | None = None,
    branches: Iterable[str] = (),
    tags: Iterable[str] = (),
    in_use: Collection[str] = (),
) -> ExpirePlan:
    """Return what an expiry would take.

    Parameters
    ----------
    repo : icechunk.Repository
    before : datetime, optional
        Versions from before this moment go, except those on which a branch or tag stands.
    keep : int, optional
        Every branch keeps at least this many of its newest versions; give either this or `before`.
    branches, tags : iterable of str
        Those that go with the version that they stand on; all others stay.
    in_use : collection of str
        Ids of the versions that open work stands on: it could not be committed any more.

    Raises
    ------
    TransactionError
        When one of those would go.
    ValueError
        When not exactly one of `before` and `keep` is given, `keep` is below 1, or `before` has no time zone.
    UnknownVersionError
        When there is no such branch or tag.
    RefNameError
        When a named branch or tag cannot go.
    """
    found = take(repo)
    branches, tags = tuple(sorted(set(branches))), tuple(sorted(set(tags)))
    cutoff = _cutoff(found, before, keep, branches)
    _check_named("branch", branches, found.branches, found, cutoff)
    _check_named("tag", tags, found.tags, found, cutoff)
    tips = _tips(found, branches, tags)
    going = {one.id: one for one in found.versions.values() if one.parent and one.time < cutoff and one.id not in tips}
    _refuse_in_use(going, in_use)
    staying = {one.id: one for one in found.versions.values() if one.id not in going}
    reachable = found.reachable()
    return ExpirePlan(
        cutoff=cutoff,
        keep=keep,
        versions=newest_first(one for one in going.values() if one.id in reachable),
        unreachable=newest_first(one for one in going.values() if one.id not in reachable),
        branches=branches,
        tags=tags,
        cells=_lost_cells(going.values(), staying.values()),
        bytes=_freed(repo, found, going) if going else 0,
    )


def expire(repo: icechunk.Repository, plan: ExpirePlan, *, in_use: Collection[str] = ()) -> Expired:
    """Expire exactly what a plan says.

    Raises
    ------
    TransactionError
        When the repository changed since the plan was made, open work stands on a version that would go, or something
        else than the plan went.
    """
    with locked(repo):
        before = None if plan.keep else plan.cutoff
        again = plan_expire(repo, before=before, keep=plan.keep, branches=plan.branches, tags=plan.tags, in_use=in_use)
        if again != plan:
            raise TransactionError(CHANGED, PLAN_AGAIN)
        present = take(repo).versions.keys()
        for name in plan.branches:
            repo.delete_branch(name)
        for name in plan.tags:
            repo.delete_tag(name)
        repo.expire_snapshots(plan.cutoff)
        gone = present - take(repo).versions.keys()
    check_gone(gone, {version.id for version in (*plan.versions, *plan.unreachable)})
    return Expired(plan)


def _refuse_in_use(going: Mapping[str, Version], in_use: Collection[str]) -> None:
    for version in (going[one] for one in in_use if one in going):
        text = f"Open work stands on {version.summary()}, which would expire under it."
        raise TransactionError(text, "Commit or discard that work first, or let fewer versions go.")


def _tips(found: Census, without_branches: Iterable[str], without_tags: Iterable[str]) -> set[str]:
    branches = found.branches.keys() - set(without_branches)
    tags = found.tags.keys() - set(without_tags)
    return {found.branches[name] for name in branches} | {found.tags[name] for name in tags}


def _check_named(kind: str, names: Iterable[str], places: Mapping[str, str], found: Census, cutoff: datetime) -> None:
    for name in names:
        if name not in places:
            raise UnknownVersionError(f"There is no {kind} {name!r}.", did_you_mean(name, places))
        if kind == "branch" and name == "main":
            raise RefNameError("The branch 'main' cannot go: every repository has it.", "Leave it out.")
        if found.versions[places[name]].time >= cutoff:
            message = f"The {kind} {name!r} stands on a version that does not expire: the cut-off is {utc(cutoff)}."
            raise RefNameError(message, "Leave it out, or choose a later cut-off.")


def _cutoff(found: Census, before: datetime | None, keep: int | None, leaving: Iterable[str]) -> datetime:
    if (before is None) == (keep is None):
        message = "Say either before which moment versions expire, or how many every branch keeps."
        raise ValueError(message)
    if before is not None:
        check_zone(before)
        return before
    assert keep is not None
    if keep < 1:
        message = f"Every branch keeps at least one version; keep is {keep}."
        raise ValueError(message)
    kept = [
        version.time
        for name, tip in found.branches.items()
        if name not in leaving
        for version in found.line(tip)[:keep]
    ]
    return min(kept, default=min(version.time for version in found.versions.values()))


def _lost_cells(going: Iterable[Version], staying: Iterable[Version]) -> tuple[LostCell, ...]:
    kept = {digest for version in staying for digest, _ in _cells(version)}
    lost: dict[str, LostCell] = {}
    for version in newest_first(going):
        for digest, source in _cells(version):
            if digest not in kept:
                lost.setdefault(digest, LostCell(version.id, digest, first_line(source)))
    return tuple(lost.values())


def _cells(version: Version) -> list[tuple[str, str]]:
    """Return the hash and the source of the cell that a version holds itself, if it does."""
    entry: Any = version.metadata.get(KEY)
    if not isinstance(entry, Mapping) or "source" not in entry:
        return []
    return [(str(entry.get("source_hash", "")), str(entry["source"]))]


def _freed(repo: icechunk.Repository, found: Census, going: Mapping[str, Version]) -> int:
    parents = {version.id: version.parent for version in found.versions.values() if version.parent}
    staying = {snapshot_id: parent for snapshot_id, parent in parents.items() if snapshot_id not in going}
    kept = total(steps(repo, staying))
    return sum(length for chunk, length in total(steps(repo, parents)).items() if chunk not in kept)
