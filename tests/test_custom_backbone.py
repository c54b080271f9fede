"""A model on a backbone of the test's own: built, trained, explained, saved, loaded, measured."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path

import pytest
import torch
from markdown_pages import run_python
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional as F
from training.tiny import tiny_splits

import loss_attention as la
from loss_attention.backbones import Backbone, Normalisation, OwnBackbone, as_backbone
from loss_attention.backbones.receptive_field import ReceptiveField
from loss_attention.errors import InputError
from loss_attention.evaluation.measuring import evaluate, for_inference
from loss_attention.heads import HEADS
from loss_attention.model import PatchClassifier
from loss_attention.model_spec import ModelSpec
from loss_attention.saving import METADATA_KEY

OPTIONS = {
    "num_classes": 2,
    "in_channels": 1,
    "width": 0.03,
    "patch_kernel": 3,
    "patch_stride": 1,
    "class_names": ("left", "right"),
    "image_size": (12, 12),
}


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm(self.conv(x)))


def plain() -> nn.Sequential:
    """What is known of it has to be found out."""
    stem = (nn.Conv2d(1, 8, 3, 2, padding=1), nn.BatchNorm2d(8), nn.ReLU())
    return nn.Sequential(*stem, Block(8))


class Declared(nn.Module):
    """A `Backbone` that says everything itself, and what cannot be computed."""

    channels = 5
    stride = 2
    receptive_field = None
    normalisation = Normalisation((0.25,), (0.5,))

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 5, 3, 2, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        return self.conv(images) - images.mean()


def test_what_a_module_does_not_say_is_found_out() -> None:
    model = la.create_model(plain(), **OPTIONS)
    backbone = model.backbone
    assert isinstance(backbone, Backbone)
    assert (backbone.channels, backbone.stride) == (8, 2)
    assert backbone.receptive_field == (7, 2, -3)
    assert backbone.normalisation is None
    # Two more cells of two pixels each on either side.
    assert model.receptive_field == (7 + 2 * 2, 2, -3)
    assert model.smallest_image == 5
    assert model.spec.backbone == "custom"
    assert isinstance(la.create_model("resnet18", width=0.02).backbone, Backbone)


def test_what_a_module_says_is_believed() -> None:
    network = Declared()
    model = la.create_model(network, **OPTIONS)
    assert model.backbone is network
    assert model.receptive_field is None
    assert model.mean.flatten().tolist() == [0.25]
    assert model.std.flatten().tolist() == [0.5]
    with pytest.raises(InputError, match="`in_channels` must be 1"):
        la.create_model(network, **(OPTIONS | {"in_channels": 3}))


@pytest.mark.parametrize("build", [plain, Declared])
@pytest.mark.parametrize("head", HEADS)
def test_every_head_stands_on_it(build: type[nn.Module], head: str) -> None:
    model = la.create_model(build(), **(OPTIONS | {"head": head}))
    model(torch.rand(3, 1, 12, 12)).logits.sum().backward()
    gradients = [parameter.grad for parameter in model.backbone.parameters()]
    assert all(gradient is not None for gradient in gradients)


def test_routing_counts_the_cells_that_there_are() -> None:
    """A network that does not pad makes fewer than the stride alone tells."""
    network = nn.Conv2d(1, 4, 5, stride=2)  # 4 x 4 cells of 12 x 12 pixels, not 6 x 6
    model = la.create_model(network, **(OPTIONS | {"head": "capsule-dynamic-routing"}))
    assert model(torch.rand(1, 1, 12, 12)).grid.patches == 2 * 2


def test_it_trains_explains_saves_loads_and_is_measured(tmp_path: Path) -> None:
    splits = tiny_splits()
    model = la.create_model(plain(), **OPTIONS)
    model.set_normalisation(torch.tensor([0.3]), torch.tensor([0.3]))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    images, labels = splits.train.images, splits.train.labels
    losses = []
    for _ in range(30):
        loss = la.single_label_loss(model.train()(images), labels, gamma=0.0)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2

    explanation = model.explain(splits.test.images[:2])
    assert explanation.heat_maps.shape == (2, 12, 12)
    path = tmp_path / "own.safetensors"
    path.write_bytes(model.to_bytes())
    with safe_open(path, framework="pt") as file:
        saved = json.loads(file.metadata()[METADATA_KEY])["config"]
    assert (saved["backbone"], saved["class_names"]) == ("custom", ["left", "right"])

    loaded = la.load(path, backbone=plain())
    assert loaded.spec == model.spec
    expected = model.eval()(splits.test.images).logits
    assert torch.equal(loaded(splits.test.images).logits, expected)
    right = (expected.argmax(1) == splits.test.labels).float().mean().item()
    assert evaluate(loaded, splits.test).value("accuracy") == pytest.approx(right)

    folder = tmp_path / "for-the-hub"
    model.save_pretrained(folder)
    again = PatchClassifier.from_pretrained(folder, backbone=plain())
    assert torch.equal(again(splits.test.images).logits, expected)


def test_its_weights_alone_are_refused_in_a_line_that_says_how(tmp_path: Path) -> None:
    model = la.create_model(plain(), **OPTIONS)
    model.save_pretrained(tmp_path)
    for load in (la.load, PatchClassifier.from_pretrained):
        with pytest.raises(InputError, match=r"load\(path, backbone=module\)") as caught:
            load(tmp_path)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="give create_model the module itself"):
        la.create_model(model.spec)
    with pytest.raises(InputError, match="are not those of the model it names"):
        la.load(tmp_path, backbone=nn.Conv2d(1, 8, 3, 2, padding=1))


def test_copies_and_the_faster_one_compute_the_same() -> None:
    model = la.create_model(plain(), **OPTIONS).eval()
    images = torch.rand(2, 1, 12, 12)
    expected = model(images).logits
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(copied(images).logits, expected)
    fast = for_inference(model)
    torch.testing.assert_close(fast(images).logits, expected)
    assert isinstance(fast.backbone.network[1], nn.Identity)  # its norm is in its convolution


def test_a_classifier_is_made_of_modules() -> None:
    spec = ModelSpec(**OPTIONS, backbone="custom", head="mean")
    backbone = Declared()
    model = PatchClassifier(backbone, HEADS["mean"].build(backbone, spec), spec)
    prediction = model(torch.rand(1, 1, 12, 12))
    weighted = prediction.patch_weights.unsqueeze(2) * prediction.patch_logits
    torch.testing.assert_close(weighted.sum(1), prediction.logits)


@pytest.mark.usefixtures("no_shape_checks")
def test_a_module_that_says_nothing_is_no_backbone() -> None:
    spec = ModelSpec(**OPTIONS, backbone="custom", head="mean")
    with pytest.raises(InputError, match="the backbone lacks 'channels'"):
        PatchClassifier(Block(3), nn.Identity(), spec)


def test_a_receptive_field_that_is_said_is_believed() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.GroupNorm(2, 4))
    assert as_backbone(network, 1).receptive_field is None
    network.receptive_field = ReceptiveField(3, 1, -1)
    assert as_backbone(network, 1).receptive_field == (3, 1, -1)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Conv2d(3, 4, 3), "fails on an image of 1 x 64 x 64"),
        (nn.Flatten(), r"returns a feature map \(B, D, h, w\); this one returns \(1, 4096\)"),
        (nn.AdaptiveAvgPool2d(7), "this one makes 7 cells of 64 pixels and 7 of 128"),
        (nn.Upsample(scale_factor=2), "this one makes 128 cells of 64 pixels"),
    ],
)
def test_what_is_no_backbone_is_refused(network: nn.Module, message: str) -> None:
    with pytest.raises(InputError, match=message):
        la.create_model(network, **OPTIONS)
    with pytest.raises(InputError, match="`strided_layers`"):
        la.create_model(plain(), **OPTIONS, strided_layers=(1,))


def test_looking_at_a_module_leaves_it_as_it_was() -> None:
    network = plain()
    network[1].eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    random = torch.get_rng_state()
    OwnBackbone(network, 1)
    assert [module.training for module in network] == [True, False, True, True]
    assert torch.equal(torch.get_rng_state(), random)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.usefixtures("few_scenes")
def test_the_page_for_users_is_true(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (repository / "docs" / "python.md").read_text("utf-8")
    monkeypatch.chdir(tmp_path)
    assert run_python(page, "docs/python.md") == 7
