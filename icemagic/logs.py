"""Lists versions, newest first: of one line of history or of all, filtered, with the lines between them drawn."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from heapq import heapify, heappop, heappush
from itertools import chain, islice
from typing import TYPE_CHECKING

from icemagic import graph, history
from icemagic.errors import SelectionError
from icemagic.records import Log, Version, utc
from icemagic.touching import refuse_unknown, touching

if TYPE_CHECKING:
    import icechunk

_EVERYTHING = "all branches and tags"


@dataclass(frozen=True)
class Filters:
    """What a version must be to be listed; what is empty asks for nothing.

    Raises
    ------
    SelectionError
        When `author` or `message` is no regular expression.
    """

    author: str = ""
    """Regular expression that is searched for in the author's name, in capitals or not."""
    message: str = ""
    """As `author`, in the whole message; ``^`` and ``$`` stand for the ends of its lines."""
    since: datetime | None = None
    until: datetime | None = None
    """The first and the last moment, both included."""
    paths: tuple[str, ...] = ()
    """Arrays, or groups with all that they hold, of which it touched one; without slashes at the ends."""

    def __post_init__(self) -> None:
        for pattern in (self.author, self.message):
            _compiled(pattern)

    def words(self) -> str:
        """Say them as the end of a sentence, such as ``by "ada" touching SNR``."""
        said = (
            f'by "{self.author}"' if self.author else "",
            f'saying "{self.message}"' if self.message else "",
            f"since {utc(self.since)}" if self.since else "",
            f"until {utc(self.until)}" if self.until else "",
            f"touching {' or '.join(path or '/' for path in self.paths)}" if self.paths else "",
        )
        return " ".join(filter(None, said))

    def passes(self, version: Version) -> bool:
        """Whether a version is what they ask for, but for the paths."""
        return (
            _compiled(self.author).search(version.author) is not None
            and _compiled(self.message).search(version.message) is not None
            and (self.since is None or version.time >= self.since)
            and (self.until is None or version.time <= self.until)
        )


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern, re.IGNORECASE | re.MULTILINE)  # which keeps the latest ones
    except re.error as error:
        text = f"{pattern!r} is no regular expression: {error}."
        raise SelectionError(
            text, r"To mean a character itself, write \ before it, in quotes: --grep '\(draft\)'"
        ) from None


def read_filters(
    author: str, message: str, since: str | datetime | None, until: str | datetime | None, paths: str | Iterable[str]
) -> Filters:
    """Return filters as a person gives them.

    A time without a zone is UTC, and one without a fraction means its whole second; see
    :func:`icemagic.history.parse_moment`.

    Raises
    ------
    SelectionError
        When an expression cannot be read.
    UnknownVersionError
        When a date cannot be read.
    """
    first = _moment(since)
    if isinstance(since, str) and first and "." not in since:
        first = first.replace(microsecond=0)
    several = (paths,) if isinstance(paths, str) else paths
    return Filters(author, message, first, _moment(until), tuple(path.strip("/") for path in several))


def _moment(given: str | datetime | None) -> datetime | None:
    if isinstance(given, str):
        return history.parse_moment(given, datetime.now(UTC))
    return given.replace(tzinfo=UTC) if given and given.tzinfo is None else given


_NO_FILTERS = Filters()


def log(
    repo: icechunk.Repository,
    at: str,
    *,
    of: str,
    limit: int = 20,
    filters: Filters = _NO_FILTERS,
    everything: bool = False,
    drawn: bool = False,
) -> Log:
    """Return the newest versions, newest first.

    Parameters
    ----------
    repo : icechunk.Repository
    at : str
        Snapshot up to which versions are listed.
    of : str
        Its name in the title.
    limit : int
        Most versions that are listed.
    filters : Filters
    everything : bool
        Whether what the branches and tags hold is listed, too, each version once, children before their parents.
    drawn : bool
        Whether the lines between the versions are drawn. What was merged in is then listed, too; with filters a line
        leads to the nearest ancestor that is listed.

    Raises
    ------
    SelectionError
        When no version holds, or held, an array or group that the filters name.
    """
    if limit < 1:
        message = f"A log needs room for at least one version; limit is {limit}."
        raise ValueError(message)
    if everything or drawn or filters.paths:
        line = _reachable(repo, [at, *history.ref_names(repo)] if everything else [at], merged=drawn)
        found = _touching(repo, line, filters) if filters.paths else filter(filters.passes, line)
    else:
        line = []  # read only as far as it is shown
        found = filter(filters.passes, history.versions(repo, at))
    shown = tuple(islice(found, limit + 1))
    truncated, shown = len(shown) > limit, shown[:limit]
    margin = _margin(line, shown, complete=not truncated) if drawn else ()
    return Log(_EVERYTHING if everything else of, shown, truncated, filters.words(), margin)


def _touching(repo: icechunk.Repository, line: list[Version], filters: Filters) -> Iterator[Version]:
    """Yield what passes all filters; no log is read of versions older than all that pass the others."""
    refuse_unknown(repo, line, filters.paths)
    passing = {version.id for version in line if filters.passes(version)}
    oldest = max((number for number, version in enumerate(line) if version.id in passing), default=-1)
    return (version for version in touching(repo, line[: oldest + 1], filters.paths) if version.id in passing)


def _reachable(repo: icechunk.Repository, tips: Iterable[str], *, merged: bool) -> list[Version]:
    """Return the versions that snapshots stand on, newest first, but no version before its children."""
    names = history.ref_names(repo)
    found: dict[str, Version] = {}
    tips = list(tips)
    while tips:
        for info in repo.ancestry(snapshot_id=tips.pop()):
            if info.id in found or info.parent_id is None:
                break
            version = found[info.id] = history.version_of(info, names)
            if merged and version.merged is not None and history.is_there(repo, version.merged):
                tips.append(version.merged)
    return _sorted(found)


def _sorted(found: Mapping[str, Version]) -> list[Version]:
    children = Counter(parent for version in found.values() for parent in version.parents if parent in found)
    ready = [(-version.time.timestamp(), version.id) for version in found.values() if not children[version.id]]
    heapify(ready)
    line = []
    while ready:
        version = found[heappop(ready)[1]]
        line.append(version)
        for parent in version.parents:
            children[parent] -= 1
            if parent in found and not children[parent]:
                heappush(ready, (-found[parent].time.timestamp(), parent))
    return line


def _margin(line: list[Version], shown: Sequence[Version], *, complete: bool) -> tuple[str, ...]:
    """Draw the lines from each version to its nearest ancestors that are shown.

    Where the log is cut, not `complete`, a line leads on to any older version.
    """
    kept = {version.id for version in shown}
    cut = len(line) if complete else line.index(shown[-1]) + 1
    ancestors: dict[str, tuple[str, ...]] = {}
    nearest: dict[str, tuple[str, ...]] = {}
    for number, version in reversed(list(enumerate(line))):
        found = dict.fromkeys(chain.from_iterable(nearest.get(parent, ()) for parent in version.parents))
        ancestors[version.id] = tuple(found)
        nearest[version.id] = (version.id,) if version.id in kept or number >= cut else ancestors[version.id]
    return tuple(graph.margins((version.id, ancestors[version.id]) for version in shown))
