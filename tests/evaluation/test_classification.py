"""Losses and metrics of the classification, against scikit-learn."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch
from evaluation.canned import Canned, numbered
from sklearn.metrics import accuracy_score, average_precision_score, log_loss
from torch import nn

from loss_attention.evaluation.measuring import evaluate, validate
from loss_attention.prediction import ImagePrediction


@pytest.mark.parametrize("batch_size", [3, 64])
def test_validation_is_scikit_learns_loss_and_accuracy(batch_size: int) -> None:
    labels = torch.randint(4, (50,))
    logits = torch.randn(50, 4) + 2 * nn.functional.one_hot(labels, 4)
    loss, right = validate(
        Canned(ImagePrediction(logits)), numbered(labels, 4), batch_size, contextlib.nullcontext
    )
    probabilities = logits.double().softmax(dim=1).numpy()
    assert loss == pytest.approx(log_loss(labels, probabilities, labels=range(4)), rel=1e-5)
    assert right.tolist() == (labels == logits.argmax(dim=1)).tolist()


@pytest.mark.parametrize("batch_size", [3, 64])
def test_multi_label_validation(batch_size: int) -> None:
    labels = torch.randint(2, (50, 3), dtype=torch.uint8)
    logits = torch.randn(50, 3) + 3 * labels - 1.5
    loss, right = validate(Canned(ImagePrediction(logits)), numbered(labels, 3), batch_size)
    y, p = labels.double().numpy(), 1 / (1 + np.exp(-logits.double().numpy()))
    entropy = -(y * np.log(p) + (1 - y) * np.log(1 - p)).sum(axis=1).mean()
    assert loss == pytest.approx(entropy, rel=1e-5)
    assert right.double().mean() == pytest.approx(accuracy_score(y, p > 0.5), abs=1e-12)


def test_multi_label_measures_are_scikit_learns() -> None:
    labels = torch.randint(2, (40, 4), dtype=torch.uint8)
    labels[:, 2] = 0  # a class that does not occur
    train = torch.tensor([[0, 1, 0, 0]] * 2 + [[1, 1, 0, 1]], dtype=torch.uint8)
    logits = torch.randn(40, 4) + labels
    found = evaluate(
        Canned(ImagePrediction(logits)), numbered(labels, 4), train=numbered(train, 4), batch_size=7
    )
    here = [0, 1, 3]
    mean_ap = average_precision_score(labels[:, here], logits[:, here], average="macro")
    assert [metric.name for metric in found.metrics] == [
        "mean_average_precision",
        "mean_average_precision_voc2007",
        "exact_match",
        "expected_calibration_error",
    ]
    metric = found["mean_average_precision"]
    assert metric.value == pytest.approx(mean_ap, abs=1e-6)
    assert metric.label == "mAP (3 of 4 occur)"
    chance = labels[:, here].double().mean().item()
    assert metric.baselines == {"chance level": pytest.approx(chance)}
    y = labels.numpy()
    assert found.value("exact_match") == pytest.approx(accuracy_score(y, logits.numpy() > 0))
    commonest = (y == np.array([0, 1, 0, 0])).all(axis=1).mean()
    assert found["exact_match"].baselines == {"most frequent labels": pytest.approx(commonest)}
    assert found.per_image is not None
    assert found.per_image.predictions.tolist() == logits.argmax(dim=1).tolist()
    top = logits.double().sigmoid().amax(dim=1)
    torch.testing.assert_close(found.per_image.probabilities.double(), top, rtol=1e-5, atol=0)


def test_validation_takes_any_function(worked) -> None:
    model, data, _ = worked
    (one, right), (other, as_right) = (
        validate(lambda x: model(x), data, 2),
        validate(model, data, 2),
    )
    assert one == other
    assert torch.equal(right, as_right)
