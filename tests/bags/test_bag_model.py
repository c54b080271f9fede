"""Classifiers of bags, against float64 NumPy from the equations of each pooling."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from loss_attention.bags.model import BagClassifier
from loss_attention.bags.pooling import POOLINGS
from loss_attention.errors import InputError
from loss_attention.prediction import PatchPrediction

SIZES = (3, 1, 6)
WIDTH, THRESHOLD = 4, 0.3


def model_of(pooling: str, classes: int = 3, **settings: object) -> BagClassifier:
    torch.manual_seed(5)
    options = {"hidden": (8,), "threshold": THRESHOLD, **settings}
    model = BagClassifier(WIDTH, classes, pooling=pooling, **options).double().eval()  # type: ignore[arg-type]
    model.set_normalisation(torch.full((WIDTH,), 0.25), torch.full((WIDTH,), 2.0))
    return model


def instances(count: int = sum(SIZES), seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, WIDTH, generator=generator, dtype=torch.float64)


def layer(model: BagClassifier, name: str, values: np.ndarray) -> np.ndarray:
    parameters = dict(model.named_parameters())
    weight = parameters[f"{name}.weight"].detach().numpy()
    bias = parameters.get(f"{name}.bias")
    return values @ weight.T + (0 if bias is None else bias.detach().numpy())


def hidden_of(model: BagClassifier, values: np.ndarray) -> np.ndarray:
    return np.maximum(layer(model, "layers.0", (values - 0.25) / 2), 0)


def softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max())
    return powers / powers.sum()


def attention(model: BagClassifier, hidden: np.ndarray, *, gated: bool) -> np.ndarray:
    raw = np.tanh(layer(model, "pooling.attention.hidden", hidden))
    if gated:
        raw = raw / (1 + np.exp(-layer(model, "pooling.attention.gate", hidden)))
    return softmax(layer(model, "pooling.attention.score", raw)[:, 0])


def by_length(p: np.ndarray) -> np.ndarray:
    fractions = np.linalg.norm(p, axis=1) / np.linalg.norm(p, axis=1).sum()
    kept = np.maximum(fractions - THRESHOLD / len(p), 0)
    return kept / kept.sum()


def positive_part(p: np.ndarray) -> np.ndarray:
    part = np.maximum(p, 0)
    total = part.sum(axis=0)
    return np.where(total > 0, part / np.where(total > 0, total, 1), 1 / len(p))


def largest(p: np.ndarray) -> np.ndarray:
    return (np.arange(len(p))[:, None] == p.argmax(axis=0)).astype(float)


WEIGHTS: dict[str, Callable[[BagClassifier, np.ndarray, np.ndarray], np.ndarray]] = {
    "mean": lambda _model, _h, p: np.full(len(p), 1 / len(p)),
    "max": lambda _model, _h, p: largest(p),
    "attention": lambda model, h, _p: attention(model, h, gated=False),
    "gated-attention": lambda model, h, _p: attention(model, h, gated=True),
    "additive": lambda model, h, _p: attention(model, h, gated=False),
    "loss-attention": lambda _model, _h, p: by_length(p),
    "loss-attention-uncentred": lambda _model, _h, p: by_length(p),
    "loss-attention-2020": lambda _model, _h, p: np.exp(p).sum(axis=1) / np.exp(p).sum(),
    "positive-evidence": lambda _model, _h, p: positive_part(p),
}
CENTRED = ("mean", "max", "loss-attention", "positive-evidence")


def expected(model: BagClassifier, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights and evidence of one bag, in NumPy."""
    hidden = hidden_of(model, values)
    if model.pooling_name == "additive":
        weights = WEIGHTS["additive"](model, hidden, hidden)
        between = np.maximum(layer(model, "classifier.0", weights[:, None] * hidden), 0)
        return weights, layer(model, "classifier.2", between)
    p = layer(model, "classifier", hidden)
    if model.pooling_name in CENTRED and not model.multi_label:
        p = p - p.mean(axis=1, keepdims=True)
    weights = WEIGHTS[model.pooling_name](model, hidden, p)
    if weights.ndim == 2 and p.shape[1] == 2 and not model.multi_label:
        weights = weights[:, 1]
    return weights, (weights if weights.ndim == 2 else weights[:, None]) * p


def of_bag(prediction: PatchPrediction, bag: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    size = SIZES[bag]
    evidence, weights = prediction.evidence[bag], prediction.real_weights[bag]
    assert not evidence[size:].any()
    assert not weights[size:].any()
    logits = prediction.logits[bag]
    return tuple(one.detach().numpy() for one in (logits, evidence[:size], weights[:size]))


def test_every_pooling_has_its_equation_here() -> None:
    assert set(WEIGHTS) == set(POOLINGS)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_bags_of_unlike_sizes_are_decided_on_by_the_equation(
    pooling: str, multi_label: bool, classes: int
) -> None:
    model, values = model_of(pooling, classes, multi_label=multi_label), instances()
    prediction = model.decide(values, torch.tensor(SIZES))
    start = 0
    for bag, size in enumerate(SIZES):
        weights, evidence = expected(model, values[start : start + size].numpy())
        logits, found, mine = of_bag(prediction, bag)
        np.testing.assert_allclose(found, evidence, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(logits, evidence.sum(axis=0), rtol=1e-9, atol=1e-12)
        if weights.ndim == 1:
            np.testing.assert_allclose(mine, weights, rtol=1e-9, atol=1e-12)
        start += size


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_bag_in_parts_is_the_bag_at_once(pooling: str) -> None:
    model, values = model_of(pooling), instances(23)
    whole = model.decide(values, torch.tensor([23]))
    for at_once in (1, 7, 23, 100):
        parts = model.predict(lambda a, b: values[a:b], 23, at_once)
        torch.testing.assert_close(parts.logits, whole.logits, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(parts.evidence, whole.evidence, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("filler", [0.0, float("nan"), float("inf")])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_what_is_masked_takes_no_part(pooling: str, filler: float) -> None:
    model = model_of(pooling)
    packed = model.decide(instances(), torch.tensor(SIZES))
    mask = torch.zeros(3, 8, dtype=torch.bool)
    for bag, size in enumerate(SIZES):
        mask[bag, 1 : 1 + size] = True
    padded = torch.full((3, 8, WIDTH), filler, dtype=torch.float64)
    padded[mask] = instances()
    prediction = model(padded, mask)
    torch.testing.assert_close(prediction.logits, packed.logits, rtol=1e-12, atol=1e-12)
    assert not prediction.evidence[~mask].any()
    with pytest.raises(ValueError, match="bag 1 has no unmasked"):
        model(padded, mask & torch.tensor([[True], [False], [True]]))


@pytest.mark.parametrize("pooling", POOLINGS)
def test_all_that_can_learn_gets_a_gradient(pooling: str) -> None:
    model = model_of(pooling).train()
    model.decide(instances(), torch.tensor(SIZES)).logits.square().sum().backward()
    still = [name for name, one in model.named_parameters() if one.grad is None]
    assert still == []
    assert all(
        bool(one.grad.isfinite().all()) for one in model.parameters() if one.grad is not None
    )


def test_nothing_that_speaks_against_a_class_outvotes_what_speaks_for_it() -> None:
    model, values = model_of("positive-evidence", 2), instances(5)
    assert isinstance(model.classifier, torch.nn.Linear)
    with torch.no_grad():
        model.classifier.bias += torch.tensor([-0.1, 0.1])
    p = model.instances(values)[0]
    assert p is not None
    assert p[:, 1].min() < 0 < p[:, 1].max()
    before = model.decide(values, torch.tensor([5])).logits
    against = values[p[:, 1].argmin()].expand(40, -1)
    more = model.decide(torch.cat([values, against]), torch.tensor([45])).logits
    torch.testing.assert_close(more, before, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"pooling": "loss-atention"}, "unknown pooling 'loss-atention'; did you mean"),
        ({"hidden": (0,)}, "`in_features` and `hidden` must be at least 1"),
        ({"num_classes": 1}, "`num_classes` must be at least 2, got 1"),
        ({"dropout": 1.0}, r"`dropout` must be in \[0, 1\), got 1.0"),
        ({"threshold": -0.1}, r"`threshold` must be in \[0, 1\], got -0.1"),
        ({"positive": 2}, "`positive` must be in 0..1, got 2"),
        ({"num_classes": 3, "positive": 2}, "`positive` is for two classes"),
        ({"centre": True, "multi_label": True}, "`centre` is for classes that compete"),
    ],
)
def test_what_cannot_be_built_is_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        BagClassifier(**{"in_features": 4, "num_classes": 2, **settings})  # type: ignore[arg-type]
