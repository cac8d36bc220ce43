"""What blame returns: which version last wrote each chunk of an array, as a table, as numbers and as pictures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from icemagic.coordinates import Box, all_sides, boxes, positions, side_words
from icemagic.display import Lines, Part, Report, Shown, count, filled, label, size
from icemagic.pictures import EMPTY, NEVER, STORED, Axis, Grid, amount_map, version_map
from icemagic.records import Origin, Version, first_line, short, utc

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

OR_EXPIRED = "(this version or an expired one before it)"
_VERSIONS = 20
"""Most versions, newest first, whose chunks are named."""
_PLACES = 3
"""Most boxes of chunks that are named of one version."""

Numbers = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, eq=False)
class Dimension:
    """One dimension of an array, and those of its chunks that were asked about."""

    name: str | None
    length: int
    """Elements along it in the whole array."""
    chunk: int
    """Elements of one chunk along it."""
    numbers: range
    """Chunks along it that were asked about."""
    first: np.ndarray[Any, Any] | None = None
    """Label of the first element of each of them; None where no coordinate covers it."""
    last: np.ndarray[Any, Any] | None = None
    """Label of the last element of each of them."""

    @property
    def labels(self) -> np.ndarray[Any, Any]:
        """The first label of each chunk, or its number where there are none."""
        return np.array(self.numbers) if self.first is None else self.first

    def words(self, side: range) -> str:
        """Say some of its chunks, given by their numbers, in coordinates."""
        (elements,) = positions((side,), (self.chunk,), (self.length,))
        ends = None
        if self.first is not None and self.last is not None:
            ends = (self.first[side.start - self.numbers.start], self.last[side.stop - 1 - self.numbers.start])
        return side_words(self.name, self.length, elements, ends)

    def axis(self) -> Axis:
        """Return it as the axis of a picture."""
        (elements,) = positions((self.numbers,), (self.chunk,), (self.length,))
        ends: tuple[Any, Any] = (elements.start, elements.stop - 1)
        if self.first is not None and self.last is not None:
            ends = (self.first[0], self.last[-1])
        return Axis(self.name or "position", *map(label, ends))


@dataclass(frozen=True, repr=False, eq=False)
class Blame(Shown):
    """Which version last wrote each chunk of an array."""

    path: str
    """Path of the array, without a leading slash."""
    at: Version
    """The version whose chunks these are."""
    dimensions: tuple[Dimension, ...]
    total: int
    """Chunks of the whole array, those that were not asked about among them."""
    versions: tuple[Version, ...]
    """All that wrote any of the chunks since the array was made, oldest first."""
    follows_expired: bool
    """Whether the first of them stands for expired versions before it, too."""
    writers: Numbers
    """Index into `versions` of the one that last wrote each chunk; -1 for chunks never written; shape of the grid."""
    writes: Numbers
    """How many of the versions wrote each chunk."""
    stored: Numbers
    """Stored bytes of each chunk; -1 where nothing is stored, so that it reads as the fill value."""

    def to_dataarray(self) -> xr.DataArray:
        """Return `writers` over the chunk grid, each chunk under the label of its first element.

        A dimension without a coordinate has the numbers of its chunks; one without a name is called ``dim_N``.
        """
        import xarray as xr

        names = self._names()
        coords = {name: (name, dim.labels) for name, dim in zip(names, self.dimensions, strict=True)}
        return xr.DataArray(self.writers, coords, names, name="version", attrs={"array": self.path, "at": self.at.id})

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row a chunk, under the labels of :meth:`to_dataarray`.

        The columns are version (as in `writers`), id, time (UTC), author and message, all empty for chunks never
        written, writes, and bytes, which are empty where nothing is stored.
        """
        import pandas as pd

        frame = pd.DataFrame({"version": self.writers.ravel()}, index=self._index())
        wrote = {number: (v.id, v.time, v.author, v.message) for number, v in enumerate(self.versions)}
        rows = [wrote.get(number, (None, None, None, None)) for number in frame["version"].tolist()]
        for name, values in zip(("id", "time", "author", "message"), zip(*rows, strict=True), strict=False):
            frame[name] = pd.Series(values, index=frame.index, dtype=None if name == "time" else object)
        stored = pd.Series(self.stored.ravel(), frame.index, dtype="Int64")
        return frame.assign(writes=self.writes.ravel(), bytes=stored.mask(stored < 0))

    def _index(self) -> pd.Index[Any]:
        import pandas as pd

        sides: list[pd.Index[Any]] = [
            pd.Index(dim.labels, name=name) for dim, name in zip(self.dimensions, self._names(), strict=True)
        ]
        if len(sides) > 1:
            return pd.MultiIndex.from_product(sides)
        return sides[0] if sides else pd.RangeIndex(1)

    def _names(self) -> list[str]:
        """Return a name for each dimension, each only once."""
        names = [dim.name for dim in self.dimensions]
        return [name if name is not None and names.count(name) == 1 else f"dim_{at}" for at, name in enumerate(names)]

    def last_writers(self) -> list[Version]:
        """Return the versions that last wrote any of the chunks, newest first."""
        return [self.versions[number] for number in self._newest_first()]

    def stands_for_expired(self, version: Version) -> bool:
        """Whether a version stands for expired ones before it, too."""
        return self.follows_expired and version == self.versions[0]

    def _newest_first(self) -> list[int]:
        found: list[int] = np.unique(self.writers[self.writers >= 0]).tolist()
        return found[::-1]

    def _report(self) -> Report:
        return Report(self.summary(), (Lines(self.lines()), *self._pictures(), *self.table()))

    def summary(self) -> str:
        """Say in one line of what this is the blame."""
        chunks = count(self.writers.size, "chunk")
        of = f"{self.writers.size:,} of its {count(self.total, 'chunk')}" if self.writers.size < self.total else chunks
        by = count(len(self._newest_first()), "version")
        return f"{self.path} at {self.at.summary()}: {of}, last written by {by}"

    def lines(self) -> tuple[str, ...]:
        """Say what the table does not."""
        never, empty = (int((self._states() == state).sum()) for state in (NEVER, EMPTY))
        sides = [f"{dim.chunk:,} {dim.name or ''}".strip() for dim in self.dimensions]
        said = [f"a chunk is {' × '.join(sides)}"] if sides else []
        if never:
            said.append(f"never written: {count(never, 'chunk')}")
        if empty:
            said.append(f"nothing stored, so only fill values: {count(empty, 'chunk')}")
        if self.follows_expired:
            said.append(f"{short(self.versions[0].id)} stands for itself and for the versions before it, which expired")
        return tuple(said)

    def _states(self) -> Numbers:
        return np.where(self.stored >= 0, STORED, np.where(self.writers >= 0, EMPTY, NEVER))

    def table(self, most: int = _VERSIONS) -> tuple[Part, ...]:
        """Return which of the newest versions last wrote which places, newest first."""
        numbers = self._newest_first()
        rows = [row for number in numbers[:most] for row in self._rows(number)]
        columns = ("place", "chunks", "stored", "version", "time", "author", "message")
        left = f"the newest {most} of {len(numbers):,} versions are named; to_dataframe() has them all"
        # Said before the table, which may take all the room that there is.
        return Lines((left,) * (len(numbers) > most)), filled(columns, rows)

    def _rows(self, number: int) -> Iterator[tuple[str, ...]]:
        version = self.versions[number]
        message = first_line(version.message)
        if self.stands_for_expired(version):
            message = f"{message} {OR_EXPIRED}"
        who = (short(version.id), utc(version.time), version.author, message)
        found = boxes(np.argwhere(self.writers == number).tolist())
        for box in found[:_PLACES]:
            inside = self.stored[tuple(slice(side.start, side.stop) for side in box)]
            yield (self._words(box), f"{inside.size:,}", _held(inside), *who)
        if left := found[_PLACES:]:
            chunks = sum(prod(map(len, box)) for box in left)
            yield (f"… and {count(len(left), 'more place')}", f"{chunks:,}", "", *who)

    def _words(self, box: Box) -> str:
        """Say a box of the grid in coordinates."""
        sides = zip(self.dimensions, box, strict=True)
        return all_sides(
            dim.words(range(dim.numbers.start + side.start, dim.numbers.start + side.stop)) for dim, side in sides
        )

    def _pictures(self) -> list[Part]:
        """Return maps of what differs from chunk to chunk."""
        if self.writers.size < 2:  # noqa: PLR2004  one chunk makes no map
            return []
        grid = Grid(self._states(), tuple(dim.axis() for dim in self.dimensions))
        names = [
            (v.summary(), f"{v.summary()} · {utc(v.time)}{f' {OR_EXPIRED}' * self.stands_for_expired(v)}")
            for v in self.versions
        ]
        pictures: list[Part] = [version_map("which version last wrote each chunk", grid, self.writers, names)]
        if len(np.unique(self.writes[self.writes > 0])) > 1:
            pictures.append(amount_map("how many versions wrote each chunk", grid, self.writes, lambda n: f"{n:,}"))
        if len(np.unique(self.stored[self.stored >= 0])) > 1:
            pictures.append(amount_map("bytes stored of each chunk", grid, self.stored, size))
        return pictures


def _held(stored: Numbers) -> str:
    """Say what is stored of some chunks."""
    empty = int((stored < 0).sum())
    if empty == stored.size:
        return "nothing"
    return size(int(stored[stored >= 0].sum())) + f", nothing in {empty:,}" * bool(empty)


@dataclass(frozen=True, repr=False, eq=False)
class Why(Shown):
    """Which versions last wrote a region of an array, and how the newest of them came about."""

    blame: Blame
    origins: tuple[tuple[Version, Origin], ...]
    """The newest of them, newest first."""

    def _report(self) -> Report:
        parts = [Lines(self.blame.lines()), *self.blame.table(len(self.origins))]
        for version, origin in self.origins:
            about = [version.summary(), version.byline()]
            if self.blame.stands_for_expired(version):
                about.append("It stands for versions before it, too, which expired with what they recorded.")
            if not origin.facts:
                about.append("nothing was recorded about how it came about")
            parts += [Lines((" ", *about)), *origin.parts()]
        if left := len(self.blame.last_writers()) - len(self.origins):
            parts.append(Lines((f"… and {count(left, 'older version')}: %ice show REF says how one came about",)))
        if before := len(self.blame.versions) - len(self.blame.last_writers()):
            text = f"{count(before, 'version')} wrote chunks of it before: %ice history says which changed a value"
            parts.append(Lines((text,)))
        return Report(self.blame.summary(), tuple(parts))
