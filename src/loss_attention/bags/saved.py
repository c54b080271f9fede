"""Classifiers of bags as files: safetensors whose metadata says how to build the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as serialise

from loss_attention.bags.model import BagClassifier
from loss_attention.bags.recipe import BAGS
from loss_attention.errors import InputError, guarded, printable
from loss_attention.model import read_config, read_weights
from loss_attention.model_spec import KIND
from loss_attention.saving import METADATA_KEY, WEIGHTS_FILE, check_file

FORMAT_VERSION = 1


def as_bytes(model: BagClassifier) -> bytes:
    """Return the weights as a safetensors file whose metadata says how to build the model."""
    tensors = {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}
    config = {KIND: BAGS} | model.settings
    description = {"format_version": FORMAT_VERSION, "config": config}
    return serialise(tensors, {METADATA_KEY: json.dumps(description)})


def load_bag_model(source: str | Path) -> BagClassifier:
    """Load a trained classifier of bags, in evaluation mode, on the CPU.

    Args:
        source: a run's folder or its `.safetensors` file.

    Raises:
        InputError: nothing there, a file that is truncated, from a newer version, not ours or of
            images, or one whose weights are not those of the model it names, or not finite.
    """
    with guarded(printable(str(source))):
        path = Path(source)
        if path.is_dir():
            run, path = path, path / WEIGHTS_FILE
            if not path.is_file():
                raise InputError(f"{run} holds no {WEIGHTS_FILE}; is it a run folder?")
            if (run / "recipe.yaml").is_file():
                check_file(path)
        if not path.is_file():
            raise InputError(f"no model at {path}: there is no such file or folder")
        config = read_config(path)
        name = printable(str(path))
        if config.pop(KIND, None) != BAGS:
            raise InputError(f"{name} holds a classifier of images, not of bags")
        try:
            with torch.device("meta"):
                outline = BagClassifier(**_checked(config))
        except (InputError, TypeError) as error:
            raise InputError(f"{name} names a model unknown to this version: {error}") from error
        outline.load_state_dict(read_weights(path, outline.state_dict()), assign=True)
        return outline.eval()


def _checked(config: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a model as its types are, from what JSON made of them."""
    whole = {"in_features": int, "num_classes": int, "pooling": str, "multi_label": bool}
    for name, kind in whole.items():
        if type(config.get(name)) is not kind:
            raise InputError(f"{name} is {config.get(name)!r}")
    lists = {"hidden": int, "class_names": str}
    for name, kind in lists.items():
        values = config.get(name)
        if not isinstance(values, list) or any(type(value) is not kind for value in values):
            raise InputError(f"{name} is {values!r}")
        config[name] = tuple(values)
    if len(config["class_names"]) != config["num_classes"]:
        raise InputError("it has another number of classes than names of them")
    return config
