"""What the verbs return: frozen records that show themselves as text, HTML and, where it is a table, as a DataFrame."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from icemagic.differences import Diff
from icemagic.display import CELL_LIMIT, Code, Lines, Part, Report, Shown, Table, count, filled

if TYPE_CHECKING:
    import pandas as pd

_NONE_YET = "no version yet"
_SHOWN = 3
_BRIEF = 0.1  # seconds; what is shorter is not worth a number
CHECKS = "icemagic_checks"
"""Key of commit metadata under which the checks that passed are recorded."""
MERGED = "icemagic_merge"
"""Key of commit metadata of a merge; it holds a mapping.

``with`` is the id of the version merged in, ``of`` its name as typed, ``base`` the id of the version from which both
were told apart, ``solved`` says for an array which side won and in what, ``more`` how many more arrays there were.
"""
PICKED = "icemagic_picked"
"""Key of commit metadata of a cherry-pick: the id of the version that it repeats."""
ROOT = "1CECHNKREP0F1RSTCMT0"
"""Id of icechunk's empty root snapshot, the same in every repository."""
SHORT = 8
"""Characters of a snapshot id that are shown, as icechunk's own graph does."""


REPEATED = re.compile(r"(?P<hash>[0-9a-f]{16}) (?P<count>\d+) (?P<author>.*)", re.ASCII | re.DOTALL)
"""What a commit records of a cell whose record an earlier one holds; :mod:`icemagic.provenance` says more."""


def short(snapshot_id: str) -> str:
    """Return the first characters of a snapshot id."""
    return snapshot_id[:SHORT]


def utc(moment: datetime) -> str:
    """Say a moment to the second in UTC; icechunk writes commit times in UTC."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def first_line(text: str) -> str:
    """Return the first line of a message, marked when there are more."""
    line, *more = text.strip().splitlines() or [""]
    return f"{line} …" if more else line


@dataclass(frozen=True, repr=False)
class Version(Shown):
    """One version of the whole store: an icechunk snapshot that a person made."""

    id: str
    """Snapshot id, 20 characters."""
    message: str
    """Commit message as typed."""
    time: datetime
    """When it was committed (UTC)."""
    parent: str | None = None
    """Id of the snapshot it was made from."""
    metadata: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """Commit metadata, among it what icemagic recorded under ``icemagic``."""
    refs: tuple[str, ...] = field(default=(), compare=False)
    """Branches and tags that stand on it, at the time of asking."""

    @property
    def author(self) -> str:
        """Who committed, or an empty text where nobody said so."""
        recorded = self.metadata.get("icemagic")
        if isinstance(recorded, str) and (repeated := REPEATED.fullmatch(recorded)):
            return repeated["author"]
        author = recorded.get("author") if isinstance(recorded, Mapping) else None
        return str(author or self.metadata.get("author") or "")

    @property
    def checks(self) -> str:
        """Checks that the commit asked for and that passed, or an empty text."""
        return str(self.metadata.get(CHECKS, ""))

    @property
    def merged(self) -> str | None:
        """Id of the version that was merged in: the second parent, which icechunk has no place for."""
        recorded = self.metadata.get(MERGED)
        return str(recorded["with"]) if isinstance(recorded, Mapping) and "with" in recorded else None

    @property
    def parents(self) -> tuple[str, ...]:
        """Ids of the versions that it was made from: the one that it changed first, then the one merged in."""
        return tuple(parent for parent in dict.fromkeys((self.parent, self.merged)) if parent not in (None, "", ROOT))

    @property
    def origin(self) -> str:
        """What a merge or a cherry-pick brought in and from where, in words; an empty text for other versions."""
        picked = self.metadata.get(PICKED)
        if self.merged is None:
            return f"pick of {short(picked)}" if isinstance(picked, str) else ""
        recorded = self.metadata[MERGED]
        of = "" if self.merged.startswith(str(recorded.get("of"))) else f"{recorded.get('of')} "
        said = solved_words(recorded.get("solved"), recorded.get("more"))
        return f"merge of {of}({short(self.merged)}){f'; conflicts solved: {said}' if said else ''}"

    def __str__(self) -> str:
        return self.id

    def _report(self) -> Report:
        return Report(self.summary(), (Lines((self.byline(),)),))

    def summary(self) -> str:
        """Return the short id and the first line of the message."""
        return f"{short(self.id)} {first_line(self.message)}"

    def byline(self) -> str:
        """Return time, author and refs in one line."""
        return " · ".join(filter(None, (utc(self.time), self.author, ", ".join(self.refs))))


def solved_words(solved: object, more: object = 0) -> str:
    """Say which side solved the conflicts of which array, as a merge recorded it; of many only the first few."""
    said = []
    for name, entry in solved.items() if isinstance(solved, Mapping) else ():  # anybody may write there
        match entry:
            case [side, kinds]:
                said.append(f"{name} by {side} ({kinds})")
    left = len(said[_SHOWN:]) + (more if isinstance(more, int) else 0)
    return ", ".join(said[:_SHOWN]) + (f" and {left:,} more" if left else "")


class Versions(Shown):
    """A record that is a sequence of versions."""

    versions: tuple[Version, ...]

    def __iter__(self) -> Iterator[Version]:
        return iter(self.versions)

    def __len__(self) -> int:
        return len(self.versions)

    def __getitem__(self, index: int) -> Version:
        return self.versions[index]


@dataclass(frozen=True, repr=False)
class Log(Versions):
    """Versions, newest first."""

    of: str
    """What was asked for: a branch, a tag, a version."""
    versions: tuple[Version, ...]
    truncated: bool
    """Whether older versions were left out."""
    filters: str = ""
    """What was asked of the versions, as the end of a sentence."""
    margin: tuple[str, ...] = ()
    """The lines between the versions, one row a version; empty where they are not drawn."""

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row a version: id, refs, time (UTC), author, message, checks."""
        import pandas as pd

        rows = [(v.id, ", ".join(v.refs), v.time, v.author, v.message, v.checks) for v in self.versions]
        return pd.DataFrame(rows, columns=["id", "refs", "time", "author", "message", "checks"])

    def to_json(self) -> str:
        """Return an object of ``of``, ``truncated`` and ``versions``, each with its parents and its time in UTC."""
        versions = [
            {
                "id": v.id,
                "refs": v.refs,
                "time": v.time.astimezone(UTC).isoformat(),
                "author": v.author,
                "message": v.message,
                "parents": v.parents,
                "checks": v.checks,
            }
            for v in self.versions
        ]
        return json.dumps({"of": self.of, "truncated": self.truncated, "versions": versions}, indent=1)

    def _report(self) -> Report:
        if not self.versions:
            return Report(
                f"{self.of}: no version {self.filters}" if self.filters else f"{self.of} holds no version yet"
            )
        some = "version" if len(self) == 1 and self.truncated else count(len(self), "version")
        shown = f"{some} {self.filters}".rstrip()
        title = f"{self.of}: the newest {shown}" if self.truncated else f"{self.of}: {shown}, newest first"
        drawn = self.margin or ("",) * len(self)
        rows = [
            (line, short(v.id), ", ".join(v.refs), utc(v.time), v.author, first_line(v.message), v.checks, v.origin)
            for line, v in zip(drawn, self.versions, strict=True)
        ]
        columns = ("", "version", "refs", "time", "author", "message", "checks passed", "comes from")
        table = filled(columns, rows)
        return Report(title, (replace(table, drawn=bool(self.margin)),))


@dataclass(frozen=True, repr=False)
class Refs(Shown):
    """Branches or tags and the versions they stand on."""

    kind: str
    """``branch`` or ``tag``."""
    versions: Mapping[str, Version | None]
    """Name to version; None where a branch holds no version yet."""
    current: str | None = None
    """The name that the store stands on."""

    def __iter__(self) -> Iterator[str]:
        return iter(self.versions)

    def __len__(self) -> int:
        return len(self.versions)

    def __getitem__(self, name: str) -> Version | None:
        return self.versions[name]

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row a name: name, id, time (UTC), message; a branch without a version has only its name."""
        import pandas as pd

        rows = [(name, v and v.id, v and v.time, v and v.message) for name, v in self.versions.items()]
        return pd.DataFrame(rows, columns=[self.kind, "id", "time", "message"])

    def _report(self) -> Report:
        rows = []
        for name, version in self.versions.items():
            mark = "*" if name == self.current else ""
            at = (short(version.id), utc(version.time), first_line(version.message)) if version else ("", "", _NONE_YET)
            rows.append((mark, name, *at))
        table = Table(("", self.kind, "version", "time", "message"), tuple(rows))
        return Report(count(len(rows), self.kind), (table,))


@dataclass(frozen=True, repr=False)
class Origin(Shown):
    """How a commit came about, as recorded under ``icemagic`` in its metadata."""

    facts: Mapping[str, str]
    """Author, notebook, execution count, Python, packages, git revision: only what was recorded."""
    source: str | None = None
    """Source of the cell, with secrets redacted."""
    source_hash: str | None = None
    """Hash of that source; the source itself may be gone when the version that held it expired."""
    magic: str = ""
    """The cell magic whose body the source is, such as ``%%commit``; empty for a whole cell."""

    def parts(self) -> tuple[Part, ...]:
        """Return the facts and the cell, for reports that hold an origin."""
        parts: list[Part] = [Table(("recorded", ""), tuple(self.facts.items()))]
        if self.source is not None:
            parts += [Lines(("cell:",)), Code(self.source)]
        elif self.source_hash:
            parts.append(Lines((f"cell: only its hash {self.source_hash} is recorded",)))
        return tuple(parts)

    def _report(self) -> Report:
        title = "how it came about" if self.facts else "nothing was recorded about how it came about"
        return Report(title, self.parts())


@dataclass(frozen=True, repr=False)
class Exhibit(Shown):
    """One version in full: its message, what it changed and how it came about."""

    version: Version
    diff: Diff | None
    """What it changed against its parent; None where the parent expired."""
    origin: Origin

    def _report(self) -> Report:
        summary = self.version.summary()
        lines = self.version.message.strip().splitlines()
        # The title has room for one line of limited length; the rest, or all of it, follows.
        message = [part for line in lines[len(summary) <= CELL_LIMIT :] for part in wrap(line) or [""]]
        changed = self.diff.summary() if self.diff else "unknown, the version before it expired"
        origin = [self.version.origin] if self.version.origin else []
        if self.version.merged and self.version.parent:
            origin.append(f"parents: {short(self.version.parent)} and {short(self.version.merged)}")
        parts = (Lines((*message, self.version.byline(), *origin, f"changed: {changed}")),)
        return Report(summary, (*parts, *(self.diff.parts() if self.diff else ()), *self.origin.parts()))


@dataclass(frozen=True, repr=False)
class Committed(Shown):
    """The outcome of a commit: the new version, what changed, and how long it took."""

    version: Version
    branch: str
    diff: Diff
    seconds: float
    """From the start of the transaction to the verified commit, in seconds."""

    def _report(self) -> Report:
        title = f"[{self.branch} {short(self.version.id)}] {first_line(self.version.message)}"  # as git says it
        took = f"{self.seconds:.1f} s" if self.seconds >= _BRIEF else f"under {_BRIEF} s"
        return Report(title, (Lines((f"{self.diff.summary()} · {took}",)), *self.diff.parts()))


@dataclass(frozen=True)
class Verdict:
    """What one check said of the changes that are to be committed."""

    check: str
    """What must hold, as the first half of a sentence."""
    passed: bool
    said: str = ""
    """What was found instead, where it did not pass."""


@dataclass(frozen=True, repr=False)
class Rehearsal(Shown):
    """What a cell would have committed, and what each check said of it; nothing was committed."""

    branch: str
    diff: Diff
    verdicts: tuple[Verdict, ...]
    forecast: tuple[str, ...] = ()
    """How it goes together with what others committed meanwhile."""

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(verdict.passed for verdict in self.verdicts)

    def _report(self) -> Report:
        outcome = "would be committed" if self.passed else "would be refused"
        rows = [("passed" if x.passed else "refused", x.check, "" if x.passed else x.said) for x in self.verdicts]
        return Report(
            f"dry run: this {outcome} to {self.branch}, nothing was",
            (
                Lines((self.diff.summary(), *self.forecast)),
                filled(("check", "what must hold", "what was found"), rows),
                *self.diff.parts(),
            ),
        )


@dataclass(frozen=True, repr=False)
class Note(Shown):
    """An answer in words: what happened, and perhaps what to do next."""

    text: str
    hints: tuple[str, ...] = ()

    def _report(self) -> Report:
        return Report(self.text, (Lines(self.hints),))


@dataclass(frozen=True, repr=False)
class Status(Shown):
    """Where the store stands, what is not committed, and what to do next."""

    url: str
    branch: str | None
    """The branch that the store stands on, or None when it stands on a version."""
    version: Version | None
    """The version that it reads, or None when there is none yet."""
    behind: int
    """Versions on the branch that are newer than the one it reads."""
    read_only: bool
    uncommitted: Diff | None
    """What the open transaction changed so far; None outside a transaction."""
    forecast: tuple[str, ...] = ()
    """How a commit now would go together with what others committed meanwhile; empty when nobody did."""
    begun: bool = False
    """Whether the open transaction lasts over several cells."""
    stashes: int = 0
    """Versions that were put away, or saved when work was left uncommitted."""

    def _report(self) -> Report:
        place = f"on branch {self.branch}" if self.branch else "on a version, not on a branch"
        at = f"at {self.version.summary()}" if self.version else _NONE_YET
        lines = [f"{place} · {at}"]
        if self.version:
            lines.append(self.version.byline())
        if self.behind and self.uncommitted is None:  # else the forecast says so
            lines.append(f"{count(self.behind, 'newer version')} on {self.branch}: store.refresh() moves there")
        changes = self.uncommitted.parts() if self.uncommitted else ()
        if self.stashes:
            lines.append(f"{count(self.stashes, 'stash')} put away or saved: %ice stash list shows them")
        ways = ('%ice commit "message" commits it, %ice stash puts it away, %ice discard drops it',) * self.begun
        return Report(self.url, (Lines((*lines, self._next(), *self.forecast, *ways)), *changes))

    def _next(self) -> str:
        if self.uncommitted is not None:
            return f"in a transaction, not committed: {self.uncommitted.summary()}"
        if self.read_only:
            return "opened read-only"
        if self.branch is None:
            return 'to write, go back to a branch: store.switch("main")'
        return 'to write, open a transaction: %%commit "message" or with store.transaction("message")'


@dataclass(frozen=True, repr=False)
class OpenStores(Shown):
    """The stores that are open in a notebook, and the sites found on disk."""

    stores: Mapping[str, Status]
    current: str
    """The variable that verbs work on unless told otherwise."""
    sites: Shown | None

    def _report(self) -> Report:
        rows = [
            (
                "*" if name == self.current else "",
                name,
                status.branch or "on a version",
                status.version.summary() if status.version else _NONE_YET,
                status.url,
            )
            for name, status in self.stores.items()
        ]
        below = self.sites._report() if self.sites else Report("")  # noqa: SLF001  a record within a record
        parts = (Table(("", "variable", "branch", "version", "store"), tuple(rows)),)
        title = f"open: {count(len(rows), 'store')}"
        return Report(title, (*parts, Lines(tuple(filter(None, (below.title,)))), *below.parts))
