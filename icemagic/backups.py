"""Counts and prunes the copies of its ``repo`` file that icechunk leaves behind on local storage.

For every operation icechunk copies the file into ``overwritten/`` and never removes it. The file holds the newest
operations of the log (1,000 unless the repository is set otherwise) and names the copy that holds those before, which
names the next. These copies stay, and with them the whole log as it is now. Each new operation moves the first name on
to a newer copy: where that one was pruned, the log ends. So no operation since the cut-off is ever lost, while older
ones can leave the log once newer ones have pushed them out of the newest 1,000.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from icemagic.display import Lines, Report, Shown, count, size
from icemagic.locking import locked
from icemagic.records import utc
from icemagic.storage import storage_path

if TYPE_CHECKING:
    import icechunk

FOLDER = "overwritten"
"""Folder of a local repository that holds the copies."""


@dataclass(frozen=True, repr=False)
class Backups(Shown):
    """The copies of the ``repo`` file of a repository, and how many of them may go."""

    files: int
    bytes: int
    prunable_files: int
    """Files older than the cut-off that the log does not need."""
    prunable_bytes: int
    before: datetime
    """The cut-off."""

    def _report(self) -> Report:
        may_go = f"{count(self.prunable_files, 'file')} of {size(self.prunable_bytes)} from before {utc(self.before)}"
        title = f"backups of the metadata file: {count(self.files, 'file')}, {size(self.bytes)}"
        return Report(title, (Lines((f"not needed: {may_go}",)),))


@dataclass(frozen=True, repr=False)
class Pruned(Shown):
    """Copies of the ``repo`` file that were deleted."""

    files: int
    bytes: int

    def _report(self) -> Report:
        return Report(f"deleted {count(self.files, 'backup')} of the metadata file, {size(self.bytes)}")


def prunable(repo: icechunk.Repository, before: datetime) -> Backups:
    """Return how many backups there are, and how many from before a moment are not needed.

    Storage other than a local folder is left alone and counts as none.

    Raises
    ------
    ValueError
        When `before` has no time zone.
    """
    files = _sizes(_all(repo))
    may_go = _sizes(_prunable(repo, before))
    return Backups(len(files), sum(files), len(may_go), sum(may_go), before)


def prune(repo: icechunk.Repository, before: datetime) -> Pruned:
    """Delete the backups from before a moment that the log does not need, on local storage.

    Raises
    ------
    ValueError
        When `before` has no time zone.
    """
    with locked(repo):
        files = _prunable(repo, before)
        sizes = _sizes(files)
        for file in files:
            file.unlink()
    return Pruned(len(sizes), sum(sizes))


def check_zone(moment: datetime) -> None:
    """Refuse a time without a zone: it would mean another moment on another machine.

    Raises
    ------
    ValueError
        When there is none.
    """
    if moment.tzinfo is None:
        message = f"The time {moment} has no zone; give one, such as datetime.timezone.utc."
        raise ValueError(message)


def _all(repo: icechunk.Repository) -> list[Path]:
    folder = storage_path(repo)
    found = folder / FOLDER if folder else None
    return sorted(found.glob("repo.*")) if found else []


def _prunable(repo: icechunk.Repository, before: datetime) -> list[Path]:
    check_zone(before)
    old = [file for file in _all(repo) if datetime.fromtimestamp(file.stat().st_mtime, UTC) < before]
    needed = set(_needed(repo)) if old else set()
    return [file for file in old if file.name not in needed]


def _sizes(files: list[Path]) -> list[int]:
    return [file.stat().st_size for file in files]


def _needed(repo: icechunk.Repository) -> Iterator[str]:
    """Yield the names of the newest backup, should the file itself be damaged, and of those that hold the log."""
    info = repo.inspect_repo_info()
    yield from (update["backup_path"] for update in info["latest_updates"][1:2])
    names = {file.name: file for file in _all(repo)}
    while (name := info.get("repo_before_updates")) in names:
        yield name
        info = _inspect(names[name])


def _inspect(backup: Path) -> dict[str, object]:
    """Return what a backup holds: icechunk reads it where it lies alone in a folder as its ``repo`` file."""
    import icechunk

    with tempfile.TemporaryDirectory() as folder:
        shutil.copyfile(backup, Path(folder, "repo"))
        return icechunk.Repository.open(icechunk.local_filesystem_storage(folder)).inspect_repo_info()
