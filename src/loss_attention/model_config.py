"""The arguments of a model, checked before anything is built of them.

They come from callers and from the metadata of files, so nothing is taken for granted: neither
types nor sizes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any, get_args

from loss_attention.backbones.catalog import BACKBONES
from loss_attention.data.sample import Resize
from loss_attention.errors import InputError, quoted, unknown_name
from loss_attention.heads.catalog import HEADS

LARGEST = {
    "num_classes": 1_000_000,
    "in_channels": 10_000,
    "patch_kernel": 10_000,
    "patch_stride": 10_000,
}
"""Beyond what any data has: what is larger is a slip of the keyboard or a hostile file."""
LARGEST_WIDTH = 1_000
LARGEST_SIDE = 1_000_000


def check_config(config: Mapping[str, Any]) -> None:
    """Raise `InputError` for the first argument of a model that is out of its range.

    Args:
        config: all arguments of `create_model`, by name.
    """
    _check_name("backbone", config["backbone"], BACKBONES)
    _check_name("head", config["head"], HEADS)
    _check_name("resize", config["resize"], get_args(Resize))
    _check_image_size(config["image_size"], config["head"])
    for name, most in LARGEST.items():
        _check_whole_number(name, config[name], most)
    width, threshold = config["width"], config["threshold"]
    if not (_is_number(width) and width > 0):
        raise InputError(f"width must be above 0 and finite, got {quoted(width)}")
    if width > LARGEST_WIDTH:
        raise InputError(f"width must be at most {LARGEST_WIDTH:,}, got {quoted(width)}")
    if not (_is_number(threshold) and 0 <= threshold <= 1):
        raise InputError(f"threshold must be in [0, 1], got {quoted(threshold)}")
    if not isinstance(config["multi_label"], bool):
        raise InputError(f"multi_label must be True or False, got {quoted(config['multi_label'])}")
    _check_strided_layers(config["strided_layers"], config["backbone"])
    _check_class_names(config["class_names"], config["num_classes"])


def _check_name(kind: str, name: Any, known: Sequence[str] | Mapping[str, Any]) -> None:
    if not isinstance(name, str):
        raise InputError(f"{kind} must be a name, got {quoted(name)}; known: {', '.join(known)}")
    if name not in known:
        raise unknown_name(kind, name[:100], known)


def _check_whole_number(name: str, value: Any, most: int) -> None:
    if not _is_whole(value):
        raise InputError(f"{name} must be a whole number, got {quoted(value)}")
    if value < 1:
        raise InputError(f"{name} must be at least 1, got {quoted(value)}")
    if value > most:
        raise InputError(f"{name} must be at most {most:,}, got {quoted(value)}")


def _check_image_size(size: Any, head: str) -> None:
    if size is None:
        if HEADS[head].fixed_image_size:
            raise InputError(
                f"the head {head} needs image_size=(height, width) in pixels: it has parameters "
                "for each position of a patch"
            )
        return
    if (
        not _is_list(size)
        or len(size) != 2
        or not all(_is_whole(side) and 1 <= side <= LARGEST_SIDE for side in size)
    ):
        raise InputError(f"image_size must be a height and a width in pixels, got {quoted(size)}")


def _check_strided_layers(layers: Any, backbone: str) -> None:
    places = BACKBONES[backbone].strideable
    if not _is_list(layers):
        raise InputError(f"strided_layers must be a list of layers, got {quoted(layers)}")
    for index in layers:
        if not _is_whole(index) or index not in places:
            raise InputError(
                f"strided_layers: {backbone} cannot stride in layer {quoted(index)}; "
                f"it can in {', '.join(map(str, places))}"
            )


def _check_class_names(names: Any, num_classes: int) -> None:
    if not _is_list(names) or not all(isinstance(name, str) for name in names):
        raise InputError(f"class_names must be a list of names, got {quoted(names)}")
    if names and len(names) != num_classes:
        raise InputError(f"class_names must name all {num_classes} classes, got {len(names)}")
    (name, times), *_ = Counter(names).most_common(1) or [("", 1)]
    if times > 1:
        raise InputError(f"class_names has {quoted(name)} twice; each class needs its own")


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _is_whole(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, Integral)


def _is_number(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, Real) and math.isfinite(value)
