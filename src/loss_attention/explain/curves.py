"""Curves over epochs as inline SVG that takes its colours from the page, light or dark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 360, 200
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 12, 30
TICKS = 4


def curve_chart(title: str, lines: Mapping[str, Sequence[float | None]]) -> str:
    """Return an SVG element with one line a series; the x axis is the epoch, from 1.

    Lines are told apart by colour and by dashes. Empty when there is nothing to draw.

    Args:
        title: names the chart for those who hear it; lower case.
        lines: values by epoch under the name of each series; None where an epoch has none.
    """
    known = {
        name: [(x, y) for x, y in enumerate(values, 1) if y is not None and math.isfinite(y)]
        for name, values in lines.items()
    }
    known = {name: points for name, points in known.items() if points}
    if not known:
        return ""
    last = max(x for points in known.values() for x, _ in points)
    low, high, ticks = _axis([y for points in known.values() for _, y in points])

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - 1) / max(1, last - 1)
        up = (y - low) / (high - low)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (
            HEIGHT - TOP - BOTTOM
        )

    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)} over epochs">'
    ]
    for tick in ticks:
        _, y = place(1, tick)
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for epoch in sorted({1, last}):
        x, _ = place(epoch, low)
        anchor = "middle" if epoch == 1 else "end"
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 12}" text-anchor="{anchor}">{epoch}</text>')
    parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 12}" text-anchor="middle">epoch</text>')
    for number, points in enumerate(known.values()):
        placed = [place(x, y) for x, y in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        parts.append(f'<polyline class="series{number}" points="{path}"/>')
        x, y = placed[-1]
        parts.append(f'<circle class="series{number}" cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>')
    return "".join([*parts, "</svg>"])


def _axis(values: Sequence[float]) -> tuple[float, float, list[float]]:
    """Return the ends of an axis that holds the values, and round numbers along it."""
    low, high = min(values), max(values)
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    rough = (high - low) / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough)
    first, final = math.floor(low / step), math.ceil(high / step)
    ticks = [round(step * i, 10) for i in range(first, final + 1)]
    return ticks[0], ticks[-1], ticks
