"""What following a value returns: the value of a point, or the mean of a region, at every version that changed it."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np

from icemagic.display import Lines, Part, Report, Shown, count, filled, label
from icemagic.records import Version, first_line, short, utc
from icemagic.stepplot import step_plot

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Value:
    """A value in one version, or the mean of some."""

    value: Any
    """As xarray decodes it: a number, a time or a text."""
    count: int
    """Values that are not missing; the mean is over these."""
    total: int
    """Values of the region."""

    def same(self, other: Value | None) -> bool:
        """Whether it is the same as another one; a missing value is the same as a missing value."""
        if other is None or (self.count, self.total) != (other.count, other.total):
            return False
        return not self.count or bool(self.value == other.value)

    @property
    def number(self) -> float | None:
        """The value if it can be drawn."""
        is_number = isinstance(self.value, (int, float, np.integer, np.floating)) and isfinite(self.value)
        return float(self.value) if is_number else None

    def words(self) -> str:
        """Say it: a number with all its digits, a mean with ten."""
        if not self.count:
            return "missing"
        return f"{self.value:.10g}" if self.total > 1 and self.number is not None else label(self.value)


@dataclass(frozen=True)
class Reading:
    """What one version made of the value."""

    version: Version
    value: Value | None
    """None where the array or the label was not there."""
    or_expired: bool = False
    """Whether it may have been an expired version before it."""


@dataclass(frozen=True, repr=False)
class Timeline(Shown):
    """The values of a region over the versions that changed it."""

    path: str
    """Path of the array in the newest version, without a leading slash."""
    where: str
    """The region, as it was typed."""
    readings: tuple[Reading, ...]
    """Newest first; only versions after which the value, or the count of values, was another than before."""
    versions: int
    """Versions that were looked through."""
    rewrites: int
    """Versions that wrote chunks of the region and left the value as it was."""

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row a reading: id, time (UTC), author, value, count, total, present, message.

        Where the array or the label was not there, present is False and the value empty.
        """
        import pandas as pd

        columns = ["id", "time", "author", "value", "count", "total", "present", "message"]
        rows = []
        for reading in self.readings:
            v, value = reading.version, reading.value or Value(None, 0, 0)
            known = (value.value, value.count, value.total, reading.value is not None)
            rows.append((v.id, v.time, v.author, *known, v.message))
        return pd.DataFrame(rows, columns=columns)

    def _report(self) -> Report:
        return Report(self.summary(), (Lines(self._lines()), *self._picture(), filled(*self._table())))

    def summary(self) -> str:
        """Say in one line what was followed, and how often it changed."""
        is_mean = any(reading.value and reading.value.total > 1 for reading in self.readings)
        what = f"mean of {self.path}" if is_mean else self.path
        where = f" at {self.where}" if self.where else ""
        return f"{what}{where}: set or changed by {len(self.readings)} of {count(self.versions, 'version')}"

    def _lines(self) -> tuple[str, ...]:
        said = f"{count(self.rewrites, 'more version')} wrote chunks of the region and left the value as it was"
        return (said,) * bool(self.rewrites)

    def _table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        columns = ("version", "time", "author", "value", "change", "values", "message")
        rows: list[tuple[str, ...]] = []
        older = (*self.readings[1:], None)
        for reading, before in zip(self.readings, older, strict=True):
            v, value = reading.version, reading.value
            message = first_line(v.message)
            if reading.or_expired:
                message += " (this version or an expired one before it)"
            found = (
                value.words() if value else "absent",
                _change(value, before.value if before else None),
                f"{value.count:,} of {value.total:,}" if value and value.total > 1 else "",
            )
            rows.append((short(v.id), utc(v.time), v.author, *found, message))
        return columns, rows

    def _picture(self) -> list[Part]:
        points = []
        for reading in reversed(self.readings):
            number = reading.value.number if reading.value else None
            said = reading.value.words() if reading.value else "absent"
            points.append((short(reading.version.id), f"{said} · {reading.version.summary()}", number))
        enough = sum(number is not None for *_, number in points) > 1
        return [step_plot("value, from the oldest version that set it to the newest", points)] if enough else []


def _change(value: Value | None, before: Value | None) -> str:
    new, old = (side.number if side else None for side in (value, before))
    return f"{new - old:+.6g}" if new is not None and old is not None else ""
