"""Records how a commit came about, under the key ``icemagic`` of its metadata, and reads it back.

All metadata of all commits lies in the one file that every open and every commit of a repository reads and rewrites, so
what repeats is stored once. The first commit of its kind holds a dict: author, packages, notebook and cell magic or
script, git revision, source and hashes. A commit with the same facts on the same history holds one text, ``HASH COUNT
AUTHOR``: the hash of that dict, the execution count of the cell (0 for none), and the author, so that a log need not
look back.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from importlib import metadata as package_metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from icemagic.records import REPEATED, Origin
from icemagic.redaction import redact

if TYPE_CHECKING:
    import icechunk

KEY = "icemagic"
"""Key of commit metadata under which everything below stands."""
PACKAGES = ("icemagic", "icechunk", "zarr", "xarray", "numpy")
"""Packages whose versions are recorded."""
SOURCE_LIMIT = 20_000
"""Most characters of a cell that are recorded."""
Mode = Literal["source", "hash", "off"]


@dataclass(frozen=True)
class Cell:
    """The notebook cell that is running."""

    source: str
    execution_count: int | None = None
    notebook: str | None = None
    """File name of the notebook, without its folder."""
    magic: str | None = None
    """The cell magic whose body the source is, such as ``%%commit``."""


def no_cell() -> Cell | None:
    """Tell that no notebook cell is running."""
    return None


running_cell: Callable[[], Cell | None] = no_cell
"""Tells which cell runs; the notebook extension puts its own answer here while it is loaded."""


@dataclass
class Recorded:
    """Remembers where the history up to `tip` holds which record, so that a commit looks only at what is new since."""

    tip: str | None = None
    holders: Mapping[str, str] = field(default_factory=dict)

    def upto(self, repo: icechunk.Repository, tip: str) -> Mapping[str, str]:
        """Return the hashes of what commits at or before `tip` hold, and the newest snapshot that holds each."""
        from icechunk import SnapshotNotFoundError

        found: dict[str, str] = {}
        try:
            for info in repo.ancestry(snapshot_id=tip):
                if info.id == self.tip:
                    found = {**self.holders, **found}
                    break
                found = {**dict.fromkeys(_known(info.metadata.get(KEY)), info.id), **found}
        except SnapshotNotFoundError:  # it expired under the transaction, which then records everything itself
            return {}
        self.tip, self.holders = tip, found
        return found


def collect(
    repo: icechunk.Repository,
    tip: str,
    *,
    cell: Cell | None,
    author: str | None,
    mode: Mode,
    secrets: Iterable[str],
    recorded: Recorded,
) -> dict[str, Any]:
    """Return the commit metadata that says how a commit on top of `tip` comes about.

    Parameters
    ----------
    repo : icechunk.Repository
    tip : str
        Snapshot on which the transaction stands.
    cell : Cell or None
        The notebook cell that runs; None in a script.
    author : str or None
        Name from the configuration; None asks git, then the operating system.
    mode : {"source", "hash", "off"}
        Whether the cell's source, only its hash, or nothing at all is recorded.
    secrets : iterable of str
        Values that must not be recorded, besides those that :func:`redact` finds itself.
    recorded : Recorded
        What the history holds already.
    """
    if mode == "off":
        return {}
    facts: dict[str, Any] = {"author": author or own_name(), "packages": _packages()}
    if cell is not None:
        source = redact(cell.source.encode(errors="replace").decode(), secrets)
        facts |= {"notebook": cell.notebook, "magic": cell.magic, "source_hash": _hash(source)}
    else:
        facts["script"] = Path(sys.argv[0]).name if sys.argv else None
    here = _working_directory()
    facts["git"] = _git_revision(here) if here else None
    entry = {key: value for key, value in facts.items() if value}
    digest = _hash(json.dumps(entry, sort_keys=True))
    count = cell.execution_count if cell is not None else None
    holders = recorded.upto(repo, tip)
    keeps_source = cell is not None and mode == "source" and not _is_held(repo, holders, facts["source_hash"])
    if not keeps_source and _is_held(repo, holders, digest):
        return {KEY: f"{digest} {count or 0} {facts['author']}"}
    entry |= {"hash": digest, "count": count or 0}
    if keeps_source:
        entry["source"] = _cut(source)
    return {KEY: entry}


def origin(repo: icechunk.Repository, snapshot_id: str) -> Origin:
    """Return how a version came about; what an earlier version holds is looked up there."""
    entry: object = repo.lookup_snapshot(snapshot_id).metadata.get(KEY)
    count = entry.get("count") if isinstance(entry, Mapping) else None
    if isinstance(entry, str) and (repeated := REPEATED.fullmatch(entry)):
        count = int(repeated["count"])
        entry = _find(repo, snapshot_id, "hash", repeated["hash"], holding="hash") or {"author": repeated["author"]}
    if not isinstance(entry, Mapping):
        return Origin(facts={})
    facts = {name: str(entry[key]) for key, name in _FACTS.items() if entry.get(key)}
    if count:
        facts["execution count"] = str(count)
    wanted, source = entry.get("source_hash"), entry.get("source")
    if not isinstance(wanted, str):
        return Origin(facts=facts)
    if source is None:
        source = _find(repo, snapshot_id, "source_hash", wanted, holding="source").get("source")
    magic = str(entry.get("magic") or "")
    return Origin(facts=facts, source=None if source is None else str(source), source_hash=wanted, magic=magic)


_FACTS = {
    "author": "author",
    "notebook": "notebook",
    "script": "script",
    "git": "git revision of the working directory",
    "packages": "packages",
}


def _find(repo: icechunk.Repository, snapshot_id: str, key: str, value: str, *, holding: str) -> Mapping[str, Any]:
    """Return the newest record at or before a snapshot that has a value and holds what is wanted, or an empty one."""
    for info in repo.ancestry(snapshot_id=snapshot_id):
        entry = info.metadata.get(KEY)
        if isinstance(entry, Mapping) and entry.get(key) == value and holding in entry:
            return entry
    return {}


def _known(entry: object) -> set[str]:
    """Return the hashes of what one commit holds itself; metadata are open to everybody, so others are passed over."""
    if not isinstance(entry, Mapping):
        return set()
    held = (entry.get("hash"), entry.get("source_hash") if "source" in entry else None)
    return {digest for digest in held if isinstance(digest, str)}


def _is_held(repo: icechunk.Repository, holders: Mapping[str, str], digest: str) -> bool:
    """Whether the snapshot that holds a record is still there: it may have expired since it was seen."""
    from icechunk import NotFoundError

    if digest not in holders:
        return False
    try:
        repo.lookup_snapshot(holders[digest])
    except NotFoundError:
        return False
    return True


def _cut(text: str) -> str:
    left = len(text) - SOURCE_LIMIT
    return f"{text[:SOURCE_LIMIT]}\n# … {left:,} more characters are not recorded" if left > 0 else text


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@cache
def _packages() -> str:
    found = [f"python {platform.python_version()}"]
    for name in PACKAGES:
        try:
            found.append(f"{name} {package_metadata.version(name)}")
        except package_metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


def own_name() -> str:
    """Return the name that git would write into a commit, else the login name."""
    if name := os.environ.get("GIT_AUTHOR_NAME"):
        return name
    identity = _git(_working_directory(), None, "var", "GIT_AUTHOR_IDENT")
    if name := identity.partition(" <")[0]:
        return name
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # containers may run as a number that has no name
        return ""


def _working_directory() -> Path | None:
    try:
        return Path.cwd()
    except FileNotFoundError:  # somebody removed it
        return None


def _git_revision(folder: Path) -> str:
    """Commit of the git working tree around a folder, or an empty text."""
    git_dir = _git_dir(folder)
    if git_dir is None:
        return ""
    files = [git_dir / "HEAD", git_dir / "logs" / "HEAD"]
    # Git may be told to keep no log of HEAD; then only git knows whether it moved.
    state = tuple(file.stat().st_mtime_ns for file in files) if all(file.exists() for file in files) else object()
    return _git(folder, state, "rev-parse", "--verify", "HEAD")


def _git_dir(folder: Path) -> Path | None:
    for parent in (folder, *folder.parents):
        dot_git = parent / ".git"
        if dot_git.is_dir():
            return dot_git
        if dot_git.is_file():  # a worktree or submodule: the file says where the folder is
            return parent / dot_git.read_text(errors="replace").removeprefix("gitdir:").strip()
    return None


@lru_cache(maxsize=64)
def _git(folder: Path | None, state: object, *arguments: str) -> str:  # noqa: ARG001  the state is part of the cache's key
    """Ask git once per state: a process costs more than a commit, and HEAD's log changes whenever HEAD moves."""
    try:
        answer = subprocess.run(  # noqa: S603  fixed arguments, no shell
            ["git", *(("-C", str(folder)) if folder else ()), *arguments],  # noqa: S607  the user's own git
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""
