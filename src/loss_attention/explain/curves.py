"""Curves over epochs as inline SVG that takes its colours from the page, light or dark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 360, 200
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 14, 30
TICKS = 4


def curve_chart(
    title: str,
    epochs: Sequence[int],
    lines: Mapping[str, Sequence[float | None]],
    chosen: int | None = None,
) -> str:
    """Return an SVG element with one line a series over the epochs.

    Lines are told apart by colour and by dashes. Empty when there is nothing to draw.

    Args:
        title: names the chart for those who hear it; lower case.
        epochs: the x axis, rising.
        lines: values by epoch under the name of each series; None where an epoch has none.
        chosen: the epoch to mark, whose weights were kept.
    """
    known = {
        name: [
            (x, y)
            for x, y in zip(epochs, values, strict=True)
            if y is not None and math.isfinite(y)
        ]
        for name, values in lines.items()
    }
    known = {name: points for name, points in known.items() if points}
    if not known:
        return ""
    first, last = epochs[0], epochs[-1]
    low, high, ticks = axis([y for points in known.values() for _, y in points])

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - first) / max(1, last - first)
        up = (y - low) / (high - low)
        return (
            LEFT + across * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM),
        )

    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(_spoken(title, known, chosen))}">'
    ]
    for tick in ticks:
        y = place(first, tick)[1]
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>'
        )
    for epoch in sorted({first, last}):
        anchor = "middle" if epoch == first else "end"
        parts.append(_text(place(epoch, low)[0], HEIGHT - 12, str(epoch), anchor))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, "epoch", "middle"))
    if chosen is not None and first <= chosen <= last:
        x = place(chosen, low)[0]
        parts.append(
            f'<line class="chosen" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        )
        parts.append(_text(x, TOP - 4, f"kept: {chosen}", "end" if x > WIDTH / 2 else "start"))
    for number, points in enumerate(known.values()):
        placed = [place(x, y) for x, y in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        parts.append(f'<polyline class="series{number}" points="{path}"/>')
        x, y = placed[-1]
        parts.append(f'<circle class="series{number}" cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>')
    return "".join([*parts, "</svg>"])


def axis(values: Sequence[float]) -> tuple[float, float, list[float]]:
    """Return the ends of an axis that holds the values, and round numbers along it.

    Example:
        >>> axis([0.12, 0.93])
        (0.0, 1.0, [0.0, 0.25, 0.5, 0.75, 1.0])
    """
    low, high = min(values), max(values)
    if high - low < 1e-9 * max(1.0, abs(high)):
        low, high = low - 0.5 * max(1.0, abs(low)), high + 0.5 * max(1.0, abs(high))
    rough = (high - low) / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    first, final = math.floor(low / step), math.ceil(high / step)
    ticks = [float(f"{step * i:.10g}") for i in range(first, final + 1)]
    return ticks[0], ticks[-1], ticks


def _spoken(
    title: str, known: Mapping[str, Sequence[tuple[int, float]]], chosen: int | None
) -> str:
    """Say what the chart shows, for those who hear it."""
    ends = [
        f"{name} from {points[0][1]:.3g} to {points[-1][1]:.3g}" for name, points in known.items()
    ]
    kept = "" if chosen is None else f"; epoch {chosen} was kept"
    return f"{title} over epochs: {', '.join(ends)}{kept}"


def _text(x: float, y: float, words: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'
