"""The typed configuration of a run, checked as it is made and as it is read from a file.

No torch: `--help` is made of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from math import inf
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import tyro
import yaml

from loss_attention.errors import InputError, printable, quoted, reason, unknown_name
from loss_attention.model_spec import KIND, ModelOptions, ModelSpec

Accelerator = Literal["auto", "cpu", "cuda", "mps", "xpu"]
"""What to compute on: a CPU, Nvidia's or AMD's GPUs (cuda), Apple's (mps), Intel's (xpu); auto: a
GPU if there is one."""

LoggerName = Literal["tensorboard", "csv", "wandb", "mlflow", "trackio", "none"]
"""Where the curves of a training go; none: nowhere."""

CheckpointForm = Literal["plain", "sharded", "async"]
"""Who writes a checkpoint, and when: the first process, all of them, or all in the background."""


@dataclass(frozen=True)
class Recipe(ModelOptions):
    """Everything that decides what a training run computes."""

    name: str
    """The recipe's name; the run folder is runs/NAME unless --out says otherwise."""
    data: str
    """A known name (digits, cifar10, coco2014, ...), NAME:PATH, a Hugging Face dataset id, or a
    local folder, archive or table of images; docs/data.md lists them."""
    image_size: int | tuple[int, int] | None = None
    """Resize every image to this height and width in pixels; one number: square. None: all must
    have the same size already."""
    classes: tuple[str, ...] = ()
    """Names of the classes to use, or the number of classes to draw by the seed; none: all."""
    pretrained: bool = False
    """Begin with the backbone's weights from the Hugging Face hub; backbones timm/ and hf/ only."""
    weights: str | None = None
    """Begin with the backbone's weights in this file and not those of the hub: safetensors, or
    tensors that torch.save wrote; backbones timm/ and hf/ only."""
    revision: str | None = None
    """With pretrained: branch, tag or commit of the hub's repository. None: its main branch."""
    masks: bool = False
    """Also measure against the masks of objects; the data must have them."""
    skip_broken: bool = False
    """Continue without the images that have an error, and say how many."""
    limit_images: int | None = None
    """Use at most this many training and this many test images, for a quick try. None: all."""
    crop_padding: int = 4
    """Shift each training image by up to this many pixels in each direction."""
    horizontal_flip: bool = True
    """Mirror each training image with probability 1/2."""
    alternate_flips: bool = False
    """Mirror each training image in every second epoch instead, starting at random: in few epochs,
    each image is seen equally often from both sides."""
    cutout: int = 0
    """Erase a square of this side, in pixels, from each training image; 0: none."""
    vertical_flip: bool = False
    """Turn each training image upside down with probability 1/2, for photos without an up side."""
    quarter_turns: bool = False
    """Turn each training image by 0, 90, 180 or 270 degrees; for square photos without an up
    side."""
    random_resized_crop: tuple[float, float] | None = None
    """Enlarge a random part of each training image to the whole size; its area is a fraction of the
    image's between these two, such as 0.25 1. Needs torchvision. None: no part alone."""
    colour_jitter: float = 0.0
    """Change brightness, contrast and saturation of each training image by up to this fraction, in
    [0, 1]. Needs torchvision."""
    rand_augment: int = 0
    """Change each training image twice in a way drawn from 14 (RandAugment), with this magnitude in
    0..30, such as 9; 0: never. Needs torchvision."""
    mixup: float = 0.0
    """Mix training images of a step in pairs, and their labels: by how much is drawn from
    Beta(mixup, mixup), 0.2 for instance; 0: never."""
    validation_fraction: float = 0.1
    """Fraction of the training set held out to choose the best epoch, in [0, 1); 0: the last."""
    gamma_max: float = 0.1
    """Final weight of the patch regulariser, at least 0; loss-attention only, see regularise."""
    gamma_epochs: float = 0.4
    """Fraction of the epochs over which the patch regulariser ramps up, in [0, 1]."""
    regularise: bool | None = None
    """Use the patch regulariser. None: as in the paper, with loss-attention only. A head without
    patch logits (baseline, capsule-dynamic-routing) cannot use it."""
    objective: Literal["auto", "one-vs-rest"] = "auto"
    """What is minimised. auto: cross-entropy as in the paper, with dynamic routing the margin loss.
    one-vs-rest: each class is decided by itself against all others, a sigmoid each, which gives
    evidence an absolute zero; for one label an image."""
    label_smoothing: float = 0.0
    """Fraction of an image's target spread over all classes, in [0, 1); the paper has none."""
    epochs: int = 200
    """Passes over the training set; 0 where `steps` says how long."""
    batch_size: int = 128
    """Images in a step, over all processes together."""
    learning_rate: float = 0.1
    """The schedule's highest learning rate, above 0."""
    frozen: bool = False
    """Train the head alone. What the backbone makes of the images is computed once and kept in
    files, which all runs with the same data and backbone share."""
    views: int = 1
    """With frozen: of each training image, the image as it is and so many less one that are
    changed as the recipe's augmentation says."""
    optimizer: Literal["sgd", "adam", "adamw", "muon"] = "sgd"
    """The paper trains mean pooling and dynamic routing with Adam, all else with SGD. adamw: for
    pretrained networks. muon: for short runs; orthogonalised steps for convolutions followed by
    batch norm, SGD for the rest."""
    momentum: float = 0.9
    """Momentum of SGD, or Adam's beta1, in [0, 1)."""
    nesterov: bool = False
    """Use Nesterov momentum; the paper uses the plain form."""
    weight_decay: float = 5e-4
    """L2 penalty on every weight, at least 0. Of adamw: fraction, times the learning rate, that a
    step takes from each matrix; biases, norms, tokens and position tables are left out."""
    backbone_rate: float = 1.0
    """Factor of the backbone's learning rate, in (0, 1]; fine-tuning takes a small one, as 0.1."""
    layer_decay: float = 1.0
    """Factor, in (0, 1], that multiplies the learning rate of the backbone's last block once, of
    the one before it twice, and so on to the first; 1: all learn alike."""
    clip_gradients: float = 0.0
    """Shorten a step's gradient, over all weights, to this norm where it is longer; 0: never."""
    frozen_statistics: bool = False
    """Keep the running statistics of the backbone's batch norm, and normalise by them in training
    too; its weights are trained all the same."""
    initial: Annotated[str | None, tyro.conf.arg(name="from")] = None
    """The folder of a finished run to take the initial weights from, head and backbone, instead of
    pretrained ones: a run of the same network and classes, with a frozen backbone for instance."""
    balance: Literal["none", "weights", "sampling"] = "none"
    """Where classes are uneven. weights: an image counts the more in the loss, the rarer its class
    is; sampling: an epoch shows each class equally often."""
    choose_by: Literal["auto", "accuracy", "balanced-accuracy"] = "auto"
    """Which score of the validation images the best epoch has; of equal ones, the lower loss.
    balanced-accuracy: the mean of the accuracies of each class. auto: that where the largest class
    has more than twice the images of the smallest, else accuracy."""
    group: str | None = None
    """Which images belong together, so that all or none of them are held out: a column of the table
    that lists them, or a pattern with one group that is found in their paths, as num_([0-9]+)."""
    steps: int | None = None
    """Length of the training in place of epochs, which is then 0: so many steps, rounded up to
    whole epochs when the run begins."""
    guide: float = 0.0
    """Weight, at least 0, of the guidance by boxes and masks: where training images have some, the
    map of their class is drawn to them. Heads with exact evidence only. 0: labels alone."""
    guide_fraction: float = 1.0
    """With guide: the fraction, in (0, 1], of the training images with boxes or masks that may
    guide, drawn by the seed; at least one of each class that has some."""
    average_weights: float = 0.0
    """Validate and keep an exponential moving average of the weights with this decay per step, in
    [0, 1), such as 0.99; 0: the weights themselves, as in the paper."""
    schedule: Literal["steps", "one-cycle", "paper-adam"] = "steps"
    """steps: divided by ten at 1/2 and at 3/4 of the epochs (the paper's, for SGD); paper-adam: up
    over 2/5, then constant, divided by ten at 3/5 and at 4/5; one-cycle: for short runs, up over
    the warm-up and down to 0 along a cosine, step by step."""
    warmup: float = 0.25
    """Fraction of a one-cycle schedule that is warm-up, in [0, 1)."""
    seed: int = 0
    """Decides the initial weights, the order and augmentation of images, and generated data."""
    precision: Literal["auto", "32", "bf16"] = "auto"
    """auto: bf16 (mixed precision) if the hardware has fast bf16, else 32."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("learning_rate", "batch_size", "views"):
            self._require(name, getattr(self, name) > 0, "must be above 0")
        self._check_length()
        for name in ("learning_rate", "gamma_max", "weight_decay", "clip_gradients"):
            self._require(name, getattr(self, name) < inf, "must be finite")
        at_least_0 = (
            "crop_padding",
            "cutout",
            "gamma_max",
            "weight_decay",
            "clip_gradients",
            "seed",
        )
        for name in at_least_0:
            self._require(name, getattr(self, name) >= 0, "must be at least 0")
        self._require("seed", self.seed < 2**63, "must be below 2**63")
        self._require("gamma_epochs", 0 <= self.gamma_epochs <= 1, "must be in [0, 1]")
        fractions = (
            "validation_fraction",
            "momentum",
            "warmup",
            "label_smoothing",
            "average_weights",
        )
        for name in fractions:
            self._require(name, 0 <= getattr(self, name) < 1, "must be in [0, 1)")
        self._require("in_channels", self.in_channels in (1, 3), "must be 1 or 3")
        flipped = self.horizontal_flip or not self.alternate_flips
        self._require("alternate_flips", flipped, "needs `horizontal_flip`")
        padded = self.resize == "pad"
        self._require("resize", not padded or self.image_size is not None, "needs `image_size`")
        limit = self.limit_images
        self._require("limit_images", limit is None or limit > 0, "must be above 0")
        self._check_images()
        self._require(
            "nesterov", not self.nesterov or self.momentum > 0, "needs a momentum above 0"
        )
        adam = self.optimizer in ("adam", "adamw")
        of_adam = f"does not belong to {self.optimizer}"
        self._require("nesterov", not (self.nesterov and adam), of_adam)
        self._require("views", self.frozen or self.views == 1, "above 1 needs `frozen`")
        papers = self.optimizer == "adam" or self.schedule != "paper-adam"
        self._require("schedule", papers, "needs `optimizer` adam")
        self._check_fine_tuning()
        self._check_guidance()

    def _check_guidance(self) -> None:
        self._require("guide", 0 <= self.guide < inf, "must be at least 0 and finite")
        self._require("guide_fraction", 0 < self.guide_fraction <= 1, "must be in (0, 1]")
        alone = self.guide > 0 or self.guide_fraction == 1
        self._require("guide_fraction", alone, "needs `guide` above 0")
        for name, why in (
            ("mixup", "two images lie over each other"),
            ("rand_augment", "boxes and masks cannot follow it"),
        ):
            free = self.guide == 0 or not getattr(self, name)
            self._require(name, free, f"does not go with `guide`: {why}")

    def _check_length(self) -> None:
        if self.steps is None:
            self._require("epochs", self.epochs > 0, "must be above 0")
            return
        self._require("steps", self.steps > 0, "must be above 0")
        if self.epochs:
            raise InputError(
                f"`steps` {self.steps} and `epochs` {self.epochs} both say how long to train: give "
                "one of them; with `steps`, `epochs` is 0"
            )

    def _check_fine_tuning(self) -> None:
        for name in ("backbone_rate", "layer_decay"):
            rule = "must be in (0, 1] (`frozen` leaves the backbone as it is)"
            self._require(name, 0 < getattr(self, name) <= 1, rule)
        for name, usual in (("backbone_rate", 1), ("layer_decay", 1), ("frozen_statistics", False)):
            unused = getattr(self, name) == usual
            rule = "is for a backbone that is trained, and `frozen` leaves it as it is"
            self._require(name, unused or not self.frozen, rule)
            # Muon changes the length of filters, which a batch's statistics alone take away.
            alone = unused or self.optimizer != "muon"
            self._require(name, alone, "does not belong to muon; take adamw or sgd")
        self._require("initial", self.initial != "", "must name the folder of a run")
        for name in ("weights", "revision"):
            given = getattr(self, name) is not None and self.initial is not None
            self._require(name, not given, "does not belong to `initial`, which brings its own")

    def _check_images(self) -> None:
        size, part = self.image_size, self.random_resized_crop
        sides = (size, size) if isinstance(size, int) else size or ()
        inside = len(sides) == 2 and all(1 <= side <= LARGEST_IMAGE for side in sides)
        rule = f"must be one side of 1 to {LARGEST_IMAGE:,} pixels, or a height and a width"
        self._require("image_size", size is None or inside, rule)
        square = not self.quarter_turns or len(set(sides)) < 2
        self._require("quarter_turns", square, f"needs square images, not {sides}")
        parts = part is None or (len(part) == 2 and 0 < part[0] <= part[1] <= 1)
        rule = "must be two fractions of the area in (0, 1], the smaller one first"
        self._require("random_resized_crop", parts, rule)
        self._require("colour_jitter", 0 <= self.colour_jitter <= 1, "must be in [0, 1]")
        self._require("rand_augment", 0 <= self.rand_augment <= 30, "must be from 0 to 30")
        mixes = self.mixup == 0 or 0.01 <= self.mixup <= 100
        self._require("mixup", mixes, "must be 0, or from 0.01 to 100")
        alone = not (self.mixup and self.frozen)
        self._require("mixup", alone, "mixes images, and `frozen` trains on features of them")

    def _require(self, name: str, holds: bool, rule: str) -> None:
        if not holds:
            raise InputError(f"`{name}` {rule}, got {getattr(self, name)}")

    def model_spec(self, **of_data: Any) -> ModelSpec:
        """Return the model to train; `of_data` are the fields that the data decides."""
        chosen = {field.name: getattr(self, field.name) for field in fields(ModelOptions)}
        return ModelSpec(**chosen | of_data)

    def to_yaml(self) -> str:
        """Return the recipe as YAML, name and data first."""
        return settings_text({"name": self.name, "data": self.data} | asdict(self))

    @classmethod
    def from_yaml(cls, path: Path) -> Recipe:
        """Read what `to_yaml` wrote.

        Raises:
            InputError: the file is missing, is not a YAML mapping, or has fields unknown here.
        """
        values = settings_in(path)
        if KIND in values:
            raise InputError(
                f"{path} is of a run on {printable(str(values[KIND])[:60])}, not on images"
            )
        if not {"name", "data"} <= set(values):
            raise InputError(f"{path}: no recipe in it")
        return from_file(cls, values, path)


@dataclass(frozen=True)
class RunOptions:
    """Where and on what a recipe runs; nothing here changes the results, except by rounding.

    The one exception is the effect of `accumulate` on batch norm.
    """

    devices: int = 1
    """Number of processes on each machine, each on a GPU of its own, or together on the CPU."""
    num_nodes: int = 1
    """Number of machines; more than one need torchrun or srun, see docs/scaling.md."""
    accelerator: Accelerator = "auto"
    """auto: a GPU if there is one."""
    checkpoint_every_steps: int = 0
    """Also save a checkpoint each time this many steps are done, not only after each epoch."""
    checkpoint: CheckpointForm = "plain"
    """plain: the first process writes all of it into one file. sharded: each process writes its
    share of the weights and of the optimiser's state. async: likewise, while the training goes on,
    for which each keeps a copy of its share. The last two are for large networks."""
    checkpoint_activations: bool = False
    """Use less memory and up to a third more time: the backward pass computes most of the network's
    activations again instead of keeping them."""
    accumulate: int = 1
    """Split each step into this many parts, one after the other, to use less memory. The gradient
    is that of the whole step, but batch norm sees the images of one part at a time."""
    features: str | None = None
    """With a frozen backbone: the folder of its features, for all runs that share them. None:
    "features" beside the run's folder."""
    stream: Literal["auto", "yes", "no"] = "auto"
    """Decode images from disk when they are needed instead of keeping them all in memory; auto: if
    they would take too much memory."""
    workers: int | None = None
    """Number of processes that decode streamed images ahead. None: as many as suit the machine."""
    loggers: tuple[LoggerName, ...] = ("tensorboard",)
    """Where the curves go: tensorboard and csv, in the run's folder, and the trackers wandb, mlflow
    and trackio, if their libraries are installed. none: nowhere."""

    @property
    def processes(self) -> int:
        """The number of processes of the run, on all machines together."""
        return self.devices * self.num_nodes

    def __post_init__(self) -> None:
        if self.num_nodes < 1:
            raise InputError(f"`num_nodes` must be at least 1, got {self.num_nodes}")
        if self.workers is not None and self.workers < 0:
            raise InputError(f"`workers` must be at least 0, got {self.workers}")
        if self.accumulate < 1:
            raise InputError(f"`accumulate` must be at least 1, got {self.accumulate}")
        if self.checkpoint_every_steps < 0:
            raise InputError(
                f"`checkpoint_every_steps` must be at least 0, got {self.checkpoint_every_steps}"
            )
        if self.checkpoint not in get_args(CheckpointForm):
            raise unknown_name("checkpoint", self.checkpoint, get_args(CheckpointForm))
        for name in self.loggers:
            if name not in get_args(LoggerName):
                raise unknown_name("logger", name, get_args(LoggerName))
        if "none" in self.loggers:
            if len(self.loggers) > 1:
                raise InputError(f"`loggers` none does not go with others, got {self.loggers}")
            object.__setattr__(self, "loggers", ())


LARGEST_IMAGE = 10_000
"""Pixels of a side that images are brought to."""
LARGEST_RECIPE = 2**24
"""Bytes; names of classes take the most, and no recipe takes nearly so many."""


class _RecipeLoader(yaml.SafeLoader):
    """Refuses aliases: no recipe has them, and a few lines of them can stand for billions."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.constructor.ConstructorError(problem="it has aliases, as no recipe does")
        return super().compose_node(parent, index)


Settings = TypeVar("Settings")


def settings_in(path: Path) -> dict[str, Any]:
    """Return the fields of a recipe's file, none of them looked at yet.

    Raises:
        InputError: the file is missing, or is not a YAML mapping.
    """
    try:
        if path.stat().st_size > LARGEST_RECIPE:
            raise InputError(f"it is larger than {LARGEST_RECIPE:,} bytes")
        values: Any = yaml.load(path.read_text(encoding="utf-8"), _RecipeLoader)
    except Exception as error:  # whatever broken YAML leads to
        raise InputError(f"cannot read the recipe {path}: {reason(error)}") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: no recipe in it")
    return values


def settings_text(values: Mapping[str, Any]) -> str:
    """Return the fields of a recipe as the YAML that `settings_in` reads."""
    plain = {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)


def from_file(kind: type[Settings], values: Any, path: Path) -> Settings:
    """Return settings as a file has them; lists become tuples.

    Args:
        kind: what they are.
        values: by field; the others have their default.
        path: the file, for errors.

    Raises:
        InputError: no mapping, fields unknown here, or a value that its field cannot have.
    """
    kinds = get_type_hints(kind)
    if not isinstance(values, dict):
        raise InputError(f"{path}: {quoted(values)} where its settings should be")
    extra = sorted(str(name) for name in set(values) - set(kinds))
    if extra:
        raise InputError(f"{path}: unknown fields {printable(', '.join(extra)[:200])}")
    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
    }
    for name, value in given.items():
        if not _fits(value, kinds[name]):
            raise InputError(f"{path}: {name} cannot be {quoted(values[name])}")
    try:
        return kind(**given)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value of a file is of the kind that a field is annotated with."""
    parts = get_args(kind)
    if isinstance(value, int | float) and not abs(value) < (2**63 if type(value) is int else inf):
        return False  # no machine's number
    if get_origin(kind) is Literal:
        return value in parts
    if get_origin(kind) is UnionType:
        return any(_fits(value, part) for part in parts)
    if get_origin(kind) is tuple:
        if not isinstance(value, tuple):
            return False
        if parts[-1] is ...:
            return all(_fits(one, parts[0]) for one in value)
        return len(value) == len(parts) and all(map(_fits, value, parts))
    return type(value) is kind or (kind is float and type(value) is int)
