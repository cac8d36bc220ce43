"""Draws chunk grids and values over versions as small inline SVG, and the same in characters.

A picture has no ids, takes the colour of the text around it for its frame and words, and tells amounts apart by
brightness (the colours of viridis without its darkest and brightest), so that it is read in light and dark themes and
by the colour-blind.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from icemagic import svg
from icemagic.display import Picture

NEVER, EMPTY, STORED = range(3)
"""States of a chunk: no version wrote it; one did, and nothing is stored now; stored."""
Name = tuple[str, str]
"""What stands in the legend, and what is shown while the pointer rests on a cell."""
Numbers = np.ndarray[Any, Any]

_SIDES = (64, 48, 32, 24, 16, 8, 4)
_TEXT = (64, 16)
_CLASSES = 8
_SWATCHES = 6
_LEGEND = 40
"""Most letters beside a swatch."""
_SHADES = "░▒▓█"
_SIGNS = {NEVER: "·", EMPTY: "-"}
_MEANING = {EMPTY: "only fill values", NEVER: "never written"}
_RAMP = np.array(
    [
        [int(colour[at : at + 2], 16) for at in (0, 2, 4)]
        for colour in ("482475", "414487", "355f8d", "2a788e", "21918c", "22a884", "44bf70", "7ad151", "bddf26")
    ]
)
_WITH_LINES = 6
_MAP, _STRIP = 320, 480


@dataclass(frozen=True)
class Axis:
    """A dimension of a chunk grid, with its first and last label."""

    name: str
    first: str
    last: str

    def words(self) -> str:
        """Say it in one line."""
        return f"{self.name} {self.first} … {self.last}"


@dataclass(frozen=True, eq=False)
class Grid:
    """A chunk grid of at least one chunk: the state of each, and its axes."""

    states: Numbers
    axes: tuple[Axis, ...]


class _View(NamedTuple):
    """What is drawn of a grid: rows of cells, and what one of them stands for."""

    values: Numbers
    states: Numbers
    right: Axis
    down: Axis | None
    note: str


def version_map(caption: str, grid: Grid, writers: Numbers, names: Sequence[Name]) -> Picture:
    """Return which version wrote what: of the chunks in one cell the newest.

    Parameters
    ----------
    caption : str
    grid : Grid
    writers : array of int, of the shape of the grid
        Number of the version that wrote each chunk; a larger one is newer.
    names : sequence of Name
        What each number means.
    """

    def classes(values: Numbers) -> tuple[Numbers, list[Name]]:
        known = np.unique(values)
        return np.searchsorted(known, values), [names[number] for number in known]

    view = partial(_view, grid, np.where(grid.states == STORED, writers, -1), (np.maximum, "the newest of them"))
    return _picture(caption, view, classes)


def amount_map(caption: str, grid: Grid, amounts: Numbers, say: Callable[[int], str]) -> Picture:
    """Return how much there is of something: of the chunks in one cell the sum; `say` puts an amount into words."""

    def classes(values: Numbers) -> tuple[Numbers, list[Name]]:
        known, at = np.unique(values, return_inverse=True)
        if known.size > _CLASSES:
            edges = np.linspace(known[0], known[-1], _CLASSES + 1)[1:-1]
            _, of = np.unique(np.searchsorted(edges, known, side="right"), return_inverse=True)
        else:
            of = np.arange(known.size)
        spans = [known[of == number] for number in range(int(of.max(initial=-1)) + 1)]
        said = [
            say(int(span[0])) if span.size == 1 else f"{say(int(span[0]))} – {say(int(span[-1]))}" for span in spans
        ]
        return of[at].reshape(values.shape), [(one, one) for one in said]

    view = partial(_view, grid, np.where(grid.states == STORED, amounts, 0), (np.add, "their sum"))
    return _picture(caption, view, classes)


def _view(grid: Grid, values: Numbers, how: tuple[np.ufunc, str], columns: int, rows: int) -> _View:
    """Reduce a grid to at most so many cells; the dimension with the most chunks runs to the right."""
    reduce, in_words = how
    states = grid.states
    order = sorted(range(states.ndim), key=lambda axis: -states.shape[axis])
    right, down = order[0], next((axis for axis in order[1:2] if states.shape[axis] > 1), None)
    reduced = []
    for axis, (length, dim) in enumerate(zip(grid.states.shape, grid.axes, strict=True)):
        step = -(-length // {right: columns, down: rows}.get(axis, 1))
        starts = range(0, length, step)
        values, states = reduce.reduceat(values, starts, axis=axis), np.maximum.reduceat(states, starts, axis=axis)
        reduced += [f"{step:,} along {dim.name}"] if step > 1 else []
    shape = (1 if down is None else values.shape[down], values.shape[right])
    values, states = (cells.transpose(order[::-1]).reshape(shape) for cells in (values, states))
    note = f"chunks to a cell: {' × '.join(reduced)}; shown is {in_words}" if reduced else ""
    return _View(values, states, grid.axes[right], None if down is None else grid.axes[down], note)


def _picture(
    caption: str, view: Callable[[int, int], _View], classes: Callable[[Numbers], tuple[Numbers, list[Name]]]
) -> Picture:
    """Draw a grid with as many cells as fit."""

    def drawn(columns: int, rows: int) -> tuple[_View, Numbers, list[Name]]:
        seen = view(columns, rows)
        levels = seen.states.astype(int) - STORED  # below zero where nothing is stored
        stored = seen.states == STORED
        levels[stored], names = classes(seen.values[stored])
        return seen, levels, names

    text = _in_characters(*drawn(*_TEXT))
    for side in _SIDES:
        drawing = _cells(*drawn(side, side))
        if len(drawing.encode()) <= svg.BUDGET:
            break
    return Picture(caption, drawing, text)


def _in_characters(view: _View, levels: Numbers, names: list[Name]) -> str:
    signs = {state - STORED: sign for state, sign in _SIGNS.items()}
    newest = len(names) - 1
    signs |= {
        number: _SHADES[round(number / newest * (len(_SHADES) - 1)) if newest else -1] for number in range(len(names))
    }
    ends = [f"{signs[number]} {svg.cut(names[number][0], _LEGEND)}" for number in dict.fromkeys((0, newest)) if names]
    legend = ends + [f"{_SIGNS[state]} {words}" for state, words in _found(view)]
    return "\n".join(
        [
            *(view.note,) * bool(view.note),
            *("".join(signs[level] for level in row) for row in levels.tolist()),
            f"→ {view.right.words()}" + (f", ↓ {view.down.words()}" if view.down else ""),
            "  ".join(legend),
        ]
    )


def _found(view: _View) -> list[tuple[int, str]]:
    """Return the states of cells without anything stored that there are, and what they mean."""
    return [(state, words) for state, words in _MEANING.items() if (view.states == state).any()]


class _Place(NamedTuple):
    """Where the cells lie, in pixels and cells."""

    left: int
    columns: int
    rows: int
    width: int
    """Of one cell."""
    height: int

    @property
    def across(self) -> int:
        return self.columns * self.width

    @property
    def high(self) -> int:
        return self.rows * self.height


def _place(view: _View) -> _Place:
    rows, columns = view.states.shape
    width = max(3, min(18, (_MAP if view.down else _STRIP) // columns))
    words = (view.down.first, view.down.last, f"↓ {view.down.name}") if view.down else ()
    left = 5 + round(svg.LETTER * max((len(svg.cut(one)) for one in words), default=0))
    return _Place(left, columns, rows, width, width if view.down else 24)


def _cells(view: _View, levels: Numbers, names: list[Name]) -> str:
    """Return the whole picture of a grid: cells, frame, axes and legend."""
    place = _place(view)
    runs = _runs(levels)
    colours = _colours(len(names))
    looks = [(number, f'stroke="{colours[number]}"', name[1]) for number, name in enumerate(names)]
    looks += [(EMPTY - STORED, 'stroke="currentColor" stroke-width=".14"', _MEANING[EMPTY])]
    cells = [
        f'<path {look} d="{runs[level]}">{svg.title(words)}</path>' for level, look, words in looks if level in runs
    ]
    move = f"translate({place.left} {1 + place.height / 2:g}) scale({place.width} {place.height})"
    words, wide = _axis_words(view, place)
    legend, below, legend_wide = _legend(view, names, place)
    if view.note:
        legend.append(svg.text(place.left, below + 10, view.note))
        below, wide = below + svg.LINE, max(wide, place.left + svg.LETTER * len(view.note))
    return svg.whole(
        max(place.left + place.across, wide, legend_wide) + 2,
        below,
        [
            _box(place, _FAINT),
            f'<g transform="{move}" shape-rendering="crispEdges">{"".join(cells)}</g>',
            _lines(place),
            _box(place, 'fill="none" stroke="currentColor" stroke-opacity=".5"'),
            *words,
            *legend,
        ],
    )


_FAINT = 'fill="currentColor" fill-opacity=".07"'


def _box(place: _Place, looks: str) -> str:
    return f'<rect x="{place.left}" y="1" width="{place.across}" height="{place.high}" {looks}/>'


def _lines(place: _Place) -> str:
    """Return the lines between cells, where these are large enough for lines."""
    if place.width < _WITH_LINES:
        return ""
    lines = [f"M{place.left + place.width * at} 1v{place.high}" for at in range(1, place.columns)]
    lines += [f"M{place.left} {1 + place.height * at}h{place.across}" for at in range(1, place.rows)]
    return f'<path stroke="#888" stroke-opacity=".5" d="{"".join(lines)}"/>'


def _axis_words(view: _View, place: _Place) -> tuple[list[str], float]:
    """Return the labels at both axes, and how far they reach to the right."""
    right = f"→ {view.right.name} {svg.cut(view.right.first)} … {svg.cut(view.right.last)}"
    words = [svg.text(place.left, place.high + svg.LINE, right)]
    if view.down:
        ends = [(11, svg.cut(view.down.first)), (place.high, svg.cut(view.down.last))]
        middle = [(place.high / 2 + 5, f"↓ {svg.cut(view.down.name)}")] if place.high > 3 * svg.LINE else []
        words += [svg.text(place.left - 5, y, label, anchor="end") for y, label in ends + middle]
    return words, place.left + svg.LETTER * len(right)


def _legend(view: _View, names: list[Name], place: _Place) -> tuple[list[str], float, float]:
    """Return swatches with words, where they end below, and how far they reach to the right."""
    chosen = np.unique(np.linspace(0, len(names) - 1, min(_SWATCHES, len(names))).round().astype(int)).tolist()
    colours = _colours(len(names))
    entries = [(f'fill="{colours[number]}"', svg.cut(names[number][0], _LEGEND), False) for number in chosen]
    entries += [(_FAINT, words, state == EMPTY) for state, words in _found(view)]
    drawn, x, y, reach = [], float(place.left), place.high + svg.LINE + 6, 0.0
    for look, words, struck in entries:
        long = 14 + svg.LETTER * len(words)
        if x > place.left and x + long > place.left + max(place.across, _MAP):
            x, y = place.left, y + svg.LINE
        swatch = f'x="{x:g}" y="{y}" width="10" height="10"'
        drawn.append(f'<rect {swatch} {look} stroke="currentColor" stroke-opacity=".4"/>')
        drawn += [f'<path stroke="currentColor" stroke-width="2" d="M{x:g} {y + 5}h10"/>'] * struck
        drawn.append(svg.text(x + 14, y + 9, words))
        x, reach = x + long + 12, max(reach, x + long)
    return drawn, y + svg.LINE, reach


def _runs(levels: Numbers) -> dict[int, str]:
    """Return for each level the path along all its cells, row by row."""
    paths: dict[int, list[str]] = defaultdict(list)
    for row, cells in enumerate(levels):
        starts = [0, *(np.flatnonzero(np.diff(cells)) + 1).tolist(), cells.size]
        for start, stop in pairwise(starts):
            paths[int(cells[start])].append(f"M{start} {row}h{stop - start}")
    return {level: "".join(pieces) for level, pieces in paths.items()}


def _colours(of: int) -> list[str]:
    """Return so many colours, from dark to bright."""
    last = len(_RAMP) - 1
    at = np.linspace(0, last, of) if of > 1 else np.full(of, last / 2)
    parts = [np.interp(at, range(len(_RAMP)), part).round().astype(int) for part in _RAMP.T]
    return [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in zip(*parts, strict=True)]
