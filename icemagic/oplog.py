"""Tells from the operations log of a repository which operation undo and redo mean.

The log is icechunk's and the same for every user of the store. The operations that undo and redo make stand in it too;
they are told apart by marks in the repository's own metadata: ``[when it was made, "undo" or "redo", when that was made
which it takes back]``. A mark that was lost in a crash makes an undo look like the reset that it is.
"""

from __future__ import annotations

from typing import Literal

from icechunk import Repository, Update, UpdateType

from icemagic.errors import IcemagicError

KEY = "icemagic_undo"
"""Key of the repository's metadata under which the marks stand."""
MARKS = 50
"""Most marks that are kept, and with them steps back: every open and every commit of the repository reads them."""


def is_kept(repo: Repository) -> bool:
    """Whether the repository keeps a log of operations: format 1 does not."""
    return repo.spec_version > 1


def to_undo(repo: Repository, branch: str) -> Update:
    """Return the newest operation that was not taken back: on a branch, or the deletion of any branch or tag."""
    marks, dead = _marks(repo), set()
    newer_counts = False
    for update in repo.ops_log():
        moment = when(update)
        taken_back = moment in dead
        if not taken_back and moment in marks:
            dead.add(marks[moment][1])
        elif not taken_back and _counts(update.kind, branch):
            if newer_counts and branch_of(update.kind) == branch:
                break
            return update
        if branch_of(update.kind) == branch:
            newer_counts = not taken_back
    else:
        raise IcemagicError(f"There is nothing to undo on {branch}.", "%ice reset REF moves it to any version.")
    # The branch was made anew, or the marks of what was undone longest ago are lost: this did not lead to its tip.
    text = f"There is nothing more to undo on {branch}: the operations log does not tell how it came here."
    raise IcemagicError(text, "%ice log lists the versions, %ice reset REF moves the branch to one.")


def to_redo(repo: Repository, branch: str) -> tuple[Update, str]:
    """Return the newest undo that was not redone, and when that was made which it took back."""
    marks, dead = _marks(repo), set()
    for update in repo.ops_log():
        moment = when(update)
        if moment in dead:
            continue
        verb, taken = marks.get(moment, ("", ""))
        if verb == "redo":
            dead.add(taken)
        elif verb == "undo" and (branch_of(update.kind) == branch or isinstance(update.kind, UpdateType.BranchCreated)):
            return update, taken
        elif not verb and _counts(update.kind, branch):
            break
    raise IcemagicError(f"There is nothing to redo on {branch}.", "Only what %ice undo took back last can be redone.")


def at(repo: Repository, moment: str) -> UpdateType | None:
    """Return the operation of that time; None when the log does not reach back so far."""
    return next((update.kind for update in repo.ops_log() if when(update) == moment), None)


def when(update: Update) -> str:
    """Identify an operation by its time: no two have the same."""
    return update.updated_at.isoformat()


def branch_of(kind: UpdateType) -> str | None:
    """Return the branch that an operation made, moved or deleted."""
    if isinstance(kind, UpdateType.NewCommit | UpdateType.CommitAmended):
        return kind.branch
    if isinstance(kind, UpdateType.BranchCreated | UpdateType.BranchReset | UpdateType.BranchDeleted):
        return kind.name
    return None


def mark(repo: Repository, kind: type[UpdateType], branch: str, verb: Literal["undo", "redo"], taken: str) -> None:
    """Mark the newest operation of a kind on a branch: it takes back the one made at the time `taken`."""
    made = next(update for update in repo.ops_log() if type(update.kind) is kind and branch_of(update.kind) == branch)
    older = [[moment, *rest] for moment, rest in _marks(repo).items()]
    repo.update_metadata({KEY: [*older, [when(made), verb, taken]][-MARKS:]})


def _counts(kind: UpdateType, branch: str) -> bool:
    """Whether undo on a branch takes an operation back, rather than passing it over."""
    if isinstance(kind, UpdateType.BranchDeleted | UpdateType.TagDeleted):
        return True
    return branch_of(kind) == branch and not isinstance(kind, UpdateType.BranchCreated)


def _marks(repo: Repository) -> dict[str, tuple[str, str]]:
    """Return what undo and redo made: when, which of them it was, and when that was made which it takes back."""
    found: dict[str, tuple[str, str]] = {}
    held = repo.get_metadata().get(KEY)
    for entry in held if isinstance(held, list) else ():  # anybody may write there
        match entry:
            case [str(made), "undo" | "redo" as verb, str(taken)]:
                found[made] = (verb, taken)
    return found
