"""A writable session whose forks cannot overwrite each other unseen.

Dask workers and threads write to forks of a session, which are merged afterwards. icechunk lets the last one win where
two wrote the same chunk, so that half of each other's values are lost.
"""

from __future__ import annotations

import icechunk
from icechunk.session import ForkSession

from icemagic.coordinates import boxes
from icemagic.errors import ConflictError


class Fork(ForkSession):
    """A fork that knows how many merges its parent had seen when it was made; None after a journey to a worker."""

    after: int | None = None


class GuardedSession(icechunk.Session):
    """An icechunk session that refuses to merge forks which wrote the same chunk."""

    def __init__(self, session: icechunk.Session) -> None:
        super().__init__(session._session)  # noqa: SLF001  icechunk's own classes share it
        self._merged: list[dict[str, set[tuple[int, ...]]]] = []

    def fork(self) -> Fork:
        """Return a session that can be sent to a worker and merged back."""
        fork = Fork(super().fork()._session)  # noqa: SLF001  as above
        fork.after = len(self._merged)
        return fork

    def merge(self, *others: ForkSession) -> None:
        """Take over the changes of forks.

        Raises
        ------
        ConflictError
            When two of them wrote the same chunk without seeing each other's; nothing was merged.
        """
        earlier = len(self._merged)
        chunks = list(self._merged)
        for other in others:
            written = {path: set(map(tuple, found)) for path, found in other.status().updated_chunks.items()}
            unseen = other.after if isinstance(other, Fork) and other.after is not None else earlier
            for before in chunks[unseen:]:
                _refuse_overlap(before, written)
            chunks.append(written)
        super().merge(*others)
        self._merged = chunks


def _refuse_overlap(one: dict[str, set[tuple[int, ...]]], other: dict[str, set[tuple[int, ...]]]) -> None:
    for path in sorted(one.keys() & other.keys()):
        if both := one[path] & other[path]:
            first, *more = boxes(both)
            where = ", ".join(str(side.start) if len(side) == 1 else f"{side.start}-{side.stop - 1}" for side in first)
            text = f"Two forks wrote the same chunk of {path.lstrip('/')}: [{where}]{' and others' if more else ''}."
            hint = "Nothing was merged. Let each worker write whole chunks, or write one after the other."
            raise ConflictError(text, hint)
