"""The paper's figures of pictures: heat maps (4), selected patches (5) and boxes (6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from PIL import Image
from torch import Tensor

from loss_attention.explanation import Explanation
from loss_attention.geometry import box_iou, paint_patches
from loss_attention.paper.figures_layout import LETTERS, WIDTH, Drawing, bare, rounded, sheet
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

    Each map is coloured by the share of its own strongest value, with the scale at the foot.
    """
    rows = 1 + len(systems)
    figure = sheet(rows * 1.22 + 0.4, caption)
    places = figure.add_gridspec(rows + 1, len(samples), height_ratios=[1.0] * rows + [0.08])
    for column, sample in enumerate(samples):
        axes = figure.add_subplot(places[0, column])
        axes.imshow(_enlarged(sample.image))
        bare(axes, sample.target)
        if column == 0:
            axes.set_ylabel("Image", fontsize=LETTERS)
        for row, system in enumerate(systems, start=1):
            marks = Marks(system.maps[column].float().numpy())
            axes = figure.add_subplot(places[row, column])
            axes.imshow(np.asarray(panel(sample.image, marks, shortest=PIXELS, longest=PIXELS)))
            bare(axes, below=f"p = {float(system.probabilities[column]):.2f}")
            if column == 0:
                axes.set_ylabel(system.system, fontsize=LETTERS)
    _colour_scale(figure.add_subplot(places[rows, :]))
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
    is the patch's share of the largest weight in the image.
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
        shares = weights[selected] / weights.max()
        x, y = middles[selected].T.numpy()
        axes.scatter(
            x,
            y,
            s=shares.numpy() * largest**2,
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
    """Return a sheet with room for so many pictures, and a legend above them."""
    columns = min(count, COLUMNS)
    rows = -(-count // columns)
    figure = sheet(rows * 1.42 + 0.25, caption)
    places = figure.add_gridspec(rows, columns)
    return figure, [figure.add_subplot(places[divmod(i, columns)]) for i in range(count)]


def _colour_scale(axes: Axes) -> None:
    """Draw the colours of the heat maps, made the way that the maps are."""
    ramp = np.linspace(-1, 1, 400, dtype=np.float32)[None].repeat(12, axis=0)
    grey = Image.new("L", (400, 12), _GREY)
    colours = np.asarray(panel(grey, Marks(ramp), shortest=12, longest=400))
    axes.imshow(colours, extent=(-1, 1, 0, 1), aspect="auto")
    bare(axes, below="share of each map's strongest value (below 0: speaks against the class)")
    axes.set_xticks([-1, -0.5, 0, 0.5, 1])
    axes.tick_params(labelsize=LETTERS, length=2)
    # Within the ends, or the columns above would make room for what stands out.
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


def _legend(figure: Figure, handles: Sequence[Line2D]) -> None:
    figure.legend(
        handles=list(handles),
        loc="outside upper center",
        ncols=len(handles),
        fontsize=LETTERS,
        frameon=False,
        handlelength=3,
    )


def _entry(sample: Sample) -> dict[str, Any]:
    return {"name": sample.name, "class": sample.target}
