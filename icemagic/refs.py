"""Creates, deletes and lists branches and tags."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from icemagic import history
from icemagic.errors import CommitLostError, RefNameError, UnknownVersionError, did_you_mean
from icemagic.locking import locked
from icemagic.records import Refs

if TYPE_CHECKING:
    import icechunk

# What git refuses in a name (git-check-ref-format), so that REF~2, A..B and @{date} can be read back.
_REFUSED = re.compile(r"[ ~^:?*\[\]\\]|\.\.|@\{|//|^[-/.]|[/.]$|/\.|\.lock(?=/|$)")
_USE = "Use letters, digits, and . _ - / between them."
_RESERVED = ("HEAD", "@")


def check_name(name: str, kind: str) -> None:
    """Refuse a name that could not be typed back as a version.

    Raises
    ------
    RefNameError
        With the reason.
    """
    if not name or name in _RESERVED or name.startswith(("heads/", "tags/")) or history.is_full_id(name):
        raise RefNameError(f"A {kind} cannot be called {name!r}.", _USE)
    # Invisible characters, among them every space but the plain one, would be lost or overlooked when typed back.
    invisible = next((char for char in name if not char.isprintable()), None)
    if bad := invisible or ((match := _REFUSED.search(name)) and match[0]):
        raise RefNameError(f"A {kind} cannot be called {name!r}: {bad!r} stands in the way.", _USE)


def tip(repo: icechunk.Repository, branch: str) -> str:
    """Return the snapshot on which a branch stands.

    Raises
    ------
    UnknownVersionError
        When there is no such branch; the hint names the nearest.
    """
    from icechunk import RefNotFoundError

    try:
        return repo.lookup_branch(branch)
    except RefNotFoundError:
        hint = did_you_mean(branch, repo.list_branches())
        raise UnknownVersionError(f"There is no branch {branch!r}.", hint) from None


def branches(repo: icechunk.Repository, current: str | None = None) -> Refs:
    """Return the branches, sorted by name; `current` is marked."""
    names = sorted(repo.list_branches())
    return Refs("branch", {name: history.version(repo, repo.lookup_branch(name)) for name in names}, current)


def tags(repo: icechunk.Repository) -> Refs:
    """Return the tags, sorted by name."""
    return Refs("tag", {name: history.version(repo, repo.lookup_tag(name)) for name in sorted(repo.list_tags())})


def create_branch(repo: icechunk.Repository, name: str, snapshot_id: str) -> None:
    """Create a branch at a snapshot.

    Raises
    ------
    RefNameError
        When the name is taken or cannot be used.
    """
    check_name(name, "branch")
    with locked(repo), _refusals(repo, "branch", name):
        repo.create_branch(name, snapshot_id)
        _verify("branch", name, repo.lookup_branch(name), snapshot_id)


def create_tag(repo: icechunk.Repository, name: str, snapshot_id: str) -> None:
    """Create a tag at a snapshot; a tag never moves, and icechunk never gives its name again after deletion.

    Raises
    ------
    RefNameError
        When the name is taken, was deleted before, or cannot be used.
    """
    check_name(name, "tag")
    with locked(repo), _refusals(repo, "tag", name):
        repo.create_tag(name, snapshot_id)
        _verify("tag", name, repo.lookup_tag(name), snapshot_id)


def delete_branch(repo: icechunk.Repository, name: str) -> str:
    """Delete a branch and return the snapshot that it stood on.

    Raises
    ------
    UnknownVersionError
        When there is no such branch; the hint names the nearest.
    RefNameError
        When it is ``main``, which icechunk keeps.
    """
    if name == "main":
        raise RefNameError("The branch 'main' cannot be deleted.", "%ice reset REF moves it to another version.")
    with locked(repo):
        at = tip(repo, name)
        repo.delete_branch(name)
        _verify_gone("branch", name, repo.list_branches())
    return at


def delete_tag(repo: icechunk.Repository, name: str) -> str:
    """Delete a tag and return the snapshot that it stood on; icechunk never gives its name again.

    Raises
    ------
    UnknownVersionError
        When there is no such tag; the hint names the nearest.
    """
    from icechunk import RefNotFoundError

    with locked(repo):
        try:
            at = repo.lookup_tag(name)
        except RefNotFoundError:
            hint = did_you_mean(name, repo.list_tags())
            raise UnknownVersionError(f"There is no tag {name!r}.", hint) from None
        repo.delete_tag(name)
        _verify_gone("tag", name, repo.list_tags())
    return at


def _verify_gone(kind: str, name: str, left: set[str]) -> None:
    if name in left:
        message = f"The {kind} {name!r} is still there: another program wrote at the same moment."
        raise CommitLostError(message, "Try again, and let only programs that use icemagic write there.")


def _verify(kind: str, name: str, found: str, wanted: str) -> None:
    if found != wanted:
        message = f"The {kind} {name!r} stands on another version: another program made one at the same moment."
        raise CommitLostError(message, "Choose another name, and let only programs that use icemagic write there.")


@contextmanager
def _refusals(repo: icechunk.Repository, kind: str, name: str) -> Iterator[None]:
    """Say in words why icechunk refuses a name."""
    from icechunk import AlreadyExistsError, ConflictError, InvalidInputError

    try:
        yield
    except (AlreadyExistsError, ConflictError):  # format 1 calls a taken branch a conflict
        if kind == "tag" and name not in repo.list_tags():
            message = f"There was a tag {name!r} before, and icechunk does not give the name of a deleted tag again."
            raise RefNameError(message, "Choose another name.") from None
        hint = f"%ice switch {name} goes there." if kind == "branch" else "A tag never moves; choose another name."
        raise RefNameError(f"There is a {kind} {name!r} already.", hint) from None
    except InvalidInputError as error:
        if error.kind != "invalid-ref-name":
            raise
        message = f"This repository, of format 1, takes no {kind} called {name!r}."
        raise RefNameError(message, "Leave out the slash.") from None
