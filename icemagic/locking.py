"""One writer at a time on a local repository.

icechunk's local storage has no atomic "replace if unchanged": two processes that commit at once can lose one of the
two commits, and neither is told (https://github.com/earth-mover/icechunk/issues/804). Object stores refuse the second
writer themselves, so the lock is for local folders only. It is advisory: programs that write with plain icechunk do
not take it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from icemagic.errors import TransactionError
from icemagic.storage import storage_path

if TYPE_CHECKING:
    import icechunk

LOCK_NAME = "icemagic.lock"
"""Name of the lock file in the folder of a local repository; the operating system frees it when its holder dies."""
PATIENCE = 120.0
"""Seconds to wait for another process; a commit holds the lock for milliseconds, upkeep of a large store for longer."""


@contextmanager
def locked(repo: icechunk.Repository) -> Iterator[None]:
    """Hold the lock of a local repository; other storage needs none.

    Raises
    ------
    TransactionError
        When another process holds the lock for longer than `PATIENCE`, or the folder cannot be written.
    """
    folder = storage_path(repo)
    if folder is None:
        yield
        return
    with _held(folder):
        yield


@contextmanager
def creating(folder: Path) -> Iterator[bool]:
    """Hold the lock of a local folder that is to become a repository; yields whether it is empty.

    Two processes that create at once would undo each other's first commits. A folder with anything else in it gets no
    lock file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Where the lock lies beside other files, another process may be half way through: it is waited for.
    if not _is_empty(folder) and not (folder / LOCK_NAME).exists():
        yield False
        return
    with _held(folder):
        yield _is_empty(folder)


def _is_empty(folder: Path) -> bool:
    return all(entry.name == LOCK_NAME for entry in folder.iterdir())


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout

    lock = FileLock(folder / LOCK_NAME, timeout=PATIENCE)
    try:
        lock.acquire()
    except Timeout:
        message = f"Another process has been writing to {folder} for {PATIENCE:.0f} s; nothing was changed."
        raise TransactionError(message, "Wait for it to end, or stop it, and try again.") from None
    except PermissionError:
        message = f"The folder {folder} cannot be written; nothing was changed."
        raise TransactionError(message, "Ask for the right to write there, or work on a copy.") from None
    try:
        yield
    finally:
        lock.release()
