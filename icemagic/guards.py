"""Checks what is to be committed: what is always checked, what one commit asks for, and what the store itself demands.

A group must still decode: arrays that share a dimension agree in its length, and labels do not change under rows that
were left as they were. Metadata decide, and labels where an append wrote them anew; data are read only for a valid
range that somebody demanded, and then only the chunks that were written.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from zarr.core.sync import sync

from icemagic.coordinates import positions, stored_chunk
from icemagic.differences import ArrayDiff, Diff
from icemagic.display import count
from icemagic.errors import GuardError
from icemagic.nodes import chunk_shape, read_metadata, read_nodes
from icemagic.records import Verdict

if TYPE_CHECKING:
    import icechunk
    import xarray as xr
    import zarr

_SHOWN = 4
Positions = np.ndarray[Any, np.dtype[np.intp]]
"""Positions along one dimension."""


@dataclass(frozen=True)
class Checks:
    """What one commit may do at most, and what must be true of its outcome."""

    only: tuple[str, ...] = ()
    """Paths of the arrays that may change; empty allows all."""
    max_chunks: int | None = None
    """Most chunks that may change."""
    no_delete: bool = False
    """Whether no array or group may be removed and no array may shrink."""
    expect: Mapping[str, Callable[[xr.Dataset], object]] = field(default_factory=dict)
    """A sentence or an expression to a function of the dataset to be committed, which must give something true."""

    @property
    def limits(self) -> bool:
        """Whether anything limits how far the changes may reach."""
        return bool(self.only) or self.max_chunks is not None or self.no_delete

    def words(self) -> str:
        """Say all checks in one short line, as it is recorded."""
        words = [f"only {', '.join(self.only)}"] if self.only else []
        words += [f"at most {count(self.max_chunks, 'chunk')}"] if self.max_chunks is not None else []
        words += ["nothing deleted"] if self.no_delete else []
        return "; ".join([*words, *self.expect])


def decode(base: icechunk.Session, session: icechunk.Session, *, labels: bool = True) -> Verdict:
    """Check that every group that a session touched still decodes.

    Parameters
    ----------
    base : icechunk.Session
        Reads the snapshot that `session` stands on.
    session : icechunk.Session
    labels : bool
        Whether no row that was left as it was may have got another label.
    """
    status = session.status()
    touched = {*status.new_arrays, *status.deleted_arrays, *status.updated_arrays}
    groups = {group: sync(_arrays(session.store, group)) for group in sorted({_group(path) for path in touched})}
    problems = [text for group, arrays in groups.items() for text in _disagreeing(arrays, group)]
    if labels and not problems:
        there_before = status.updated_chunks.keys() - (status.new_arrays - status.deleted_arrays)
        coordinates = [path for path in sorted(there_before) if _is_coordinate(path, groups)]
        problems = [text for path in coordinates for text in _relabelled(base, session, path, touched)]
    return Verdict("groups must decode", not problems, "; ".join(problems[:_SHOWN]))


def _is_coordinate(path: str, groups: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> bool:
    """Whether an array in one of the groups labels the dimension of its name."""
    name = path.rpartition("/")[2]
    metadata = groups.get(_group(path), {}).get(name, {})
    return metadata.get("dimension_names") == [name]


def _group(path: str) -> str:
    return path.strip("/").rpartition("/")[0]


async def _arrays(store: icechunk.IcechunkStore, group: str) -> dict[str, Mapping[str, Any]]:
    """Return the metadata of the arrays of a group by name."""
    names = sorted([name async for name in store.list_dir(group) if name != "zarr.json"])
    documents = await asyncio.gather(*(read_metadata(store, f"{group}/{name}") for name in names))
    return {
        name: document
        for name, document in zip(names, documents, strict=True)
        if document is not None and document["node_type"] == "array"
    }


def _disagreeing(arrays: Mapping[str, Mapping[str, Any]], group: str) -> list[str]:
    """Say which dimensions have more than one length in a group."""
    lengths: dict[str, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name, metadata in arrays.items():
        for dim, length in zip(metadata.get("dimension_names") or (), metadata["shape"], strict=False):
            if dim is not None:
                lengths[dim][length].append(name)
    place = f" in {group}" if group else ""
    return [
        f"{dim}{place} is " + " and ".join(f"{length:,} in {_some(names)}" for length, names in sorted(found.items()))
        for dim, found in sorted(lengths.items())
        if len(found) > 1
    ]


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _relabelled(base: icechunk.Session, session: icechunk.Session, path: str, touched: set[str]) -> list[str]:
    """Say which rows would get other labels because a coordinate was written anew while they were left alone."""
    if sync(read_metadata(base.store, path)) is None:
        return []
    changed = _other_labels(base, session, path)
    if not changed.size:
        return []
    name = path.rpartition("/")[2]
    others = sorted(other for other in touched if _group(other) == _group(path) and other != path)
    kept = [other for other in others if _keeps_rows(base, session, other, name, changed)]
    if not kept:
        return []
    rows = ", ".join(other.rpartition("/")[2] for other in kept[:_SHOWN])
    return [f"{name} got other labels, while {rows} keeps what was stored under the old ones"]


def _other_labels(base: icechunk.Session, session: icechunk.Session, path: str) -> Positions:
    """Return the positions that a coordinate labels otherwise than before."""
    import zarr

    old, new = (zarr.open_array(one.store, path=path, mode="r") for one in (base, session))
    length, chunk = min(old.shape[0], new.shape[0]), stored_chunk(new)[0]
    if old.ndim != 1 or dict(old.attrs).get("units") != dict(new.attrs).get("units"):
        return np.arange(length)
    written = list(range(-(-length // chunk)))  # where it was made anew: all
    if base.get_node_id(path) == session.get_node_id(path):
        written = sorted(at for (at,) in session.status().updated_chunks[path] if at * chunk < length)
    pieces = [slice(at * chunk, min((at + 1) * chunk, length)) for at in written]
    found = [np.flatnonzero(np.asarray(old[piece]) != np.asarray(new[piece])) + piece.start for piece in pieces]
    return np.concatenate([np.arange(0), *found])


def _keeps_rows(base: icechunk.Session, session: icechunk.Session, path: str, dim: str, changed: Positions) -> bool:
    """Whether an array was resized and still holds, at some positions along a dimension, what it held before."""
    before, after = (sync(read_nodes(one.store, [path])).get(path) for one in (base, session))
    if before is None or after is None or base.get_node_id(path) != session.get_node_id(path):
        return False  # it is new, gone or made anew
    names = before.metadata.get("dimension_names") or ()
    if dim not in names or before.metadata["shape"] == after.metadata["shape"]:
        return False
    axis = names.index(dim)
    chunk = chunk_shape(before.metadata)
    if chunk != chunk_shape(after.metadata):
        return False
    touched = set((changed // chunk[axis]).tolist())
    places = [at for at in before.chunks if at[axis] in touched]
    if any(after.chunks.get(at) == before.chunks[at] for at in places):
        return True
    # An append into the last chunk writes all of it again: then the values tell.
    import zarr

    arrays = [zarr.open_array(one.store, path=path, mode="r") for one in (base, session)]
    return any(_same_rows(*(_rows(array, at, axis, changed) for array in arrays)) for at in places)


def _rows(array: zarr.Array[Any], at: tuple[int, ...], axis: int, wanted: Positions) -> np.ndarray[Any, Any]:
    """Return the values of a chunk at the positions along an axis that are wanted."""
    held = positions(tuple(range(number, number + 1) for number in at), stored_chunk(array), array.shape)
    within = wanted[(wanted >= held[axis].start) & (wanted < held[axis].stop)] - held[axis].start
    return np.take(np.asarray(array[tuple(slice(side.start, side.stop) for side in held)]), within, axis=axis)


def _same_rows(before: np.ndarray[Any, Any], after: np.ndarray[Any, Any]) -> bool:
    """Whether the values of before are still there, whatever was appended beside them."""
    if any(old > new for old, new in zip(before.shape, after.shape, strict=True)):
        return False
    still = after[tuple(slice(0, length) for length in before.shape)]
    return before.size > 0 and np.array_equal(before, still, equal_nan=before.dtype.kind in "fc")


def limits(changed: Diff, checks: Checks) -> list[Verdict]:
    """Check how far the changes reach."""
    found = []
    arrays = {array.path for array in changed.arrays} | {change.path for change in changed.attributes}
    if checks.only:
        beyond = sorted(arrays - set(checks.only))
        found.append(
            Verdict(f"only {', '.join(checks.only)} may change", not beyond, f"{', '.join(beyond)} changed, too")
        )
    if checks.max_chunks is not None:
        number = sum(array.changed_chunks for array in changed.arrays)
        found.append(
            Verdict(
                f"at most {count(checks.max_chunks, 'chunk')} may change",
                number <= checks.max_chunks,
                f"{count(number, 'chunk')} changed",
            )
        )
    if checks.no_delete:
        gone = [array.path for array in changed.arrays if array.status == "removed" or _shrank(array)]
        gone += [path for path, status in changed.groups.items() if status == "removed"]
        found.append(
            Verdict(
                "nothing may be deleted",
                not gone,
                f"{', '.join(gone)} {'was' if len(gone) == 1 else 'were'} removed or cut",
            )
        )
    return found


def _shrank(array: ArrayDiff) -> bool:
    shapes = next(((change.before, change.after) for change in array.changes if change.what == "shape"), ((), ()))
    return any(after < before for before, after in zip(*shapes, strict=False))


def expectations(dataset: Callable[[], xr.Dataset], checks: Checks) -> list[Verdict]:
    """Ask what was expected of the dataset that is to be committed.

    An expectation that raises passes its exception on: it is a mistake in the question, not an answer.
    """
    if not checks.expect:
        return []
    opened = dataset()
    return [Verdict(f"{said} must hold", *_truth(ask(opened))) for said, ask in checks.expect.items()]


def _truth(answer: Any) -> tuple[bool, str]:  # noqa: ANN401  the answer of the user's own function
    values = np.asarray(answer)
    if values.size != 1:
        return False, f"it gives {values.size:,} values instead of true or false; add .all() or .any()"
    return bool(values.item()), f"it is {values.item()}"


def refuse(verdicts: Iterable[Verdict]) -> None:
    """Raise when a check did not pass.

    Raises
    ------
    GuardError
        With each check that did not pass and what exceeded it.
    """
    failed = [verdict for verdict in verdicts if not verdict.passed]
    if failed:
        said = "; ".join(f"{verdict.check}, but {verdict.said}" for verdict in failed)
        hint = "Mend it in the cell and run it again; --dry-run shows all that a cell would commit."
        raise GuardError(f"Nothing was committed: {said}.", hint)
