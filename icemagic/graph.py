"""Draws versions and the lines between them as text, one row a version, for the margin of a log.

Versions come newest first, children before their parents. Every column but that of the version itself holds one line,
which leads from versions above to one parent below. In a row the version is ``●``, or ``○`` where no line leads on to
an older one, and

====================  ==============================================================================
``│``                 a line passes, also where it cuts through ``─``
``╯`` ``╰`` ``┴``     a line from above ends in the version of this row, which is its parent
``╮`` ``╭`` ``┬``     a line begins here and leads to another parent, which was merged in
``┤`` ``├`` ``┼``     a line passes and is joined, because it leads to that parent already
====================  ==============================================================================
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

_Mark = tuple[str, str, str]
_ENDS: _Mark = ("╯", "╰", "┴")
_BEGINS: _Mark = ("╮", "╭", "┬")
_JOINS: _Mark = ("┤", "├", "┼")
"""Each to the right of the version, to its left, and where its row goes on beyond."""


def margins(versions: Iterable[tuple[str, Sequence[str]]]) -> list[str]:
    """Return the row of each version.

    Parameters
    ----------
    versions : iterable of (str, sequence of str)
        Ids and the ids of their parents, the one that the version was made from first; children before parents. The
        line to a parent that does not follow runs on to the last row.
    """
    waiting: list[str | None] = []  # the version that the line in each column leads to
    return [_row(waiting, version, list(dict.fromkeys(parents))) for version, parents in versions]


def _row(waiting: list[str | None], version: str, parents: list[str]) -> str:
    """Draw one version, and change what the columns wait for."""
    marks = {at: _ENDS for at, wanted in enumerate(waiting) if wanted == version}
    home = min(marks, default=_free(waiting))
    marks.pop(home, None)
    passing = {at for at, wanted in enumerate(waiting) if wanted not in (None, version)}
    _put(waiting, home, parents[0] if parents else None)
    for parent in parents[1:]:
        # The line of the version's own first parent is not one to join: that would read as one parent.
        joined = next((at for at in sorted(passing) if waiting[at] == parent), None)
        at = _free(waiting) if joined is None else joined
        marks[at] = _BEGINS if joined is None else _JOINS
        _put(waiting, at, parent)
    for at, kind in marks.items():
        if kind is _ENDS:
            waiting[at] = None
    while waiting and waiting[-1] is None:
        waiting.pop()
    return _drawn(home, "●" if parents else "○", marks, passing)


def _free(waiting: Sequence[str | None]) -> int:
    """Return the first column that holds no line."""
    return next((at for at, wanted in enumerate(waiting) if wanted is None), len(waiting))


def _put(waiting: list[str | None], at: int, wanted: str | None) -> None:
    if at == len(waiting):
        waiting.append(wanted)
    else:
        waiting[at] = wanted


def _drawn(home: int, dot: str, marks: dict[int, _Mark], passing: set[int]) -> str:
    left, right = min((home, *marks)), max((home, *marks))
    cells = []
    for at in range(max((right, *passing)) + 1):
        if at == home:
            cell = dot
        elif at in marks:
            to_the_right, to_the_left, beyond = marks[at]
            cell = to_the_left if at == left else to_the_right if at == right else beyond
        elif at in passing:
            cell = "│"
        else:
            cell = "─" if left < at < right else " "
        cells.append(f"{cell}{'─' if left <= at < right else ' '}")
    return "".join(cells).rstrip()
