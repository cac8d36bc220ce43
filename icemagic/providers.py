"""The kinds of storage: what their URLs look like, which settings they take, and how icechunk is told.

One table describes them; the check of a ``storage_config``, the errors and the documentation are made from it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import icechunk

from icemagic.errors import StorageURLError, did_you_mean


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


def check_options(scheme: str, config: Mapping[str, object]) -> dict[str, Any]:
    """Return the settings of a ``storage_config``, checked key by key.

    Raises
    ------
    StorageURLError
        For an unknown key, a value of the wrong type, and keys that exclude each other.
    """
    known, keys = SCHEMES[scheme].options, SCHEMES[scheme].keys
    for key, value in config.items():
        if key not in known:
            message = f"storage_config for {scheme} has no key {key!r}."
            raise StorageURLError(message, did_you_mean(str(key), known) or f"{scheme} takes no storage_config.")
        kind = known[key].kind
        if not isinstance(value, kind) or (isinstance(value, str) and not value.strip()):
            message = f"storage_config {key!r} must be {_KINDS[kind]}, but {type_name(value)} was given."
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


def secrets(scheme: str, options: Mapping[str, object]) -> tuple[str, ...]:
    """Return the values among the settings that must never be shown."""
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


BUILDERS: Mapping[str, Callable[[str, str, Mapping[str, Any]], icechunk.Storage]] = {
    "s3": _s3,
    "gs": _gs,
    "az": _az,
    "r2": _r2,
    "tigris": _tigris,
}
"""For each kind in the cloud what makes a storage of a bucket, a prefix and the checked settings."""
_KINDS = {str: "a text", bool: "True or False"}


def type_name(value: object) -> str:
    """Name the type of a value that may be secret."""
    if isinstance(value, str) and not value.strip():
        return "an empty text"
    return "None" if value is None else f"a value of the type {type(value).__name__}"
