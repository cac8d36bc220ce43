"""Says what takes up space: by kind of file, by array, and by version.

A chunk is stored once, however many versions hold it. Which version brought it, and which would take it away, follows
from the chunk tables of a version and the one before it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import TYPE_CHECKING

from icemagic.display import Lines, Report, Shown, Table, count, size
from icemagic.history import version_of
from icemagic.holdings import Chunks, steps
from icemagic.records import Version, first_line, short, utc
from icemagic.tree import Kept, kept

if TYPE_CHECKING:
    import icechunk
    import pandas as pd

_NEWEST = 20


@dataclass(frozen=True)
class ArrayUsage:
    """Stored chunks of the arrays that had one path."""

    path: str
    all: int
    """Bytes of the chunks that any version holds under this path, each once."""
    head: int
    """Bytes of the chunks that the head holds."""


@dataclass(frozen=True)
class VersionUsage:
    """What one version means for the space that is taken."""

    version: Version
    added: int | None
    """Bytes of the chunks that the version before it does not hold; None where that one expired."""
    only: int
    """Bytes of the chunks that no other version holds."""


@dataclass(frozen=True, repr=False)
class Usage(Shown):
    """What takes up space in a repository."""

    kept: tuple[Kept, ...]
    """Files in storage by kind."""
    arrays: tuple[ArrayUsage, ...]
    """In order of path."""
    versions: tuple[VersionUsage, ...]
    """All that a branch or tag reaches, newest first."""
    head: str
    """The version that counts as the present one, in words."""
    remark: str = ""
    """Why nothing is said of the files, where that is so."""

    @property
    def bytes(self) -> int:
        """Bytes of all files."""
        return sum(kind.bytes for kind in self.kept)

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row a version: id, time (UTC), message, added, only (both in bytes)."""
        import pandas as pd

        rows = [(row.version.id, row.version.time, row.version.message, row.added, row.only) for row in self.versions]
        frame = pd.DataFrame(rows, columns=["id", "time", "message", "added", "only"])
        return frame.astype({"added": "Int64"})

    def _report(self) -> Report:
        total = f"{size(self.bytes)} in storage" if not self.remark else self.remark
        kinds = [(kind.name, kind.meaning, f"{kind.files:,}", size(kind.bytes)) for kind in self.kept]
        arrays = [(row.path, size(row.head), size(row.all)) for row in self.arrays]
        versions = [
            (
                short(row.version.id),
                utc(row.version.time),
                "unknown" if row.added is None else size(row.added),
                size(row.only),
                first_line(row.version.message),
            )
            for row in self.versions[:_NEWEST]
        ]
        left = len(self.versions) - len(versions)
        more = (f"… and {count(left, 'older version')}: to_dataframe() has them all",) if left else ()
        return Report(
            f"{total}, {count(len(self.versions), 'version')}",
            (
                Table(("in storage", "what it is", "files", "size"), tuple(kinds)),
                Table(("array", f"in {self.head}", "in all versions"), tuple(arrays)),
                Table(("version", "time", "added", "only here", "message"), tuple(versions)),
                Lines(more),
            ),
        )


def du(repo: icechunk.Repository, *, head: str | None = None) -> Usage:
    """Return what takes up space.

    Parameters
    ----------
    repo : icechunk.Repository
    head : str, optional
        Snapshot id of the version that counts as the present one; without it the tip of ``main``.
    """
    found = reachable(repo)
    parents = {info.id: info.parent_id for info in found.values()}
    seen: dict[str, Chunks] = defaultdict(dict)
    introduced: dict[str, Chunks] = {}
    lost: dict[str, list[AbstractSet[object]]] = defaultdict(list)
    for step in steps(repo, parents):
        introduced[step.id] = step.introduced
        lost[parents[step.id] or ""].append(step.dropped)
        for path, chunks in step.written.items():
            seen[path] |= chunks
    origins = Counter(chunk for chunks in introduced.values() for chunk in chunks)
    versions = tuple(
        VersionUsage(
            version=version_of(info),
            added=None if _follows_expired(repo, info, found) else sum(introduced[info.id].values()),
            only=_only(introduced[info.id], lost[info.id], origins),
        )
        for info in sorted(found.values(), key=lambda info: info.written_at, reverse=True)
    )
    at = head or repo.lookup_branch("main")
    (present,) = steps(repo, {at: None})
    now = {path: sum(chunks.values()) for path, chunks in present.written.items()}
    arrays = tuple(
        ArrayUsage(path.lstrip("/") or "/", sum(seen.get(path, {}).values()), now.get(path, 0))
        for path in sorted(seen.keys() | now.keys())
    )
    files, remark = kept(repo)
    return Usage(files, arrays, versions, short(head) if head else "main", remark)


def reachable(repo: icechunk.Repository) -> dict[str, icechunk.SnapshotInfo]:
    """Return the versions that a branch or tag reaches, by id, without icechunk's empty root snapshot."""
    tips = [repo.lookup_branch(name) for name in sorted(repo.list_branches())]
    tips += [repo.lookup_tag(name) for name in sorted(repo.list_tags())]
    found: dict[str, icechunk.SnapshotInfo] = {}
    for tip in tips:
        for info in repo.ancestry(snapshot_id=tip):
            if info.id in found:
                break
            if info.parent_id is not None:
                found[info.id] = info
    return found


def _only(introduced: Chunks, lost: list[AbstractSet[object]], origins: Counter[object]) -> int:
    """Return the bytes of what a version brought that no version after it kept, and that came in no other way."""
    return sum(
        length
        for chunk, length in introduced.items()
        if origins[chunk] == 1 and all(chunk in dropped for dropped in lost)
    )


def _follows_expired(
    repo: icechunk.Repository, info: icechunk.SnapshotInfo, found: Mapping[str, icechunk.SnapshotInfo]
) -> bool:
    """Whether versions before one expired: icechunk then keeps one log of all that they and this one changed."""
    return info.parent_id not in found and "synthetic_composite" in repo.inspect_transaction_log(info.id)
