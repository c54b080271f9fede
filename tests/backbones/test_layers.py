"""Which layer follows which: our networks against a trace of a run, others left alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from heads.used import NARROW
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import loss_attention as la
from loss_attention.backbones import BACKBONES
from loss_attention.backbones.layers import Layered, neighbours
from loss_attention.evaluation.measuring import for_inference
from loss_attention.heads import HEADS

SIZE = (20, 20)
Pairs = set[tuple[str, str]]


def traced(model: nn.Module, images: Tensor) -> Pairs:
    """Convolutions by the batch norm that gets the very tensor which they return."""
    made: dict[int, str] = {}
    kept, pairs = [], set()

    def note(name: str) -> Callable[[nn.Module, tuple[Tensor], Tensor], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
            kept.extend([*inputs, output])  # so that no other tensor gets its id
            if isinstance(module, nn.Conv2d):
                made[id(output)] = name
            elif id(inputs[0]) in made:
                pairs.add((made[id(inputs[0])], name))

        return hook

    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
            module.register_forward_hook(note(name))
    with torch.inference_mode():
        model.eval()(images)
    return pairs


def declared(model: nn.Module) -> Pairs:
    names = {id(module): name for name, module in model.named_modules()}
    return {
        (names[id(first)], names[id(second)])
        for first, second in neighbours(model)
        if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d)
    }


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_what_our_networks_declare_is_what_they_do(backbone: str, head: str) -> None:
    model = la.create_model(backbone, head=head, width=NARROW, image_size=SIZE)
    found = declared(model)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert found == traced(model, torch.rand(2, 3, *SIZE))
    assert len(found) == len(norms)


class Held(nn.Module):
    """A module of a user: a 1 x 1 convolution and batch norms, held in one order."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 3, 1)
        self.norm = worn(3)
        self.second = nn.Conv2d(3, 3, 1)
        self.other = worn(3)


class NormFirst(Held):
    def forward(self, x: Tensor) -> Tensor:
        return self.first(self.norm(x))


class Crossed(Held):
    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.second(x)) + self.other(self.first(x))


class OneNormForTwo(Held):
    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.second(self.norm(self.first(x))))


class ConvolutionTwice(Held):
    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.first(x)) + self.first(x)


class Between(Held):
    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.first(x).abs())


class Unused(Held):
    def forward(self, x: Tensor) -> Tensor:
        return self.first(x)


class FromWithin(nn.Module):
    """It calls layers of a sequence in an order of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 3, 1), worn(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers[0](self.layers[1](x))


class Backwards(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        for layer in reversed(self):
            x = layer(x)
        return x


class Declared(Layered):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 3, 1), worn(3))

    def paths(self) -> list[list[nn.Module]]:
        return [[self.layers]]

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class ChangedSince(Declared):
    def forward(self, x: Tensor) -> Tensor:
        return self.layers[1](x)


class Negated(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return -super().forward(input).abs()


def worn(channels: int, **options: bool) -> nn.BatchNorm2d:
    """A batch norm that is far from doing nothing."""
    norm = nn.BatchNorm2d(channels, **options)
    for name, values in (*norm.named_parameters(), *norm.named_buffers()):
        if values.is_floating_point():
            nn.init.uniform_(values, 0.5, 2.0 if name != "running_mean" else 3.0)
    return norm


def shared_convolution() -> nn.Module:
    once = nn.Conv2d(3, 3, 1)
    return nn.Sequential(once, worn(3), nn.ReLU(), once, worn(3))


def shared_norm() -> nn.Module:
    once = worn(3)
    return nn.Sequential(nn.Conv2d(3, 3, 1), once, nn.Conv2d(3, 3, 1), once)


def shared_block() -> nn.Module:
    block = nn.Sequential(nn.Conv2d(3, 3, 1), worn(3), nn.ReLU())
    return nn.Sequential(block, block)


def hooked() -> nn.Module:
    network = nn.Sequential(nn.Conv2d(3, 3, 1), worn(3))
    network[0].register_forward_hook(lambda module, inputs, output: output.abs())
    return network


def hooked_sequence() -> nn.Module:
    inner = nn.Sequential(nn.Conv2d(3, 3, 1))
    inner.register_forward_hook(lambda module, inputs, output: output.abs())
    return nn.Sequential(inner, worn(3))


def replaced() -> nn.Module:
    network = nn.Sequential(nn.Conv2d(3, 3, 1), worn(3))
    network.forward = lambda x: network[0](x)  # type: ignore[method-assign]
    return network


MUST_STAY = {
    "norm first": NormFirst,
    "crossed": Crossed,
    "one norm for two": OneNormForTwo,
    "a convolution twice": ConvolutionTwice,
    "something between": Between,
    "a norm that is not called": Unused,
    "from within": FromWithin,
    "backwards": lambda: Backwards(nn.Conv2d(3, 3, 1), worn(3)),
    "changed since": ChangedSince,
    "shared convolution": shared_convolution,
    "shared norm": shared_norm,
    "shared block": shared_block,
    "relu between": lambda: nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), worn(3)),
    "norm before": lambda: nn.Sequential(worn(3), nn.Conv2d(3, 3, 1)),
    "own class": lambda: nn.Sequential(Negated(3, 3, 1), worn(3)),
    "no statistics": lambda: nn.Sequential(nn.Conv2d(3, 3, 1), worn(3, track_running_stats=False)),
    "parametrised": lambda: nn.Sequential(
        parametrizations.weight_norm(nn.Conv2d(3, 3, 1)), worn(3)
    ),
    "hooked": hooked,
    "hooked sequence": hooked_sequence,
    "own forward": replaced,
}
CAN_BE_ONE = {
    "sequence": lambda: nn.Sequential(nn.Conv2d(3, 3, 1), worn(3)),
    "without scale": lambda: nn.Sequential(nn.Conv2d(3, 3, 1), worn(3, affine=False)),
    "nested": lambda: nn.Sequential(nn.Sequential(nn.Conv2d(3, 3, 1)), nn.Identity(), worn(3)),
    "declared": Declared,
}


@pytest.mark.parametrize("name", MUST_STAY)
def test_what_cannot_be_told_is_left_alone_and_computes_the_same(name: str) -> None:
    network = MUST_STAY[name]().eval()
    images = torch.rand(2, 3, 4, 4)
    fast = for_inference(network)
    assert any(isinstance(module, nn.BatchNorm2d) for module in fast.modules())
    torch.testing.assert_close(fast(images), network(images))


@pytest.mark.parametrize("name", CAN_BE_ONE)
def test_what_is_certain_becomes_one_layer_and_computes_the_same(name: str) -> None:
    network = CAN_BE_ONE[name]().eval()
    images = torch.rand(2, 3, 4, 4)
    fast = for_inference(network)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fast.modules())
    torch.testing.assert_close(fast(images), network(images), rtol=1e-4, atol=1e-5)
