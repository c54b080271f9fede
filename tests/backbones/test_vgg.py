"""VGG recomputed in float64 from the tables of its paper."""

from __future__ import annotations

import pytest
import torch
from backbones.replay import WIDTH, Replay, assert_close, build_random
from torch.nn import functional as F

# Simonyan & Zisserman's configurations A and D: M is a max-pooling.
A = "64 M 128 M 256 256 M 512 512 M 512 512 M"
D = "64 64 M 128 128 M 256 256 256 M 512 512 512 M 512 512 512 M"


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize(
    ("name", "configuration", "strided"),
    [
        ("vgg11_bn", A, ()),
        ("vgg11_bn", A, (4,)),
        ("vgg11_bn", A, (1, 6)),
        ("vgg16_bn", D, ()),
        ("vgg16_bn", D, (2, 13)),
    ],
)
def test_vgg_is_the_published_network(
    name: str, configuration: str, strided: tuple[int, ...], pooled: bool
) -> None:
    network = build_random(name, strided, pooled=pooled)
    images = torch.randn(2, 3, 33, 40, dtype=torch.float64)

    x, replay, index = images, Replay(network), 0
    for layer in configuration.split():
        if layer == "M":
            x = F.max_pool2d(x, 2, ceil_mode=True) if pooled else x
            continue
        index += 1
        x = replay.convolution(x, 2 if index in strided else 1, bias=True).relu()
        assert x.shape[1] == int(layer) * WIDTH

    replay.finish()
    assert_close(network(images), x)
