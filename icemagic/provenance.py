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
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from importlib import metadata as package_metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from icemagic.records import Origin

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
        texts["source"] = redact(cell.source, secrets)[:SOURCE_LIMIT]
        entry |= {key: value for key, value in (("count", cell.execution_count), ("notebook", cell.notebook)) if value}
    elif script := Path(sys.argv[0]).name if sys.argv else "":
        entry["script"] = script
    if revision := _git_revision():
        entry["git"] = revision
    known = recorded.upto(repo, tip)
    for kind, text in texts.items():
        entry[f"{kind}_hash"] = digest = _hash(text)
        if digest not in known and not (kind == "source" and mode == "hash"):
            entry[kind] = text
    return {KEY: entry}


def origin(repo: icechunk.Repository, snapshot_id: str) -> Origin:
    """Return how a version came about; sources that an earlier version holds are looked up there."""
    entry = repo.lookup_snapshot(snapshot_id).metadata.get(KEY)
    if not isinstance(entry, Mapping):
        return Origin(facts={})
    wanted = {entry[key] for key in ("source_hash", "packages_hash") if key in entry}
    texts: dict[str, str] = {}
    for info in repo.ancestry(snapshot_id=snapshot_id):
        texts |= _stored(info.metadata.get(KEY))
        if wanted <= texts.keys():
            break
    facts = {name: str(entry[key]) for key, name in _FACTS.items() if key in entry}
    if packages := texts.get(entry.get("packages_hash", "")):
        facts["packages"] = packages
    digest = entry.get("source_hash")
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
    return {entry[f"{kind}_hash"]: entry[kind] for kind in ("source", "packages") if kind in entry}


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


_SECRET_NAME = r"[\w.-]*(?:key|secret|token|passw(?:or)?d|pwd|credential|signature|sas)[\w.-]*"
_PATTERNS = tuple(
    re.compile(pattern, flags)
    for pattern, flags in (
        # key = "…", "account_key": "…", token="…", os.environ["X_TOKEN"] = '…'; the quoted text goes, the rest stays.
        (rf"(?P<keep>{_SECRET_NAME}[\"']?\]?\s*(?::\s*\w+\s*)?[=:,]\s*[frbu]{{0,2}})(?P<quote>\"\"\"|'''|\"|')(?P<secret>.+?)(?P=quote)", re.I | re.S),
        # AccountKey=…;  password=… without quotes, as in connection strings and shell lines
        (rf"(?P<keep>\b{_SECRET_NAME}=)(?P<secret>[^\s\"'&;,)=]{{6,}}=*)", re.I),
        # https://user:password@host
        (r"(?P<keep>://[^\s/:@\"']*:)(?P<secret>[^\s/@\"']+)(?=@)", 0),
        # ?sig=…&token=…
        (r"(?P<keep>[?&](?:sig|se|code|auth|access_token|x-amz-[\w-]+)=)(?P<secret>[^\s&\"'#]+)", re.I),
        (r"(?P<keep>\bBearer\s+)(?P<secret>[\w.~+/-]{8,}=*)", re.I),
        (r"(?P<secret>\b(?:AKIA|ASIA|AROA)[A-Z0-9]{12,})", 0),
        (r"(?P<secret>\b(?:gh[pousr]_|github_pat_|glpat-|xox[abprs]-|sk-|hf_|pypi-)[\w-]{10,})", 0),
        (r"(?P<secret>\bAIza[\w-]{30,}|\beyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]*)", 0),
        (r"(?P<secret>-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z))", re.S),
    )
)
_ENV_NAME = re.compile(r"key|secret|token|passw|pwd|credential|auth|sas", re.I)
_SHORTEST = 6  # a shorter value ("1", "true", "main") would blank out harmless words
REDACTED = "[redacted]"


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """Return `text` with secrets replaced.

    Replaced are the given values, values of environment variables whose names look secret, and the usual patterns:
    quoted values of names that look secret, connection strings, passwords and signatures in URLs, and the tokens of
    well-known services.
    """
    held = {value for value in secrets if value}
    held |= {value for name, value in os.environ.items() if _ENV_NAME.search(name) and len(value) >= _SHORTEST}
    for value in sorted(held, key=len, reverse=True):
        text = text.replace(value, REDACTED)
    for pattern in _PATTERNS:
        text = pattern.sub(_blank, text)
    return text


def _blank(match: re.Match[str]) -> str:
    groups = match.groupdict()
    quote = groups.get("quote") or ""
    return f"{groups.get('keep') or ''}{quote}{REDACTED}{quote}"


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
    name, _, _ = _git(str(Path.cwd()), os.environ.get("GIT_AUTHOR_NAME"), "var", "GIT_AUTHOR_IDENT").partition(" <")
    if name:
        return name
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # containers may run as a number that has no name
        return ""


def _git_revision() -> str:
    """Commit of the git working tree around the working directory, or an empty text."""
    folder = Path.cwd()
    git_dir = _git_dir(folder)
    if git_dir is None:
        return ""
    state = tuple(path.stat().st_mtime_ns for path in (git_dir / "HEAD", git_dir / "logs" / "HEAD") if path.exists())
    return _git(str(folder), state, "rev-parse", "--verify", "HEAD")


def _git_dir(folder: Path) -> Path | None:
    for parent in (folder, *folder.parents):
        dot_git = parent / ".git"
        if dot_git.is_dir():
            return dot_git
        if dot_git.is_file():  # a worktree or submodule: the file says where the folder is
            return parent / dot_git.read_text().removeprefix("gitdir:").strip()
    return None


@lru_cache(maxsize=64)
def _git(folder: str, state: object, *arguments: str) -> str:  # noqa: ARG001  the state is part of the cache's key
    """Ask git once per state: a process costs more than a commit, and HEAD's log changes whenever HEAD moves."""
    try:
        answer = subprocess.run(  # noqa: S603  fixed arguments, no shell
            ["git", "-C", folder, *arguments],  # noqa: S607  the user's own git
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""
