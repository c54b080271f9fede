"""GoogLeNet recomputed in float64 from the table of its paper."""

from __future__ import annotations

import pytest
import torch
from backbones.replay import WIDTH, Replay, assert_close, build, build_random
from torch.nn import functional as F

# Szegedy et al., Table 1: 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool proj, and their output.
TABLE = {
    "3a": (64, 96, 128, 16, 32, 32, 256),
    "3b": (128, 128, 192, 32, 96, 64, 480),
    "4a": (192, 96, 208, 16, 48, 64, 512),
    "4b": (160, 112, 224, 24, 64, 64, 512),
    "4c": (128, 128, 256, 24, 64, 64, 512),
    "4d": (112, 144, 288, 32, 64, 64, 528),
    "4e": (256, 160, 320, 32, 128, 128, 832),
    "5a": (256, 160, 320, 32, 128, 128, 832),
    "5b": (384, 192, 384, 48, 128, 128, 1024),
}


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("strided", [(), (7,), (1, 3, 19)])
def test_googlenet_is_the_published_network(strided: tuple[int, ...], pooled: bool) -> None:
    network = build_random("googlenet", strided, pooled=pooled)
    images = torch.randn(2, 3, 21, 30, dtype=torch.float64)

    replay = Replay(network)
    x = replay.convolution(images, 2 if 1 in strided else 1).relu()
    assert x.shape[1] == 192 * WIDTH
    depth = 1
    for name, (*_, channels) in TABLE.items():
        if pooled and name in ("4a", "5a"):
            x = F.max_pool2d(x, 3, stride=2, padding=1)
        depth += 2
        stride = 2 if depth in strided else 1
        one = replay.convolution(x, stride).relu()
        three = replay.convolution(replay.convolution(x).relu(), stride).relu()
        five = replay.convolution(replay.convolution(x).relu(), stride).relu()
        surround = F.max_pool2d(x, 3, stride=1, padding=1)
        x = torch.cat([one, three, five, replay.convolution(surround, stride).relu()], dim=1)
        # Each branch's share is rounded by itself.
        assert x.shape[1] == pytest.approx(channels * WIDTH, abs=2)
    if not pooled:  # patch layers want 512 features
        x = replay.convolution(x).relu()
        assert x.shape[1] == 512 * WIDTH

    replay.finish()
    assert depth == 19
    assert_close(network(images), x)


def test_the_convolutions_have_the_channels_and_sides_of_the_table() -> None:
    with torch.device("meta"):
        network = build("googlenet", pooled=True, width=1.0)
    shapes = iter([p.shape for p in network.parameters() if p.ndim == 4])
    assert next(shapes) == (192, 3, 3, 3)
    inside = 192
    for one, reduce_three, three, reduce_five, five, pool, channels in TABLE.values():
        assert next(shapes) == (one, inside, 1, 1)
        assert next(shapes) == (reduce_three, inside, 1, 1)
        assert next(shapes) == (three, reduce_three, 3, 3)
        assert next(shapes) == (reduce_five, inside, 1, 1)
        assert next(shapes) == (five, reduce_five, 5, 5)
        assert next(shapes) == (pool, inside, 1, 1)
        inside = one + three + five + pool
        assert inside == channels
    assert next(shapes, None) is None


def test_the_pooling_inside_a_module_keeps_every_place() -> None:
    assert build("googlenet")(torch.zeros(1, 3, 13, 22)).shape[2:] == (13, 22)
