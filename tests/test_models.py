"""Models as a whole: sizes, grids, evidence that adds up, explaining, and their messages."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import reference
import torch
from torch import nn

import loss_attention as la
from loss_attention.errors import InputError
from loss_attention.heads.catalog import HEADS
from loss_attention.heads.patches import PatchHead
from loss_attention.models import PatchClassifier
from loss_attention.prediction import PatchPrediction

PATCH_HEADS = [name for name, entry in HEADS.items() if not entry.pooled_backbone]
NARROW = 1 / 32


def used_model(**options: object) -> PatchClassifier:
    """A narrow model with the batch norm statistics and sharp logits of a trained one."""
    model = la.create_model(**{"width": NARROW, "num_classes": 5, **options})
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.3, 1.5)
            nn.init.normal_(module.weight, 1.0, 0.3)
            nn.init.normal_(module.bias, std=0.3)
    for parameter in model.head.classifier.parameters():
        nn.init.normal_(parameter, std=2.0)
    return model.eval()


def patches_of(model: PatchClassifier, images: torch.Tensor) -> PatchPrediction:
    prediction = model(images)
    assert isinstance(prediction, PatchPrediction)
    return prediction


@pytest.mark.parametrize(
    ("backbone", "head", "millions"),
    [
        ("vgg11_bn", "baseline", 28.15),
        ("vgg11_bn", "mean", 30.73),
        ("vgg11_bn", "loss-attention", 30.73),
        ("resnet18", "baseline", 11.17),
        ("resnet18", "mean", 32.67),
        ("resnet18", "loss-attention", 32.67),
    ],
)
def test_parameter_counts_are_those_of_table_2(backbone: str, head: str, millions: float) -> None:
    with torch.device("meta"):  # counts without filling 130 MB each
        model = la.create_model(backbone, head=head, num_classes=10)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == millions


@pytest.mark.parametrize("backbone", ["vgg11_bn", "resnet18"])
@pytest.mark.parametrize("head", PATCH_HEADS)
def test_an_image_of_32_pixels_has_6_by_6_patches(backbone: str, head: str) -> None:
    prediction = patches_of(used_model(backbone=backbone, head=head), torch.rand(2, 3, 32, 32))
    assert (prediction.grid.rows, prediction.grid.columns) == (6, 6)
    assert prediction.logits.shape == (2, 5)
    assert prediction.patch_logits.shape == (2, 36, 5)
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


def used_baseline(backbone: str = "resnet18") -> PatchClassifier:
    return la.create_model(backbone, head="baseline", num_classes=5, width=NARROW).eval()


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


def test_a_patch_head_is_what_its_weights_say() -> None:
    """The whole head again, in float64 NumPy, from the feature map on."""
    model = used_model(patch_kernel=3, patch_stride=2, threshold=0.4).double()
    images = torch.rand(2, 3, 8, 9, dtype=torch.float64)
    head = model.head
    assert isinstance(head, PatchHead)
    with torch.no_grad():
        prediction = patches_of(model, images)
        features = model.backbone((images - 0.5) / 0.25).numpy()
    state = {name: value.numpy() for name, value in head.state_dict().items()}

    def norm(x: np.ndarray, layer: str) -> np.ndarray:
        statistics = ("running_mean", "running_var", "weight", "bias")
        return reference.batch_norm(x, *(state[f"{layer}.{name}"] for name in statistics), 1e-5)

    for i in range(2):
        x = reference.convolution(features[i], state["patch_layers.0.weight"], stride=2)
        x = np.maximum(norm(x, "patch_layers.1"), 0)
        x = reference.convolution(x, state["patch_layers.3.weight"], stride=1)
        x = np.maximum(norm(x, "patch_layers.4"), 0)
        # Row by row: patch m is row m // 4, column m % 4 of the 3 x 4 places.
        patches = np.array([x[:, row, column] for row in range(3) for column in range(4)])
        p = patches @ state["classifier.weight"].T + state["classifier.bias"]
        alpha = reference.patch_weights(p, 0.4)
        # Eq. 5d as printed: the weighted features through the same classifier.
        z = (alpha @ patches) @ state["classifier.weight"].T + state["classifier.bias"]
        np.testing.assert_allclose(prediction.patch_logits[i].numpy(), p, rtol=0, atol=1e-10)
        np.testing.assert_allclose(prediction.patch_weights[i].numpy(), alpha, rtol=0, atol=1e-10)
        np.testing.assert_allclose(prediction.logits[i].numpy(), z, rtol=0, atol=1e-10)
        assert prediction.selected[i].tolist() == (alpha > 0).tolist()
    assert prediction.selection == 0  # Eq. 5b has subtracted the threshold already


@pytest.mark.parametrize("backbone", ["vgg11_bn", "resnet18"])
def test_a_baseline_averages_places_and_classifies(backbone: str) -> None:
    model = used_baseline(backbone).double()
    images = torch.rand(2, 3, 40, 33, dtype=torch.float64)
    with torch.no_grad():
        logits = model(images).logits.numpy()
        x = model.backbone((images - 0.5) / 0.25).numpy().mean(axis=(2, 3))
    state = {name: value.numpy() for name, value in model.head.state_dict().items()}
    # VGG: two hidden layers with ReLU and, in training alone, dropout; ResNet: none.
    layers = ["0", "3", "6"] if backbone == "vgg11_bn" else ["0"]
    for layer in layers:
        x = x @ state[f"classifier.{layer}.weight"].T + state[f"classifier.{layer}.bias"]
        x = x if layer == layers[-1] else np.maximum(x, 0)
    np.testing.assert_allclose(logits, x, rtol=0, atol=1e-10)


def test_mean_pooling_weighs_all_patches_alike() -> None:
    prediction = patches_of(used_model(head="mean", threshold=0.3), torch.rand(2, 3, 17, 21))
    assert prediction.selection == 0.3
    torch.testing.assert_close(prediction.patch_weights, torch.full((2, 12), 1 / 12))
    torch.testing.assert_close(prediction.logits, prediction.patch_logits.mean(dim=1))
    assert prediction.selected.all()


@pytest.mark.parametrize("head", PATCH_HEADS)
@pytest.mark.parametrize("backbone", ["vgg11_bn", "resnet18"])
def test_the_evidence_sums_to_the_logits(backbone: str, head: str) -> None:
    model = used_model(backbone=backbone, head=head)
    images = torch.rand(7, 3, 32, 40)
    with torch.inference_mode():
        whole = patches_of(model, images)
        batches = [patches_of(model, part) for part in images.split(3)]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = patches_of(model, images)
    for prediction in (whole, *batches, half, patches_of(model, images)):
        assert prediction.logits.abs().max() > 1  # or "to 1e-4" would say little
        for values in (prediction.logits, prediction.patch_logits, prediction.patch_weights):
            assert values.dtype == torch.float32
        difference = prediction.evidence.sum(dim=1) - prediction.logits
        assert difference.abs().max() <= 1e-4
    joined = torch.cat([prediction.evidence for prediction in batches])
    torch.testing.assert_close(joined, whole.evidence, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("head", HEADS)
def test_models_work_in_other_precisions(head: str) -> None:
    model = used_model(head=head) if head in PATCH_HEADS else used_baseline()
    images = torch.rand(2, 3, 20, 20)
    expected = model(images).logits
    exact = copy.deepcopy(model).double()(images).logits
    rough = copy.deepcopy(model).bfloat16()(images).logits
    assert (exact.dtype, rough.dtype) == (torch.float64, torch.float32)
    torch.testing.assert_close(exact.float(), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(rough, expected, rtol=0.2, atol=0.2 * expected.abs().max().item())


def test_training_reaches_every_parameter() -> None:
    for head in HEADS:
        model = la.create_model(head=head, width=NARROW, num_classes=5).train()
        gamma = 0.1 if head in PATCH_HEADS else 0.0
        loss = la.single_label_loss(model(torch.rand(4, 3, 20, 20)), torch.arange(4), gamma)
        loss.backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.any(), name
            assert parameter.grad.isfinite().all(), name


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


def test_explain_is_the_prediction_spelled_out() -> None:
    model = used_model(threshold=1.0)  # keeps patches above the average alone
    images = torch.rand(3, 3, 24, 21)
    prediction = patches_of(model, images)
    explanation = model.explain(images)
    torch.testing.assert_close(explanation.logits, prediction.logits)
    torch.testing.assert_close(explanation.evidence.sum(dim=1), prediction.logits)
    assert explanation.target.tolist() == prediction.logits.argmax(dim=1).tolist()
    assert explanation.probabilities.sum(dim=1).tolist() == pytest.approx([1.0] * 3)
    windows = prediction.grid.windows().double().numpy()
    for i in range(3):
        evidence = prediction.evidence[i, :, explanation.target[i]].detach().double().numpy()
        painted = reference.painted(evidence, windows, 24, 21)
        np.testing.assert_allclose(explanation.heat_maps[i].numpy(), painted, rtol=0, atol=1e-5)
        chosen = windows[(prediction.patch_weights[i] > 0).numpy()]
        assert 0 < len(chosen) < len(windows)
        low, high = chosen[:, :2].min(axis=0), chosen[:, 2:].max(axis=0)
        assert explanation.boxes[i].tolist() == [*low, *high]


def test_explain_takes_a_target_for_all_or_one_an_image() -> None:
    model = used_model()
    images = torch.rand(2, 3, 20, 20)
    assert model.explain(images, 4).target.tolist() == [4, 4]
    assert model.explain(images, torch.tensor([3, 0])).target.tolist() == [3, 0]
    with pytest.raises(InputError, match=r"0\.\.4, got \[5, 5\]"):
        model.explain(images, 5)


def test_explaining_works_under_inference_mode_and_keeps_no_graph() -> None:
    model = used_model()
    images = torch.rand(2, 3, 20, 20)
    with torch.inference_mode():
        inside = model.explain(images)
    outside = model.explain(images)
    torch.testing.assert_close(inside.heat_maps, outside.heat_maps)
    assert not outside.evidence.requires_grad


def test_explaining_leaves_every_mode_as_it_was() -> None:
    model = used_model()
    images = torch.rand(2, 3, 20, 20)
    expected = model.explain(images).logits
    model.train()
    frozen = model.backbone.layers[1]
    frozen.eval()
    before = {name: module.training for name, module in model.named_modules()}
    statistics = model.state_dict()["backbone.layers.1.running_mean"].clone()

    torch.testing.assert_close(model.explain(images).logits, expected)

    assert {name: module.training for name, module in model.named_modules()} == before
    assert torch.equal(model.state_dict()["backbone.layers.1.running_mean"], statistics)
    with pytest.raises(InputError):
        model.explain(images, target=99)
    assert {name: module.training for name, module in model.named_modules()} == before


def test_a_baseline_says_why_it_explains_nothing() -> None:
    with pytest.raises(InputError, match="no patches") as caught:
        used_baseline().explain(torch.rand(1, 3, 20, 20))
    assert "\n" not in str(caught.value)


def test_probabilities_of_a_multi_label_model_are_sigmoids() -> None:
    model = used_model(multi_label=True)
    explanation = model.explain(torch.rand(3, 3, 20, 20))
    torch.testing.assert_close(explanation.probabilities, 1 / (1 + (-explanation.logits).exp()))


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
        ({"head": "xyzzy"}, "unknown head 'xyzzy'; known: baseline, mean, loss-attention"),
        ({"num_classes": 0}, "num_classes must be at least 1, got 0"),
        ({"in_channels": 0}, "in_channels must be at least 1, got 0"),
        ({"patch_kernel": 0}, "patch_kernel must be at least 1, got 0"),
        ({"patch_stride": -1}, "patch_stride must be at least 1, got -1"),
        ({"width": 0.0}, "width must be above 0 and finite, got 0.0"),
        ({"width": float("nan")}, "width must be above 0 and finite, got nan"),
        ({"width": float("inf")}, "width must be above 0 and finite, got inf"),
        ({"threshold": 1.5}, r"threshold must be in [0, 1], got 1.5"),
        ({"strided_layers": (7,)}, "resnet18 cannot stride in layer 7; it can in 1, 6, 10, 14"),
        (
            {"backbone": "vgg11_bn", "strided_layers": (4, 9)},
            "vgg11_bn cannot stride in layer 9; it can in 1, 2, 3, 4, 5, 6, 7, 8",
        ),
        ({"class_names": ("a", "b")}, "class_names must name all 10 classes, got 2"),
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


@pytest.mark.parametrize("head", PATCH_HEADS)
def test_no_images_give_no_predictions(head: str) -> None:
    assert used_model(head=head)(torch.rand(0, 3, 20, 20)).logits.shape == (0, 5)
