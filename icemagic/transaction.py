"""One transaction: a writable session that ends in a verified commit or leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self

import icechunk

from icemagic import conflicts, diff, guards, history, merge, standing
from icemagic.differences import Diff
from icemagic.errors import CommitLostError, NothingToCommitError, TransactionError, UnknownVersionError
from icemagic.forks import GuardedSession, Moment
from icemagic.guards import Checks
from icemagic.interrupts import finished, started
from icemagic.latereads import LateReads
from icemagic.locking import locked
from icemagic.records import CHECKS, Rehearsal, Verdict, Version, short
from icemagic.redaction import hide, redact
from icemagic.storage import travels

if TYPE_CHECKING:
    from types import TracebackType

    import xarray as xr

    from icemagic.merge import Edit, Side

Metadata = Callable[[str], Mapping[str, Any]]
"""Given the snapshot that a transaction stands on, returns the commit metadata."""


@dataclass(frozen=True)
class Terms:
    """How a transaction is to be committed."""

    checks: Checks = field(default_factory=Checks)
    choices: Mapping[str, Side] = field(default_factory=dict)
    """Path of an array to the side that wins where someone else changed the same; ``ours`` is the transaction."""
    prune: bool = False
    """Whether chunks that were written with the bytes they had before are left out."""
    brought: bool = False
    """Whether the changes were committed elsewhere before: they may come to nothing, and change the labels of rows."""


@dataclass(frozen=True)
class Savepoint:
    """The changes of a transaction at one moment."""

    state: Moment
    before: icechunk.Session
    """Reads the snapshot that the transaction stood on."""
    paths: frozenset[str]
    """Nodes that were touched until then."""


class Transaction:
    """An open transaction on one branch; a context manager.

    Parameters
    ----------
    repo : icechunk.Repository
    branch : str
        Branch to commit to. The transaction stands on its newest version.
    message : str, optional
        With a message, leaving the context without an exception commits.
    terms : Terms
        How it is committed, unless :meth:`commit` is told otherwise.
    metadata : callable, optional
        Makes the commit metadata, given the id of the snapshot that the transaction stands on.
    secrets : iterable of str, optional
        Values that are taken out of the message.

    Raises
    ------
    UnknownVersionError
        When there is no such branch.
    GuardError
        When the branch is protected.
    """

    def __init__(
        self,
        repo: icechunk.Repository,
        branch: str,
        *,
        message: str | None = None,
        terms: Terms = Terms(),
        metadata: Metadata = lambda _: {},
        secrets: Iterable[str] = (),
    ) -> None:
        self.repo = repo
        self.branch = branch
        self.lasts = False
        """Whether it lasts over several cells."""
        self.started = datetime.now(UTC)
        """When the transaction was opened (UTC)."""
        self.held: list[icechunk.Session] = []
        """The session alone, for who has to save it when nobody holds the transaction any more."""
        self._landing: Future[Version] | None = None
        self._message = message
        self._terms = terms
        self._metadata = metadata
        self._secrets = tuple(secrets)
        standing.refuse_protected(repo, branch, "commit")
        try:
            session = repo.writable_session(branch)
        except icechunk.RefNotFoundError:
            text = f"There is no branch {branch!r} any more."
            raise UnknownVersionError(text, "%ice branch lists the branches.") from None
        self.session = GuardedSession(session, travels=travels(repo))
        """The session as users get it; the same all along."""
        self._stand_on(session)

    def _stand_on(self, session: icechunk.Session, before: icechunk.Session | None = None) -> None:
        self.plain = session
        """icechunk's own session, for the verbs."""
        self._before = before or self.repo.readonly_session(snapshot_id=session.snapshot_id)
        self.session.follow(session, LateReads(self._before, session))
        self.held[:] = [session]
        self.inner = session.store._store  # noqa: SLF001  icechunk's store is to be stood on
        """icechunk's inner store of the session, for the store that this transaction makes writable."""

    @property
    def base(self) -> str:
        """Snapshot that the transaction stands on."""
        return self._before.snapshot_id

    # -- the end -------------------------------------------------------------------------------------------------------

    def commit(self, message: str, metadata: Mapping[str, Any] | None = None, terms: Terms | None = None) -> Version:
        """Commit the changes, verify that the branch holds them, and return the new version.

        When someone else committed meanwhile, the changes go on top of theirs if nothing was changed on both sides.

        Parameters
        ----------
        message : str
            What the commit is about; not empty.
        metadata : mapping, optional
            More commit metadata, JSON-like.
        terms : Terms, optional
            Checks, choices and pruning; the default is what the transaction was opened with.

        Raises
        ------
        NothingToCommitError
            When nothing was changed.
        GuardError
            When a check did not pass; nothing was committed.
        ConflictError
            When both sides changed the same; nothing was committed.
        UnknownVersionError
            When the branch was deleted meanwhile; nothing was committed.
        CommitLostError
            When the branch does not hold the commit afterwards.
        """
        terms = terms or self._terms
        self._refuse_over()
        if not message.strip():
            raise TransactionError("A commit needs a message.", 'For example txn.commit("Add 2025-01-01").')
        with self._unharmed():
            if terms.prune:
                self._prune()
            if not terms.brought:
                self.require_changes()
            standing.refuse_protected(self.repo, self.branch, "commit")
            guards.refuse(self.judge(terms))
            everything = {**self._metadata(self.base), **(metadata or {}), **self._checked(terms.checks)}
        self._landing = started(lambda: self._land(hide(message, self._secrets), everything, terms))
        return finished(self._landing, "The commit is finishing; interrupt again to leave it to itself.")

    def rehearse(self, terms: Terms | None = None) -> Rehearsal:
        """Return what a commit would write now and what each check says of it; nothing is committed.

        Raises
        ------
        NothingToCommitError
            When nothing was changed.
        """
        terms = terms or self._terms
        self.require_changes()
        verdicts = tuple(self.judge(terms))
        return Rehearsal(self.branch, self.changes(), verdicts, self.forecast())

    def judge(self, terms: Terms) -> list[Verdict]:
        """Return what each check says of the changes made so far: the default ones, the store's and those given."""
        checks = terms.checks
        verdicts = [guards.decode(self._before, self.plain, labels=not terms.brought)]
        verdicts += standing.judge(self.plain, standing.standing(self.repo))
        if checks.limits:
            verdicts += guards.limits(self.changes(), checks)
        if verdicts[0].passed:  # else there is no dataset to ask
            verdicts += guards.expectations(self._dataset, checks)
        return verdicts

    def sides(self) -> tuple[diff.Side, diff.Side]:
        """Return the version that the transaction stands on, and its uncommitted changes, for a comparison."""
        after = diff.Side(diff.UNCOMMITTED, self.repo, self.plain)
        return diff.Side(short(self.base), self.repo, self.plain if self.version else self._before), after

    def changes(self) -> Diff:
        """Return what was changed so far; chunks that got the bytes they had before are told apart."""
        return diff.compare(*self.sides())

    def forecast(self) -> tuple[str, ...]:
        """Say how a commit now would go together with what others committed since; empty when nobody did."""
        return conflicts.forecast(self.repo, self._before, self.plain, self.branch)

    def discard(self) -> None:
        """Throw away the changes made so far; the transaction goes on from its base.

        Raises
        ------
        TransactionError
            When it was committed, or a commit is under way.
        """
        self._refuse_over()
        self.plain.discard_changes()

    @property
    def version(self) -> Version | None:
        """The version that was committed, None until then."""
        landed = self._landing is not None and self._landing.done() and not self._landing.exception()
        return self._landing.result() if self._landing and landed else None

    @property
    def finishing(self) -> bool:
        """Whether a commit that nobody waits for any more is still under way."""
        return self._landing is not None and not self._landing.done()

    def fate(self) -> str:
        """Say what became of the commit."""
        if self.version is not None:
            return f"Committed as {self.version.summary()}."
        under_way = "The commit is still under way; %ice log shows whether it landed."
        return under_way if self.finishing else "Nothing was committed."

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.version is not None or self.finishing or not self.plain.has_uncommitted_changes:
            return
        if kind is None and self._message is not None:
            self.commit(self._message)
            return
        self.discard()
        if kind is None:
            text = "The transaction ended with changes that nobody committed; they are discarded."
            raise TransactionError(text, 'Call txn.commit("message") inside it, or give it a message to commit with.')

    # -- savepoints ----------------------------------------------------------------------------------------------------

    def savepoint(self) -> Savepoint:
        """Return the changes made so far, to come back to."""
        return Savepoint(self.session.moment(), self._before, frozenset(diff.paths_of(self.plain.status())))

    def roll_back(self, savepoint: Savepoint) -> bool:
        """Make the changes what they were at a savepoint; returns whether they were others."""
        if self.version is not None or self.finishing:
            return False  # they are not to be touched any more
        if not savepoint.paths:
            changed = self.plain.has_uncommitted_changes
            self.discard()
            return changed
        then, now = savepoint.state.open(), self.plain.store
        paths = diff.paths_of(self.plain.status()) | savepoint.paths
        if (
            self._before is savepoint.before
            and not merge.compare(now, then, now, our_paths=paths, their_paths=set())[0]
        ):
            return False
        session = savepoint.state.session()
        if session is not None:
            self._stand_on(session, savepoint.before)
            return True
        # What lies in memory does not come back as it was: it is made again.
        edits, _ = merge.compare(
            savepoint.before.store, then, self._before.store, our_paths=set(savepoint.paths), their_paths=set()
        )
        self.plain.discard_changes()
        merge.apply(edits, then, now)
        return True

    # -- inside --------------------------------------------------------------------------------------------------------

    def _dataset(self) -> xr.Dataset:
        import xarray as xr

        dataset: xr.Dataset = xr.open_zarr(self.plain.store, consolidated=False, chunks=None)
        return dataset

    def _refuse_over(self) -> None:
        if self.version is not None:
            text = f"This transaction is over: it was committed as {self.version.summary()}."
            raise TransactionError(text, "Open another one for further changes.")
        if self.finishing:
            raise TransactionError("The commit of this transaction is still under way.", "Wait for it to land.")

    def require_changes(self) -> None:
        """Raise when nothing was changed.

        Raises
        ------
        NothingToCommitError
            With what can be said of it.
        """
        if not self.plain.has_uncommitted_changes:
            raise NothingToCommitError("Nothing was changed, so there is nothing to commit.")

    def _checked(self, checks: Checks) -> dict[str, str]:
        """Return the commit metadata that say which checks passed."""
        words = checks.words()
        return {CHECKS: redact(words, self._secrets)} if words else {}

    @contextmanager
    def _unharmed(self) -> Iterator[None]:
        """Whatever fails inside, keep the changes as they were, on the version that they were made on."""
        plain, before = self.plain, self._before
        moment = self.session.moment() if self.session.travels else None
        try:
            yield
        except BaseException:
            if self.plain is not plain or self._before is not before or plain.read_only:
                again = moment.session() if moment else plain
                # What lies in memory and was rebased stays where it is: nothing of it was lost.
                if again is not None and again.snapshot_id == before.snapshot_id:
                    self._stand_on(again, before)
            raise

    def _land(self, message: str, metadata: dict[str, Any], terms: Terms) -> Version:
        """Commit on top of what others committed meanwhile, and see that the branch holds it."""
        with locked(self.repo), self._unharmed():
            while not self._committed(message, metadata, terms):
                self._move_on(terms)
            return _verified(self.repo, self.branch, self.plain.snapshot_id)

    def _committed(self, message: str, metadata: dict[str, Any], terms: Terms) -> bool:
        """Commit; False when someone else was faster."""
        try:
            self.plain.commit(message, metadata, allow_empty=terms.brought)
        except icechunk.ConflictError:
            return False
        except icechunk.RefNotFoundError:
            text = f"The branch {self.branch!r} was deleted meanwhile. Nothing was committed."
            raise UnknownVersionError(text, "%ice branch lists the others, %ice switch NAME goes there.") from None
        return True

    def _move_on(self, terms: Terms) -> None:
        """Put the changes on top of the newest version of the branch, where they have to pass the checks again."""
        tip = self.repo.lookup_branch(self.branch)
        edits = self._edits(tip, terms.choices)
        if terms.choices or not self._rebased(tip, edits):
            self._carry(terms.choices)
        guards.refuse(self.judge(terms))

    def _edits(self, tip: str, choices: Mapping[str, Side]) -> list[Edit]:
        edits, clashes = conflicts.between(self.repo, self._before, self.plain, tip, choices)
        if clashes:
            raise conflicts.error(self.repo, self.plain, self.branch, (self.base, tip), clashes)
        return edits

    def _rebased(self, tip: str, edits: list[Edit]) -> bool:
        """Let icechunk rebase, which moves no data; False where it sees a conflict that is none, chunk by chunk."""
        if all(info.id != self.base for info in self.repo.ancestry(snapshot_id=tip)):
            return False  # the branch was reset: nothing to go along
        paths, base, ours = diff.paths_of(self.plain.status()), self._before.store, self.session.moment()
        try:
            self.plain.rebase(icechunk.ConflictDetector())
        except icechunk.RebaseFailedError:
            return False
        self._stand_on(self.plain)
        theirs = self._before.store
        if self.base != tip:  # where nobody locks, someone may have committed once more before the rebase
            edits, clashes = merge.compare(base, ours.open(), theirs, our_paths=paths, their_paths=set())
            if clashes:
                raise conflicts.error(self.repo, self.plain, self.branch, (tip, self.base), clashes)
        # icechunk takes our metadata of a group even where only the other side changed them.
        merge.settle(edits, paths, theirs, self.plain.store)
        return True

    def _carry(self, choices: Mapping[str, Side], rewritten: Mapping[str, set[tuple[int, ...]]] | None = None) -> None:
        """Write the changes into a session on the newest version, without the chunks that were only rewritten."""
        fresh, ours = self.repo.writable_session(self.branch), self.plain.store
        edits = self._edits(fresh.snapshot_id, choices)
        merge.apply(merge.without(edits, rewritten or {}), ours, fresh.store)
        self._stand_on(fresh)
        self.require_changes()

    def _prune(self) -> None:
        self.require_changes()
        rewritten = diff.rewritten(self._before, self.plain)
        if rewritten:
            self._carry({}, rewritten)


def _verified(repo: icechunk.Repository, branch: str, snapshot_id: str) -> Version:
    """Return the version once the branch is seen to hold it."""
    for info in repo.ancestry(branch=branch):
        if info.id == snapshot_id:
            return history.version_of(info)
    text = f"The commit {short(snapshot_id)} is not on {branch}: another program replaced it at the same moment."
    raise CommitLostError(text, "Run it again, and let only programs that use icemagic write to this folder.")
