"""Moves branches back and forth: reset, undo, redo and amend, each only from the tip that the caller expects."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import takewhile

from icechunk import ConflictError as IcechunkConflictError
from icechunk import Repository, SnapshotNotFoundError, Update, UpdateType

from icemagic import history, oplog, refs
from icemagic.display import Lines, Report, Shown, count
from icemagic.errors import CommitLostError, ConflictError, IcemagicError, RefNameError, UnknownVersionError
from icemagic.locking import locked
from icemagic.records import Version, short
from icemagic.redaction import hide

_NAMED = 3


@dataclass(frozen=True, repr=False)
class Moved(Shown):
    """A branch that was moved, made again or deleted."""

    what: str
    """What was done, in words."""
    branch: str
    before: str | None
    """Snapshot that the branch stood on; None where there was no such branch."""
    after: str | None
    """Snapshot that it stands on now; None where it was deleted."""
    left: int
    """Versions that were on the branch and no longer are."""
    place: str
    """Where the branch stands, in words."""
    hint: str
    """What takes it back."""

    def _report(self) -> Report:
        left = f"{count(self.left, 'version')} no longer on {self.branch}" if self.left else ""
        return Report(self.what, (Lines(tuple(filter(None, (self.place, left, self.hint)))),))


def reset(repo: Repository, branch: str, to_snapshot: str, *, expected: str) -> Moved:
    """Move a branch to a snapshot.

    Parameters
    ----------
    repo : icechunk.Repository
    branch : str
    to_snapshot : str
        Id of the snapshot that the branch is to stand on.
    expected : str
        Id of the snapshot that the branch stands on, as far as the caller knows.

    Raises
    ------
    ConflictError
        When the branch stands on another snapshot than `expected`; it was not moved.
    UnknownVersionError
        When there is no such branch.
    IcemagicError
        When the branch stands there already.
    """
    with locked(repo):
        _refuse_moved(repo, branch, expected)
        if to_snapshot == expected:
            raise IcemagicError(f"{branch} stands on {history.title(repo, expected)} already.")
        _move(repo, branch, expected, to_snapshot)
    # Without a log only the whole id leads back: no branch may reach the version any more.
    back = "%ice undo" if oplog.is_kept(repo) else f"%ice reset {expected}"
    return _moved(repo, f"reset {branch}", branch, (expected, to_snapshot), f"{back} takes it back")


def forward(repo: Repository, branch: str, to_snapshot: str, *, expected: str, what: str) -> Moved:
    """Move a branch forward to a version that was made on top of it; `what` says what that is.

    Raises
    ------
    ConflictError
        When the branch stands on another snapshot than `expected`; it was not moved.
    UnknownVersionError
        When there is no such branch, or the snapshot expired.
    """
    with locked(repo):
        _refuse_moved(repo, branch, expected)
        _move(repo, branch, expected, to_snapshot)
    back = "%ice undo" if oplog.is_kept(repo) else f"%ice reset {expected}"
    return _moved(repo, what, branch, (expected, to_snapshot), f"{back} takes it back")


def undo(repo: Repository, branch: str, *, expected: str) -> Moved:
    """Take back the last operation: a commit, amend or reset of a branch, or the deletion of any branch.

    Operations on other branches are passed over, except deletions.

    Parameters
    ----------
    repo : icechunk.Repository
    branch : str
    expected : str
        Id of the snapshot that the branch stands on, as far as the caller knows.

    Raises
    ------
    ConflictError
        When the branch stands on another snapshot than `expected`; nothing was changed.
    UnknownVersionError
        When there is no such branch, or the snapshot to go back to expired.
    RefNameError
        When the name of the deleted branch is taken again.
    IcemagicError
        When there is nothing to undo, the last operation deleted a tag, or the repository is of format 1.
    """
    _refuse_format_1(repo)
    with locked(repo):
        _refuse_moved(repo, branch, expected)
        last = oplog.to_undo(repo, branch)
        kind, tip = last.kind, history.title(repo, expected)
        if isinstance(kind, UpdateType.TagDeleted):
            raise _tag_stays_deleted(kind)
        if isinstance(kind, UpdateType.BranchDeleted):
            return _make_again(repo, last, kind)
        if isinstance(kind, UpdateType.NewCommit):
            what, target = f"took back the commit {tip}", _parent(repo, expected)
        elif isinstance(kind, UpdateType.CommitAmended):
            what, target = f"took back the amend {tip}", kind.previous_snap_id
        else:
            assert isinstance(kind, UpdateType.BranchReset)
            what, target = f"took back the reset to {tip}", kind.previous_snap_id
        _move(repo, branch, expected, target)
        oplog.mark(repo, UpdateType.BranchReset, branch, "undo", oplog.when(last))
    return _moved(repo, what, branch, (expected, target), "%ice redo does it again")


def redo(repo: Repository, branch: str, *, expected: str) -> Moved:
    """Take back the last undo that was not redone, as long as nothing else was done since.

    Parameters
    ----------
    repo : icechunk.Repository
    branch : str
    expected : str
        Id of the snapshot that the branch stands on, as far as the caller knows.

    Raises
    ------
    ConflictError
        When the branch stands on another snapshot than `expected`, or another branch that would be deleted again
        moved; nothing was changed.
    UnknownVersionError
        When there is no such branch, or the snapshot to go back to expired.
    IcemagicError
        When there is nothing to redo, or the repository is of format 1.
    """
    _refuse_format_1(repo)
    with locked(repo):
        _refuse_moved(repo, branch, expected)
        undone, taken = oplog.to_redo(repo, branch)
        if isinstance(undone.kind, UpdateType.BranchCreated):
            return _delete_again(repo, undone, undone.kind.name, taken, current=branch)
        assert isinstance(undone.kind, UpdateType.BranchReset)
        target = undone.kind.previous_snap_id
        _move(repo, branch, expected, target)
        oplog.mark(repo, UpdateType.BranchReset, branch, "redo", oplog.when(undone))
    return _moved(repo, "took back the undo", branch, (expected, target), "%ice undo takes it back again")


def amend(
    repo: Repository, branch: str, message: str, *, expected: str, author: str, secrets: Iterable[str] = ()
) -> Version:
    """Give the newest version of a branch another message; its data and its other metadata stay.

    Parameters
    ----------
    repo : icechunk.Repository
    branch : str
    message : str
        What the commit is about; not empty.
    expected : str
        Id of the snapshot that the branch stands on, as far as the caller knows.
    author : str
        Who asks; only a commit of the same author is amended.
    secrets : iterable of str, optional
        Values that are taken out of the message.

    Raises
    ------
    ConflictError
        When the branch stands on another snapshot than `expected`; nothing was changed.
    UnknownVersionError
        When there is no such branch, or no version on it.
    IcemagicError
        When the message is empty, the version is somebody else's, or the repository is of format 1.
    """
    if not message.strip():
        raise IcemagicError("A commit needs a message.", 'For example %ice amend "Add 2025-01-01".')
    _refuse_format_1(repo)
    with locked(repo):
        _refuse_moved(repo, branch, expected)
        version = history.version(repo, expected)
        if version is None:
            raise UnknownVersionError(f"{branch} holds no version yet.", 'Make the first one: %%commit "message".')
        if version.author != author or not author:
            whose = f"by {version.author}" if version.author else "by somebody who gave no name"
            text = f"{version.summary()} was committed {whose}, and you are {author or 'nobody'}. Nothing was changed."
            raise IcemagicError(text, "Say what is to be said in a commit of your own.")
        amended = _amend(repo, branch, hide(message, secrets), version)
        _verify(repo, branch, amended)
    return history.version_of(repo.lookup_snapshot(amended), history.ref_names(repo))


def _amend(repo: Repository, branch: str, message: str, version: Version) -> str:
    session = repo.writable_session(branch)
    if session.snapshot_id != version.id:
        raise _meanwhile(repo, branch, version.id)
    try:
        return session.amend(message, metadata=dict(version.metadata), allow_empty=True)
    except IcechunkConflictError:
        raise _meanwhile(repo, branch, version.id) from None


def _move(repo: Repository, branch: str, expected: str, target: str) -> None:
    try:
        repo.reset_branch(branch, target, from_snapshot_id=expected)
    except IcechunkConflictError:
        raise _meanwhile(repo, branch, expected) from None
    except SnapshotNotFoundError:
        raise _gone(target) from None
    _verify(repo, branch, target)


def _make_again(repo: Repository, last: Update, deleted: UpdateType.BranchDeleted) -> Moved:
    name, target = deleted.name, deleted.previous_snap_id
    if name in repo.list_branches():
        text = f"The branch {name!r} was deleted, and there is another one of that name now."
        raise RefNameError(text, f"%ice branch OTHER_NAME {target} makes the deleted one again.")
    try:
        repo.create_branch(name, target)
    except SnapshotNotFoundError:
        raise _gone(target) from None
    _verify(repo, name, target)
    oplog.mark(repo, UpdateType.BranchCreated, name, "undo", oplog.when(last))
    return _moved(repo, f"made the deleted branch {name} again", name, (None, target), "%ice redo deletes it again")


def _delete_again(repo: Repository, undone: Update, name: str, taken: str, *, current: str) -> Moved:
    if name == current:
        text = f"Redo would delete the branch {name!r}, and that is the one you stand on."
        raise IcemagicError(text, "Go to another one first: %ice switch main.")
    at, deleted = refs.tip(repo, name), oplog.at(repo, taken)
    if not isinstance(deleted, UpdateType.BranchDeleted) or deleted.previous_snap_id != at:
        text = f"Redo would delete the branch {name!r}, which moved since to {history.title(repo, at)}."
        raise ConflictError(text, "Delete it by its name if it is to go all the same.")
    repo.delete_branch(name)
    oplog.mark(repo, UpdateType.BranchDeleted, name, "redo", oplog.when(undone))
    return _moved(repo, f"deleted the branch {name} again", name, (at, None), "%ice undo takes it back again")


def _parent(repo: Repository, snapshot_id: str) -> str:
    """Return the snapshot that a commit was made on."""
    parent = repo.lookup_snapshot(snapshot_id).parent_id
    # Where versions expired, icechunk names an older one as the parent, and keeps one log of all that they changed.
    if parent is None or "synthetic_composite" in repo.inspect_transaction_log(snapshot_id):
        text = f"The version before {history.title(repo, snapshot_id)} expired."
        raise UnknownVersionError(text, "%ice log lists the versions that are left.")
    return parent


def _verify(repo: Repository, branch: str, snapshot_id: str) -> None:
    """See that the branch holds a snapshot; on shared storage somebody may have committed on top of it already."""
    if all(info.id != snapshot_id for info in repo.ancestry(branch=branch)):
        text = f"{branch} does not hold {short(snapshot_id)}: another program moved it at the same moment."
        raise CommitLostError(text, "Try again, and let only programs that use icemagic write to this folder.")


def _refuse_moved(repo: Repository, branch: str, expected: str) -> None:
    if refs.tip(repo, branch) != expected:
        raise _meanwhile(repo, branch, expected)


def _refuse_format_1(repo: Repository) -> None:
    if not oplog.is_kept(repo):
        text = "This repository is of format 1, which keeps no log of operations and cannot amend."
        raise IcemagicError(text, "%ice upgrade brings it to format 2.")


def _meanwhile(repo: Repository, branch: str, expected: str) -> ConflictError:
    """Say who did what to a branch since it stood on the expected snapshot."""
    line = list(repo.ancestry(branch=branch))
    newer = list(takewhile(lambda info: info.id != expected, line))
    if len(newer) < len(line):
        named = ", ".join(_signed(history.version_of(info)) for info in newer[:_NAMED])
        more = f" and {len(newer) - _NAMED:,} more" if len(newer) > _NAMED else ""
        text = f"Meanwhile {count(len(newer), 'version')} came to {branch}: {named}{more}. Nothing was changed."
    else:
        tip = history.version(repo, line[0].id)
        text = f"Meanwhile {branch} was moved to {_signed(tip) if tip else 'the empty start'}. Nothing was changed."
    return ConflictError(text, "%ice refresh goes to its newest version; look at it, then try again.")


def _signed(version: Version) -> str:
    return f"{version.summary()} (by {version.author})" if version.author else version.summary()


def _gone(snapshot_id: str) -> UnknownVersionError:
    text = f"The version {short(snapshot_id)} to go to is gone: it expired or was garbage collected."
    return UnknownVersionError(text, "%ice log lists the versions that are left.")


def _tag_stays_deleted(deleted: UpdateType.TagDeleted) -> IcemagicError:
    text = f"The tag {deleted.name!r} was deleted, and icechunk does not give the name of a deleted tag again."
    # No branch may reach its version any more, and then only the whole id finds it.
    return IcemagicError(text, f"%ice tag OTHER_NAME {deleted.previous_snap_id} gives its version a name again.")


def _moved(repo: Repository, what: str, branch: str, way: tuple[str | None, str | None], hint: str) -> Moved:
    before, after = way
    place = f"{branch} stands on {history.title(repo, after)}" if after else f"there is no branch {branch} any more"
    left = _left(repo, before, after) if before and after else 0
    return Moved(what, branch, before, after, left, place, hint)


def _left(repo: Repository, before: str, after: str) -> int:
    """Return how many versions up to one snapshot are not among those up to another."""
    kept = {info.id for info in repo.ancestry(snapshot_id=after)}
    return sum(1 for _ in takewhile(lambda info: info.id not in kept, repo.ancestry(snapshot_id=before)))
