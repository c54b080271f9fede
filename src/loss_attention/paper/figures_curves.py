"""The paper's figure of curves (7): four measures over gamma_max and over the threshold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from loss_attention.paper.figures_layout import LETTERS, Drawing, sheet

LINEAR_TO = 0.1
"""gamma_max is drawn linearly up to here, and logarithmically above."""


@dataclass(frozen=True)
class Point:
    """A point of a curve; all figures in percent.

    Attributes:
        x: the parameter.
        mean: ours over seeds; None: not measured yet.
        deviation: ours, sample deviation over seeds; None for a single one.
        paper: the paper's figure there, where it prints one.
        floors: what constant answers score, by name.
    """

    x: float
    mean: float | None = None
    deviation: float | None = None
    paper: float | None = None
    floors: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
        parameter: what its x is: `gamma_max` or `xi`.
        measure: what its y is, in percent.
        curves: the points of each network, by its name, x rising.
    """

    parameter: str
    measure: str
    curves: Mapping[str, tuple[Point, ...]]


class Look(NamedTuple):
    """How a network's curves look; told apart by colour, shape and line alike."""

    colour: str
    marker: str
    line: str


LOOKS = (Look("#0072B2", "o", "-"), Look("#D55E00", "s", "--"), Look("#009E73", "^", "-."))
OURS, THE_PAPER = ", ours", ", the paper (Table VI)"
_FLOOR_GREY = "0.35"
FLOOR_LINES = ("-.", ":", (0, (1, 4)))
SYMBOLS = {"gamma_max": r"$\gamma_{max}$", "xi": r"$\xi$"}


def draw_curves(panels: Sequence[Panel], caption: str, columns: int = 4) -> Drawing:
    """Draw every panel, row by row, with one legend for all of them.

    A point that is not measured is missing, and the line has a gap there. The paper's own figures
    stand as hollow marks. Floors are grey lines; where they depend on the network, thin ones of
    its colour.
    """
    rows = -(-len(panels) // columns)
    figure = sheet(rows * 1.6 + 0.45, caption)
    grid = figure.subplots(rows, columns, squeeze=False)
    every = list(grid.flat)
    names = sorted({name for panel in panels for name in _floor_names(panel)})
    for letter, (axes, panel) in zip("abcdefgh", zip(every, panels, strict=False), strict=False):
        _draw_panel(axes, panel, names)
        axes.set_title(f"({letter})", fontsize=LETTERS, loc="left", pad=3)
    for axes in every[len(panels) :]:
        axes.remove()
    figure.legend(
        handles=_legend(every[: len(panels)], names),
        loc="outside upper center",
        ncols=4,
        fontsize=LETTERS,
        frameon=False,
        handlelength=3,
    )
    return Drawing(figure, {"panels": [_numbers(panel) for panel in panels]})


def _draw_panel(axes: Axes, panel: Panel, floor_names: Sequence[str]) -> None:
    for (name, points), look in zip(panel.curves.items(), LOOKS, strict=False):
        x = [point.x for point in points]
        axes.errorbar(
            x,
            [_or_nan(point.mean) for point in points],
            [_or_nan(point.deviation) for point in points],
            color=look.colour,
            marker=look.marker,
            linestyle=look.line,
            markersize=3.5,
            linewidth=1.1,
            capsize=2,
            label=f"{name}{OURS}",
        )
        known = [(point.x, point.paper) for point in points if point.paper is not None]
        axes.plot(
            *zip(*known, strict=True) if known else ((), ()),
            color=look.colour,
            marker=look.marker,
            linestyle="",
            markersize=6,
            markerfacecolor="none",
            label=f"{name}{THE_PAPER}",
        )
    _draw_floors(axes, panel, floor_names)
    axes.set_ylabel(f"{panel.measure} (%)", fontsize=LETTERS, labelpad=2)
    axes.set_xlabel(SYMBOLS[panel.parameter], fontsize=LETTERS + 1, labelpad=1)
    ticks = sorted({point.x for points in panel.curves.values() for point in points})
    if panel.parameter == "gamma_max":
        axes.set_xscale("symlog", linthresh=LINEAR_TO)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.tick_params(labelsize=LETTERS - 0.5, length=2.5, pad=2)
    axes.margins(x=0.06, y=0.1)
    axes.grid(color="0.9", linewidth=0.5)
    axes.set_axisbelow(True)


def _draw_floors(axes: Axes, panel: Panel, names: Sequence[str]) -> None:
    for name in _floor_names(panel):
        line = _floor_line(name, names)
        found = {
            network: [(point.x, (point.floors or {}).get(name)) for point in points]
            for network, points in panel.curves.items()
        }
        values = {y for points in found.values() for _, y in points if y is not None}
        if max(values) - min(values) < 1e-6:
            axes.axhline(values.pop(), color=_FLOOR_GREY, linestyle=line, linewidth=0.9, label=name)
            continue
        for points, look in zip(found.values(), LOOKS, strict=False):
            axes.plot(
                [x for x, _ in points],
                [_or_nan(y) for _, y in points],
                color=look.colour,
                linestyle=line,
                linewidth=0.7,
                label=name,
            )


def _legend(panels: Sequence[Axes], floor_names: Sequence[str]) -> list[Any]:
    """Return what the legend shows: our curves, the paper's marks, and the floors in grey."""
    found: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    networks = sorted(
        (label for label in found if label not in floor_names),
        key=lambda label: label.endswith(THE_PAPER),
    )
    floors = [
        Line2D([], [], color=_FLOOR_GREY, linestyle=_floor_line(name, floor_names), label=name)
        for name in floor_names
    ]
    return [found[label] for label in networks] + floors


def _floor_line(name: str, names: Sequence[str]) -> Any:
    return FLOOR_LINES[names.index(name) % len(FLOOR_LINES)]


def _floor_names(panel: Panel) -> list[str]:
    return list(
        dict.fromkeys(
            name
            for points in panel.curves.values()
            for point in points
            for name in point.floors or {}
        )
    )


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _numbers(panel: Panel) -> dict[str, Any]:
    return {
        "parameter": panel.parameter,
        "measure": panel.measure,
        "curves": {
            name: [
                {
                    "x": point.x,
                    "mean": point.mean,
                    "deviation": point.deviation,
                    "paper": point.paper,
                    "floors": dict(point.floors or {}),
                }
                for point in points
            ]
            for name, points in panel.curves.items()
        },
    }
