"""`IcechunkStore`: the one class that a user must know; each method is one call to a verb."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Self

import icechunk

from icemagic import history, operations, refs, rescue, standing
from icemagic.config import Config, load_config
from icemagic.errors import StoreExistsError, StoreNotFoundError, TransactionError
from icemagic.junction import Junction
from icemagic.opening import create_repository, open_repository
from icemagic.records import Note, Refs, Version, first_line, short
from icemagic.storage import describe, locate

if TYPE_CHECKING:  # upkeep is loaded by who asks for it
    from icemagic.collection import Collected, CollectPlan
    from icemagic.doctor import Diagnosis, UpgradePlan
    from icemagic.expiry import Expired, ExpirePlan
    from icemagic.usage import Usage

Place = str | os.PathLike[str] | icechunk.Repository
"""A URL, a path or an already open repository."""


class IcechunkStore(Junction):
    """A versioned Zarr store over one open icechunk repository.

    Made by :meth:`open`, :meth:`create` and :meth:`open_or_create`. ``xr.open_zarr(store)`` and ``ds.to_zarr(store)``
    take it; writing needs a transaction. ``store.repo`` and ``store.session`` are the way out to plain icechunk.
    """

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

    def delete_branch(self, name: str) -> Note:
        """Delete a branch; :meth:`undo` brings it back.

        Raises
        ------
        TransactionError
            When the store stands on it.
        GuardError
            When it is protected.
        """
        self._refuse_read_only()
        if name == self._branch:
            raise TransactionError(f"The store stands on {name!r}.", "Switch to another branch first.")
        standing.refuse_protected(self.repo, name, "deletion")
        at = refs.delete_branch(self.repo, name)
        return Note(f"deleted branch {name}, it stood on {history.title(self.repo, at)}", ("%ice undo brings it back",))

    def delete_tag(self, name: str) -> Note:
        """Delete a tag for good: icechunk never gives its name again."""
        self._refuse_read_only()
        at = refs.delete_tag(self.repo, name)
        hint = f"its name cannot be given again; %ice tag OTHER_NAME {short(at)} names the version anew"
        return Note(f"deleted tag {name}, it stood on {history.title(self.repo, at)}", (hint,))

    # -- back and forth ------------------------------------------------------------------------------------------------

    def reset(self, ref: str | Version) -> operations.Moved:
        """Move the branch to another version; :meth:`undo` takes it back.

        Raises
        ------
        ConflictError
            When someone committed since the store was moved to where it stands.
        """
        branch = self._movable("reset")
        to = self.resolve(ref)
        return self._moved(operations.reset(self.repo, branch, to, expected=self._head))

    def undo(self) -> operations.Moved:
        """Take back the last commit, amend or reset of the branch, or the last deletion of a branch.

        Raises
        ------
        ConflictError
            When someone committed since the store was moved to where it stands.
        """
        return self._moved(operations.undo(self.repo, self._movable("undo"), expected=self._head))

    def redo(self) -> operations.Moved:
        """Do again what :meth:`undo` took back last."""
        return self._moved(operations.redo(self.repo, self._movable("redo"), expected=self._head))

    def amend(self, message: str) -> Note:
        """Give the newest commit of the branch another message.

        Raises
        ------
        TransactionError
            When it is not the user's own.
        """
        branch = self._movable("change of its newest commit")
        version = operations.amend(
            self.repo, branch, message, expected=self._head, author=self._author(), secrets=self._secrets
        )
        self.refresh()
        title = f"[{branch} {short(version.id)}] {first_line(version.message)}"
        return Note(title, ("%ice undo gives the old message back",))

    def unreachable(self) -> rescue.Unreachable:
        """Return the versions that no branch or tag holds: taken back, put away, or saved."""
        return rescue.unreachable(self.repo)

    def rescue(self, ref: str, branch: str) -> Note:
        """Make a version that no branch or tag holds the tip of a new branch."""
        self._refuse_read_only()
        return rescue.rescue(self.repo, ref, branch)

    # -- standing guards -----------------------------------------------------------------------------------------------

    def guards(self) -> standing.Standing:
        """Return the guards that the store carries."""
        return standing.standing(self.repo)

    def protect(self, branch: str) -> standing.Standing:
        """Protect a branch against commits, resets and deletion, for every user of the store."""
        self._refuse_read_only()
        return standing.protect(self.repo, branch)

    def unprotect(self, branch: str) -> standing.Standing:
        """Take the protection of a branch away."""
        self._refuse_read_only()
        return standing.unprotect(self.repo, branch)

    def demand(self, array: str, demand: standing.Demand) -> standing.Standing:
        """Demand something of an array in every transaction from now on; an empty demand takes the old one away."""
        self._refuse_read_only()
        return standing.demand(self.repo, array, demand)

    # -- upkeep --------------------------------------------------------------------------------------------------------

    def du(self) -> Usage:
        """Return bytes by kind, by array, and what each version added and holds alone."""
        from icemagic import usage

        return usage.du(self.repo, head=self._head)

    def plan_expire(
        self,
        *,
        before: datetime | None = None,
        keep: int | None = None,
        branches: Iterable[str] = (),
        tags: Iterable[str] = (),
    ) -> ExpirePlan:
        """Return what would go if versions expired: those from before a moment, or all but the newest of each branch.

        Branches and tags stay unless they are named.

        Raises
        ------
        TransactionError
            When open work stands on a version that would go.
        """
        from icemagic import expiry

        return expiry.plan_expire(
            self.repo, before=before, keep=keep, branches=branches, tags=tags, in_use=self._in_use()
        )

    def expire(self, plan: ExpirePlan) -> Expired:
        """Forget exactly the versions that a plan names.

        Raises
        ------
        TransactionError
            When the repository changed since the plan was made, or open work stands on a version that would go.
        """
        from icemagic import expiry

        self._refuse_read_only()
        self._refuse_in_transaction("expire")
        expired = expiry.expire(self.repo, plan, in_use=self._in_use())
        self._follow()
        return expired

    def _in_use(self) -> set[str]:
        """Return the versions that open transactions stand on."""
        return {txn.base for txn in self._open_transactions()}

    def plan_collect(self, *, before: datetime | None = None, recent: bool = False) -> CollectPlan:
        """Return what garbage collection would delete: what no version needs and is older than a moment.

        Parameters
        ----------
        before : datetime, optional
            Time zone included; the default is one day ago.
        recent : bool
            Whether a moment within the last day is allowed.

        Raises
        ------
        TransactionError
            When the moment is younger than an open transaction or, unless `recent`, than one day.
        """
        from icemagic import collection

        now = datetime.now(UTC)
        return collection.plan_collect(
            self.repo, before=before, now=now, open_since=self._oldest_transaction(), recent=recent
        )

    def collect(self, plan: CollectPlan) -> Collected:
        """Delete exactly what a plan names.

        Raises
        ------
        TransactionError
            When the repository changed since, or a transaction that is older than the plan's moment is open.
        """
        from icemagic import collection

        self._refuse_read_only()
        return collection.collect(self.repo, plan, open_since=self._oldest_transaction())

    def doctor(self) -> Diagnosis:
        """Return what could be mended, and how."""
        from icemagic import doctor

        return doctor.diagnose(self.repo, config=self.config)

    def plan_upgrade(self) -> UpgradePlan:
        """Return what an upgrade from format 1 to format 2 would take over."""
        from icemagic import doctor

        return doctor.plan_upgrade(self.repo)

    def upgrade(self) -> Note:
        """Bring a repository of format 1 to format 2; other programs that have it open must open it again."""
        from icemagic import doctor

        self._refuse_read_only()
        self._refuse_in_transaction("upgrade")
        self.repo = doctor.upgrade(self.repo)
        self._follow()
        return Note("the repository is of format 2 now", ("whoever else has it open must open it again",))

    def _follow(self) -> None:
        """Stand on the newest version of the branch, or on the same version."""
        at = refs.tip(self.repo, self._branch) if self._branch else self._head
        self._move("upkeep", at, self._branch)
