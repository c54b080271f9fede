"""Models as a whole: sizes, grids, what they take, and their messages."""

from __future__ import annotations

import pytest
import torch
from heads.used import NARROW, WEIGHTED_HEADS, patches_of, used_baseline, used_model
from torch import nn

import loss_attention as la
from loss_attention.errors import InputError
from loss_attention.prediction import PatchPrediction, WeightedPrediction


@pytest.mark.parametrize(
    ("backbone", "head", "millions"),
    [
        ("vgg11_bn", "baseline", 28.15),
        ("vgg11_bn", "mean", 30.73),
        ("vgg11_bn", "attention", 30.79),  # 30.80 in the paper
        ("vgg11_bn", "gated-attention", 30.86),
        ("vgg11_bn", "loss-attention", 30.73),
        ("vgg11_bn", "capsule-loss-attention", 30.75),  # 31.02, of which 0.27 is never used
        ("vgg11_bn", "capsule-dynamic-routing", 33.41),
        ("resnet18", "baseline", 11.17),
        ("resnet18", "mean", 32.67),
        ("resnet18", "attention", 32.74),  # 32.73 in the paper
        ("resnet18", "gated-attention", 32.80),
        ("resnet18", "loss-attention", 32.67),
        ("resnet18", "capsule-loss-attention", 32.69),  # 32.96, of which 0.27 is never used
        ("resnet18", "capsule-dynamic-routing", 35.35),
    ],
)
def test_parameter_counts_are_those_of_table_2(backbone: str, head: str, millions: float) -> None:
    with torch.device("meta"):  # counts without filling 130 MB each
        model = la.create_model(backbone, head=head, num_classes=10, image_size=(32, 32))
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == millions


@pytest.mark.parametrize("backbone", ["vgg11_bn", "resnet18"])
@pytest.mark.parametrize("head", WEIGHTED_HEADS)
def test_an_image_of_32_pixels_has_6_by_6_patches(backbone: str, head: str) -> None:
    model = used_model(backbone=backbone, head=head, image_size=(32, 32))
    prediction = patches_of(model, torch.rand(2, 3, 32, 32), WeightedPrediction)
    assert (prediction.grid.rows, prediction.grid.columns) == (6, 6)
    assert prediction.logits.shape == (2, 5)
    assert prediction.patch_scores.shape == (2, 36, 5)
    assert prediction.patch_weights.shape == (2, 36)
    assert prediction.grid.windows()[-1].tolist() == [20, 20, 29, 29]


@pytest.mark.parametrize(
    ("options", "size", "rows", "columns", "last_window"),
    [
        # (places - 9) // 4 + 1 patches an axis; places = size / stride, rounded up
        ({}, (9, 9), 1, 1, [0, 0, 9, 9]),
        ({}, (33, 50), 7, 11, [40, 24, 49, 33]),
        ({"in_channels": 1}, (12, 64), 1, 14, [52, 0, 61, 9]),
        ({"in_channels": 7}, (20, 20), 3, 3, [8, 8, 17, 17]),
        ({"strided_layers": (6,)}, (64, 64), 6, 6, [40, 40, 58, 58]),
        ({"strided_layers": [6]}, (33, 41), 3, 4, [24, 16, 41, 33]),
        ({"strided_layers": (1, 6)}, (80, 64), 3, 2, [16, 32, 52, 68]),
        ({"strided_layers": (1, 6), "backbone": "vgg11_bn"}, (77, 64), 3, 2, [16, 32, 52, 68]),
        ({"patch_kernel": 5, "patch_stride": 3}, (16, 17), 4, 5, [12, 9, 17, 14]),
        ({"patch_kernel": 1, "patch_stride": 1}, (3, 2), 3, 2, [1, 2, 2, 3]),
        ({"patch_kernel": 2, "patch_stride": 5}, (8, 12), 2, 3, [10, 5, 12, 7]),
    ],
)
def test_any_size_and_channels_give_the_grid_that_they_should(
    options: dict[str, object],
    size: tuple[int, int],
    rows: int,
    columns: int,
    last_window: list[int],
) -> None:
    model = used_model(**options)
    images = torch.rand(2, int(str(options.get("in_channels", 3))), *size)
    prediction = patches_of(model, images)
    grid = prediction.grid
    assert (grid.rows, grid.columns, grid.height, grid.width) == (rows, columns, *size)
    assert prediction.patch_weights.shape == (2, rows * columns)
    assert grid.windows()[-1].tolist() == last_window


@pytest.mark.parametrize("backbone", ["vgg11_bn", "resnet18"])
@pytest.mark.parametrize("size", [(1, 1), (7, 50), (33, 32)])
def test_a_baseline_takes_any_size(backbone: str, size: tuple[int, int]) -> None:
    prediction = used_baseline(backbone)(torch.rand(2, 3, *size))
    assert prediction.logits.shape == (2, 5)
    assert not isinstance(prediction, PatchPrediction)


def test_width_scales_every_layer() -> None:
    def widths(width: float) -> list[int]:
        with torch.device("meta"):
            model = la.create_model(head="mean", width=width, num_classes=10)
        return [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)]

    assert widths(0.25) == [count // 4 for count in widths(1.0)]
    assert widths(1.5) == [count * 3 // 2 for count in widths(1.0)]
    with torch.device("meta"):
        baseline = la.create_model("vgg11_bn", head="baseline", width=0.25, num_classes=10)
    linear = [m.out_features for m in baseline.modules() if isinstance(m, nn.Linear)]
    assert linear == [1024, 1024, 10]


@pytest.mark.parametrize(
    ("options", "least"),
    [
        # The last of 9 places that are s pixels apart begins at pixel 8 s.
        ({}, 9),
        ({"strided_layers": (6,)}, 17),
        ({"strided_layers": (1, 6, 10, 14)}, 129),
        ({"backbone": "vgg11_bn", "strided_layers": (2, 3)}, 33),
        ({"patch_kernel": 3, "strided_layers": (10,)}, 5),
        ({"patch_kernel": 1}, 1),
        ({"head": "mean", "patch_kernel": 4, "patch_stride": 2}, 4),
        ({"head": "capsule-loss-attention", "patch_kernel": 5, "strided_layers": (6,)}, 9),
    ],
)
def test_the_smallest_image_works_and_a_pixel_less_is_refused(
    options: dict[str, object], least: int
) -> None:
    model = used_model(**options)
    assert model.smallest_image == least
    prediction = patches_of(model, torch.rand(1, 3, least, least))
    assert prediction.grid.patches == 1
    assert prediction.patch_weights.tolist() == [[1.0]]
    for size in ((least - 1, least), (least, least - 1)):
        with pytest.raises(InputError) as caught:
            model(torch.rand(1, 3, *size))
        assert f"{size[0]} x {size[1]} pixels" in str(caught.value)
        assert f"is {least} x {least}" in str(caught.value)


def test_routing_takes_images_of_one_size() -> None:
    model = used_model(head="capsule-dynamic-routing", image_size=(21, 17))
    assert model(torch.rand(1, 3, 21, 17)).grid[:2] == (4, 3)
    # The same 4 x 3 patches, but not the image that the model was made for.
    with pytest.raises(InputError, match="made for, 21 x 17 pixels, got 22 x 17"):
        model(torch.rand(1, 3, 22, 17))


def test_bytes_are_the_same_images_as_fractions() -> None:
    model = used_model()
    levels = torch.randint(0, 256, (2, 3, 20, 20), dtype=torch.uint8)
    torch.testing.assert_close(model(levels).logits, model(levels.float() / 255).logits)


def test_images_are_normalised_by_the_mean_and_deviation_that_are_set() -> None:
    model = used_model()
    images = torch.rand(2, 3, 20, 20)
    mean, std = torch.tensor([0.1, 0.5, 0.7]), torch.tensor([0.5, 0.2, 0.0])
    by_hand = images.clone()
    for c, deviation in enumerate((0.5, 0.2, 1e-3)):  # a constant channel is not divided by 0
        by_hand[:, c] = (images[:, c] - mean[c]) / deviation
    with torch.no_grad():
        expected = model.head(model.backbone(by_hand), (20, 20)).logits
        model.set_normalisation(mean, std)
        torch.testing.assert_close(model(images).logits, expected, rtol=1e-4, atol=1e-3)
    stored = model.state_dict()
    assert stored["mean"].flatten().tolist() == mean.tolist()
    assert stored["std"].flatten().tolist() == pytest.approx([0.5, 0.2, 1e-3])


def test_class_names_and_size_stay_with_the_model() -> None:
    model = la.create_model(
        width=NARROW, num_classes=2, class_names=("cat", "dog"), image_size=[48, 40]
    )
    assert model.class_names == ("cat", "dog")
    assert model.image_size == (48, 40)
    assert la.create_model(width=NARROW, num_classes=3).class_names == ("0", "1", "2")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "resnet81"}, "unknown backbone 'resnet81'; did you mean 'resnet18'?"),
        ({"head": "los-attention"}, "unknown head 'los-attention'; did you mean 'loss-attention'?"),
        ({"head": "xyzzy"}, "unknown head 'xyzzy'; known: baseline, mean, attention, gated-"),
        ({"num_classes": 0}, "`num_classes` must be at least 1, got 0"),
        ({"in_channels": 0}, "`in_channels` must be at least 1, got 0"),
        ({"patch_kernel": 0}, "`patch_kernel` must be at least 1, got 0"),
        ({"patch_stride": -1}, "`patch_stride` must be at least 1, got -1"),
        ({"width": 0.0}, "`width` must be above 0 and finite, got 0.0"),
        ({"width": float("nan")}, "`width` must be above 0 and finite, got nan"),
        ({"width": float("inf")}, "`width` must be above 0 and finite, got inf"),
        ({"threshold": 1.5}, r"`threshold` must be in [0, 1], got 1.5"),
        ({"strided_layers": (7,)}, "resnet18 cannot stride in layer 7; it can in 1, 6, 10, 14"),
        (
            {"backbone": "vgg11_bn", "strided_layers": (4, 9)},
            "vgg11_bn cannot stride in layer 9; it can in 1, 2, 3, 4, 5, 6, 7, 8",
        ),
        ({"image_size": (32,)}, "`image_size` must be a height and a width in pixels, got (32,)"),
        ({"image_size": (0, 32)}, "`image_size` must be a height and a width in pixels"),
        (
            {"head": "capsule-dynamic-routing"},
            "the head capsule-dynamic-routing needs `image_size`, (height, width)",
        ),
        (
            {"head": "capsule-dynamic-routing", "image_size": (32, 8)},
            "images of 32 x 8 pixels are smaller than one patch",
        ),
        ({"class_names": ("a", "b")}, "`class_names` must name all 10 classes, got 2"),
    ],
)
def test_what_cannot_be_built_is_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as caught:
        la.create_model(**options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("no_shape_checks")
@pytest.mark.parametrize("shape", [(3, 20, 20), (2, 1, 20, 20), (2, 4, 20, 20), (1, 2, 3, 20, 20)])
def test_images_of_a_wrong_shape_are_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"shape \(B, 3, H, W\)") as caught:
        used_model()(torch.rand(shape))
    assert str(shape) in str(caught.value)


def test_images_of_another_integer_type_are_refused() -> None:
    with pytest.raises(InputError, match=r"uint8 or floating point, got torch\.int64"):
        used_model()(torch.zeros(1, 3, 20, 20, dtype=torch.int64))
