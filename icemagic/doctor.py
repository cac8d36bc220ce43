"""Looks a repository over, says what could be mended and with which command, and upgrades format 1."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from icemagic import rescue, usage
from icemagic.backups import FOLDER
from icemagic.census import TOLERANCE
from icemagic.config import Config
from icemagic.display import Lines, Report, Shown, Table, count, size
from icemagic.errors import IcemagicError
from icemagic.history import ref_names
from icemagic.locking import LOCK_NAME, locked
from icemagic.records import utc
from icemagic.storage import storage_path
from icemagic.tree import kept

if TYPE_CHECKING:
    import icechunk

MOST_REFS = 1_000_000
"""Chunks in one manifest above which opening an array and committing to it get slow."""
MOST_BYTES = 100_000_000
"""Bytes of one manifest above which they do."""

_SPLIT = 'set icechunk\'s manifest splitting, then store.repo.rewrite_manifests("split", branch="main")'
_UPGRADE = "%ice upgrade"
_SET_CLOCK = "let the system set its clock (NTP)"


@dataclass(frozen=True)
class Finding:
    """Something that could be better."""

    what: str
    """A sentence."""
    mend: str
    """The command or step that mends it."""


@dataclass(frozen=True, repr=False)
class Diagnosis(Shown):
    """What was found in a repository."""

    findings: tuple[Finding, ...]

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def __len__(self) -> int:
        return len(self.findings)

    def _report(self) -> Report:
        if not self.findings:
            return Report("nothing to mend")
        rows = tuple((finding.what, finding.mend) for finding in self.findings)
        return Report(count(len(rows), "finding"), (Table(("what was found", "what mends it"), rows),))


@dataclass(frozen=True, repr=False)
class UpgradePlan(Shown):
    """What an upgrade to format 2 takes over."""

    versions: int
    branches: int
    tags: int

    def _report(self) -> Report:
        held = ", ".join((count(self.versions, "version"), count(self.branches, "branch"), count(self.tags, "tag")))
        lines = (
            f"taken over: {held}; no data are copied",
            "afterwards icechunk 1 cannot open the repository, and whoever has it open must open it again",
        )
        return Report("to upgrade, for good: format 1 to format 2", (Lines(lines),))


def diagnose(repo: icechunk.Repository, *, config: Config, now: datetime | None = None) -> Diagnosis:
    """Return what could be mended; what cannot be looked at is a finding too.

    Parameters
    ----------
    repo : icechunk.Repository
    config : Config
        Settings that the repository should have; only those that come from a file count.
    now : datetime, optional
        The time by this machine's clock.
    """
    import icechunk

    checks: dict[str, Callable[[], Iterator[Finding]]] = {
        "the format": lambda: _format(repo),
        "the manifests": lambda: _manifests(repo),
        "versions that no branch or tag reaches": lambda: _unreachable(repo),
        "the backups": lambda: _backups(repo),
        "the lock": lambda: _lock(repo),
        "the clocks": lambda: _clocks(repo, now or datetime.now(UTC)),
        "the settings": lambda: _settings(repo, config),
    }
    findings: list[Finding] = []
    for what, check in checks.items():
        try:
            findings += check()
        except (icechunk.IcechunkError, OSError) as error:
            reason = str(error).partition("\n")[0]
            findings.append(Finding(f"Could not look at {what}: {reason}", "look again when the cause is gone"))
    return Diagnosis(tuple(findings))


def plan_upgrade(repo: icechunk.Repository) -> UpgradePlan:
    """Return what an upgrade to format 2 would take over, after icechunk's own trial run.

    Raises
    ------
    IcemagicError
        When the repository is of format 2 already.
    """
    import icechunk

    _refuse_format_2(repo)
    icechunk.upgrade_icechunk_repository(repo, dry_run=True, delete_unused_v1_files=False)
    return UpgradePlan(len(usage.reachable(repo)), len(repo.list_branches()), len(repo.list_tags()))


def upgrade(repo: icechunk.Repository) -> icechunk.Repository:
    """Upgrade a repository of format 1 to format 2, and return it; the object that was given cannot be used any more.

    Raises
    ------
    IcemagicError
        When the repository is of format 2 already.
    """
    import icechunk

    _refuse_format_2(repo)
    with locked(repo):
        return icechunk.upgrade_icechunk_repository(repo, dry_run=False, delete_unused_v1_files=True)


def _refuse_format_2(repo: icechunk.Repository) -> None:
    if repo.spec_version > 1:
        message = "The repository is of format 2 already."
        raise IcemagicError(message, "There is nothing to upgrade.")


def _format(repo: icechunk.Repository) -> Iterator[Finding]:
    if repo.spec_version == 1:
        yield Finding("The repository is of format 1: no undo, no stash, and a slow log on object storage.", _UPGRADE)


def _manifests(repo: icechunk.Repository) -> Iterator[Finding]:
    found = {file.id: file for tip in ref_names(repo) for file in repo.list_manifest_files(tip)}
    large = [file for file in found.values() if file.num_chunk_refs > MOST_REFS or file.size_bytes > MOST_BYTES]
    if large:
        most = max(large, key=lambda file: file.num_chunk_refs)
        words = f"{most.num_chunk_refs:,} chunks, {size(most.size_bytes)}"
        yield Finding(f"{count(len(large), 'manifest')} too large; the largest: {words}.", _SPLIT)


def _unreachable(repo: icechunk.Repository) -> Iterator[Finding]:
    if repo.spec_version > 1 and (found := len(rescue.unreachable(repo).versions)):
        what = f"No branch or tag reaches {count(found, 'version')}."
        yield Finding(what, "%ice rescue lists them, %ice gc removes the old ones")


def _backups(repo: icechunk.Repository) -> Iterator[Finding]:
    kinds, remark = kept(repo)
    if remark:
        yield Finding(f"Could not look at the files: {remark}", "ask for the right to list them")
    if storage_path(repo) is None:
        return
    backups = sum(kind.bytes for kind in kinds if kind.name == FOLDER)
    rest = sum(kind.bytes for kind in kinds if kind.name != FOLDER)
    if backups > rest:
        what = f"The backups of the metadata file take {size(backups)}, all else {size(rest)}."
        yield Finding(what, "%ice gc deletes those older than a day")


def _lock(repo: icechunk.Repository) -> Iterator[Finding]:
    from filelock import FileLock, Timeout

    folder = storage_path(repo)
    if folder is None or not (folder / LOCK_NAME).exists():
        return
    try:
        with FileLock(folder / LOCK_NAME, timeout=0):
            pass
    except Timeout:
        yield Finding("Somebody is writing: the lock is held.", "wait for that process to end, or stop it")


def _clocks(repo: icechunk.Repository, now: datetime) -> Iterator[Finding]:
    tip = max((repo.lookup_snapshot(tip) for tip in ref_names(repo)), key=lambda info: info.written_at)
    newest = max(tip.written_at, next(repo.ops_log()).updated_at) if repo.spec_version > 1 else tip.written_at
    if newest > now + TOLERANCE:
        what = f"The newest operation is of {utc(newest)}, which is in the future: a clock is wrong, here or there."
        yield Finding(what, _SET_CLOCK)
    stamp = _stamp(repo, tip.id)
    if stamp and stamp + TOLERANCE < tip.written_at:
        what = f"The storage says {utc(stamp)} of a file that was written at {utc(tip.written_at)}: one clock is wrong."
        yield Finding(what, _SET_CLOCK)
    if stamp and stamp > now + TOLERANCE:
        what = f"The storage says {utc(stamp)} of a file, which is in the future: its clock is fast, or this one slow."
        yield Finding(what, _SET_CLOCK)


def _stamp(repo: icechunk.Repository, snapshot_id: str) -> datetime | None:
    """Return when the storage says that a snapshot was written."""
    files = repo.storage.list_objects_metadata(prefix="snapshots")
    return next((file.created_at for file in files if file.key.endswith(snapshot_id)), None)


def _settings(repo: icechunk.Repository, config: Config) -> Iterator[Finding]:
    import icechunk

    wanted = _values(config.repository_config())
    there = _values(icechunk.Repository.fetch_config(repo.storage))
    for name in sorted(wanted.keys() & config.origins.keys()):
        if wanted[name] is not None and wanted[name] != there[name]:
            said = "nothing" if there[name] is None else f"{there[name]}"
            what = f"{name} is {wanted[name]} in {config.origins[name]}, and the repository says {said}."
            yield Finding(what, "store.repo.save_config() writes the settings in use into the repository")


def _values(config: icechunk.RepositoryConfig | None) -> dict[str, Any]:
    """Return the settings that icechunk keeps in a repository, by the names of the configuration file."""
    compression = config.compression if config else None
    return {
        "inline_threshold": config.inline_chunk_threshold_bytes if config else None,
        "get_concurrency": config.get_partial_values_concurrency if config else None,
        "compression_level": compression.level if compression else None,
    }
