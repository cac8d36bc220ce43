"""Brings what happened elsewhere into a branch: all that another branch has, or what one version changed.

A merge starts from the newest version that both sides have in common (:mod:`icemagic.lineage`), a cherry-pick from the
version before the one that is picked. What it comes to is planned first and then written into a transaction, or shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from icemagic import diff, guards, history, lineage, merge, threeway
from icemagic.differences import Diff
from icemagic.display import Lines, Report, Shown, Table, count, filled
from icemagic.errors import ConflictError, SelectionError, UnknownVersionError, did_you_mean
from icemagic.mergeplan import Choices, Conflict, Plan
from icemagic.nodes import node_paths
from icemagic.records import MERGED, PICKED, Committed, Verdict, Version, short, solved_words
from icemagic.standing import standing

if TYPE_CHECKING:
    import icechunk

_SHOWN = 4
_RECORDED = 20
"""Most arrays whose conflicts are recorded by name: all metadata lie in one file that every commit rewrites."""
Way = Literal["there", "forward", "apart"]


def way(repo: icechunk.Repository, ours: str, theirs: str) -> Way:
    """Return how a version lies to ours: it is there already, it lies straight ahead, or both went their own way."""
    if {theirs, _caught_up(repo, theirs)} & lineage.ancestry(repo, ours).parents.keys():
        return "there"
    return "forward" if lineage.follows(repo, theirs, ours) else "apart"


def _caught_up(repo: icechunk.Repository, snapshot_id: str) -> str:
    """Return the version whose data a merge took over as they were: it had nothing of its own to add."""
    version = history.version(repo, snapshot_id)
    if version is None or version.merged is None or version.metadata[MERGED].get("base") != version.parent:
        return snapshot_id
    return version.merged


def named(of: str | Version, snapshot_id: str) -> str:
    """Name a version as it was typed, with its short id."""
    return short(snapshot_id) if snapshot_id.startswith(str(of).upper()) else f"{of} ({short(snapshot_id)})"


def up_to_date(branch: str, of: str | Version, snapshot_id: str) -> str:
    """Say that a branch has all that a version has."""
    return f"already up to date: {branch} has all of {named(of, snapshot_id)}"


def not_ahead(repo: icechunk.Repository, branch: str, lying: tuple[str, str], *, of: str | Version) -> ConflictError:
    """Return the error that says which versions a branch would lose if it moved to another one."""
    ours, theirs = lying
    kept = {info.id for info in repo.ancestry(snapshot_id=theirs)}
    own = [info for info in repo.ancestry(snapshot_id=ours) if info.id not in kept]
    more = f" and {len(own) - _SHOWN:,} more" if len(own) > _SHOWN else ""
    names = ", ".join(history.version_of(info).summary() for info in own[:_SHOWN])
    text = f"{_short(of)} was not made on top of {names}{more}: {branch} would lose that. Nothing was moved."
    return ConflictError(text, f"%ice merge {_short(of)} brings both together.")


@dataclass(frozen=True)
class Bringing:
    """What a merge or a cherry-pick comes to, on one version of a branch."""

    what: str
    """What is done, in words such as ``merging dev into main``."""
    branch: str
    of: str
    """What is brought in, as it was typed."""
    theirs: str
    """Id of the version that is brought in."""
    plan: Plan
    message: str
    """Message of the commit, unless another one is given."""
    metadata: Mapping[str, Any]
    """What the commit records."""
    remarks: tuple[str, ...]
    """The version it starts from, and what else is to be known, one sentence each."""
    nothing: str = ""
    """Why there is nothing to commit, where there is not."""

    def refuse_unsolved(self) -> None:
        """Refuse conflicts that no choice solves.

        Raises
        ------
        ConflictError
            With the places in coordinates, and how they can be solved.
        """
        conflicts = self.plan.unsolved
        if conflicts:
            text = f"{self.branch} and {self.of} changed the same: {self.plan.say()}. Nothing was changed."
            raise ConflictError(text, self._ways_out(conflicts))

    def _ways_out(self, conflicts: tuple[Conflict, ...]) -> str:
        appended = next((conflict for conflict in conflicts if conflict.appended is not None), None)
        if appended is not None:
            return f"--array {appended.name}=ours keeps the rows of {self.branch}; {self._append(appended)}"
        return (
            f"--ours takes all of this from {self.branch}, --theirs from {self.of}, "
            f"--array {conflicts[0].name}=theirs decides one of them; --dry-run shows each."
        )

    def _append(self, conflict: Conflict) -> str:
        """Return the line that appends the rows of the other side."""
        group, _, dimension = conflict.name.rpartition("/")
        inside = f', group="{group}"' if group else ""
        opened = f'xr.open_zarr(IcechunkStore.open(store.repo, version="{short(self.theirs)}"){inside})'
        rows = f"{opened}.isel({dimension}=slice({conflict.appended}, None)).load()"
        return f'append the others in a %%commit cell then: {rows}.to_zarr(store, append_dim="{dimension}"{inside})'

    def outlook(self, repo: icechunk.Repository) -> Outlook:
        """Return what it would change and what is in conflict; nothing is written."""
        changes = diff.of_nodes(self.plan.before, self.plan.after, names=(self.branch, self.what))
        mixed = sum(len(mix.chunks) for mix in self.plan.mixes)
        merged = (f"{count(mixed, 'chunk')} to be merged value by value, counted as 0 B until written",) * bool(mixed)
        verdict = self._decodes(repo)
        demanded = ("what the store demands of its arrays is checked with the commit",) * bool(standing(repo).arrays)
        outcome = "refused" if self.plan.unsolved or not verdict.passed else "committed"
        return Outlook(
            f"dry run: {self.what} would be {outcome}, nothing was",
            (changes.summary(), *merged, *self.remarks, *demanded),
            changes,
            (self.branch, self.of),
            self.plan.conflicts,
            () if verdict.passed or self.plan.unsolved else (verdict,),
        )

    def _decodes(self, repo: icechunk.Repository) -> Verdict:
        """Check that groups would decode, by their metadata: these lie in memory until they are committed."""
        session = repo.writable_session(self.branch)
        bare = (replace(edit, chunks=()) for edit in self.plan.edits)
        merge.apply(bare, self.plan.stores.theirs, session.store)
        return guards.decode(repo.readonly_session(snapshot_id=session.snapshot_id), session, labels=False)

    def merged(self, committed: Committed) -> Merged:
        """Return the record of the commit that was made of it."""
        solved = solved_words(*_solved(self.plan.conflicts))
        return Merged(
            **vars(committed), remarks=(*((f"conflicts solved: {solved}",) * bool(solved)), *self.remarks[1:])
        )


@dataclass(frozen=True, repr=False)
class Merged(Committed):
    """The outcome of a merge or a cherry-pick."""

    remarks: tuple[str, ...] = ()
    """Conflicts that were solved and what else is worth knowing, one sentence each."""

    def _report(self) -> Report:
        report = super()._report()
        return Report(report.title, (report.parts[0], Lines(self.remarks), *report.parts[1:]))


@dataclass(frozen=True, repr=False)
class Outlook(Shown):
    """What a merge, a cherry-pick or a promotion would change; nothing was changed."""

    title: str
    remarks: tuple[str, ...]
    diff: Diff
    """What the branch would become, against what it is."""
    names: tuple[str, str]
    """What ours and theirs are called."""
    conflicts: tuple[Conflict, ...] = ()
    refusals: tuple[Verdict, ...] = ()
    """Checks that would not pass."""

    def _report(self) -> Report:
        columns = (
            "array",
            "in conflict",
            *(f"--{side}: {name}" for side, name in zip(_SIDES, self.names, strict=True)),
        )
        conflicts = [(one.name, one.what, *one.sides, one.solved or "") for one in self.conflicts]
        checks = [(one.check, one.said) for one in self.refusals]
        return Report(
            self.title,
            (
                Lines(self.remarks),
                filled((*columns, "solved by"), conflicts),
                Table(("what must hold", "what was found"), tuple(checks)),
                *self.diff.parts(),
            ),
        )


_SIDES = ("ours", "theirs")


def of_version(
    repo: icechunk.Repository, branch: str, ours: str, theirs: str, *, of: str | Version, choices: Choices
) -> Bringing:
    """Return what merging a version into a branch comes to.

    Parameters
    ----------
    repo : icechunk.Repository
    branch : str
        Branch to merge into.
    ours, theirs : str
        Ids of the version that the branch stands on, and of the one to be merged in.
    of : str or Version
        What the latter was called.
    choices : Choices
        Sides that win in a conflict.

    Raises
    ------
    SelectionError
        When a choice names what is on neither side.
    """
    base = lineage.base(repo, ours, theirs)
    found = _plan(repo, (base.id, ours, theirs), (branch, _short(of)), choices)
    solved, more = _solved(found.conflicts)
    recorded = {"with": theirs, "of": _short(of), "base": base.id, "solved": solved, "more": more}
    recorded = {key: value for key, value in recorded.items() if value}
    what = f"merging {named(of, theirs)} into {branch}"
    message = f"Merge {named(of, theirs)} into {branch}"
    remarks = (*_remarks(repo, base), *found.notes)
    return Bringing(what, branch, _short(of), theirs, found, message, {MERGED: recorded}, remarks)


def of_change(
    repo: icechunk.Repository, branch: str, ours: str, picked: str, *, of: str | Version, choices: Choices
) -> Bringing:
    """Return what repeating the changes of one version on a branch comes to; parameters as for :func:`of_version`.

    Raises
    ------
    UnknownVersionError
        When the version before it expired, or it is the empty start.
    SelectionError
        When a choice names what is on neither side.
    """
    version = history.version(repo, picked)
    if version is None or version.parent is None or diff.follows_expired(repo, version):
        text = f"The version before {history.title(repo, picked)} is not there any more: what it changed is not known."
        raise UnknownVersionError(text, "%ice restore takes over an array of it as it is.")
    found = _plan(repo, (version.parent, ours, picked), (branch, _short(of)), choices)
    what = f"picking {named(of, picked)} for {branch}"
    nothing = "" if found.edits else f"nothing that {named(of, picked)} changed is missing in {branch}"
    remarks = (f"what it changed since {history.title(repo, version.parent)}", *found.notes)
    return Bringing(what, branch, _short(of), picked, found, version.message, {PICKED: picked}, remarks, nothing)


def _plan(repo: icechunk.Repository, ids: tuple[str, str, str], names: tuple[str, str], choices: Choices) -> Plan:
    found = threeway.plan(repo, ids, choices=choices, names=names)
    stores = found.stores
    known = {conflict.path for conflict in found.conflicts}
    if unknown := choices.arrays.keys() - known - node_paths(stores.ours) - node_paths(stores.theirs):
        path = min(unknown).lstrip("/")
        text = f"There is no array or group {path!r} in {names[0]} or {names[1]}."
        raise SelectionError(text, did_you_mean(path, (one.lstrip("/") for one in node_paths(stores.ours))))
    return found


def _short(of: str | Version) -> str:
    return short(of.id) if isinstance(of, Version) else of


def _remarks(repo: icechunk.Repository, base: lineage.Base) -> tuple[str, ...]:
    """Say from which version two sides were told apart."""
    version = history.version(repo, base.id)
    said = [f"newest version in common: {version.summary()}" if version else "they have no version in common"]
    if base.others:
        said.append(f"{count(len(base.others), 'other version')} in common as near, of which this is the newest")
    if base.expired:
        said.append(f"{', '.join(map(short, base.expired[:_SHOWN]))}, merged before, expired: conflicts may come again")
    return tuple(said)


def _solved(conflicts: tuple[Conflict, ...]) -> tuple[dict[str, list[str]], int]:
    """Return the side and what was in conflict, by array, and how many more arrays there are."""
    found: dict[str, list[str]] = {}
    for conflict in conflicts:
        if conflict.solved:
            side, kinds = found.get(conflict.name, (conflict.solved, ""))
            found[conflict.name] = [side, ", ".join(filter(None, (kinds, conflict.kind)))]
    return dict(list(found.items())[:_RECORDED]), max(0, len(found) - _RECORDED)
