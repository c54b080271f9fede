"""Small pictures, folders and tables for the tests of this room."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image


def png(value: int = 100, size: tuple[int, int] = (4, 4), mode: str = "L") -> bytes:
    """Return a picture of one level, `size` being (width, height)."""
    file = io.BytesIO()
    Image.new(mode, size, value if mode == "L" else (value,) * len(mode)).save(file, "png")
    return file.getvalue()


def write(path: Path, content: bytes) -> Path:
    """Write a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def image_folder(root: Path, files: Mapping[str, int], size: tuple[int, int] = (4, 4)) -> Path:
    """Write a picture of the given level for each relative path."""
    for name, value in files.items():
        write(root / name, png(value, size))
    return root


def parquet(
    path: Path,
    columns: Mapping[str, Sequence[Any]],
    features: Mapping[str, Any] | None = None,
) -> Path:
    """Write a table; with `features`, the way that `datasets` does, types and all."""
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    schema = None if features is None else datasets.Features(features).arrow_schema
    pq.write_table(pa.table(dict(columns), schema=schema), path)
    return path


def stored(*values: int) -> list[dict[str, Any]]:
    """Return pictures of these levels as `datasets` stores them."""
    return [{"bytes": png(value), "path": None} for value in values]


def text(path: Path, *lines: str) -> Path:
    """Write lines of text."""
    return write(path, "".join(f"{line}\n" for line in lines).encode())


def tiny_imagenet(root: Path, classes: Sequence[str] = ("n00000001", "n00000002")) -> Path:
    """Write two training and one validation image a class in Tiny ImageNet's layout."""
    listed = []
    for k, wnid in enumerate(classes):
        for i in range(2):
            name = f"{wnid}_{i}.JPEG"
            write(root / "train" / wnid / "images" / name, png(10 * k + i, (8, 6), "RGB"))
        boxes = [f"{wnid}_{i}.JPEG\t0\t1\t3\t{4 + i}" for i in range(2)]
        text(root / "train" / wnid / f"{wnid}_boxes.txt", *boxes)
        write(root / "val" / "images" / f"val_{k}.JPEG", png(100 + k, (8, 6), "RGB"))
        listed.append(f"val_{k}.JPEG\t{wnid}\t2\t0\t7\t5")
    text(root / "val" / "val_annotations.txt", *listed)
    text(root / "words.txt", *(f"{wnid}\tword{k}, more" for k, wnid in enumerate(classes)))
    return root


def coco_json(
    path: Path,
    images: Mapping[int, tuple[str, int, int]],
    objects: Sequence[tuple[int, int, Sequence[float]]],
    segments: Sequence[Any] = (),
) -> Path:
    """Write a COCO JSON of cats (category 3) and dogs (7).

    `images` are number: (file, width, height), `objects` (image, category, bbox).
    """
    content = {
        "images": [
            {"id": number, "file_name": file, "width": width, "height": height}
            for number, (file, width, height) in images.items()
        ],
        "annotations": [
            {"id": 100 + i, "image_id": image, "category_id": category, "bbox": list(bbox)}
            | ({"segmentation": segments[i]} if segments else {})
            for i, (image, category, bbox) in enumerate(objects)
        ],
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
    }
    return write(path, json.dumps(content).encode())
