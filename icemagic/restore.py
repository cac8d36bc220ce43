"""Brings back what was: a whole version, an array, a region of one, or the state before one commit.

Each function changes a writable session and commits nothing. Whole chunks are moved as raw bytes; where a region cuts a
chunk, only the values inside are written.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from zarr.core.sync import sync

from icemagic import coordinates, diff, history, merge, selecting, threeway
from icemagic.chunkmerge import differing
from icemagic.conflicts import blamed
from icemagic.errors import ConflictError, NothingToCommitError, SelectionError, UnknownVersionError
from icemagic.mergeplan import Choices
from icemagic.nodes import chunk_key, find_array, find_node, read_nodes

if TYPE_CHECKING:
    import icechunk
    import xarray as xr

    from icemagic.coordinates import Box
    from icemagic.merge import Edit
    from icemagic.selecting import Selection


def restore(repo: icechunk.Repository, session: icechunk.Session, snapshot_id: str, path: str | None = None) -> None:
    """Make everything, or the nodes at and below a path, what it was in a snapshot.

    Raises
    ------
    SelectionError
        When the snapshot has nothing at the path; the hint names the nearest.
    NothingToCommitError
        When nothing differs.
    """
    source = repo.readonly_session(snapshot_id=snapshot_id).store
    paths = diff.touched(repo, snapshot_id, session.snapshot_id) if snapshot_id != session.snapshot_id else set()
    if path is not None:
        wanted = find_node(source, path)
        above = merge.groups_above(wanted) | {"/"}
        paths = {one for one in paths if one == wanted or one.startswith(f"{wanted}/")} | above
    edits, _ = merge.compare(session.store, source, session.store, our_paths=paths, their_paths=set())
    if path is not None:
        edits = [edit for edit in (_around(edit, above) for edit in edits) if edit]
    merge.apply(edits, source, session.store)
    _refuse_unchanged(session)


def restore_region(
    repo: icechunk.Repository, session: icechunk.Session, snapshot_id: str, path: str, selection: Selection
) -> None:
    """Make a region of an array, given in coordinates, what it was in a snapshot; all else stays bit by bit.

    Raises
    ------
    SelectionError
        When the region is not there, or had other labels or another form in the snapshot.
    NothingToCommitError
        When nothing differs.
    """
    source = repo.readonly_session(snapshot_id=snapshot_id).store
    wanted = find_array(source, path)
    find_array(session.store, path)
    name = wanted.rpartition("/")[2]
    now, then = (_dataset(store, wanted) for store in (session.store, source))
    region = selecting.region(now, name, selection)
    _refuse_other_form(now[name], then[name], region)
    _copy_region(session.store, source, wanted, region)
    _refuse_unchanged(session)


def revert(repo: icechunk.Repository, session: icechunk.Session, snapshot_id: str) -> None:
    """Take back what one version changed.

    Raises
    ------
    ConflictError
        When later versions changed the same.
    UnknownVersionError
        When the version before it expired, or it is the empty start.
    """
    version = history.version(repo, snapshot_id)
    if version is None or version.parent is None or diff.follows_expired(repo, version):
        title = history.title(repo, snapshot_id)
        raise UnknownVersionError(f"The version before {title} is not there any more.", "%ice restore takes a version.")
    carry(repo, session, (version.id, version.parent), hint="%ice restore REF ARRAY --sel … brings back a part.")


def carry(repo: icechunk.Repository, session: icechunk.Session, way: tuple[str, str], *, hint: str) -> None:
    """Change in a session what changed on the way from one snapshot to another; `hint` is for when it cannot be.

    Raises
    ------
    ConflictError
        When the same was changed otherwise in the version that the session stands on.
    NothingToCommitError
        When nothing is left to change.
    """
    base, tip = way[0], session.snapshot_id
    names = "the newest version", "this change"
    plan = threeway.plan(repo, (base, tip, way[1]), choices=Choices(), names=names)
    if plan.unsolved:
        said = plan.say(blamed(repo, base, tip))
        raise ConflictError(f"Later versions changed the same: {said}. Nothing was changed.", hint)
    plan.apply(session.store)
    _refuse_unchanged(session)


def _around(edit: Edit, above: set[str]) -> Edit | None:
    """Return an edit; the groups above a node are only made where they are gone, and bare."""
    if edit.path not in above:
        return edit
    return replace(edit, metadata={**(edit.metadata or {}), "attributes": {}}) if edit.anew else None


def _refuse_unchanged(session: icechunk.Session) -> None:
    if not session.has_uncommitted_changes:
        raise NothingToCommitError("It is like that already, so there is nothing to commit.")


def _dataset(store: icechunk.IcechunkStore, path: str) -> xr.Dataset:
    import xarray as xr

    group = path.strip("/").rpartition("/")[0] or None
    dataset: xr.Dataset = xr.open_zarr(store, group=group, consolidated=False, chunks=None)
    return dataset


def _refuse_other_form(now: xr.DataArray, then: xr.DataArray, region: Box) -> None:
    if now.dims != then.dims or any(side.stop > length for side, length in zip(region, then.shape, strict=True)):
        text = f"In that version {now.name} is {_form(then)}, now it is {_form(now)}: the region is not in both."
        raise SelectionError(text, "Restore the whole array, without --sel.")
    for dim, side in zip(now.dims, region, strict=True):
        labels = [array.get_index(dim)[side.start : side.stop] for array in (now, then)]
        if not labels[0].equals(labels[1]):
            text = f"{dim} had other labels in that version, so the region is not the same."
            raise SelectionError(text, "Restore the whole array, without --sel.")


def _form(array: xr.DataArray) -> str:
    return " × ".join(f"{dim} {length:,}" for dim, length in array.sizes.items()) or "one value"


def _copy_region(target: icechunk.IcechunkStore, source: icechunk.IcechunkStore, path: str, region: Box) -> None:
    """Copy whole chunks as raw bytes, and the values of those that the region cuts."""
    import zarr

    into, out = zarr.open_array(target, path=path, mode="r+"), zarr.open_array(source, path=path, mode="r")
    now, then = (sync(read_nodes(store, [path]))[path] for store in (target, source))
    if not merge.same_encoding(now, then):
        text = f"In that version {path.strip('/')} had another data type, chunks or encoding."
        raise SelectionError(text, "Restore the whole array, without --sel.")
    chunk = coordinates.stored_chunk(into)
    numbers = (range(side.start // size, -(-side.stop // size)) for side, size in zip(region, chunk, strict=True))
    for at in product(*numbers):
        if now.chunks.get(at) == then.chunks.get(at):
            continue
        part = tuple(
            slice(max(side.start, number * size), min(side.stop, (number + 1) * size))
            for side, number, size in zip(region, at, chunk, strict=True)
        )
        if _whole(part, at, chunk, (into.shape, out.shape)):
            sync(merge.copy_key(chunk_key(path, at), source, target))
        elif differing(values := np.asarray(out[part]), np.asarray(into[part])).any():
            into[part] = values


def _whole(part: tuple[slice, ...], at: tuple[int, ...], chunk: tuple[int, ...], shapes: tuple[Any, Any]) -> bool:
    """Whether a part is all of a chunk, in arrays of either shape."""
    return all(
        (one.start, one.stop) == (number * size, min((number + 1) * size, length))
        for shape in shapes
        for one, number, size, length in zip(part, at, chunk, shape, strict=True)
    )
