"""A file of weights: what it claims to hold, compared with what it does before memory is taken."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from loss_attention.errors import InputError, printable, quoted, reason

FORMAT_VERSION = 1
METADATA_KEY = "loss-attention"


def read_config(path: Path) -> dict[str, Any]:
    """Return the arguments of the model that a file names in its metadata, not yet checked.

    Raises:
        InputError: a file that is truncated, damaged, from a newer version, or not ours.
    """
    name = printable(str(path))
    metadata = _opened(path).metadata() or {}
    if METADATA_KEY not in metadata:
        raise InputError(f"{name} was not saved by loss-attention: its metadata lacks the model")
    try:
        description = json.loads(metadata[METADATA_KEY])
        version, config = description["format_version"], description["config"]
        if type(version) is not int or version < 1 or not isinstance(config, dict):
            raise ValueError(f"format_version {quoted(version)}, config {quoted(config)}")
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"the metadata of {name} is damaged ({reason(error)})") from error
    if version > FORMAT_VERSION:
        raise InputError(
            f"{name} is of format {version}, this version reads up to {FORMAT_VERSION}: "
            "upgrade loss-attention"
        )
    return config


def read_weights(path: Path, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a file.

    Args:
        path: the file.
        expected: their names, shapes and types, on the meta device: the file's header is compared
            with these first.

    Raises:
        InputError: a file that is truncated or holds others, or values that are not finite.
    """
    name = printable(str(path))
    file = _opened(path)
    difference = _difference(file, expected)
    if difference is not None:
        raise InputError(f"the weights in {name} are not those of the model it names: {difference}")
    # Copies: what the file gives is its own mapped memory, which ends where it is truncated.
    tensors: dict[str, Tensor] = {
        key: file.get_tensor(key).to(tensor.dtype, copy=True) for key, tensor in expected.items()
    }
    for key, tensor in tensors.items():
        if not all(bound.isfinite() for bound in tensor.aminmax()):
            raise InputError(f"the weights in {name} are not finite: {key} holds NaN or infinity")
    return tensors


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        name = printable(str(path))
        raise InputError(f"{name} is truncated or no safetensors file ({reason(error)})") from error


def _difference(file: Any, expected: Mapping[str, Tensor]) -> str | None:
    """Say what a file's header has other than a model's weights; None: nothing."""
    names = set(file.keys())
    for name in sorted(names ^ set(expected)):
        return f"{quoted(name)} is {'too many' if name in names else 'missing'}"
    for name, tensor in expected.items():
        header = file.get_slice(name)
        shape, kind = tuple(header.get_shape()), header.get_dtype()
        if shape != tensor.shape:
            return f"{name} has the shape {quoted(shape)}, not {tuple(tensor.shape)}"
        if kind.startswith(("F", "BF")) != tensor.is_floating_point():
            return f"{name} has the type {kind}"
    return None
