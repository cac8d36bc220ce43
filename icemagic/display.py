"""Turns a report into plain text and HTML that hold the same cells.

A report is a title and parts: tables, lines, code and pictures. Both renderings come from one trimmed report, escape
everything, contain no identifiers of their own (the same report always renders alike) and stay small, whatever the
store holds.
"""

from __future__ import annotations

import html
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

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
_DRAWN_MARKUP = 60
_PART_MARKUP = 120


@dataclass(frozen=True)
class Table:
    """Rows under column names; a table without rows shows nothing."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    drawn: bool = False
    """Whether the first column is a drawing, whose rows have to touch."""


@dataclass(frozen=True)
class Lines:
    """Short sentences, one a line."""

    lines: tuple[str, ...]


@dataclass(frozen=True)
class Code:
    """A piece of source code, shown as it is."""

    source: str


@dataclass(frozen=True)
class Verbatim:
    """Text for another program, not indented; what reads it is named as HTML names the language of code."""

    text: str
    language: str


@dataclass(frozen=True)
class Picture:
    """A picture under a caption; the same in characters stands in the text."""

    caption: str
    svg: str
    """A whole ``<svg>`` element that is well-formed and escaped, for it is shown as it is; without ids, which clash."""
    text: str


Part = Table | Lines | Code | Verbatim | Picture


@dataclass(frozen=True)
class Report:
    """What a record shows: a title, if it has one, then its parts in order."""

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


@dataclass(frozen=True, repr=False)
class Document(Shown):
    """Text for another program: ``text`` and ``str()`` are all of it, what a notebook shows of a long one is cut."""

    text: str
    kind: Literal["json", "markdown"]

    def __str__(self) -> str:
        return self.text

    def _report(self) -> Report:
        return Report("", (Verbatim(self.text, self.kind),))


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
            case Verbatim():
                lines += part.text.split("\n")
            case Picture():
                lines += [part.caption, *part.text.split("\n")]
    return "\n".join(line.rstrip() for line in lines)


def to_html(report: Report) -> str:
    """Render a report as one escaped HTML element."""
    parts = _trim(report)
    pieces = []
    if report.title:
        title = next(parts)
        assert isinstance(title, Lines)
        pieces.append(f'<strong style="display:block">{html.escape(title.lines[0])}</strong>')
    for part in parts:
        match part:
            case Lines():
                pieces += [f"<div>{html.escape(line)}</div>" for line in part.lines]
            case Table():
                pieces.append(_html_table(part))
            case Code():
                pieces.append(f"<pre><code>{html.escape(part.source)}</code></pre>")
            case Verbatim():
                code = f'<code class="language-{part.language}">'
                pieces.append(f"<pre>{code}{html.escape(part.text)}</code></pre>")
            case Picture():
                pieces.append(f"<div{_BESIDE}><div>{html.escape(part.caption)}</div>{part.svg}</div>")
    return f'<div class="icemagic">{"".join(pieces)}</div>'


def filled(columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Table:
    """Return a table without the columns that are empty in every row."""
    kept = tuple(rows)
    full = [index for index in range(len(columns)) if any(row[index] for row in kept)]
    return Table(tuple(columns[index] for index in full), tuple(tuple(row[index] for index in full) for row in kept))


def label(value: Any) -> str:  # noqa: ANN401  a label of any type
    """Say one label; times without the zeros at their end."""
    if isinstance(value, np.datetime64):
        text = str(np.datetime_as_string(value))
        text = text.rstrip("0").rstrip(".") if "." in text else text
        return text.removesuffix(":00")
    return str(value)


def to_markdown(report: Report) -> str:
    """Render a report as Markdown, GitHub's tables included."""
    blocks = []
    for part in _trim(replace(report, title="")):
        match part:
            case Lines():
                blocks += ["\n".join(f"- {_marked(line)}" for line in part.lines)]
            case Table():
                rows = [part.columns, ("---",) * len(part.columns), *(map(_marked, row) for row in part.rows)]
                blocks.append("\n".join(f"| {' | '.join(row)} |" for row in rows))
            case Code():
                blocks.append("\n".join(f"    {line}" for line in part.source.split("\n")))
            case Picture():
                blocks.append(f"{_marked(part.caption)}\n\n```\n{part.text}\n```")
            case Verbatim():
                blocks.append(f"```{part.language}\n{part.text}\n```")
    return "\n\n".join([f"**{_marked(_clean(report.title))}**", *filter(None, blocks)])


def _marked(text: str) -> str:
    """Return text without what Markdown would take for markup."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", text)


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
    budget = HTML_BUDGET
    if report.title:
        title = Lines((_clean(report.title),))
        yield title
        budget -= _cost(title.lines)
    for number, part in enumerate(report.parts):
        budget -= _PART_MARKUP
        if budget < 0:
            yield Lines((f"… and {count(len(report.parts) - number, 'more part')}",))
            return
        shown, left, budget = _fit_part(part, budget)
        yield from shown
        if left:
            yield Lines((f"… and {left}",))


def _fit_part(part: Part, budget: int) -> tuple[list[Part], str, int]:
    """Return what is shown of a part, what was left out in words, and the budget that is left."""
    match part:
        case Lines():
            shown, budget = _fit([(line,) for line in part.lines[:ROW_LIMIT]], budget)
            return [Lines(tuple(line for (line,) in shown))], _more(len(part.lines) - len(shown), "line"), budget
        case Table() if part.rows:
            shown, budget = _fit([part.columns, *part.rows[:ROW_LIMIT]], budget, _DRAWN_MARKUP * part.drawn)
            table = [replace(part, columns=shown[0], rows=tuple(shown[1:]))] if shown else []
            return [*table], _more(len(part.rows) - len(shown[1:]), "row"), budget
        case Code():
            text, left, budget = _fit_text(part.source.expandtabs(4), budget, CODE_LIMIT)
            return [Code(text)], _more(left, "character"), budget
        case Verbatim():
            text, left, budget = _fit_text(part.text, budget, len(part.text))
            more = _more(left, "character")
            return [Verbatim(text, part.language)], more and f"{more}: str() of it holds them all", budget
        case Picture():
            picture, budget = _fit_picture(part, budget)
            return [picture] if picture else [], "" if picture else "1 picture that does not fit", budget
    return [], "", budget


def _more(number: int, noun: str) -> str:
    return count(number, f"more {noun}") if number else ""


def _fit(rows: list[tuple[str, ...]], budget: int, markup: int = 0) -> tuple[list[tuple[str, ...]], int]:
    """Return the first rows, as many as fit with more markup than usual in each cell, and the budget that is left."""
    shown: list[tuple[str, ...]] = []
    for row in rows:
        cells = tuple(_clean(cell) for cell in row)
        cost = _cost(cells) + markup * len(cells)
        if cost > budget:
            break
        budget -= cost
        shown.append(cells)
    return shown, budget


def _fit_text(source: str, budget: int, most: int) -> tuple[str, int, int]:
    """Return the text that fits, how many characters were left out, and the budget that is left."""
    keep = min(most, len(source))
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
    left = "text-align:left;white-space:pre"
    style = f"{left};padding:0 .5em;line-height:1.15" if table.drawn else left
    styles = [f"{style};font-family:monospace" if table.drawn and not at else style for at in range(len(table.columns))]

    def row(kind: str, cells: tuple[str, ...]) -> str:
        pairs = zip(cells, styles, strict=True)
        return f"<tr>{''.join(f'<{kind} style="{style}">{html.escape(cell)}</{kind}>' for cell, style in pairs)}</tr>"

    head, body = row("th", table.columns), "".join(row("td", cells) for cells in table.rows)
    return f'<div style="overflow-x:auto"><table><thead>{head}</thead><tbody>{body}</tbody></table></div>'
