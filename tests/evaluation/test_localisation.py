"""Localisation, and its trivial baselines, against values worked out by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from evaluation.canned import BASELINES, CLASSES, LOCAL, NEED_A_THRESHOLD, NONE, Canned
from torch import Tensor

from loss_attention.evaluation.baselines import answers, see
from loss_attention.evaluation.measuring import evaluate
from loss_attention.prediction import ImagePrediction, PatchPrediction, RoutedPrediction


def test_hand_worked_example(worked) -> None:
    model, data, train = worked
    found = evaluate(model, data, train=train, split="held-out")
    # Image 0: B = {0, 1}, S&A = {0, 2}, found {0}; 0.8 inside; whole image on half a box: wrong.
    # Image 1: B = {3}, S&A = {3}, found {3}; 1.0 inside; box right.
    # Image 2: not counted, as it has no box.
    # Image 3: B = {0, 2}, S&A = {}; 1.0 inside; 4 x 8 on 3 x 8 pixels: right.
    # Image 4: B = all four, S&A = {0, 1}, found both; 1.0 inside; 8 x 8 on 8 x 7 pixels: right.
    # Evidence for the label: image 0 has 5 and 2 of 7 in patches 0 and 2, of which 5 inside; image
    # 1 all in patch 3; image 3 none; image 4 has 5 each in 0 and 1, all inside.
    # The best centred box is 7 x 4.5 of 16 x 16 pixels (31.5, just below twice the true 16), so
    # 3.5 x 2.25 here. It fills half of no patch, so the nearest, all four, stand for it. Of its
    # pixels, x 2 to 5 and y 3 to 4, the boxes hold 4, 2, 2 and 8 of 8.
    same = {"whole image": 4 / 10, "centred box": 4 / 10, "uniform": 4 / 10}
    recall = dict.fromkeys(same, 4 / 9)
    quarter = dict.fromkeys(same, 2.25 / 4)
    expected = {
        "accuracy": (4 / 5, {"majority class": 3 / 5}),
        "balanced_accuracy": ((2 / 3 + 1) / 2, {"majority class": 1 / 2}),
        "patch_precision": (4 / 5, same),
        "patch_recall": (4 / 9, recall),
        "patch_f1": (8 / 14, dict.fromkeys(same, 8 / 19)),
        "weight_inside": (3.8 / 4, quarter),
        "energy_pointing_game": (
            # The boxes cover 32, 16, 24 and 56 of 64 pixels.
            (5 / 7 + 1 + 0 + 1) / 4,
            {"whole image": 128 / 256, "centred box": 16 / 32, "uniform": 128 / 256},
        ),
        "pointing_game": (3 / 4, {"whole image": 2 / 4}),
        "gt_known_loc_patches": (
            3 / 4,
            {"whole image": 1 / 4, "centred box": 0.0, "uniform": 1 / 4},
        ),
        "top1_loc_patches": (3 / 4, {"whole image": 1 / 4}),
    }
    for name, (value, baselines) in expected.items():
        assert found.value(name) == pytest.approx(value), name
        for baseline, score in baselines.items():
            assert found[name].baselines[baseline] == pytest.approx(score), (name, baseline)
    assert [metric.name for metric in found.metrics] == [*CLASSES, *LOCAL]
    for name in LOCAL:
        assert list(found[name].baselines) == BASELINES
    assert (found.split, found.images, found.boxed_images) == ("held-out", 5, 4)
    assert found.per_image is not None
    assert found.per_image.predictions.tolist() == [0, 1, 1, 1, 0]
    assert found.per_image.correct.tolist() == [True, True, False, True, True]
    sure = np.e / (np.e + 1)
    assert found.per_image.probabilities.tolist() == pytest.approx([sure] * 5)


def test_the_centred_box_is_fitted_to_the_training_set(worked) -> None:
    model, data, train = worked
    boxes = torch.tensor([[[0.0, 0.0, 16.0, 14.0]], [NONE], [NONE]])
    found = evaluate(model, data, train=dataclasses.replace(train, boxes=boxes))
    baselines = found["gt_known_loc_patches"].baselines
    assert (baselines["whole image"], baselines["centred box"]) == (0.25, 0.25)


def test_hand_worked_boxes_around_heat_maps(worked) -> None:
    model, data, train = worked
    found = evaluate(model, data, train=train, held_out=data)
    # Image 0: above 0.4 of the maximum patch 0 alone, half of the true box; below it with patch 2,
    # an IoU of 16 / 48. Image 1: the true box. Image 3: no evidence. Image 4: 32 of 56 pixels.
    # By its spread: image 1 and 4 as by patches. Image 0's 5 and 2 are at y 22/7 +- 2.15 and at x 2
    # +- 1.15, which at no reach is half of an 8 x 4 box.
    expected = {
        "gt_known_loc_spread": 2 / 4,
        "top1_loc_spread": 2 / 4,
        "gt_known_loc_heat_map": 2 / 4,
        "top1_loc_heat_map": 2 / 4,
        "gt_known_loc_small": 1 / 2,  # of images 1 and 3, with 1/4 and 3/8 of the image
        "max_box_acc_v2_0.3": 3 / 4,
        "max_box_acc_v2_0.5": 3 / 4,
        "max_box_acc_v2_0.7": 1 / 4,
        "max_box_acc_v2": 7 / 12,
        # Class 0 has three true boxes: image 4's is found, image 0's by patch 0 alone with IoU
        # 1/2, nobody looks for image 1's; so precision 1 up to recall 2/3, 67 of the 101 recalls.
        # Class 1 has two: image 1's is found, and image 3 has no evidence: up to recall 1/2.
        "detection_ap50": (67 / 101 + 51 / 101) / 2,
    }
    for name, value in expected.items():
        assert found.value(name) == pytest.approx(value), name
        if name.startswith("max_box") or name == "gt_known_loc_heat_map":
            assert found.value(f"{name}_oracle") == pytest.approx(value), name
    need_none = {"top1_loc_spread", "top1_loc_heat_map", "gt_known_loc_small", "max_box_acc_v2"}
    assert set(found.thresholds) == set(NEED_A_THRESHOLD) - need_none
    assert 0.4 <= found.thresholds["max_box_acc_v2_0.5"] < 1
    assert 0.4 <= found.thresholds["detection_ap50"] < 1
    whole = [found[name].baselines["whole image"] for name in expected if name != "detection_ap50"]
    # Boxes of 1/2, 1/4, 3/8 and 7/8 of the image; at 1/2, at least is not above.
    assert whole == pytest.approx([1 / 4] * 4 + [0.0] + [3 / 4, 2 / 4, 1 / 4, 6 / 12])


def test_where_the_class_has_to_be_right_too(worked) -> None:
    model, data, _ = worked
    wrong = model.answers.logits.clone()
    wrong[4] = wrong[4].flip(0)
    mistaken = Canned(dataclasses.replace(model.answers, logits=wrong))
    found = evaluate(mistaken, data, held_out=data)
    assert (found.value("gt_known_loc_patches"), found.value("top1_loc_patches")) == (3 / 4, 2 / 4)
    assert (found.value("gt_known_loc_heat_map"), found.value("top1_loc_heat_map")) == (
        2 / 4,
        1 / 4,
    )
    assert (found.value("gt_known_loc_spread"), found.value("top1_loc_spread")) == (2 / 4, 1 / 4)
    assert found["top1_loc_patches"].baselines["whole image"] == 0  # right for image 4 alone


def test_thresholds_are_those_of_the_held_out_images(worked) -> None:
    model, data, train = worked
    only_the_oracle_is_right = data.subset(torch.tensor([0]))
    # Held out: on image 0 seen the other way, the box around both of its patches is right.
    assert data.boxes is not None
    boxes = data.boxes[:1].clone()
    boxes[0, 0] = torch.tensor([0.0, 0.0, 4.0, 8.0])
    held_out = dataclasses.replace(only_the_oracle_is_right, boxes=boxes)
    found = evaluate(model, only_the_oracle_is_right, train=train, held_out=held_out)
    assert found.thresholds["max_box_acc_v2_0.5"] < 0.4
    assert found.value("max_box_acc_v2_0.5") == 0.0
    assert found.value("max_box_acc_v2_0.5_oracle") == 1.0
    # What settings may be chosen by: the scores of those images, at the same thresholds.
    assert found.held_out["max_box_acc_v2_0.5"] == 1.0
    assert found.held_out["gt_known_loc_patches"] == evaluate(model, held_out).value(
        "gt_known_loc_patches"
    )
    assert set(found.held_out) == {name for name in LOCAL if not name.endswith("_oracle")}
    without = evaluate(model, data, train=train, held_out=data.subset(torch.arange(0)))
    assert without.thresholds == without.held_out == {}
    undefined = [metric.name for metric in without.metrics if metric.value is None]
    assert undefined == NEED_A_THRESHOLD


def test_weights_without_evidence_have_patch_figures_only(worked) -> None:
    model, data, train = worked

    class Routed(Canned):
        def forward(self, images: Tensor) -> ImagePrediction:
            seen = super().forward(images)
            assert isinstance(seen, PatchPrediction)
            scores = seen.patch_logits
            return RoutedPrediction(
                seen.logits, scores, scores, seen.patch_weights, seen.grid, seen.selection
            )

    with_evidence = evaluate(model, data, train=train)
    found = evaluate(Routed(model.answers), data, train=train, held_out=data)
    shared = [*CLASSES, *LOCAL[:4], "gt_known_loc_patches", "top1_loc_patches"]
    assert [metric.name for metric in found.metrics] == shared
    for name in shared:
        assert found[name] == with_evidence[name]
    assert found.thresholds == {}


def test_masks_bring_the_average_precision_of_pixels(worked) -> None:
    model, data, train = worked
    masks = torch.zeros(5, 8, 8, dtype=torch.bool)
    masks[0, :4, :4] = True  # patch 0: all of the evidence above 0.4, of image 0
    masks[1, 4:, 4:] = True
    masked = dataclasses.replace(data, masks=masks)
    found = evaluate(model, masked, train=train)
    assert found.masked_images == int(masks.any(dim=(1, 2)).sum())
    assert found.value("pxap") == pytest.approx(1.0)
    # 32 of the 128 pixels of the two images with a mask.
    assert found["pxap"].baselines["whole image"] == pytest.approx(1 / 4)
    assert "pxap" not in evaluate(model, data, train=train)


def test_random_weights_are_the_models_own(worked) -> None:
    model, data, train = worked
    data, train = (part.subset(torch.arange(len(part)).repeat(24)) for part in (data, train))
    found = evaluate(model, data, train=train)
    again = evaluate(model, data, train=train, batch_size=37)
    for name in LOCAL:
        assert found[name].baselines == pytest.approx(again[name].baselines, abs=1e-6)
    # A shuffled weight is inside with the chance that a patch is.
    shares = found["weight_inside"].baselines
    assert shares["random"] == pytest.approx(shares["uniform"], abs=0.1)
    assert shares["random"] != pytest.approx(shares["uniform"], abs=1e-4)


@pytest.mark.parametrize("filler", [float("nan"), 1e30])
def test_masked_patches_are_in_no_answer(worked, filler: float) -> None:
    model, data, train = worked
    mask = torch.ones(5, 4, dtype=torch.bool)
    mask[0, 1] = mask[4, 0] = mask[4, 2] = False
    weights = model.answers.patch_weights.masked_fill(~mask, 0)
    weights = (weights / weights.sum(dim=1, keepdim=True)).masked_fill(~mask, filler)
    logits = model.answers.patch_logits.masked_fill(~mask.unsqueeze(2), filler)
    bags = dataclasses.replace(model.answers, patch_logits=logits, patch_weights=weights, mask=mask)
    masks = data.label_matrix().new_zeros(5, 8, 8).bool()
    masks[:, 2:] = True
    found = evaluate(
        Canned(bags), dataclasses.replace(data, masks=masks), train=train, held_out=data
    )
    # Image 0: B = {0}, S&A = {0, 2}, found {0}; 5 of 7 inside; the left half of the image, of
    # which the box has half. Image 1: B = {3}, found {3}. Image 3: B = {0, 2}, S&A = {}, inside.
    # Image 4: B = {1, 3}, S&A = {1}, found {1}; all inside; the right half is not above 8 x 7 / 2.
    every = {"whole image": 3 / 9, "centred box": 3 / 9, "uniform": 3 / 9}
    expected = {
        "patch_precision": (3 / 4, every),
        "patch_recall": (3 / 6, dict.fromkeys(every, 3 / 6)),
        "weight_inside": (
            (5 / 7 + 1 + 1 + 1) / 4,
            dict.fromkeys(every, (1 / 3 + 1 / 4 + 1 / 2 + 1) / 4),
        ),
        "gt_known_loc_patches": (2 / 4, {"uniform": 0.0}),
        "energy_pointing_game": ((5 / 7 + 1 + 0 + 1) / 4, {}),
    }
    for name, (value, baselines) in expected.items():
        assert found.value(name) == pytest.approx(value), name
        for baseline, score in baselines.items():
            assert found[name].baselines[baseline] == pytest.approx(score), (name, baseline)
    for metric in found.metrics:
        assert all(value == value for value in (metric.value, *metric.baselines.values()))
    # Shuffled or by edges, the weights stay on real patches and sum to 1.
    scene = see(data, Canned(bags)(data.images), competing=True)
    assert scene is not None
    for _, answer in answers(bags, scene, [(1.0, 1.0)] * 3, torch.Generator().manual_seed(0)):
        assert not answer.selected[~mask].any()
        assert not answer.weights[~mask].any()
        torch.testing.assert_close(answer.weights.sum(dim=1), torch.ones(5))


def test_without_training_set_fitted_floors_are_empty(worked) -> None:
    model, data, train = worked
    found = evaluate(model, data)
    assert found["accuracy"].baselines["majority class"] is None
    assert found["gt_known_loc_patches"].baselines["whole image"] == 0.25
    for name in LOCAL:
        assert found[name].baselines["centred box"] is None
    boxless = evaluate(model, data, train=dataclasses.replace(train, boxes=None, box_labels=None))
    assert boxless["accuracy"].baselines == {"majority class": 0.6, "chance level": 0.5}
    assert boxless["gt_known_loc_patches"].baselines["centred box"] is None


def test_without_boxes_or_patches_only_the_classification_is_measured(worked) -> None:
    model, data, train = worked
    boxless = evaluate(model, dataclasses.replace(data, boxes=None, box_labels=None), train=train)
    assert [metric.name for metric in boxless.metrics] == list(CLASSES)
    assert boxless.boxed_images == 0
    flat = evaluate(Canned(ImagePrediction(model.answers.logits)), data, train=train)
    assert [metric.name for metric in flat.metrics] == list(CLASSES)
    assert flat["accuracy"] == boxless["accuracy"]
    assert "gt_known_loc_patches" not in flat
    with pytest.raises(KeyError, match="'gt_known_loc_patches' is not among accuracy, "):
        flat["gt_known_loc_patches"]


def test_boxes_of_other_classes_only_leave_everything_undefined(worked) -> None:
    model, data, train = worked
    assert data.box_labels is not None
    alien = dataclasses.replace(data, box_labels=torch.full_like(data.box_labels, -1))
    found = evaluate(model, alien, train=train)
    assert found.boxed_images == 0
    for name in LOCAL:
        assert found.value(name) is None
        assert set(found[name].baselines.values()) == {None}
