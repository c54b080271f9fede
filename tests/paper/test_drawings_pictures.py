"""Heat maps, selected patches and boxes: what is drawn is what was given."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection
from matplotlib.patches import Rectangle
from paper.sheets import CAPTION, legend_of
from PIL import Image

from loss_attention.explanation import Explanation, explain_prediction
from loss_attention.geometry import PatchGrid
from loss_attention.paper.drawings import (
    HeatMaps,
    Sample,
    draw_boxes,
    draw_heat_maps,
    draw_patches,
)
from loss_attention.prediction import PatchPrediction

GRID = PatchGrid(rows=2, columns=2, window=8, stride=8, height=16, width=16)


def sample(name: str = "a", truths: tuple[tuple[float, ...], ...] = ()) -> Sample:
    image = Image.new("RGB", (16, 16), (200, 40, 40))
    return Sample(name, image, f"class {name}", torch.tensor(truths).reshape(-1, 4))


def explanation(*weights: tuple[float, ...]) -> Explanation:
    """Of one image for each row of four patch weights."""
    alpha = torch.tensor(weights)
    logits = torch.ones(len(weights), 4, 3)
    prediction = PatchPrediction(torch.ones(len(weights), 3), logits, alpha, GRID, 0.0)
    return explain_prediction(prediction)


def redness(picture: Any) -> np.ndarray:
    pixels = np.asarray(picture, np.int64)
    return pixels[..., 0] - pixels[..., 2]


def test_heat_maps_stand_in_a_row_for_each_system() -> None:
    hot = torch.zeros(2, 16, 16)
    hot[0, :8, :8], hot[1, 8:, 8:] = 3.0, -0.5
    systems = [
        HeatMaps("Grad-CAM\nof it", torch.zeros(2, 16, 16), torch.tensor([0.25, 0.5])),
        HeatMaps("Evidence", hot, torch.tensor([0.75, 1.0])),
    ]
    figure, numbers = draw_heat_maps([sample("a"), sample("b")], systems, CAPTION)

    *pictures, colour_scale = figure.axes
    first, second = pictures[:3], pictures[3:]
    assert len(pictures) == 2 * 3
    assert [axes.get_title() for axes in pictures] == ["class a", "", "", "class b", "", ""]
    assert [axes.get_ylabel() for axes in first] == ["Image", "Grad-CAM\nof it", "Evidence"]
    assert [axes.get_xlabel() for axes in second] == ["", "p = 0.50", "p = 1.00"]
    nothing, warm = (redness(axes.images[0].get_array()) for axes in first[1:])
    assert (nothing == 0).all()
    assert warm[:140, :140].min() > 100 > 0 == warm[180:].max()
    cold = redness(second[2].images[0].get_array())
    assert cold[180:, 180:].max() < -100
    assert cold[:140].any() == False  # noqa: E712 (an array's own truth)
    assert list(colour_scale.get_xticks()) == [-1, -0.5, 0, 0.5, 1]
    ramp = redness(colour_scale.images[0].get_array())[0]
    assert ramp[0] < -50 < 50 < ramp[-1]
    assert numbers["samples"] == [{"name": n, "class": f"class {n}"} for n in "ab"]
    assert numbers["systems"][0]["system"] == "Grad-CAM of it"
    assert numbers["systems"][1]["probabilities"] == [0.75, 1.0]
    assert numbers["systems"][1]["heat_maps"] == hot.tolist()


def test_selected_patches_are_clear_outlined_and_dotted_by_weight() -> None:
    said = explanation((0.8, 0.0, 0.0, 0.2), (0.0, 1.0, 0.0, 0.0))
    figure, numbers = draw_patches([sample("a"), sample("b")], said, CAPTION)

    axes = figure.axes[0]
    assert [a.get_xlabel() for a in figure.axes] == ["2 of 4 patches", "1 of 4 patches"]
    dark, outline, dots = axes.collections
    assert isinstance(outline, LineCollection)
    assert outline.get_linewidth() < dark.get_linewidth()
    assert dots.get_offsets().tolist() == [[4.0, 4.0], [12.0, 12.0]]
    assert dots.get_sizes()[1] / dots.get_sizes()[0] == pytest.approx(0.2 / 0.8)
    edges = {tuple(np.sort(segment, axis=0).ravel()) for segment in outline.get_segments()}
    squares = ((0, 0, 8, 8), (8, 8, 16, 16))
    assert edges == {
        side
        for x0, y0, x1, y1 in squares
        for side in ((x0, y0, x1, y0), (x0, y1, x1, y1), (x0, y0, x0, y1), (x1, y0, x1, y1))
    }
    red = redness(axes.images[0].get_array())
    side = len(red)
    assert (red[: side // 2, : side // 2] == 160).all()
    assert (red[: side // 2, side // 2 :] == 0).all()
    assert (red[side // 2 :, side // 2 :] == 160).all()
    other = redness(figure.axes[1].images[0].get_array())
    assert (other[: side // 2, side // 2 :] == 160).all()
    assert other.sum() == 160 * (side // 2) ** 2
    assert legend_of(figure) == [
        "windows of the selected patches",
        "middle of a selected patch, area by weight",
    ]
    assert numbers["grid"]["window"] == 8
    assert numbers["samples"][0]["selected"] == [0, 3]
    assert numbers["samples"][0]["windows"] == [[0, 0, 8, 8], [8, 8, 16, 16]]
    assert numbers["samples"][0]["weights"] == [0.8, 0.2]


def test_an_image_without_a_selected_patch_has_no_dot() -> None:
    figure, numbers = draw_patches([sample()], explanation((0.0, 0.0, 0.0, 0.0)), CAPTION)
    _, outline, dots = figure.axes[0].collections
    assert len(dots.get_offsets()) == len(outline.get_segments()) == 0
    assert numbers["samples"][0]["windows"] == []


def test_boxes_are_drawn_where_they_lie_with_their_iou() -> None:
    said = explanation((0.5, 0.5, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0))
    samples = [
        sample("a", ((0.0, 0.0, 8.0, 8.0), (0.0, 0.0, 16.0, 12.0))),
        sample("b", ((1.0, 2.0, 3.0, 5.0),)),
        sample("c"),
    ]
    figure, numbers = draw_boxes(samples, said, CAPTION)

    drawn = [
        [(*patch.get_xy(), patch.get_width(), patch.get_height()) for patch in axes.patches]
        for axes in figure.axes
    ]
    assert all(isinstance(patch, Rectangle) for axes in figure.axes for patch in axes.patches)
    assert drawn[0] == [(0, 0, 8, 8), (0, 0, 16, 12), (0, 0, 16, 8)]  # the predicted one on top
    assert drawn[1] == [(1, 2, 2, 3)]  # nothing is selected: no box
    assert drawn[2] == [(0, 0, 8, 8)]
    below = [axes.get_xlabel() for axes in figure.axes]
    assert below == ["IoU 0.67", "IoU 0.00", "no true box"]  # 16 x 8 within 16 x 12
    assert [entry["iou"] for entry in numbers["samples"]] == [0.66667, 0.0, None]
    assert numbers["samples"][0]["predicted"] == [0, 0, 16, 8]
    assert numbers["samples"][1]["predicted"] == [None] * 4
    assert numbers["samples"][0]["true"] == [[0, 0, 8, 8], [0, 0, 16, 12]]
    assert legend_of(figure) == [
        "predicted: around the selected patches",
        "true boxes of the image's labels",
    ]
    truth, predicted = figure.axes[0].patches[1:]
    assert truth.get_linestyle() != predicted.get_linestyle()  # not by colour alone


def test_many_pictures_fill_rows_of_six() -> None:
    said = explanation(*[(1.0, 0.0, 0.0, 0.0)] * 8)
    figure, _ = draw_boxes([sample(str(i)) for i in range(8)], said, CAPTION)
    figure.draw_without_rendering()
    tops = {round(axes.get_position().y1, 3) for axes in figure.axes}
    assert len(figure.axes) == 8
    assert len(tops) == 2
