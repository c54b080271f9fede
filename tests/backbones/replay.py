"""Backbones small enough for float64, and their weights applied once more, layer by layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from loss_attention.backbones import BACKBONES
from loss_attention.backbones.paper import PaperBackbone
from loss_attention.model_spec import ModelSpec

WIDTH = 1 / 32


def build(
    name: str,
    strided: tuple[int, ...] = (),
    *,
    pooled: bool = False,
    channels: int = 3,
    width: float = WIDTH,
) -> PaperBackbone:
    """A small backbone in evaluation mode, as a patch model (or, pooled, a baseline) gets it."""
    spec = ModelSpec(backbone=name, in_channels=channels, width=width, strided_layers=strided)
    return BACKBONES[name].build(spec, pooled=pooled).eval()


def build_random(name: str, strided: tuple[int, ...], *, pooled: bool = False) -> PaperBackbone:
    """One in float64 whose batch norms are not at their initial 0 and 1, which hide mistakes."""
    network = build(name, strided, pooled=pooled).double()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
    return network


def assert_close(result: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(result, expected, rtol=1e-11, atol=1e-10)


class Replay:
    """Applies the stored weights of a network in the order of its layers."""

    def __init__(self, network: nn.Module) -> None:
        self.weights = iter(network.state_dict().items())

    def next(self) -> Tensor:
        name, value = next(self.weights)
        return self.next() if name.endswith("num_batches_tracked") else value

    def convolution(self, x: Tensor, stride: int = 1, *, bias: bool = False) -> Tensor:
        """A convolution that pads by half its kernel, and its batch norm."""
        weight = self.next()
        shift = self.next() if bias else None
        x = F.conv2d(x, weight, shift, stride, padding=weight.shape[2] // 2)
        scale, shift, mean, variance = (self.next()[:, None, None] for _ in range(4))
        return (x - mean) / (variance + 1e-5).sqrt() * scale + shift

    def finish(self) -> None:
        """Nothing is left over."""
        assert all(name.endswith("num_batches_tracked") for name, _ in self.weights)
