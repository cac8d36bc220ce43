"""Shows one version in full."""

from __future__ import annotations

from typing import TYPE_CHECKING

from icemagic import diff, history, provenance
from icemagic.errors import UnknownVersionError
from icemagic.records import Exhibit, Version

if TYPE_CHECKING:
    import icechunk


def show(repo: icechunk.Repository, snapshot_id: str) -> Exhibit:
    """Return a version's message, what it changed against the version before it, and how it came about.

    Raises
    ------
    UnknownVersionError
        For icechunk's empty root snapshot.
    """
    version = version_at(repo, snapshot_id)
    return Exhibit(version, diff.of_version(repo, version), provenance.origin(repo, version.id))


def version_at(repo: icechunk.Repository, snapshot_id: str) -> Version:
    """Return the version that a snapshot is.

    Raises
    ------
    UnknownVersionError
        For icechunk's empty root snapshot.
    """
    version = history.version(repo, snapshot_id)
    if version is None:
        raise UnknownVersionError("The empty start of a repository is no version.", "%ice log lists the versions.")
    return version
