"""One transaction: a writable session that ends in a verified commit or leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import icechunk
import zarr.core.array

from icemagic import history
from icemagic.errors import CommitLostError, ConflictError, NothingToCommitError, TransactionError, UnknownVersionError
from icemagic.locking import locked
from icemagic.records import Version, short
from icemagic.redaction import hide

if TYPE_CHECKING:
    from types import TracebackType

    from zarr.abc.codec import BytesBytesCodec

Metadata = Callable[[str], Mapping[str, Any]]
"""Given the snapshot that a transaction stands on, returns the commit metadata."""


class Transaction:
    """An open transaction on one branch; a context manager.

    Parameters
    ----------
    repo : icechunk.Repository
    branch : str
        Branch to commit to. The transaction stands on its newest version.
    message : str, optional
        With a message, leaving the context without an exception commits.
    metadata : callable, optional
        Makes the commit metadata, given the id of the snapshot that the transaction stands on.
    secrets : iterable of str, optional
        Values that are taken out of the message.

    Raises
    ------
    UnknownVersionError
        When there is no such branch.
    """

    def __init__(
        self,
        repo: icechunk.Repository,
        branch: str,
        *,
        message: str | None = None,
        metadata: Metadata = lambda _: {},
        secrets: Iterable[str] = (),
    ) -> None:
        self.repo = repo
        self.branch = branch
        self.version: Version | None = None
        """The version that was committed, None until then."""
        self._message = message
        self._metadata = metadata
        self._secrets = tuple(secrets)
        try:
            self.session = repo.writable_session(branch)
        except icechunk.RefNotFoundError:
            text = f"There is no branch {branch!r} any more."
            raise UnknownVersionError(text, "%ice branch lists the branches.") from None
        self.base = self.session.snapshot_id
        """Snapshot that the transaction stands on."""

    def commit(self, message: str, metadata: Mapping[str, Any] | None = None) -> Version:
        """Commit the changes, verify that the branch holds them, and return the new version.

        When someone else committed meanwhile, the changes go on top of theirs if nothing was changed on both sides.

        Parameters
        ----------
        message : str
            What the commit is about; not empty.
        metadata : mapping, optional
            More commit metadata, JSON-like.

        Raises
        ------
        NothingToCommitError
            When nothing was changed.
        ConflictError
            When both sides changed the same; nothing was committed.
        UnknownVersionError
            When the branch was deleted meanwhile; nothing was committed.
        CommitLostError
            When the branch does not hold the commit afterwards.
        """
        if self.version is not None:
            text = f"This transaction is over: it was committed as {self.version.summary()}."
            raise TransactionError(text, "Open another one for further changes.")
        if not message.strip():
            raise TransactionError("A commit needs a message.", 'For example txn.commit("Add 2025-01-01").')
        if not self.session.has_uncommitted_changes:
            raise NothingToCommitError("Nothing was changed, so there is nothing to commit.")
        everything = {**self._metadata(self.base), **(metadata or {})}
        with locked(self.repo):
            try:
                self.session.commit(hide(message, self._secrets), everything, rebase_with=icechunk.ConflictDetector())
            except icechunk.RebaseFailedError as error:
                raise _conflict(self.branch, error) from None
            except icechunk.RefNotFoundError:
                text = f"The branch {self.branch!r} was deleted meanwhile. Nothing was committed."
                raise UnknownVersionError(text, "%ice branch lists the others, %ice switch NAME goes there.") from None
            finally:
                # An interrupt is delivered after icechunk has finished: what counts is what the session says.
                if self.session.read_only:
                    self.version = _verified(self.repo, self.branch, self.session.snapshot_id)
        assert self.version is not None
        return self.version

    def discard(self) -> None:
        """Throw away the changes made so far; the transaction goes on from its base."""
        self.session.discard_changes()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.version is not None or not self.session.has_uncommitted_changes:
            return
        if kind is None and self._message is not None:
            self.commit(self._message)
            return
        self.discard()
        if kind is None:
            text = "The transaction ended with changes that nobody committed; they are discarded."
            raise TransactionError(text, 'Call txn.commit("message") inside it, or give it a message to commit with.')


def _verified(repo: icechunk.Repository, branch: str, snapshot_id: str) -> Version:
    """Return the version once the branch is seen to hold it."""
    for info in repo.ancestry(branch=branch):
        if info.id == snapshot_id:
            return history.version_of(info)
    text = f"The commit {short(snapshot_id)} is not on {branch}: another program replaced it at the same moment."
    raise CommitLostError(text, "Run it again, and let only programs that use icemagic write to this folder.")


def _conflict(branch: str, error: icechunk.RebaseFailedError) -> ConflictError:
    arrays = sorted({conflict.path.lstrip("/") or "/" for conflict in error.conflicts})
    text = f"Someone committed to {branch} meanwhile and changed the same: {', '.join(arrays)}. Nothing was committed."
    return ConflictError(text, "Run the cell again: it then starts from their version.")


@dataclass
class _Target:
    store: icechunk.IcechunkStore
    codecs: tuple[BytesBytesCodec, ...]
    over: bool = False


_target: ContextVar[_Target | None] = ContextVar("_target", default=None)
_zarr_default = zarr.core.array.default_compressors_v3


@contextmanager
def writing_to(store: icechunk.IcechunkStore, codecs: tuple[BytesBytesCodec, ...]) -> Iterator[None]:
    """Make `store` the active one, and give `codecs` to arrays that are created without codecs of their own."""
    # Zarr has no setting for this since 3.1, so its own default is asked through here; outside of a transaction (and
    # in other threads) it answers as before.
    zarr.core.array.default_compressors_v3 = _default_codecs
    before, target = _target.get(), _Target(store, codecs)
    _target.set(target)
    try:
        yield
    finally:
        # It may be left in another thread or task than it was entered in, whose context cannot be reset from here.
        target.over = True
        if _target.get() is target:
            _target.set(before)


def active_store() -> icechunk.IcechunkStore | None:
    """Return the store whose transaction is open in this context."""
    target = _target.get()
    return target.store if target and not target.over else None


def _default_codecs(dtype: Any) -> tuple[BytesBytesCodec, ...]:  # noqa: ANN401  Zarr's private type of data types
    target = _target.get()
    return target.codecs if target and not target.over else _zarr_default(dtype)
