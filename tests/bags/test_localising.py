"""FROC and what it is made of, against cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from loss_attention.bags.localising import SlideHits, detections, froc, lesions, slide_hits
from loss_attention.bags.measures import precision_at

# A row of tiles with sides of 10: two lesions, of two tiles and of one.
PLACES = np.array([[0, 0], [10, 0], [30, 0], [50, 0], [70, 0], [60, 10]])
TUMOUR = np.array([True, True, False, False, True, False])
SCORES = np.array([0.2, 0.9, 0.8, 0.7, 0.6, 0.1])


def test_lesions_are_tiles_that_touch() -> None:
    assert lesions(PLACES, TUMOUR, 10).tolist() == [0, 0, -1, -1, 1, -1]
    corner = np.array([[0, 0], [10, 10], [25, 10]])  # the second touches at a corner
    assert lesions(corner, np.ones(3, bool), 10).tolist() == [0, 0, 0]
    apart = np.array([[0, 0], [20, 0]])
    assert lesions(apart, np.ones(2, bool), 10).tolist() == [0, 1]
    assert lesions(PLACES, np.zeros(6, bool), 10).tolist() == [-1] * 6


def test_a_stronger_detection_suppresses_its_neighbours() -> None:
    # 0.9 takes its neighbour 0.2; 0.6 takes 0.1, which is 14.1 away.
    assert detections(PLACES, SCORES, 15).tolist() == [1, 2, 3, 4]
    # Within 20, 0.9 takes 0.8 too; that one takes nothing, so 0.7 stays, and takes 0.6 and 0.1.
    assert detections(PLACES, SCORES, 20).tolist() == [1, 3]


def test_a_lesion_is_found_once_and_the_rest_is_false() -> None:
    found = slide_hits(PLACES, SCORES, TUMOUR, tile=10, radius=5)
    assert found.lesions.tolist() == [0.9, 0.6]  # 0.2 is in the first too, and no false positive
    assert found.false_positives.tolist() == [0.8, 0.7, 0.1]
    missed = slide_hits(PLACES, SCORES, TUMOUR, tile=10, radius=20)
    assert missed.lesions.tolist() == [0.9, -np.inf]


def test_froc_by_hand() -> None:
    slides = [
        SlideHits(np.array([0.9, 0.6]), np.array([0.8, 0.7])),
        SlideHits(np.array([0.75, -np.inf]), np.array([0.5])),
        SlideHits(np.array([]), np.array([0.85, 0.65])),
        SlideHits(np.array([]), np.array([])),
    ]
    # 4 slides, 4 lesions; false positives in order: .85 .8 .7 .65 .5
    # 1/4 a slide is one: thresholds above .8: .9 alone; 1/2: above .7: .9 and .75;
    # 1 is four: above .5: all three that any detection is in; more finds no more.
    found = froc(slides)
    assert found.sensitivity == (0.25, 0.5, 0.75, 0.75, 0.75, 0.75)
    assert found.score == pytest.approx(3.75 / 6)
    tied = froc([SlideHits(np.array([0.5]), np.array([0.5, 0.4]))], [0.5, 1])
    assert tied.sensitivity == (0.0, 1.0)  # a threshold lets both of a tie in
    with pytest.raises(ValueError, match="a lesion on one at least"):
        froc([SlideHits(np.array([]), np.array([0.1]))])


def test_precision_at_k_of_a_slide() -> None:
    assert precision_at(TUMOUR, SCORES, 3) == pytest.approx(1 / 3)  # .9 of .9 .8 .7
    assert precision_at(TUMOUR, SCORES, 5) == 0.6  # and .6 and .2
