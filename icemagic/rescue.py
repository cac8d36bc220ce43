"""Finds and saves work that no branch or tag holds: commits that were taken back, and changes nobody committed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from icechunk import Repository, Session, SnapshotNotFoundError, StorageError, UpdateType

from icemagic import census, history, oplog, refs
from icemagic.display import Lines, Report, Table, count
from icemagic.errors import (
    AmbiguousVersionError,
    CommitLostError,
    IcemagicError,
    NothingToCommitError,
    UnknownVersionError,
)
from icemagic.locking import locked
from icemagic.provenance import KEY
from icemagic.records import Note, Version, Versions, first_line, short, utc

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["stash", "unsaved", "commit"]
_CANDIDATES = 5
_POPPED = "icemagic_popped"
_REMEMBERED = 50
_STASHED = "stashed version"


@dataclass(frozen=True, repr=False)
class Unreachable(Versions):
    """Versions that no branch or tag reaches, newest first; garbage collection removes them once they are old."""

    versions: tuple[Version, ...]
    branches: Mapping[str, str]
    """Id of a version to the branch that it was made on, where that is known."""
    noun: str = "unreachable version"
    """What they are called."""

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row a version: id, kind, branch, time (UTC), author, message."""
        import pandas as pd

        rows = [(v.id, kind(v), self.branches.get(v.id, ""), v.time, v.author, v.message) for v in self.versions]
        return pd.DataFrame(rows, columns=["id", "kind", "branch", "time", "author", "message"])

    def _report(self) -> Report:
        rows: list[tuple[str, ...]] = [
            (short(v.id), kind(v), self.branches.get(v.id, ""), utc(v.time), v.author, first_line(v.message))
            for v in self.versions
        ]
        columns: tuple[str, ...] = ("version", "kind", "made on", "time", "author", "message")
        if self.noun == _STASHED:
            columns = ("stash", *columns)
            rows = [(f"{number}", *row) for number, row in enumerate(rows)]
        hints = ("%ice rescue VERSION NAME makes one of them the branch NAME",) if rows else ()
        title = f"{count(len(rows), self.noun)}, newest first" if rows else f"no {self.noun}"
        return Report(title, (Table(columns, tuple(rows)), Lines(hints)))


def kind(version: Version) -> Kind:
    """Return why an unreachable version was made: kept from a transaction, or once committed to a branch."""
    kept = _kept(version).get("kept")
    return kept if kept in ("stash", "unsaved") else "commit"


def unreachable(repo: Repository) -> Unreachable:
    """Return every version that no branch or tag reaches.

    Raises
    ------
    IcemagicError
        When the repository is of format 1, which keeps no list of them.
    """
    if not oplog.is_kept(repo):
        text = "This repository is of format 1, which keeps no list of the versions that no branch or tag reaches."
        raise IcemagicError(text, "%ice branch NAME ID makes a branch at one whose whole id you know.")
    found = census.take(repo)
    reached = found.reachable()
    versions = census.newest_first(one for one in found.versions.values() if one.id not in reached and one.parent)
    return Unreachable(versions, _branches(repo, versions))


def stashes(repo: Repository) -> Unreachable:
    """Return the versions that :func:`keep` made, that no branch or tag reaches and that nobody took out again.

    Raises
    ------
    IcemagicError
        When the repository is of format 1.
    """
    found, taken = unreachable(repo), repo.metadata.get(_POPPED, [])
    return Unreachable(tuple(v for v in found if kind(v) != "commit" and v.id not in taken), found.branches, _STASHED)


def find(repo: Repository, ref: str) -> Version:
    """Return the unreachable version that a whole id or a unique start of one (4 characters or more) means.

    Raises
    ------
    UnknownVersionError
        When there is none.
    AmbiguousVersionError
        When there are several; the hint lists them.
    """
    return _find(unreachable(repo), ref)


def stash(repo: Repository, number_or_ref: int | str) -> Version:
    """Return one stash by its number (0 is the newest), its id or a unique start of that.

    Raises
    ------
    UnknownVersionError
        When there is none.
    AmbiguousVersionError
        When there are several; the hint lists them.
    """
    found, text = stashes(repo), str(number_or_ref)
    if len(text) >= history.MIN_PREFIX or not text.isdecimal():
        return _find(found, text)
    if int(text) >= len(found):
        raise UnknownVersionError(f"There is no stash {text}.", f"There {_are(found)}; 0 is the newest.")
    return found[int(text)]


def forget(repo: Repository, snapshot_id: str) -> None:
    """Leave a stash that was taken out again out of the list; it stays unreachable and can still be rescued."""
    with locked(repo):
        taken = repo.metadata.get(_POPPED, [])
        repo.update_metadata({_POPPED: [*taken, snapshot_id][-_REMEMBERED:]})


def rescue(repo: Repository, ref: str, name: str) -> Note:
    """Make an unreachable version the tip of a new branch.

    Raises
    ------
    UnknownVersionError, AmbiguousVersionError
        When `ref` does not mean one unreachable version.
    RefNameError
        When the name is taken or cannot be used.
    """
    version = find(repo, ref)
    refs.create_branch(repo, name, version.id)
    return Note(f"branch {name} stands on {version.summary()}", (f"%ice switch {name} goes there",))


def keep(
    repo: Repository,
    session: Session,
    *,
    kind: Literal["stash", "unsaved"],
    message: str,
    branch: str,
    author: str,
) -> str:
    """Save the uncommitted changes of a session as a version that no branch reaches, and return its id.

    It works where a commit would not: when the branch moved or was deleted since. Afterwards the session is read-only
    and stands on the version that was saved.

    Parameters
    ----------
    repo : icechunk.Repository
        The repository of the session.
    session : icechunk.Session
        A writable session with uncommitted changes.
    kind : {"stash", "unsaved"}
        Whether somebody put it aside or it was left over.
    message : str
    branch : str
        Branch that the changes were made for.
    author : str

    Raises
    ------
    NothingToCommitError
        When the session holds no changes.
    UnknownVersionError
        When the version that the session stands on expired or was garbage collected; the session stays as it is.
    """
    if not session.has_uncommitted_changes:
        raise NothingToCommitError("Nothing was changed, so there is nothing to keep.")
    base = session.snapshot_id
    with locked(repo):
        try:
            session.flush(message, metadata={KEY: {"kept": kind, "branch": branch, "author": author}})
        except (SnapshotNotFoundError, StorageError) as error:
            if error.kind not in ("snapshot-not-found", "object-not-found"):
                raise
            text = f"The version {short(base)} that the changes stand on expired; they cannot be saved apart from it."
            raise UnknownVersionError(text, '%ice commit "message" puts them on the newest version.') from None
        _verify(repo, session.snapshot_id)
    return session.snapshot_id


def _verify(repo: Repository, snapshot_id: str) -> None:
    try:
        repo.lookup_snapshot(snapshot_id)
    except SnapshotNotFoundError:
        text = f"The repository does not hold {short(snapshot_id)}: another program wrote at the same moment."
        raise CommitLostError(text, "Let only programs that use icemagic write to this folder.") from None


def _find(among: Unreachable, ref: str) -> Version:
    found = [version for version in among if version.id.startswith(ref.upper())]
    if len(ref) < history.MIN_PREFIX:
        message = f"{ref!r} is too short for the id of a version."
        raise UnknownVersionError(message, f"Give {history.MIN_PREFIX} or more characters; there {_are(among)}.")
    if not found:
        raise UnknownVersionError(f"No {among.noun} has an id that starts with {ref!r}.", f"There {_are(among)}.")
    if len(found) > 1:
        message = f"{ref!r} is the start of {len(found)} versions."
        raise AmbiguousVersionError(message, f"Give more characters: {_some(found)}.")
    return found[0]


def _are(among: Unreachable) -> str:
    verb = "is" if len(among) == 1 else "are"
    return f"{verb} {count(len(among), among.noun)}: {_some(among.versions)}" if among.versions else "is none"


def _some(versions: tuple[Version, ...] | list[Version]) -> str:
    shown = [f"{short(version.id)} ({first_line(version.message)})" for version in versions[:_CANDIDATES]]
    more = [f"and {len(versions) - _CANDIDATES} more"] if len(versions) > _CANDIDATES else []
    return ", ".join(shown + more)


def _branches(repo: Repository, versions: Iterable[Version]) -> dict[str, str]:
    """Return the branch that each version was made on: as recorded, else as the operations log tells."""
    found = {version.id: str(_kept(version).get("branch", "")) for version in versions}
    for update in repo.ops_log():
        if (
            isinstance(update.kind, UpdateType.NewCommit | UpdateType.CommitAmended)
            and update.kind.new_snap_id in found
        ):
            found[update.kind.new_snap_id] = update.kind.branch
    return found


def _kept(version: Version) -> Mapping[str, Any]:
    """Return what :func:`keep` recorded, or an empty mapping."""
    recorded = version.metadata.get(KEY)
    return recorded if isinstance(recorded, Mapping) and "kept" in recorded else {}
