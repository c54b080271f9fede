"""Boxes and images brought to one size together, and going on without what is broken."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from data.making import png, text, write
from data.refusing import load, refusal
from PIL import Image

from loss_attention.data.decoding import fitted, to_tensor


@pytest.fixture
def bars(tmp_path: Path) -> Path:
    """Images of unequal sizes, each black but for a white box that is listed."""
    lines = []
    for i, (width, height, box) in enumerate(
        [(40, 20, (4, 5, 24, 15)), (20, 40, (0, 0, 10, 20)), (30, 30, (3, 6, 27, 30))] * 2
    ):
        picture = np.zeros((height, width), np.uint8)
        picture[box[1] : box[3], box[0] : box[2]] = 255
        Image.fromarray(picture).save(tmp_path / f"{i}.png")
        lines.append(f"{i}.png,{'ab'[i % 2]},{' '.join(map(str, box))}")
    text(tmp_path / "train.csv", "image,label,box", *lines)
    text(tmp_path / "test.csv", "image,label,box", *lines[:3])
    return tmp_path


@pytest.mark.parametrize("resize", ["squash", "pad"])
def test_boxes_lie_on_what_they_name(bars: Path, resize: str) -> None:
    data = load(bars, image_size=60, resize=resize).train
    assert data.images.shape == (6, 1, 60, 60)
    for image, boxes in zip(data.images[:, 0], data.boxes, strict=True):
        (box,) = boxes.round().int().tolist()
        white = (image > 127).nonzero()
        low, high = white.amin(dim=0), white.amax(dim=0) + 1
        assert [low[1], low[0], high[1], high[0]] == box
    wanted = [[4, 5, 24, 15], [0, 0, 10, 20], [3, 6, 27, 30]] * 2
    assert torch.allclose(data.original_boxes(data.boxes)[:, 0], torch.tensor(wanted).float())
    assert data.placements[0].tolist() == [
        40,
        20,
        *([0, 15, 60, 45] if resize == "pad" else [0, 0, 60, 60]),
    ]


def test_padding_keeps_the_aspect_on_a_border_of_the_mean() -> None:
    picture = Image.new("RGB", (20, 10), (10, 200, 30))
    picture.paste((30, 100, 30), (0, 0, 10, 10))
    padded = to_tensor(picture, (20, 20), "pad")
    assert padded[:, 0, 0].tolist() == padded[:, 19, 19].tolist() == [20, 150, 30]
    assert torch.equal(padded[:, 5:15], to_tensor(picture))
    assert (to_tensor(picture, (20, 20), "squash")[0, :, 0] == 30).all()
    assert np.asarray(fitted(picture, (20, 20), "pad", border=(1, 2, 3)))[0, 0].tolist() == [
        1,
        2,
        3,
    ]
    grey = to_tensor(Image.new("L", (4, 2), 77), (4, 4), "pad")
    assert (grey == 77).all()


def test_originals_have_no_placements(bars: Path) -> None:
    for name in ("train.csv", "test.csv"):
        lines = (bars / name).read_text().splitlines()
        text(bars / name, lines[0], *(line for line in lines if line[:1] in "25"))
    text(bars / "train.csv", "image,label,box", "2.png,a,3 6 27 30", "5.png,b,3 6 27 30")
    data = load(bars).train
    assert data.placements is None
    assert data.original_boxes(data.boxes) is data.boxes


def test_broken_images_stop_everything_unless_asked(bars: Path) -> None:
    write(bars / "1.png", b"junk")
    assert "2 images cannot be read: 1.png (of no known" in refusal(bars, image_size=8)
    splits = load(bars, image_size=8, skip_broken=True)
    assert splits.train.names == ("0.png", "2.png", "3.png", "4.png", "5.png")
    assert splits.test.names == ("0.png", "2.png")
    assert splits.train.labels.tolist() == [0, 0, 1, 0, 1]
    assert len(splits.train.boxes) == len(splits.train.placements) == 5
    assert splits.notes == (
        "3 images of test also in train (0.png, say)",
        "2 images left out, as asked, for what is wrong with them",
    )
    whole = load(bars, image_size=8, skip_broken=True, resize="pad").train
    assert whole.placements[1].tolist() == [30, 30, 0, 0, 8, 8]


def test_nothing_is_left(bars: Path) -> None:
    for i in range(3):
        write(bars / f"{i}.png", b"junk")
    said = refusal(bars, image_size=8, skip_broken=True)
    assert "something is wrong with every image of split test" in said
    for i in range(3, 6):
        write(bars / f"{i}.png", b"junk")
    assert "9 images cannot be read: " in refusal(bars, image_size=8, skip_broken=True)


def test_boxes_outside_are_left_out_with_their_image(bars: Path) -> None:
    with (bars / "train.csv").open("a") as file:
        file.write("0.png,a,0 0 42 3\n")
    said = refusal(bars, image_size=8)
    assert "train.csv row 8: box (0, 0, 42, 3) lies outside 0.png, which is 40 x 20" in said
    assert load(bars, image_size=8, skip_broken=True).train.names[0] == "1.png"


def test_an_image_bomb(bars: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loss_attention.data.decoding.MOST_PIXELS", 1000)
    write(bars / "0.png", png(0, (40, 26)))
    said = refusal(bars, image_size=8)
    assert "0.png (more than 1,000 pixels (a decompression bomb?))" in said
