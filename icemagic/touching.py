"""Finds the versions that touched an array or a group, by icechunk's logs of transactions, without reading data.

A log names nodes by ids, which stay when a node is moved. So the walk goes from the newest version backwards and
follows what lies at the path, or below it, to wherever it lay before; what was deleted or moved away counts up to then.
A version that wrote the bytes that were there touched the array, too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import batched, chain
from typing import TYPE_CHECKING, NamedTuple

from zarr.core.sync import sync

from icemagic.errors import SelectionError, did_you_mean
from icemagic.nodes import is_within, together
from icemagic.records import Version
from icemagic.touches import Touch, touches

if TYPE_CHECKING:
    import icechunk

_BATCH = 64


class _Tree(NamedTuple):
    """The nodes of a version."""

    ids: Mapping[str, str]
    """By path."""
    inside: frozenset[str]
    """Ids of those that lie at one of the wanted paths, or below."""


class _Step(NamedTuple):
    """What one version touched, and the nodes of it and of the version before it."""

    version: Version
    here: _Tree
    before: _Tree
    touched: set[str]


def touching(repo: icechunk.Repository, versions: Iterable[Version], paths: Sequence[str]) -> Iterator[Version]:
    """Yield those of some versions that touched what lies at one of the paths or below it.

    Parameters
    ----------
    repo : icechunk.Repository
    versions : iterable of Version
        Children before their parents. Their logs are read a few at a time, as far as the caller goes.
    paths : sequence of str
        Paths of arrays or groups.
    """
    followed: dict[str, frozenset[str]] = defaultdict(frozenset)
    for version, here, before, touched in _steps(repo, versions, paths):
        ids = followed.pop(version.id, frozenset()) | here.inside
        for parent in version.parents:
            followed[parent] |= ids
        if touched & (ids | before.inside):
            yield version


def refuse_unknown(repo: icechunk.Repository, versions: Sequence[Version], paths: Iterable[str]) -> None:
    """Look for something at each of the paths or below it: in the newest version, then in those before.

    Raises
    ------
    SelectionError
        When nothing ever lay there; the hint names the nearest paths.
    """
    known: set[str] = set()
    unknown = list(paths) if versions else []
    trees = _trees(repo, versions)
    while unknown and (tree := next(trees, None)):
        known |= tree.ids.keys()
        unknown = [path for path in unknown if not any(is_within(one, path) for one in tree.ids)]
    if unknown:
        message = f"No version that was looked at holds an array or group {unknown[0]!r}."
        hint = did_you_mean(unknown[0], {path.strip("/") for path in known} - {""})
        raise SelectionError(message, hint or "%ice tree shows what there is.")


def _trees(repo: icechunk.Repository, versions: Sequence[Version]) -> Iterator[_Tree]:
    """Yield the nodes of versions, those of the newest one before any log is read."""
    yield from _read_trees(repo, [version.id for version in versions[:1]], ()).values()
    for step in _steps(repo, versions, ()):
        yield from (step.here, step.before)


def _steps(repo: icechunk.Repository, versions: Iterable[Version], paths: Sequence[str]) -> Iterator[_Step]:
    """Yield what each version touched; nodes are read only where they differ from those of the version after."""
    trees: dict[str, _Tree] = {}
    for batch in batched(touches(repo, versions), _BATCH):
        trees |= _read_trees(repo, _differing(batch, trees), paths)
        for version, touch in batch:
            here = trees.pop(version.id)
            before = trees.setdefault(_parent(version), here)
            yield _Step(version, here, before, _touched(touch, here, before))


def _differing(batch: Iterable[tuple[Version, Touch]], known: Iterable[str]) -> set[str]:
    """Return the ids of the snapshots whose nodes have to be read."""
    told, wanted = set(known), set[str]()
    for version, touch in batch:
        wanted |= {version.id} - told
        if touch.nodes_came_or_went:
            wanted |= {_parent(version)} - told
        told |= {version.id, _parent(version)}
    return wanted


def _parent(version: Version) -> str:
    assert version.parent is not None  # a version is made from another snapshot, if only from the empty root
    return version.parent


def _read_trees(repo: icechunk.Repository, snapshots: Iterable[str], paths: Sequence[str]) -> dict[str, _Tree]:
    wanted = sorted(snapshots)
    found = sync(together(repo.inspect_snapshot_async(snapshot) for snapshot in wanted))
    trees = {}
    for snapshot, held in zip(wanted, found, strict=True):
        ids = {node["path"]: node["id"] for node in held["nodes"]}
        inside = frozenset(ids[path] for path in ids if any(is_within(path, folder) for folder in paths))
        trees[snapshot] = _Tree(ids, inside)
    return trees


def _touched(touch: Touch, here: _Tree, before: _Tree) -> set[str]:
    """Return the ids of the nodes that a version touched; of nodes that moved icechunk names the paths."""
    moved = {(before.ids.get(old), here.ids.get(new)) for new, old in touch.moved.items()}
    return {
        one for one in (*touch.chunks, *touch.made, *touch.redefined, *touch.others, *chain(*moved)) if one is not None
    }
