"""Logits on demand against float64 NumPy: values, gradients, and memory in both directions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from live_memory import LiveMemory
from torch import Tensor
from torch.nn import functional as F

import loss_attention.many_classes as many_classes
from loss_attention.attention import patch_weights, scaled_lengths, weights_of_lengths
from loss_attention.many_classes import LogitsOnDemand, too_many
from loss_attention.prediction import of_class

B, M, D, K = 2, 7, 3, 11


@pytest.fixture
def lazy(monkeypatch: pytest.MonkeyPatch) -> LogitsOnDemand:
    """Logits computed for two patches of each image at a time, and for one at the end."""
    monkeypatch.setattr(many_classes, "AT_A_TIME", 2 * B * K + 1)
    generator = torch.Generator().manual_seed(0)

    def some(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    return LogitsOnDemand(some(B, M, D), some(B, M), some(K, D), some(K))


def tensors(lazy: LogitsOnDemand) -> tuple[Tensor, ...]:
    return lazy.features, lazy.bias_share, lazy.weight, lazy.bias


def in_numpy(lazy: LogitsOnDemand) -> np.ndarray:
    """All of the logits."""
    features, share, weight, bias = (value.detach().numpy() for value in tensors(lazy))
    return np.einsum("bmd,kd->bmk", features, weight) + share[:, :, None] * bias


def log_sum(logits: Tensor) -> Tensor:
    return logits.logsumexp(dim=2)


def lengths(logits: Tensor) -> Tensor:
    return torch.linalg.vector_norm(logits, dim=2)


def of_labels(logits: Tensor) -> Tensor:
    return of_class(F.log_softmax(logits, dim=2), torch.tensor([3, 10]))


def test_logits_are_those_of_the_classifier(lazy: LogitsOnDemand) -> None:
    expected = in_numpy(lazy)
    exact = {"rtol": 0, "atol": 1e-13}
    np.testing.assert_allclose(lazy.whole().detach().numpy(), expected, **exact)
    np.testing.assert_allclose(lazy.total().detach().numpy(), expected.sum(axis=1), **exact)
    np.testing.assert_allclose(lazy.mean().detach().numpy(), expected.mean(axis=2), **exact)
    image, classes = torch.tensor([1, 0, 1]), torch.tensor([10, 0, 4])
    np.testing.assert_allclose(
        lazy.of(image, classes).detach().numpy(), expected[image, :, classes], **exact
    )
    assert lazy.of(image[:0], classes[:0]).shape == (0, M)
    weights = torch.rand(B, M, dtype=torch.float64)
    np.testing.assert_allclose(
        lazy.weighted(weights).whole().detach().numpy(), expected * weights.numpy()[..., None]
    )


def test_what_is_made_of_each_patch_is_what_numpy_makes_of_all(lazy: LogitsOnDemand) -> None:
    expected = in_numpy(lazy)
    seen: list[int] = []

    def best(logits: Tensor) -> Tensor:
        seen.append(logits.shape[1])
        return logits.argmax(dim=2)

    assert lazy.each(best).tolist() == expected.argmax(axis=2).tolist()
    assert seen == [2, 2, 2, 1]
    found = lazy.each(lengths).detach().numpy()
    np.testing.assert_allclose(found, np.linalg.norm(expected, axis=2), rtol=1e-13)
    sums = np.log(np.exp(expected).sum(axis=2))
    np.testing.assert_allclose(lazy.each(log_sum).detach().numpy(), sums, rtol=1e-13)


@pytest.mark.parametrize("function", [lengths, of_labels])
def test_gradients_agree_with_finite_differences(
    lazy: LogitsOnDemand, function: Callable[[Tensor], Tensor]
) -> None:
    assert torch.autograd.gradcheck(
        lambda *values: LogitsOnDemand(*values).each(function), tensors(lazy)
    )


def test_weights_and_their_gradients_are_those_of_all_logits(lazy: LogitsOnDemand) -> None:
    def weigh(*values: Tensor) -> Tensor:
        return weights_of_lengths(scaled_lengths(LogitsOnDemand(*values)), threshold=0.8)

    weights = weigh(*tensors(lazy))
    torch.testing.assert_close(weights, patch_weights(lazy.whole(), 0.8), rtol=0, atol=1e-14)
    assert 0 < (weights == 0).sum() < weights.numel()
    assert torch.autograd.gradcheck(weigh, tensors(lazy))


def test_memory_stays_that_of_a_chunk_forwards_and_backwards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    patches, classes, features, at_a_time = 256, 1024, 2, 8
    chunk = at_a_time * classes * 4  # bytes
    monkeypatch.setattr(many_classes, "AT_A_TIME", at_a_time * classes)
    h, weight = torch.randn(1, patches, features), torch.randn(classes, features)
    lazy = LogitsOnDemand(
        h.requires_grad_(),
        torch.ones(1, patches),
        weight.requires_grad_(),
        torch.randn(classes, requires_grad=True),
    )

    def both(logits: Callable[[Callable[[Tensor], Tensor]], Tensor]) -> int:
        with LiveMemory() as memory:
            labels = torch.tensor([5])
            of_label = logits(lambda p: of_class(F.log_softmax(p, dim=2), labels))
            (logits(lengths) * of_label).sum().backward()
        return memory.peak

    # Beside the logits of one chunk, what their reduction and its gradient take.
    assert both(lazy.each) < 8 * chunk
    # All 32 chunks at once: what is counted is there to be seen.
    assert both(lambda function: function(lazy.whole())) > 4 * 32 * chunk


def test_autocast_around_it_changes_nothing(lazy: LogitsOnDemand) -> None:
    single = LogitsOnDemand(*(value.detach().float() for value in tensors(lazy)))
    alone = single.each(log_sum)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = single.each(lambda p: p.logsumexp(dim=2))
    assert torch.equal(alone, inside)


def test_without_gradients_it_is_the_same(lazy: LogitsOnDemand) -> None:
    with_gradients = lazy.each(log_sum)
    with torch.no_grad():
        assert torch.equal(lazy.each(log_sum), with_gradients)
    with torch.inference_mode():
        assert torch.equal(lazy.each(log_sum), with_gradients)


def test_too_many_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(many_classes, "MOST_HELD", 100)
    assert [too_many(count) for count in (0, 100, 101)] == [False, False, True]
