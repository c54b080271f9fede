"""The curves of a report, as drawings within the page that take its colours."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

import matplotlib.style
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

CHART_COLOURS = {"#5b5b5b": "quiet", "#d9d9d9": "rule", "#b40426": "first", "#3b4cc0": "second"}
"""As they are drawn on white, and what the style of the page calls them, light and dark."""
CHART_SETTINGS = {
    "axes.autolimit_mode": "round_numbers",
    "axes.labelcolor": "#5b5b5b",
    "axes.xmargin": 0,
    "axes.ymargin": 0,
    "font.size": 11,
    "lines.linewidth": 2,
    "svg.fonttype": "none",
    "svg.hashsalt": "the same each time",
    "text.color": "#5b5b5b",
    "text.parse_math": False,
    "xtick.bottom": False,
    "xtick.color": "#5b5b5b",
    "ytick.color": "#5b5b5b",
    "ytick.left": False,
}


class Axis(NamedTuple):
    """What the values along a chart are.

    Attributes:
        label: stands under the chart.
        over: how those hear it who cannot see it, in "TITLE over OVER".
        mark: stands beside the value that is marked, with this in its place.
        said: says the same.
    """

    label: str
    over: str
    mark: str
    said: str


EPOCHS = Axis("epoch", "epochs", "kept: {}", "epoch {} was kept")
SIDES = Axis(
    "side of the square that is kept, in pixels",
    "sides of the square that is kept",
    "window: {}",
    "the window has {} pixels",
)


def curve_chart(
    title: str,
    epochs: Sequence[int],
    lines: Mapping[str, Sequence[float | None]],
    chosen: int | None = None,
    axis: Axis = EPOCHS,
) -> str:
    """Return an SVG element with one line a series over the epochs, in colours of the page.

    Lines are told apart by colour and by dashes. Empty when there is nothing to draw.

    Args:
        title: names the chart for those who hear it; lower case.
        epochs: the x axis, rising.
        lines: values by epoch under the name of each series, of two; None where an epoch has none.
        chosen: the epoch to mark, whose weights were kept.
        axis: what stands in the epochs' place.
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
    quiet, rule, *colours = CHART_COLOURS
    with matplotlib.style.context(["default", CHART_SETTINGS]):
        figure = Figure(figsize=(5, 2.78), dpi=72)
        axes = figure.add_axes((0.13, 0.14, 0.84, 0.77), frameon=False)
        axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
        for points, colour, dash in zip(known.values(), colours, ("-", (0, (3, 2))), strict=False):
            x, y = zip(*points, strict=True)
            axes.plot(x, y, color=colour, linestyle=dash, clip_on=False)
            # A dot at the end: one epoch makes no line.
            dot: dict[str, Any] = {"linewidth": 5, "solid_capstyle": "round", "clip_on": False}
            axes.plot(x[-1:] * 2, y[-1:] * 2, color=colour, **dot)
        axes.set_xlim(first, max(last, first + 1))
        axes.set_xticks(sorted({first, last}))
        axes.set_xlabel(axis.label, labelpad=-11)
        for ticks in (axes.xaxis, axes.yaxis):
            ticks.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.grid(axis="y", color=rule, clip_on=False)
        if chosen is not None and first <= chosen <= last:
            axes.axvline(chosen, color=quiet, linewidth=1, linestyle=":", clip_on=False)
            side = "right" if chosen > (first + last) / 2 else "left"
            above = axes.get_xaxis_transform()
            axes.text(chosen, 1.03, axis.mark.format(chosen), transform=above, ha=side)
        drawn = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(drawn, format="svg", transparent=True, metadata=nothing)
    # Inline it needs no namespaces, and its letters and colours are the page's.
    svg = drawn.getvalue().partition("<svg")[2]
    svg = re.sub(
        r' xmlns(:xlink)?="[^"]*"| id="[^"]*"|font-family: [^;]*; |<defs>.*?</defs>',
        "",
        svg,
        flags=re.DOTALL,
    )
    for colour, name in CHART_COLOURS.items():
        svg = svg.replace(colour, f"var(--{name})")
    label = escape(_spoken(title, known, chosen, axis))
    return f'<svg role="img" aria-label="{label}" {" ".join(svg.split())}'


def _spoken(
    title: str, known: Mapping[str, Sequence[tuple[int, float]]], chosen: int | None, axis: Axis
) -> str:
    """Say what the chart shows, for those who hear it."""
    ends = [
        f"{name} from {points[0][1]:.3g} to {points[-1][1]:.3g}" for name, points in known.items()
    ]
    kept = "" if chosen is None else f"; {axis.said.format(chosen)}"
    return f"{title} over {axis.over}: {', '.join(ends)}{kept}"
