"""Locality of whole models: every head, transformers too; which images and patches, and metrics."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from attribution.colour_scenes import colour_model, scenes
from heads.used import WEIGHTED_HEADS, used_baseline, used_model

import loss_attention as la
from loss_attention.data.sample import ImageSet
from loss_attention.errors import InputError
from loss_attention.evaluation import locality as measuring
from loss_attention.evaluation.locality import class_vectors, draw_pairs, plan_locality
from loss_attention.evaluation.measuring import evaluate, for_inference
from loss_attention.evaluation.metric import LOCALITY, Evaluation
from loss_attention.geometry import PatchGrid
from loss_attention.prediction import PatchPrediction, RoutedPrediction

NAMES = ("window", "r90", "r90_by_window", "same_top_class")


def images_for(model: la.PatchClassifier, count: int = 10, side: int = 20) -> ImageSet:
    pixels = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8)
    classes = len(model.class_names)
    labels = torch.arange(count) % classes
    if model.multi_label:
        labels = torch.eye(classes, dtype=torch.uint8)[labels]
    return ImageSet(pixels, labels, tuple(model.class_names))


def measured(model: la.PatchClassifier, data: ImageSet, **options):
    return plan_locality(model, data, **options).run()


@pytest.mark.parametrize("head", WEIGHTED_HEADS)
def test_every_head_from_none_to_all(head: str) -> None:
    model = used_model(head=head, image_size=(20, 20))
    data = images_for(model)
    told = []
    task = plan_locality(model, data, images=6)
    found = task.run(progress=lambda *now: told.append(now))
    assert found.images == 6
    assert told[-1] == (task.passes, task.passes)
    for curve in (found.random, found.heaviest):
        assert (curve.sides[0], curve.window, curve.sides[-1]) == (0, 9, 20)
        assert (curve.values[0], curve.values[-1]) == (0.0, 1.0)
        assert all(value < 1 for value in curve.values[:-1])
        assert curve.r90 in curve.sides
        assert curve.same_top_class[-1] == 1.0
    assert measured(model, data, images=6) == found
    assert measured(model, data, images=6, seed=1) != found


@pytest.mark.parametrize("name", ["timm/test_vit", "timm/test_resnet"])
def test_a_transformer_sees_all_and_needs_no_receptive_field(name: str) -> None:
    model = la.create_model(
        name, num_classes=4, patch_kernel=1, patch_stride=1, width=0.1, levels=(16,)
    ).eval()
    found = measured(model, images_for(model, side=160), images=2)
    assert found.random.window == 16
    assert found.random.values[0] == 0.0
    assert found.random.values[-1] == 1.0
    assert found.random.in_window is not None
    if "vit" in name:
        assert model.receptive_field is None
        assert all(value < 1 for value in found.random.values[:-1])


def test_one_from_the_receptive_field_on_and_not_before() -> None:
    model = used_model(backbone="vgg11_bn")  # 25 pixels: 8 around the window of 9
    assert model.receptive_field[:2] == (25, 4)
    found = measured(model, images_for(model, count=8, side=48), images=4)
    for side, value in zip(found.random.sides, found.random.values, strict=True):
        assert value == pytest.approx(1.0, abs=1e-9) if side >= 25 else value < 1 - 1e-7


def test_a_model_that_sees_its_windows_alone() -> None:
    """Each patch has the mean of its 3 x 3 pixels, whatever surrounds them."""
    found = evaluate(colour_model(), scenes(40), locality=30)
    assert found.locality is not None
    assert found.locality.images == 30
    for which in ("random", "heaviest"):
        assert found.value(f"locality_window_{which}") == pytest.approx(1.0, abs=1e-9)
        assert found.value(f"locality_r90_{which}") == 3
        assert found.value(f"locality_r90_by_window_{which}") == 1
        assert found.value(f"locality_same_top_class_{which}") == 1
        whole = found[f"locality_window_{which}"].baselines["whole image"]
        assert whole == pytest.approx(9 / 144)
        # A square of 9 pixels has less than 90 % of the image.
        assert found[f"locality_r90_{which}"].baselines == {"whole image": 12.0}
        other = found[f"locality_same_top_class_{which}"].baselines["other image"]
        assert 0 < other < 1


def test_what_is_shown_and_written() -> None:
    model, data = colour_model(), scenes(40)
    found = evaluate(model, data)
    names = [metric.name for metric in found.metrics if metric.group == LOCALITY]
    assert names == [f"locality_{x}_{which}" for which in ("random", "heaviest") for x in NAMES]
    text = json.dumps(found.to_json(), allow_nan=False)
    assert json.loads(text)["locality"]["random"]["window"] == 3
    assert Evaluation.from_json(json.loads(text)) == found
    old = {name: value for name, value in json.loads(text).items() if name != "locality"}
    assert Evaluation.from_json(old).locality is None
    for damaged in ({"images": 3}, {**json.loads(text)["locality"], "random": 7}):
        with pytest.raises(InputError, match="not an evaluation that loss-attention wrote"):
            Evaluation.from_json({**old, "locality": damaged})
    without = evaluate(model, data, locality=0)
    assert without.locality is None
    assert not any(metric.group == LOCALITY for metric in without.metrics)
    with pytest.raises(InputError, match="`locality` must be at least 0 images, got -1"):
        evaluate(model, data, locality=-1)


def test_progress_counts_its_forward_passes_too() -> None:
    model, data, ticks = colour_model(), scenes(40), []
    evaluate(model, data, batch_size=16, progress=lambda *now: ticks.append(now))
    task = plan_locality(model, data)
    assert len(task.index) == measuring.LEAST_IMAGES
    total = 40 + task.passes
    assert ticks[:3] == [(16, total), (32, total), (40, total)]
    assert ticks[-1] == (total, total)
    assert [done for done, _ in ticks] == sorted(done for done, _ in ticks)


def test_it_costs_a_part_of_the_evaluation() -> None:
    model = colour_model()
    for count, wanted in ((40, 8), (520, 13), (8000, 64)):
        # 12 x 12 pixels and a window of 3: 3, 5, 7 and 9 of both patches, and both images.
        task = plan_locality(model, scenes(2).subset(torch.arange(count) % 2))
        assert len(task.index) == wanted
        assert task.passes == 10 * wanted
    assert len(plan_locality(model, scenes(40), images=20).index) == 20


def test_where_it_cannot_be_measured() -> None:
    baseline = used_baseline()
    with pytest.raises(InputError, match="the model has no patches"):
        plan_locality(baseline, images_for(baseline, side=32))
    assert evaluate(baseline, images_for(baseline, side=32)).locality is None
    model, one_class = colour_model(), scenes(20).subset(torch.tensor([0, 9, 18]))
    with pytest.raises(InputError, match="no image has one of another class"):
        plan_locality(model, one_class)
    assert evaluate(model, one_class).locality is None
    assert evaluate(model, scenes(1)).locality is None


def test_a_model_that_says_the_same_of_everything_has_none() -> None:
    model = colour_model()
    with torch.no_grad():
        model.head.classifier.weight.zero_()
    found = evaluate(model, scenes(20))
    assert found.locality is not None
    assert found.locality.random.values == ()
    assert found.value("locality_window_random") is None
    assert found.value("locality_r90_heaviest") is None
    json.dumps(found.to_json(), allow_nan=False)


def test_another_class_is_one_of_none_of_the_labels() -> None:
    labels = torch.tensor([0, 1, 1, 1])
    index, others = draw_pairs(labels, 10, seed=0)
    assert sorted(index.tolist()) == [0, 1, 2, 3]
    assert (labels[index] != labels[others]).all()
    several = torch.tensor([[1, 1, 0], [0, 1, 1], [0, 0, 1], [0, 0, 0]])
    index, others = draw_pairs(several, 10, seed=0)
    pairs = dict(zip(index.tolist(), others.tolist(), strict=True))
    assert pairs.keys() == {0, 1, 2, 3}
    assert pairs[0] in (2, 3)
    assert (pairs[1], pairs[2] in (0, 3), pairs[3] in (0, 1, 2)) == (3, True, True)
    assert len(draw_pairs(labels, 2, seed=0)[0]) == 2
    assert draw_pairs(torch.ones(5, 2, dtype=torch.uint8), 3, seed=0)[0].numel() == 0


def test_what_all_classes_share_counts_where_each_is_decided_by_itself() -> None:
    grid = PatchGrid(1, 2, window=1, stride=1, height=1, width=2)
    p, weights = torch.randn(3, 2, 4), torch.full((3, 2), 0.5)
    one = PatchPrediction(p.mean(dim=1), p, weights, grid, 0.0)
    more = dataclasses.replace(one, patch_logits=p + 7.0)
    torch.testing.assert_close(
        class_vectors(one, competing=True), class_vectors(more, competing=True)
    )
    assert class_vectors(one, competing=True).mean(dim=2).abs().max() < 1e-6
    assert class_vectors(one, competing=False).equal(p)
    votes = RoutedPrediction(p.mean(dim=1), p, p.softmax(dim=1), weights, grid, 0.0)
    assert class_vectors(votes, competing=True).equal(p)


def test_several_labels_are_measured_by_their_logits() -> None:
    model = for_inference(used_model(multi_label=True))
    data = images_for(model)
    found = evaluate(model, data).locality
    assert found == measured(model, data)
    assert found != dataclasses.replace(plan_locality(model, data), competing=True).run()


def test_of_equal_weights_one_is_drawn() -> None:
    """The first is that of a corner; of unequal weights it is the greatest."""
    generator = torch.Generator().manual_seed(0)
    chosen = measuring._chosen_patches(torch.full((50, 9), 1 / 9), generator)
    assert all(len(set(column.tolist())) > 5 for column in chosen.T)
    weights = torch.rand(50, 9)
    assert measuring._chosen_patches(weights, generator)[:, 1].equal(weights.argmax(dim=1))
