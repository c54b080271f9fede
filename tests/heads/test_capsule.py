"""The capsule head against the paper's equations and against a loop over capsules."""

from __future__ import annotations

import numpy as np
import reference
import torch
from heads.used import arrays, feature_maps, patches_of, used_model
from torch import nn

from loss_attention.heads.capsules import CapsuleHead, Capsules
from loss_attention.heads.patches import PatchLayout
from loss_attention.losses import single_label_loss
from loss_attention.prediction import CapsulePrediction


def test_one_convolution_is_a_loop_over_capsule_dimensions() -> None:
    """Outputs, gradients and batch norm's statistics, with a convolution for each dimension."""
    channels, dimension = 3, 4
    merged = Capsules(5, channels, dimension, kernel=3, stride=2, normalised=True).double()
    nn.init.normal_(merged.layers[1].weight)
    nn.init.normal_(merged.layers[1].bias)
    loop = []
    for d in range(dimension):
        one = nn.Sequential(nn.Conv2d(5, channels, 3, 2), nn.BatchNorm2d(channels), nn.ReLU())
        for mine, theirs in zip(one.double().parameters(), merged.parameters(), strict=True):
            mine.data.copy_(theirs.data[d::dimension])
        loop.append(one)
    maps = torch.randn(6, 5, 9, 8, dtype=torch.float64, requires_grad=True)
    same_maps = maps.detach().clone().requires_grad_()
    importance = torch.randn(6, channels, dimension, 4, 3, dtype=torch.float64)

    together = merged(maps)
    (together * importance).sum().backward()
    apart = torch.stack([one(same_maps) for one in loop], dim=2)
    (apart * importance).sum().backward()

    assert (together > 0).any()
    torch.testing.assert_close(together, apart, rtol=0, atol=1e-12)
    torch.testing.assert_close(maps.grad, same_maps.grad, rtol=0, atol=1e-10)
    for d, one in enumerate(loop):
        for mine, theirs in zip(one.parameters(), merged.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, theirs.grad[d::dimension], rtol=0, atol=1e-10)
        statistics = merged.layers[1].running_mean[d::dimension]
        torch.testing.assert_close(one[1].running_mean, statistics, rtol=0, atol=1e-12)


def capsules(
    maps: np.ndarray,
    state: dict[str, np.ndarray],
    layer: str,
    dimension: int,
    stride: int,
    training: bool,
) -> np.ndarray:
    """A layer of capsules on `maps` (B, C, h, w): each dimension by itself, (B, C, D, rows, cols).

    In training batch norm uses the statistics of these maps.
    """
    found = []
    for d in range(dimension):
        part = {name: table[d::dimension] for name, table in state.items() if layer in name}
        weight, bias = part[f"{layer}.layers.0.weight"], part[f"{layer}.layers.0.bias"]
        x = np.array([reference.convolution(image, weight, stride) for image in maps])
        x += bias[:, None, None]
        mean, variance = x.mean(axis=(0, 2, 3)), x.var(axis=(0, 2, 3))
        if not training:
            mean, variance = (part[f"{layer}.layers.1.running_{name}"] for name in ("mean", "var"))
        scale, shift = (part[f"{layer}.layers.1.{name}"] for name in ("weight", "bias"))
        normal = [reference.batch_norm(image, mean, variance, scale, shift, 1e-5) for image in x]
        found.append(np.maximum(normal, 0))
    return np.stack(found, axis=2)


def vectors(maps: np.ndarray, state: dict[str, np.ndarray], *, training: bool) -> np.ndarray:
    """Section IV-B: `h` of each capsule, (B, C, M, D), of 3 x 3 patches of stride 2."""
    primary = capsules(maps, state, "primary", 16, 2, training)
    # Eq. 11, the root over squares.
    lengths = np.sqrt((primary**2).sum(axis=2))
    activities = np.maximum(lengths - state["trivial_length"][:, None, None], 0)
    assert 0 < (activities == 0).mean() < 1
    h = capsules(activities, state, "patch_capsules", 128, 1, training)
    # Patch m is row m // columns, column m % columns.
    return h.reshape(*h.shape[:3], -1).swapaxes(2, 3)


def test_the_head_is_section_4b_and_eq_6() -> None:
    model = used_model(
        head="capsule-loss-attention", patch_kernel=3, patch_stride=2, threshold=1.0, width=1 / 16
    ).double()
    images = torch.rand(2, 3, 6, 7, dtype=torch.float64)
    maps = feature_maps(model, images)
    with torch.no_grad():
        lengths = model.head.primary(torch.from_numpy(maps)).norm(dim=2)
        model.head.trivial_length.copy_(lengths.mean(dim=(0, 2, 3)))  # some above, some below
        prediction = patches_of(model, images, CapsulePrediction)
    state = {name: table for name, table in arrays(model.head).items() if table.ndim}
    assert prediction.capsule_logits.shape == (2, 4, 6, 5)
    for i, h in enumerate(vectors(maps, state, training=False)):
        p = h @ state["classifier.weight"].T + state["classifier.bias"]
        alpha, capsule_alpha = reference.capsule_weights(p, 1.0)
        # Eqs. 6d and 6e as printed: the weighted vectors through the same classifier.
        pooled = (capsule_alpha[..., None] * h).sum(axis=(0, 1))
        z = pooled @ state["classifier.weight"].T + state["classifier.bias"]
        evidence = (capsule_alpha[..., None] * p).sum(axis=0)
        for found, expected in (
            (prediction.capsule_logits, p),
            (prediction.patch_logits, p.sum(axis=0)),
            (prediction.patch_weights, alpha),
            (prediction.capsule_weights, capsule_alpha),
            (prediction.evidence, evidence),
            (prediction.logits, z),
        ):
            np.testing.assert_allclose(found[i].numpy(), expected, rtol=0, atol=1e-9)
        assert prediction.selected[i].tolist() == (alpha > 0).tolist()
        assert 0 < (alpha > 0).sum() < 6
        # Which is why the evidence of a patch is not its weight times its logits.
        assert np.abs(capsule_alpha.sum(axis=0) - alpha).max() > 0.01


def loss_in_training(
    maps: np.ndarray, state: dict[str, np.ndarray], labels: list[int], gamma: float
) -> float:
    """Eq. 9 of Eq. 6 of Section IV-B, with the batch's own statistics and a threshold of 1."""
    h = vectors(maps, state, training=True)
    p = h @ state["classifier.weight"].T + state["classifier.bias"]
    weights = [reference.capsule_weights(image, 1.0) for image in p]
    alpha, capsule_alpha = (np.array(kind) for kind in zip(*weights, strict=True))
    z = (capsule_alpha[..., None] * p).sum(axis=(1, 2))
    assert 0 < (alpha == 0).mean() < 1
    one_hot = np.eye(p.shape[3])[labels]
    return reference.single_label_loss(z, p.sum(axis=1), alpha, one_hot, gamma)


def test_training_follows_the_gradient_of_the_equations() -> None:
    """The slope of the loss along a direction of each parameter, from differences in NumPy."""
    head = CapsuleHead(
        3, 4, layout=PatchLayout(3, 2, 1, 0.0), threshold=1.0, primary_channels=3, channels=2
    ).double()
    for module in head.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.3)
            nn.init.normal_(module.bias, std=0.3)
    maps, labels, gamma = torch.randn(2, 3, 5, 7, dtype=torch.float64), [3, 1], 0.7
    with torch.no_grad():
        lengths = head.primary(maps).norm(dim=2)
        head.trivial_length.copy_(lengths.mean(dim=(0, 2, 3)))  # some above, some below
    state = {name: table.copy() for name, table in arrays(head).items() if table.ndim}

    loss = single_label_loss(head(maps, (5, 7)), torch.tensor(labels), gamma)
    loss.backward()

    expected = loss_in_training(maps.numpy(), state, labels, gamma)
    np.testing.assert_allclose(loss.item(), expected, rtol=0, atol=1e-12)
    moved = 0
    for name, parameter in head.named_parameters():
        direction = np.random.default_rng(0).standard_normal(parameter.shape)
        ahead, behind = (
            loss_in_training(
                maps.numpy(), {**state, name: state[name] + step * direction}, labels, gamma
            )
            for step in (1e-6, -1e-6)
        )
        slope = float((parameter.grad.numpy() * direction).sum())
        np.testing.assert_allclose(slope, (ahead - behind) / 2e-6, rtol=1e-5, atol=1e-8)
        moved += abs(slope) > 1e-3
    assert moved == 9  # all but the two convolutions' biases, which batch norm takes away


def test_capsules_are_as_many_as_the_paper_says_and_width_scales_their_number() -> None:
    with torch.device("meta"):
        whole = used_model(head="capsule-loss-attention", width=1.0).head
        half = used_model(head="capsule-loss-attention", width=0.5).head
    assert (whole.primary.shape, whole.patch_capsules.shape) == ((32, 16), (64, 128))
    assert (half.primary.shape, half.patch_capsules.shape) == ((16, 16), (32, 128))
    assert whole.trivial_length.shape == (32,)
    assert whole.classifier.in_features == half.classifier.in_features == 128
