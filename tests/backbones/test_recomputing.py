"""Activation checkpointing: the same as without it, and less to keep."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from live_memory import LiveMemory
from torch import Tensor, nn

from loss_attention.backbones import BACKBONES
from loss_attention.backbones.layers import Branched, segments
from loss_attention.backbones.paper import PaperBackbone
from loss_attention.model_spec import ModelSpec

WIDTH = 0.05


def build(name: str, width: float = WIDTH, *, pooled: bool = False) -> PaperBackbone:
    torch.manual_seed(0)
    return BACKBONES[name].build(ModelSpec(backbone=name, width=width), pooled=pooled)


def passed(backbone: PaperBackbone, images: Tensor, *, checkpointed: bool) -> dict[str, Tensor]:
    """Everything that a forward and a backward pass leave behind."""
    backbone.checkpoint_activations = checkpointed
    features = backbone(images)
    weights = torch.linspace(-1, 1, features.numel()).reshape(features.shape)
    (features * weights).sum().backward()
    left = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    for name, parameter in backbone.named_parameters():
        assert parameter.grad is not None
        left[f"gradient of {name}"] = parameter.grad
    return left | {"features": features.detach()}


def norms(module: nn.Module) -> Iterator[nn.BatchNorm2d]:
    return (norm for norm in module.modules() if isinstance(norm, nn.BatchNorm2d))


@pytest.mark.parametrize("name", ["vgg11_bn", "resnet18", "resnet50", "googlenet"])
def test_gradients_and_statistics_are_those_of_the_plain_pass(name):
    images = torch.rand(2, 3, 6, 6)
    plain, saving = build(name), build(name)
    expected = passed(plain, images, checkpointed=False)
    found = passed(saving, images, checkpointed=True)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-6, atol=1e-8, msg=key)
    assert {int(norm.num_batches_tracked) for norm in norms(saving)} == {1}  # type: ignore[arg-type]
    assert {norm.momentum for norm in norms(saving)} == {0.1}


def test_frozen_batch_norm_keeps_using_its_running_statistics():
    images = torch.rand(2, 3, 6, 6)
    plain, saving = build("resnet18"), build("resnet18")
    for backbone in (plain, saving):
        for number, norm in enumerate(norms(backbone)):
            assert norm.running_mean is not None
            norm.running_mean.fill_(0.1 * number)
            norm.eval()
    expected = passed(plain, images, checkpointed=False)
    found = passed(saving, images, checkpointed=True)
    assert all(torch.allclose(found[key], value) for key, value in expected.items())


@pytest.mark.parametrize("name", ["vgg16_bn", "resnet18"])
def test_less_is_alive_at_once(name):
    """At most 0.6 of it here; counted, with the gradients of the small weights among it."""

    def peak(*, checkpointed: bool) -> int:
        backbone = build(name)
        backbone.checkpoint_activations = checkpointed
        images = torch.rand(2, 3, 24, 24)
        with LiveMemory() as memory:
            backbone(images).sum().backward()
        return memory.peak

    assert peak(checkpointed=True) < 0.6 * peak(checkpointed=False)


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("name", BACKBONES)
def test_segments_are_all_layers_and_overwrite_no_input_that_is_kept(name, pooled):
    layers = list(build(name, pooled=pooled).layers)
    cut = segments(layers)
    assert [layer for segment in cut for layer in segment] == layers
    assert len(cut) > 3
    assert all(isinstance(segment[0], nn.Conv2d | Branched) for segment in cut)


def test_without_gradients_nothing_is_computed_twice():
    backbone = build("vgg11_bn").eval()
    calls: list[nn.Module] = []
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda module, *_: calls.append(module))
    backbone.checkpoint_activations = True
    with torch.inference_mode():
        backbone(torch.rand(1, 3, 6, 6))
    assert len(calls) == len(set(calls)) == 8
