"""Each kind of source through each command, at its smallest."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import datasets
import numpy as np
import pytest
from data.formats.test_voc import xml
from data.making import coco_json, parquet, text
from PIL import Image
from typed import exit_code

from loss_attention.attribution import measures

SMALL = [
    *("--image-size", "16", "--resize", "pad", "--epochs", "1", "--batch-size", "8"),
    *("--width", "0.06", "--strided-layers", "6", "--patch-kernel", "3", "--patch-stride", "1"),
    *("--accelerator", "cpu"),
]
NAMES = ("cat", "dog")
WNIDS = ("n00000001", "n00000002")
WIDTH, HEIGHT = 24, 12

Picture = tuple[str, int, tuple[int, int, int, int]]
"""The file, the class and the box of what is to be seen."""


def pictures(folder: Path, suffix: str = "png") -> list[Picture]:
    """Write noise with a bright box in it, for every second image of the other class."""
    rng, found = np.random.default_rng(len(folder.name)), []
    folder.mkdir(parents=True)
    for i in range(8):
        pixels = rng.integers(0, 90, (HEIGHT, WIDTH, 3), np.uint8)
        box = (2 + i, 1, 12 + i, 10)
        pixels[box[1] : box[3], box[0] : box[2], i % 2] += 150
        Image.fromarray(pixels).save(folder / f"{i}.{suffix}")
        found.append((f"{i}.{suffix}", i % 2, box))
    return found


def corner_and_size(box: tuple[int, int, int, int]) -> list[int]:
    """Return a box as x, y, width, height."""
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


def csv(root: Path) -> None:
    for split in ("train", "test"):
        rows = [
            f"{split}/{file},{NAMES[label]},{' '.join(map(str, box))}"
            for file, label, box in pictures(root / split)
        ]
        text(root / f"{split}.csv", "image,label,box", *rows)


def json_lines(root: Path) -> None:
    for split in ("train", "test"):
        rows = [
            json.dumps({"image": f"{split}/{file}", "label": NAMES[label], "box": list(box)})
            for file, label, box in pictures(root / split)
        ]
        text(root / f"{split}.jsonl", *rows)


def coco(root: Path) -> None:
    for split in ("train", "test"):
        _coco(root / split, root / split / "annotations.json")


def official_coco(root: Path, year: str) -> None:
    for split in (f"train{year}", f"val{year}"):
        _coco(root / split, root / "annotations" / f"instances_{split}.json")


def _coco(folder: Path, annotations: Path) -> None:
    found = pictures(folder, "jpg")
    images = {i: (file, WIDTH, HEIGHT) for i, (file, _, _) in enumerate(found)}
    objects = [(i, 3 + 4 * label, corner_and_size(box)) for i, (_, label, box) in enumerate(found)]
    coco_json(annotations, images, objects)


def voc(root: Path) -> None:
    for split in ("train", "test"):
        for file, label, (x0, y0, x1, y1) in pictures(root / split):
            content = xml(file[:-4], [(NAMES[label], (x0 + 1, y0 + 1, x1, y1))], (WIDTH, HEIGHT))
            (root / split / file).with_suffix(".xml").write_bytes(content)


def yolo(root: Path) -> None:
    for split in ("train", "test"):
        for file, label, (x0, y0, x1, y1) in pictures(root / split / "images"):
            share = ((x0 + x1) / 2 / WIDTH, (y0 + y1) / 2 / HEIGHT, 10 / WIDTH, 9 / HEIGHT)
            line = f"{label} {' '.join(map(str, share))}"
            text(root / split / "labels" / f"{file[:-4]}.txt", line)
    text(root / "data.yaml", "names: [cat, dog]")


def image_folder(root: Path) -> None:
    for split in ("train", "val"):
        for file, label, _ in pictures(root / split):
            path = root / split / file
            path.parent.joinpath(NAMES[label]).mkdir(exist_ok=True)
            path.rename(path.parent / NAMES[label] / file)


def table(root: Path, image: str = "image", label: str = "label", *, boxed: bool = False) -> None:
    types = {image: datasets.Image(), label: datasets.ClassLabel(names=list(NAMES))}
    if boxed:
        types["bbox"] = datasets.Sequence(datasets.Sequence(datasets.Value("float32")))
    for split in ("train", "test"):
        home = root / f"{split}-pictures"
        found = pictures(home)
        columns: dict[str, list[object]] = {
            image: [{"bytes": (home / file).read_bytes(), "path": None} for file, _, _ in found],
            label: [label for _, label, _ in found],
        }
        if boxed:
            columns["bbox"] = [[corner_and_size(box)] for _, _, box in found]
        parquet(root / f"{split}.parquet", columns, types)
        shutil.rmtree(home)


def tiny_imagenet(root: Path) -> None:
    for file, label, box in pictures(root / "train", "jpg"):
        home = root / "train" / WNIDS[label]
        name = f"{WNIDS[label]}_{file[0]}.JPEG"
        (home / "images").mkdir(parents=True, exist_ok=True)
        (root / "train" / file).rename(home / "images" / name)
        with (home / f"{WNIDS[label]}_boxes.txt").open("a") as boxes:
            print(name, *box, sep="\t", file=boxes)
    listed = []
    for file, label, box in pictures(root / "val" / "images", "jpg"):
        name = f"val_{file[0]}.JPEG"
        (root / "val" / "images" / file).rename(root / "val" / "images" / name)
        listed.append("\t".join(map(str, (name, WNIDS[label], *box))))
    text(root / "val" / "val_annotations.txt", *listed)
    text(root / "words.txt", f"{WNIDS[0]}\tcat", f"{WNIDS[1]}\tdog")


def packed(root: Path) -> Path:
    """Replace a folder by a zip of it."""
    archive = Path(shutil.make_archive(str(root), "zip", root))
    shutil.rmtree(root)
    return archive


@dataclass(frozen=True)
class Source:
    """What writes it, how `--data` names it, and what training finds in it."""

    write: Callable[[Path], None]
    data: str = "{}"
    boxed: bool = True
    multi_label: bool = False
    zipped: bool = False


SOURCES = {
    "csv": Source(csv),
    "json lines": Source(json_lines),
    "coco json": Source(coco, multi_label=True),
    "voc": Source(voc, multi_label=True),
    "yolo": Source(yolo, multi_label=True),
    "zipped yolo": Source(yolo, multi_label=True, zipped=True),
    "image folder": Source(image_folder, boxed=False),
    "zipped image folder": Source(image_folder, boxed=False, zipped=True),
    "parquet": Source(table, boxed=False),
    "parquet with boxes": Source(partial(table, boxed=True)),
    "cifar10": Source(partial(table, image="img"), "cifar10:{}", boxed=False),
    "cifar100": Source(partial(table, image="img", label="fine_label"), "cifar100:{}", boxed=False),
    "svhn": Source(table, "svhn:{}", boxed=False),
    "tiny-imagenet": Source(tiny_imagenet, "tiny-imagenet:{}"),
    "zipped tiny-imagenet": Source(tiny_imagenet, "tiny-imagenet:{}", zipped=True),
    "coco2014": Source(partial(official_coco, year="2014"), "coco2014:{}", multi_label=True),
    "coco2017": Source(partial(official_coco, year="2017"), "coco2017:{}", multi_label=True),
    "imagenet32": Source(image_folder, "imagenet32:{}", boxed=False),
    "imagenet": Source(image_folder, "imagenet:{}", boxed=False),
}


def make(name: str, root: Path) -> str:
    """Write eight training and eight test images of a source; return what `--data` takes."""
    source = SOURCES[name]
    source.write(root)
    return source.data.format(packed(root) if source.zipped else root)


@pytest.mark.parametrize("name", SOURCES)
def test_every_command_on_every_source(name: str, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(measures, "REPEATS", 1)
    source, data, folder = SOURCES[name], make(name, tmp_path / "data"), tmp_path / "run"
    assert exit_code("data", "check", data) == 0
    assert exit_code("train", "folder", "--data", data, *SMALL, "--out", folder) == 0
    facts = json.loads((folder / "run.json").read_text())
    assert sorted(facts["classes"]) == ["cat", "dog"]
    assert facts["multi_label"] is source.multi_label
    assert facts["test_images"] == 8
    figures = json.loads((folder / "evaluation.json").read_text())
    assert figures["boxed_images"] == (8 if source.boxed else 0)
    capsys.readouterr()
    assert exit_code("evaluate", folder, "--data", make(name, tmp_path / "other")) == 0
    assert ("pointing game" in capsys.readouterr().out) is source.boxed
    out = tmp_path / "compared"
    # The others do not depend on where images come from.
    asked = ("--methods", "evidence", "--metrics", "localisation", "--images", 2)
    assert exit_code("compare", folder, *asked, "--out", out) == 0
    compared = json.loads((out / "comparison.json").read_text())
    assert compared["boxed_images"] == (2 if source.boxed else 0)
    (picture,) = pictures(tmp_path / "own")[3:4]
    assert exit_code("explain", folder, tmp_path / "own" / picture[0], "--out", out) == 0
    found = json.loads((out / "3.json").read_text())
    assert (found["width"], found["height"]) == (WIDTH, HEIGHT)
    windows = np.array(found["grid"]["windows"])
    assert windows.min() == 0
    assert HEIGHT < windows[:, 2].max() <= WIDTH
    assert windows[:, 3].max() == HEIGHT  # the border below is none of the original


def test_a_fault_leaves_no_folder(tmp_path: Path, capsys) -> None:
    data = make("csv", tmp_path / "data")
    (tmp_path / "data" / "train" / "3.png").write_bytes(b"junk")
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
