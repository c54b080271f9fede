"""Models saved and loaded again: to the bit, or with one line that says what is wrong."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load as parse
from safetensors.torch import save as serialise

import loss_attention as la
from loss_attention import model as module
from loss_attention.errors import InputError
from loss_attention.model import PatchClassifier
from loss_attention.saving import METADATA_KEY, WEIGHTS_FILE

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

    monkeypatch.setattr(module, "hf_hub_download", download)
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


def rebuilt(path: Path, metadata: dict[str, str] | None, tensors: dict[str, Any]) -> None:
    """Write a safetensors file whose header claims any tensors, without their data."""
    header = json.dumps({**({"__metadata__": metadata} if metadata else {}), **tensors}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_classes": 10**12, "class_names": []}, "`num_classes` must be at most 1,000,000"),
        ({"num_classes": 10**400}, "`num_classes` must be at most 1,000,000"),
        ({"num_classes": -1}, "`num_classes` must be at least 1, got -1"),
        ({"num_classes": 3.0}, "`num_classes` must be a whole number, got 3.0"),
        ({"num_classes": True}, "`num_classes` must be a whole number, got True"),
        ({"num_classes": None}, "`num_classes` must be a whole number, got None"),
        ({"in_channels": 10**9}, "`in_channels` must be at most 10,000"),
        ({"width": 1e9}, "`width` must be at most 1,000, got 1000000000.0"),
        ({"width": float("nan")}, "`width` must be above 0 and finite, got nan"),
        ({"width": float("inf")}, "`width` must be above 0 and finite, got inf"),
        ({"width": "1"}, "`width` must be above 0 and finite, got '1'"),
        ({"width": 1000}, "not those of the model it names"),
        ({"patch_kernel": 10**6}, "`patch_kernel` must be at most 10,000"),
        ({"patch_kernel": 10_000}, "not those of the model it names"),
        ({"patch_kernel": 10_000, "width": 1000}, "more weights than can be counted"),
        ({"patch_stride": 0}, "`patch_stride` must be at least 1"),
        ({"strided_layers": [10**9] * 10**4}, "cannot stride in layer 1000000000"),
        ({"strided_layers": [[6]]}, "`strided_layers` must be a list of layers, got [[6]]"),
        ({"strided_layers": {"6": 6}}, "`strided_layers` must be a list of layers"),
        ({"strided_layers": 6}, "`strided_layers` must be a list of layers, got 6"),
        ({"threshold": float("nan")}, "`threshold` must be in [0, 1], got nan"),
        ({"threshold": None}, "`threshold` must be in [0, 1], got None"),
        ({"class_names": ["a", "b"]}, "`class_names` must name all 3 classes, got 2"),
        ({"class_names": ["a", "b", "a"]}, "`class_names` has 'a' twice"),
        ({"class_names": ["a", "b", 3]}, "`class_names` must be a list of names"),
        ({"class_names": "abc"}, "`class_names` must be a list of names, got 'abc'"),
        ({"class_names": [["a"], "b", "c"]}, "`class_names` must be a list of names"),
        ({"image_size": [24, 20, 3]}, "`image_size` must be a height and a width"),
        ({"image_size": ["24", "20"]}, "`image_size` must be a height and a width"),
        ({"image_size": [10**30, 20]}, "`image_size` must be a height and a width"),
        ({"image_size": 24}, "`image_size` must be a height and a width"),
        ({"multi_label": 1}, "`multi_label` must be True or False, got 1"),
        ({"resize": "\x1b[2J"}, "unknown `resize` '\\x1b[2J'"),
        ({"resize": None}, "`resize` must be a name, got None"),
        ({"backbone": ["resnet18"]}, "`backbone` must be a name, got ['resnet18']"),
        ({"head": {}}, "`head` must be a name"),
        ({"backbone": "x" * 10**6}, "unknown backbone 'xxx"),
        ({"telepathy\n": 1}, "it has the argument 'telepathy"),
        (
            {"head": "capsule-dynamic-routing", "image_size": [10**6, 10**6]},
            "not those of the model it names",
        ),
    ],
)
def test_claims_of_the_metadata_are_bounded_before_memory_is_taken(
    weights: Path, change: dict[str, object], said: str
) -> None:
    describe_with(weights, **change)
    tracemalloc.start()
    message = reject(weights)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 100e6
    assert str(weights) in message
    assert said in message
    assert len(message) < 600
    assert message.isprintable()


@pytest.mark.parametrize(
    "description",
    [
        "[" * 100_000,
        '{"format_version": 1, "config": ' * 5000,
        '{"format_version": Infinity, "config": {}}',
        '{"format_version": NaN, "config": {}}',
        '{"format_version": true, "config": {}}',
        '{"format_version": 0, "config": {}}',
        '{"format_version": 1.5, "config": {}}',
        '{"format_version": 1, "config": [["width", 1]]}',
        '{"format_version": ' + "9" * 5000 + ', "config": {}}',
        "null",
        "",
    ],
)
def test_every_damage_of_the_metadata_is_a_line(weights: Path, description: str) -> None:
    describe(weights, description)
    message = reject(weights)
    assert f"the metadata of {weights} is damaged" in message
    assert len(message) < 600


@pytest.mark.parametrize(
    "tensors",
    [
        {"a": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}},
        {"a": {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [0], "data_offsets": [4, 0]}},
        {"a": "pickle"},
        [],
    ],
)
def test_headers_that_lie_are_named(tmp_path: Path, tensors: Any) -> None:
    path = tmp_path / WEIGHTS_FILE
    rebuilt(path, {METADATA_KEY: "{}"}, dict(tensors))
    assert str(path) in reject(path)
    for length in (0, 2, 2**40, 2**64 - 1):
        path.write_bytes(length.to_bytes(8, "little") + b"{}")
        assert str(path) in reject(path)


def test_a_pickle_is_never_read(tmp_path: Path, model: PatchClassifier) -> None:
    path = tmp_path / WEIGHTS_FILE
    torch.save(model.state_dict(), path)
    assert "is truncated or no safetensors file" in reject(tmp_path)
    path.rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError):
        PatchClassifier.from_pretrained(tmp_path, local_files_only=True)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_not_finite_are_named(weights: Path, value: float) -> None:
    tensors = parse(weights.read_bytes())
    tensors["head.classifier.weight"][1, 0] = value
    metadata = {METADATA_KEY: json.dumps(description_of(weights))}
    weights.write_bytes(serialise(tensors, metadata))
    message = reject(weights)
    assert f"the weights in {weights} are not finite: head.classifier.weight holds NaN" in message


def test_differences_are_named(weights: Path) -> None:
    whole = parse(weights.read_bytes())
    metadata = {METADATA_KEY: json.dumps(description_of(weights))}
    name = "head.classifier.bias"
    for changed, said in (
        ({**whole, name: whole[name][:2]}, f"{name} has the shape (2,), not (3,)"),
        ({**whole, name: whole[name].int()}, f"{name} has the type I32"),
        ({**whole, "x\x1b": torch.ones(1)}, "'x\\x1b' is too many"),
        ({key: whole[key] for key in whole if key != name}, f"'{name}' is missing"),
    ):
        weights.write_bytes(serialise(changed, metadata))
        assert said in reject(weights)


def test_weights_of_half_precision_become_those_of_the_model(
    model: PatchClassifier, weights: Path
) -> None:
    weights.write_bytes(model.half().to_bytes())
    loaded = la.load(weights)
    assert {tensor.dtype for tensor in loaded.parameters()} == {torch.float32}
    assert torch.equal(loaded.head.classifier.weight, model.head.classifier.weight.float())


def test_a_loaded_model_is_its_own(weights: Path) -> None:
    loaded = la.load(weights)
    images = torch.rand(1, 1, 24, 20)
    logits = loaded(images).logits
    with weights.open("r+b") as file:
        file.truncate(100)  # the mapped memory is gone
    assert torch.equal(loaded(images).logits, logits)
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    assert not any(tensor.is_meta for tensor in loaded.state_dict().values())
    loaded.train()(torch.rand(4, 1, 24, 20)).logits.sum().backward()


def test_loading_draws_no_random_numbers(weights: Path) -> None:
    before = torch.get_rng_state()
    la.load(weights)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_damaged_folder_of_the_hub_is_a_line(model: PatchClassifier, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for text in (
        "{",
        "[]",
        "[" * 100_000,
        json.dumps({**config, "num_classes": 10**12}),
        json.dumps({**config, "width": 1000}),
        json.dumps({**config, "threshold": "high"}),
    ):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(InputError) as caught:
            PatchClassifier.from_pretrained(tmp_path)
        assert str(tmp_path) in str(caught.value)
        assert "\n" not in str(caught.value)
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert PatchClassifier.from_pretrained(tmp_path, threshold=0.7).config["threshold"] == 0.7
    (tmp_path / WEIGHTS_FILE).unlink()
    with pytest.raises(InputError):
        PatchClassifier.from_pretrained(tmp_path)


@pytest.mark.parametrize("source", ["a\0b", "x" * 5000, "\x1b[2J"])
def test_names_that_no_file_has_are_a_line(source: str) -> None:
    assert reject(source).isprintable()


@pytest.mark.parametrize("options", [{"width": 200.0}, {"patch_kernel": 5000}])
def test_a_model_that_memory_does_not_hold_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"takes .* GB, and .* GB of memory are free"):
        la.create_model("vgg11_bn", **options)
