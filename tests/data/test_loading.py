"""What a user may call data, and the made data in other forms."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from data.making import image_folder
from PIL import Image

from loss_attention.data import loading
from loss_attention.data.digits import digits, multi_digits
from loss_attention.data.loading import load_splits
from loss_attention.data.sample import Splits
from loss_attention.errors import InputError


def load(data: str, in_channels: int = 1, image_size: int | None = None, seed: int = 0) -> Splits:
    return load_splits(data, in_channels=in_channels, image_size=image_size, seed=seed)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made data of few scenes."""
    monkeypatch.setitem(loading.MADE, "digits", lambda seed: digits(seed, 20, 10))
    monkeypatch.setitem(loading.MADE, "multi-digits", lambda seed: multi_digits(seed, 20, 10))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digit", "did you mean 'digits'? known: digits, multi-digits, cifar10"),
        ("cifra10", "did you mean 'cifar10'? known: "),
        ("", "known: digits, multi-digits, cifar10"),
        ("zzz", "unknown dataset 'zzz'; known: "),
    ],
)
def test_unknown_names(name: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        load(name)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"unknown dataset {name!r}; ")


@pytest.mark.usefixtures("few")
def test_a_known_name_comes_before_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image_folder(tmp_path / "digits", {"a/1.png": 1, "a/2.png": 1, "b/1.png": 1, "b/2.png": 1})
    monkeypatch.chdir(tmp_path)
    assert load("digits").train.class_names == tuple("0123456789")
    assert load("./digits").train.class_names == ("a", "b")
    image_folder(tmp_path / "farm" / "pets", {"a/1.png": 1, "a/2.png": 1, "b/1.png": 1})
    assert load("farm/pets").train.class_names == ("a", "b")  # and so a folder before the hub


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("name", ["digits", "multi-digits"])
def test_the_seed_is_passed_on(name: str) -> None:
    assert load(name, seed=5).train.fingerprint() == load(name, seed=5).train.fingerprint()
    assert load(name, seed=5).train.fingerprint() != load(name, seed=6).train.fingerprint()
    assert "seed 5" in load(name, seed=5).source


@pytest.mark.usefixtures("few")
def test_made_data_in_another_form() -> None:
    plain, formed = load("multi-digits").test, load("multi-digits", 3, 24).test
    assert formed.images.shape == (10, 3, 24, 24)
    assert torch.equal(formed.images[:, 0], formed.images[:, 2])
    expected = Image.fromarray(plain.images[4, 0].numpy()).resize((24, 24), Image.BILINEAR)
    assert np.array_equal(formed.images[4, 1], np.asarray(expected))
    assert formed.boxes is not None
    assert plain.boxes is not None
    assert torch.equal(formed.boxes.nan_to_num(-1) * 2, plain.boxes.nan_to_num(-2))
    assert torch.equal(formed.labels, plain.labels)
    assert load("multi-digits", 1, 48).test.fingerprint() == plain.fingerprint()


def test_importing_the_room_is_light() -> None:
    code = (
        "import sys, loss_attention.data.loading\n"
        "print([name for name in ('datasets', 'sklearn', 'pandas', 'torchvision', 'timm', "
        "'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_cifar10_in_parquet(shared_data: Path, tmp_path: Path) -> None:
    if not (shared_data / "cifar10" / "test.parquet").is_file():
        pytest.skip("needs ../shared/data/cifar10 beside the repository")
    calls: list[tuple[int, int]] = []
    splits = load_splits(
        str(shared_data / "cifar10" / "test.parquet"),
        in_channels=3,
        image_size=None,
        seed=0,
        progress=lambda done, total: calls.append((done, total)),
    )
    animals = ["bird", "cat", "deer", "dog", "frog", "horse"]
    assert splits.train.class_names == ("airplane", "automobile", *animals, "ship", "truck")
    assert splits.train.images.shape == (8000, 3, 32, 32)
    assert splits.test.images.shape == (2000, 3, 32, 32)
    assert torch.bincount(splits.train.labels).tolist() == [800] * 10
    assert torch.bincount(splits.test.labels).tolist() == [200] * 10
    assert calls[-1] == (10_000, 10_000)
    # Real pictures: nearly as many bright as dark pixels, and neighbours alike.
    assert 110 < splits.test.images.float().mean() < 135
    pixels = splits.test.images.float()
    assert (pixels[..., 1:] - pixels[..., :-1]).abs().mean() < 20
