"""Small valid data sets of every layout, and which of their files are changed how."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from bags import bag_files
from fuzz import archives, stores
from fuzz.documents import json_lines, json_value, yaml_value
from fuzz.hostile import Mutator, one_of, recoded
from fuzz.pictures import picture, structured
from fuzz.texts import lines, table, xml


@dataclass(frozen=True)
class Seed:
    """A valid input.

    Attributes:
        files: its files by their paths.
        targets: those that are changed, with what knows their structure; None: bytes alone.
    """

    files: Mapping[str, bytes]
    targets: Mapping[str, Mutator | None]


def _pictures(*names: str) -> dict[str, bytes]:
    return {name: picture("png", "RGB") for name in names}


def _seed(files: Mapping[str, bytes], targets: Mapping[str, Mutator | None]) -> Seed:
    """Return a seed whose first picture is a target too."""
    image = next((name for name in files if name.endswith(".png")), None)
    return Seed(files, targets if image is None else {**targets, image: structured("png")})


def _text(*rows: str) -> bytes:
    return "".join(f"{row}\n" for row in rows).encode()


def yolo() -> list[Seed]:
    """Two ways to name classes, boxes and polygons."""
    split = {"train": ("a", "b"), "val": ("c",)}
    stems = [f"{part}/{stem}" for part, found in split.items() for stem in found]
    files = _pictures(*(f"images/{stem}.png" for stem in stems))
    files |= {
        f"labels/{stem}.txt": _text(
            *([] if stem.endswith("a") else [f"{k % 2} 0.5 0.5 0.4 0.4"]),
            *("1 0.1 0.1 0.9 0.1 0.9 0.9", "0 0.1 0.2 0.3 0.4 0.5 0.1"),
        )
        for k, stem in enumerate(stems)
    }
    described = _text(
        "path: .",
        "train: images/train",
        "val: images/val",
        "nc: 2",
        "names:",
        "  0: cat",
        "  1: dog",
    )
    words = one_of(lines, lines, recoded)
    labels = {name: words for name in files if name.endswith("a.txt") or name.endswith("c.txt")}
    one = files | {"data.yaml": described}
    listed = files | {
        "data.yaml": _text("train: train.txt", "val: [val.txt]", "names: [cat, dog]"),
        "train.txt": _text("./images/train/a.png", "images/train/b.png"),
        "val.txt": _text("./images/val/c.png"),
    }
    beside = {name.removeprefix("images/").removeprefix("labels/"): c for name, c in files.items()}
    beside["classes.txt"] = _text("cat", "dog")
    return [
        _seed(one, {"data.yaml": yaml_value, **labels}),
        _seed(listed, {"data.yaml": yaml_value, "train.txt": words, "val.txt": words}),
        _seed(beside, {"classes.txt": words, "train/a.txt": words}),
    ]


def coco() -> list[Seed]:
    """Boxes with polygons, run lengths as numbers and as text, and a crowd."""
    runs = {"size": [7, 9], "counts": [10, 5, 48]}
    packed = {"size": [7, 9], "counts": "73e1"}  # 7 without, 3 with, the rest without
    segments: list[Any] = [[[1, 1, 6, 1, 6, 5]], runs, [[2, 1, 8, 1, 8, 6, 2, 6]], packed]

    def split(first: int, name: str) -> bytes:
        numbers = range(first, first + 2)
        return json.dumps(
            {
                "info": {"description": "made up"},
                "images": [
                    {"id": k, "file_name": f"{name}{k}.png", "width": 9, "height": 7}
                    for k in numbers
                ],
                "annotations": [
                    {
                        "id": 10 * k + i,
                        "image_id": k,
                        "category_id": 3 + 4 * i,
                        "bbox": [1, 1, 5, 4],
                        "area": 20,
                        "iscrowd": int(isinstance(segments[(2 * k + i) % 4], dict)),
                        "segmentation": segments[(2 * k + i) % 4],
                    }
                    for k in numbers
                    for i in range(2)
                ],
                "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}],
            }
        ).encode()

    files = _pictures("train/t1.png", "train/t2.png", "val/v5.png", "val/v6.png")
    files |= {"annotations/train.json": split(1, "t"), "annotations/val.json": split(5, "v")}
    changed = one_of(*[json_value] * 8, recoded)
    return [_seed(files, {"annotations/train.json": changed, "annotations/val.json": changed})]


def voc() -> list[Seed]:
    """Two images to train on and one to test, listed and not; masks of objects."""

    def described(stem: str, name: str) -> bytes:
        return (
            f"<annotation><folder>VOC</folder><filename>{stem}.png</filename>"
            "<size><width>9</width><height>7</height><depth>3</depth></size>"
            "<segmented>1</segmented>"
            f"<object><name>{name}</name><difficult>0</difficult><bndbox><xmin>1</xmin>"
            "<ymin>2</ymin><xmax>6</xmax><ymax>5</ymax></bndbox></object>"
            "<object><name>owl</name><bndbox><xmin>2</xmin><ymin>1</ymin><xmax>8</xmax>"
            "<ymax>7</ymax></bndbox></object></annotation>"
        ).encode()

    stems = ("a", "b", "c", "d")
    files = _pictures(*(f"JPEGImages/{stem}.png" for stem in stems))
    for k, stem in enumerate(stems):
        files[f"Annotations/{stem}.xml"] = described(stem, ("cat", "dog")[k % 2])
        files[f"SegmentationObject/{stem}.png"] = picture("png", "1")
    annotations: dict[str, Mutator | None] = {"Annotations/a.xml": one_of(*[xml] * 8, recoded)}
    listed = files | {
        "ImageSets/Main/trainval.txt": _text("a", "b"),
        "ImageSets/Main/test.txt": _text("c", "d"),
    }
    words = one_of(lines, lines, recoded)
    alone = {k: v for k, v in files.items() if not k.startswith("Segmentation")}
    return [
        _seed(
            listed,
            {
                **annotations,
                "Annotations/c.xml": xml,
                "ImageSets/Main/trainval.txt": words,
                "SegmentationObject/a.png": structured("png"),
            },
        ),
        _seed(alone, annotations),
    ]


def _tabular(name: str, separator: str) -> list[Seed]:
    rows = (
        ("image", "label", "box", "box_label", "split", "mask"),
        ("a.png", "cat", "1 1 5 5", "cat", "train", "m.png"),
        ("b.png", "dog", "1 1 5 5;2 2 6 6", "dog;dog", "train", "m.png"),
        ("c.png", "cat|dog", "1 1 5 5;2 2 6 6", "cat;dog", "test", "m.png"),
        ("d.png", "dog", "", "", "test", ""),
    )
    numbered = (
        ("path", "class", "x0", "y0", "x1", "y1"),
        *((f"{stem}.png", str(k % 2), "1", "1", "5", "5") for k, stem in enumerate("abcd")),
    )
    images = _pictures(*(f"{stem}.png" for stem in "abcdm"))
    cells = one_of(*[table(separator)] * 8, recoded)
    return [
        _seed(
            images | {name: _text(*(separator.join(row) for row in written))},
            {name: cells},
        )
        for written in (rows, numbered)
    ]


def csv() -> list[Seed]:
    """Commas between cells."""
    return _tabular("table.csv", ",")


def tsv() -> list[Seed]:
    """Tabs between cells."""
    return _tabular("table.tsv", "\t")


def bags() -> list[Seed]:
    """A file a bag in every form, and a CSV of labels, splits and patients."""
    seeds, cells = [], one_of(*[table(",")] * 8, recoded)
    for ending in (".h5", ".pt", ".npy", ".safetensors", ".zarr"):
        with tempfile.TemporaryDirectory() as place:
            root = bag_files.folder(Path(place), ending=ending)
            for path in root.glob("*.h5"):
                with h5py.File(path, "a") as file:
                    file["instance_labels"] = np.arange(len(file["features"])) % 3 - 1
                    file["instance_labels"].attrs["classes"] = ["tumour", "normal"]
            paths = [path for path in sorted(root.rglob("*")) if path.is_file()]
            files = {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}
        seeds.append(Seed(files, {n: cells if n == "labels.csv" else None for n in files}))
    return seeds


def _listed() -> list[dict[str, Any]]:
    return [
        {
            "image": f"{stem}.png",
            "label": ["cat", "dog"][k % 2],
            "boxes": [[1, 1, 5, 5]],
            "split": ("train", "test")[k // 2],
            "mask": "m.png",
        }
        for k, stem in enumerate("abcd")
    ]


def _objects() -> list[dict[str, Any]]:
    return [
        {
            "file_name": f"{stem}.png",
            "objects": {"bbox": [[1, 1, 4, 4]], "categories": [["cat", "dog"][k % 2]]},
        }
        for k, stem in enumerate("abcd")
    ]


def _as_lines(rows: list[dict[str, Any]]) -> bytes:
    return _text(*map(json.dumps, rows))


def jsonl() -> list[Seed]:
    """A line of JSON an image."""
    images = _pictures(*(f"{stem}.png" for stem in "abcdm"))
    changed = one_of(*[json_lines] * 8, recoded, lines)
    return [
        _seed(images | {"table.jsonl": _as_lines(rows)}, {"table.jsonl": changed})
        for rows in (_listed(), _objects(), [row | {"label": [row["label"]]} for row in _listed()])
    ]


def metadata() -> list[Seed]:
    """The layout `imagefolder` of `datasets`."""
    files = _pictures(*(f"{split}/{s}.png" for split in ("train", "test") for s in "abcd"))
    rows = _objects()
    labelled = [{"file_name": row["file_name"], "label": k % 2} for k, row in enumerate(rows)]
    changed = one_of(*[json_lines] * 8, recoded)
    name = "train/metadata.jsonl"
    return [
        _seed(
            files | {name: _as_lines(found), "test/metadata.jsonl": _as_lines(found)},
            {name: changed},
        )
        for found in (rows, labelled)
    ]


def json_array() -> list[Seed]:
    """An array of objects in one JSON file."""
    images = _pictures(*(f"{stem}.png" for stem in "abcdm"))
    return [
        _seed(images | {"table.json": json.dumps(rows).encode()}, {"table.json": json_value})
        for rows in (_listed(), _objects())
    ]


def tiny_imagenet() -> list[Seed]:
    """Tiny ImageNet's layout with two classes."""
    files: dict[str, bytes] = {}
    for wnid in ("n00000001", "n00000002"):
        for k in range(2):
            files[f"train/{wnid}/images/{wnid}_{k}.JPEG"] = picture("jpeg")
        boxes = (f"{wnid}_{k}.JPEG\t0\t1\t3\t4" for k in range(2))
        files[f"train/{wnid}/{wnid}_boxes.txt"] = _text(*boxes)
        files[f"val/images/val_{wnid}.JPEG"] = picture("jpeg")
    files["val/val_annotations.txt"] = _text(
        "val_n00000001.JPEG\tn00000001\t0\t0\t5\t5", "val_n00000002.JPEG\tn00000002\t0\t0\t5\t5"
    )
    files["wnids.txt"] = _text("n00000001", "n00000002")
    files["words.txt"] = _text("n00000001\tcat, tabby", "n00000002\tdog")
    words = one_of(lines, lines, recoded, table("\t"))
    targets: dict[str, Mutator | None] = {
        name: words for name in files if name.endswith(".txt") and "n00000002/" not in name
    }
    return [Seed(files, targets | {"train/n00000001/images/n00000001_0.JPEG": structured("jpeg")})]


def class_folders() -> list[Seed]:
    """A folder a class, with and without splits."""
    members = _classes()
    split = {f"{part}/{name}": c for part in ("train", "test") for name, c in members.items()}
    image = structured("png")
    return [
        Seed(members, {"cat/0.png": image, "dog/1.png": image}),
        Seed(split, {"train/cat/0.png": image, "test/dog/1.png": image}),
    ]


def _classes() -> dict[str, bytes]:
    return _pictures(*(f"{name}/{k}.png" for name in ("cat", "dog") for k in range(2)))


def _archive(name: str, content: bytes, mutator: Mutator) -> list[Seed]:
    return [Seed({name: content}, {name: mutator})]


def zips() -> list[Seed]:
    """Class folders in a zip."""
    members = _classes()
    return _archive("set.zip", archives.plain_zip(members), archives.hostile_zip(members))


def tars(compression: str = "") -> list[Seed]:
    """Class folders in a tar."""
    members = _classes()
    name = f"set.tar.{compression}" if compression else "set.tar"
    content = archives.plain_tar(members, compression)
    return _archive(name, content, archives.hostile_tar(members, compression))


def parquets() -> list[Seed]:
    """A table of images and labels, one that states its columns and one that does not."""
    columns = stores.plain_columns()
    described = {b"huggingface": stores.features()}
    return [
        Seed({"train.parquet": stores.table_bytes(columns, found)}, {"train.parquet": mutator})
        for found in (None, described)
        for mutator in (stores.parquet,)
    ]
