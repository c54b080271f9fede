"""Which training stands behind each number of the paper's tables, at the paper's size or smaller.

A `Cell` is a number of the paper with the recipe of the training that measures it; a `Scale` makes
of the paper's recipes what there is time for; the tables are rows of such cells.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from loss_attention.errors import InputError, unknown_name
from loss_attention.paper.numbers import (
    PAPER_TABLES,
    RESNET,
    TABLE_2,
    VGG,
    PaperRow,
    PaperTable,
)
from loss_attention.training.recipe import Recipe
from loss_attention.training.recipes import STRIDED_AT_64, paper_recipe, with_adam

PARAMETERS = "parameters"
"""The measure that needs no training: millions of parameters at the paper's size."""
EPOCH_SECONDS = "epoch_seconds"
"""The measure that the training itself takes: mean seconds of an epoch, without validation."""
NO_TRACE: dict[str, object] = {
    "image_size": None,
    "resize": "squash",
    "classes": (),
    "masks": False,
    "skip_broken": False,
    "in_channels": 3,
    "limit_images": None,
    "crop_padding": 4,
    "horizontal_flip": True,
    "alternate_flips": False,
    "cutout": 0,
    "vertical_flip": False,
    "quarter_turns": False,
    "random_resized_crop": None,
    "colour_jitter": 0.0,
    "rand_augment": 0,
    "mixup": 0.0,
    "validation_fraction": 0.1,
    "backbone": None,
    "head": None,
    "width": 1.0,
    "strided_layers": (),
    "patch_kernel": 9,
    "patch_stride": 4,
    "levels": (),
    "feature_stride": None,
    "hidden_channels": None,
    "dropout": 0.0,
    "threshold": 0.1,
    "gamma_max": 0.1,
    "gamma_epochs": 0.4,
    "regularise": None,
    "label_smoothing": 0.0,
    "epochs": 200,
    "batch_size": 128,
    "learning_rate": 0.1,
    "optimizer": "sgd",
    "momentum": 0.9,
    "nesterov": False,
    "weight_decay": 0.0005,
    "pretrained": False,
    "weights": None,
    "revision": None,
    "frozen": False,
    "balance": "none",
    "choose_by": "auto",
    "group": None,
    "steps": None,
    "views": 1,
    "backbone_rate": 1.0,
    "layer_decay": 1.0,
    "clip_gradients": 0.0,
    "frozen_statistics": False,
    "initial": None,
    "guide": 0.0,
    "guide_fraction": 1.0,
    "average_weights": 0.0,
    "schedule": "steps",
    "warmup": 0.25,
    "precision": "auto",
    "centre": False,
    "objective": "auto",
}
"""By field of a recipe, the value that leaves no trace in the key of a training.

Frozen: these are the defaults of version 0.1, and stay so when a default changes. A new field has
here what earlier versions did without it. Every backbone and head leaves a trace.
"""


@dataclass(frozen=True)
class Cell:
    """One number of the paper, and how we measure it.

    Attributes:
        labels: what its row is called, from the outermost group to the method.
        column: what its column is called.
        paper: the paper's number; None where it prints none.
        measure: the name of a measure of `evaluation.evaluate`, `PARAMETERS` or `EPOCH_SECONDS`.
        recipe: what to train, at the scale in question, any seed; None for a network of others,
            which the paper cites and we do not build.
        factor: from our unit to the paper's, 100 for a percentage.
        weights: the trained weights are needed, not the number alone.
    """

    labels: tuple[str, ...]
    column: str
    paper: float | None
    metric: str
    recipe: Recipe | None
    factor: float = 100.0
    weights: bool = False

    @property
    def path(self) -> str:
        """Return labels and column in a line, which patterns are held against."""
        return "/".join((*self.labels, self.column))

    @property
    def trained(self) -> bool:
        """Whether measuring it takes a training."""
        return self.recipe is not None and self.metric != PARAMETERS


def training_key(recipe: Recipe) -> str:
    """Return what identifies a training: a readable name and a hash of what decides its scores.

    Recipes that differ in name and seed alone are the same training, which tables have in common.
    What `NO_TRACE` names leaves none, so that neither a new field nor a new default changes a key.
    The data counts by its name and not by where it lies.

    Example:
        >>> training_key(Recipe("x", "digits", head="mean", seed=3))
        'digits-resnet18-mean-bd089bd8'
    """
    kernel, stride = recipe.patch_size
    values = asdict(recipe) | {"patch_kernel": kernel, "patch_stride": stride}
    decisive = {name: values[name] for name, none in NO_TRACE.items() if values[name] != none}
    decisive["data"] = recipe.data
    digest = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:8]
    return f"{recipe.data}-{recipe.backbone}-{recipe.head}-{digest}".replace("/", "_")


def matching(cells: Sequence[Cell], pattern: str | None) -> list[Cell]:
    """Return the cells whose path has every word of a pattern in it, in any case and order.

    A word that ends in a digit ends there: CIFAR-10 does not mean CIFAR-100.

    Args:
        cells: all cells of the targets in question.
        pattern: words, divided by spaces; None: every cell.

    Raises:
        InputError: the pattern matches no cell.
    """
    words = [
        re.compile(re.escape(word) + (r"(?!\d)" if word[-1].isdigit() else ""), re.IGNORECASE)
        for word in (pattern or "").split()
    ]
    found = [cell for cell in cells if all(word.search(cell.path) for word in words)]
    if pattern is not None and not found:
        raise InputError(
            f"`only` {pattern!r} matches none of {len(cells)} cells, {cells[0].path!r} for example"
        )
    return found


SHORT_EPOCHS = 30
MULTI_LABEL = ("coco2014",)


@dataclass(frozen=True)
class Scale:
    """A size to reproduce the paper at.

    Attributes:
        name: what it is called.
        summary: what it is, for captions.
        seeds: how many seeds a cell has unless told otherwise.
        recipe: from the paper's recipe of a training to that of this scale.
        targets: the tables and figures that it is made for; none: all of them.
    """

    name: str
    summary: str
    seeds: int
    recipe: Callable[[Recipe], Recipe]
    targets: tuple[str, ...] = ()

    def check(self, target: str) -> None:
        """Raise `InputError` for a table or figure that this scale is not made for."""
        if self.targets and target not in self.targets:
            raise InputError(
                f"{target} has no scale {self.name}, which is made for {', '.join(self.targets)}"
            )


def _one_cycle(recipe: Recipe, epochs: int, rate: float) -> Recipe:
    """Return a recipe with a schedule for few epochs; Adam keeps the paper's highest rate."""
    return replace(
        recipe,
        epochs=epochs,
        schedule="one-cycle",
        learning_rate=rate if recipe.optimizer == "sgd" else recipe.learning_rate,
        nesterov=recipe.optimizer == "sgd",
    )


def _short(recipe: Recipe) -> Recipe:
    return _one_cycle(recipe, SHORT_EPOCHS, recipe.learning_rate)


def _reduced(recipe: Recipe) -> Recipe:
    """Shrink a training to well under a minute on two cores, to compare heads and parameters.

    Every head gets the same images and epochs. Strides leave a feature map of 8 x 8 cells for
    CIFAR-10 and 12 x 12 for digits, patches of 3 x 3 cells 36 and 100 patches.
    """
    digits = recipe.data == "digits"
    strided = {"resnet18": (1, 6), "vgg11_bn": (1, 3)}[recipe.backbone]
    small = replace(
        recipe,
        in_channels=1 if digits else 3,
        limit_images=3000 if digits else 6000,
        crop_padding=4 if digits else 2,
        horizontal_flip=not digits,
        width=0.25,
        strided_layers=() if recipe.head == "baseline" else strided,
        patch_kernel=3,
        patch_stride=1,
        batch_size=32 if digits else 64,
    )
    return _one_cycle(small, 5 if digits else 6, 0.05)


def _smoke(recipe: Recipe) -> Recipe:
    """Shrink everything, so that all tables take a minute; the numbers mean nothing."""
    strided = recipe.strided_layers
    if recipe.image_size is None and recipe.head != "baseline":
        # As for the 64-pixel sets, whose tables then share these trainings.
        strided = STRIDED_AT_64.get(recipe.backbone, ())
    return replace(
        recipe,
        data="multi-digits" if recipe.data in MULTI_LABEL else "digits",
        image_size=16,
        in_channels=1,
        limit_images=32,
        crop_padding=1,
        horizontal_flip=False,
        width=0.05,
        strided_layers=strided,
        patch_kernel=2,
        epochs=2,
        batch_size=16,
        learning_rate=min(recipe.learning_rate, 0.02),
        precision="32",
    )


SCALES: dict[str, Scale] = {
    "smoke": Scale("smoke", "tiny networks and data; the numbers mean nothing", 1, _smoke),
    "reduced": Scale(
        "reduced",
        "a quarter of the width, and few images and epochs, the same for every head",
        3,
        _reduced,
        ("table2", "table6"),
    ),
    "short": Scale(
        "short",
        f"the paper's networks and data, {SHORT_EPOCHS} epochs of a one-cycle schedule each",
        1,
        _short,
    ),
    "paper": Scale("paper", "the paper's settings", 4, lambda recipe: recipe),
}


def scale(name: str) -> Scale:
    """Return a scale by name.

    Raises:
        InputError: an unknown name, with the nearest known one.
    """
    if name not in SCALES:
        raise unknown_name("scale", name, SCALES)
    return SCALES[name]


DATA = {"CIFAR-10": "cifar10", "CIFAR-100": "cifar100", "SVHN": "svhn", "COCO": "coco2014"}
BACKBONES = {
    VGG: "vgg11_bn",
    "VGG16_bn": "vgg16_bn",
    RESNET: "resnet18",
    "ResNet50": "resnet50_paper",
    "GoogLeNet": "googlenet",
}
HEADS: dict[tuple[str, ...], str] = {
    ("ConvNet", "Baseline"): "baseline",
    ("ConvNet", "Mean-pooling"): "mean",
    ("ConvNet", "Attention"): "attention",
    ("ConvNet", "Gated-Attention"): "gated-attention",
    ("ConvNet", "Loss-Attention"): "loss-attention",
    ("CapNet", "Dynamic Routing"): "capsule-dynamic-routing",
    ("CapNet", "Loss-Attention"): "capsule-loss-attention",
}
METRICS = {
    "Accuracy": "accuracy",
    "mAP": "mean_average_precision",
    "AP": "gt_known_loc_patches",
    "Precision": "patch_precision",
    "Recall": "patch_recall",
    "F-score": "patch_f1",
}
STRIDES_OF_TABLE_7: dict[str, tuple[int, ...]] = {
    "0": (),
    "1": (6,),
    "2": (6, 10),
    "3": (6, 10, 14),
}

CellOf = Callable[[PaperRow, str], tuple[str, Recipe | None]]
"""From a row and a column to the measure and the paper's recipe."""


def _table1(row: PaperRow, column: str) -> tuple[str, Recipe | None]:
    method, data, metric = column.split(", ")
    head = HEADS["CapNet" if method == "Dynamic Routing" else "ConvNet", method]
    recipe = paper_recipe(DATA[data], head=head, optimizer="sgd")
    return METRICS[metric], with_adam(recipe) if row.labels == ("Adam",) else recipe


def _table2(row: PaperRow, column: str) -> tuple[str, Recipe | None]:
    architecture, backbone, method = row.labels
    parameters = column not in DATA
    metric = PARAMETERS if parameters else "accuracy"
    if backbone not in BACKBONES:
        return metric, None
    data = "cifar10" if parameters else DATA[column]
    return metric, paper_recipe(data, BACKBONES[backbone], HEADS[architecture, method])


def _table3(row: PaperRow, column: str) -> tuple[str, Recipe | None]:
    backbone, data = column.split(", ")
    head = HEADS["ConvNet", row.labels[0]]
    return "accuracy", paper_recipe(DATA[data], BACKBONES[backbone], head)


def _table45(data: str) -> CellOf:
    def cell(row: PaperRow, column: str) -> tuple[str, Recipe | None]:
        backbone, architecture, method = row.labels
        head = HEADS[architecture, method]
        return METRICS[column], paper_recipe(data, BACKBONES[backbone], head)

    return cell


def _table6(row: PaperRow, column: str) -> tuple[str, Recipe | None]:
    recipe = paper_recipe("tiny-imagenet", BACKBONES[row.labels[0]])
    return METRICS[column], replace(recipe, **_parameters(row.labels[1]))


def _parameters(words: str) -> dict[str, Any]:
    """Return the recipe's fields for "gamma_max 0.1, xi 0", say."""
    gamma, xi = (float(part.split()[1]) for part in words.split(", "))
    return {"gamma_max": gamma, "threshold": xi}


def _table7(row: PaperRow, column: str) -> tuple[str, Recipe | None]:
    """The paper leaves open which layers stride (here ResNet18's own) and the rate (0.1)."""
    patch, what = column.split(", ")
    recipe = replace(
        paper_recipe("cifar10"),
        image_size=64,
        batch_size=48,
        strided_layers=STRIDES_OF_TABLE_7[row.labels[0]],
        patch_stride=int(patch.rsplit(" ", 1)[1]),
    )
    return EPOCH_SECONDS if what.startswith("Seconds") else METRICS[what], recipe


CELLS: dict[str, CellOf] = {
    "table1": _table1,
    "table2": _table2,
    "table3": _table3,
    "table4": _table45("tiny-imagenet"),
    "table5": _table45("coco2014"),
    "table6": _table6,
    "table7": _table7,
}


def table_at(name: str, scale: Scale) -> tuple[PaperTable, tuple[Cell, ...]]:
    """Return a table at a scale and its cells, row by row: one for each number that is printed.

    Raises:
        InputError: the scale is not made for this table.
    """
    scale.check(name)
    if scale.name == "reduced":
        return _reduced_table(name, scale)
    table, cell_of = PAPER_TABLES[name], CELLS[name]
    cells = []
    for row in table.rows:
        for column, value in zip(table.columns, row.values, strict=True):
            if value is None:
                continue
            metric, recipe = cell_of(row, column)
            if recipe is not None and metric != PARAMETERS:
                recipe = scale.recipe(recipe)
            factor = 1.0 if metric in (PARAMETERS, EPOCH_SECONDS) else 100.0
            cells.append(Cell(row.labels, column, value, metric, recipe, factor))
    return table, tuple(cells)


def table_cells(name: str, scale: Scale) -> tuple[Cell, ...]:
    """Return the cells of a table at a scale; see `table_at`."""
    return table_at(name, scale)[1]


REDUCED_BACKBONES = {"CIFAR-10": "resnet18", "digits": "vgg11_bn"}
REDUCED_METRICS = {
    "table2": ("Accuracy", "AP", "F-score"),
    "table6": PAPER_TABLES["table6"].columns,
}
_SCENES = "CIFAR-10: ResNet18. digits: VGG11_bn, scenes of scanned digits with a box each"
REDUCED_TABLES = {
    "table2": PaperTable(
        "table2",
        f"Every head on the same images in the same epochs. {_SCENES}",
        ("Architecture", "Method"),
        (),
        (),
        ("its numbers beside ours are those of the full network after 200 epochs.",),
    ),
    "table6": PaperTable(
        "table6",
        f"What the regulariser and the threshold do, convolutional Loss-Attention. {_SCENES}",
        ("Parameters",),
        (),
        (),
        ("it measures this on Tiny ImageNet, see table6 at the scale paper.",),
    ),
}


def _reduced_table(name: str, scale: Scale) -> tuple[PaperTable, tuple[Cell, ...]]:
    """Return Table II or VI for small machines: every head, or both parameters, on two data sets.

    CIFAR-10 has no boxes, so accuracy alone; beside it stand the paper's numbers of its full
    training. What the paper measured on other data, or not at all, has none.
    """
    columns = {"CIFAR-10, Accuracy": ("cifar10", "accuracy")}
    columns |= {f"digits, {m}": ("digits", METRICS[m]) for m in REDUCED_METRICS[name]}
    rows, cells = [], []
    for labels, changes in _reduced_rows(name).items():
        values: list[float | None] = []
        for column, (data, metric) in columns.items():
            backbone = REDUCED_BACKBONES[column.split(", ")[0]]
            head = HEADS[labels] if name == "table2" else "loss-attention"
            if head == "baseline" and metric != "accuracy":
                values.append(None)  # it has no patches
                continue
            recipe = replace(paper_recipe("cifar10", backbone, head), data=data, **changes)
            printed = name == "table2" and data == "cifar10"
            paper = TABLE_2.value("CIFAR-10", labels[0], RESNET, labels[1]) if printed else None
            values.append(paper)
            cells.append(Cell(labels, column, paper, metric, scale.recipe(recipe)))
        rows.append(PaperRow(labels, tuple(values)))
    table = replace(REDUCED_TABLES[name], columns=tuple(columns), rows=tuple(rows))
    return table, tuple(cells)


def _reduced_rows(name: str) -> dict[tuple[str, ...], dict[str, Any]]:
    """Return the labels of each row, and what it changes of the usual training."""
    if name == "table2":
        return {labels: {} for labels in HEADS}
    settings = dict.fromkeys(row.labels[1] for row in PAPER_TABLES[name].rows)
    return {(words,): _parameters(words) for words in settings}
