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
from urllib.parse import quote

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


# A quoted literal, or several that Python joins: "a" "b", 'a' + 'b', over lines, with comments between.
_ONE = (
    r"""(?:\"\"\".*?(?:\"\"\"|\Z)|\'\'\'.*?(?:\'\'\'|\Z)|"""
    r""""(?:[^"\\\n]|\\.)*+"|\'(?:[^\'\\\n]|\\.)*+\')"""
)
_GAP = r"(?:[\s\\+]|\#[^\n]*\n)*+"
_PREFIX = r"[rbfut]{0,2}"
_TEXT = rf"(?P<secret>{_ONE}(?:{_GAP}{_PREFIX}{_ONE})*+)"
_TEXTS = rf"(?P<secret>{_ONE}(?:(?:{_GAP}[,:])?{_GAP}{_PREFIX}{_ONE})*+)"
_STRONG = (
    r"(?:token(?!iz)|secret|passw|passphrase|(?<![a-z])pass(?![a-z])|pwd|credential|cookie"
    r"|authorization|auth(?!or))"
)
_WEAK = r"(?:key(?!word|board)|signature|(?<![a-z])sas(?![a-z]))"


# Looking for such names is what costs, so they are looked for once and marked; a name then starts with the mark.
_MARK = "\0"
_TO_MARK = re.compile(rf"(?<![\w.-])(?=[\w.-]*?(?:{_STRONG}|{_WEAK}))[\w.-]++", re.IGNORECASE)
_NAME = r"\0[\w.-]++"
_STRONG_NAME = rf"\0(?=[\w.-]*?{_STRONG})[\w.-]++"
_IS = r"\s*+(?::[ \t]*+[\w.\[\]|, \0]{1,60}+=|:=|[=!]=|=|:|or\b)"
_CALL = r"(?:\0?(?:[\w.]{0,40}(?:Secret|Credential)\w{0,40}|[\w.]{0,20}b64decode|Fernet|bytes|str)\()?"
_MIXED = r"(?=\S{0,99}\d)(?=\S{0,99}[A-Z])(?=\S{0,99}[a-z])"
_BARE = r"[^\s\"'&;,()\[\]{}=#]"
_LINE_END = r"(?=[ \t]*+(?:\n|\Z))"
_I, _IS_ALL = re.IGNORECASE, re.IGNORECASE | re.DOTALL
# Every quantifier is possessive or bounded: no text takes more than linear time.
_NAMED = (
    # A quoted text under a name that looks secret, as a variable, an entry, an argument; it goes, the rest stays.
    re.compile(rf"(?P<keep>{_NAME}[\"']?[\])]?{_IS}\s*+{_CALL}(?:\({_GAP})?{_PREFIX}){_TEXT}", _IS_ALL),
    # Several texts at once: user, password = two texts; a list of tokens; a tuple for auth; a table of passwords.
    re.compile(
        rf"(?P<keep>{_STRONG_NAME}(?:\s*+,\s*+[\w.\0]++){{0,5}}+\s*+=\s*+[(\[{{]?{_GAP}{_PREFIX}){_TEXTS}", _IS_ALL
    ),
    # The text after a secret name in a call: setenv("API_KEY", "…"), getenv("API_KEY", "…").
    re.compile(rf"(?P<keep>\(\s*+[\"']{_NAME}[\"']\s*+,\s*+{_PREFIX}){_TEXT}", _IS_ALL),
    # Connection strings: AccountKey=…;
    re.compile(rf"(?P<keep>{_NAME}=)(?P<secret>[^\s\"';=]++=*+)(?=;)"),
    re.compile(rf"(?P<keep>;\s?{_NAME}=)(?P<secret>[^\s\"';=]++=*+)"),
    # Shell lines: export TOKEN=…, %env TOKEN …, --password …
    re.compile(rf"(?P<keep>\b(?:export|env|set_env|set|setx)[ \t]+{_NAME}[ \t=]\s?)(?P<secret>[^\s\"';]++)"),
    re.compile(rf"(?P<keep>(?<!\S)(?=\0--){_NAME}[ \t=])(?P<secret>[^\s\"']{{4,}})"),
    # Values without quotes in ini files and the like: with digits, and not a name of Python's.
    re.compile(
        rf"(?P<keep>{_NAME}=)(?!\0?(?:[a-z_]\w*+\.)++[a-z_]\w*+(?:[\s,)\]:;]|\Z))"
        rf"(?={_BARE}{{6}})(?={_BARE}{{0,99}}\d)(?P<secret>{_BARE}++=*+)(?![(\[])",
        _I,
    ),
    re.compile(
        rf"(?P<keep>{_NAME}[ \t]*+=[ \t]*+)(?=[\w/+~\0-]{{16}}){_MIXED}(?P<secret>[\w/+~\0-]++={{0,2}}){_LINE_END}"
    ),
    re.compile(rf"(?P<keep>{_NAME}:[ \t]+)(?={_BARE}{{6}})(?=\S{{0,99}}\d)(?P<secret>{_BARE}++=*+){_LINE_END}"),
)
_FORMS = (
    # The arguments of calls that take nothing but credentials.
    re.compile(
        r"(?P<keep>(?:\b(?:login|set_password)|BasicAuth|DigestAuth|Credential|SecretStr)"
        rf"\({_GAP}{_PREFIX}){_TEXTS}",
        re.DOTALL,
    ),
    re.compile(r"(?P<keep>(?<!\S)(?:-u|--user)[ \t=]+[\"']?[^\s:\"']++:)(?P<secret>[^\s\"']++)"),
    re.compile(r"(?P<keep>\bAuthorization:\s*+(?:\w++[ \t]++)?)(?P<secret>[^\s\"']++)", _I),
    # URLs: https://user:password@host, https://token@host, ?sig=…&token=…
    re.compile(r"(?P<keep>://[^\s/:@\"']*+:)(?P<secret>[^\s/\"']+)(?=@)"),
    re.compile(r"(?P<keep>://)(?P<secret>[^\s/:@\"'{}]{20,}+)(?=@)"),
    re.compile(
        r"(?P<keep>[?&](?=[\w-]{0,40}?(?:sig|key|token|secret|passw|pwd|auth|credential)|code=)[\w-]++=)"
        r"(?P<secret>[^\s&\"'#]++)",
        _I,
    ),
    # Tokens of well-known services, and keys whose form gives them away.
    re.compile(r"(?P<keep>\bBearer\s++)(?P<secret>[\w.~+/-]{8,}+=*+)", _I),
    re.compile(r"(?P<secret>(?<![A-Z0-9])(?:AKIA|ASIA|AROA)[A-Z0-9]{12,}+)"),
    re.compile(
        r"(?P<secret>(?<![\w-])(?:gh[pousr]_|github_pat_|gl[a-z]{1,6}-|xox[abeprs]-|xapp-|[sr]k[-_]|hf_|pypi-|npm_"
        r"|dckr_pat_|dop_v1_|ya29\.|AIza|ATATT|SG\.)[\w.-]{16,}+)"
    ),
    re.compile(r"(?P<secret>(?<![\w-])eyJ[\w-]{10,}+\.[\w-]{10,}+\.[\w-]*+)"),
    re.compile(r"(?P<keep>hooks\.slack\.com/services/)(?P<secret>[\w/]++)"),
    re.compile(rf"(?<=[\"'])(?=[A-Za-z0-9/+]{{40}}[\"']){_MIXED}(?P<secret>[A-Za-z0-9/+]{{40}})"),
    re.compile(r"(?P<secret>(?<![A-Za-z0-9+/])[A-Za-z0-9+/]{86}==)"),
    re.compile(
        r"(?P<secret>-----BEGIN [A-Z ]{0,30}PRIVATE KEY[A-Z ]{0,10}-----.*?"
        r"(?:-----END [A-Z ]{0,30}PRIVATE KEY[A-Z ]{0,10}-----|\Z))",
        re.DOTALL,
    ),
)
_ENV_NAME = re.compile(r"key|secret|token|passw|pass(?:\b|_|phrase)|pwd|credential|auth|sas(?![a-z])", re.IGNORECASE)
_SHORTEST = 6  # a shorter value ("1", "true", "main") would blank out harmless words
_EMPTY = ('""', "''")
REDACTED = "[redacted]"


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """Return `text` with secrets replaced.

    Replaced are the given values, values of environment variables whose names look secret, and the usual patterns:
    quoted values of names that look secret, connection strings, passwords and signatures in URLs, and the tokens of
    well-known services.
    """
    held = {value for value in secrets if value}
    held |= {value for name, value in os.environ.items() if _ENV_NAME.search(name) and len(value) >= _SHORTEST}
    held |= {form for value in held for form in (quote(value), quote(value, safe=""), repr(value)[1:-1])}
    if held:
        # In one pass, so that no value is looked for in what replaced another; the longest goes first.
        text = re.sub("|".join(map(re.escape, sorted(held, key=len, reverse=True))), REDACTED, text)
    text = _TO_MARK.sub(rf"{_MARK}\g<0>", text.replace(_MARK, ""))
    for pattern in _NAMED:
        text = pattern.sub(_blank, text)
    text = text.replace(_MARK, "")
    for pattern in _FORMS:
        text = pattern.sub(_blank, text)
    return text


def _blank(match: re.Match[str]) -> str:
    secret = match["secret"]
    if secret in _EMPTY:
        return match[0]
    mark = secret[0] if secret[0] in "\"'" else ""
    return f"{match.groupdict().get('keep') or ''}{mark}{REDACTED}{mark}"


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
