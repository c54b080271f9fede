"""The tiny data of `training/tiny.py` as files, as people have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data.making import text
from PIL import Image
from training.tiny import tiny_splits

from loss_attention.data.loading import load_splits
from loss_attention.data.sample import Splits, Storage


def store_tiny(folder: Path, images: int = 46) -> Path:
    """Write pictures, and a table of labels and boxes for each split."""
    splits = tiny_splits(images)
    for split, data in (("train", splits.trainval.decoded()), ("test", splits.test.decoded())):
        assert data.boxes is not None
        (folder / split).mkdir(parents=True)
        rows = ["image,label,x0,y0,x1,y1"]
        for i, label in enumerate(data.labels.tolist()):
            name = f"{split}/{i:03}.png"
            Image.fromarray(data.images[i, 0].numpy()).save(folder / name)
            box = ",".join(f"{number:.0f}" for number in data.boxes[i, 0].tolist())
            rows.append(f"{name},{data.class_names[label]},{box}")
        text(folder / f"{split}.csv", *rows)
    return folder


def load_stored(folder: Path, stream: Any = "yes", workers: int | None = 0, **form: Any) -> Splits:
    """Load what `store_tiny` wrote, or any other data."""
    held_out = {"validation_fraction": 0.1}
    options = {"in_channels": 1, "image_size": None, "seed": 0} | held_out | form
    return load_splits(str(folder), storage=Storage(stream, workers=workers), **options)
