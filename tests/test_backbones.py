"""VGG and ResNet recomputed layer by layer in float64, and their shapes, strides and places."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from loss_attention.backbones.catalog import BACKBONES, scaled
from loss_attention.backbones.spatial import Backbone

WIDTH = 1 / 32


def build(
    name: str, strided: tuple[int, ...] = (), *, pooled: bool = False, channels: int = 3
) -> Backbone:
    return BACKBONES[name].build(channels, WIDTH, strided, pooled)


def randomise_batch_norm(network: nn.Module) -> None:
    """Statistics and scales other than the initial 0 and 1, which would hide mistakes."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)


class Replay:
    """Applies the stored weights of a network in the order of its layers."""

    def __init__(self, network: nn.Module) -> None:
        self.weights = iter(network.state_dict().items())

    def next(self) -> Tensor:
        name, value = next(self.weights)
        return self.next() if name.endswith("num_batches_tracked") else value

    def convolution(self, x: Tensor, stride: int, bias: bool, padding: int = 1) -> Tensor:
        weight = self.next()
        return F.conv2d(x, weight, self.next() if bias else None, stride, padding)

    def norm(self, x: Tensor) -> Tensor:
        scale, shift, mean, variance = (self.next()[:, None, None] for _ in range(4))
        return (x - mean) / (variance + 1e-5).sqrt() * scale + shift


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("strided", [(), (4,), (1, 6)])
def test_vgg11_is_the_published_network(strided: tuple[int, ...], pooled: bool) -> None:
    network = build("vgg11_bn", strided, pooled=pooled).double().eval()
    randomise_batch_norm(network)
    images = torch.randn(2, 3, 33, 40, dtype=torch.float64)

    # Simonyan & Zisserman's configuration A: M is a max-pooling.
    x, replay, index = images, Replay(network), 0
    for layer in ["64", "M", "128", "M", "256", "256", "M", "512", "512", "M", "512", "512", "M"]:
        if layer == "M":
            x = F.max_pool2d(x, 2, ceil_mode=True) if pooled else x
            continue
        index += 1
        x = replay.norm(replay.convolution(x, 2 if index in strided else 1, bias=True)).relu()
        assert x.shape[1] == int(layer) * WIDTH

    torch.testing.assert_close(network(images), x, rtol=0, atol=1e-10)


@pytest.mark.parametrize("strided", [(), (6,), (1, 10)])
def test_resnet18_is_the_published_network(strided: tuple[int, ...]) -> None:
    network = build("resnet18", strided).double().eval()
    randomise_batch_norm(network)
    images = torch.randn(2, 3, 17, 20, dtype=torch.float64)

    # He et al.: a stem, then four stages of two blocks of two convolutions.
    replay = Replay(network)
    stride = 2 if 1 in strided else 1
    x = replay.norm(replay.convolution(images, stride, bias=False)).relu()
    index = 2
    for block in range(8):
        stride = 2 if index in strided else 1
        y = replay.norm(replay.convolution(x, stride, bias=False)).relu()
        y = replay.norm(replay.convolution(y, 1, bias=False))
        if block in (2, 4, 6):  # the first of a wider stage
            x = replay.norm(replay.convolution(x, stride, bias=False, padding=0))
        x = (x + y).relu()
        index += 2

    torch.testing.assert_close(network(images), x, rtol=0, atol=1e-10)
    assert network.channels == x.shape[1] == 512 * WIDTH


def test_the_pooled_resnet_strides_where_its_stages_widen() -> None:
    pooled, strided = build("resnet18", pooled=True), build("resnet18", (6, 10, 14))
    strided.load_state_dict(pooled.state_dict())
    images = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(pooled.eval()(images), strided.eval()(images))
    assert pooled(images).shape == (1, 16, 4, 4)


@pytest.mark.parametrize(
    ("name", "strided", "pooled", "stride"),
    [
        ("vgg11_bn", (), False, 1),
        ("vgg11_bn", (4,), False, 2),
        ("vgg11_bn", (2, 4, 6), False, 8),
        ("vgg11_bn", (), True, 32),
        ("vgg11_bn", (1,), True, 64),
        ("resnet18", (), False, 1),
        ("resnet18", (6,), False, 2),
        ("resnet18", (1, 6, 10, 14), False, 16),
        ("resnet18", (), True, 8),
        ("resnet18", (1,), True, 16),
    ],
)
def test_strides_shrink_the_map_as_they_say(
    name: str, strided: tuple[int, ...], pooled: bool, stride: int
) -> None:
    network = build(name, strided, pooled=pooled, channels=1).eval()
    assert network.stride == stride
    for height, width in ((64, 64), (65, 50), (1, 7)):
        shape = network(torch.zeros(1, 1, height, width)).shape
        assert shape == (1, network.channels, -(-height // stride), -(-width // stride))


@pytest.mark.parametrize("name", BACKBONES)
def test_every_layer_that_may_stride_does(name: str) -> None:
    for index in BACKBONES[name].strideable:
        network = build(name, (index,)).eval()
        assert network.stride == 2
        assert network(torch.zeros(1, 3, 20, 20)).shape[2:] == (10, 10)


def test_striding_adds_no_parameters() -> None:
    for name, entry in BACKBONES.items():
        plain = sum(p.numel() for p in build(name).parameters())
        assert plain == sum(p.numel() for p in build(name, entry.strideable).parameters())


def test_a_place_of_the_map_sees_a_square_around_its_pixel() -> None:
    """VGG-11's eight 3 x 3 convolutions reach eight pixels each way, and no further."""
    network = build("vgg11_bn").eval()
    for parameter in network.parameters():
        parameter.data.abs_()  # every unit active: the gradient shows all that is seen
    images = torch.ones(1, 3, 40, 40, requires_grad=True)
    network(images)[0, :, 15, 20].sum().backward()
    seen = images.grad.abs().sum(dim=(0, 1)) > 0  # type: ignore[union-attr]
    expected = torch.zeros(40, 40, dtype=torch.bool)
    expected[7:24, 12:29] = True
    assert torch.equal(seen, expected)


def test_widths_are_rounded_and_never_vanish() -> None:
    assert scaled([64, 128], 0.5) == [32, 64]
    assert scaled([64, 3], 0.01) == [1, 1]
