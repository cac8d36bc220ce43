"""`Workbench`: a standpoint with its transactions: in one cell, over several, put away and taken out again."""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import icechunk

from icemagic import history, provenance, rescue
from icemagic.errors import IcemagicError, TransactionError
from icemagic.inquiry import Inquiry
from icemagic.records import Committed, Note, Version, short
from icemagic.storage import same_place
from icemagic.transaction import Metadata, Terms, Transaction
from icemagic.writing import keep_writing_to, writing_to

if TYPE_CHECKING:
    from icechunk._icechunk_python import PyStore

    from icemagic.records import Status
    from icemagic.selecting import Selection

_logger = logging.getLogger("icemagic")
_open: weakref.WeakSet[Transaction] = weakref.WeakSet()
"""The transactions that are open in this process."""


@dataclass(frozen=True)
class _Begun:
    """A transaction that stays open over several cells."""

    txn: Transaction
    before: PyStore
    started: float
    end: Callable[[], None]
    save: weakref.finalize[..., Transaction]
    """Saves the changes when the transaction is forgotten or the process ends."""


class Workbench(Inquiry):
    """A store that can be written."""

    _begun: _Begun | None = None

    # -- in one go -----------------------------------------------------------------------------------------------------

    @contextmanager
    def transaction(
        self,
        message: str | None = None,
        *,
        metadata: Mapping[str, Any] | None = None,
        terms: Terms | None = None,
        cell: provenance.Cell | None = None,
    ) -> Iterator[Transaction]:
        """Make the store writable, on the newest version of its branch, until the context is left.

        Parameters
        ----------
        message : str, optional
            With a message, a clean exit commits; without one, call ``txn.commit(message)``. An exception discards.
        metadata : mapping, optional
            More commit metadata, JSON-like.
        terms : Terms, optional
            Checks that must pass, choices in a conflict, and whether rewritten chunks are left out.
        cell : Cell, optional
            The notebook cell to record; the default is the one that runs.

        Yields
        ------
        Transaction
            With ``commit``, ``discard``, ``session`` and, once committed, ``version``.

        Raises
        ------
        NotWritableError
            When the store was opened read-only.
        TransactionError
            When the store stands on a version instead of a branch, when a transaction is open already, and when the
            context is left with changes that nobody committed.
        GuardError
            When the branch is protected, or a check did not pass.
        """

        def recorded(tip: str) -> dict[str, Any]:
            return {**self._provenance(tip, cell), **(metadata or {})}

        txn, before = self._open_transaction(message, recorded, terms or Terms())
        try:
            with writing_to(self, self.config.codecs()), txn:
                yield txn
        finally:
            self._leave(txn, before)

    def _open_transaction(self, message: str | None, metadata: Metadata, terms: Terms) -> tuple[Transaction, PyStore]:
        """Return the new transaction, and the inner store on which this one stood before it."""
        with self._moving:
            self._refuse_read_only()
            self._refuse_in_transaction("transaction")
            if self._branch is None:
                text = f"The store stands on the version {history.title(self.repo, self._head)}, not on a branch."
                raise TransactionError(
                    text, 'Go to one: store.switch("main"), or first start one: store.branch("NAME").'
                )
            before = self._store
            self._transaction = Transaction(
                self.repo, self._branch, message=message, terms=terms, metadata=metadata, secrets=self._secrets
            )
            self.bytes_written = 0
            _open.add(self._transaction)
            return self._transaction, before

    def _leave(self, txn: Transaction, before: PyStore) -> None:
        with self._moving:
            self._transaction = None
            _open.discard(txn)
            # After a commit the session is read-only and stands on the new version.
            self._store = txn.inner if txn.version else before

    def _open_transactions(self) -> list[Transaction]:
        """Return the transactions of this process that are open on the same repository."""
        return [txn for txn in _open if same_place(txn.repo, self.repo)]

    def _oldest_transaction(self) -> datetime | None:
        """Return when the oldest of them was opened."""
        return min((txn.started for txn in self._open_transactions()), default=None)

    # -- over several cells --------------------------------------------------------------------------------------------

    @property
    def begun(self) -> Transaction | None:
        """The transaction that :meth:`begin` opened, None when there is none."""
        return self._begun.txn if self._begun else None

    def begin(self) -> Status:
        """Open a transaction that stays open until :meth:`commit`, :meth:`discard` or :meth:`stash`.

        Raises
        ------
        NotWritableError, TransactionError, GuardError
            As :meth:`transaction` does.
        """
        txn, before = self._open_transaction(None, lambda _: {}, Terms())
        txn.lasts = True
        save = weakref.finalize(txn, _save, self.repo, txn.held, txn.branch, self._author(), str(self.url))
        self._begun = _Begun(txn, before, time.perf_counter(), keep_writing_to(self, self.config.codecs()), save)
        return self.status()

    def commit(self, message: str, *, terms: Terms | None = None, cell: provenance.Cell | None = None) -> Committed:
        """Commit what was changed since :meth:`begin`.

        Parameters
        ----------
        message : str
            What the commit is about; not empty.
        terms : Terms, optional
            Checks that must pass, choices in a conflict, and whether rewritten chunks are left out.
        cell : Cell, optional
            The cells to record; the default is the one that runs.

        Raises
        ------
        TransactionError
            When nothing was begun or changed, a check did not pass, or someone else changed the same; the transaction
            then stays open.
        """
        begun = self._need_begun()
        begun.txn.require_changes()
        changes = begun.txn.changes()
        try:
            version = begun.txn.commit(message, self._provenance(begun.txn.base, cell), terms)
        except KeyboardInterrupt as error:
            error.add_note(begun.txn.fate())
            raise
        finally:
            if begun.txn.version is not None:
                self._close_begun(begun)
        return Committed(version, begun.txn.branch, changes, time.perf_counter() - begun.started)

    def discard(self) -> Note:
        """Throw away what the open transaction changed; one that :meth:`begin` opened is over then."""
        if self._transaction is None:
            return Note("No transaction is open, so there is nothing to discard.")
        landed = self._transaction.version
        if landed is None:
            self._transaction.discard()
        begun = self._begun
        if begun is not None:
            self._close_begun(begun)
        if landed is not None:
            return Note(f"The transaction was committed already, as {landed.summary()}.")
        if begun is None:
            return Note("The changes of this transaction are discarded; it goes on from the version before.")
        return Note("The changes are discarded and the transaction is over.")

    def close(self) -> None:
        """Close the store; changes since :meth:`begin` are saved as a version that no branch holds.

        Raises
        ------
        TransactionError
            In a transaction of another kind.
        """
        if self._begun is not None:
            self._begun.save()
            self._close_begun(self._begun)
        self._refuse_in_transaction("close")
        super().close()

    def _need_begun(self) -> _Begun:
        if self._begun is None:
            raise TransactionError("No transaction was begun.", "%ice begin opens one that lasts over several cells.")
        return self._begun

    def _close_begun(self, begun: _Begun) -> None:
        begun.save.detach()
        begun.end()
        self._begun = None
        self._leave(begun.txn, begun.before)

    # -- put away and taken out ----------------------------------------------------------------------------------------

    def stash(self, message: str = "") -> Note:
        """Put the changes since :meth:`begin` away as a version that no branch holds; the transaction is over then.

        Raises
        ------
        TransactionError
            When nothing was begun or changed.
        """
        begun = self._need_begun()
        begun.txn.require_changes()
        words = message or f"work on {begun.txn.branch}"
        kept = rescue.keep(
            self.repo, begun.txn.plain, kind="stash", message=words, branch=begun.txn.branch, author=self._author()
        )
        self._close_begun(begun)
        return Note(f"put away as stash 0: {short(kept)} {words}", ("%ice stash pop takes it out again",))

    def stashes(self) -> rescue.Unreachable:
        """Return what was put away or saved, newest first."""
        return rescue.stashes(self.repo)

    def pop(self, stash: int | str = 0) -> Status:
        """Take a stash out again, on top of the version that the branch holds now; it is uncommitted then.

        Parameters
        ----------
        stash : int or str
            Its number in the list (0 is the newest), its id or the start of it.

        Raises
        ------
        ConflictError
            When the same was changed since; the stash stays.
        """
        from icemagic import restore

        version = rescue.stash(self.repo, stash)
        assert version.parent is not None
        self.begin()
        begun = self._need_begun()
        try:
            hint = f"The stash stays; %ice rescue {short(version.id)} NAME makes it a branch."
            restore.carry(self.repo, begun.txn.plain, (version.parent, version.id), hint=hint)
        except BaseException:
            self.discard()
            raise
        rescue.forget(self.repo, version.id)
        return self.status()

    # -- bringing back -------------------------------------------------------------------------------------------------

    def revert(self, ref: str | Version) -> Committed:
        """Commit the opposite of one version.

        Raises
        ------
        ConflictError
            When later versions changed the same.
        """
        from icemagic import restore

        at = self.resolve(ref)
        message = f"Revert {history.title(self.repo, at)}"
        return self._commit_work(message, lambda txn: restore.revert(self.repo, txn.plain, at))

    def restore(self, ref: str | Version, array: str | None = None, selection: Selection | None = None) -> Committed:
        """Commit a state in which everything, one array, or a region of one is as it was in a version.

        Parameters
        ----------
        ref : str or Version
            The version.
        array : str, optional
            Path of an array, or of a group with all that is in it.
        selection : mapping, optional
            Dimension to first and last label, both included: ``{"epoch": ("2025-01-01T10", "2025-01-01T11")}``.

        Raises
        ------
        SelectionError
            When the array or the region is not there.
        NothingToCommitError
            When it is like that already.
        """
        from icemagic import restore

        at = self.resolve(ref)
        part = ", ".join(f"{dim} {first}/{last}" for dim, (first, last) in (selection or {}).items())
        what = " ".join(filter(None, (array or "everything", f"({part})" if part else "")))
        message = f"Restore {what} from {short(at)}"

        def work(txn: Transaction) -> None:
            if selection and array:
                restore.restore_region(self.repo, txn.plain, at, array, selection)
            else:
                restore.restore(self.repo, txn.plain, at, array)

        if selection and not array:
            raise TransactionError("A region needs an array.", "For example: %ice restore v1.0 SNR --sel epoch=…")
        return self._commit_work(message, work)

    def _commit_work(self, message: str, work: Callable[[Transaction], None]) -> Committed:
        started = time.perf_counter()
        with self.transaction() as txn:
            work(txn)
            changes = txn.changes()
            version = txn.commit(message)
        return Committed(version, txn.branch, changes, time.perf_counter() - started)

    # -- provenance ----------------------------------------------------------------------------------------------------

    def _author(self) -> str:
        return self.config.author or provenance.own_name()

    def _provenance(self, tip: str, cell: provenance.Cell | None) -> dict[str, Any]:
        return provenance.collect(
            self.repo,
            tip,
            cell=cell or provenance.running_cell(),
            author=self.config.author,
            mode=self.config.provenance,
            secrets=self._secrets,
            recorded=self._recorded,
        )


def _save(repo: icechunk.Repository, held: list[icechunk.Session], branch: str, author: str, url: str) -> None:
    """Save the changes of a transaction that nobody committed, when it is forgotten or the process ends."""
    session = held[0]
    if session.read_only or not session.has_uncommitted_changes:
        return
    message = f"Uncommitted work on {branch}"
    try:
        kept = rescue.keep(repo, session, kind="unsaved", message=message, branch=branch, author=author)
    except (icechunk.IcechunkError, IcemagicError) as error:
        reason = str(error).partition("\n")[0]
        _logger.error("Uncommitted changes of %s are lost, because they could not be saved: %s", url, reason)  # noqa: TRY400  for people
        return
    _logger.warning(
        "Uncommitted changes of %s were saved as version %s: %%ice stash pop takes them out again.", url, short(kept)
    )
