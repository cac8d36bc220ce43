"""`Junction`: a workbench that brings what other branches have into the one that the store stands on."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, NoReturn

from icemagic import diff, history, operations, refs, standing
from icemagic.display import count
from icemagic.errors import ConflictError, GuardError, SelectionError, TransactionError
from icemagic.records import Committed, Note, Version
from icemagic.transaction import Terms
from icemagic.workbench import Workbench

if TYPE_CHECKING:  # what merges is loaded by who asks for it
    from icemagic.merge import Side
    from icemagic.mergeplan import Choices
    from icemagic.merging import Bringing, Merged, Outlook


class Junction(Workbench):
    """A store whose branches can be merged."""

    def merge(
        self,
        ref: str | Version,
        *,
        choice: Side | None = None,
        arrays: Mapping[str, Side] | None = None,
        message: str | None = None,
    ) -> Merged | operations.Moved | Note:
        """Bring all that a branch, a tag or a version has into the branch that the store stands on.

        What one side changed since the newest version in common is taken from that side, value by value. Where nothing
        was committed to the branch since, it only moves forward.

        Parameters
        ----------
        ref : str or Version
            What is merged in.
        choice : {"ours", "theirs"}, optional
            Side that wins wherever both changed the same; ``ours`` is the branch that the store stands on.
        arrays : mapping, optional
            Path of an array, or of a dimension whose rows are in conflict, to the side that wins there.
        message : str, optional
            What the commit is about.

        Raises
        ------
        ConflictError
            When both sides changed the same and no choice says which wins; nothing was changed.
        SelectionError
            When `arrays` names what is not there.
        """
        from icemagic import merging

        choices = _choices(choice, arrays)

        def apart(branch: str, ref: str | Version, way: tuple[str, str]) -> Merged | Note:
            def make(tip: str) -> Bringing:
                return merging.of_version(self.repo, branch, tip, way[1], of=ref, choices=choices)

            return self._bring(make, message)

        return self._by_way("merge", ref, partial(self._forward, kind="fast-forward"), apart)

    def plan_merge(
        self, ref: str | Version, *, choice: Side | None = None, arrays: Mapping[str, Side] | None = None
    ) -> Outlook | Note:
        """Return what :meth:`merge` would change, and what is in conflict; nothing is written."""
        from icemagic import merging

        choices = _choices(choice, arrays)

        def apart(branch: str, ref: str | Version, way: tuple[str, str]) -> Outlook | Note:
            return self._outlook(merging.of_version(self.repo, branch, *way, of=ref, choices=choices))

        return self._by_way("merge", ref, self._outlook_forward, apart)

    def cherry_pick(
        self,
        ref: str | Version,
        *,
        choice: Side | None = None,
        arrays: Mapping[str, Side] | None = None,
        message: str | None = None,
    ) -> Merged | Note:
        """Repeat on the branch what one version changed; parameters and errors as for :meth:`merge`.

        Raises
        ------
        UnknownVersionError
            When the version before it expired.
        """
        from icemagic import merging

        branch, picked, choices = self._movable("cherry-pick"), self.resolve(ref), _choices(choice, arrays)
        return self._bring(
            lambda tip: merging.of_change(self.repo, branch, tip, picked, of=ref, choices=choices), message
        )

    def plan_cherry_pick(
        self, ref: str | Version, *, choice: Side | None = None, arrays: Mapping[str, Side] | None = None
    ) -> Outlook | Note:
        """Return what :meth:`cherry_pick` would change, and what is in conflict; nothing is written."""
        from icemagic import merging

        branch, picked, choices = self._movable("cherry-pick"), self.resolve(ref), _choices(choice, arrays)
        ours = refs.tip(self.repo, branch)
        return self._outlook(merging.of_change(self.repo, branch, ours, picked, of=ref, choices=choices))

    def promote(self, ref: str | Version) -> operations.Moved | Note:
        """Move the branch forward to a version that was made on top of it; :meth:`undo` takes it back.

        Raises
        ------
        ConflictError
            When the branch holds versions that the other does not, or somebody moved it meanwhile.
        """
        return self._by_way("promotion", ref, partial(self._forward, kind="promotion"), self._refuse_apart)

    def plan_promote(self, ref: str | Version) -> Outlook | Note:
        """Return what :meth:`promote` would change; nothing is moved."""
        return self._by_way("promotion", ref, self._outlook_forward, self._refuse_apart)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _by_way[A, B](
        self,
        what: str,
        ref: str | Version,
        forward: Callable[[str, str | Version, tuple[str, str]], A],
        apart: Callable[[str, str | Version, tuple[str, str]], B],
    ) -> A | B | Note:
        """Do one thing where a version was made on top of the branch, another where each has versions of its own.

        Both are given the branch, what was typed, and the way from the branch's newest version to the other.
        """
        from icemagic import merging

        branch, theirs = self._movable(what), self.resolve(ref)
        ours = refs.tip(self.repo, branch)
        match merging.way(self.repo, ours, theirs):
            case "there":
                return Note(merging.up_to_date(branch, ref, theirs))
            case "forward":
                return forward(branch, ref, (ours, theirs))
        return apart(branch, ref, (ours, theirs))

    def _refuse_apart(self, branch: str, ref: str | Version, way: tuple[str, str]) -> NoReturn:
        from icemagic import merging

        raise merging.not_ahead(self.repo, branch, way, of=ref)

    def _bring(self, make: Callable[[str], Bringing], message: str | None) -> Merged | Note:
        """Commit what comes in, planned on the version that the transaction stands on."""
        started = time.perf_counter()
        with self.transaction(terms=Terms(brought=True)) as txn:
            bringing = make(txn.base)
            bringing.refuse_unsolved()
            if bringing.nothing:
                return Note(bringing.nothing)
            bringing.plan.apply(txn.plain.store)
            changes = txn.changes()
            try:
                version = txn.commit(message or bringing.message, bringing.metadata)
            except ConflictError as error:
                raise ConflictError(error.message, "Run it again: it then starts from their version.") from error
            except GuardError as error:
                hint = (
                    "Mend it on either side first, or choose a side with --array NAME=SIDE; --dry-run shows all of it."
                )
                raise GuardError(error.message, hint) from error
        return bringing.merged(Committed(version, txn.branch, changes, time.perf_counter() - started))

    def _outlook(self, bringing: Bringing) -> Outlook | Note:
        return (
            Note(bringing.nothing) if bringing.nothing and not bringing.plan.unsolved else bringing.outlook(self.repo)
        )

    def _forward(self, branch: str, ref: str | Version, way: tuple[str, str], *, kind: str) -> operations.Moved:
        from icemagic import merging

        ours, theirs = way
        new = history.steps(self.repo, ours, theirs)
        what = f"{kind}: {count(new, 'version')} of {merging.named(ref, theirs)} came to {branch}"
        return self._moved(operations.forward(self.repo, branch, theirs, expected=ours, what=what))

    def _outlook_forward(self, branch: str, ref: str | Version, way: tuple[str, str]) -> Outlook:
        from icemagic import merging

        new, names = history.steps(self.repo, *way), (branch, merging.named(ref, way[1]))
        title = f"dry run: {branch} would move forward to {merging.named(ref, way[1])}, nothing was moved"
        changes = diff.between(self.repo, *way, names=names)
        return merging.Outlook(title, (f"{count(new, 'version')} · {changes.summary()}",), changes, names)

    def _movable(self, what: str) -> str:
        """Return the branch that the store stands on, where it may be moved."""
        self._refuse_read_only()
        self._refuse_in_transaction(what.split(maxsplit=1)[0])
        if self._branch is None:
            raise TransactionError("The store stands on a version, not on a branch.", "%ice switch NAME goes to one.")
        standing.refuse_protected(self.repo, self._branch, what)
        return self._branch

    def _moved(self, moved: operations.Moved) -> operations.Moved:
        self.refresh()
        return moved


def _choices(everything: Side | None, arrays: Mapping[str, Side] | None) -> Choices:
    from icemagic.mergeplan import Choices

    given = {f"/{path.strip('/')}": side for path, side in (arrays or {}).items()}
    if wrong := {everything, *given.values()} - {None, "ours", "theirs"}:
        raise SelectionError(f"{min(map(str, wrong))!r} is no side.", 'A side is "ours" or "theirs".')
    return Choices(everything, given)
