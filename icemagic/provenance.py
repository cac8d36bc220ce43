"""Records how a commit came about, under the key ``icemagic`` of its metadata, and reads it back.

All metadata of all commits lies in the one file that every open and every commit of a repository reads, so what repeats
is stored once: the source of a cell and the versions of the packages stand in the first commit that has them, later
commits on the same history hold their hash.
"""

from __future__ import annotations

import getpass
import hashlib
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

from icemagic.records import Origin
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


def no_cell() -> Cell | None:
    """Tell that no notebook cell is running."""
    return None


running_cell: Callable[[], Cell | None] = no_cell
"""Tells which cell runs; the notebook extension puts its own answer here while it is loaded."""


@dataclass
class Recorded:
    """Remembers which sources the history up to `tip` holds, so that a commit looks only at what is new since."""

    tip: str | None = None
    hashes: frozenset[str] = field(default_factory=frozenset)

    def upto(self, repo: icechunk.Repository, tip: str) -> frozenset[str]:
        """Return the hashes whose source stands in a commit at or before `tip`."""
        found: set[str] = set()
        for info in repo.ancestry(snapshot_id=tip):
            if info.id == self.tip:
                found |= self.hashes
                break
            found |= _stored(info.metadata.get(KEY)).keys()
        self.tip, self.hashes = tip, frozenset(found)
        return self.hashes


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
    entry: dict[str, Any] = {"author": author or _author()}
    texts = {"packages": _packages()}
    if cell is not None:
        texts["source"] = redact(cell.source.encode(errors="replace").decode(), secrets)
        entry |= {key: value for key, value in (("count", cell.execution_count), ("notebook", cell.notebook)) if value}
    elif script := Path(sys.argv[0]).name if sys.argv else "":
        entry["script"] = script
    here = _working_directory()
    if here and (revision := _git_revision(here)):
        entry["git"] = revision
    known = recorded.upto(repo, tip)
    for kind, text in texts.items():
        entry[f"{kind}_hash"] = digest = _hash(text)
        if digest not in known and not (kind == "source" and mode == "hash"):
            entry[kind] = _cut(text)
    return {KEY: entry}


def origin(repo: icechunk.Repository, snapshot_id: str) -> Origin:
    """Return how a version came about; sources that an earlier version holds are looked up there."""
    entry = repo.lookup_snapshot(snapshot_id).metadata.get(KEY)
    if not isinstance(entry, Mapping):
        return Origin(facts={})
    wanted = set(_hashes(entry).values())
    texts: dict[str, str] = {}
    for info in repo.ancestry(snapshot_id=snapshot_id):
        texts |= _stored(info.metadata.get(KEY))
        if wanted <= texts.keys():
            break
    facts = {name: str(entry[key]) for key, name in _FACTS.items() if key in entry}
    if packages := texts.get(_hashes(entry).get("packages", "")):
        facts["packages"] = packages
    digest = _hashes(entry).get("source")
    return Origin(facts=facts, source=texts.get(digest) if digest else None, source_hash=digest)


_FACTS = {
    "author": "author",
    "notebook": "notebook",
    "count": "execution count",
    "script": "script",
    "git": "git revision of the working directory",
}


def _stored(entry: object) -> dict[str, str]:
    """Return the texts that one commit holds itself, by their hash."""
    if not isinstance(entry, Mapping):
        return {}
    return {digest: str(entry[kind]) for kind, digest in _hashes(entry).items() if kind in entry}


def _hashes(entry: Mapping[str, object]) -> dict[str, str]:
    """Return the hash of each text; metadata are open to everybody, so what is not a hash is passed over."""
    found = {kind: entry.get(f"{kind}_hash") for kind in ("source", "packages")}
    return {kind: digest for kind, digest in found.items() if isinstance(digest, str)}


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


def _author() -> str:
    """Name as git would write it into a commit, else the login name."""
    identity = _git(_working_directory(), os.environ.get("GIT_AUTHOR_NAME"), "var", "GIT_AUTHOR_IDENT")
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
