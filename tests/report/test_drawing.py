"""Pictures: colours where the evidence is, outlines and boxes where the patches are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from loss_attention.explanation import explain_prediction
from loss_attention.geometry import PatchGrid
from loss_attention.prediction import PatchPrediction
from loss_attention.quantities import EVIDENCE, ROUTING_WEIGHT
from loss_attention.report.drawing import (
    BOX,
    LONGEST,
    OUTLINE,
    SHORTEST,
    TRUTH,
    Marks,
    fit,
    legend,
    number,
    outline_segments,
    overlay,
    panel,
    resized,
)
from loss_attention.report.marks import marks_of

SIZE = 48
NOTHING = np.zeros((SIZE, SIZE), np.float32)


def grey(width: int = 480, height: int = 480) -> Image.Image:
    return Image.new("RGB", (width, height), (128, 128, 128))


def boxes(*rows: tuple[float, float, float, float]) -> np.ndarray:
    return np.array(rows, np.float32).reshape(-1, 4)


def hot(value: float) -> np.ndarray:
    """Evidence in the 8 x 8 pixels from (8, 16) alone, none elsewhere."""
    heat = NOTHING.copy()
    heat[16:24, 8:16] = value
    return heat


def extent(picture: Image.Image, colour: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """The smallest box, exclusive ends, around the pixels of exactly this colour."""
    rows, columns = (np.asarray(picture) == colour).all(axis=2).nonzero()
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def test_one_hot_patch_colours_its_pixels_and_no_others():
    plain = np.asarray(panel(grey(), Marks(NOTHING))).astype(int)
    drawn = np.asarray(panel(grey(), Marks(hot(2.0)))).astype(int)
    changed = (drawn != plain).any(axis=2)
    assert changed[165:235, 85:155].all()
    # The edge is one input pixel (10 of the picture) of transition on either side.
    changed[150:250, 70:170] = False
    assert not changed.any()


def test_evidence_for_is_red_and_against_is_blue_and_none_leaves_grey():
    middle = (120, 200)
    red, _, blue = panel(grey(), Marks(hot(0.5))).getpixel(middle)
    assert red > blue + 50
    red, _, blue = panel(grey(), Marks(hot(-0.5))).getpixel(middle)
    assert blue > red + 50
    red, green, blue = panel(grey(), Marks(hot(0.5))).getpixel((400, 400))
    assert red == green == blue


def test_the_scale_is_symmetric_and_ends_at_the_strongest_evidence():
    heat = hot(0.5)
    heat[40, 40] = -2.0
    assert Marks(heat).limit == 2.0
    weak, strong = (panel(grey(), Marks(h)).getpixel((120, 200)) for h in (heat, hot(0.5)))
    assert weak[0] - weak[2] < strong[0] - strong[2]


def test_patches_of_no_finite_evidence_are_left_grey():
    heat = hot(np.nan)
    heat[0, 0] = np.inf
    assert Marks(heat).limit == 0.0
    red, green, blue = panel(grey(), Marks(heat)).getpixel((120, 200))
    assert red == green == blue


@pytest.mark.parametrize(
    ("line", "marks"),
    [
        (OUTLINE, Marks(NOTHING, windows=boxes((8, 16, 24, 40)))),
        (BOX, Marks(NOTHING, boxes=boxes((8, 16, 24, 40)))),
        (TRUTH, Marks(NOTHING, truths=boxes((8, 16, 24, 40)))),
    ],
)
def test_lines_lie_where_the_boxes_are_in_the_original(line, marks):
    # 48 input pixels are 960 across and 480 down in this picture.
    found = extent(panel(grey(960, 480), marks), line.colour)
    assert np.abs(np.array(found) - (160, 160, 480, 400)).max() <= 2


def test_lines_at_the_border_are_wholly_inside_the_picture():
    window = boxes((0, 0, 48, 48))
    row = np.asarray(panel(grey(), Marks(NOTHING, windows=window)))[240]
    # 480 pixels across have lines of 2; each has its dark edge towards the border.
    assert (row == OUTLINE.colour).all(axis=1).nonzero()[0].tolist() == [1, 2, 477, 478]


def test_overlapping_windows_have_one_outline():
    windows = boxes((8, 8, 24, 24), (16, 8, 32, 24))
    drawn = panel(grey(), Marks(NOTHING, windows=windows))
    row = (np.asarray(drawn)[160] == OUTLINE.colour).all(axis=1).nonzero()[0]
    # Across the middle: the left and the right edge of the union, nothing at 160 and 240.
    assert set(np.round(row / 10).tolist()) == {8, 32}


def test_an_outline_has_the_edges_of_the_mask():
    mask = np.array([[1, 1, 0], [0, 1, 0]], bool)
    assert sorted(outline_segments(mask)) == [
        (0, 0, 0, 1),
        (0, 0, 2, 0),
        (0, 1, 1, 1),
        (1, 1, 1, 2),
        (1, 2, 2, 2),
        (2, 0, 2, 2),
    ]


@given(st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=5))
def test_outlines_are_as_long_as_there_are_edges(rows):
    mask = np.array(rows, bool)
    edges = 0
    for y in range(-1, mask.shape[0] + 1):
        for x in range(-1, mask.shape[1] + 1):
            for down, across in ((0, 1), (1, 0)):
                here, there = (
                    bool(mask[a, b]) if 0 <= a < mask.shape[0] and 0 <= b < mask.shape[1] else False
                    for a, b in ((y, x), (y + down, x + across))
                )
                edges += here != there
    segments = outline_segments(mask)
    assert sum(abs(x1 - x0) + abs(y1 - y0) for x0, y0, x1, y1 in segments) == edges


def test_marks_of_an_explanation_are_its_numbers():
    grid = PatchGrid(1, 3, window=4, stride=2, height=4, width=8)
    weights = torch.tensor([[0.5, 0.5, 0.0]])
    logits = torch.tensor([[[4.0, 0.0], [2.0, 0.0], [9.0, 0.0]]])
    prediction = PatchPrediction(
        torch.einsum("bm,bmk->bk", weights, logits), logits, weights, grid, selection=0.0
    )
    truths = np.array([[1, 1, 3, 3], [np.nan] * 4], np.float32)
    marks = marks_of(explain_prediction(prediction), 0, truths)
    assert marks.windows.tolist() == [[0, 0, 4, 4], [2, 0, 6, 4]]
    assert marks.boxes.tolist() == [[0, 0, 6, 4]]
    assert marks.truths.tolist() == [[1, 1, 3, 3]]
    # Evidence 2, 1 and 0, averaged where windows overlap.
    assert marks.heat_map[0].tolist() == [2, 2, 1.5, 1.5, 0.5, 0.5, 0, 0]


def test_without_a_selected_patch_there_is_no_box():
    grid = PatchGrid(1, 1, window=4, stride=4, height=4, width=4)
    prediction = PatchPrediction(
        torch.zeros(1, 2), torch.zeros(1, 1, 2), torch.ones(1, 1), grid, selection=2.0
    )
    marks = marks_of(explain_prediction(prediction), 0)
    assert len(marks.windows) == len(marks.boxes) == 0
    assert overlay(grey(), marks, prediction="a", probability=0.5, target="a").width == 480


@pytest.mark.parametrize(
    ("size", "wanted"),
    [
        ((28, 28), (384, 384)),
        ((32, 64), (384, 768)),
        ((640, 480), (640, 480)),
        ((4000, 3000), (1280, 960)),
        ((10, 1000), (13, 1280)),
        ((1, 5000), (1, 1280)),
    ],
)
def test_pictures_are_enlarged_or_shrunk_in_proportion(size, wanted):
    assert resized(Image.new("L", size), SHORTEST, LONGEST).size == wanted


@pytest.mark.parametrize("size", [(1, 1), (28, 28), (10, 1000), (1000, 10), (2000, 1500)])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_any_size_has_room_for_its_words(size, mode):
    marks = Marks(hot(1.0), *[boxes((0, 0, 48, 48))] * 3)
    sheet = overlay(
        Image.new(mode, size), marks, prediction="x" * 500, probability=0.5, target="y" * 500
    )
    assert sheet.mode == "RGB"
    assert sheet.width >= SHORTEST
    # Nothing is cut off: paper all around, but for the picture itself.
    pixels = np.asarray(sheet)
    assert (pixels[-10:] == 255).all()
    assert (pixels[:, -1] == 255).all() or sheet.width > SHORTEST or size[0] == size[1]


def test_the_legend_shows_the_kinds_of_lines_that_occur():
    none, all_three = (
        legend(Marks(NOTHING, *[found] * 3), "a", 300, 15)
        for found in (boxes(), boxes((1, 1, 2, 2)))
    )
    assert all_three.height > none.height
    for line in (OUTLINE, BOX, TRUTH):
        assert (np.asarray(all_three) == line.colour).all(axis=2).any()
    for line in (BOX, TRUTH):
        assert not (np.asarray(none) == line.colour).all(axis=2).any()


def test_kinds_of_lines_differ_without_their_colour():
    dashes = [line.dash for line in (OUTLINE, BOX, TRUTH)]
    assert len(set(dashes)) == 3


def test_the_ends_of_the_scale_are_those_of_the_picture():
    drawn = panel(grey(), Marks(hot(3.0))).getpixel((120, 200))
    scale = np.asarray(legend(Marks(hot(3.0)), "a", 300, 15)).astype(int)
    # The picture's grey is a little lighter or darker than the scale's; the hue is the same.
    assert np.abs(scale[26, -2] - drawn).max() < 20
    assert np.abs(scale[26, 1] - drawn).max() > 50


def test_what_has_no_sign_has_the_red_half_of_the_scale():
    both = np.asarray(legend(Marks(hot(3.0)), "a", 301, 15)).astype(int)[26]
    half = np.asarray(legend(Marks(hot(3.0), shown=ROUTING_WEIGHT), "a", 301, 15)).astype(int)[26]
    # It begins with the grey that is the middle of the other, and ends as that does.
    assert np.abs(half[0] - both[150]).max() < 10
    assert np.abs(half[-1] - both[-1]).max() < 10
    assert (half[:, 0] >= half[:, 2]).all()
    assert (both[:100, 0] < both[:100, 2]).all()


def test_the_legend_names_what_is_shown_and_its_unit():
    first, named, measured = (
        np.asarray(legend(Marks(hot(1.0), shown=shown), "a", 300, 15))[:15]
        for shown in (EVIDENCE, EVIDENCE._replace(name="weight"), EVIDENCE._replace(unit="mm"))
    )
    assert (first != named).any()
    assert (first != measured).any()
    assert (named != measured).any()


def test_long_names_are_shortened_to_the_room_there_is():
    assert fit("short", 15, 200) == "short"
    assert fit("two\nlines", 15, 200) == "two lines"
    short = fit("long " * 1000, 15, 200)
    assert short.startswith("long long")
    assert short.endswith("…")
    assert fit("anything", 15, 1) == "…"


def test_numbers_have_three_digits():
    assert [number(value) for value in (2.0, 1234.5, 1e-5)] == ["2", "1230", "1e-05"]
