"""`IcechunkStore`: which repository, which version, which session.

The one stateful class of icemagic, and a real Zarr store. Outside a transaction it stands on one immutable snapshot.
Zarr asks a writable store for a read-only twin whenever something is opened for reading; the twin is a plain icechunk
store pinned to the present state, so a lazy dataset keeps reading what it was opened at, whatever the store does later.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from threading import RLock
from typing import TYPE_CHECKING, Any, Self

import icechunk

from icemagic import diff, history, provenance, refs, tree
from icemagic.config import Config, load_config
from icemagic.errors import (
    NotWritableError,
    StoreExistsError,
    StoreNotFoundError,
    TransactionError,
    UnknownVersionError,
)
from icemagic.opening import create_repository, open_repository
from icemagic.records import Diff, Exhibit, Log, Note, Refs, Status, Tree, Version, short
from icemagic.show import show
from icemagic.storage import describe, locate, short_url
from icemagic.transaction import Metadata, Transaction, writing_to

if TYPE_CHECKING:
    from icechunk._icechunk_python import PyStore
    from zarr.core.buffer import Buffer

Place = str | os.PathLike[str] | icechunk.Repository
"""A URL, a path or an already open repository."""


class IcechunkStore(icechunk.IcechunkStore):
    """A versioned Zarr store over one open icechunk repository.

    Made by :meth:`open`, :meth:`create` and :meth:`open_or_create`. ``xr.open_zarr(store)`` and ``ds.to_zarr(store)``
    take it; writing needs a transaction. ``store.repo`` and ``store.session`` are the way out to plain icechunk.
    """

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
        self.config = config
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

    # -- opening -------------------------------------------------------------------------------------------------------

    @classmethod
    def open(  # type: ignore[override]  # Zarr's is a coroutine that nobody calls on an icechunk store
        cls,
        storage: Place,
        *,
        version: str | Version | None = None,
        branch: str = "main",
        read_only: bool = False,
        storage_config: Mapping[str, object] | None = None,
        config: Config | None = None,
    ) -> Self:
        """Open a repository that exists; never creates one.

        Parameters
        ----------
        storage : str, path or icechunk.Repository
            A path, a URL (see :mod:`icemagic.storage`) or an open repository.
        version : str or Version, optional
            Stand on this version instead of the newest one of `branch`.
        branch : str
            Branch to stand on.
        read_only : bool
            Refuse transactions, tags and branches.
        storage_config : mapping, optional
            Region, credentials and so on; the keys depend on the scheme.
        config : Config, optional
            Settings; the default is what :func:`icemagic.config.load_config` finds.

        Raises
        ------
        StoreNotFoundError
            When there is no repository at that place.
        UnknownVersionError
            When there is no such branch or version.
        """
        config = config or load_config()
        if isinstance(storage, icechunk.Repository):
            repo, url = storage, describe(storage)
            secrets: tuple[str, ...] = ()
        else:
            location = locate(storage, storage_config)
            url, secrets, read_only = location.url, location.secrets, read_only or location.read_only
            repo = open_repository(location, config)
        at = refs.tip(repo, branch)
        if version is not None:
            at = history.resolve(repo, version, head=at, branch=branch)
        stands_on = branch if version is None else None
        return cls(repo, at, branch=stands_on, url=url, config=config, read_only=read_only, secrets=secrets)

    @classmethod
    def create(
        cls,
        storage: str | os.PathLike[str],
        *,
        storage_config: Mapping[str, object] | None = None,
        config: Config | None = None,
    ) -> Self:
        """Create a repository where there is none and stand on its empty branch ``main``.

        Raises
        ------
        StoreExistsError
            When there is a repository, or other files, at that place.
        """
        config = config or load_config()
        location = locate(storage, storage_config)
        repo = create_repository(location, config)
        at = refs.tip(repo, "main")
        url, secrets = location.url, location.secrets
        return cls(repo, at, branch="main", url=url, config=config, read_only=False, secrets=secrets)

    @classmethod
    def open_or_create(
        cls,
        storage: Place,
        *,
        read_only: bool = False,
        storage_config: Mapping[str, object] | None = None,
        config: Config | None = None,
    ) -> Self:
        """Open the repository at a place, or create it when there is none; parameters as for :meth:`open`."""
        try:
            return cls.open(storage, read_only=read_only, storage_config=storage_config, config=config)
        except StoreNotFoundError:
            if read_only or isinstance(storage, icechunk.Repository):
                raise
        try:
            return cls.create(storage, storage_config=storage_config, config=config)
        except StoreExistsError as taken:
            # Another process may have created it in the meantime; if not, something else lies there.
            try:
                return cls.open(storage, storage_config=storage_config, config=config)
            except StoreNotFoundError:
                raise taken from None

    # -- where it stands -----------------------------------------------------------------------------------------------

    @property
    def current_branch(self) -> str | None:
        """The branch that the store stands on, or None when it stands on a version."""
        return self._branch

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open on this store."""
        return self._transaction is not None

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

    def close(self) -> None:
        """Close the store; refused while a transaction is open."""
        self._refuse_in_transaction("close")
        super().close()

    def _move(self, verb: str, snapshot_id: str, branch: str | None) -> None:
        with self._moving:
            self._refuse_in_transaction(verb)
            self._store = self.repo.readonly_session(snapshot_id=snapshot_id).store._store
            self._branch = branch

    def _refuse_in_transaction(self, verb: str) -> None:
        if self._transaction is not None:
            text = f"{verb} has to wait: a transaction is open on this store."
            raise TransactionError(text, "Commit or discard it first.")

    # -- reading history -----------------------------------------------------------------------------------------------

    def list_versions(self) -> list[Version]:
        """Return the versions up to the one it stands on, oldest first, without icechunk's empty root snapshot."""
        return history.list_versions(self.repo, self._head)

    def log(self, limit: int = 20, ref: str | Version = "HEAD") -> Log:
        """Return the newest `limit` versions up to `ref`, newest first."""
        of = self._branch if ref == "HEAD" and self._branch else str(ref)
        at = self._head if ref == "HEAD" else self.resolve(ref)
        return history.log(self.repo, at, of=of, limit=limit)

    def status(self) -> Status:
        """Return where the store stands, what is not committed, and what to do next."""
        uncommitted = None
        if self._transaction is not None:
            uncommitted = diff.working(self.repo, self._transaction.session, name=short(self._head))
        behind = history.behind(self.repo, self._head, self._branch) if self._branch else 0
        return Status(short_url(self.url), self._branch, self.version, behind, self.opened_read_only, uncommitted)

    def show(self, ref: str | Version = "HEAD") -> Exhibit:
        """Return one version in full: its message, what it changed and how it came about."""
        return show(self.repo, self.resolve(ref))

    def diff(self, a: str | Version = "HEAD", b: str | Version | None = None) -> Diff:
        """Compare two versions in structure and chunks, in any order and on any branches.

        A version alone is compared with the one before it.
        """
        left = self.resolve(a)
        if b is None:
            return self._diff_of(left)
        return diff.between(self.repo, left, self.resolve(b), names=(_words(a), _words(b)))

    def _diff_of(self, snapshot_id: str) -> Diff:
        version = history.version(self.repo, snapshot_id)
        changed = diff.of_version(self.repo, version) if version else None
        if changed is None:
            text = f"The version before {history.title(self.repo, snapshot_id)} expired."
            raise UnknownVersionError(text, "Name two versions to compare: A..B.")
        return changed

    def tree(self) -> Tree:
        """Return the groups and arrays of the version, and what lies in storage under the repository."""
        return tree.tree(self.repo, self.with_read_only(read_only=True), title=str(self))

    # -- branches and tags ---------------------------------------------------------------------------------------------

    def branches(self) -> Refs:
        """Return the branches and the versions they stand on."""
        return refs.branches(self.repo, self._branch)

    def tags(self) -> Refs:
        """Return the tags and the versions they stand on."""
        return refs.tags(self.repo)

    def branch(self, name: str, ref: str | Version = "HEAD") -> Note:
        """Create a branch at a version; the store stays where it is."""
        return self._name("branch", name, ref, refs.create_branch, f"%ice switch {name} goes there")

    def tag(self, name: str, ref: str | Version = "HEAD") -> Note:
        """Create a tag at a version; a tag never moves."""
        return self._name("tag", name, ref, refs.create_tag, f"%ice checkout {name} goes there")

    def _name(
        self,
        kind: str,
        name: str,
        ref: str | Version,
        create: Callable[[icechunk.Repository, str, str], None],
        hint: str,
    ) -> Note:
        self._refuse_read_only()
        at = self.resolve(ref)
        create(self.repo, name, at)
        return Note(f"{kind} {name} stands on {history.title(self.repo, at)}", (hint,))

    # -- writing -------------------------------------------------------------------------------------------------------

    @contextmanager
    def transaction(
        self,
        message: str | None = None,
        *,
        metadata: Mapping[str, Any] | None = None,
        cell: provenance.Cell | None = None,
    ) -> Iterator[Transaction]:
        """Make the store writable, on the newest version of its branch, until the context is left.

        Parameters
        ----------
        message : str, optional
            With a message, a clean exit commits; without one, call ``txn.commit(message)``. An exception discards.
        metadata : mapping, optional
            More commit metadata, JSON-like.
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
        """

        def recorded(tip: str) -> dict[str, Any]:
            return {**self._provenance(tip, cell), **(metadata or {})}

        txn, before = self._begin(message, recorded)
        try:
            with writing_to(self, self.config.codecs()), txn:
                yield txn
        finally:
            with self._moving:
                self._transaction = None
                if txn.version is None:
                    self._store = before
                # else the session became read-only with the commit and stands on the new version already

    def _begin(self, message: str | None, metadata: Metadata) -> tuple[Transaction, PyStore]:
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
            txn = Transaction(self.repo, self._branch, message=message, metadata=metadata, secrets=self._secrets)
            self._transaction, self._store, self.bytes_written = txn, txn.session.store._store, 0
            return txn, before

    def discard(self) -> Note:
        """Throw away what the open transaction changed so far."""
        if self._transaction is None:
            return Note("No transaction is open, so there is nothing to discard.")
        self._transaction.discard()
        return Note("The changes of this transaction are discarded; it goes on from the version before.")

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

    def _refuse_read_only(self) -> None:
        if self.opened_read_only:
            raise NotWritableError(f"{self.url} is open read-only.", "Open it again without read_only to write.")

    # -- the Zarr store ------------------------------------------------------------------------------------------------

    def with_read_only(self, read_only: bool = False) -> icechunk.IcechunkStore:  # noqa: FBT001, FBT002  Zarr's signature
        """Return a plain icechunk store pinned to the present state; for writing, return this store itself.

        In a transaction the twin holds the changes made so far and no later ones, so data that were opened lazily can
        be overwritten while they are read.
        """
        if not read_only:
            self._refuse_read_only()
            return self
        session = self.session
        pinned = session.store if session.read_only else session.fork().store
        return icechunk.IcechunkStore(pinned._store, read_only=True)

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

    def _refuse_write(self) -> None:
        self._refuse_read_only()
        if self._transaction is None:
            text = "The store is not in a transaction, so nothing was written."
            hint = 'Write in a %%commit "message" cell or inside: with store.transaction("message"): ...'
            raise NotWritableError(text, hint)
        if self._transaction.version is not None:
            text = f"The transaction is over: it was committed as {self._transaction.version.summary()}."
            raise NotWritableError(text, "Open another one for further changes.")

    def __reduce__(self) -> tuple[Callable[..., IcechunkStore], tuple[Any, ...]]:
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


def _reopened(cls: type[IcechunkStore], repo: icechunk.Repository, at: str, state: Mapping[str, Any]) -> IcechunkStore:
    return cls(repo, at, read_only=True, **state)


def _words(ref: str | Version) -> str:
    return short(ref.id) if isinstance(ref, Version) else ref
