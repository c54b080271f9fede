"""What a model is made of: the one description of callers, recipes, saved weights and run folders.

It comes from people and from the metadata of files, so nothing is taken for granted: neither types
nor sizes. Names of backbones and heads are looked up where they are built (`create_model`). No
torch here: the command line reads this for `--help`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Annotated, Any, Literal

import tyro

from loss_attention.errors import InputError, quoted, unknown_name

CUSTOM = "custom"
"""The backbone of a model that was built from a module and not from a name."""
KIND = "kind"
"""The field of a recipe, or of a file's metadata, that says what it is of where not of images."""
TIMM, HUGGING_FACE = "timm/", "hf/"
"""What the names of other libraries' networks begin with."""

# Beyond what any data has: what is larger is a slip of the keyboard or a hostile file.
LARGEST = {
    "in_channels": 10_000,
    "num_classes": 1_000_000,
}
LARGEST_PATCH = 10_000
LARGEST_WIDTH = 1_000
LARGEST_HIDDEN = 100_000
MOST_HIDDEN = 16
LARGEST_SIDE = 1_000_000
LARGEST_STRIDE = 1_024
LONGEST_GUIDE = 200


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """What is chosen for a model whatever its data: fields of a recipe and of a `ModelSpec` alike.

    Raises:
        InputError: a value of another type or out of its range.
    """

    backbone: str = "resnet18"
    """The network under the head: vgg11_bn, vgg16_bn, resnet18, resnet50, resnet50_paper (the
    paper's wider blocks) or googlenet; timm/NAME, a network of timm; hf/ID, a model of the Hugging
    Face hub."""
    levels: tuple[int, ...] = ()
    """Strides, in pixels, of the feature maps that are joined, such as 8 16 32; timm/ and hf/ only.
    None: the backbone's last map."""
    feature_stride: int | None = None
    """Pixels between cells of the joined map, one of levels. None: the finest of them."""
    head: str = "loss-attention"
    """How patches become a decision: loss-attention, capsule-loss-attention, mean, attention,
    gated-attention, capsule-dynamic-routing, or baseline (no patches)."""
    in_channels: int = 3
    """Channels that images are converted to: 1 (grey) or 3 (colour)."""
    width: float = 1.0
    """Factor that multiplies the channels of every layer, above 0."""
    strided_layers: tuple[int, ...] = ()
    """1-based indices of the backbone's convolutional layers that have stride 2."""
    patch_kernel: int | None = None
    """Side of a patch, in cells of the backbone's feature map. None: 9, the paper's, on its
    networks, and 1 on any other, whose maps are coarse already."""
    patch_stride: int | None = None
    """Step between patches, in cells of the backbone's feature map. None: 4, the paper's, on its
    networks, and 1 on any other."""
    hidden_channels: tuple[int, ...] | None = None
    """Features of each hidden layer of a patch, times width; the first layer has the patch's
    kernel, the others 1 x 1. None: 512 512, as in the paper; empty: the classifier stands on the
    feature map itself. For the heads mean, attention, gated-attention and loss-attention."""
    dropout: float = 0.0
    """Fraction of the features that training drops before the classifier, in [0, 1). For the same
    heads, and baseline on a network of timm/ or hf/."""
    threshold: float = 0.1
    """The paper's xi, in [0, 1]: patches whose weight is below threshold / M are dropped."""
    centre: Annotated[bool | None, tyro.conf.DisallowNone] = False
    """Take from a patch's logits their mean over the classes before they are weighed (Eq. 5) and
    shown: a softmax does not see it. The paper does not. None: do, where a softmax decides between
    several classes and the head has patch logits."""
    resize: Literal["squash", "pad"] = "squash"
    """How images of another shape than image_size come to it: stretched, or with their aspect ratio
    kept and centred on a border of their mean colour."""

    def __post_init__(self) -> None:
        for name in ("backbone", "head"):
            value = getattr(self, name)
            _require(name, isinstance(value, str), "must be a name", value)
        for name, largest in LARGEST.items():
            if name in self.__dataclass_fields__:
                _check_whole_number(name, getattr(self, name), largest)
        for name in ("patch_kernel", "patch_stride"):
            if getattr(self, name) is not None:
                _check_whole_number(name, getattr(self, name), LARGEST_PATCH)
        self._check_hidden_channels()
        inside = _is_number(self.dropout) and 0 <= self.dropout < 1
        _require("dropout", inside, "must be in [0, 1)", self.dropout)
        finite = _is_number(self.width) and self.width > 0
        _require("width", finite, "must be above 0 and finite", self.width)
        most = f"must be at most {LARGEST_WIDTH:,}"
        _require("width", self.width <= LARGEST_WIDTH, most, self.width)
        self._check_levels()
        layers = _listed(self.strided_layers)
        whole = layers is not None and all(map(_is_whole, layers))
        _require("strided_layers", whole, "must be a list of layers", self.strided_layers)
        if layers and self.backbone == CUSTOM:
            raise InputError("`strided_layers` are those of a named backbone; yours strides itself")
        if layers and self.is_foreign:
            raise InputError(
                f"`strided_layers` are those of the paper's networks; {quoted(self.backbone)} "
                "strides itself: leave them empty (`levels` chooses among its maps)"
            )
        object.__setattr__(self, "strided_layers", layers)
        inside = _is_number(self.threshold) and 0 <= self.threshold <= 1
        _require("threshold", inside, "must be in [0, 1]", self.threshold)
        if self.centre is not None:
            _check_truth("centre", self.centre)
        _require("resize", isinstance(self.resize, str), "must be a name", self.resize)
        if self.resize not in ("squash", "pad"):
            raise unknown_name("`resize`", self.resize[:100], ("squash", "pad"))

    def _check_levels(self) -> None:
        """Keep the strides of the levels in their order, the finest first."""
        levels = _listed(self.levels)
        whole = levels is not None and all(map(_is_whole, levels))
        rule = "must be strides in pixels, each once"
        _require("levels", whole and len(set(levels or ())) == len(levels or ()), rule, self.levels)
        levels = tuple(sorted(levels or ()))
        inside = all(1 <= level <= LARGEST_STRIDE for level in levels)
        _require("levels", inside, f"must be between 1 and {LARGEST_STRIDE:,}", self.levels)
        if levels and not self.is_foreign:
            raise InputError(
                f"`levels` are those of a backbone timm/NAME or hf/ID; {quoted(self.backbone)} "
                "has one map"
            )
        object.__setattr__(self, "levels", levels)
        if self.feature_stride is not None and self.feature_stride not in levels:
            listed = ", ".join(map(str, levels)) or "none are given"
            raise InputError(
                f"`feature_stride` must be one of `levels` ({listed}), "
                f"got {quoted(self.feature_stride)}"
            )

    def _check_hidden_channels(self) -> None:
        if self.hidden_channels is None:
            return
        channels = _listed(self.hidden_channels)
        whole = channels is not None and all(map(_is_whole, channels))
        _require("hidden_channels", whole, "must be numbers of features", self.hidden_channels)
        inside = all(1 <= number <= LARGEST_HIDDEN for number in channels or ())
        rule = f"must be between 1 and {LARGEST_HIDDEN:,}"
        _require("hidden_channels", inside, rule, self.hidden_channels)
        rule = f"must be at most {MOST_HIDDEN} layers"
        _require("hidden_channels", len(channels or ()) <= MOST_HIDDEN, rule, self.hidden_channels)
        object.__setattr__(self, "hidden_channels", channels)
        if not channels and self.patch_size != (1, 1):
            raise InputError(
                "without `hidden_channels` a patch is a cell of the feature map: `patch_kernel` "
                f"and `patch_stride` must be 1, got {' and '.join(map(str, self.patch_size))}"
            )

    @property
    def patch_size(self) -> tuple[int, int]:
        """Kernel and stride of the patches, in cells of the backbone's feature map."""
        kernel, stride = (1, 1) if self.is_foreign or self.backbone == CUSTOM else (9, 4)
        return self.patch_kernel or kernel, self.patch_stride or stride

    @property
    def is_foreign(self) -> bool:
        """Whether the backbone is a network of another library, by its name there."""
        return self.backbone.startswith((TIMM, HUGGING_FACE))

    def scaled(self, channels: int) -> int:
        """Return a number of channels times `width`, rounded, at least 1."""
        return max(1, round(self.width * channels))


@dataclass(frozen=True, kw_only=True)
class ModelSpec(ModelOptions):
    """Everything that a model is built from, except its weights.

    Example:
        >>> spec = ModelSpec(backbone="vgg11_bn", num_classes=2, class_names=["cat", "dog"])
        >>> ModelSpec.from_dict(spec.to_dict()) == spec
        True
    """

    num_classes: int = 10
    """K, at least 1."""
    class_names: tuple[str, ...] = ()
    """A name for each class, to show to people; none: "0", "1", ..."""
    image_size: tuple[int, int] | None = None
    """Height and width, in pixels, of the images that the model is meant for. Dynamic routing has
    parameters for each patch position: it needs a size and takes no other."""
    multi_label: bool = False
    """An image may have several classes; probabilities are sigmoids."""
    one_vs_rest: bool = False
    """An image has one class, and each class is decided by itself, against all others: the
    probability of a class is its sigmoid, and those of an image need not sum to 1."""
    backbone_config: str = ""
    """What a backbone hf/ID is built from, as JSON: its configuration and normalisation; "": those
    that the hub has, which `create_model` then puts here."""
    guided_by: str = ""
    """What its training was guided by beside labels, "90 boxes" for example, which every table of
    its scores says; "": labels alone."""

    def __post_init__(self) -> None:
        super().__post_init__()
        names = _listed(self.class_names)
        if names is None or not all(isinstance(name, str) for name in names):
            raise InputError(
                f"`class_names` must be a list of names, got {quoted(self.class_names)}"
            )
        if names and len(names) != self.num_classes:
            raise InputError(
                f"`class_names` must name all {self.num_classes} classes, got {len(names)}"
            )
        (name, times), *_ = Counter(names).most_common(1) or [("", 1)]
        if times > 1:
            raise InputError(f"`class_names` has {quoted(name)} twice; each class needs its own")
        object.__setattr__(self, "class_names", names)
        if self.image_size is not None:
            sides = _listed(self.image_size) or ()
            pair = len(sides) == 2 and all(map(_is_whole, sides))
            inside = pair and all(1 <= side <= LARGEST_SIDE for side in sides)
            rule = "must be a height and a width in pixels"
            _require("image_size", inside, rule, self.image_size)
            object.__setattr__(self, "image_size", sides)
        _check_truth("multi_label", self.multi_label)
        _check_truth("one_vs_rest", self.one_vs_rest)
        if self.one_vs_rest and self.multi_label:
            raise InputError(
                "`one_vs_rest` is for one label an image; with `multi_label` each class is decided "
                "by itself already"
            )
        text = isinstance(self.backbone_config, str)
        _require("backbone_config", text, "must be JSON", self.backbone_config)
        text = isinstance(self.guided_by, str) and len(self.guided_by) <= LONGEST_GUIDE
        rule = f"must be text of at most {LONGEST_GUIDE} characters"
        _require("guided_by", text, rule, self.guided_by)
        if self.backbone_config and not self.backbone.startswith(HUGGING_FACE):
            raise InputError(f"`backbone_config` is that of a backbone {HUGGING_FACE}ID")

    @property
    def competing(self) -> bool:
        """Whether a softmax decides: what speaks for one class then speaks against all others."""
        return not (self.multi_label or self.one_vs_rest)

    def to_dict(self) -> dict[str, Any]:
        """Return its fields as JSON can hold them: what saved weights say of their model."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelSpec:
        """Return what `to_dict` was called on; fields that are not given have their default.

        Raises:
            InputError: a field that is unknown here, or a value out of its range.
        """
        for name in values:
            if name not in cls.__dataclass_fields__:
                raise InputError(f"it has the argument {quoted(name)}")
        return cls(**values)


def _require(name: str, holds: bool, rule: str, value: Any) -> None:
    if not holds:
        raise InputError(f"`{name}` {rule}, got {quoted(value)}")


def _check_whole_number(name: str, value: Any, largest: int) -> None:
    _require(name, _is_whole(value), "must be a whole number", value)
    _require(name, value >= 1, "must be at least 1", value)
    _require(name, value <= largest, f"must be at most {largest:,}", value)


def _check_truth(name: str, value: Any) -> None:
    _require(name, isinstance(value, bool), "must be True or False", value)


def _listed(value: Any) -> tuple[Any, ...] | None:
    """Return the parts of what holds several, however it does; None: it does not."""
    alone = isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable)
    return None if alone else tuple(value)


def _is_whole(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, Integral)


def _is_number(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    return isinstance(value, Integral) or (isinstance(value, Real) and math.isfinite(value))
