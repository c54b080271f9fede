"""Receptive fields against the true ones: an impulse sent through networks of positive weights."""

from __future__ import annotations

import pytest
import torch
from backbones.replay import build
from torch import Tensor, nn
from torch.nn import functional as F

import loss_attention as la
from loss_attention.backbones import BACKBONES
from loss_attention.backbones.layers import Branched
from loss_attention.backbones.receptive_field import ReceptiveField, receptive_field

WIDTH = 1 / 64
# Two layers in which each network strides, the paper's for 64 x 64 images first.
STRIDED = {
    "vgg11_bn": (4, 7),
    "vgg16_bn": (4, 9),
    "resnet18": (6, 10),
    "resnet50": (12, 24),
    "resnet50_paper": (11, 23),
    "googlenet": (7, 17),
}


def positive(network: nn.Module) -> nn.Module:
    """Weights above 0 and no shifts: what is not seen is exactly 0, what is seen is above."""
    for name, parameter in network.named_parameters():
        parameter.data.abs_()
        if name.endswith("bias"):
            parameter.data.zero_()
    return network.double().eval()


@torch.inference_mode()
def seen(network: nn.Module, length: int, kernel: int = 1, stride: int = 1) -> Tensor:
    """True at (place, pixel) where a patch of the map depends on a column of the image."""
    impulses = torch.eye(length, dtype=torch.float64).reshape(length, 1, 1, length)
    across = network(impulses.expand(-1, 3, -1, -1)).sum(dim=1, keepdim=True)
    down = network(impulses.transpose(2, 3).expand(-1, 3, -1, -1)).sum(dim=1, keepdim=True)
    # One computed field stands for both axes.
    assert torch.equal(across > 0, down.transpose(2, 3) > 0)
    patch = torch.ones(1, 1, 1, kernel, dtype=torch.float64)
    return F.conv2d(across, patch, stride=stride)[:, 0, 0].T > 0


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("strides", [0, 1, 2])
@pytest.mark.parametrize("patch", [(1, 1), (9, 4)])
def test_the_field_is_what_a_patch_depends_on(
    name: str, strides: int, patch: tuple[int, int]
) -> None:
    network = build(name, STRIDED[name][:strides], width=WIDTH)
    check(network, network.receptive_field.after(*patch), *patch)


@pytest.mark.parametrize("name", BACKBONES)
def test_the_field_of_a_baseline_counts_its_pooling(name: str) -> None:
    network = build(name, pooled=True, width=WIDTH)
    check(network, network.receptive_field)


def check(network: nn.Module, field: ReceptiveField, kernel: int = 1, stride: int = 1) -> None:
    length = field.size + field.stride  # so that one field at least lies inside
    true = seen(positive(network), length, kernel, stride)
    computed = torch.zeros_like(true)
    for place in range(len(true)):
        computed[place, list(field.pixels(place, length))] = True
    assert torch.equal(true, computed)
    assert (true.sum(dim=1) == field.size).any()


def test_the_fields_of_the_spatial_networks() -> None:
    """One pixel and two more for each 3 x 3 convolution, four for each 5 x 5, in sequence."""
    convolutions = {"vgg11_bn": 8, "vgg16_bn": 13, "resnet18": 17, "resnet50": 17}
    for name, count in convolutions.items():
        assert build(name).receptive_field == (1 + 2 * count, 1, -count)
    assert build("resnet50_paper").receptive_field == (1 + 2 * 33, 1, -33)
    assert build("googlenet").receptive_field == (1 + 2 + 9 * 4, 1, -19)


def test_a_patch_logit_depends_on_its_field_and_on_nothing_else() -> None:
    """The whole model, by gradients: VGG-11's patches of 9 pixels see 25."""
    model = la.create_model("vgg11_bn", head="mean", width=1 / 32)
    positive(model)
    images = torch.full((1, 3, 48, 64), 0.9, dtype=torch.float64, requires_grad=True)
    prediction = model(images)
    prediction.patch_logits[0, 6 * prediction.grid.columns + 8].sum().backward()
    assert images.grad is not None
    true = images.grad[0].abs().sum(dim=0) > 0
    assert model.receptive_field == (25, 4, -8)
    expected = torch.zeros(48, 64, dtype=torch.bool)
    expected[4 * 6 - 8 : 4 * 6 + 17, 4 * 8 - 8 : 4 * 8 + 17] = True
    assert torch.equal(true, expected)
    window = prediction.grid.windows()[6 * prediction.grid.columns + 8].tolist()
    assert window == [32, 24, 41, 33]


def test_the_field_of_a_model_is_that_of_its_patch_layer() -> None:
    options = {"patch_kernel": 5, "patch_stride": 2, "strided_layers": (4,), "width": 1 / 64}
    model = la.create_model("vgg11_bn", **options)
    assert model.receptive_field == (25 + 4 * 2, 4, -12)
    assert la.create_model("vgg11_bn", head="baseline", width=1 / 64).receptive_field is None


class Parallel(Branched):
    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def paths(self) -> list[list[nn.Module]]:
        return [[branch] for branch in self.branches] + [[]]


def test_a_block_sees_what_any_of_its_paths_sees() -> None:
    left = nn.Conv2d(1, 1, 3, padding=2)
    right = nn.Conv2d(1, 1, 3, padding=0)
    assert receptive_field([Parallel(left, right)]) == (5, 1, -2)
    assert receptive_field([nn.Conv2d(1, 1, 1, stride=3), Parallel(left)]) == (7, 3, -6)


def test_paths_that_stride_apart_are_a_mistake() -> None:
    with pytest.raises(AssertionError, match="stride alike"):
        receptive_field([Parallel(nn.Conv2d(1, 1, 3, stride=2, padding=1))])


def test_a_layer_of_unknown_sight_is_a_mistake() -> None:
    with pytest.raises(AssertionError, match="what does AdaptiveAvgPool2d see"):
        receptive_field([nn.AdaptiveAvgPool2d(1)])
