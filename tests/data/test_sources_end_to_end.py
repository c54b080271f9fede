"""Each kind of source through the command: train, evaluate on other data, explain."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from data.making import coco_json, text
from data.test_voc import xml
from PIL import Image
from typed import exit_code

SMALL = [
    *("--image-size", "16", "--resize", "pad", "--epochs", "1", "--batch-size", "8"),
    *("--width", "0.06", "--strided-layers", "6", "--patch-kernel", "3", "--patch-stride", "1"),
    *("--accelerator", "cpu"),
]
NAMES = ("cat", "dog")
WIDTH, HEIGHT = 24, 12


def pictures(root: Path, folder: str) -> list[tuple[str, int, tuple[int, int, int, int]]]:
    """Write noise with a bright box in it, for every second image of the other class."""
    rng, found = np.random.default_rng(0), []
    (root / folder).mkdir(parents=True)
    for i in range(8):
        pixels = rng.integers(0, 90, (HEIGHT, WIDTH, 3), np.uint8)
        box = (2 + i, 1, 12 + i, 10)
        pixels[box[1] : box[3], box[0] : box[2], i % 2] += 150
        Image.fromarray(pixels).save(root / folder / f"{i}.png")
        found.append((f"{i}.png", i % 2, box))
    return found


def make(kind: str, root: Path) -> Path:
    """Write eight training and eight test images in one of the layouts."""
    for split in ("train", "test"):
        if kind == "csv":
            rows = [
                f"{split}/{file},{NAMES[label]},{' '.join(map(str, box))}"
                for file, label, box in pictures(root, split)
            ]
            text(root / f"{split}.csv", "image,label,box", *rows)
        elif kind == "coco":
            found = pictures(root, split)
            images = {i: (file, WIDTH, HEIGHT) for i, (file, _, _) in enumerate(found)}
            objects = [
                (i, 3 + 4 * label, [box[0], box[1], box[2] - box[0], box[3] - box[1]])
                for i, (_, label, box) in enumerate(found)
            ]
            coco_json(root / split / "annotations.json", images, objects)
        elif kind == "voc":
            for file, label, (x0, y0, x1, y1) in pictures(root, split):
                content = xml(
                    file[:-4], [(NAMES[label], (x0 + 1, y0 + 1, x1, y1))], (WIDTH, HEIGHT)
                )
                (root / split / file).with_suffix(".xml").write_bytes(content)
        else:
            for file, label, (x0, y0, x1, y1) in pictures(root, f"{split}/images"):
                share = ((x0 + x1) / 2 / WIDTH, (y0 + y1) / 2 / HEIGHT, 10 / WIDTH, 9 / HEIGHT)
                line = f"{label} {' '.join(map(str, share))}"
                text(root / split / "labels" / f"{file[:-4]}.txt", line)
    if kind == "yolo":
        text(root / "data.yaml", "names: [cat, dog]")
    return root


@pytest.mark.parametrize("kind", ["csv", "coco", "voc", "yolo"])
def test_train_evaluate_explain(kind: str, tmp_path: Path, capsys) -> None:
    data, folder = make(kind, tmp_path / "data"), tmp_path / "run"
    assert exit_code("train", "folder", "--data", data, *SMALL, "--out", folder) == 0
    facts = json.loads((folder / "run.json").read_text())
    assert facts["classes"] == ["cat", "dog"]
    assert facts["multi_label"] is (kind != "csv")
    assert facts["test_images"] == 8
    figures = json.loads((folder / "evaluation.json").read_text())
    assert figures["boxed_images"] == 8
    capsys.readouterr()
    assert exit_code("evaluate", folder, "--data", make(kind, tmp_path / "other")) == 0
    picture = next((tmp_path / "other").rglob("3.png"))
    assert exit_code("explain", folder, picture, "--out", tmp_path / "out") == 0
    found = json.loads((tmp_path / "out" / "3.json").read_text())
    assert (found["width"], found["height"]) == (WIDTH, HEIGHT)
    windows = np.array(found["grid"]["windows"])
    assert windows.min() == 0
    assert HEIGHT < windows[:, 2].max() <= WIDTH
    assert windows[:, 3].max() == HEIGHT  # the border below is none of the original
    assert exit_code("data", "check", data) == 0


def test_a_fault_leaves_no_folder(tmp_path: Path, capsys) -> None:
    data = make("csv", tmp_path / "data")
    (data / "train" / "3.png").write_bytes(b"junk")
    words = ["train", "folder", "--data", data, *SMALL, "--out", tmp_path / "run"]
    assert exit_code(*words) == 2
    assert "train/3.png (of no known image format)" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]
    assert exit_code(*words, "--skip-broken") == 0
    out = capsys.readouterr().out
    assert "1 image left out, as asked, for what is wrong with them" in out
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["train_images"] + facts["validation_images"] == 7
    assert "1 image left out" in facts["source"]
