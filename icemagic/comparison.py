"""Finds what the two sides of a comparison are, as they are named in a notebook, and compares them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from zarr.core.sync import sync

from icemagic import datasets, diff, history
from icemagic.errors import SelectionError, TransactionError, UnknownVersionError, did_you_mean
from icemagic.nodes import node_paths, read_metadata
from icemagic.records import Version, short
from icemagic.standpoint import Standpoint
from icemagic.storage import short_url
from icemagic.values import Tolerance

if TYPE_CHECKING:
    import icechunk
    import xarray as xr

    from icemagic.diff import Question
    from icemagic.differences import Diff

    Operand = str | os.PathLike[str] | Version | Standpoint | xr.Dataset | xr.DataArray | datasets.Side
    Side = diff.Side | datasets.Side

WORKING = "WORKING"
"""What the uncommitted changes of an open transaction are called in place of a version."""
_FILES = (".nc", ".nc4", ".cdf", ".h5", ".hdf5")


def compare(store: Standpoint, a: Operand | None, b: Operand | None, question: Question) -> Diff:
    """Compare two things; what is left out is filled in as :meth:`icemagic.IcechunkStore.diff` says."""
    left, right = _filled_in(store, a, b)
    if right is None:
        return _of_version(store, left, question)
    one, other = _side(store, left), _side(store, right)
    if isinstance(one, diff.Side) and isinstance(other, diff.Side):
        return diff.compare(one, other, question)
    return _datasets(one, other, question)


def is_array(store: Standpoint, word: str) -> bool:
    """Whether a word is the path of an array or group of what the store holds now, and no version."""
    return sync(read_metadata(_now(store), word.strip("/"))) is not None and not _is_ref(store, word)


def named(store: Standpoint, word: str, variables: Mapping[str, object]) -> Operand:
    """Return what a word means as a side: a version first of all, then a file, then a variable of the notebook.

    Raises
    ------
    UnknownVersionError
        When it means nothing; the hint names the nearest.
    """
    if word == WORKING or word.endswith(_FILES) or _is_ref(store, word):
        return word
    if word in variables:
        thing = variables[word]
        if isinstance(thing, Standpoint):
            return thing
        return replace(_dataset(thing), name=word)
    arrays = {path.lstrip("/") for path in node_paths(_now(store))} - {""}
    known = arrays | store.repo.list_branches() | store.repo.list_tags()
    raise UnknownVersionError(f"{word!r} is no version, array, variable or netCDF file.", did_you_mean(word, known))


def _is_ref(store: Standpoint, word: str) -> bool:
    try:
        store.resolve(word)
    except UnknownVersionError:
        return False
    return True


def _now(store: Standpoint) -> icechunk.IcechunkStore:
    return _state_of(store).store


def _state_of(store: Standpoint) -> diff.Side:
    """Return what a store holds now: its uncommitted changes, or the version that it stands on."""
    return store.working[1] if store.working else diff.Side(short_url(store.url), store.repo, store.session)


def _filled_in(store: Standpoint, a: Operand | None, b: Operand | None) -> tuple[Operand, Operand | None]:
    """Return both sides; the second is None where a version is to be compared with the one before it."""
    now = WORKING if store.working else "HEAD"
    if b is not None:
        return "HEAD" if a is None else a, b
    if a is None:
        return "HEAD", WORKING if store.working else None
    if isinstance(a, str) and a == WORKING:
        return "HEAD", WORKING
    return (a, None) if _is_version(a) else (now, a)


def _is_version(operand: Operand) -> bool:
    return isinstance(operand, Version) or (isinstance(operand, str) and not operand.endswith(_FILES))


def _of_version(store: Standpoint, ref: Operand, question: Question) -> Diff:
    assert isinstance(ref, str | Version)
    at = store.resolve(ref)
    version = history.version(store.repo, at)
    changed = diff.of_version(store.repo, version, question) if version else None
    if changed is None:
        text = f"The version before {history.title(store.repo, at)} expired."
        raise UnknownVersionError(text, "Name two versions to compare: A..B.")
    return changed


def _side(store: Standpoint, operand: Operand) -> Side:
    """Return what one thing means as a side of a comparison."""
    if isinstance(operand, Standpoint):
        return _state_of(operand)
    if isinstance(operand, str) and operand in ("HEAD", WORKING) and store.working:
        return store.working[operand == WORKING]
    if isinstance(operand, str) and operand == WORKING:
        raise TransactionError("No transaction is open, so nothing is uncommitted.", "%ice begin opens one.")
    if isinstance(operand, Version) or (isinstance(operand, str) and _is_version(operand)):
        name = operand if isinstance(operand, str) else short(operand.id)
        return diff.version_side(store.repo, store.resolve(operand), name)
    return operand if isinstance(operand, datasets.Side) else _dataset(operand)


def _dataset(operand: object) -> datasets.Side:
    import xarray as xr

    match operand:
        case str() | os.PathLike():
            return datasets.Side(Path(operand).name, datasets.from_file(operand))
        case xr.Dataset():
            return datasets.Side("the dataset", operand)
        case xr.DataArray() if operand.name is not None:
            return datasets.Side(str(operand.name), operand.to_dataset(promote_attrs=False))
    text = f"{type(operand).__name__} cannot be compared with a version."
    raise SelectionError(text, "Give a version, a store, a netCDF file, a dataset, or a data array with a name.")


def _datasets(one: Side, other: Side, question: Question) -> Diff:
    """Compare where one side at least is no store: the other is then opened as a dataset, too."""
    stores = [side.store for side in (one, other) if isinstance(side, diff.Side)]
    group, name = _group_and_name(question.array, stores[0] if stores else None)
    sides = [
        side if isinstance(side, datasets.Side) else datasets.Side(side.name, datasets.from_store(side.store, group))
        for side in (one, other)
    ]
    return datasets.compare(
        sides[0],
        sides[1],
        question.values or Tolerance(),
        question.tick or (lambda *_: None),
        array=name,
        selection=question.selection,
    )


def _group_and_name(path: str | None, store: icechunk.IcechunkStore | None) -> tuple[str, str | None]:
    """Split a path into the group that is opened and the one variable in it that is compared."""
    if path is None:
        return "", None
    node = None if store is None else sync(read_metadata(store, path.strip("/")))
    if node is not None and node["node_type"] == "group":
        return path.strip("/"), None
    group, _, name = path.strip("/").rpartition("/")
    return group, name
