"""Turns a storage URL, a path and a few settings into an icechunk storage, and says where an open repository lies.

icechunk takes every text as a folder name: ``file:///data``, ``~/data`` and ``s3://bucket/data`` all become folders of
that name in the working directory. So the text is read here, once, and anything that is not understood is refused.
"""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from itertools import islice
from pathlib import Path
from urllib.parse import unquote, unquote_to_bytes

import icechunk

from icemagic.errors import StorageURLError, StoreNotFoundError, did_you_mean
from icemagic.providers import BUILDERS, SCHEMES, check_options, secrets, type_name

_ALIASES = {"https": "http", "gcs": "gs"}
_MEMORY: dict[str, icechunk.Storage] = {}

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_WINDOWS_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_ELSEWHERE = "Settings and keys go in storage_config, or in the environment of the provider."


@dataclass(frozen=True)
class Location:
    """A place for a repository."""

    url: str
    """The place in full: absolute, and without secrets."""
    scheme: str
    """The kind of storage, a key of `SCHEMES`."""
    path: Path | None
    """The folder, on local storage only."""
    storage: icechunk.Storage = field(repr=False, compare=False)
    """What icechunk opens and creates repositories with."""
    read_only: bool = False
    """Whether nothing can be written there."""
    secrets: tuple[str, ...] = field(default=(), repr=False, compare=False)
    """The secret values of the storage_config, so that they can be kept out of records."""


def locate(storage: str | os.PathLike[str], storage_config: Mapping[str, object] | None = None) -> Location:
    """Return the place that a URL or a path names; nothing is read or created there.

    Parameters
    ----------
    storage : str or path-like
        A path (absolute, relative, or with ``~``) or one of these URLs; a path-like object is always a local path.

        {urls}
    storage_config : mapping, optional
        Settings of the storage. Explicit keys are used when they are given, otherwise ``"credentials"``:

        {options}

    Raises
    ------
    StorageURLError
        When the URL cannot be used, holds a secret, or `storage_config` has an unknown or unusable key.
    """
    _quiet_icechunk()
    text = _text(storage)
    scheme, rest = _split(text, is_path=not isinstance(storage, str))
    options = check_options(scheme, _mapping(storage_config))
    if scheme == "file":
        path = _absolute(rest)
        return Location(path.as_uri(), scheme, path, icechunk.local_filesystem_storage(str(path)))
    if scheme == "memory":
        name = rest.removeprefix("//").strip("/")
        if not name.strip():
            message = "The URL memory: has no name."
            raise StorageURLError(message, "Write memory:NAME; the same name finds the same repository.")
        return Location(f"memory:{name}", scheme, None, _memory(name))
    if scheme == "http":
        url = _web_url(text)
        return Location(url, scheme, None, icechunk.http_storage(url), read_only=True)
    bucket, prefix = _bucket_and_prefix(scheme, rest)
    place = BUILDERS[scheme](bucket, prefix, options)
    return Location(f"{scheme}://{bucket}/{prefix}", scheme, None, place, secrets=secrets(scheme, options))


@cache
def _quiet_icechunk() -> None:
    """Keep icechunk's warnings out of every cell: of local storage, which the lock answers, and of refused rebases.

    Somebody who sets ICECHUNK_LOG, icechunk's own variable, decides for themselves.
    """
    if "ICECHUNK_LOG" not in os.environ:
        icechunk.set_logs_filter("error")


def is_repository(folder: Path) -> bool:
    """Say whether a local folder holds an icechunk repository, of format 2 (``repo``) or 1 (``refs``)."""
    return (folder / "snapshots").is_dir() and ((folder / "repo").is_file() or (folder / "refs").is_dir())


def nearby(location: Location) -> list[str]:
    """Return local repositories that may have been meant by a folder that holds none.

    These are the repositories inside it (two levels deep), and those in similarly named folders. At most five paths,
    relative to the working directory where they lie under it.
    """
    if location.path is None:
        return []
    found: dict[Path, None] = {}
    for folder in (location.path, *_alike(location.path)):
        found |= dict.fromkeys(_repositories(folder, depth=2))
    return [_short(path) for path in islice(found, 5)]


def storage_path(repository: icechunk.Repository) -> Path | None:
    """Return the folder of a local repository, or None for a repository that lies elsewhere.

    Raises
    ------
    StoreNotFoundError
        When the folder is not there: it is gone, or icechunk was given a relative path and the working directory has
        changed since.
    """
    kind, place = _read_repr(repository.storage)
    if kind != "local filesystem":
        return None
    path = Path(place["path"]).absolute()
    if is_repository(path):
        return path
    message = f"The repository was opened as {place['path']!r}, and there is none at {path} now."
    raise StoreNotFoundError(message, "Open it again, with an absolute path.")


def describe(repository: icechunk.Repository) -> str:
    """Return the URL of an open repository, without secrets; icechunk does not tell the name of one in memory."""
    kind, place = _read_repr(repository.storage)
    if kind == "local filesystem":
        return Path(place["path"]).absolute().as_uri()
    if kind == "HTTP":
        scheme, _, rest = re.split(r"[?#]", place["url"])[0].partition("://")
        host, slash, path = rest.partition("/")
        return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"
    if "container" in place:
        return f"az://{place['container']}/{place.get('prefix', '')}"
    if "bucket" in place:
        return f"{'gs' if kind == 'GCS' else 's3'}://{place['bucket']}/{place.get('prefix', '')}"
    return "memory:" if kind == "in-memory" else kind


def travels(repository: icechunk.Repository) -> bool:
    """Whether what is open of a repository can be opened again elsewhere: what lies in memory cannot."""
    return _read_repr(repository.storage)[0] != "in-memory"


def same_place(one: icechunk.Repository, other: icechunk.Repository) -> bool:
    """Whether two open repositories may be one."""
    return _place(one) == _place(other)


def _place(repository: icechunk.Repository) -> str:
    kind, place = _read_repr(repository.storage)
    if kind == "local filesystem":
        return os.path.realpath(place["path"])
    if kind == "in-memory" and repository.spec_version > 1:  # nothing tells these apart but when they were made
        return f"{[update.updated_at for update in repository.ops_log()][-1]}"
    return describe(repository)


def short_url(url: str) -> str:
    """Return a URL for display: a folder below the working directory as its relative path."""
    here = Path.cwd().as_uri() + "/"
    return unquote(url.removeprefix(here)) if url.startswith(here) else url


def _text(storage: object) -> str:
    text = os.fspath(storage) if isinstance(storage, (str, os.PathLike)) else None
    if not isinstance(text, str) or not text.strip():
        message = f"Storage must be a URL or a path, but {type_name(storage)} was given."
        raise StorageURLError(message, _known_urls())
    return text


def _mapping(config: object) -> Mapping[str, object]:
    if config is not None and not isinstance(config, Mapping):
        message = f"storage_config must be a mapping, but {type_name(config)} was given."
        raise StorageURLError(message, 'For example {"region": "us-east-1"}.')
    return config or {}


def _split(text: str, *, is_path: bool) -> tuple[str, str]:
    """Return the scheme of a URL and what follows its colon, which is for ``file`` the path, as for a plain path."""
    match = _SCHEME.match(text)
    is_drive = _WINDOWS_DRIVE.match(text)
    if match is None or (is_drive and os.name == "nt"):
        return "file", text
    given, rest = match[1].lower(), text[match.end() :]
    if is_path:
        if not rest.startswith("/"):
            return "file", text
        message = f"A path object cannot hold a URL ({given}:): it drops slashes."
        raise StorageURLError(message, "Give the URL as text.")
    # Before anything else is said about the text: no later message repeats a user, a password or a query string.
    _refuse_secrets(given, rest)
    if is_drive:
        message = f"{text!r} is a Windows path, and this is not Windows."
        raise StorageURLError(message, f"Write ./{text} for a folder of that name.")
    scheme = _ALIASES.get(given, given)
    if scheme not in SCHEMES:
        message = f"There is no storage of the kind {given!r}."
        hint = (
            f"{did_you_mean(given, [*SCHEMES, *_ALIASES])} {_known_urls()} For a folder of that name put ./ in front."
        )
        raise StorageURLError(message, hint)
    if scheme == "file" and not rest.startswith("/"):
        message = "A file: URL needs an absolute path."
        raise StorageURLError(message, "Write file:///path/to/store, or the relative path alone.")
    return scheme, _url_path(rest) if scheme == "file" else rest


def _refuse_secrets(given: str, rest: str) -> None:
    """Refuse what can hold secrets: a user before an @ in the name of the machine, and whatever follows ? or #."""
    # In a file: URL the machine stands between // and /, in others also where slashes are missing or too many.
    named = rest.lstrip("/\\") if given != "file" else rest[2:] if rest.startswith("//") else "/"
    if "@" in re.split(r"[/\\]", named, maxsplit=1)[0]:
        message = "The URL has something before an @, which is where a user name and a password stand."
        raise StorageURLError(message, _ELSEWHERE)
    for mark, name in (("?", "query string (what follows ?)"), ("#", "fragment (what follows #)")):
        if mark in rest:
            message = f"The URL has a {name}, which is where keys and signatures stand."
            raise StorageURLError(message, f"{_ELSEWHERE} In a file: URL write %3F for ? and %23 for #.")


def _url_path(rest: str) -> str:
    host, slash, path = rest[2:].partition("/") if rest.startswith("//") else ("", "/", rest[1:])
    if os.name == "nt" and _WINDOWS_DRIVE.match(path):
        slash = ""
    elif host not in ("", "localhost"):
        message = f"The file: URL names another machine, {host!r}."
        raise StorageURLError(message, f"Write file:///{host}{slash}{path} for an absolute path, or the path alone.")
    return os.fsdecode(unquote_to_bytes(f"{slash}{path}".encode(errors="surrogateescape"))) or "/"


def _absolute(text: str) -> Path:
    path = Path(text)
    try:
        path = path.expanduser()
        str(path).encode()
    except RuntimeError:
        message = f"Nobody here has the home folder that {text!r} starts with."
        raise StorageURLError(message, "Write ./ in front for a folder of that name.") from None
    except UnicodeEncodeError:
        message = f"The path {text!r} is not valid Unicode, and icechunk takes no other."
        raise StorageURLError(message, "Rename the folder, or reach it through a link.") from None
    if {"\0", "\n", "\r"} & set(text):
        message = f"The path {text!r} has a NUL character or a line break in it."
        raise StorageURLError(message, "Name a folder without.")
    # Links stay as typed (the layout stores/<site>/<kind> may be made of them) unless .. needs them resolved.
    path = path.resolve() if ".." in path.parts else path.absolute()
    if path.is_file():
        message = f"{path} is a file; a repository is a folder."
        raise StorageURLError(message, "Name a folder that is there, or one that is to be made.")
    return path


def _memory(name: str) -> icechunk.Storage:
    return _MEMORY.setdefault(name, icechunk.in_memory_storage())


def _web_url(text: str) -> str:
    scheme, _, rest = text.partition(":")
    host, _, path = rest[2:].partition("/")
    if not rest.startswith("//") or not re.fullmatch(r"[\w.-]+(:\d+)?|\[[0-9A-Fa-f:.]+\](:\d+)?", host):
        message = "The web URL has no host that could be asked."
        raise StorageURLError(message, "Write https://host/path or https://host:port/path.")
    return f"{scheme.lower()}://{host}/{path}".rstrip("/")


def _bucket_and_prefix(scheme: str, rest: str) -> tuple[str, str]:
    example = SCHEMES[scheme].example
    if not rest.startswith("//"):
        message = f"Two slashes are missing after {scheme}:."
        raise StorageURLError(message, f"Write {example}.")
    bucket, _, prefix = rest[2:].partition("/")
    prefix = prefix.strip("/")
    what = "container" if scheme == "az" else "bucket"
    if not bucket:
        message = f"The {scheme} URL names no {what}."
        raise StorageURLError(message, f"Write {example}.")
    if not _BUCKET.fullmatch(bucket):
        message = f"The {what} in the {scheme} URL can have letters, digits, '.', '-' and '_' only."
        raise StorageURLError(message, f'Write {example}; another server goes in storage_config as "endpoint_url".')
    if not prefix:
        message = f"{scheme}://{bucket} names no prefix, and a repository cannot fill a whole {what}."
        raise StorageURLError(message, f"Write {scheme}://{bucket}/path/to/store.")
    if {"", ".", ".."} & set(prefix.split("/")):
        message = f"The prefix in the {scheme} URL has an empty, . or .. part."
        raise StorageURLError(message, "Write every part of it out once.")
    return bucket, prefix


def _known_urls() -> str:
    return f"Known: {', '.join(scheme.example for scheme in SCHEMES.values())}, or a plain path."


def _read_repr(storage: icechunk.Storage) -> tuple[str, dict[str, str]]:
    """Return the kind of a storage and its fields; its text is the only thing that icechunk tells about one."""
    head, *lines = repr(storage).removesuffix("\n").split("\n")
    fields: dict[str, str] = {}
    name = ""
    for line in lines:
        # A value with line breaks in it stands under its name, indented.
        if line.startswith("    ") and name:
            fields[name] = f"{fields[name]}\n{line[4:]}" if name in fields else line[4:]
        else:
            name, _, value = line.partition(":")
            if value:
                fields[name] = value.removeprefix(" ")
    return fields.pop("type", head), fields


def _alike(path: Path) -> list[Path]:
    """Return folders that are there and whose names, part by part, are near those of `path`."""
    parents = [path.parent] if path.parent.is_dir() or path.parent == path else _alike(path.parent)
    alike: list[Path] = []
    for parent in parents:
        names = {folder.name.casefold(): folder for folder in _folders(parent)}
        alike += [names[name] for name in get_close_matches(path.name.casefold(), names, n=3, cutoff=0.6)]
    return alike


def _repositories(folder: Path, depth: int) -> Iterator[Path]:
    if is_repository(folder):
        yield folder
    elif depth:
        for inner in _folders(folder):
            yield from _repositories(inner, depth - 1)


def _folders(folder: Path) -> list[Path]:
    """Return the folders in a folder, by name; none where it cannot be read, for these are suggestions only."""
    try:
        return sorted(islice((entry for entry in folder.iterdir() if entry.is_dir()), 1_000))
    except OSError:
        return []


def _short(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _urls_text() -> str:
    return "\n".join(f"{scheme.example:<24}{scheme.meaning}" for scheme in SCHEMES.values())


def _options_text() -> str:
    return "\n".join(
        line
        for name, scheme in SCHEMES.items()
        if scheme.options
        for line in (name, *(f"    {key} : {o.kind.__name__}; {o.meaning}" for key, o in scheme.options.items()))
    )


locate.__doc__ = (locate.__doc__ or "").format(
    urls=textwrap.indent(_urls_text(), " " * 8).lstrip(), options=textwrap.indent(_options_text(), " " * 8).lstrip()
)
