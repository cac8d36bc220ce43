"""A writable session as users get it: what is read keeps its state, and forks cannot overwrite each other unseen.

Dask workers and threads write to forks of a session, which are merged afterwards. icechunk lets the last one win where
two wrote the same chunk, so that half of each other's values are lost; here the merge is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import combinations
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import icechunk
from icechunk._icechunk_python import PySession
from icechunk.session import ForkSession
from zarr.core.sync import sync

from icemagic.coordinates import boxes
from icemagic.errors import ConflictError, NotWritableError
from icemagic.nodes import Chunks, read_chunks

if TYPE_CHECKING:
    from icechunk._icechunk_python import PyStore
    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

    from icemagic.latereads import LateReads

Places = dict[str, set[tuple[int, ...]]]
"""Path of an array to numbers of chunks."""


class Moment:
    """What a session holds at one moment.

    A fork of a session with changes writes files that stay behind as garbage. The session's own bytes, in which it
    would be sent to a worker, cost nothing; but what lies in memory does not travel.

    Parameters
    ----------
    session : icechunk.Session
    travels : bool
        Whether the session can be opened again from its bytes.
    """

    def __init__(self, session: icechunk.Session, *, travels: bool) -> None:
        inner = session._session
        self.travels = travels
        self._held: bytes | PySession
        if session.read_only:
            self._held = inner
        else:
            self._held = inner.as_bytes() if travels and session.has_uncommitted_changes else inner.fork()

    def session(self) -> icechunk.Session | None:
        """Return a session that holds it and goes on from there; None where it does not travel."""
        return icechunk.Session(PySession.from_bytes(self._held)) if isinstance(self._held, bytes) else None

    def open(self) -> PinnedStore:
        """Return a read-only store of it."""
        held = PySession.from_bytes(self._held) if isinstance(self._held, bytes) else self._held
        return PinnedStore(held.store, self)

    def __getstate__(self) -> dict[str, Any]:
        held = self._held if isinstance(self._held, bytes) else self._held.as_bytes()
        return {"travels": self.travels, "_held": held}


class PinnedStore(icechunk.IcechunkStore):
    """A read-only store of one moment of a session.

    Parameters
    ----------
    inner : PyStore
    of : Moment
    """

    def __init__(self, inner: PyStore, of: Moment) -> None:
        super().__init__(inner, read_only=True)
        self._of = of

    def with_read_only(self, read_only: bool = False) -> icechunk.IcechunkStore:  # noqa: FBT001, FBT002  Zarr's signature
        """Return this store: what passed cannot be written."""
        if not read_only:
            raise NotWritableError("What was opened for reading cannot be written.", "Write to the store itself.")
        return self

    def __reduce__(self) -> tuple[Callable[[Moment], icechunk.IcechunkStore], tuple[Moment]]:
        """Pickle as the moment, so that a worker can read it."""
        return Moment.open, (self._of,)


class _Guarded(icechunk.Session):
    """What a session and its forks have in common."""

    travels: bool
    """Whether the session can be opened again from its bytes."""

    def moment(self) -> Moment:
        """Return what the session holds now."""
        return Moment(self, travels=self.travels)

    @property
    def store(self) -> WorkingStore:
        """The Zarr store of the session."""
        return WorkingStore(self)

    def fork(self) -> Fork:
        """Return a session that can be sent to a worker and merged back."""
        return Fork(self._session.fork(), self.moment())

    def merge(self, *others: ForkSession) -> None:
        """Take over the changes of forks.

        Raises
        ------
        ConflictError
            When one of them wrote a chunk that this session or another of them wrote without its knowledge; nothing
            was merged.
        """
        self._refuse_overlaps(others)
        super().merge(*others)

    async def merge_async(self, *others: ForkSession) -> None:
        """Do the same as :meth:`merge`, awaited."""
        self._refuse_overlaps(others)
        await super().merge_async(*others)

    def _refuse_overlaps(self, others: Iterable[ForkSession]) -> None:
        forks = [(other, _written(other)) for other in others if other != self]
        ours = _written(self)
        for (one, some), (other, more) in combinations(forks, 2):
            _refuse(_differing(one, other, _both(some, more)))
        for other, theirs in forks:
            places = _differing(self, other, _both(ours, theirs))
            _refuse(_differing(self, other.seen, places) if isinstance(other, Fork) else places)


class GuardedSession(_Guarded):
    """The session of a transaction, for users: it shares all its state with icechunk's own, whichever that is.

    Parameters
    ----------
    session : icechunk.Session
    travels : bool
        Whether the session can be opened again from its bytes.
    """

    late_reads: LateReads
    """What refuses to read an array that was made anew."""

    def __init__(self, session: icechunk.Session, *, travels: bool) -> None:
        super().__init__(session._session)
        self.travels = travels

    def follow(self, session: icechunk.Session, late_reads: LateReads) -> None:
        """Share the state of another session from now on; stores and arrays that were opened from this one, too."""
        self._session, self.late_reads = session._session, late_reads

    @property
    def store(self) -> WorkingStore:
        """The Zarr store of the session."""
        return WorkingStore(self)


class Fork(_Guarded, ForkSession):
    """A fork that knows what its parent held when it was made.

    Parameters
    ----------
    session : PySession
    seen : Moment
        What its parent held.
    """

    def __init__(self, session: PySession, seen: Moment) -> None:
        super().__init__(session)
        self.seen = seen
        self.travels = seen.travels

    def __getstate__(self) -> dict[str, Any]:
        return {"_session": self._session.as_bytes(), "seen": self.seen}

    def __setstate__(self, state: Any) -> None:  # noqa: ANN401  what __getstate__ returned
        super().__setstate__(state)
        self.seen = state["seen"]
        self.travels = self.seen.travels


class WorkingStore(icechunk.IcechunkStore):
    """A store of a session that is written: what it opens for reading keeps the state of that moment.

    Parameters
    ----------
    session : _Guarded
    """

    def __init__(self, session: _Guarded) -> None:
        self._of = session
        super().__init__(session._session.store)

    @property
    def _store(self) -> PyStore:
        """Icechunk's inner store, of the session that is followed now."""
        return self._of._session.store

    @_store.setter
    def _store(self, inner: PyStore) -> None:
        """Pass over what the base class sets."""

    @property
    def session(self) -> icechunk.Session:
        """The session that the store writes to."""
        return self._of

    def with_read_only(self, read_only: bool = False) -> icechunk.IcechunkStore:  # noqa: FBT001, FBT002  Zarr's signature
        """Return this store for writing; for reading, a store of the present state."""
        return self._of.moment().open() if read_only else self

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Return a value; refused where an array was made anew and is read as what it was before."""
        value = await super().get(key, prototype, byte_range)
        if value is None and isinstance(self._of, GuardedSession):
            await self._of.late_reads.refuse(key)
        return value

    async def delete(self, key: str) -> None:
        """Delete a key."""
        if isinstance(self._of, GuardedSession):
            self._of.late_reads.emptied(key)
        await super().delete(key)

    def __reduce__(self) -> tuple[Callable[[_Guarded], icechunk.IcechunkStore], tuple[_Guarded]]:
        """Pickle as the session, which says whether it may travel."""
        return attrgetter("store"), (self._of,)


def _written(session: icechunk.Session) -> Places:
    """Return the chunks that a session wrote; a fork does not count those of its parent."""
    return {path: set(map(tuple, found)) for path, found in session.status().updated_chunks.items()}


def _both(one: Places, other: Places) -> Places:
    return {path: both for path in one.keys() & other.keys() if (both := one[path] & other[path])}


def _differing(one: icechunk.Session, other: icechunk.Session | Moment, places: Places) -> Places:
    """Return those of the places that are not the same in two sessions."""
    found: Places = {}
    for path, numbers in places.items():
        mine, others = (_chunks(session, path) for session in (one, other))
        found[path] = {at for at in numbers if mine.get(at) != others.get(at)}
    return {path: numbers for path, numbers in found.items() if numbers}


def _chunks(of: icechunk.Session | Moment, path: str) -> Chunks:
    store = of.open() if isinstance(of, Moment) else icechunk.IcechunkStore(of._session.store)
    return sync(read_chunks(store, path))


def _refuse(places: Places) -> None:
    for path, numbers in sorted(places.items()):
        first, *more = boxes(numbers)
        where = ", ".join(str(side.start) if len(side) == 1 else f"{side.start}-{side.stop - 1}" for side in first)
        text = f"Two forks wrote the same chunk of {path.lstrip('/')}: [{where}]{' and others' if more else ''}."
        hint = "Nothing was merged. Let each worker write whole chunks, or write one after the other."
        raise ConflictError(text, hint)
