"""Follows the value of a point, or the mean of a region, over the versions of a store.

Data are read only of versions that may have changed the value: those whose transaction log names a chunk of the region,
or that made or redefined the array. The region is looked up by its labels wherever their coordinate changed, because a
label may move to another position.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from zarr.core.sync import sync

from icemagic import coordinates, history, selecting
from icemagic.coordinates import Box
from icemagic.errors import SelectionError
from icemagic.nodes import chunk_shape, dimension_names, find_array, read_metadata
from icemagic.records import Version
from icemagic.timeline import Reading, Timeline, Value
from icemagic.touches import Touch, touches

if TYPE_CHECKING:
    import icechunk
    import pandas as pd

    from icemagic.selecting import Selection

MOST = 10_000_000
"""Most values of one version that are read for a mean."""


def follow(repo: icechunk.Repository, snapshot_id: str, path: str, selection: Selection) -> Timeline:
    """Return the value of a region of an array at every version that changed it.

    Parameters
    ----------
    repo : icechunk.Repository
    snapshot_id : str
        Up to which version; not icechunk's empty root snapshot.
    path : str
        Path of the array in that version; before it was moved, it is found under its old name.
    selection : Selection
        Labels of the region; of a dimension that it does not name, everything. Of more than one value it is the mean
        of those that are not missing.

    Raises
    ------
    SelectionError
        When the array is not there, the region is there in no version, holds too many values, or holds text and is
        more than one point.
    """
    store = repo.readonly_session(snapshot_id=snapshot_id).store
    wanted = find_array(store, path)
    reader = _Reader(repo, selection)
    readings: list[Reading] = []
    rewrites = 0
    pasts = list(_pasts(repo, snapshot_id, wanted, tuple(selection)))[::-1]
    for past in pasts:
        value = reader.at(past)
        before = readings[-1].value if readings else None
        if value.same(before) if value else before is None:
            rewrites += reader.touched and bool(readings)
            continue
        readings.append(Reading(past.version, value, or_expired=past is pasts[0] and past.may_be_older))
    if not readings:
        selecting.region_of(store, wanted, selection)  # says which label is not there
    where = ", ".join(f"{dim}={first}" + f"/{last}" * (last != first) for dim, (first, last) in selection.items())
    return Timeline(wanted.lstrip("/"), where, tuple(readings[::-1]), len(pasts), rewrites)


@dataclass(frozen=True)
class _Past:
    """One version, and where the array was in it."""

    version: Version
    touch: Touch
    path: str
    array: str | None
    """Id of the array; None where it was not there."""
    coordinates: Mapping[str, str | None]
    """Dimension of the selection to the id of its coordinate."""

    @property
    def may_be_older(self) -> bool:
        return self.touch.follows_expired or (self.array is not None and self.array not in self.touch.made)


def _pasts(repo: icechunk.Repository, snapshot_id: str, path: str, dims: tuple[str, ...]) -> Iterator[_Past]:
    """Yield the versions, newest first."""
    ids: tuple[str | None, dict[str, str | None]] | None = None
    for version, touch in touches(repo, history.versions(repo, snapshot_id)):
        if ids is None:
            session = repo.readonly_session(snapshot_id=version.id)
            ids = _id(session, path), {dim: _id(session, f"/{coordinates.beside(path, dim)}") for dim in dims}
        yield _Past(version, touch, path, *ids)
        path = touch.path_before(path)
        ids = None if touch.nodes_came_or_went else ids


def _id(session: icechunk.Session, path: str) -> str | None:
    from icechunk import NodeNotFoundError

    try:
        return session.get_node_id(path)
    except NodeNotFoundError:
        return None


class _Reader:
    """Reads the value in one version after another, oldest first, and only where it may have changed."""

    def __init__(self, repo: icechunk.Repository, selection: Selection) -> None:
        self.touched = False
        """Whether the version read last touched a chunk of the region."""
        self._repo = repo
        self._places = {dim: _Place(dim, *ends) for dim, ends in selection.items()}
        self._node: str | None = None
        self._metadata: Mapping[str, Any] = {}
        self._box: Box | None = None
        self._value: Value | None = None

    def at(self, past: _Past) -> Value | None:
        """Return the value, or None where the array or the label is not there."""
        anew, self._node = past.array != self._node, past.array
        chunks = past.touch.chunks.get(past.array) if past.array else None
        self.touched = not anew and self._box is not None and _cuts(self._box, self._metadata, chunks)
        redefined = anew or past.array in past.touch.redefined
        if past.array is None:
            self._metadata, self._box, self._value = {}, None, None
            self._forget_places()
        elif redefined or self.touched or any(place.may_move(past) for place in self._places.values()):
            self._look(past, anew=anew)
        return self._value

    def _look(self, past: _Past, *, anew: bool) -> None:
        store = self._repo.readonly_session(snapshot_id=past.version.id).store
        metadata = sync(read_metadata(store, past.path)) or {}
        try:
            box = self._find(store, past, metadata)
            unmoved = not anew and box == self._box and _but_shape(metadata) == _but_shape(self._metadata)
            if self.touched or not unmoved:
                self._value = None if box is None else _value(store, past.path, box)
        except SelectionError as error:
            raise SelectionError(f"In {past.version.summary()}: {error.message}", error.hint) from None
        self._metadata, self._box = metadata, box

    def _find(self, store: icechunk.IcechunkStore, past: _Past, metadata: Mapping[str, Any]) -> Box | None:
        """Return the region, or None where its labels are not there."""
        names = dimension_names(metadata)
        if metadata.get("node_type") != "array" or not self._places.keys() <= set(names):
            self._forget_places()
            return None
        sides = []
        for name, length in zip(names, metadata["shape"], strict=True):
            place = self._places.get(name) if name else None
            sides.append(place.find(store, past, length) if place else range(length))
        return (
            tuple(sides) if all(side for name, side in zip(names, sides, strict=True) if name in self._places) else None
        )

    def _forget_places(self) -> None:
        for place in self._places.values():
            place.forget()


class _Place:
    """Where the labels of one dimension lie in one version after another."""

    def __init__(self, dim: str, first: str, last: str) -> None:
        self._dim = dim
        self._labels = (first, last)
        self.forget()

    def forget(self) -> None:
        """Take nothing for known: a version went by that was not looked at."""
        self._node: str | None = None
        self._metadata: Mapping[str, Any] = {}
        self._length = -1
        self._side = range(0)
        self._rising = False
        """Whether the labels rose."""

    def may_move(self, past: _Past) -> bool:
        """Whether a version may have changed where they lie."""
        node = past.coordinates[self._dim]
        return node != self._node or node in past.touch.redefined or node in past.touch.chunks

    def find(self, store: icechunk.IcechunkStore, past: _Past, length: int) -> range:
        """Return the positions of the labels; of a long rising coordinate only what changed is read."""
        import pandas as pd

        if not self.may_move(past) and length == self._length:
            return self._side
        coordinate = coordinates.beside(past.path, self._dim)
        metadata = sync(read_metadata(store, coordinate)) or {}
        if not selecting.is_coordinate(metadata, self._dim, length):
            self.forget()
            return selecting.find(pd.RangeIndex(length), *self._labels)
        kept = self._kept(past, metadata, length)
        index = selecting.index(store, coordinate, start=kept)
        if kept and not _rises(index):
            index, kept = selecting.index(store, coordinate), 0
        before = range(self._side.start, min(self._side.stop, kept))
        after = selecting.find(index, *self._labels)
        after = range(kept + after.start, kept + after.stop)
        self._side = range(before.start if before else after.start, after.stop if after else before.stop)
        self._rising = _rises(index)
        self._node, self._metadata, self._length = past.coordinates[self._dim], metadata, length
        return self._side

    def _kept(self, past: _Past, metadata: Mapping[str, Any], length: int) -> int:
        """Return up to which position the labels are known to rise and to be what they were, less one."""
        is_same = past.coordinates[self._dim] == self._node and _but_shape(metadata) == _but_shape(self._metadata)
        if not (self._rising and is_same) or metadata["chunk_grid"]["name"] != "regular":
            return 0
        chunks = past.touch.chunks.get(str(self._node))
        edge = int(chunks.min()) * chunk_shape(metadata)[0] if chunks is not None else length
        return max(0, min(edge, self._length, length) - 1)


def _rises(index: pd.Index[Any]) -> bool:
    return bool(index.is_monotonic_increasing and index.is_unique)


def _but_shape(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in metadata.items() if key != "shape"}


def _cuts(box: Box, metadata: Mapping[str, Any], chunks: np.ndarray[Any, Any] | None) -> bool:
    """Whether any of some chunks lies in a region."""
    if chunks is None:
        return False
    if metadata["chunk_grid"]["name"] != "regular":
        return True
    size = np.array(chunk_shape(metadata), dtype=int)
    first = np.array([side.start for side in box], dtype=int) // size
    last = np.array([side.stop - 1 for side in box], dtype=int) // size
    return bool(((chunks >= first) & (chunks <= last)).all(axis=1).any())


def _value(store: icechunk.IcechunkStore, path: str, box: Box) -> Value:
    """Read a region: its one value, or the mean of those that are not missing, a missing one where all are."""
    import pandas as pd

    total, name = prod(map(len, box)), path.lstrip("/")
    if total > MOST:
        text = f"The region holds {total:,} values of {name}; a mean is taken of at most {MOST:,}."
        raise SelectionError(text, "Name fewer labels.")
    part = tuple(slice(side.start, side.stop) for side in box)
    values = selecting.variable(store, path)[part].to_numpy().ravel()
    known = values[~pd.isna(values)]
    kind = values.dtype.kind
    if total == 1:
        return Value(values[0], known.size, total)
    if kind not in "biufcmM":
        text = f"{name} holds no numbers, so its {total:,} values in the region have no mean."
        raise SelectionError(text, "Name one label of every dimension.")
    if not known.size:
        return Value(values[0] if total else np.float64("nan"), 0, total)
    if kind in "mM":
        return Value(known.astype("int64").mean().astype("int64").astype(values.dtype), known.size, total)
    return Value(known.mean(dtype=None if kind == "c" else "float64"), known.size, total)
