"""ResNets recomputed in float64: their blocks, where they widen, and where they stride."""

from __future__ import annotations

import pytest
import torch
from backbones.replay import WIDTH, Replay, assert_close, build, build_random

# He et al.: blocks of each stage, and the convolutions of a block.
BLOCKS = {"resnet18": [2, 2, 2, 2], "resnet50": [3, 4, 6, 3], "resnet50_paper": [3, 4, 6, 3]}
KERNELS = {"resnet18": [3, 3], "resnet50": [1, 3, 1], "resnet50_paper": [3, 3, 1]}
OUTSIDE = {"resnet18": 1, "resnet50": 4, "resnet50_paper": 4}


@pytest.mark.parametrize(
    ("name", "strided"),
    [
        ("resnet18", ()),
        ("resnet18", (6,)),
        ("resnet18", (1, 10)),
        ("resnet50", ()),
        ("resnet50", (1, 12)),
        ("resnet50", (3, 24, 42)),
        ("resnet50_paper", ()),
        ("resnet50_paper", (1, 11)),
        ("resnet50_paper", (2, 23, 41)),
    ],
)
def test_resnet_is_the_published_network(name: str, strided: tuple[int, ...]) -> None:
    network = build_random(name, strided)
    images = torch.randn(2, 3, 9, 12, dtype=torch.float64)

    replay = Replay(network)
    x = replay.convolution(images, 2 if 1 in strided else 1).relu()
    index = 1
    for stage, count in enumerate(BLOCKS[name]):
        for block in range(count):
            y, stride = x, 1
            for position, kernel in enumerate(KERNELS[name]):
                index += 1
                if index in strided:
                    assert kernel == 3
                    stride = 2
                y = replay.convolution(y, 2 if index in strided else 1)
                if position < len(KERNELS[name]) - 1:
                    assert y.shape[1] == 64 * 2**stage * WIDTH
                    y = y.relu()
            if block == 0 and x.shape[1] != y.shape[1]:
                x = replay.convolution(x, stride)
            x = (x + y).relu()
        assert x.shape[1] == 64 * 2**stage * OUTSIDE[name] * WIDTH
    if OUTSIDE[name] > 1:  # patch layers want 512 features
        x = replay.convolution(x).relu()

    replay.finish()
    assert_close(network(images), x)
    assert network.channels == x.shape[1] == 512 * WIDTH


def test_the_networks_are_as_deep_as_their_names() -> None:
    """With the classifier; the paper names layers by this count."""
    for name, depth in (("resnet18", 18), ("resnet50", 50), ("resnet50_paper", 50)):
        assert 1 + sum(BLOCKS[name]) * len(KERNELS[name]) + 1 == depth


@pytest.mark.parametrize(
    ("name", "strided"),
    [("resnet18", (6, 10, 14)), ("resnet50", (12, 24, 42)), ("resnet50_paper", (11, 23, 41))],
)
def test_the_published_network_strides_where_its_stages_widen(
    name: str, strided: tuple[int, ...]
) -> None:
    published, spatial = build(name, pooled=True).layers, build(name, strided).layers
    spatial.load_state_dict(published.state_dict(), strict=False)  # the reduction is left as it is
    images = torch.randn(1, 3, 32, 32)
    expected = published(images)
    assert expected.shape[2:] == (4, 4)
    torch.testing.assert_close(spatial[: len(published)](images), expected)
