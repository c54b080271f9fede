"""How Figures 4 to 7 are drawn: heat maps, selected patches, boxes, and curves over a parameter.

Each is a sheet with its caption below, written as PNG, PDF, JSON and Markdown.
"""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.textpath import text_to_path
from PIL import Image
from torch import Tensor

from loss_attention.explanation import Explanation
from loss_attention.geometry import box_iou, paint_patches
from loss_attention.report.drawing import (
    BOX,
    OUTLINE,
    TRUTH,
    Line,
    Marks,
    outline_segments,
    panel,
    resized,
)
from loss_attention.saving import make_folder, write_whole
from loss_attention.terminal import json_text

FORMAT_VERSION = 2
WIDTH = 7.16
"""Inches of the paper's two columns."""
DOTS_PER_INCH = 300
LETTERS = 7.0
"""Points, as small as the letters of a printed figure may be."""
_SPACING = 1.25
_LINE = _SPACING * LETTERS / 72
_MARGIN = 0.08
"""Inches around the drawing and its caption."""


class Drawing(NamedTuple):
    """A figure, and the numbers that it shows, as JSON holds them."""

    figure: Figure
    numbers: dict[str, Any]


def sheet(height: float, caption: str) -> Figure:
    """Return an empty figure with so many inches of height to draw on, and the caption below."""
    lines = _wrapped(caption, (WIDTH - 2 * _MARGIN) * 72)
    foot = len(lines) * _LINE + 2 * _MARGIN
    whole = height + foot + _MARGIN
    figure = Figure(figsize=(WIDTH, whole), layout="constrained")
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.set(rect=(0, foot / whole, 1, height / whole))  # type: ignore[call-arg]
    figure.text(
        _MARGIN / WIDTH,
        (foot - _MARGIN) / whole,
        "\n".join(lines),
        fontsize=LETTERS,
        linespacing=_SPACING,
        verticalalignment="top",
        parse_math=False,
    )
    return figure


def _wrapped(text: str, width: float) -> list[str]:
    """Break a text into lines of at most so many points."""
    letters, lines = FontProperties(size=LETTERS), [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".lstrip()
        if text_to_path.get_text_width_height_descent(longer, letters, ismath=False)[0] > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def bare(axes: Axes, title: str = "", below: str = "") -> None:
    """Leave a picture without ticks and frame, words above and below it."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(
        textwrap.shorten(title, 20, placeholder="…"), fontsize=LETTERS, pad=2.5, parse_math=False
    )
    axes.set_xlabel(below, fontsize=LETTERS, labelpad=2.5)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _legend(figure: Figure, handles: Sequence[Line2D], columns: int | None = None) -> None:
    """Put a legend above a drawing, in one line unless there are more handles than columns."""
    figure.legend(
        handles=list(handles),
        loc="outside upper center",
        ncols=columns or len(handles),
        fontsize=LETTERS,
        frameon=False,
        handlelength=3,
    )


def rounded(values: Any) -> Any:
    """Return numbers in nested lists of five significant digits; NaN becomes None.

    Example:
        >>> rounded(np.array([[1.23456789, np.nan]]))
        [[1.2346, None]]
    """
    array = np.asarray(values, np.float64)
    if array.ndim:
        return [rounded(row) for row in array]
    return None if np.isnan(array) else float(f"{array:.5g}")


def save_drawing(
    name: str, drawing: Drawing, caption: str, folder: Path, facts: dict[str, Any]
) -> list[Path]:
    """Write a figure as PNG and PDF, its numbers as JSON and its caption as Markdown.

    Args:
        name: what the files are called.
        drawing: what to write.
        caption: what stands below it.
        folder: where the files go.
        facts: what the JSON says besides: of which scale the figure is, say.
    """
    make_folder(folder)
    content = {
        "format_version": FORMAT_VERSION,
        "figure": name,
        "caption": caption,
        **facts,
        **drawing.numbers,
    }
    files: dict[str, str | bytes] = {
        "png": _rendered(drawing.figure, "png", {"Description": caption, "Software": None}),
        # Without a date, the same drawing is the same file.
        "pdf": _rendered(drawing.figure, "pdf", {"Subject": caption, "CreationDate": None}),
        "json": _json(content),
        "md": f"![{name}]({name}.png)\n\n{caption}\n",
    }
    paths = []
    for suffix, data in files.items():
        paths.append(folder / f"{name}.{suffix}")
        write_whole(paths[-1], data)
    return paths


def _rendered(figure: Figure, suffix: str, metadata: dict[str, str | None]) -> bytes:
    file = io.BytesIO()
    # TrueType letters: journals refuse matplotlib's own kind.
    with matplotlib.rc_context({"pdf.fonttype": 42}):
        figure.savefig(file, format=suffix, dpi=DOTS_PER_INCH, metadata=metadata)
    return file.getvalue()


def _json(content: dict[str, Any]) -> str:
    """Return JSON with a list of plain numbers on one line."""
    text = json_text(content, indent=1)
    flat = re.sub(
        r"\[\s+([-+\deE.,\s]|null)+?\s+\]", lambda found: re.sub(r"\s+", " ", found[0]), text
    )
    return flat + "\n"


LINEAR_TO = 0.1
"""gamma_max is drawn linearly up to here, and logarithmically above."""


@dataclass(frozen=True)
class Point:
    """A point of a curve; all numbers in percent.

    Attributes:
        x: the parameter.
        mean: ours over seeds; None: not measured yet.
        deviation: ours, sample standard deviation over seeds; None for a single one.
        paper: the paper's number there, where it prints one.
        baselines: what trivial baselines score, by name.
    """

    x: float
    mean: float | None = None
    standard_deviation: float | None = None
    paper: float | None = None
    baselines: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
        parameter: what its x is: `gamma_max` or `xi`.
        measure: what its y is, in percent.
        curves: the points of each network, by its name, x rising.
    """

    parameter: str
    metric: str
    curves: Mapping[str, tuple[Point, ...]]


class Look(NamedTuple):
    """How a network's curves look; told apart by colour, shape and line alike."""

    colour: str
    marker: str
    line: str


LOOKS = (Look("#0072B2", "o", "-"), Look("#D55E00", "s", "--"), Look("#009E73", "^", "-."))
OURS, THE_PAPER = ", ours", ", the paper (Table VI)"
_BASELINE_GREY = "0.35"
BASELINE_LINES = ("-.", ":", (0, (1, 4)))
SYMBOLS = {"gamma_max": r"$\gamma_{max}$", "xi": r"$\xi$"}


def draw_curves(panels: Sequence[Panel], caption: str, columns: int = 4) -> Drawing:
    """Draw every panel, row by row, with one legend for all of them.

    A point that is not measured is missing, and the line has a gap there. The paper's own numbers
    stand as hollow marks. Trivial baselines are grey lines; where they depend on the network, thin
    ones of its colour.
    """
    rows = -(-len(panels) // columns)
    figure = sheet(rows * 1.6 + 0.45, caption)
    grid = figure.subplots(rows, columns, squeeze=False)
    every = list(grid.flat)
    names = sorted({name for panel in panels for name in _baseline_names(panel)})
    for letter, (axes, one) in zip("abcdefgh", zip(every, panels, strict=False), strict=False):
        _draw_panel(axes, one, names)
        axes.set_title(f"({letter})", fontsize=LETTERS, loc="left", pad=3)
    for axes in every[len(panels) :]:
        axes.remove()
    _legend(figure, _curves_and_baselines(every[: len(panels)], names), columns=4)
    return Drawing(figure, {"panels": [asdict(panel) for panel in panels]})


def _draw_panel(axes: Axes, panel: Panel, baseline_names: Sequence[str]) -> None:
    for (name, points), look in zip(panel.curves.items(), LOOKS, strict=False):
        x = [point.x for point in points]
        axes.errorbar(
            x,
            [_or_nan(point.mean) for point in points],
            [_or_nan(point.standard_deviation) for point in points],
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
    _draw_baselines(axes, panel, baseline_names)
    axes.set_ylabel(f"{panel.metric} (%)", fontsize=LETTERS, labelpad=2)
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


def _draw_baselines(axes: Axes, panel: Panel, names: Sequence[str]) -> None:
    for name in _baseline_names(panel):
        line = _baseline_line(name, names)
        found = {
            network: [(point.x, point.baselines.get(name)) for point in points]
            for network, points in panel.curves.items()
        }
        values = {y for points in found.values() for _, y in points if y is not None}
        if max(values) - min(values) < 1e-6:
            axes.axhline(
                values.pop(), color=_BASELINE_GREY, linestyle=line, linewidth=0.9, label=name
            )
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


def _curves_and_baselines(panels: Sequence[Axes], baseline_names: Sequence[str]) -> list[Any]:
    """Return what the legend shows: our curves, the paper's marks, and the baselines in grey."""
    found: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    networks = sorted(
        (label for label in found if label not in baseline_names),
        key=lambda label: label.endswith(THE_PAPER),
    )
    baselines = [
        Line2D(
            [], [], color=_BASELINE_GREY, linestyle=_baseline_line(name, baseline_names), label=name
        )
        for name in baseline_names
    ]
    return [found[label] for label in networks] + baselines


def _baseline_line(name: str, names: Sequence[str]) -> Any:
    return BASELINE_LINES[names.index(name) % len(BASELINE_LINES)]


def _baseline_names(panel: Panel) -> list[str]:
    return list(
        dict.fromkeys(
            name for points in panel.curves.values() for point in points for name in point.baselines
        )
    )


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


COLUMNS = 6
PIXELS = 320
"""Side of a picture in the files."""
_GREY = 150
_DARK = "#0f0f0f"
_DOT = "#D55E00"
LARGEST_DOT = 6.0
"""Points across the dot of an image's heaviest patch, or less where patches are close."""
_FADED = 0.25
"""How much of the picture is left where no patch is selected."""


@dataclass(frozen=True)
class Sample:
    """An image that a figure shows.

    Attributes:
        name: what it is called.
        image: the picture as the networks saw it.
        target: the name of the class to explain.
        truths: the boxes of its labels, in pixels of the image; none where they are unknown.
    """

    name: str
    image: Image.Image
    target: str
    truths: Float[Tensor, "G 4"]


@dataclass(frozen=True)
class HeatMaps:
    """What one system shows of every sample.

    Attributes:
        system: what it is called; may have several lines.
        maps: a heat map of each sample.
        probabilities: what its network gives the explained class of each.
    """

    system: str
    maps: Float[Tensor, "N H W"]
    probabilities: Float[Tensor, " N"]


def draw_heat_maps(samples: Sequence[Sample], systems: Sequence[HeatMaps], caption: str) -> Drawing:
    """Draw a column for each sample: the image, and below it the heat map of each system.

    Each map is coloured by the fraction of its own strongest value, with the scale at the foot.
    """
    rows = 1 + len(systems)
    figure = sheet(rows * 1.22 + 0.4, caption)
    cells = figure.add_gridspec(rows + 1, len(samples), height_ratios=[1.0] * rows + [0.08])
    for column, sample in enumerate(samples):
        axes = figure.add_subplot(cells[0, column])
        axes.imshow(_enlarged(sample.image))
        bare(axes, sample.target)
        if column == 0:
            axes.set_ylabel("Image", fontsize=LETTERS)
        for row, system in enumerate(systems, start=1):
            marks = Marks(system.maps[column].float().numpy())
            axes = figure.add_subplot(cells[row, column])
            axes.imshow(np.asarray(panel(sample.image, marks, shortest=PIXELS, longest=PIXELS)))
            bare(axes, below=f"p = {float(system.probabilities[column]):.2f}")
            if column == 0:
                axes.set_ylabel(system.system, fontsize=LETTERS)
    _colour_scale(figure.add_subplot(cells[rows, :]))
    numbers = {
        "samples": [{"name": sample.name, "class": sample.target} for sample in samples],
        "systems": [
            {
                "system": system.system.replace("\n", " "),
                "probabilities": rounded(system.probabilities),
                "heat_maps": rounded(system.maps),
            }
            for system in systems
        ],
    }
    return Drawing(figure, numbers)


def draw_patches(samples: Sequence[Sample], explanation: Explanation, caption: str) -> Drawing:
    """Draw each sample, faded where no selected patch lies, with a dot for each that is.

    The union of the selected windows is outlined. The area of a dot, in the middle of its window,
    is the patch's weight over the largest in the image.
    """
    figure, axes_of = _pictures(len(samples), caption)
    windows = explanation.grid.windows()
    middles = (windows[:, :2] + windows[:, 2:]) / 2
    covered = paint_patches(explanation.selected.float(), explanation.grid) > 0
    numbers = []
    for index, (axes, sample) in enumerate(zip(axes_of, samples, strict=True)):
        selected, weights = explanation.selected[index], explanation.patch_weights[index].float()
        mask = covered[index].numpy()
        height, width = mask.shape
        axes.imshow(_with_faded(sample.image, mask), extent=(0, width, height, 0))
        lines = [((x0, y0), (x1, y1)) for x0, y0, x1, y1 in outline_segments(mask)]
        # All of the dark line first, or the end of one side would lie on the next.
        for wide, colour in ((2.0, _DARK), (1.0, _colour(OUTLINE))):
            style: dict[str, Any] = {"linewidths": wide, "colors": [colour], "clip_on": False}
            axes.add_collection(LineCollection(lines, capstyle="projecting", **style))
        step = explanation.grid.stride / width * 72 * WIDTH / (COLUMNS + 1)
        largest = min(LARGEST_DOT, 0.7 * step)
        fractions = weights[selected] / weights.max()
        x, y = middles[selected].T.numpy()
        axes.scatter(
            x,
            y,
            s=fractions.numpy() * largest**2,
            color=_DOT,
            edgecolors="white",
            linewidths=0.4,
            zorder=3,
        )
        axes.set(xlim=(0, width), ylim=(height, 0))
        bare(axes, sample.target, f"{int(selected.sum())} of {len(selected)} patches")
        numbers.append(
            _entry(sample)
            | {
                "selected": selected.nonzero().squeeze(1).tolist(),
                "windows": rounded(windows[selected]),
                "weights": rounded(weights[selected]),
            }
        )
    dot = Line2D([], [], marker="o", linestyle="", color=_DOT, markeredgecolor="white")
    dot.set(markersize=6, label="middle of a selected patch, area by weight")
    edge = Line2D([], [], **_stroke(OUTLINE, 1.0), label="windows of the selected patches")
    _legend(figure, [edge, dot])
    return Drawing(figure, {"grid": explanation.grid._asdict(), "samples": numbers})


def draw_boxes(samples: Sequence[Sample], explanation: Explanation, caption: str) -> Drawing:
    """Draw each sample with the box around its selected patches and the boxes of its labels."""
    figure, axes_of = _pictures(len(samples), caption)
    numbers = []
    grid = explanation.grid
    for axes, sample, box in zip(axes_of, samples, explanation.boxes, strict=True):
        axes.imshow(_enlarged(sample.image), extent=(0, grid.width, grid.height, 0))
        for line, width, boxes in ((TRUTH, 0.9, sample.truths), (BOX, 1.4, box[None])):
            for x0, y0, x1, y1 in boxes[~boxes.isnan().any(dim=1)].tolist():
                style = _stroke(line, width)
                axes.add_patch(
                    Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, clip_on=False, **style)
                )
        iou = float(box_iou(box, sample.truths).max()) if len(sample.truths) else None
        bare(axes, sample.target, "no true box" if iou is None else f"IoU {iou:.2f}")
        numbers.append(
            _entry(sample)
            | {
                "predicted": rounded(box),
                "true": rounded(sample.truths),
                "iou": None if iou is None else rounded(iou),
            }
        )
    _legend(
        figure,
        [
            Line2D([], [], **_stroke(line, width), label=words)
            for line, width, words in (
                (BOX, 1.4, "predicted: around the selected patches"),
                (TRUTH, 0.9, "true boxes of the image's labels"),
            )
        ],
    )
    return Drawing(figure, {"samples": numbers})


def _pictures(count: int, caption: str) -> tuple[Figure, list[Axes]]:
    """Return a sheet for so many pictures with a legend above them, and their axes."""
    columns = min(count, COLUMNS)
    rows = -(-count // columns)
    figure = sheet(rows * 1.42 + 0.25, caption)
    cells = figure.add_gridspec(rows, columns)
    return figure, [figure.add_subplot(cells[divmod(i, columns)]) for i in range(count)]


def _colour_scale(axes: Axes) -> None:
    """Draw the colours of the heat maps, made the way that the maps are."""
    ramp = np.linspace(-1, 1, 400, dtype=np.float32)[None].repeat(12, axis=0)
    grey = Image.new("L", (400, 12), _GREY)
    colours = np.asarray(panel(grey, Marks(ramp), shortest=12, longest=400))
    axes.imshow(colours, extent=(-1, 1, 0, 1), aspect="auto")
    bare(axes, below="fraction of each map's strongest value (below 0: speaks against the class)")
    axes.set_xticks([-1, -0.5, 0, 0.5, 1])
    axes.tick_params(labelsize=LETTERS, length=2)
    # Within the ends, or the columns above would give way to what stands out.
    ends = axes.get_xticklabels()
    ends[0].set_horizontalalignment("left")
    ends[-1].set_horizontalalignment("right")


def _enlarged(image: Image.Image) -> np.ndarray[Any, Any]:
    return np.asarray(resized(image.convert("RGB"), PIXELS, PIXELS))


def _with_faded(image: Image.Image, mask: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return a picture that is pale outside a mask of the image's size."""
    picture = resized(image.convert("RGB"), PIXELS, PIXELS)
    clear = np.asarray(Image.fromarray(mask).resize(picture.size, Image.Resampling.NEAREST))
    pale = 255 - _FADED * (255 - np.asarray(picture.convert("L").convert("RGB"), np.float32))
    mixed: np.ndarray[Any, Any] = np.where(clear[..., None], np.asarray(picture), pale)
    return mixed.round().astype(np.uint8)


def _colour(line: Line) -> tuple[float, ...]:
    return tuple(part / 255 for part in line.colour)


def _stroke(line: Line, width: float) -> dict[str, Any]:
    """Return a line's look, over a wider dark one so that it shows on any picture."""
    return {
        "color": _colour(line),
        "linewidth": width,
        "linestyle": "-" if line.dash is None else (0, tuple(part / 2 for part in line.dash)),
        "path_effects": [withStroke(linewidth=width + 1.0, foreground=_DARK)],
    }


def _entry(sample: Sample) -> dict[str, Any]:
    return {"name": sample.name, "class": sample.target}
