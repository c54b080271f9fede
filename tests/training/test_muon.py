"""Muon: its steps against Jordan's description in float64 NumPy, and resuming to the last bit."""

import numpy as np
import pytest
import torch
from heads.used import NARROW
from torch import nn
from training.tiny import run_stopped_at, start_run, tiny_recipe, tiny_splits

from loss_attention.backbones import BACKBONES
from loss_attention.heads import HEADS
from loss_attention.model import create_model, load
from loss_attention.training.job import continue_run
from loss_attention.training.optimisation import Muon, orthogonalised, scale_free_filters
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


def stepped(model, rate, steps=1):
    """The model after steps on two images, in training."""
    optimizer = Muon(model, rate, momentum=0.9, nesterov=True, weight_decay=0.01)
    images = torch.rand(2, 3, 20, 20)
    for _ in range(steps):
        optimizer.zero_grad()
        model(images).logits.square().sum().backward()
        optimizer.step()
    return model


def still(model):
    """Without what a forward pass in training changes by itself: running statistics, dropout."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_step_at_rate_0_moves_no_logit(backbone, head):
    model = create_model(backbone, head=head, width=NARROW, num_classes=3, image_size=(20, 20))
    still(model)
    images = torch.rand(3, 3, 20, 20)
    for training in (True, False):
        model.train(training)
        with torch.no_grad():
            before = model(images).logits
        stepped(model, 0.0, steps=2)
        with torch.no_grad():
            assert torch.equal(model(images).logits, before)


@pytest.mark.parametrize("head", HEADS)
def test_a_tiny_step_moves_logits_by_next_to_nothing(head):
    """What holds the length of weights changes nothing, where the norm behind takes it away."""
    model = still(create_model(head=head, width=0.1, num_classes=3, image_size=(20, 20)))
    images = torch.rand(8, 3, 20, 20)
    with torch.no_grad():
        before = model(images).logits
        for weight in scale_free_filters(model):
            weight.mul_(3.0)  # so that there is a length to bring back
    stepped(model, 1e-9)
    with torch.no_grad():
        torch.testing.assert_close(model(images).logits, before, rtol=5e-3, atol=5e-3)


@pytest.mark.parametrize("small", [0.0, 1e-38, 1e-44])
@pytest.mark.parametrize("head", HEADS)
def test_filters_of_zeros_give_no_nan(head, small):
    model = still(create_model(head=head, width=NARROW, num_classes=3, image_size=(20, 20)))
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.fill_(small)
    stepped(model, 0.1, steps=2)
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_filters_with_rows_of_zeros_learn_like_others():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4))
    with torch.no_grad():
        model[0].weight[1] = 0.0
    model[0].weight.grad = torch.rand_like(model[0].weight)
    Muon(model, 0.1, momentum=0.9, nesterov=True, weight_decay=0.0).step()
    assert model[0].weight.isfinite().all()
    assert model[0].weight[1].any()


TIED = nn.Parameter(torch.ones(2, 2, 1, 1))


def tied():
    """Two convolutions of the same weights, of which a norm follows one."""
    model = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), nn.Conv2d(2, 2, 1))
    model[0].weight = model[2].weight = TIED
    return model


@pytest.mark.parametrize(
    ("model", "count"),
    [
        (nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)), 1),
        (nn.Sequential(nn.Conv2d(2, 2, 1), nn.InstanceNorm2d(2)), 1),
        (nn.Sequential(nn.Conv2d(2, 2, 1, bias=False), nn.GroupNorm(1, 2)), 1),
        (nn.Sequential(nn.Conv2d(2, 2, 1), nn.GroupNorm(1, 2)), 0),
        (nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU(), nn.BatchNorm2d(2)), 0),
        (nn.Sequential(nn.Conv2d(2, 2, 1)), 0),
        (nn.ModuleList([nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)]), 0),
        (tied(), 0),
    ],
)
def test_convolutions_that_no_norm_is_known_to_follow_are_left_to_sgd(model, count):
    assert len(scale_free_filters(model)) == count
    groups = Muon(model, 0.1, momentum=0.9, nesterov=True, weight_decay=0.0).param_groups
    assert [len(group["params"]) for group in groups] == [
        count,
        len(list(model.parameters())) - count,
    ]


@pytest.mark.parametrize("head", HEADS)
def test_of_our_networks_all_convolutions_but_those_of_routing_are_taken(head):
    model = create_model(head=head, width=NARROW, image_size=(20, 20))
    taken = {id(weight) for weight in scale_free_filters(model)}
    left = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and id(module.weight) not in taken
    ]
    assert left == (["head.primary.layers.0"] if head == "capsule-dynamic-routing" else [])


def test_an_interrupted_run_ends_like_an_uninterrupted_one(tmp_path, monkeypatch):
    recipe, splits = tiny_recipe(**MUON), tiny_splits()
    whole = start_run(tmp_path / "whole", recipe, splits, RunOptions(accelerator="cpu"))
    assert continue_run(whole, splits)

    stopped = run_stopped_at(tmp_path / "stopped", recipe, splits, (2, 9), monkeypatch)

    expected, found = load(whole.path).state_dict(), load(stopped.path).state_dict()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
