"""The first picture of the README, drawn by a network that knows nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import first_picture
import numpy as np
import pytest
from PIL import Image

import loss_attention as la


def test_it_shows_the_photos_as_one_and_why_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = la.create_model(
        width=0.05, num_classes=2, class_names=("cat", "cup"), image_size=(32, 32)
    )
    (tmp_path / "model.safetensors").write_bytes(model.to_bytes())
    for name, colour in (("red", (200, 20, 20)), ("blue", (20, 20, 200))):
        Image.new("RGB", (50, 40), colour).save(tmp_path / f"{name}.png")
    words = [tmp_path / "model.safetensors", tmp_path / "red.png", tmp_path / "blue.png"]
    out = tmp_path / "first.jpg"
    monkeypatch.setattr(sys, "argv", ["x", *map(str, words), "cat", "cup", "--out", str(out)])
    first_picture.main()
    assert capsys.readouterr().out.startswith("cat: 0.")
    pixels = np.asarray(Image.open(out)).astype(int)
    side = first_picture.SIDE
    assert pixels.shape[1] == 6 * side + 2 * first_picture.GAP
    assert pixels[side // 2, side // 2] == pytest.approx((200, 20, 20), abs=8)
    assert pixels[side // 2, side + side // 2] == pytest.approx((20, 20, 200), abs=8)
