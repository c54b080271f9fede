"""One-vs-rest: a sigmoid for each class where an image has one label."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import reference
import torch
from evaluation.canned import numbered
from heads.used import used_model
from sklearn.metrics import log_loss
from test_losses import predict, random_case
from training.tiny import start_run, tiny_recipe, tiny_splits

import loss_attention as la
from loss_attention.attribution.compare import _allowed, _explained, compare
from loss_attention.attribution.maps import METHODS, attribute
from loss_attention.attribution.measures import probability
from loss_attention.errors import InputError
from loss_attention.evaluation.measuring import evaluate
from loss_attention.losses import loss_for, one_vs_rest_loss, prior_logits
from loss_attention.metrics.classification import expected_calibration_error
from loss_attention.model_spec import ModelSpec
from loss_attention.prediction import ImagePrediction
from loss_attention.quantities import EVIDENCE
from loss_attention.training.job import RunOptions, build_model, continue_run

CPU = RunOptions(accelerator="cpu")
EYE = np.eye(4)


@pytest.mark.parametrize("gamma", [0.0, 0.1, 2.0])
def test_it_is_equations_3_and_10_of_one_label(gamma: float) -> None:
    logits, labels, _ = random_case()
    prediction = predict(logits)
    z, p, alpha = (one.numpy() for one in (prediction.logits, logits, prediction.patch_weights))
    expected = reference.multi_label_loss(z, p, alpha, EYE[labels.numpy()], gamma)
    assert one_vs_rest_loss(prediction, labels, gamma).item() == pytest.approx(expected, abs=1e-13)
    single = one_vs_rest_loss(predict(logits.float()), labels, gamma)
    assert single.item() == pytest.approx(expected, rel=1e-6)


def test_without_a_regulariser_it_is_the_log_losses_of_scikit_learn() -> None:
    logits, labels, _ = random_case()
    prediction = predict(logits)
    q = prediction.logits.double().sigmoid().numpy()
    expected = sum(log_loss(labels == k, q[:, k], labels=[False, True]) for k in range(4))
    assert one_vs_rest_loss(prediction, labels).item() == pytest.approx(expected, rel=1e-12)
    # An image without patches has no more than that.
    image = ImagePrediction(prediction.logits)
    assert one_vs_rest_loss(image, labels).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("gamma", [0.0, 0.5])
def test_smoothing_is_of_the_image_and_not_of_its_patches(gamma: float) -> None:
    logits, labels, _ = random_case()
    prediction = predict(logits)
    z, p, alpha = (one.numpy() for one in (prediction.logits, logits, prediction.patch_weights))
    one_hot = EYE[labels.numpy()]
    targets = reference.smoothed(one_hot, 0.2)
    expected = np.mean([reference.binary_cross_entropy(z[i], targets[i]) for i in range(len(z))])
    expected += reference.multi_label_loss(z, p, alpha, one_hot, gamma)
    expected -= reference.multi_label_loss(z, p, alpha, one_hot, 0.0)
    loss = loss_for("one-vs-rest", multi_label=False, label_smoothing=0.2)
    assert loss(prediction, labels, gamma).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("gamma", [0.0, 0.5])
def test_a_weighted_image_counts_as_often_as_its_weight_says(gamma: float) -> None:
    logits, labels, _ = random_case()
    times = torch.tensor([3, 1, 2, 5])
    repeated = torch.arange(5).repeat_interleave(times[labels])
    weighted = loss_for("one-vs-rest", multi_label=False, weights=times.double())
    found = weighted(predict(logits), labels, gamma)
    plain = one_vs_rest_loss(predict(logits[repeated]), labels[repeated], gamma)
    assert found.item() == pytest.approx(plain.item() * len(repeated) / 5, rel=1e-12)


@pytest.mark.parametrize("gamma", [0.0, 0.5])
def test_a_mixed_image_has_both_labels_by_their_fractions(gamma: float) -> None:
    logits, labels, _ = random_case()
    prediction = predict(logits)
    eye, others = torch.eye(4, dtype=torch.float64), (labels + 1) % 4
    mixed = one_vs_rest_loss(prediction, 0.7 * eye[labels] + 0.3 * eye[others], gamma)
    of_each = [one_vs_rest_loss(prediction, one, gamma).item() for one in (labels, others)]
    assert mixed.item() == pytest.approx(0.7 * of_each[0] + 0.3 * of_each[1], abs=1e-12)


def test_its_gradients_are_right_and_reach_the_weights() -> None:
    logits, labels, _ = random_case()
    logits.requires_grad_()
    loss = lambda p: one_vs_rest_loss(predict(p), labels, 0.7)  # noqa: E731
    assert torch.autograd.gradcheck(loss, (logits,))
    prediction = predict(logits)
    (of_weights,) = torch.autograd.grad(
        one_vs_rest_loss(prediction, labels, 0.3) - one_vs_rest_loss(prediction, labels),
        prediction.patch_weights,
    )
    assert of_weights.abs().min() > 0


def test_extreme_logits_give_finite_losses_and_gradients() -> None:
    z = torch.tensor([[1e4, -1e4], [-1e4, 1e4]], requires_grad=True)
    one_vs_rest_loss(ImagePrediction(z), torch.tensor([0, 0])).backward()
    assert z.grad is not None
    assert z.grad.tolist() == [[0.0, 0.0], [-0.5, 0.5]]


def test_the_prior_is_the_best_that_knows_no_image() -> None:
    labels = torch.tensor([0] * 12 + [1] * 6 + [3] * 2)
    found = prior_logits(labels, 4)
    wanted = [math.log(f / (1 - f)) for f in (12 / 20, 6 / 20, 0.5 / 20, 2 / 20)]
    assert found.tolist() == pytest.approx(wanted, rel=1e-6)
    # Constant logits have no gradient there, but of the class that no image has.
    z = found.double().expand(20, 4).clone().requires_grad_()
    one_vs_rest_loss(ImagePrediction(z), labels).backward()
    assert z.grad is not None
    assert z.grad.sum(dim=0)[[0, 1, 3]].abs().max() < 1e-7
    alone = prior_logits(torch.zeros(3, dtype=torch.int64), 2)
    assert alone.tolist() == pytest.approx([math.log(5), -math.log(5)])
    even = prior_logits(labels, 4, balanced=True)
    assert even[[0, 1, 3]].tolist() == pytest.approx([math.log(0.5)] * 3)


@pytest.mark.parametrize("head", ["loss-attention", "mean", "capsule-loss-attention", "baseline"])
def test_training_begins_at_the_prior(head: str) -> None:
    splits = tiny_splits(seed=4)
    labels = splits.train.labels
    f = (labels == 1).double().mean().item()
    assert abs(f - 0.5) > 0.01
    recipe = tiny_recipe(objective="one-vs-rest", head=head)
    model, plain = build_model(recipe, splits), build_model(tiny_recipe(head=head), splits)
    assert model.spec.one_vs_rest
    assert not plain.spec.one_vs_rest
    state, other = model.state_dict(), plain.state_dict()
    differing = [name for name in state if not torch.equal(state[name], other[name])]
    assert len(differing) == 1
    assert differing[0].startswith("head.classifier.")
    assert differing[0].endswith("bias")
    wanted = [math.log((1 - f) / f), math.log(f / (1 - f))]
    assert state[differing[0]].tolist() == pytest.approx(wanted, rel=1e-5)
    balanced = build_model(replace(recipe, balance="sampling"), splits)
    assert balanced.state_dict()[differing[0]].tolist() == pytest.approx([0.0, 0.0], abs=1e-6)


def test_a_trained_run_is_one_vs_rest_from_its_first_to_its_last_file(tmp_path: Path) -> None:
    splits = tiny_splits(held_out=0.3)
    recipe = tiny_recipe(
        objective="one-vs-rest", validation_fraction=0.3, epochs=2, centre=None, label_smoothing=0.1
    )
    run = start_run(tmp_path, recipe, splits, CPU)
    assert continue_run(run, splits)
    model = la.load(tmp_path)
    assert model.spec.one_vs_rest
    assert not model.competing
    assert model.spec.centre is False
    line = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    best = run.facts()["best_epoch"]
    line = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[best - 1])
    held = splits.validation.decoded()
    with torch.inference_mode():
        z = model(held.images).logits.double().numpy()
    targets = reference.smoothed(np.eye(2)[held.labels.numpy()], 0.1)
    wanted = np.mean([reference.binary_cross_entropy(z[i], targets[i]) for i in range(len(z))])
    assert line["validation_loss"] == pytest.approx(wanted, rel=1e-4)
    right = (z.argmax(axis=1) == held.labels.numpy()).mean()
    assert line["validation_accuracy"] == pytest.approx(right)


def test_a_mixed_and_balanced_run_trains(tmp_path: Path) -> None:
    recipe = tiny_recipe(objective="one-vs-rest", epochs=1, mixup=0.5, balance="weights")
    run = start_run(tmp_path, recipe, tiny_splits(), CPU)
    assert continue_run(run, tiny_splits())


def test_probabilities_are_sigmoids_and_the_likeliest_class_is_the_answer() -> None:
    model, images = used_model(one_vs_rest=True), torch.rand(3, 3, 20, 24)
    assert not model.competing
    assert not model.multi_label
    found = model.explain(images)
    q = 1 / (1 + np.exp(-found.logits.double().numpy()))
    np.testing.assert_allclose(found.probabilities, q, atol=1e-6)
    assert found.target.tolist() == q.argmax(axis=1).tolist()
    assert found.shown is EVIDENCE
    assert found.target_margin is found.no_margin is found.margin is None
    against = model.explain(images, 0, versus=1)
    assert against.heat_maps.shape == (3, 20, 24)
    with torch.no_grad():
        own = probability(model, torch.tensor([0, 1, 2]))(images)
    np.testing.assert_allclose(own, q[np.arange(3), [0, 1, 2]], atol=1e-6)


@pytest.mark.parametrize("name", ["margin", "contrast"])
def test_maps_of_competition_are_refused_and_say_why(name: str) -> None:
    model, images = used_model(one_vs_rest=True), torch.rand(1, 3, 20, 24)
    with pytest.raises(InputError, match=f"`map` {name} is for .* under a softmax.* by itself"):
        model.explain(images, map=name)
    with pytest.raises(InputError, match=f"^{name} is for models .* under a softmax.* by itself"):
        attribute(model, images, name)
    with pytest.raises(InputError, match=r"^grad-cam-competition is for models .* under a"):
        attribute(model, images, "grad-cam-competition")


def scenes():
    """Images of five classes with a box each, and a model that decides each class by itself."""
    model = used_model(one_vs_rest=True)
    labels = torch.arange(12) % 5
    boxes = torch.tensor([4.0, 4.0, 16.0, 16.0]).expand(12, 1, 4).clone()
    data = numbered(labels, 5, 24, boxes=boxes, box_labels=labels.unsqueeze(1))
    pixels = torch.randint(0, 256, (12, 3, 24, 24), dtype=torch.uint8)
    return model, replace(data, images=pixels, class_names=model.class_names)


def test_calibration_is_of_the_likeliest_classs_own_probability() -> None:
    model, data = scenes()
    found = evaluate(model, data, batch_size=5)
    with torch.inference_mode():
        logits = model(data.images).logits
    best = logits.sigmoid().amax(dim=1)
    assert found.per_image is not None
    torch.testing.assert_close(found.per_image.probabilities, best, rtol=1e-4, atol=1e-5)
    right = logits.argmax(dim=1) == data.labels
    wanted = expected_calibration_error(best, right)
    assert found.value("expected_calibration_error") == pytest.approx(wanted, abs=1e-5)
    assert found.value("accuracy") == pytest.approx(right.double().mean().item())
    with pytest.raises(InputError, match="`map` margin is for models"):
        evaluate(model, data, map="margin")
    wrapped = torch.nn.Module()  # as Fabric has it
    wrapped.module, wrapped.forward = model, model.forward
    again = evaluate(wrapped, data)
    assert again.per_image is not None
    torch.testing.assert_close(again.per_image.probabilities, best, rtol=1e-4, atol=1e-5)


def test_a_comparison_leaves_out_what_needs_competition() -> None:
    model, data = scenes()
    with torch.no_grad():
        allowed, left_out = _allowed(model, data.images[:2], None)
        own, probabilities, predicted = _explained(model, data, 5)
        q = model(data.images).logits.sigmoid()
    refused = {name for name in METHODS if name.endswith("-competition")} | {"margin", "contrast"}
    assert set(left_out) == refused
    assert all("under a softmax" in why for why in left_out.values())
    assert "evidence" in allowed
    assert own.tolist() == data.labels.tolist()
    torch.testing.assert_close(probabilities, q[torch.arange(12), own], rtol=1e-4, atol=1e-5)
    assert predicted.tolist() == q.argmax(dim=1).tolist()
    with pytest.raises(InputError, match="margin is for models"):
        compare(model, data, ["margin"], images=4)


def test_it_is_for_one_label_an_image() -> None:
    with pytest.raises(InputError, match="`one_vs_rest` is for one label an image") as caught:
        ModelSpec(one_vs_rest=True, multi_label=True)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="`objective` one-vs-rest is for one label an image"):
        loss_for("one-vs-rest", multi_label=True)
    with pytest.raises(InputError, match="`one_vs_rest` must be True or False, got 1"):
        ModelSpec(one_vs_rest=1)
    with pytest.raises(InputError, match="not for the head capsule-dynamic-routing"):
        build_model(
            tiny_recipe(objective="one-vs-rest", head="capsule-dynamic-routing"), tiny_splits()
        )


@pytest.mark.parametrize(
    ("options", "found"),
    [({}, True), ({"multi_label": True}, False), ({"one_vs_rest": True}, False)],
)
def test_a_softmax_decides_in_one_case(options: dict[str, bool], found: bool) -> None:
    spec = ModelSpec(width=1 / 64, **options)
    assert spec.competing is la.create_model(spec).competing is found
    assert ModelSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
