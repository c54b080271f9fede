"""Localisation of other maps than the evidence, and with a tolerance for small objects."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from evaluation.canned import Canned, numbered
from heads.used import used_model

from loss_attention.errors import InputError
from loss_attention.evaluation.measuring import evaluate
from loss_attention.evaluation.metric import Evaluation
from loss_attention.geometry import PatchGrid, paint_patches
from loss_attention.metrics.localisation import NEAR, energy_pointing, pixels_in_boxes
from loss_attention.prediction import PatchPrediction

SIDE, GRID = 16, PatchGrid(4, 4, window=4, stride=4, height=16, width=16)


def model_and_images():
    """Six images of 16 patches, with boxes of a pixel or two."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 16, 3, generator=generator)
    weights = torch.rand(6, 16, generator=generator)
    weights /= weights.sum(dim=1, keepdim=True)
    image = torch.einsum("bm,bmk->bk", weights, logits)
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    corner = torch.randint(0, 14, (6, 1, 2), generator=generator).float()
    boxes = torch.cat([corner, corner + 2], dim=2)
    data = numbered(labels, 3, SIDE, boxes=boxes, box_labels=labels.unsqueeze(1))
    return Canned(PatchPrediction(image, logits, weights, GRID, 0.0)), data


@pytest.mark.parametrize("name", ["margin", "contrast", "evidence", None])
def test_the_map_that_is_asked_for_is_measured(name) -> None:
    model, data = model_and_images()
    found = evaluate(model, data, map=name, within=2)
    assert found.map == (name or "margin")
    values = model.answers.map_of(name or "margin", data.labels)
    maps = paint_patches(values, GRID).clamp(min=0)
    inside = pixels_in_boxes(data.boxes, SIDE, SIDE)
    energy = energy_pointing(maps, inside).mean()
    assert found.value("energy_pointing_game") == pytest.approx(float(energy), abs=1e-6)
    near, pointed = [], []
    for one, box in zip(maps.numpy(), data.boxes[:, 0].long().tolist(), strict=True):
        away = np.zeros((SIDE, SIDE))
        for y in range(SIDE):
            for x in range(SIDE):
                pixels = [(v, u) for v in range(box[1], box[3]) for u in range(box[0], box[2])]
                away[y, x] = min(np.hypot(y - v, x - u) for v, u in pixels)
        near.append(one[away <= 2].sum() / max(one.sum(), 1e-12))
        window = np.argwhere(one == one.max()).mean(axis=0).round(6)
        pixel = np.ceil(window).astype(int)  # of the middle four, the last
        pointed.append(away[tuple(pixel)] <= 2 and one.max() > 0)
    assert found.value("evidence_within_2_px") == pytest.approx(np.mean(near), abs=1e-5)
    assert found.value("pointing_within_2_px") == pytest.approx(np.mean(pointed))
    metric = found["evidence_within_2_px"]
    assert metric.label == "positive evidence within 2 px"
    assert set(metric.baselines) == {"whole image", "centred box", "uniform", "random", "edges"}
    assert 0 < metric.baselines["whole image"] < 0.2  # about 16 pixels of 256


def test_masks_are_what_is_near_where_there_are_any() -> None:
    model, data = model_and_images()
    masks = pixels_in_boxes(data.boxes, SIDE, SIDE)
    boxes = evaluate(model, data, within=2)
    masked = evaluate(model, dataclasses.replace(data, masks=masks), within=2)
    bare = evaluate(
        model, dataclasses.replace(data, masks=masks, boxes=None, box_labels=None), within=2
    )
    for name in ("evidence_within_2_px", "pointing_within_2_px"):
        assert masked.value(name) == pytest.approx(boxes.value(name))
        assert bare.value(name) == pytest.approx(boxes.value(name))
    # What needs a box is not shown where there is none.
    assert [one.name for one in bare.metrics if one.group.startswith("localisation")] == [
        "evidence_within_2_px",
        "pointing_within_2_px",
        "pxap",
        "empty_maps",
    ]
    masks[1:] = False  # one image alone has a mask
    one = evaluate(model, dataclasses.replace(data, masks=masks), within=2)
    first = evaluate(model, data.subset(torch.arange(1)), within=2)
    value = first.value("evidence_within_2_px")
    assert one.value("evidence_within_2_px") == pytest.approx(value)


def test_in_small_images_all_would_be_near() -> None:
    model, data = model_and_images()
    assert "evidence_within_2_px" in evaluate(model, data, within=2)
    for within in (3, NEAR):
        assert f"evidence_within_{within}_px" not in evaluate(model, data, within=within)
    with pytest.raises(InputError, match="`within` must be at least 1 pixel, got 0"):
        evaluate(model, data, within=0)


def test_of_several_labels_the_evidence_alone_is_measured() -> None:
    model = used_model(multi_label=True, num_classes=5)
    data = numbered(torch.ones(2, 5, dtype=torch.int64), 5, side=24)
    data = dataclasses.replace(
        data, images=data.images.expand(-1, 3, -1, -1), class_names=model.class_names
    )
    with pytest.raises(InputError, match="`map` margin is for models of one label"):
        evaluate(model, data, map="margin")
    assert evaluate(model, data).map == "evidence"


def test_a_head_without_evidence_has_no_map_to_ask_for() -> None:
    model = used_model(head="capsule-dynamic-routing", image_size=(24, 24))
    data = numbered(torch.zeros(2, dtype=torch.int64), 5, side=24)
    data = dataclasses.replace(
        data, images=data.images.expand(-1, 3, -1, -1), class_names=model.class_names
    )
    with pytest.raises(InputError, match="`map` needs a head with exact evidence"):
        evaluate(model, data, map="margin")


def test_how_many_maps_are_empty_is_told_beside_the_margin() -> None:
    model, data = model_and_images()
    answers = model.answers
    answers.patch_logits[:2] = torch.tensor([0.0, 0.0, 9.0])  # of the third class, both of others
    answers.patch_logits[2, 1:] = torch.tensor([9.0, 0.0, 0.0])  # one patch is left
    answers.patch_logits[2, 0] = torch.tensor([0.0, 0.0, 9.0])
    evidence = (answers.patch_weights.unsqueeze(2) * answers.patch_logits).double().numpy()
    empty = []
    for i, label in enumerate(data.labels.tolist()):
        rivals = np.delete(evidence[i], label, axis=1).max(axis=1)
        empty.append(bool((evidence[i, :, label] <= rivals).all()))
    assert empty[:3] == [True, True, False]
    found = evaluate(model, data)
    metric = found["empty_maps"]
    assert metric.value == pytest.approx(np.mean(empty))
    assert not metric.higher_is_better
    assert metric.baselines["whole image"] == metric.baselines["uniform"] == 0
    assert metric.baselines["random"] == metric.value  # the same map, shuffled
    assert "empty_maps" not in evaluate(model, data, map="evidence")
    assert Evaluation.from_json(found.to_json())["empty_maps"] == metric
    # Of masks alone, of the images that have one.
    masks = pixels_in_boxes(data.boxes, SIDE, SIDE)
    masks[3:] = False
    bare = dataclasses.replace(data, masks=masks, boxes=None, box_labels=None)
    assert evaluate(model, bare).value("empty_maps") == pytest.approx(2 / 3)
