"""Models saved and loaded again: to the bit, or with one line that says what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load as parse
from safetensors.torch import save as serialise

import loss_attention as la
from loss_attention import models
from loss_attention.errors import InputError
from loss_attention.models import METADATA_KEY, WEIGHTS_FILE, PatchClassifier

OPTIONS = {
    "num_classes": 3,
    "in_channels": 1,
    "width": 1 / 32,
    "strided_layers": (6,),
    "patch_kernel": 5,
    "patch_stride": 2,
    "threshold": 0.3,
    "class_names": ("a", "b", "ç"),
    "image_size": (24, 20),
    "multi_label": True,
}


@pytest.fixture
def model() -> PatchClassifier:
    """A model whose buffers and batch norm statistics are not the initial ones."""
    model = la.create_model("resnet18", **OPTIONS)
    model.set_normalisation(torch.tensor([0.2]), torch.tensor([0.7]))
    model.train()(torch.rand(4, 1, 24, 20))
    return model


@pytest.fixture
def weights(model: PatchClassifier, tmp_path: Path) -> Path:
    path = tmp_path / "run" / WEIGHTS_FILE
    path.parent.mkdir()
    path.write_bytes(model.to_bytes())
    return path


def assert_same(loaded: PatchClassifier, saved: PatchClassifier) -> None:
    assert not loaded.training
    assert loaded.config == saved.config
    assert (loaded.class_names, loaded.image_size) == (saved.class_names, saved.image_size)
    assert loaded.multi_label == saved.multi_label
    expected, state = saved.state_dict(), loaded.state_dict()
    assert list(state) == list(expected)
    assert {"mean", "std", "backbone.layers.1.running_var"} <= set(state)
    for name, value in state.items():
        assert torch.equal(value, expected[name]), name
    images = torch.rand(2, 1, 24, 20)
    assert torch.equal(loaded(images).logits, saved.eval()(images).logits)


def reject(source: str | Path) -> str:
    """The message that loading fails with, which is a line."""
    with pytest.raises(InputError) as caught:
        la.load(source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def description_of(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        description: dict[str, Any] = json.loads(file.metadata()[METADATA_KEY])
    return description


def describe(path: Path, description: str) -> None:
    """Save the weights again as those of another model."""
    path.write_bytes(serialise(parse(path.read_bytes()), {METADATA_KEY: description}))


def describe_with(path: Path, **config: object) -> None:
    """Save the weights again as those of a model with another argument or two."""
    description = description_of(path)
    describe(path, json.dumps({**description, "config": {**description["config"], **config}}))


def test_a_run_folder_or_its_file_loads_to_the_bit(model: PatchClassifier, weights: Path) -> None:
    assert_same(la.load(weights), model)
    assert_same(la.load(weights.parent), model)
    assert_same(la.load(str(weights.parent)), model)


@pytest.mark.parametrize("head", ["baseline", "mean", "loss-attention"])
@pytest.mark.parametrize("backbone", ["vgg11_bn", "resnet18"])
def test_every_model_loads_to_the_bit(backbone: str, head: str, tmp_path: Path) -> None:
    saved = la.create_model(backbone, **{**OPTIONS, "head": head})
    path = tmp_path / "other name.safetensors"
    path.write_bytes(saved.to_bytes())
    assert_same(la.load(path), saved)


def test_a_model_in_channels_last_saves_alike(model: PatchClassifier) -> None:
    expected = model.to_bytes()
    model.to(memory_format=torch.channels_last)
    assert model.to_bytes() == expected


def test_the_same_model_is_the_same_bytes(model: PatchClassifier, weights: Path) -> None:
    assert la.load(weights).to_bytes() == model.to_bytes()


def test_the_hub_folder_loads_either_way(model: PatchClassifier, tmp_path: Path) -> None:
    folder = tmp_path / "for-the-hub"
    model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    assert config["strided_layers"] == [6]
    assert_same(PatchClassifier.from_pretrained(folder), model)
    assert_same(la.load(folder), model)


def test_a_hub_id_is_loaded_from_what_the_hub_sends(
    model: PatchClassifier, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(repository: str, file: str) -> str:
        assert (repository, file) == ("someone/digits", WEIGHTS_FILE)
        return str(weights)

    monkeypatch.setattr(models, "hf_hub_download", download)
    assert_same(la.load("someone/digits"), model)


@pytest.mark.parametrize("source", ["runs/never-made", "not a/repo id!", "some.safetensors"])
def test_what_is_nowhere_is_named(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert f"{source!r} is neither a run folder or .safetensors file" in reject(source)


def test_a_folder_without_weights_is_named(tmp_path: Path) -> None:
    assert reject(tmp_path) == f"{tmp_path} holds no {WEIGHTS_FILE}; is it a run folder?"


@pytest.mark.parametrize("kept", [0, 5, 100, 0.5, 0.999])
def test_a_truncated_file_is_named(weights: Path, kept: float) -> None:
    whole = weights.read_bytes()
    weights.write_bytes(whole[: int(kept if kept >= 1 else kept * len(whole))])
    assert f"{weights} is truncated or no safetensors file" in reject(weights)


def test_a_picture_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "cat.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4)
    assert f"{path} is truncated or no safetensors file" in reject(path)


def test_weights_of_another_program_are_named(tmp_path: Path) -> None:
    path = tmp_path / WEIGHTS_FILE
    for metadata in (None, {"format": "pt"}):
        path.write_bytes(serialise({"weight": torch.ones(2)}, metadata))
        assert f"{path} was not saved by loss-attention" in reject(tmp_path)


def test_a_newer_format_asks_for_an_upgrade(weights: Path) -> None:
    describe(weights, json.dumps({**description_of(weights), "format_version": 7}))
    message = reject(weights)
    assert "is of format 7, this version reads up to 1: upgrade loss-attention" in message


@pytest.mark.parametrize(
    "description",
    [
        "{",
        "3",
        "{}",
        '{"format_version": 1}',
        '{"format_version": "soon", "config": {}}',
        '{"format_version": 1, "config": "resnet18"}',
    ],
)
def test_damaged_metadata_is_named(weights: Path, description: str) -> None:
    describe(weights, description)
    assert f"the metadata of {weights} is damaged" in reject(weights)


def test_a_model_that_this_version_does_not_know_is_named(weights: Path) -> None:
    whole = weights.read_bytes()
    describe_with(weights, head="mind-reading")
    assert "unknown head 'mind-reading'" in reject(weights)
    weights.write_bytes(whole)
    describe_with(weights, telepathy=True)
    assert "telepathy" in reject(weights)


@pytest.mark.parametrize(
    "change", [{"width": 1 / 16}, {"num_classes": 4, "class_names": []}, {"backbone": "vgg11_bn"}]
)
def test_weights_of_another_model_are_named(weights: Path, change: dict[str, object]) -> None:
    describe_with(weights, **change)
    assert f"the weights in {weights} are not those of the model it names" in reject(weights)


def test_missing_and_surplus_weights_are_named(weights: Path) -> None:
    tensors = parse(weights.read_bytes())
    metadata = {METADATA_KEY: json.dumps(description_of(weights))}
    some = {name: tensor for name, tensor in tensors.items() if name != "head.classifier.bias"}
    for changed in (some, {**tensors, "extra": torch.ones(1)}):
        weights.write_bytes(serialise(changed, metadata))
        assert "are not those of the model it names" in reject(weights)
