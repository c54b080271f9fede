"""FROC and what it is made of, against cases worked out by hand."""

from __future__ import annotations

import io
import json
import re
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console

from loss_attention.bags.bag_set import BagSet, PackedInstances
from loss_attention.bags.evaluation import evaluate_bags
from loss_attention.bags.localising import SlideHits, detections, froc, lesions, slide_hits
from loss_attention.bags.measures import precision_at
from loss_attention.bags.model import BagClassifier
from loss_attention.report.tables import show_table

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


def test_lesions_of_many_tiles_at_one_place_take_little_memory() -> None:
    tracemalloc.start()
    found = lesions(np.zeros((3_000, 2)), np.ones(3_000, bool), 256)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert not found.any()
    assert most < 1e7  # all pairs of them are 72 MB


ROW = np.stack([10 * np.arange(6), np.zeros(6)], axis=1)
VALUES = np.array(
    [
        [0.2, 0.9, 0.1, 0.8, 0.3, 0.6],
        [0.5, 0.1, 0.7, 0.4, 0.05, 0.65],
        [0.85, 0.1, 0.1, 0.1, 0.1, 0.1],
        [0.05, 0.05, 0.05, 0.05, 0.05, 0.05],
    ],
    dtype=np.float32,
)


def rows_of_tiles() -> BagSet:
    """Four bags of six tiles in a row; three lesions in the first two, of 2, 1 and 1 tiles."""
    known = np.zeros((4, 6), np.int64)
    known[0, [0, 1, 5]] = known[1, 3] = 1
    return BagSet(
        PackedInstances(VALUES.reshape(-1, 1), np.full(4, 6), np.tile(ROW, (4, 1))),
        np.arange(4),
        torch.tensor([1, 1, 0, 0]),
        ("normal", "tumour"),
        tuple("ABCD"),
        tuple(known),
    )


def test_an_evaluation_has_froc_beside_its_trivial_baselines() -> None:
    model = BagClassifier(1, 2, pooling="mean", hidden=())
    with torch.no_grad():  # the evidence for tumour is a sixth of the value
        model.classifier.weight.copy_(torch.tensor([[-1.0], [1.0]]))
        model.classifier.bias.zero_()
    evaluation = evaluate_bags(model, rows_of_tiles(), train=None)
    found = evaluation.found
    assert found is not None
    assert (found.lesions, found.bags) == (3, 2)
    # Detections: A .9 .8 .6, of which .8 is false; B .7 .65 .5, all false, as .7 takes the lesion
    # beside it; C .85 .1 .1; D .05 three times. False in order: .85 .8 .7 .65 .5 .1 .1 .05 .05 .05.
    # 1/4 a bag is one: above .8; 1/2: above .7; 1 is four: above .5: two of three lesions.
    third = 1 / 3
    assert found.by["evidence"].sensitivity == pytest.approx((third, third, *[2 / 3] * 4))
    # Of equal values the first of each pair is a detection: eleven false ones tie with a found one.
    assert found.by["uniform"].sensitivity == pytest.approx((0, 0, 0, 0, third, third))
    assert found.by["weights"] == found.by["uniform"]
    metrics = {one.name: one for one in evaluation.metrics}
    assert metrics["froc_evidence"].value == pytest.approx(5 / 9)
    assert metrics["froc_weights"].value == pytest.approx(1 / 9)
    baselines = metrics["froc_evidence"].baselines
    assert baselines == {
        "uniform": pytest.approx(1 / 9),
        "random": found.by["random"].score,
    }
    assert 0 < found.by["random"].score < 1
    stored = json.loads(json.dumps(evaluation.to_json()))
    assert stored["found"]["by"]["evidence"]["score"] == pytest.approx(5 / 9)
    console = Console(file=io.StringIO(), width=100)
    for table in evaluation.tables():
        show_table(table, console)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "3 lesions in 2 bags, by false positives a bag" in said
    row = next(line for line in said.splitlines() if "0.667" in line)
    assert re.findall(r"[\w.]+", row) == ["evidence", "0.333", "0.333", *["0.667"] * 4, "0.556"]
    assert "FROC: the mean sensitivity at 1/4, 1/2, 1, 2, 4 and 8" in " ".join(said.split())


def test_without_lesions_or_coordinates_or_a_class_that_is_sought_there_is_no_froc() -> None:
    bags = rows_of_tiles()
    model = BagClassifier(1, 2, pooling="mean", hidden=())
    healthy = replace(bags, instance_labels=(np.zeros(6, np.int64),) * 4)
    nowhere = replace(bags, instances=PackedInstances(VALUES.reshape(-1, 1), np.full(4, 6)))
    three = replace(bags, class_names=("normal", "tumour", "other"))
    for some, one in (
        (healthy, model),
        (nowhere, model),
        (three, BagClassifier(1, 3, pooling="mean", hidden=())),
    ):
        found = evaluate_bags(one, some, train=None)
        assert found.found is None
        assert found.value("precision_at_1") is not None or some is healthy
        assert found.value("froc_evidence") is None
