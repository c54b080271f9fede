"""`data check`: what it counts, what it finds wrong, and its picture."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from data.making import image_folder, png, text, tiny_imagenet, write
from PIL import Image
from typed import exit_code


def said(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = exit_code("data", *words)
    out, err = capsys.readouterr()
    return code, out, err


def test_a_sound_folder(tmp_path: Path, capsys) -> None:
    files = {
        f"{s}/{c}/{i}.png": 10 * i + ord(c) for s in ("train",) for c in "ab" for i in range(3)
    }
    image_folder(tmp_path, files | {"train/a/3.png": 7, "test/b/0.png": 3})
    code, out, err = said(capsys, "check", tmp_path)
    assert (code, err) == (0, "")
    for line in (
        "train: 7 images of 2 classes",
        "train: a 4, b 3",
        "train: all 4 x 4 pixels (width x height)",
        "test: 1 image of 1 class",
        "no errors in 8 images",
    ):
        assert line in out
    assert "warning" not in out


def test_duplicates_and_leaks(tmp_path: Path, capsys) -> None:
    image_folder(tmp_path, {"train/a/1.png": 1, "train/a/2.png": 2, "train/b/1.png": 3})
    shutil.copy(tmp_path / "train/a/1.png", tmp_path / "train/a/copy.png")
    # The same pixels in another file format are the same image.
    Image.new("L", (4, 4), 2).save(tmp_path / "train/b/2.bmp")
    image_folder(tmp_path, {"test/a/9.png": 3, "test/b/8.png": 8})
    code, out, _ = said(capsys, "check", tmp_path)
    assert code == 0  # nothing that training refuses
    assert (
        "train: 2 duplicates: train/a/1.png = train/a/copy.png; train/a/2.png = train/b/2.bmp"
        in out
    )
    assert "train: identical images with different labels: train/a/2.png = train/b/2.bmp" in out
    assert "leak: 1 image of test also in train: train/b/1.png = test/a/9.png" in out


def test_everything_that_is_wrong(tmp_path: Path, capsys) -> None:
    image_folder(tmp_path, {f"{i}.png": i for i in range(5)}, (8, 6))
    write(tmp_path / "broken.png", png()[:40])
    write(tmp_path / "wide.png", png(9, (30, 6)))
    text(
        tmp_path / "train.csv",
        "image,label,box",
        "0.png,a,0 0 4 4",
        "1.png,b,0 0 9 9",
        "2.png,b,3 0 1 4",
        "broken.png,a,",
        "gone.png,a,",
        "wide.png,a,",
    )
    text(tmp_path / "test.csv", "image,label", "3.png,zebra", "4.png,a")
    code, out, err = said(capsys, "check", tmp_path, "--out", tmp_path.parent / "sheet.png")
    assert code == 2
    for line in (
        "error: train.csv row 3: box (0, 0, 9, 9) lies outside 1.png, which is 8 x 6",
        "error: train.csv row 4: box (3, 0, 1, 4) has x1 < x0",
        "error: broken.png cannot be read as an image: ",
        "error: train.csv row 6: its image gone.png is missing",
        "error: split test shows class 'zebra', which split train lacks: 3.png (test.csv row 2)",
        "2 sizes, 8 to 30 wide and 6 to 6 high, most often 8 x 6 (2 images): train with",
        "train: 2 boxes in 2 images",
    ):
        assert line in out
    assert err == (
        f"loss-attention: 5 errors in {tmp_path}; --skip-broken trains without images that have an "
        "error\n"
    )
    with Image.open(tmp_path.parent / "sheet.png") as sheet:
        assert sheet.size == (8 * 128, 144)


def test_the_contact_sheet(tmp_path: Path, capsys) -> None:
    root, sheet = tiny_imagenet(tmp_path / "tiny"), tmp_path / "sheet.png"
    assert exit_code("data", "check", root, "--out", sheet) == 0
    with Image.open(sheet) as picture:
        pixels = np.asarray(picture).astype(int)
    assert pixels.shape == (144, 8 * 128, 3)
    # 8 x 6 becomes 128 x 96, with white above and below.
    assert (pixels[:15, :128] == 255).all()
    assert (pixels[60, 60] == 0).all()  # the first image of the first class is black
    assert (pixels[60, 128 + 90] == 10).all()  # then comes one of the other class
    # The box (0, 1, 4, 5) at 16 times its size, 16 pixels down.
    assert (pixels[32, :64] == (255, 80, 0)).all()
    assert (pixels[95, :64] == (255, 80, 0)).all()
    assert not (pixels[32, 66:128] == (255, 80, 0)).all(axis=1).any()
    again = said(capsys, "check", root, "--out", sheet)
    assert again[0] == 2
    assert "exists already" in again[2]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ((), "data needs a subcommand after it: data check PATH"),
        (("chekc", "x"), "data needs a subcommand after it"),
        (("check", "nowhere/"), "nowhere/ does not exist"),
        (("check", "digits"), "digits is generated here"),
        (("check", ".", "--out", "x.txt"), "a picture, .png or .jpg"),
        (("check", ".", "--out", "nowhere/x.png"), "there is no folder nowhere"),
    ],
)
def test_what_is_typed_wrong(words, line, capsys) -> None:
    code, out, err = said(capsys, *words)
    assert (code, out) == (2, "")
    assert line in err
    assert err.count("\n") == 1


def test_a_missing_split_is_wrong(tmp_path: Path, capsys) -> None:
    image_folder(tmp_path, {f"{i}.png": i for i in range(2)})
    text(tmp_path / "test.csv", "image,label", "0.png,a", "1.png,b")
    code, out, _ = said(capsys, "check", tmp_path)
    assert code == 2
    assert "has no split named train among test" in out


def test_a_known_set_is_counted(tmp_path: Path, capsys) -> None:
    root = tiny_imagenet(tmp_path / "tiny")
    code, out, _ = said(capsys, "check", f"tiny-imagenet:{root}")
    assert code == 0
    assert "warning: 4 training images found where the whole set has 100,000" in out
    image_folder(tmp_path / "folder", {f"train/{c}/{i}.png": i for c in "ab" for i in range(2)})
    code, out, _ = said(capsys, "check", f"imagenet:{tmp_path / 'folder'}")
    assert code == 2
    assert "lacks the split to report on: 50,000 labelled test or validation images" in out


def test_a_real_sample_is_sound(shared_data: Path, capsys) -> None:
    if not (shared_data / "coco-mini").is_dir():
        pytest.skip("needs ../shared/data/coco-mini beside the repository")
    code, out, err = said(capsys, "check", shared_data / "coco-mini")
    assert (code, err) == (0, "")
    assert "train: 160 images of 80 classes" in out
    assert "validation: 1,424 boxes in 158 images" in out


@pytest.mark.parametrize(("most", "level"), [(255, 1), (1023, 4), (4095, 16), (16_383, 64)])
def test_numbers_of_fewer_bits_than_the_files_have(most: int, level: int, tmp_path, capsys) -> None:
    for i, (kind, top) in enumerate([("png", most), ("tiff", most), ("png", 65_535)] * 2):
        numbers = np.linspace(i, top, 16).reshape(4, 4).astype(np.uint16)
        path = tmp_path / "train" / "ab"[i // 3] / f"{i}.{kind}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(numbers).save(path)
    code, out, _ = said(capsys, "check", tmp_path)
    assert code == 0
    assert (
        f"train: 4 images of over 8 bits a pixel with no level above {level} of 255, nearly "
        "black: train/a/0.png, train/a/1.tiff, train/b/3.png, train/b/4.tiff; if they are"
    ) in out.replace("\n", " ")
