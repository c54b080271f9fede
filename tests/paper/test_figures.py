"""Figures 4 to 7: of which networks and images, and what their captions say."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from loss_attention.data import loading
from loss_attention.data.digits import multi_digits
from loss_attention.data.sample import ImageSet
from loss_attention.paper import TARGETS, reproduce
from loss_attention.paper.figures import (
    choose_samples,
    data_words,
    samples_of,
    scores,
    sweep_cells,
    sweep_panels,
)
from loss_attention.paper.reproduction import Reproduction
from loss_attention.paper.tables import SCALES, scale, table_cells, training_key
from loss_attention.paper.trainings import Record

NO_BOX = (math.nan,) * 4


def test_the_shown_class_is_that_of_the_largest_box_of_the_labels() -> None:
    nan = NO_BOX
    boxes = [
        [(0, 0, 2, 2), (0, 0, 9, 9), (0, 0, 3, 3)],  # the largest is of no label
        [(0, 0, 5, 5), nan, nan],  # a class that has been shown
        [nan, nan, nan],  # labelled without a box
        [nan, nan, nan],  # without a label: never shown
        [(0, 0, 4, 4), (1, 1, 2, 2), nan],
    ]
    box_labels = [[0, 1, 2], [2, -1, -1], [-1, -1, -1], [-1, -1, -1], [3, 2, -1]]
    labels = [[1, 0, 1, 0], [0, 0, 1, 0], [0, 1, 0, 1], [0, 0, 0, 0], [0, 0, 1, 1]]
    data = ImageSet(
        torch.arange(5, dtype=torch.uint8).reshape(5, 1, 1, 1).expand(5, 1, 16, 16),
        torch.tensor(labels, dtype=torch.uint8),
        ("zero", "one", "two", "three"),
        torch.tensor(boxes, dtype=torch.float32),
        torch.tensor(box_labels),
    )
    index, target = choose_samples(data, 3)
    assert (index.tolist(), target.tolist()) == ([0, 2, 4], [2, 1, 3])
    index, target = choose_samples(data, 9)
    assert (index.tolist(), target.tolist()) == ([0, 1, 2, 4], [2, 2, 1, 3])

    first, *_, last = samples_of(data, index, target)
    assert (first.name, first.target, last.target) == ("test image 0", "two", "three")
    assert first.truths.tolist() == [[0, 0, 2, 2], [0, 0, 3, 3]]
    assert last.image.getpixel((3, 3)) == 4
    assert last.image.size == (16, 16)


def test_single_labels_need_no_boxes() -> None:
    images = torch.zeros(4, 3, 16, 16, dtype=torch.uint8)
    data = ImageSet(images, torch.tensor([1, 1, 0, 1]), ("zero", "one"))
    index, target = choose_samples(data, 3)
    assert (index.tolist(), target.tolist()) == ([0, 1, 2], [1, 1, 0])
    assert len(samples_of(data, index, target)[0].truths) == 0


def test_the_sweep_shares_the_trainings_of_table_6() -> None:
    for name in ("paper", "smoke"):
        swept = {training_key(cell.recipe) for cell in sweep_cells(scale(name)) if cell.recipe}
        table = {
            training_key(cell.recipe)
            for cell in table_cells("table6", scale(name))
            if cell.recipe is not None
        }
        assert table < swept
        assert len(table) == 6


def test_the_sweep_covers_the_papers_ranges() -> None:
    cells = sweep_cells(scale("paper"))
    recipes = [cell.recipe for cell in cells if cell.recipe is not None]
    assert len(recipes) == len(cells) == 4 * 2 * 9
    assert {(r.gamma_max, r.threshold) for r in recipes} == {
        *((gamma, 0.1) for gamma in (0.0, 0.1, 0.5, 1.0, 5.0)),
        *((0.1, xi) for xi in (0.0, 0.25, 0.5, 1.0)),
    }
    assert {r.backbone for r in recipes} == {"vgg11_bn", "resnet18"}
    assert {r.data for r in recipes} == {"tiny-imagenet"}
    printed = {(cell.labels, cell.column): cell.paper for cell in cells}
    assert printed[("ResNet18", "gamma_max 0.1, xi 0"), "AP"] == 52.26
    assert printed[("VGG11_bn", "gamma_max 0, xi 0.1"), "Recall"] == 29.18
    assert printed[("VGG11_bn", "gamma_max 5, xi 0.1"), "Recall"] is None


def record(**changes: Any) -> Record:
    made = Record("key", 0, {"data": "coco2014"}, {}, {}, 1.0, "", 10, {}, {}, "2030-01-01")
    return replace(made, **changes)


def test_measured_points_are_those_of_the_ledger(tmp_path: Path) -> None:
    cells = sweep_cells(scale("smoke"))
    reproduction = Reproduction(scale("smoke"), tmp_path)
    chosen = next(c for c in cells if c.labels == ("ResNet18", "gamma_max 5, xi 0.1"))
    assert chosen.recipe is not None
    key = training_key(chosen.recipe)
    for seed, ap in ((0, 0.5), (1, 0.6)):
        baselines = {
            "gt_known_loc_patches": {"whole image": 0.52},
            "accuracy": {"majority class": 0.01},
        }
        metrics = {"gt_known_loc_patches": ap, "accuracy": 0.25, "patch_recall": None}
        reproduction.ledger.add(
            record(training=key, seed=seed, metrics=metrics, baselines=baselines)
        )

    panels = sweep_panels(reproduction, cells)
    named = {(panel.parameter, panel.metric): panel.curves for panel in panels}
    assert len(panels) == len(named) == 8
    zero, usual, far = named["gamma_max", "AP"]["ResNet18"]
    assert (zero.x, usual.x, far.x) == (0.0, 0.1, 5.0)
    assert (zero.mean, zero.paper, far.paper) == (None, 53.24, None)
    assert far.mean == pytest.approx(55.0)
    assert far.standard_deviation == pytest.approx(math.sqrt(50))
    assert far.baselines == {"whole image": pytest.approx(52.0)}
    assert named["gamma_max", "Accuracy"]["ResNet18"][2].baselines == {}
    assert named["gamma_max", "Recall"]["ResNet18"][2].mean is None
    assert named["gamma_max", "AP"]["VGG11_bn"][2].mean is None


def test_captions_name_the_data_and_not_its_folder() -> None:
    found = record(source="data folder /somewhere/here: 7 training and 8 test images")
    assert data_words(found) == "coco2014, 7 training and 8 test images"
    assert data_words(record(source="scenes of digits")) == "scenes of digits"


def test_captions_give_scores_with_their_floors() -> None:
    found = record(
        metrics={"gt_known_loc_patches": 0.25, "accuracy": None},
        baselines={"gt_known_loc_patches": {"whole image": 0.5, "centred box": None}},
    )
    assert (
        scores(found, ("accuracy", "gt_known_loc_patches"))
        == "GT-known Loc (patches) 25.0% (whole image 50.0%)"
    )
    assert scores(found, ("accuracy",)) == "not defined there"


def test_without_trainings_pictures_wait_and_curves_say_what_is_missing(tmp_path: Path) -> None:
    said = io.StringIO()
    console = Console(file=said, width=10_000)
    names = ["figure4", "figure5", "figure6", "figure7"]
    outcome = reproduce(names, "smoke", tmp_path, train=False, console=console)

    assert {path.stem for path in outcome.written} == {"figure7"}
    assert not outcome.problems
    lines = said.getvalue().splitlines()
    for name in names[:3]:
        (line,) = (line for line in lines if line.startswith(name))
        assert "is not drawn: no trained weights in" in line
    numbers = json.loads((tmp_path / "smoke" / "figure7.json").read_text(encoding="utf-8"))
    assert "Missing, as not measured yet: 10 of 10 trainings." in numbers["caption"]
    assert "Scale smoke: tiny" in numbers["caption"]
    assert len(numbers["panels"]) == 8
    means = [
        point["mean"]
        for panel in numbers["panels"]
        for curve in panel["curves"].values()
        for point in curve
    ]
    assert means == [None] * (8 * 2 * 3)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reproduction]:
    """Figures 4 to 6 of two tiny networks, and the data that they were trained on."""
    out = tmp_path_factory.mktemp("figures")
    with pytest.MonkeyPatch.context() as patch:  # 10,000 scenes take longer than all the rest
        patch.setitem(loading.MADE, "multi-digits", partial(multi_digits, train=40, test=40))
        outcome = reproduce(["figure4", "figure5", "figure6"], "smoke", out)
        assert not outcome.problems
        assert len(outcome.written) == 3 * 4
        yield Reproduction(scale("smoke"), out)


def numbers_of(reproduction: Reproduction, name: str) -> dict[str, Any]:
    path = reproduction.out / "smoke" / f"{name}.json"
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def test_trained_networks_are_shown_with_their_own_maps(trained: Reproduction) -> None:
    shown = numbers_of(trained, "figure4")
    maps = {system["system"]: torch.tensor(system["heat_maps"]) for system in shown["systems"]}
    assert list(maps) == [
        "Grad-CAM of the baseline",
        "Grad-CAM of Loss-Attention",
        "Evidence of Loss-Attention",
    ]
    assert all(values.shape == (6, 16, 16) for values in maps.values())
    assert maps["Grad-CAM of the baseline"].min() >= 0

    (cell,) = TARGETS["figure5"].cells(scale("smoke"))
    assert cell.weights
    assert cell.recipe is not None
    network = trained.trained(cell.recipe)
    test = network.splits.test
    names = [entry["name"] for entry in shown["samples"]]
    index = torch.tensor([int(name.removeprefix("test image ")) for name in names])
    target = torch.tensor([test.class_names.index(entry["class"]) for entry in shown["samples"]])
    assert test.label_matrix()[index, target].all()
    said = network.model.explain(test.images[index], target)
    evidence = maps["Evidence of Loss-Attention"]
    torch.testing.assert_close(evidence, said.heat_maps, rtol=1e-3, atol=1e-5)
    given = torch.tensor(shown["systems"][2]["probabilities"])
    own = said.probabilities[torch.arange(len(index)), target]
    torch.testing.assert_close(given, own, rtol=1e-3, atol=1e-5)

    entries = {name: numbers_of(trained, name)["samples"] for name in ("figure5", "figure6")}
    (patches,) = (entry for entry in entries["figure5"] if entry["name"] == names[0])
    assert patches["selected"] == said.selected[0].nonzero().squeeze(1).tolist()
    (box,) = (entry for entry in entries["figure6"] if entry["name"] == names[0])
    assert box["predicted"] == said.boxes[0].tolist()


def test_captions_name_data_scale_and_seed(trained: Reproduction) -> None:
    for name in ("figure4", "figure5", "figure6"):
        caption = numbers_of(trained, name)["caption"]
        assert caption.startswith(f"Figure {name[-1]}. ")
        assert "Data: scenes of scikit-learn's scanned digits" in caption
        assert f"Scale smoke: {SCALES['smoke'].summary}; seed 0." in caption
    assert "GT-known Loc (patches)" in numbers_of(trained, "figure6")["caption"]
    assert "uniform" in numbers_of(trained, "figure5")["caption"]


def test_drawing_again_trains_nothing(trained: Reproduction) -> None:
    ledger = (trained.out / "ledger.json").read_bytes()
    outcome = reproduce(["figure5"], "smoke", trained.out, train=False)
    assert len(outcome.written) == 4
    assert (trained.out / "ledger.json").read_bytes() == ledger


def test_what_cannot_be_drawn_is_a_problem_in_a_line(trained: Reproduction) -> None:
    (cell,) = TARGETS["figure6"].cells(scale("smoke"))
    assert cell.recipe is not None
    # Weights of other settings under this training's name.
    moved = replace(cell.recipe, learning_rate=0.5)
    trainings = trained.out / "trainings"
    (trainings / training_key(moved)).symlink_to(trainings / training_key(cell.recipe))
    cells = [replace(cell, recipe=moved)]
    assert TARGETS["figure6"].write(trained, cells, trained.out / "smoke") == []
    (problem,) = trained.problems
    assert problem.startswith("figure6 is not drawn: ")
    assert "\n" not in problem
