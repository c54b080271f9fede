"""Whether a file holds a classifier of bags: asked before torch is there."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import safe_open

from loss_attention.bags.recipe import BAGS
from loss_attention.model_spec import KIND
from loss_attention.saving import METADATA_KEY, WEIGHTS_FILE


def is_bag_model(path: Path) -> bool:
    """Return whether a `.safetensors` file, or that of a run's folder, is of bags.

    One that cannot be read is not known to be: whoever loads it says what is wrong with it.
    """
    file = path / WEIGHTS_FILE if path.is_dir() else path
    if file.suffix.lower() != ".safetensors" or not file.is_file():
        return False
    try:
        with safe_open(file, framework="numpy") as opened:
            described = json.loads((opened.metadata() or {})[METADATA_KEY])
        return bool(described["config"].get(KIND) == BAGS)
    except Exception:  # whatever broken content leads the reader into
        return False


def is_exported_bags(path: Path) -> bool:
    """Return whether an `.onnx` file holds a classifier of bags; see `is_bag_model`."""
    if path.suffix.lower() != ".onnx" or not path.is_file():
        return False
    from loss_attention.exporting.reading import onnx_session  # which loads numpy

    try:
        entries = onnx_session(path, optimised=False)[1]
        return bool(json.loads(entries[METADATA_KEY]).get(KIND) == BAGS)
    except Exception:  # likewise, or onnxruntime is not installed
        return False
