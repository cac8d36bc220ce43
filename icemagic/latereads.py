"""Refuses to read what an array held before it was removed or made anew in the same transaction.

Whoever opens an array for reading gets the state of that moment, and overwriting it does no harm. An array that was
opened for writing, or by dask, follows the transaction: once it is made anew its old chunks are gone, and fill values
would be read in their place and written back.
"""

from __future__ import annotations

import sys
from types import FrameType
from typing import TYPE_CHECKING

import icechunk

from icemagic.errors import GuardError

if TYPE_CHECKING:
    from collections.abc import Iterator

_FOR_A_WRITE = {"_read_key", "_encode_partial_single"}
"""Functions of Zarr's codec pipeline and sharding codec in which a chunk is read in order to write a part of it."""


class LateReads:
    """Knows the arrays that a transaction made anew, and the chunks that they had before.

    Parameters
    ----------
    base : icechunk.Session
        Reads the snapshot that the transaction stands on.
    session : icechunk.Session
        The session of the transaction.
    """

    def __init__(self, base: icechunk.Session, session: icechunk.Session) -> None:
        self._base = base
        self._session = session
        self._ids: dict[str, str | None] = {}
        self._emptied: set[str] = set()

    def emptied(self, key: str) -> None:
        """Remember that a chunk is empty because it was written so."""
        if _path(key) is not None:
            self._emptied.add(key)

    async def refuse(self, key: str) -> None:
        """Raise when nothing lies under a key because its array was removed or made anew.

        Raises
        ------
        GuardError
            When the array held a chunk there before.
        """
        path = _path(key)
        if path is None or key in self._emptied or self._old(path) in (None, self._new(path)) or _for_a_write():
            return
        if await self._base.store.exists(key):
            text = f"{path.lstrip('/')} was removed or made anew in this transaction before its old values were read."
            hint = 'Load it first, or open it for reading (mode="r", xr.open_zarr): that keeps what was there.'
            raise GuardError(text, hint)

    def _old(self, path: str) -> str | None:
        if path not in self._ids:
            self._ids[path] = _node_id(self._base, path)
        return self._ids[path]

    def _new(self, path: str) -> str | None:
        return _node_id(self._session, path)


def _path(key: str) -> str | None:
    """Return the path of the array to which the key of a chunk belongs, with a leading slash."""
    path, chunk, _ = f"/{key.lstrip('/')}/".rpartition("/c/")  # an array of no dimensions has the one chunk c
    return path or "/" if chunk else None


def _node_id(session: icechunk.Session, path: str) -> str | None:
    try:
        return session.get_node_id(path)
    except icechunk.NodeNotFoundError:
        return None


def _for_a_write() -> bool:
    """Whether the chunk is asked for in order to write a part of it."""
    return any(frame.f_code.co_name in _FOR_A_WRITE for frame in _frames(sys._getframe()))  # noqa: SLF001  documented for this


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back
