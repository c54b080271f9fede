"""The forms that explanations are written in, by name; light, as the command's options are."""

from __future__ import annotations

from typing import Literal

ElsewhereFormat = Literal["coco", "label-studio", "fiftyone", "qupath"]
ExplainedFormat = Literal["json", "parquet", "coco", "label-studio", "fiftyone", "qupath"]

ImageFormat = Literal["png", "jpeg", "webp"]
SUFFIXES: dict[ImageFormat, str] = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}

Engine = Literal["local", "ray"]
"""What hands a table's images out: one process, or Ray to the machines of a cluster."""
