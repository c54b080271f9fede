"""Dropout by bytes: what it drops, what it keeps, and that it is torch's in evaluation."""

from __future__ import annotations

import pytest
import torch

from loss_attention.bags.dropout import Dropout


@pytest.mark.parametrize(("p", "kept"), [(0.25, 192), (0.5, 128), (0.1, 230)])
def test_so_many_are_dropped_and_the_rest_is_scaled(p: float, kept: int) -> None:
    torch.manual_seed(0)
    features = torch.rand(400, 251) + 1  # no multiple of eight
    dropped = Dropout(p)(features)
    zero = dropped == 0
    count = features.numel()
    chance = 1 - kept / 256
    # Five standard deviations of a binomial.
    assert abs(int(zero.sum()) - chance * count) < 5 * (chance * (1 - chance) * count) ** 0.5
    assert torch.allclose(dropped[~zero], features[~zero] * 256 / kept)


def test_each_byte_of_a_random_number_is_used_alike() -> None:
    torch.manual_seed(1)
    zero = (Dropout(0.5)(torch.ones(50_000, 8)) == 0).float()
    # The standard error of a column's mean is 0.0022, and so is that of a correlation doubled.
    assert (zero.mean(dim=0) - 0.5).abs().max() < 0.011
    assert (torch.corrcoef(zero.T) - torch.eye(8)).abs().max() < 0.025


def test_the_gradient_is_that_of_what_was_kept() -> None:
    torch.manual_seed(2)
    features = torch.ones(64, 32, requires_grad=True)
    dropped = Dropout(0.25)(features)
    dropped.sum().backward()
    assert features.grad is not None
    assert torch.equal(features.grad, dropped.detach())


def test_a_seed_draws_the_same_and_evaluation_changes_nothing() -> None:
    features, layer = torch.rand(30, 7), Dropout(0.5)
    first, second = ((torch.manual_seed(3), layer(features))[1] for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, layer(features))
    assert layer.eval()(features) is features or torch.equal(layer(features), features)


def test_very_little_and_nearly_all() -> None:
    features = torch.ones(10, 10)
    assert torch.equal(Dropout(0.001)(features), features)  # below half a level
    assert Dropout(0.999)(features).isfinite().all()
    assert Dropout(0.5)(torch.ones(0, 5)).shape == (0, 5)
