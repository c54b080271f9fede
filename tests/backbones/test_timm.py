"""Networks of timm with random weights: their maps, levels, sizes, and models on them."""

from __future__ import annotations

import pytest
import torch
from backbones.cells import check_cells
from torch import Tensor

import loss_attention as la
from loss_attention.backbones import Backbone
from loss_attention.backbones.levels import joined
from loss_attention.errors import InputError

NETWORKS = {
    # name: channels and stride of its last map
    "resnet18": (512, 32),
    "convnext_atto": (320, 32),
    "swin_tiny_patch4_window7_224": (768, 32),
    "vit_tiny_patch16_224": (192, 16),
    "vit_small_patch14_reg4_dinov2": (384, 14),
    "vit_small_patch16_dinov3": (384, 16),
    "tf_efficientnet_lite0": (1280, 32),
}
# Of the same kinds, as small as timm has them: the last but one has register tokens.
SMALL = (
    *("test_resnet", "test_convnext", "test_efficientnet", "swin_tiny_patch4_window7_224"),
    *("test_vit", "test_vit2", "vit_small_patch16_dinov3"),
)


def model_on(name: str, **options: object) -> la.PatchClassifier:
    given = {"num_classes": 3, "patch_kernel": 1, "patch_stride": 1, "width": 0.1} | options
    return la.create_model(f"timm/{name}", **given)


@pytest.mark.parametrize("name", NETWORKS)
def test_maps_have_channels_rows_and_columns_where_the_image_has(name: str) -> None:
    """Of the cells, those of what was changed change the most: neither order nor axes are mixed."""
    channels, stride = NETWORKS[name]
    backbone = model_on(name).backbone.eval()
    assert isinstance(backbone, Backbone)
    assert (backbone.channels, backbone.stride) == (channels, stride)
    check_cells(backbone, channels, stride, images=1, name=name)


def test_what_a_cell_sees_is_known_where_it_can_be_computed() -> None:
    # ResNet18 at stride 8: the 7 x 7 stem and its pooling, two blocks of two 3 x 3 at stride 4 and
    # two at stride 8, of which the first convolution strides.
    size = 1 + 6 * 1 + 2 * 2 + 4 * 2 * 4 + 2 * 4 + 3 * 2 * 8
    assert model_on("resnet18", levels=(8,)).receptive_field[:2] == (size, 8)
    assert model_on("resnet18", levels=(8, 16)).receptive_field is None
    assert model_on("vit_tiny_patch16_224").receptive_field is None


def test_levels_are_joined_at_one_of_them() -> None:
    images = torch.rand(2, 3, 64, 96)
    for stride, cells in ((None, (8, 12)), (16, (4, 6))):
        model = model_on("tf_efficientnet_lite0", levels=(32, 8, 16), feature_stride=stride).eval()
        backbone = model.backbone
        assert backbone.level_strides == (8, 16, 32)
        assert backbone.level_channels == (40, 112, 320)
        assert (backbone.channels, backbone.stride) == (472, stride or 8)
        with torch.inference_mode():
            maps = backbone(images)
            prediction = model(images)
        assert [tuple(one.shape[2:]) for one in maps] == [(8, 12), (4, 6), (2, 3)]
        assert (prediction.grid.rows, prediction.grid.columns) == cells
    means = joined(maps, 1)[:, :40]
    expected = maps[0].reshape(2, 40, 4, 2, 6, 2).mean((3, 5))
    torch.testing.assert_close(means, expected)


def largest(tensor: Tensor) -> float:
    return tensor.abs().max().item()


@pytest.mark.parametrize("name", SMALL)
def test_a_model_on_it_has_exact_evidence_trains_and_is_saved(name: str, tmp_path: object) -> None:
    size = (64, 96)
    model = model_on(name, image_size=size)
    images = torch.rand(2, 3, *size)
    prediction = model.train()(images)
    assert largest(prediction.evidence.sum(1) - prediction.logits) < 1e-5
    la.single_label_loss(prediction, torch.tensor([0, 1]), gamma=0.1).backward()
    missing = [key for key, value in model.named_parameters() if value.grad is None]
    assert not missing
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 1e-3 * parameter.grad
        expected = model.eval()(images).logits
    path = tmp_path / "model.safetensors"
    path.write_bytes(model.to_bytes())
    loaded = la.load(path)
    with torch.no_grad():
        assert torch.equal(loaded(images).logits, expected)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet81", {}, "unknown backbone 'timm/resnet81'; did you mean 'timm/resnet18'"),
        ("hf-hub:timm/resnet18", {}, "unknown backbone"),
        ("resnet18.tv", {}, "timm knows no weights 'tv' of resnet18; it knows: a1_in1k"),
        ("crossvit_tiny_240", {}, "timm/crossvit_tiny_240 has no feature map"),
        ("resnet18", {"levels": (8, 64)}, "no map of stride 64; it has those of 2, 4, 8, 16, 32"),
        ("vit_tiny_patch16_224", {"levels": (8,)}, "no map of stride 8; it has those of 16"),
        ("resnet18", {"levels": (8,), "feature_stride": 16}, "`feature_stride` must be one of"),
        ("resnet18", {"strided_layers": (1,)}, "`strided_layers` are those of the paper's"),
        ("resnet18", {"in_channels": 1}, "`in_channels` must be 3"),
    ],
)
def test_what_cannot_be_built_is_said_in_a_line(
    name: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        model_on(name, **options)
    assert message in str(caught.value)


def test_sizes_that_it_cannot_take_are_refused() -> None:
    model = model_on("vit_tiny_patch16_224").eval()
    with pytest.raises(InputError, match="multiples of 16 pixels, got 60 x 100; the nearest"):
        model(torch.rand(1, 3, 60, 100))
    model = model_on("mixer_s32_224").eval()
    with pytest.raises(InputError, match="takes images of 224 x 224 pixels alone"):
        model(torch.rand(1, 3, 256, 256))


def test_a_network_of_one_size_is_built_for_the_images() -> None:
    """The windows of one are a part of the image, and the position table of the other its own."""
    for name in ("test_maxvit", "mixer_s32_224"):
        model = model_on(name, image_size=(192, 192)).eval()
        with torch.inference_mode():
            assert model(torch.rand(1, 3, 192, 192)).grid.rows == 6
        with pytest.raises(InputError, match="takes images"):
            model(torch.rand(1, 3, 160, 224))


def test_images_are_of_the_size_that_the_weights_were_trained_with_unless_told() -> None:
    assert model_on("vit_small_patch14_reg4_dinov2").image_size == (518, 518)
    assert model_on("resnet18", image_size=(64, 96)).image_size == (64, 96)
    model = model_on("convnext_atto").eval()
    with pytest.raises(InputError, match="images of 32 x 32 pixels and more, got 31 x 64"):
        model(torch.rand(1, 3, 31, 64))


def test_routing_counts_the_cells_that_there_are() -> None:
    options = {"head": "capsule-dynamic-routing", "image_size": (72, 104), "levels": (4, 8)}
    model = model_on("convnext_atto", **options)
    prediction = model(torch.rand(1, 3, 72, 104))
    assert (prediction.grid.rows, prediction.grid.columns) == (18, 26)


def test_the_papers_networks_have_one_map() -> None:
    with pytest.raises(InputError, match="'resnet18' has one map"):
        la.create_model("resnet18", levels=(8, 16))
