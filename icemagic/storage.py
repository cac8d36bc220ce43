"""Turns a storage URL, a path and a few settings into an icechunk storage, and says where an open repository lies.

icechunk takes every text as a folder name: ``file:///data``, ``~/data`` and ``s3://bucket/data`` all become folders of
that name in the working directory. So the text is read here, once, and anything that is not understood is refused.
"""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote_to_bytes

import icechunk

from icemagic.errors import StorageURLError, StoreNotFoundError, did_you_mean


@dataclass(frozen=True)
class Option:
    """One key of a ``storage_config``."""

    kind: type[str | bool]
    """The type of its value."""
    meaning: str
    """What it does, a few words."""
    secret: bool = False
    """Whether its value must never be shown."""


@dataclass(frozen=True)
class Scheme:
    """One kind of storage."""

    example: str
    """How its URLs look."""
    meaning: str
    """What it is, a few words."""
    options: Mapping[str, Option] = field(default_factory=dict)
    """The keys that a ``storage_config`` for it may have."""
    keys: tuple[str, ...] = ()
    """Those of them that hold credentials, and so exclude ``"credentials"``."""


_CREDENTIALS = Option(str, '"auto" (the provider\'s own chain: environment, profile, role) or "anonymous" (none)')
_ENDPOINT = Option(str, "another server that speaks the protocol, such as http://127.0.0.1:9000")
_ALLOW_HTTP = Option(bool, "True for an endpoint_url without encryption")
_BEARER = Option(str, "a bearer token", secret=True)
_S3_KEYS = {
    "access_key_id": Option(str, "the key's name"),
    "secret_access_key": Option(str, "the key itself", secret=True),
    "session_token": Option(str, "the token that belongs to a temporary key", secret=True),
}
_AZ_KEYS = {
    "account_key": Option(str, "the account's key", secret=True),
    "sas_token": Option(str, "a shared access signature", secret=True),
    "bearer_token": _BEARER,
}
_GS_KEYS = {
    "service_account_file": Option(str, "path of a service account's file"),
    "service_account_key": Option(str, "that file's content", secret=True),
    "application_credentials": Option(str, "path of an application credentials file"),
    "bearer_token": _BEARER,
}
_S3_LIKE = {"endpoint_url": _ENDPOINT, "allow_http": _ALLOW_HTTP, "credentials": _CREDENTIALS, **_S3_KEYS}

SCHEMES: Mapping[str, Scheme] = MappingProxyType(
    {
        "file": Scheme("file:///path/to/store", "a folder on this machine; a plain path means the same"),
        "memory": Scheme("memory:NAME", "the memory of this process; the same name finds the same repository"),
        "s3": Scheme(
            "s3://bucket/prefix",
            "Amazon S3 and servers that speak its protocol",
            {
                "region": Option(str, "the bucket's region, such as us-east-1"),
                **_S3_LIKE,
                "force_path_style": Option(bool, "True for a server that has no host name per bucket"),
                "requester_pays": Option(bool, "True to pay for the reads oneself"),
            },
            tuple(_S3_KEYS),
        ),
        "gs": Scheme(
            "gs://bucket/prefix",
            "Google Cloud Storage",
            {"endpoint_url": _ENDPOINT, "allow_http": _ALLOW_HTTP, "credentials": _CREDENTIALS, **_GS_KEYS},
            tuple(_GS_KEYS),
        ),
        "az": Scheme(
            "az://container/prefix",
            "Azure Blob Storage",
            {
                "account_name": Option(str, "the storage account; always needed"),
                "endpoint_url": Option(str, "another server, such as http://127.0.0.1:10000/ACCOUNT"),
                "allow_http": _ALLOW_HTTP,
                "credentials": _CREDENTIALS,
                **_AZ_KEYS,
            },
            tuple(_AZ_KEYS),
        ),
        "r2": Scheme(
            "r2://bucket/prefix",
            "Cloudflare R2",
            {
                "account_id": Option(str, "the Cloudflare account; this or endpoint_url is needed"),
                "region": Option(str, "a region; auto when absent"),
                **_S3_LIKE,
            },
            tuple(_S3_KEYS),
        ),
        "tigris": Scheme(
            "tigris://bucket/prefix",
            "Tigris",
            {"region": Option(str, "the bucket's region; always needed"), **_S3_LIKE},
            tuple(_S3_KEYS),
        ),
        "http": Scheme("https://host/path", "any web server that answers range requests; read-only"),
    }
)
"""The kinds of storage, by the name that a `Location` carries as its scheme."""

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
    text = _text(storage)
    scheme, rest = _split(text, is_path=not isinstance(storage, str))
    options = _check_options(scheme, _mapping(storage_config))
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
    place = _BUILDERS[scheme](bucket, prefix, options)
    return Location(f"{scheme}://{bucket}/{prefix}", scheme, None, place, secrets=_secrets(scheme, options))


def network_settings(scheme: str) -> icechunk.StorageSettings | None:
    """Return retries and timeouts for a kind of storage, or None where there is no network.

    Without them an S3 server that takes connections and never answers holds icechunk for ever. An address without a
    server fails in about one second, one that swallows connections in about 13. The timeouts reach S3 and its kin; the
    others bring their own (5 s to connect, 30 s for a request).
    """
    if scheme in ("file", "memory"):
        return None
    return icechunk.StorageSettings(
        retries=icechunk.StorageRetriesSettings(max_tries=4, initial_backoff_ms=250, max_backoff_ms=5_000),
        # The read timeout runs while a body is sent, and ten chunks share the line: it must not cut off slow ones.
        timeouts=icechunk.StorageTimeoutSettings(connect_timeout_ms=3_000, read_timeout_ms=120_000),
    )


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


def _text(storage: object) -> str:
    text = os.fspath(storage) if isinstance(storage, (str, os.PathLike)) else None
    if not isinstance(text, str) or not text.strip():
        message = f"Storage must be a URL or a path, but {_type(storage)} was given."
        raise StorageURLError(message, _known_urls())
    return text


def _mapping(config: object) -> Mapping[str, object]:
    if config is not None and not isinstance(config, Mapping):
        message = f"storage_config must be a mapping, but {_type(config)} was given."
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


def _check_options(scheme: str, config: Mapping[str, object]) -> dict[str, Any]:
    known, keys = SCHEMES[scheme].options, SCHEMES[scheme].keys
    for key, value in config.items():
        if key not in known:
            message = f"storage_config for {scheme} has no key {key!r}."
            raise StorageURLError(message, did_you_mean(str(key), known) or f"{scheme} takes no storage_config.")
        kind = known[key].kind
        if not isinstance(value, kind) or (isinstance(value, str) and not value.strip()):
            message = f"storage_config {key!r} must be {_KINDS[kind]}, but {_type(value)} was given."
            raise StorageURLError(message, f"{key}: {known[key].meaning}.")
    options = dict(config)
    given = [key for key in keys if key in options]
    if "credentials" in options:
        if options["credentials"] not in ("auto", "anonymous"):
            message = 'storage_config "credentials" must be "auto" or "anonymous".'
            raise StorageURLError(message, f"Explicit keys go under their own names: {', '.join(keys)}.")
        if given:
            message = f'storage_config has both "credentials" and {given[0]!r}.'
            raise StorageURLError(message, "Leave out one of them; explicit keys need no credentials entry.")
    if "endpoint_url" in options:
        _check_endpoint(str(options["endpoint_url"]), allow_http=bool(options.get("allow_http")))
    return options


def _check_endpoint(url: str, *, allow_http: bool) -> None:
    _, _, rest = url.partition("://")
    if "@" in rest or "?" in rest or "#" in rest:
        message = "The endpoint_url has a user, a query string or a fragment, which is where secrets stand."
        raise StorageURLError(message, "Give the plain address, and keys under their own names.")
    if not re.fullmatch(r"https?://[^\s/]+(/\S*)?", url, flags=re.IGNORECASE):
        message = "The endpoint_url must start with https:// or http:// and name a host."
        raise StorageURLError(message, "For example http://127.0.0.1:9000.")
    if url.lower().startswith("http:") and not allow_http:
        message = "The endpoint_url is without encryption (http:)."
        raise StorageURLError(message, 'Write "allow_http": True as well if that is meant.')


def _secrets(scheme: str, options: Mapping[str, object]) -> tuple[str, ...]:
    known = SCHEMES[scheme].options
    return tuple(str(value) for key, value in options.items() if known[key].secret)


def _s3_arguments(options: Mapping[str, Any]) -> dict[str, Any]:
    arguments = {key: value for key, value in options.items() if key != "credentials"}
    given = [key for key in _S3_KEYS if key in options]
    for key in ("access_key_id", "secret_access_key"):
        if given and key not in given:
            message = f"storage_config has {given[0]!r} but no {key!r}."
            raise StorageURLError(message, "The two belong together.")
    return arguments | _anonymous(options)


def _anonymous(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the argument for no credentials; without it and without keys icechunk takes the provider's own chain."""
    return {"anonymous": True} if options.get("credentials") == "anonymous" else {}


def _one_key(scheme: str, options: Mapping[str, Any]) -> list[str]:
    given = [key for key in SCHEMES[scheme].keys if key in options]
    if len(given) > 1:
        message = f"storage_config has both {given[0]!r} and {given[1]!r}."
        raise StorageURLError(message, "Leave one of them.")
    return given


def _s3(bucket: str, prefix: str, options: Mapping[str, Any]) -> icechunk.Storage:
    return icechunk.s3_storage(bucket=bucket, prefix=prefix, **_s3_arguments(options))


def _r2(bucket: str, prefix: str, options: Mapping[str, Any]) -> icechunk.Storage:
    if not {"account_id", "endpoint_url"} & set(options):
        message = "r2 needs the Cloudflare account."
        raise StorageURLError(message, 'Give storage_config={"account_id": "..."}, or an "endpoint_url".')
    return icechunk.r2_storage(bucket=bucket, prefix=prefix, **_s3_arguments(options))


def _tigris(bucket: str, prefix: str, options: Mapping[str, Any]) -> icechunk.Storage:
    if "region" not in options:
        message = "tigris needs the bucket's region: without it reads may be out of date."
        raise StorageURLError(message, 'Give storage_config={"region": "..."}.')
    return icechunk.tigris_storage(bucket=bucket, prefix=prefix, **_s3_arguments(options))


def _gs(bucket: str, prefix: str, options: Mapping[str, Any]) -> icechunk.Storage:
    given = _one_key("gs", options)
    keys = {key: options[key] for key in given}
    config = _client_config(options, "google_base_url")
    return icechunk.gcs_storage(bucket=bucket, prefix=prefix, config=config, **keys, **_anonymous(options))


def _az(container: str, prefix: str, options: Mapping[str, Any]) -> icechunk.Storage:
    if "account_name" not in options:
        message = "az needs the storage account."
        raise StorageURLError(message, 'Give storage_config={"account_name": "...", "account_key": "..."}.')
    given = _one_key("az", options)
    keys = {key.replace("account_key", "access_key"): options[key] for key in given}
    return icechunk.azure_storage(
        account=options["account_name"],
        container=container,
        prefix=prefix,
        # icechunk ignores an unknown key here without a word and talks to the real Azure: "endpoint" is the right one.
        config=_client_config(options, "endpoint"),
        **keys,
        **_anonymous(options),
    )


def _client_config(options: Mapping[str, Any], endpoint: str) -> dict[str, str] | None:
    config = {}
    if "endpoint_url" in options:
        config[endpoint] = options["endpoint_url"]
    if options.get("allow_http"):
        config["allow_http"] = "true"
    return config or None


_BUILDERS: dict[str, Callable[[str, str, Mapping[str, Any]], icechunk.Storage]] = {
    "s3": _s3,
    "gs": _gs,
    "az": _az,
    "r2": _r2,
    "tigris": _tigris,
}
_KINDS = {str: "a text", bool: "True or False"}


def _type(value: object) -> str:
    """Name the type of a value that may be secret."""
    if isinstance(value, str) and not value.strip():
        return "an empty text"
    return "None" if value is None else f"a value of the type {type(value).__name__}"


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
