"""Turns a report into plain text and HTML that hold the same cells.

A report is a title and parts: tables, lines, code and pictures. Both renderings come from one trimmed report, escape
everything, contain no identifiers of their own (the same report always renders alike) and stay small, whatever the
store holds.
"""

from __future__ import annotations

import html
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

ROW_LIMIT = 200
"""Most rows of one table that are shown."""
CELL_LIMIT = 160
"""Most characters of one cell or line that are shown."""
CODE_LIMIT = 8_000
"""Most characters of one piece of code that are shown."""
HTML_BUDGET = 40_000
"""Most bytes of escaped content and markup in one report, so that its HTML stays under 50 kB."""

_BESIDE = ' style="display:inline-block;vertical-align:top;margin:.5em 2em .5em 0"'
_CELL_MARKUP = 70
_PART_MARKUP = 120


@dataclass(frozen=True)
class Table:
    """Rows under column names; a table without rows shows nothing."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Lines:
    """Short sentences, one a line."""

    lines: tuple[str, ...]


@dataclass(frozen=True)
class Code:
    """A piece of source code, shown as it is."""

    source: str


@dataclass(frozen=True)
class Picture:
    """A picture under a caption; the same in characters stands in the text."""

    caption: str
    svg: str
    """A whole ``<svg>`` element that is well-formed and escaped, for it is shown as it is; without ids, which clash."""
    text: str


Part = Table | Lines | Code | Picture


@dataclass(frozen=True)
class Report:
    """What a record shows: a title, then its parts in order."""

    title: str
    parts: tuple[Part, ...] = ()


class Shown(ABC):
    """A record that shows itself as text and as HTML."""

    @abstractmethod
    def _report(self) -> Report:
        """Return what is to be shown."""

    def __repr__(self) -> str:
        return to_text(self._report())

    def _repr_html_(self) -> str:
        return to_html(self._report())


def to_text(report: Report) -> str:
    """Render a report as plain text without trailing spaces."""
    lines: list[str] = []
    for part in _trim(report):
        match part:
            case Lines():
                lines += part.lines
            case Table():
                lines += _text_table(part)
            case Code():
                lines += [f"    {line}" for line in part.source.split("\n")]
            case Picture():
                lines += [part.caption, *part.text.split("\n")]
    return "\n".join(line.rstrip() for line in lines)


def to_html(report: Report) -> str:
    """Render a report as one escaped HTML element."""
    title, *rest = _trim(report)
    assert isinstance(title, Lines)
    pieces = [f'<strong style="display:block">{html.escape(title.lines[0])}</strong>']
    for part in rest:
        match part:
            case Lines():
                pieces += [f"<div>{html.escape(line)}</div>" for line in part.lines]
            case Table():
                pieces.append(_html_table(part))
            case Code():
                pieces.append(f"<pre><code>{html.escape(part.source)}</code></pre>")
            case Picture():
                pieces.append(f"<div{_BESIDE}><div>{html.escape(part.caption)}</div>{part.svg}</div>")
    return f'<div class="icemagic">{"".join(pieces)}</div>'


def filled(columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Table:
    """Return a table without the columns that are empty in every row."""
    kept = tuple(rows)
    full = [index for index in range(len(columns)) if any(row[index] for row in kept)]
    return Table(tuple(columns[index] for index in full), tuple(tuple(row[index] for index in full) for row in kept))


def size(n_bytes: int) -> str:
    """Say a number of bytes in words, in powers of 1000 as `ls --si` and cloud bills do."""
    value, units = float(n_bytes), iter(("B", "kB", "MB", "GB", "TB", "PB", "EB"))
    unit = next(units)
    for larger in units:
        if value < 999.5:  # noqa: PLR2004  rounding to three digits would show 1000
            break
        value, unit = value / 1000, larger
    return f"{n_bytes} B" if unit == "B" else f"{value:.3g} {unit}"


def count(number: int, noun: str) -> str:
    """Say a number of things: ``1 array``, ``2 arrays``, ``3 branches``."""
    ending = "" if number == 1 else "es" if noun.endswith(("ch", "sh", "s", "x")) else "s"
    return f"{number:,} {noun}{ending}"


def _trim(report: Report) -> Iterator[Part]:
    """Yield the parts cleaned and cut; what no longer fits is counted in words."""
    title = Lines((_clean(report.title),))
    yield title
    budget = HTML_BUDGET - _cost(title.lines)
    for number, part in enumerate(report.parts):
        budget -= _PART_MARKUP
        if budget < 0:
            yield Lines((f"… and {count(len(report.parts) - number, 'more part')}",))
            return
        shown, budget = _trim_part(part, budget)
        yield from shown


def _trim_part(part: Part, budget: int) -> tuple[list[Part], int]:
    """Return what of a part fits, what was left out in words, and the budget that is left."""
    shown: list[Part]
    match part:
        case Lines():
            lines, budget = _fit([(line,) for line in part.lines[:ROW_LIMIT]], budget)
            shown = [Lines(tuple(line for (line,) in lines))]
            left, noun = len(part.lines) - len(lines), "more line"
        case Table():
            rows, budget = _fit([part.columns, *part.rows[:ROW_LIMIT]] if part.rows else [], budget)
            shown = [Table(rows[0], tuple(rows[1:]))] if rows else []
            left, noun = len(part.rows) - len(rows[1:]), "more row"
        case Code():
            source, left, budget = _fit_code(part.source.expandtabs(4), budget)
            shown = [Code(source)]
            noun = "more character"
        case Picture():
            fitting, budget = _fit_picture(part, budget)
            shown = [fitting] if fitting else []
            left, noun = int(fitting is None), "picture that does not fit"
    return shown + [Lines((f"… and {count(left, noun)}",))] * bool(left), budget


def _fit(rows: list[tuple[str, ...]], budget: int) -> tuple[list[tuple[str, ...]], int]:
    """Return the first rows, as many as fit, and the budget that is left."""
    shown: list[tuple[str, ...]] = []
    for row in rows:
        cells = tuple(_clean(cell) for cell in row)
        if _cost(cells) > budget:
            break
        budget -= _cost(cells)
        shown.append(cells)
    return shown, budget


def _fit_code(source: str, budget: int) -> tuple[str, int, int]:
    """Return the code that fits, how many characters were left out, and the budget that is left."""
    keep = min(CODE_LIMIT, len(source))
    while True:
        shown = "\n".join(printable(line) for line in source[:keep].split("\n"))
        if _cost((shown,)) <= budget or not keep:
            return shown, len(source) - keep, budget - _cost((shown,))
        keep //= 2


def _fit_picture(picture: Picture, budget: int) -> tuple[Picture | None, int]:
    """Return the picture if it fits, and the budget that is left."""
    caption = _clean(picture.caption)
    cost = _cost((caption,)) + len(picture.svg.encode())
    if cost > budget:
        return None, budget
    text = "\n".join(map(printable, picture.text.split("\n")))
    return Picture(caption, picture.svg, text), budget - cost


def _cost(cells: tuple[str, ...]) -> int:
    return sum(len(html.escape(cell).encode()) + _CELL_MARKUP for cell in cells)


def _clean(cell: str) -> str:
    """Return a cell on one line, shortened when it is too long."""
    if len(cell) > CELL_LIMIT:
        cell = f"{cell[: CELL_LIMIT - 1]}…"
    return printable(cell.replace("\n", "⏎"))


def printable(text: str) -> str:
    """Make visible what could steer a terminal or turn the direction of writing: a commit message may hold anything."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else " " if char.isspace() else "�" for char in text)


def _text_table(table: Table) -> list[str]:
    rows = [table.columns, *table.rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(table.columns))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


def _html_table(table: Table) -> str:
    # Notebooks align cells to the right, and HTML folds the spaces that indent a tree.
    left = ' style="text-align:left;white-space:pre"'
    head = "".join(f"<th{left}>{html.escape(name)}</th>" for name in table.columns)
    body = "".join(f"<tr>{''.join(f'<td{left}>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in table.rows)
    return f'<div style="overflow-x:auto"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
