"""Reads what the margin of a log draws."""

from __future__ import annotations

from collections import defaultdict


def read(rows, names):
    """Return the edges that a drawing shows, and whose lines run on below it."""
    edges, open_lines = defaultdict(set), {}
    for name, row in zip(names, rows, strict=True):
        cells = dict(enumerate(row[::2]))
        between = dict(enumerate(row[1::2]))
        (home,) = (at for at, cell in cells.items() if cell in "●○")
        lines = {
            at: open_lines[at] for at, cell in cells.items() if cell in "│╯╰┴┤├┼" or at == home if at in open_lines
        }
        assert lines.keys() == open_lines.keys(), "a line ends in nothing"
        for child in lines.pop(home, ()):
            edges[child].add(name)
        begun = {home: {name}} if cells[home] == "●" else {}
        for step in (1, -1):
            at = home
            while between.get(at if step == 1 else at - 1) == "─":
                at += step
                cell = cells[at]
                corners = "╯╮┤┴┬┼" if step == 1 else "╰╭├┴┬┼"
                assert cell in f"│─{corners}"
                if cell in "╯╰┴":
                    for child in lines.pop(at):
                        edges[child].add(name)
                elif cell in "╮╭┬":
                    assert at not in lines
                    begun[at] = {name}
                elif cell in "┤├┼":
                    lines[at] = lines[at] | {name}
        assert not begun.keys() & lines.keys()
        open_lines = lines | begun
    return edges, open_lines
