"""`Standpoint`: which repository, which version, which session; a real Zarr store.

Outside a transaction it stands on one immutable snapshot. Zarr asks a writable store for a read-only twin whenever
something is opened for reading; the twin is a plain icechunk store pinned to the present state, so a lazy dataset keeps
reading what it was opened at, whatever the store does later.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from threading import RLock
from typing import TYPE_CHECKING, Any, Self

import icechunk

from icemagic import history, oplog, provenance, refs, rescue
from icemagic.config import Config
from icemagic.errors import NotWritableError, TransactionError
from icemagic.records import Status, Version
from icemagic.storage import short_url

if TYPE_CHECKING:
    from icechunk._icechunk_python import PyStore
    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

    from icemagic.diff import Side
    from icemagic.transaction import Transaction


class Standpoint(icechunk.IcechunkStore):
    """An icechunk store that stands on a version and is written in transactions only."""

    def __init__(
        self,
        repo: icechunk.Repository,
        snapshot_id: str,
        *,
        branch: str | None,
        url: str,
        config: Config,
        read_only: bool,
        secrets: tuple[str, ...],
    ) -> None:
        self.repo = repo
        self.url = url
        """Where the repository lies; holds no secret."""
        self.config: Config = config
        self.bytes_written = 0
        """Encoded bytes that passed through this store in the present or latest transaction."""
        self.opened_read_only = read_only
        """Whether transactions, tags and branches are refused."""
        self._branch = branch
        self._secrets = secrets
        self._recorded = provenance.Recorded()
        # A widget moves the store from another thread than the one in which cells open transactions.
        self._moving = RLock()
        self._transaction: Transaction | None = None
        # Never read-only in Zarr's sense: only a writable store is asked for the pinned twin that keeps lazy data as
        # they were. Writes are refused here, with a sentence of our own.
        super().__init__(repo.readonly_session(snapshot_id=snapshot_id).store._store, read_only=False)

    # -- where it stands -----------------------------------------------------------------------------------------------

    @property
    def _store(self) -> PyStore:
        """Icechunk's inner store, which the base class reads and writes through."""
        return self._transaction.inner if self._transaction else self._at

    @_store.setter
    def _store(self, inner: PyStore) -> None:
        self._at = inner

    @property
    def session(self) -> icechunk.Session:
        """The session that the store reads and, in a transaction, writes through."""
        return self._transaction.session if self._transaction else super().session

    @property
    def current_branch(self) -> str | None:
        """The branch that the store stands on, or None when it stands on a version."""
        return self._branch

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open on this store."""
        return self._transaction is not None

    @property
    def working(self) -> tuple[Side, Side] | None:
        """The two sides of what the open transaction changed so far; None where none is open."""
        txn = self._transaction
        return txn.sides() if txn and not txn.version else None

    @property
    def version(self) -> Version | None:
        """The version that the store reads, or None when there is none yet."""
        return history.version(self.repo, self._head)

    @property
    def _head(self) -> str:
        txn = self._transaction
        if txn is None:
            return self.session.snapshot_id
        return txn.version.id if txn.version else txn.base

    def resolve(self, ref: str | Version) -> str:
        """Return the snapshot id that a version in the grammar of :mod:`icemagic.history` means here."""
        return history.resolve(self.repo, ref, head=self._head, branch=self._branch)

    def at(self, ref: str | Version) -> Self:
        """Return another store of the same repository, which stands on a version and is read-only."""
        return type(self)(
            self.repo,
            self.resolve(ref),
            branch=None,
            url=self.url,
            config=self.config,
            read_only=True,
            secrets=self._secrets,
        )

    def switch(self, branch: str) -> Status:
        """Stand on the newest version of a branch."""
        self._move("switch", refs.tip(self.repo, branch), branch)
        return self.status()

    def checkout(self, ref: str | Version) -> Status:
        """Stand on a version, read-only; the name of a branch switches to it, as in git."""
        if isinstance(ref, str) and ref in self.repo.list_branches() and ref not in self.repo.list_tags():
            return self.switch(ref)
        self._move("checkout", self.resolve(ref), None)
        return self.status()

    def refresh(self) -> Status:
        """Move to the newest version of the branch; a store that stands on a version stays there."""
        return self.switch(self._branch) if self._branch else self.status()

    def status(self) -> Status:
        """Return where the store stands, what is not committed, and what to do next."""
        txn = self._transaction
        return Status(
            url=short_url(self.url),
            branch=self._branch,
            version=self.version,
            behind=history.behind(self.repo, self._head, self._branch) if self._branch else 0,
            read_only=self.opened_read_only,
            uncommitted=txn.changes() if txn else None,
            forecast=txn.forecast() if txn and not txn.version else (),
            begun=txn is not None and txn.lasts,
            stashes=len(rescue.stashes(self.repo)) if oplog.is_kept(self.repo) else 0,
        )

    def _move(self, verb: str, snapshot_id: str, branch: str | None) -> None:
        with self._moving:
            self._refuse_in_transaction(verb)
            self._store = self.repo.readonly_session(snapshot_id=snapshot_id).store._store
            self._branch = branch

    def _refuse_in_transaction(self, verb: str) -> None:
        if self._transaction is not None:
            text = f"{verb} has to wait: a transaction is open on this store."
            raise TransactionError(text, "Commit or discard it first.")

    # -- the Zarr store ------------------------------------------------------------------------------------------------

    def with_read_only(self, read_only: bool = False) -> icechunk.IcechunkStore:  # noqa: FBT001, FBT002  Zarr's signature
        """Return a plain icechunk store pinned to the present state; for writing, return this store itself.

        In a transaction the twin holds the changes made so far and no later ones, so data that were opened lazily can
        be overwritten while they are read.
        """
        if not read_only:
            self._refuse_read_only()
            return self
        txn = self._transaction
        return txn.session.moment().open() if txn else icechunk.IcechunkStore(self._store, read_only=True)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Return a value; refused where a transaction made an array anew that is read as what it was before."""
        value = await super().get(key, prototype, byte_range)
        if value is None and self._transaction is not None and self._transaction.version is None:
            await self._transaction.session.late_reads.refuse(key)
        return value

    async def set(self, key: str, value: Buffer) -> None:
        """Store a value; refused outside a transaction."""
        self._refuse_write()
        self.bytes_written += len(value)
        await super().set(key, value)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Store a value unless there is one; refused outside a transaction."""
        self._refuse_write()
        await super().set_if_not_exists(key, value)

    async def delete(self, key: str) -> None:
        """Delete a key; refused outside a transaction."""
        self._refuse_write()
        assert self._transaction is not None
        self._transaction.session.late_reads.emptied(key)
        await super().delete(key)

    async def delete_dir(self, prefix: str) -> None:
        """Delete all keys below a prefix; refused outside a transaction."""
        self._refuse_write()
        await super().delete_dir(prefix)

    async def clear(self) -> None:
        """Delete everything; refused outside a transaction."""
        self._refuse_write()
        await super().clear()

    def sync_clear(self) -> None:
        """Delete everything; refused outside a transaction."""
        self._refuse_write()
        super().sync_clear()

    def _refuse_read_only(self) -> None:
        if self.opened_read_only:
            raise NotWritableError(f"{self.url} is open read-only.", "Open it again without read_only to write.")

    def _refuse_write(self) -> None:
        self._refuse_read_only()
        if self._transaction is None:
            text = "The store is not in a transaction, so nothing was written."
            hint = 'Write in a %%commit "message" cell or inside: with store.transaction("message"): ...'
            raise NotWritableError(text, hint)
        if self._transaction.version is not None:
            text = f"The transaction is over: it was committed as {self._transaction.version.summary()}."
            raise NotWritableError(text, "Open another one for further changes.")

    def __reduce__(self) -> tuple[Callable[..., Standpoint], tuple[Any, ...]]:
        """Pickle as a read-only store on the same version."""
        if self._transaction is not None:
            text = "A store in a transaction cannot be sent to another process."
            hint = "To write with dask workers use icechunk.xarray.to_icechunk(ds, store.session)."
            raise TransactionError(text, hint)
        if self.url.startswith("memory:"):
            text = f"{self.url} lives in this process only and cannot be sent to another one."
            raise TransactionError(text, "Keep the repository in a folder or a bucket.")
        state = {"branch": self._branch, "url": self.url, "config": self.config, "secrets": self._secrets}
        return _reopened, (type(self), self.repo, self._head, state)

    def __repr__(self) -> str:
        return f"<IcechunkStore {self}>"

    def __str__(self) -> str:
        at = history.title(self.repo, self._head)
        place = f"{self._branch} at {at}" if self._branch else f"at {at}"
        state = ", in a transaction" if self._transaction else ", read-only" if self.opened_read_only else ""
        return f"{short_url(self.url)} · {place}{state}"

    def _repr_html_(self) -> str:
        return self.status()._repr_html_()


def _reopened(cls: type[Standpoint], repo: icechunk.Repository, at: str, state: Mapping[str, Any]) -> Standpoint:
    return cls(repo, at, read_only=True, **state)
