"""Curves: every point in its place, whatever the numbers."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loss_attention.report.page import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, axis, curve_chart


def points(svg: str, series: int) -> list[tuple[float, float]]:
    found = re.search(rf'<polyline class="series{series}" points="([^"]*)"', svg)
    assert found
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in found[1].split())]


def test_points_lie_between_the_axes_in_proportion():
    svg = curve_chart("loss", [1, 2, 5], {"training": [1.0, 0.5, 0.0]})
    ElementTree.fromstring(svg)
    across = WIDTH - LEFT - RIGHT
    assert points(svg, 0) == [
        (LEFT, TOP),
        (LEFT + across / 4, (TOP + HEIGHT - BOTTOM) / 2),
        (WIDTH - RIGHT, HEIGHT - BOTTOM),
    ]


def test_what_is_not_known_is_left_out():
    lines = {"training": [1.0, math.nan, 0.0], "validation": [None, 0.5, math.inf]}
    svg = curve_chart("loss", [1, 2, 3], lines)
    assert [len(points(svg, number)) for number in (0, 1)] == [2, 1]
    assert curve_chart("loss", [1], {"training": [None]}) == ""
    assert curve_chart("loss", [], {"training": []}) == ""
    assert 'class="series1"' not in curve_chart("l", [1], {"a": [1.0], "b": [None]})


def test_the_kept_epoch_is_marked_at_its_place():
    svg = curve_chart("loss", [1, 2, 3], {"training": [3.0, 2.0, 1.0]}, chosen=2)
    middle = LEFT + (WIDTH - LEFT - RIGHT) / 2
    assert f'<line class="chosen" x1="{middle:.1f}"' in svg
    assert "kept: 2" in svg
    assert 'class="chosen"' not in curve_chart("loss", [1, 2], {"training": [1.0, 2.0]})


def test_those_who_hear_it_get_the_ends():
    svg = curve_chart("loss", [1, 2], {"training": [1.25, 0.5]}, chosen=1)
    label = ElementTree.fromstring(svg).attrib["aria-label"]
    assert label == "loss over epochs: training from 1.25 to 0.5; epoch 1 was kept"


def test_words_are_escaped():
    svg = curve_chart('<b>"', [1], {"<script>": [1.0]})
    assert "<script>" not in svg
    ElementTree.fromstring(svg)


@pytest.mark.parametrize(
    ("values", "ends"),
    [([0.0, 1.0], (0, 1)), ([0.12, 0.93], (0, 1)), ([2.31], (1, 4)), ([0.0], (-0.5, 0.5))],
)
def test_axes_end_at_round_numbers(values, ends):
    low, high, _ = axis(values)
    assert low <= min(values) <= max(values) <= high
    assert (low, high) == pytest.approx(ends)


@given(
    st.lists(
        st.floats(-1e12, 1e12).filter(lambda v: v == 0 or abs(v) > 1e-12), min_size=1, max_size=6
    )
)
def test_axes_hold_their_values_with_few_ticks(values):
    low, high, ticks = axis(values)
    assert 2 <= len(ticks) <= 8
    assert ticks == sorted(set(ticks))
    slack = 1e-6 * (high - low)
    assert low - slack <= min(values)
    assert max(values) <= high + slack
