"""Lists versions and resolves what a person typed to one of them: the one grammar of magics, API and widgets.

========================  ==========================================================================
``main``, ``v1.0``        a branch or a tag; ``heads/NAME`` and ``tags/NAME`` where both share a name
``HEAD``                  the version that the store stands on
``3KZ9…`` (4 or more)     a snapshot id or a unique prefix of one
``REF~2``, ``REF^``       the second, the first version before it
``@{2024-05-01}``         the newest version as old as that or older; without a zone the time is UTC, as in the log
``REF@{2 days ago}``      the same, on REF
``A..B``                  two versions, for ``diff``
========================  ==========================================================================
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from types import MappingProxyType
from typing import TYPE_CHECKING

from icemagic.errors import AmbiguousVersionError, UnknownVersionError, did_you_mean
from icemagic.records import Version, first_line, short, utc

if TYPE_CHECKING:
    import icechunk

MIN_PREFIX = 4
"""Fewest characters of a snapshot id that are taken for one."""
_ID = re.compile(r"[0-9A-HJKMNP-TV-Z]{4,20}", re.ASCII | re.IGNORECASE)  # Crockford's base 32, as icechunk writes ids
_STEP = re.compile(r"~(?P<back>\d*)|(?P<up>\^)|@\{(?P<date>[^}]*)\}", re.ASCII)
_AGO = re.compile(r"(\d+) (second|minute|hour|day|week)s? ago", re.ASCII)
_FULL_ID = 20
_CANDIDATES = 5
_EARLIEST, _LATEST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


def versions(repo: icechunk.Repository, snapshot_id: str) -> Iterator[Version]:
    """Yield the versions from `snapshot_id` backwards, newest first, without icechunk's empty root snapshot."""
    names = ref_names(repo)
    for info in repo.ancestry(snapshot_id=snapshot_id):
        if info.parent_id is not None:
            yield version_of(info, names)


def list_versions(repo: icechunk.Repository, snapshot_id: str) -> list[Version]:
    """Return the versions up to `snapshot_id`, oldest first, so that ``[0]`` is the first that a person made."""
    return list(versions(repo, snapshot_id))[::-1]


def version(repo: icechunk.Repository, snapshot_id: str) -> Version | None:
    """Return one version, or None for icechunk's empty root snapshot.

    Raises
    ------
    UnknownVersionError
        When it expired.
    """
    from icechunk import SnapshotNotFoundError

    try:
        info = repo.lookup_snapshot(snapshot_id)
    except SnapshotNotFoundError:
        text = f"The version {short(snapshot_id)} expired meanwhile."
        raise UnknownVersionError(
            text, "%ice refresh goes to the newest one; begun work can still be committed."
        ) from None
    return None if info.parent_id is None else version_of(info, ref_names(repo))


def title(repo: icechunk.Repository, snapshot_id: str) -> str:
    """Name a version by its short id and message, for a sentence."""
    try:
        found = version(repo, snapshot_id)
    except UnknownVersionError:
        return f"{short(snapshot_id)} (expired)"
    return found.summary() if found else "the empty start"


def behind(repo: icechunk.Repository, snapshot_id: str, branch: str) -> int:
    """Return how many versions of a branch are newer than a snapshot."""
    return steps(repo, snapshot_id, repo.lookup_branch(branch))


def steps(repo: icechunk.Repository, earlier: str, later: str) -> int:
    """Return how many versions were made from a snapshot up to a later one."""
    newer = takewhile(lambda info: info.id != earlier, repo.ancestry(snapshot_id=later))
    return sum(info.parent_id is not None for info in newer)


def ref_names(repo: icechunk.Repository) -> dict[str, tuple[str, ...]]:
    """Return the names of branches, then tags, by the snapshot they stand on, sorted."""
    names: dict[str, tuple[str, ...]] = {}
    for name in sorted(repo.list_branches()):
        tip = repo.lookup_branch(name)
        names[tip] = (*names.get(tip, ()), name)
    for name in sorted(repo.list_tags()):
        at = repo.lookup_tag(name)
        names[at] = (*names.get(at, ()), name)
    return names


def resolve(repo: icechunk.Repository, ref: str | Version, *, head: str, branch: str | None) -> str:
    """Return the id of the one snapshot that `ref` means.

    Parameters
    ----------
    repo : icechunk.Repository
    ref : str or Version
        What was typed, in the grammar of this module.
    head : str
        Snapshot that ``HEAD`` means.
    branch : str or None
        Branch on which a bare ``@{date}`` looks; None looks on the history of `head`.

    Raises
    ------
    UnknownVersionError
        When nothing answers to `ref`; the hint names the nearest.
    AmbiguousVersionError
        When more than one version does; the hint lists them.
    """
    if isinstance(ref, Version):
        return by_full_id(repo, ref.id)
    text = str(ref).strip()
    start = min((match.start() for match in _STEP.finditer(text)), default=len(text))
    base, steps = text[:start], text[start:]
    if not base and not steps.startswith("@{"):
        message = f"{ref!r} names no version."
        hint = f"Give a branch, a tag, HEAD, REF~N, @{{date}} or {MIN_PREFIX} or more characters of an id."
        raise UnknownVersionError(message, hint)
    name = base or branch or "HEAD"
    at = head if name == "HEAD" else _named(repo, name) if base else _tip(repo, name)
    _refuse_empty(repo, at, name)
    so_far = base
    while steps:
        step = _STEP.match(steps)
        if step is None:
            message = f"{ref!r} cannot be read after {so_far!r}."
            raise UnknownVersionError(message, "Use REF~N, REF^ or REF@{date}.")
        at = _as_of(repo, at, step["date"], ref) if step["date"] is not None else _back(repo, at, step, ref)
        so_far, steps = so_far + step[0], steps[step.end() :]
    return at


def split_range(text: str) -> tuple[str, str | None]:
    """Split ``A..B`` into its two sides; a single version has no second one.

    An empty side means ``HEAD``, as in git. Dots inside ``@{…}`` do not split.
    """
    outside = re.sub(r"@\{[^}]*\}", lambda match: "x" * len(match[0]), text)
    cut = outside.find("..")
    if cut < 0:
        return text, None
    return text[:cut] or "HEAD", text[cut + 2 :] or "HEAD"


def parse_moment(text: str, now: datetime) -> datetime:
    """Read a date, a time with or without zone (none means UTC), ``2 days ago``, ``yesterday`` or ``now``.

    Raises
    ------
    UnknownVersionError
        When `text` is none of these.
    """
    words = " ".join(text.split()).removesuffix(" UTC")
    if words in ("now", "yesterday"):
        return now - timedelta(days=words == "yesterday")
    if ago := _AGO.fullmatch(words):
        try:
            return now - timedelta(**{f"{ago[2]}s": float(ago[1])})  # int() refuses thousands of digits
        except OverflowError:
            return _EARLIEST
    try:
        moment = datetime.fromisoformat(words)
        # The log shows seconds: a time without a fraction means the whole of its second.
        moment = moment.replace(microsecond=moment.microsecond or 999_999)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except OverflowError:  # a zone that leads out of the years 1 to 9999
        return _EARLIEST if moment.year == 1 else _LATEST
    except ValueError:
        message = f"{text!r} is not a date."
        hint = "For example 2024-05-01, 2024-05-01T10:30, 2024-05-01T10:30+02:00 or 2 days ago; no zone means UTC."
        raise UnknownVersionError(message, hint) from None


def version_of(info: icechunk.SnapshotInfo, names: Mapping[str, tuple[str, ...]] = MappingProxyType({})) -> Version:
    """Return what icechunk says of a snapshot as a version, with the refs among `names` that stand on it."""
    return Version(
        id=info.id,
        message=info.message,
        time=info.written_at,
        parent=info.parent_id,
        metadata=info.metadata,
        refs=names.get(info.id, ()),
    )


def _named(repo: icechunk.Repository, name: str) -> str:
    branches, tags = repo.list_branches(), repo.list_tags()
    if name in branches and name in tags:
        message = f"{name!r} is a branch and a tag."
        raise AmbiguousVersionError(message, f"Say heads/{name} for the branch or tags/{name} for the tag.")
    if name in branches:
        return repo.lookup_branch(name)
    if name in tags:
        return repo.lookup_tag(name)
    kind, _, rest = name.partition("/")
    if kind == "heads" and rest in branches:
        return repo.lookup_branch(rest)
    if kind == "tags" and rest in tags:
        return repo.lookup_tag(rest)
    if is_full_id(name):
        return by_full_id(repo, name.upper())
    if _ID.fullmatch(name):
        return _by_prefix(repo, name, branches | tags)
    message = f"No branch, tag or version is called {name!r}."
    raise UnknownVersionError(message, did_you_mean(name, branches | tags))


def is_full_id(text: str) -> bool:
    """Whether a text has the form of a whole snapshot id."""
    return len(text) == _FULL_ID and _ID.fullmatch(text) is not None


def is_there(repo: icechunk.Repository, snapshot_id: str) -> bool:
    """Whether a version that a commit names is still there: icechunk does not know that one needs it."""
    try:
        return is_full_id(snapshot_id) and bool(by_full_id(repo, snapshot_id))
    except UnknownVersionError:
        return False


def _tip(repo: icechunk.Repository, branch: str) -> str:
    from icechunk import RefNotFoundError

    try:
        return repo.lookup_branch(branch)
    except RefNotFoundError:
        message = f"There is no branch {branch!r} any more."
        raise UnknownVersionError(message, "%ice branch lists the branches.") from None


def by_full_id(repo: icechunk.Repository, snapshot_id: str) -> str:
    """Return a whole id as icechunk writes it.

    Raises
    ------
    UnknownVersionError
        When the repository holds no such snapshot.
    """
    from icechunk import IcechunkError, NotFoundError

    try:
        return repo.lookup_snapshot(snapshot_id).id
    except IcechunkError as error:
        # Format 1 has one file per snapshot and no error of its own for one that is not there.
        if not isinstance(error, NotFoundError) and getattr(error, "kind", "") != "object-not-found":
            raise
    message = f"The repository holds no snapshot {snapshot_id}."
    raise UnknownVersionError(message, "It may have expired; %ice log lists the versions.")


def _by_prefix(repo: icechunk.Repository, given: str, names: Iterable[str]) -> str:
    found = [info for info in _all_versions(repo) if info.id.startswith(given.upper())]
    if not found:
        message = f"No branch or tag is called {given!r}, and no version starts so."
        raise UnknownVersionError(message, did_you_mean(given, names))
    if len(found) > 1:
        message = f"{given!r} is the start of {len(found)} versions."
        shown = [f"{short(info.id)} ({first_line(info.message)})" for info in found[:_CANDIDATES]]
        more = [f"and {len(found) - _CANDIDATES} more"] if len(found) > _CANDIDATES else []
        raise AmbiguousVersionError(message, f"Give more characters: {', '.join(shown + more)}.")
    return found[0].id


def _all_versions(repo: icechunk.Repository) -> Iterator[icechunk.SnapshotInfo]:
    """Yield what any branch or tag holds, each version once: shared history is walked once, not once per tag."""
    seen: set[str] = set()
    for tip in ref_names(repo):
        for info in repo.ancestry(snapshot_id=tip):
            if info.id in seen:
                break
            seen.add(info.id)
            if info.parent_id is not None:
                yield info


def _refuse_empty(repo: icechunk.Repository, at: str, name: str) -> None:
    if repo.lookup_snapshot(at).parent_id is None:
        message = f"{name} holds no version yet."
        hint = 'Make the first one: %%commit "message" or with store.transaction("message").'
        raise UnknownVersionError(message, hint)


def _back(repo: icechunk.Repository, at: str, step: re.Match[str], ref: str) -> str:
    steps = float(step["back"] or 1)  # int() refuses thousands of digits
    passed = 0
    for passed, info in enumerate(repo.ancestry(snapshot_id=at)):
        if info.parent_id is None:
            break
        if passed == steps:
            return info.id
    message = f"{ref!r} lies before the first version."
    raise UnknownVersionError(message, f"From there, {passed - 1} back is the first version.")


def _as_of(repo: icechunk.Repository, at: str, date: str, ref: str) -> str:
    moment = parse_moment(date, datetime.now(UTC))
    first = None
    for info in repo.ancestry(snapshot_id=at):
        if info.parent_id is None:
            break
        if info.written_at <= moment:
            return info.id
        first = info
    message = f"{ref!r}: no version is as old as {utc(moment)}."
    hint = f"The first one, {short(first.id)}, is of {utc(first.written_at)}." if first else ""
    raise UnknownVersionError(message, hint)
