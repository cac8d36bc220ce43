"""Opens and creates repositories, and says what stands in the way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import icechunk

from icemagic.errors import NotWritableError, StoreExistsError, StoreNotFoundError
from icemagic.locking import creating
from icemagic.providers import network_settings
from icemagic.storage import Location, is_repository, nearby

if TYPE_CHECKING:
    from icemagic.config import Config


def open_repository(location: Location, config: Config) -> icechunk.Repository:
    """Return the repository at a place; never creates one.

    Raises
    ------
    StoreNotFoundError
        When there is none; the hint names what is near.
    """
    try:
        return icechunk.Repository.open(location.storage, config=_settings(location, config))
    except icechunk.RepositoryNotFoundError:
        raise _not_found(location) from None


def create_repository(location: Location, config: Config) -> icechunk.Repository:
    """Return a new repository.

    Raises
    ------
    NotWritableError
        When the place can only be read.
    StoreExistsError
        When there is a repository, or other files.
    """
    if location.read_only:
        text = f"{location.url} can only be read, so nothing can be created there."
        raise NotWritableError(text, "Use a local path, s3://, gs://, az://, r2:// or tigris://.")
    try:
        return _created(location, config)
    except (icechunk.AlreadyExistsError, icechunk.InvalidInputError, icechunk.ConflictError) as error:
        if error.kind not in _TAKEN:
            raise
        raise _taken(location) from None


def _settings(location: Location, config: Config) -> icechunk.RepositoryConfig:
    settings = config.repository_config()
    settings.storage = network_settings(location.scheme)
    return settings


def _created(location: Location, config: Config) -> icechunk.Repository:
    settings = _settings(location, config)
    if location.path is None:
        return icechunk.Repository.create(location.storage, config=settings)
    with creating(location.path) as empty:
        if not empty:
            raise _taken(location)
        # The lock lies in the folder already, so icechunk's own check would not find it empty.
        return icechunk.Repository.create(location.storage, config=settings, check_clean_root=False)


_TAKEN = ("parent-directory-not-clean", "repository-already-exists", "repo-info-updated")


def _taken(location: Location) -> StoreExistsError:
    if location.path is not None and not is_repository(location.path):
        text = f"There are other files at {location.url}, so no repository can be made there."
        return StoreExistsError(text, "Choose an empty folder, or a name that is not there yet.")
    text = f"There is a repository, or other files, at {location.url} already."
    return StoreExistsError(text, "Open it with IcechunkStore.open, or choose an empty place.")


def _not_found(location: Location) -> StoreNotFoundError:
    near = nearby(location)
    create = "To make one: %icechunk open URL --create or IcechunkStore.create(URL)."
    hint = f"Near it: {', '.join(near)}." if near else create
    return StoreNotFoundError(f"There is no icechunk repository at {location.url}.", hint)
