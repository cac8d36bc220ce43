"""Writes small SVG to stand in a line of HTML: no ids, and the colour of the text around it for words and frames."""

from __future__ import annotations

import html
from collections.abc import Sequence

from icemagic.display import printable

BUDGET = 8_000
"""Most bytes of one picture."""
LETTER = 6.6
LINE = 15
"""Pixels that a letter and a line take."""
MOST_LETTERS = 24
"""Of a label at an axis."""


def title(words: str) -> str:
    """Return what is shown while the pointer rests on the element around it."""
    return f"<title>{_escaped(words)}</title>"


def text(x: float, y: float, words: str, *, anchor: str = "") -> str:
    """Return words at a place; `anchor` is ``end`` where they end there."""
    at = f' text-anchor="{anchor}"' if anchor else ""
    return f'<text x="{x:g}" y="{y:g}"{at}>{_escaped(words)}</text>'


def _escaped(words: str) -> str:
    return html.escape(printable(words.replace("\n", " ")))


def cut(words: str, most: int = MOST_LETTERS) -> str:
    """Return words, shortened when they are too long for a label."""
    return words if len(words) <= most else f"{words[: most - 1]}…"


def whole(width: float, height: float, drawn: Sequence[str]) -> str:
    """Return an element of so many pixels that holds what was drawn."""
    wide, high = round(width), round(height)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide}" height="{high}" viewBox="0 0 {wide} {high}" '
        f'role="img" fill="currentColor" font-size="11" font-family="sans-serif" style="max-width:100%">'
        f"{''.join(drawn)}</svg>"
    )
