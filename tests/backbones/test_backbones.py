"""What holds for every backbone: parameters, shapes, strides, widths, and where it may stride."""

from __future__ import annotations

import pytest
import torch
from backbones.replay import WIDTH, build, build_random

import loss_attention as la
from loss_attention.backbones import BACKBONES
from loss_attention.errors import InputError
from loss_attention.heads import HEADS
from loss_attention.model_spec import ModelSpec

# The published network's own strides and poolings, all in all.
PUBLISHED_STRIDE = {"vgg11_bn": 32, "vgg16_bn": 32, "googlenet": 4}


def parameters(name: str, head: str, classes: int = 10) -> int:
    with torch.device("meta"):  # counts without filling hundreds of MB
        model = la.create_model(name, head=head, num_classes=classes)
    return sum(p.numel() for p in model.parameters())


def convolution(inside: int, outside: int, kernel: int, *, bias: bool = False) -> int:
    """Parameters of a convolution and the batch norm after it."""
    return inside * outside * kernel * kernel + outside * bias + 2 * outside


def vgg_parameters(widths: list[int]) -> int:
    pairs = zip([3, *widths], widths, strict=False)
    return sum(convolution(a, b, 3, bias=True) for a, b in pairs)


def resnet_parameters(kernels: list[int], expansion: int, blocks: list[int]) -> int:
    total, inside = convolution(3, 64, 3), 64
    for stage, count in enumerate(blocks):
        width = 64 * 2**stage
        for block in range(count):
            channels = inside
            for kernel in kernels[:-1]:
                total += convolution(channels, width, kernel)
                channels = width
            total += convolution(width, width * expansion, kernels[-1])
            if block == 0 and inside != width * expansion:
                total += convolution(inside, width * expansion, 1)
            inside = width * expansion
    return total


def googlenet_parameters() -> int:
    total, inside = convolution(3, 192, 3), 192
    for row in (
        (64, 96, 128, 16, 32, 32),
        (128, 128, 192, 32, 96, 64),
        (192, 96, 208, 16, 48, 64),
        (160, 112, 224, 24, 64, 64),
        (128, 128, 256, 24, 64, 64),
        (112, 144, 288, 32, 64, 64),
        (256, 160, 320, 32, 128, 128),
        (256, 160, 320, 32, 128, 128),
        (384, 192, 384, 48, 128, 128),
    ):
        one, reduce_three, three, reduce_five, five, pool = row
        total += convolution(inside, one, 1)
        total += convolution(inside, reduce_three, 1) + convolution(reduce_three, three, 3)
        total += convolution(inside, reduce_five, 1) + convolution(reduce_five, five, 5)
        total += convolution(inside, pool, 1)
        inside = one + three + five + pool
    return total


VGG16 = [64] * 2 + [128] * 2 + [256] * 3 + [512] * 6
# Name: parameters of the network without its classifier, and the features that it ends in.
BY_HAND = {
    "vgg11_bn": (vgg_parameters([64, 128, 256, 256, 512, 512, 512, 512]), 512),
    "vgg16_bn": (vgg_parameters(VGG16), 512),
    "resnet18": (resnet_parameters([3, 3], 1, [2, 2, 2, 2]), 512),
    "resnet50": (resnet_parameters([1, 3, 1], 4, [3, 4, 6, 3]), 2048),
    "resnet50_paper": (resnet_parameters([3, 3, 1], 4, [3, 4, 6, 3]), 2048),
    "googlenet": (googlenet_parameters(), 1024),
}


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("classes", [1, 10, 200])
def test_parameters_are_those_counted_by_hand(name: str, classes: int) -> None:
    network, features = BY_HAND[name]
    if name.startswith("vgg"):
        classifier = 513 * 4096 + 4097 * 4096 + 4097 * classes
    else:
        classifier = (features + 1) * classes
    assert parameters(name, "baseline", classes) == network + classifier
    reduction = convolution(features, 512, 1) if features > 512 else 0
    patches = convolution(512, 512, 9) + convolution(512, 512, 1) + 513 * classes
    assert parameters(name, "mean", classes) == network + reduction + patches


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("vgg11_bn", 28.15),
        ("vgg16_bn", 33.65),
        ("resnet18", 11.17),
        ("resnet50_paper", 58.16),  # Table II prints it for "ResNet50"
        ("resnet50", 23.52),
        ("googlenet", 5.87),
    ],
)
def test_baselines_have_the_parameters_of_table_2(name: str, millions: float) -> None:
    assert round(parameters(name, "baseline") / 1e6, 2) == millions


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("pooled", [False, True])
def test_strides_shrink_the_map_as_they_say(name: str, pooled: bool) -> None:
    own = PUBLISHED_STRIDE.get(name, 8) if pooled else 1
    places = BACKBONES[name].strideable
    # One that the published ResNets do not stride at by themselves.
    for strided, factor in (((), 1), ((1,), 2)):
        network = build(name, strided, pooled=pooled, channels=1)
        assert network.stride == own * factor
        for height, width in ((16, 33), (1, 7)):
            shape = network(torch.zeros(1, 1, height, width)).shape
            expected = (-(-height // network.stride), -(-width // network.stride))
            assert shape == (1, network.channels, *expected)
    if not pooled:
        assert build(name, places[:3]).stride == 8


@pytest.mark.parametrize("name", BACKBONES)
def test_every_layer_that_may_stride_does_and_adds_no_parameters(name: str) -> None:
    plain = sum(p.numel() for p in build(name).parameters())
    for index in BACKBONES[name].strideable:
        network = build(name, (index,))
        assert network(torch.zeros(1, 3, 5, 8)).shape[2:] == (3, 4)
        assert sum(p.numel() for p in network.parameters()) == plain


@pytest.mark.parametrize(
    ("name", "index", "places"),
    [
        ("vgg16_bn", 14, "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13"),
        ("resnet18", 2, "1, 6, 10, 14"),
        ("resnet50", 11, "1, 3, 12, 24, 42"),
        ("resnet50_paper", 12, "1, 2, 11, 23, 41"),
        ("googlenet", 2, "1, 3, 5, 7, 9, 11, 13, 15, 17, 19"),
        ("googlenet", -1, "1, 3, 5, 7, 9, 11, 13, 15, 17, 19"),
    ],
)
def test_another_layer_is_refused_with_those_that_may(name: str, index: int, places: str) -> None:
    message = f"`strided_layers`: {name} cannot stride in layer {index}; it can in {places}"
    with pytest.raises(InputError, match=f"^{message}$"):
        la.create_model(name, width=WIDTH, strided_layers=(1, index))


@pytest.mark.parametrize("name", BACKBONES)
def test_on_one_pixel_the_published_network_is_the_spatial_one(name: str) -> None:
    """There nothing is pooled or skipped, so the two must agree, weight for weight."""
    published = build_random(name, (), pooled=True)
    spec = ModelSpec(backbone=name, width=WIDTH)
    spatial = BACKBONES[name].network(spec, pooled=False).double().eval()
    spatial.load_state_dict(
        {
            key: published.state_dict()[old]
            for key, old in zip(spatial.state_dict(), published.state_dict(), strict=True)
        }
    )
    images = torch.randn(4, 3, 1, 1, dtype=torch.float64)
    assert published(images).abs().max() > 0
    torch.testing.assert_close(spatial(images), published(images), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("pooled", [False, True])
def test_channels_last_stays_and_changes_nothing(name: str, pooled: bool) -> None:
    network = build_random(name, (), pooled=pooled)
    images = torch.randn(2, 3, 12, 11, dtype=torch.float64)
    expected = network(images)
    last = torch.channels_last
    result = network.to(memory_format=last)(images.to(memory_format=last))
    torch.testing.assert_close(result, expected, rtol=1e-10, atol=1e-10)
    assert result.is_contiguous(memory_format=last)


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("head", ["baseline", "mean"])
@pytest.mark.parametrize("width", [0.001, 0.03])
def test_any_width_and_any_channels_train(name: str, head: str, width: float) -> None:
    model = la.create_model(name, head=head, width=width, in_channels=5, patch_kernel=3)
    model(torch.rand(2, 5, 6, 9)).logits.sum().backward()
    gradients = [p.grad for p in model.parameters()]
    assert all(gradient is not None for gradient in gradients)


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("head", [name for name in HEADS if name != "baseline"])
def test_every_patch_head_stands_on_every_backbone(name: str, head: str) -> None:
    places = BACKBONES[name].strideable
    options = {"num_classes": 3, "width": 1 / 64, "image_size": (34, 40)}
    model = la.create_model(name, head=head, strided_layers=places[-1:], **options)
    prediction = model.eval()(torch.rand(1, 3, 34, 40))
    assert prediction.grid[:4] == (3, 3, 18, 8)
    assert prediction.patch_weights.sum().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", BACKBONES)
def test_patch_layers_get_512_features_times_the_width(name: str) -> None:
    for width, channels in ((1 / 32, 16), (0.1, 51)):
        network = build(name, width=width)
        assert network.channels == channels
        assert network(torch.zeros(1, 3, 2, 2)).shape[1] == channels


def test_a_baseline_is_not_reduced() -> None:
    assert build("resnet50", pooled=True).channels == 2048 * WIDTH
    assert build("googlenet", pooled=True).channels == 1024 * WIDTH


def test_widths_are_rounded_and_never_vanish() -> None:
    assert [ModelSpec(width=0.5).scaled(count) for count in (64, 128)] == [32, 64]
    assert [ModelSpec(width=0.01).scaled(count) for count in (64, 3)] == [1, 1]
