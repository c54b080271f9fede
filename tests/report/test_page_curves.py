"""Curves: every point in its place, whatever the numbers."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loss_attention.report.charts import SIDES, curve_chart


def points(svg: str, colour: str) -> list[tuple[float, float]]:
    """The points of the first line of a colour, the others of which are dots at its end."""
    path = re.search(rf'<path d="M ([^"]*)" [^>]*stroke: var\(--{colour}\)', svg)
    assert path
    numbers = [float(number) for number in re.findall(r"[-\d.]+", path[1])]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def test_points_lie_between_the_axes_in_proportion():
    svg = curve_chart("loss", [1, 2, 5], {"training": [1.0, 0.5, 0.0]})
    (left, top), (x, y), (right, bottom) = points(svg, "first")
    assert (x - left) / (right - left) == pytest.approx(1 / 4)
    assert (y - top) / (bottom - top) == pytest.approx(1 / 2)
    assert 0 < left < right < 360
    assert 0 < top < bottom < 200
    assert curve_chart("loss", [1, 2, 5], {"training": [1.0, 0.5, 0.0]}) == svg


def test_what_is_not_known_is_left_out():
    lines = {"training": [1.0, math.nan, 0.0], "validation": [None, 0.5, math.inf]}
    svg = curve_chart("loss", [1, 2, 3], lines)
    assert len(points(svg, "first")) == 2
    assert len(set(points(svg, "second"))) == 1
    assert curve_chart("loss", [1], {"training": [None]}) == ""
    assert curve_chart("loss", [], {"training": []}) == ""
    assert "second" not in curve_chart("l", [1], {"a": [1.0], "b": [None]})


def test_the_kept_epoch_is_marked_at_its_place():
    svg = curve_chart("loss", [1, 2, 3], {"training": [3.0, 2.0, 1.0]}, chosen=2)
    upright = {x for x, _ in points(svg, "quiet")}
    assert upright == {points(svg, "first")[1][0]}
    assert "kept: 2" in svg
    assert "stroke: var(--quiet)" not in curve_chart("loss", [1, 2], {"training": [1.0, 2.0]})


def test_those_who_hear_it_get_the_ends():
    svg = curve_chart("loss", [1, 2], {"training": [1.25, 0.5]}, chosen=1)
    label = ElementTree.fromstring(svg).attrib["aria-label"]
    assert label == "loss over epochs: training from 1.25 to 0.5; epoch 1 was kept"


def test_another_axis_is_named_in_its_words():
    sides = (0, 5, 10)
    svg = curve_chart("L", sides, {"random patches": [0.0, 0.5, 1.0]}, chosen=5, axis=SIDES)
    label = ElementTree.fromstring(svg).attrib["aria-label"]
    assert label == (
        "L over sides of the square that is kept: random patches from 0 to 1; "
        "the window has 5 pixels"
    )
    assert "window: 5" in svg
    assert "epoch" not in svg


def test_words_are_escaped():
    svg = curve_chart('<b>"', [1], {"<script>": [1.0]})
    assert "<script>" not in svg
    ElementTree.fromstring(svg)


@settings(max_examples=15)
@given(
    st.lists(
        st.floats(-1e12, 1e12).filter(lambda v: v == 0 or abs(v) > 1e-12), min_size=1, max_size=6
    )
)
def test_axes_hold_any_values_with_few_ticks(values):
    svg = curve_chart("loss", list(range(len(values))), {"training": values})
    assert all(-1 <= x <= 361 and -1 <= y <= 201 for x, y in points(svg, "first"))
    assert 4 <= svg.count("<text") <= 3 + 8
