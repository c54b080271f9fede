"""Features of a frozen backbone in files: what they are, and what stops or spoils them."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F
from training.tiny import tiny_recipe, tiny_splits
from typed import make_folder

from loss_attention.data.loading import load_splits
from loss_attention.data.sample import ImageSet, LabelledImages, Storage
from loss_attention.errors import InputError
from loss_attention.interruption import Interrupted
from loss_attention.model import PatchClassifier, create_model
from loss_attention.saving import SaveError
from loss_attention.training import features as features_module
from loss_attention.training.features import FeatureFolder, FeatureSource, cached_features
from loss_attention.training.frozen import FeatureSet

MEMORY = 10**9
QUIET = Console(quiet=True)
RECIPE = tiny_recipe(frozen=True, views=3, crop_padding=2, horizontal_flip=True)


class TwoLevels(nn.Module):
    """Means of 2 x 2 and of 4 x 4 pixels, times a weight: a backbone of two levels."""

    level_channels, level_strides = (1, 1), (2, 4)
    channels, stride, receptive_field, normalisation = 2, 2, None, None

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))
        self.norm = nn.BatchNorm2d(1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        images = self.norm(images) * self.weight
        return F.avg_pool2d(images, 2), F.avg_pool2d(images, 4)


def source_of(data: LabelledImages, weight: float = 1.0, **changes: Any) -> FeatureSource:
    torch.manual_seed(0)
    model = create_model(
        TwoLevels(weight), num_classes=2, in_channels=1, patch_kernel=1, patch_stride=1
    )
    cpu = torch.device("cpu")
    return FeatureSource(model, data, replace(RECIPE, **changes), "32", cpu)


@pytest.fixture
def data() -> ImageSet:
    return tiny_splits(images=10).trainval


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images were computed at a time."""
    added: list[int] = []
    add = FeatureFolder._add

    def counting(self: FeatureFolder, source: Any, images: Tensor, *rest: Any) -> None:
        add(self, source, images, *rest)
        added.append(len(images))

    monkeypatch.setattr(FeatureFolder, "_add", counting)
    monkeypatch.setattr(features_module, "PIXELS", 3 * 12 * 12)
    return added


def made(source: FeatureSource, root: Path, console: Console = QUIET) -> FeatureSet:
    return cached_features(source, root, console, MEMORY)[0]


def content(root: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(root.rglob("*")) if file.is_file()}


def said(source: FeatureSource, root: Path) -> str:
    written = io.StringIO()
    made(source, root, Console(file=written, width=400))
    return written.getvalue()


def test_views_by_torchvision_are_found_again(data, tmp_path, counted):
    changes = {"random_resized_crop": (0.3, 0.9), "vertical_flip": True}
    made(source_of(data, **changes), tmp_path)
    assert sum(counted) == 10
    made(source_of(data, **changes), tmp_path)
    assert sum(counted) == 10
    made(source_of(data, **changes | {"random_resized_crop": (0.4, 0.9)}), tmp_path)
    assert sum(counted) == 20


def test_they_are_what_the_backbone_makes_of_images_and_views(data, tmp_path):
    source = source_of(data)
    found = made(source, tmp_path)
    backbone, model = source.model.backbone.eval(), source.model
    for view in range(3):
        shown = FeatureSet(**{**vars(found), "shown": torch.full((10,), view)})
        taken = shown.take(torch.tensor([7, 2])).images
        images = []
        for number in (7, 2):
            image = data.images[number]
            if view:  # by hand: pad, cut out, mirror
                generator = torch.Generator().manual_seed(stream_seed(view, data.images[number]))
                row, column = torch.randint(0, 5, (1, 2), generator=generator)[0].tolist()
                mirrored = bool(torch.rand(1, generator=generator) < 0.5)
                image = F.pad(image, (2, 2, 2, 2))[:, row : row + 12, column : column + 12]
                image = image.flip(2) if mirrored else image
            images.append(image)
        wanted = backbone((torch.stack(images) / 255 - model.mean) / model.std)
        for level, expected in zip(taken, wanted, strict=True):
            assert level.dtype == torch.float32
            assert level.shape == expected.shape
            torch.testing.assert_close(level, expected.detach(), rtol=2**-10, atol=1e-6)


def stream_seed(view: int, image: Tensor) -> int:
    """The seed of an image's shift: of its view, and of three bytes of its hash."""
    number = int.from_bytes(hashlib.sha256(image.numpy().tobytes()).digest()[:3], "big")
    sequence = np.random.SeedSequence([0, view, number + 1])
    return int(sequence.generate_state(1, np.uint64)[0] >> 1)


def test_however_many_are_computed_together_they_are_the_same(data, tmp_path, monkeypatch):
    made(source_of(data), tmp_path / "all")
    monkeypatch.setattr(features_module, "PIXELS", 1)
    made(source_of(data), tmp_path / "one")
    assert content(tmp_path / "all") == content(tmp_path / "one")


@pytest.mark.parametrize("stop", [Interrupted(2), OSError(28, "No space left on device")])
def test_what_is_done_when_something_stops_it_is_not_computed_again(
    stop, data, tmp_path, counted, monkeypatch
):
    made(source_of(data), tmp_path / "whole")
    counted.clear()
    views, asked = FeatureSource.views, []

    def stopping(self: FeatureSource, images: Tensor, identities: Any) -> Tensor:
        asked.append(len(images))
        if len(asked) == 4:  # after the probes and two batches
            raise stop
        return views(self, images, identities)

    monkeypatch.setattr(FeatureSource, "views", stopping)
    with pytest.raises(type(stop)):
        made(source_of(data), tmp_path / "stopped")
    monkeypatch.setattr(FeatureSource, "views", views)
    assert counted == [3, 3]
    # A kill in the middle of a write leaves more than features.json knows.
    file = next((tmp_path / "stopped").rglob("level-1.bin"))
    file.write_bytes(file.read_bytes() + b"half a number")
    made(source_of(data), tmp_path / "stopped")
    assert counted == [3, 3, 3, 1]
    assert content(tmp_path / "stopped") == content(tmp_path / "whole")


def test_those_that_are_there_are_not_computed_again(data, tmp_path, counted):
    made(source_of(data), tmp_path)
    counted.clear()
    assert "; 10 images found" in said(source_of(data, threshold=0.5, seed=7, epochs=9), tmp_path)
    assert counted == []


@pytest.mark.parametrize(
    "other",
    [
        lambda data: source_of(data, weight=2.0),
        lambda data: source_of(data, views=2),
        lambda data: source_of(data, crop_padding=1),
    ],
    ids=["weights", "views", "augmentation"],
)
def test_of_anything_else_they_are_computed_beside_them(other, data, tmp_path, counted):
    made(source_of(data), tmp_path)
    counted.clear()
    made(other(data), tmp_path)
    assert sum(counted) == 10
    assert len(list(tmp_path.iterdir())) == 2


def test_images_are_known_whatever_set_they_are_in(data, tmp_path, counted):
    """So what is held out for the test by a seed costs nothing more for another seed."""
    made(source_of(data.subset(torch.tensor([8, 1, 2, 3, 3]))), tmp_path)
    assert sum(counted) == 4
    counted.clear()
    found = made(source_of(data), tmp_path)
    assert sum(counted) == 6
    alone = made(source_of(data), tmp_path / "alone")
    index = torch.arange(10)
    for one, other in zip(found.take(index).images, alone.take(index).images, strict=True):
        assert torch.equal(one, other)


def test_of_a_streamed_set_they_are_known_without_decoding(tmp_path, counted, monkeypatch):
    folder = make_folder(tmp_path / "data", each=4)
    splits = load_splits(
        str(folder), in_channels=1, image_size=12, seed=0, storage=Storage(stream="yes", workers=0)
    )
    streamed, decoded = splits.trainval, splits.trainval.decoded()
    made(source_of(streamed), tmp_path / "streamed")
    assert sum(counted) == len(streamed)
    counted.clear()
    index = torch.arange(len(streamed))
    found = made(source_of(streamed), tmp_path / "streamed").take(index)
    assert counted == []
    other = made(source_of(decoded), tmp_path / "decoded").take(index)
    assert all(map(torch.equal, found.images, other.images))
    assert torch.equal(found.labels, other.labels)


@pytest.mark.parametrize("spoil", ["bytes", "size", "gone", "facts", "json", "images"])
def test_damaged_ones_are_computed_anew_and_it_is_said(spoil, data, tmp_path, counted):
    made(source_of(data), tmp_path)
    before = content(tmp_path)
    file, told = next(tmp_path.rglob("level-0.bin")), next(tmp_path.rglob("features.json"))
    if spoil == "bytes":
        file.write_bytes(b"\x00" + file.read_bytes()[1:])
    elif spoil == "size":
        file.write_bytes(file.read_bytes()[:-1])
    elif spoil == "gone":
        file.unlink()
    elif spoil == "images":
        images = next(tmp_path.rglob("images.bin"))
        images.write_bytes(images.read_bytes()[::-1])
    elif spoil == "json":
        told.write_text("{")
    else:
        told.write_text(told.read_text().replace('"views": 3', '"views": 4'))
    counted.clear()
    line = said(source_of(data), tmp_path)
    assert "the features there are computed anew" in line
    assert sum(counted) == 10
    assert content(tmp_path) == before


def test_numbers_too_large_for_16_bits_are_kept_as_float32(data, tmp_path):
    source = source_of(data, weight=1e6)
    assert "computed anew, as float32" in said(source, tmp_path)
    found = made(source, tmp_path).take(torch.arange(10)).images
    images = (data.images / 255 - source.model.mean) / source.model.std
    torch.testing.assert_close(found[0], source.model.backbone.eval()(images)[0].detach())


def test_numbers_that_are_not_finite_name_the_image(data, tmp_path):
    with pytest.raises(
        InputError,
        match=r"makes NaN or infinity of the images from number 1 on; try `precision` 32",
    ):
        made(source_of(data, weight=float("nan")), tmp_path)


def test_a_disk_without_room_is_told_before_anything_is_computed(
    data, tmp_path, counted, monkeypatch
):
    usage = features_module.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(features_module.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(InputError, match=r"the features take 2.7e-06 GB, and 1e-06 GB are free in"):
        made(source_of(data), tmp_path)
    assert counted == []


def test_a_folder_that_cannot_be_is_told_in_a_line(data, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises((InputError, SaveError), match="is a file; name another"):
        made(source_of(data), tmp_path / "file")


def test_each_view_is_shown_as_often_whatever_the_epoch_begins_with(data, tmp_path):
    found = made(source_of(data), tmp_path).subset(torch.tensor([3, 5, 8]))
    shown = torch.stack([found.in_epoch(4, epoch).shown for epoch in range(6)])
    for column in shown.T.tolist():
        assert sorted(column) == [0, 0, 1, 1, 2, 2]
    assert not torch.equal(shown[0], found.in_epoch(5, 0).shown)
    assert found.shown.tolist() == [0, 0, 0]  # what is validated


def test_it_says_how_many_how_large_and_where(data, tmp_path):
    line = said(source_of(data), tmp_path)
    folder = next(tmp_path.iterdir())
    assert line.strip() == (
        "features of the frozen backbone: 10 images, 3 views, each 1 x 6 x 6 + 1 x 3 x 3; "
        f"2.7e-06 GB of float16, in {folder}"
    )
    assert json.loads((folder / "features.json").read_text())["done"] == 10


def test_a_model_on_features_decides_as_on_images(data, tmp_path):
    source = source_of(data)
    batch = made(source, tmp_path).take(torch.arange(10))
    model: PatchClassifier = source.model.eval()
    with torch.no_grad():
        found, wanted = model.decide(batch.images, (12, 12)), model(data.images)
    torch.testing.assert_close(found.logits, wanted.logits, rtol=1e-2, atol=1e-3)
