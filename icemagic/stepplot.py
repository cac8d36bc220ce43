"""Draws a value over versions: a line of steps as small inline SVG, and a row of bars in characters."""

from __future__ import annotations

from collections.abc import Sequence

from icemagic import svg
from icemagic.display import Picture

_SPARKS = "▁▂▃▄▅▆▇█"
_SPARK_POINTS = 64
_PLOT = (480, 110)
_POINTS = (60, 40, 20)
"""How many points are tried, until the picture is small enough."""


def step_plot(caption: str, points: Sequence[tuple[str, str, float | None]]) -> Picture:
    """Return a line that goes up or down at each version, oldest on the left; a gap where there is no value.

    Parameters
    ----------
    caption : str
    points : sequence of (str, str, float or None)
        Short name of a version, what is shown while the pointer rests on it, and its value, which is finite.
    """
    spark = "".join(_sparks([value for _, _, value in points[-_SPARK_POINTS:]]))
    for most in _POINTS:
        shown = points[-most:]
        drawing = _steps(shown)
        if len(drawing.encode()) <= svg.BUDGET:
            break
    left = f"; the newest {len(shown)} of {len(points):,}" if len(shown) < len(points) else ""
    ends = f"{points[0][0]} … {points[-1][0]}" if len(points) > 1 else points[0][0]
    return Picture(f"{caption}{left}", drawing, f"{spark}  {ends}")


def _sparks(values: Sequence[float | None]) -> list[str]:
    known = [value for value in values if value is not None]
    low, span = min(known, default=0.0), max(known, default=0.0) - min(known, default=0.0)
    return [
        " " if value is None else _SPARKS[round((value - low) / span * (len(_SPARKS) - 1)) if span else 3]
        for value in values
    ]


def _steps(points: Sequence[tuple[str, str, float | None]]) -> str:
    width, height = _PLOT
    known = [value for _, _, value in points if value is not None] or [0.0]
    low, high = min(known), max(known)
    ends = [f"{high:.6g}", f"{low:.6g}"] if high > low else [f"{high:.6g}"]
    left = 6 + round(svg.LETTER * max(map(len, ends)))
    step = (width - left) / len(points)
    ys = [None if v is None else 6 + (height - 12) * ((high - v) / (high - low) if high > low else 0.5)
          for _, _, v in points]  # fmt: skip
    line, before = "", None
    for number, y in enumerate(ys):
        if y is not None:
            line += f"M{left + number * step:.1f} {y:.1f}" if before is None else f"V{y:.1f}"
            line += f"H{left + (number + 1) * step:.1f}"
        before = y
    hover = "".join(
        f'<path d="M{left + (number + 0.5) * step:.1f} 0v{height}">{svg.title(title)}</path>'
        for number, (_, title, _) in enumerate(points)
    )
    every = -(-len(points) // max(1, int((width - left) // (svg.LETTER * 10))))
    names = [
        svg.text(left + number * step, height + svg.LINE, points[number][0]) for number in range(0, len(points), every)
    ]
    labels = [svg.text(left - 4, y, words, anchor="end") for words, y in zip(ends, (10, height - 2), strict=False)]
    return svg.whole(
        width + 2,
        height + svg.LINE + 5,
        [
            f'<path fill="none" stroke="currentColor" stroke-opacity=".3" d="M{left} 0v{height}h{width - left}"/>',
            f'<path fill="none" stroke="#3b8ac4" stroke-width="2" d="{line}"/>',
            *names,
            *labels,
            f'<g stroke="transparent" stroke-width="{step:.1f}">{hover}</g>',
        ],
    )
