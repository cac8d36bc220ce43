"""Finds what an open session and the newest version of its branch both changed, and says it in coordinates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import icechunk

from icemagic import diff, history, merge
from icemagic.coordinates import boxes, positions, stored_chunk, words
from icemagic.errors import ConflictError
from icemagic.merge import Clash, Edit, Side
from icemagic.nodes import node_paths

_SHOWN = 4
_LOOKED_AT = 200


def between(
    repo: icechunk.Repository,
    base: icechunk.Session,
    session: icechunk.Session,
    tip: str,
    choices: Mapping[str, Side] | None = None,
) -> tuple[list[Edit], list[Clash]]:
    """Return what carries the uncommitted changes of a session over to another version, and what clashes.

    Parameters
    ----------
    repo : icechunk.Repository
    base : icechunk.Session
        Reads the snapshot that `session` stands on; it may have expired since.
    session : icechunk.Session
        Writable, with uncommitted changes.
    tip : str
        Snapshot that the changes are to go on top of.
    choices : mapping, optional
        Path of an array, with a leading slash, to the side that wins: ``ours`` is the session.
    """
    theirs = repo.readonly_session(snapshot_id=tip).store
    try:
        their_paths = diff.touched(repo, base.snapshot_id, tip)
    except icechunk.SnapshotNotFoundError:
        their_paths = node_paths(theirs)
    return merge.compare(
        base.store,
        session.store,
        theirs,
        our_paths=diff.paths_of(session.status()),
        their_paths=their_paths,
        choices=choices,
    )


def error(
    repo: icechunk.Repository, session: icechunk.Session, branch: str, way: tuple[str, str], clashes: Iterable[Clash]
) -> ConflictError:
    """Return the error that says where both sides changed the same, who was faster, and what can be done.

    `way` leads from the snapshot that the session stands on to the newest one of the branch.
    """
    clashes = list(clashes)
    said = "; ".join(sentences(repo, session, *way, clashes))
    appended = any(clash.what == "shape" for clash in clashes)
    again = "Run the cell again on their version (%%commit --retry does it)"
    hint = (
        f"{again}."
        if appended
        else f"{again}, or choose per array: --ours {_first(clashes)} or --theirs {_first(clashes)}."
    )
    text = f"Someone committed to {branch} meanwhile and changed the same: {said}. Nothing was committed."
    return ConflictError(text, hint)


def sentences(
    repo: icechunk.Repository, session: icechunk.Session, base: str, tip: str, clashes: Iterable[Clash]
) -> list[str]:
    """Say each clash with its place in coordinates and the commit on the other side; of many only the first few."""
    clashes, by = list(clashes), blamed(repo, base, tip)
    said = [
        f"{clash.path.lstrip('/') or '/'} {_where(session, clash)}{by.get(clash.path, '')}"
        for clash in clashes[:_SHOWN]
    ]
    return said + ([f"and {len(clashes) - _SHOWN} more"] if len(clashes) > _SHOWN else [])


def _where(session: icechunk.Session, clash: Clash) -> str:
    if not clash.chunks:
        return f"in {clash.what}"
    import zarr

    array = zarr.open_array(session.store, path=clash.path, mode="r")
    found = boxes(clash.chunks)
    places = [
        words(session.store, clash.path, positions(box, stored_chunk(array), array.shape)) for box in found[:_SHOWN]
    ]
    more = [f"{len(found) - _SHOWN} more places"] if len(found) > _SHOWN else []
    return f"at {' and at '.join(places + more)}"


def blamed(repo: icechunk.Repository, base: str, tip: str) -> dict[str, str]:
    """Return, in brackets, the newest version after `base` that touched each path; of many only the newest count."""
    found: dict[str, str] = {}
    for _, info in zip(range(_LOOKED_AT), repo.ancestry(snapshot_id=tip), strict=False):
        if info.id == base or info.parent_id is None:
            break
        version = history.version_of(info)
        said = f" ({' by '.join(filter(None, (version.summary(), version.author)))})"
        for path in diff.paths_of(repo.diff(from_snapshot_id=info.parent_id, to_snapshot_id=info.id)):
            found.setdefault(path, said)
    return found


def _first(clashes: list[Clash]) -> str:
    return clashes[0].path.lstrip("/") or "/"


def forecast(
    repo: icechunk.Repository, base: icechunk.Session, session: icechunk.Session, branch: str
) -> tuple[str, ...]:
    """Say whether a commit now would conflict, with what and with whose commit; nothing where nobody committed."""
    tip = repo.lookup_branch(branch)
    if tip == base.snapshot_id:
        return ()
    newer = history.behind(repo, base.snapshot_id, branch)
    _, clashes = between(repo, base, session, tip)
    if not clashes:
        return (
            f"a commit now would go on top of {newer} newer without conflict, {history.title(repo, tip)} the newest",
        )
    said = sentences(repo, session, base.snapshot_id, tip, clashes)
    return (f"a commit now would conflict with {history.title(repo, tip)}:", *said)
