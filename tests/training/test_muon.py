"""Muon: its steps against Jordan's description in float64 NumPy, and resuming to the last bit."""

import numpy as np
import pytest
import torch
from torch import nn
from training.tiny import run_stopped_at, tiny_recipe, tiny_splits

from loss_attention.models import load
from loss_attention.training.job import continue_run, start_run
from loss_attention.training.muon import Muon, orthogonalised
from loss_attention.training.recipe import RunOptions

MUON = {"optimizer": "muon", "schedule": "one-cycle", "nesterov": True, "epochs": 3}


def iterated(matrix):
    """Newton-Schulz as it is published, every step on the whole matrix."""
    x = matrix / np.linalg.norm(matrix)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x


@pytest.mark.parametrize("shape", [(5, 3, 2, 2), (12, 2, 1, 1), (4, 4)])
def test_the_step_is_that_of_the_published_iteration(shape):
    update = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    expected = iterated(update.flatten(1).double().numpy()).reshape(shape)
    assert orthogonalised(update).numpy() == pytest.approx(expected, abs=2e-3)
    memory_of_channels_last = update.flatten(1).T.contiguous().T
    assert orthogonalised(memory_of_channels_last).numpy().reshape(shape) == pytest.approx(
        expected, abs=2e-3
    )


def test_every_direction_counts_nearly_the_same():
    """U S V^T with singular values from 1 to 1/50 becomes one with values near 1, same U and V."""
    generator = np.random.default_rng(0)
    u, _ = np.linalg.qr(generator.normal(size=(6, 6)))
    v, _ = np.linalg.qr(generator.normal(size=(20, 6)))
    update = u @ np.diag(np.geomspace(1, 1 / 50, 6)) @ v.T
    step = orthogonalised(torch.from_numpy(update).float()).double().numpy()
    inside = u.T @ step @ v
    assert np.abs(inside - np.diag(np.diag(inside))).max() < 1e-3
    assert np.diag(inside).min() > 0.6
    assert np.diag(inside).max() < 1.25


def test_an_update_of_zero_is_no_step():
    assert orthogonalised(torch.zeros(3, 4)).tolist() == torch.zeros(3, 4).tolist()


def test_two_steps_of_filters_and_of_the_rest():
    """Filters: held at length sqrt(rows), momentum 0.6. The rest: torch's own SGD."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Flatten())
    frozen = nn.Conv2d(2, 2, 1)
    model.add_module("frozen", frozen.requires_grad_(False))
    filters, scale = model[0].weight, model[1].weight
    before = frozen.weight.clone()
    w, m = filters.detach().double().numpy().reshape(4, 18), np.zeros((4, 18))
    twin = nn.Parameter(scale.detach().clone())
    sgd = torch.optim.SGD([twin], lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01)
    optimizer = Muon(model, 0.1, momentum=0.9, nesterov=True, weight_decay=0.01)
    for seed in (1, 2):
        generator = torch.Generator().manual_seed(seed)
        filters.grad = torch.randn(filters.shape, generator=generator)
        scale.grad = torch.randn(4, generator=generator)
        twin.grad = scale.grad.clone()
        g = filters.grad.double().numpy().reshape(4, 18)
        m = 0.6 * m + g
        w = 2 * w / np.linalg.norm(w) - 0.1 * iterated(g + 0.6 * m)
        optimizer.step()
        sgd.step()
    assert filters.detach().numpy().reshape(4, 18) == pytest.approx(w, abs=1e-3)
    assert scale.detach().numpy() == pytest.approx(twin.detach().numpy(), abs=1e-7)
    assert torch.equal(frozen.weight, before)


def test_an_interrupted_run_ends_like_an_uninterrupted_one(tmp_path, monkeypatch):
    recipe, splits = tiny_recipe(**MUON), tiny_splits()
    whole = start_run(tmp_path / "whole", recipe, splits, RunOptions(accelerator="cpu"))
    assert continue_run(whole, splits)

    stopped = run_stopped_at(tmp_path / "stopped", recipe, splits, (2, 9), monkeypatch)

    expected, found = load(whole.path).state_dict(), load(stopped.path).state_dict()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
