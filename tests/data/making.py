"""Small pictures, folders and tables for the tests of this room."""

from __future__ import annotations

import io
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
