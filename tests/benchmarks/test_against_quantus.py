"""What the comparison with Quantus makes of two scores of the same maps; Quantus is not needed."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from against_quantus import (
    ABOUT,
    DEFINED_OTHERWISE,
    Row,
    drawing,
    page,
    row,
    untied,
    windows_as_pixels,
)

ABSENT = float("nan")


def test_scores_that_are_apart_are_counted() -> None:
    ours, theirs = np.array([0.5, 1.0, 0.0, 0.25]), np.array([0.5 + 1e-8, 0.7, ABSENT, 0.25])
    found = row("EPG", "Mass", "margin", ours, theirs)
    assert (found.of, found.differing, found.undefined) == (4, 1, 1)
    assert found.largest == pytest.approx(0.3)
    assert found.ours == 0.4375
    assert found.theirs == pytest.approx((0.5 + 0.7 + 0.25) / 3)
    curve = row("EPG", "Mass", "margin", ours, theirs, np.array([0.0, 0.0, 9.0, 0.1]))
    assert curve.largest == pytest.approx(0.1)
    nothing = row("EPG", "Mass", "margin", ours[:1], np.array([ABSENT]))
    assert math.isnan(nothing.theirs)
    assert nothing.largest == 0


def test_ranks_keep_the_order_and_have_no_ties() -> None:
    maps = torch.randint(0, 4, (3, 5, 6)).float()
    ranks = untied(maps)
    for one, rank in zip(maps.flatten(1), ranks.flatten(1), strict=True):
        assert rank.sort().values.tolist() == list(range(30))
        assert (one[rank.argsort()].diff() >= 0).all()


def test_draws_are_ours_for_a_while() -> None:
    windows = windows_as_pixels([[0, 0, 2, 1], [1, 1, 3, 2]], width=3)
    assert [window.tolist() for window in windows] == [[0, 1], [4, 5]]
    with drawing(windows, times=2):
        drawn = [np.random.choice(9, 2, replace=False).tolist() for _ in range(4)]
    assert drawn == [[0, 1], [0, 1], [4, 5], [4, 5]]
    assert len(np.random.choice(9, 3)) == 3


def numbers(largest: float) -> dict:
    rows = [
        vars(Row(metric, "Theirs", "margin", 9, 0.5, 0.5, 0.5, 1, 0))
        if metric in DEFINED_OTHERWISE
        else vars(Row(metric, "Theirs", "margin", 9, 0.5, 0.5, largest, 0, 0))
        for metric in ABOUT
    ]
    return {
        "command": "python it.py",
        "measured": "2026-01-02",
        "hardware": {"cpu": "a CPU"},
        "versions": {"torch": "2"},
        "quantus": "0.6",
        "training": "train",
        "accuracy": 0.9,
        "images": 9,
        "rows": rows,
    }


def test_the_page_says_whether_they_agree() -> None:
    text = page(numbers(2e-7))
    assert "no score of any map differs by more than 2e-07." in text
    assert text.count("Defined otherwise.") == len(DEFINED_OTHERWISE)
    for metric, why in ABOUT.items():
        assert f"## {metric}\n" in text
        assert why in text
    assert "**Scores differ by up to 0.2 where both define the same thing.**" in page(numbers(0.2))
