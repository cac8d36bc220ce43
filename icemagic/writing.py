"""Which store is being written, and the codecs of the arrays that are made in it.

Zarr has no setting for the default codecs since 3.1; its own default is asked through here.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import zarr.core.array

if TYPE_CHECKING:
    import icechunk
    from zarr.abc.codec import BytesBytesCodec


@dataclass
class _Target:
    store: icechunk.IcechunkStore
    codecs: tuple[BytesBytesCodec, ...]
    over: bool = False


_target: ContextVar[_Target | None] = ContextVar("_target", default=None)
_kept: list[weakref.ref[_Target]] = []
_zarr_default = zarr.core.array.default_compressors_v3


@contextmanager
def writing_to(store: icechunk.IcechunkStore, codecs: tuple[BytesBytesCodec, ...]) -> Iterator[None]:
    """Make `store` the active one, and give `codecs` to arrays that are created without codecs of their own."""
    before, target = _target.get(), _active(store, codecs)
    _target.set(target)
    try:
        yield
    finally:
        # It may be left in another thread or task than it was entered in, whose context cannot be reset from here.
        target.over = True
        if _target.get() is target:
            _target.set(before)


def keep_writing_to(store: icechunk.IcechunkStore, codecs: tuple[BytesBytesCodec, ...]) -> Callable[[], None]:
    """Do the same in every context, because cells run in contexts of their own; returns what ends it."""
    target = _active(store, codecs)
    kept = weakref.ref(target)  # a store that nobody holds any more must not be held here
    _kept.append(kept)

    def end() -> None:
        target.over = True
        _kept.remove(kept)

    return end


def active_store() -> icechunk.IcechunkStore | None:
    """Return the store whose transaction is open in this context."""
    target = _current()
    return target.store if target else None


def _active(store: icechunk.IcechunkStore, codecs: tuple[BytesBytesCodec, ...]) -> _Target:
    # Outside of a transaction, and in other threads, it answers as before.
    zarr.core.array.default_compressors_v3 = _default_codecs
    return _Target(store, codecs)


def _current() -> _Target | None:
    target = _target.get()
    if target is not None and not target.over:
        return target
    return next((kept for ref in reversed(_kept) if (kept := ref()) is not None), None)


def _default_codecs(dtype: Any) -> tuple[BytesBytesCodec, ...]:  # noqa: ANN401  Zarr's private type of data types
    target = _current()
    return target.codecs if target else _zarr_default(dtype)
