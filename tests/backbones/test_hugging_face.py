"""Models of transformers with random weights: maps, levels, configurations, published weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from backbones.cells import check_cells
from backbones.kinds import KINDS, described, model_on

import loss_attention as la
from loss_attention.backbones import Backbone
from loss_attention.errors import InputError


@pytest.mark.parametrize("kind", KINDS)
def test_maps_have_channels_rows_and_columns_where_the_image_has(kind: str) -> None:
    """Of the cells, those of what was changed change the most: neither order nor axes are mixed."""
    _, channels, stride = KINDS[kind]
    model = model_on(kind)
    backbone = model.backbone.eval()
    assert isinstance(backbone, Backbone)
    assert (backbone.channels, backbone.stride) == (channels, stride)
    assert model.mean.flatten().tolist() == [0.5] * 3
    check_cells(backbone, channels, stride, images=2, name=kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_on_it_has_exact_evidence_trains_and_is_saved(kind: str, tmp_path: Path) -> None:
    model = model_on(kind, image_size=(64, 64))
    images = torch.rand(2, 3, 64, 64)
    prediction = model.train()(images)
    torch.testing.assert_close(prediction.evidence.sum(1), prediction.logits)
    la.single_label_loss(prediction, torch.tensor([0, 1]), gamma=0.1).backward()
    trained = {key: value for key, value in model.named_parameters() if value.requires_grad}
    assert not [key for key, value in trained.items() if value.grad is None]
    with torch.no_grad():
        for parameter in trained.values():
            parameter -= 1e-3 * parameter.grad
        expected = model.eval()(images).logits
    path = tmp_path / "model.safetensors"
    path.write_bytes(model.to_bytes())
    loaded = la.load(path)
    with torch.no_grad():
        assert torch.equal(loaded(images).logits, expected)


def test_levels_are_those_of_its_stages() -> None:
    model = model_on("convnext", levels=(16, 8))
    backbone = model.backbone
    assert (backbone.level_strides, backbone.level_channels) == ((8, 16), (16, 24))
    with torch.inference_mode():
        shapes = [one.shape[1:] for one in backbone(torch.rand(1, 3, 64, 96))]
    assert shapes == [(16, 8, 12), (24, 4, 6)]
    with pytest.raises(InputError, match="no map of stride 2; it has those of 4, 8, 16, 32"):
        model_on("convnext", levels=(2,))


def folder_of(kind: str, folder: Path) -> torch.nn.Module:
    """A model as its maker publishes it: classifier, configuration and preprocessing."""
    from transformers import CONFIG_MAPPING, AutoModelForImageClassification

    config = CONFIG_MAPPING[kind].from_dict(KINDS[kind][0])
    model = AutoModelForImageClassification.from_config(config)
    model.save_pretrained(folder)
    preprocessing = {"image_processor_type": "ViTImageProcessor", "image_mean": [0.1, 0.2, 0.3]}
    preprocessing |= {"image_std": [0.4, 0.5, 0.6]}
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing), "utf-8")
    return model


@pytest.mark.parametrize("kind", ["vit", "resnet", "swin", "dinov2", "dinov2_with_registers"])
def test_published_weights_are_taken_from_a_folder_or_a_file(kind: str, tmp_path: Path) -> None:
    published = folder_of(kind, tmp_path / "published")
    given = {"backbone_config": "", "width": 0.1}
    options = {"num_classes": 3, "patch_kernel": 1, "patch_stride": 1} | given
    name = f"hf/{tmp_path / 'published'}"
    from_folder = la.create_model(name, pretrained=True, **options)
    file = tmp_path / "published" / "model.safetensors"
    from_file = la.create_model(name, weights=file, **options)
    assert from_file.backbone.weights["file"] == str(file)
    assert from_folder.backbone.weights["repository"] == str(tmp_path / "published")
    torch.testing.assert_close(from_folder.mean.flatten(), torch.tensor([0.1, 0.2, 0.3]))
    base = published.base_model.eval()
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        maps = [model.backbone.eval()(images) for model in (from_folder, from_file)]
        expected = base(images).last_hidden_state
    assert torch.equal(*maps)
    if kind == "swin":  # its backbone has a norm of its own, which begins as one and zero
        return
    if expected.ndim == 3:
        expected = expected[:, -64:].transpose(1, 2).reshape(1, 32, 8, 8)
    torch.testing.assert_close(maps[0], expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "`backbone_config` cannot be read"),
        ("[]", "holds config, mean and std"),
        (described("vit") + " " * 100_001, "more than 100,000 characters"),
        (described("vit", model_type="bert"), "no backbone of the kind 'bert'; it has: beit"),
        (described("vit", model_type="timm_wrapper"), "no backbone of the kind 'timm_wrapper'"),
        (described("vit", auto_map={"AutoModel": "a.B"}), "vit has no 'auto_map'"),
        (described("vit", _attn_implementation="a/b"), "vit has no '_attn_implementation'"),
        (described("vit", num_hidden_layers=10**6), "num_hidden_layers cannot be 1000000"),
        (described("swin", depths=[300, 300]), "depths cannot be [300, 300]"),
        (described("vit", hidden_size=10**9), "hidden_size cannot be 1000000000"),
        (described("vit", hidden_size=[[[[[1]]]]]), "nested too deeply"),
        (described("vit", hidden_act="gone"), "`backbone_config`: a model vit cannot be read"),
        (described("vit", hidden_size=1_000_000, num_attention_heads=1), "of memory are free"),
    ],
)
def test_a_configuration_is_checked_before_anything_is_built(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        model_on("vit", backbone_config=text)
    assert message in str(caught.value)


def test_no_hub_is_said_in_a_line() -> None:
    with pytest.raises(InputError, match=r"the Hugging Face hub does not give 'google/vit'"):
        model_on("vit", backbone_config="")


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    folder_of("vit", tmp_path)
    file = tmp_path / "model.safetensors"
    for values, message in (
        ({"num_hidden_layers": 3}, "layers.2"),
        ({"num_hidden_layers": 1}, "is too many"),
        ({"intermediate_size": 48}, "has the shape"),
    ):
        with pytest.raises(
            InputError, match="these weights are not those of hf/google/vit"
        ) as told:
            model_on("vit", backbone_config=described("vit", **values), weights=file)
        assert message in str(told.value)
    with pytest.raises(InputError, match="is missing"):
        model_on("resnet", weights=file)
