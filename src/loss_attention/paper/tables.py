"""The paper's tables as cells: which training stands behind each figure, at a scale."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from loss_attention.paper.cells import EPOCH_SECONDS, PARAMETERS, Cell
from loss_attention.paper.numbers import (
    PAPER_TABLES,
    RESNET,
    TABLE_2,
    VGG,
    PaperRow,
    PaperTable,
)
from loss_attention.paper.scales import Scale
from loss_attention.training.recipe import Recipe
from loss_attention.training.recipes import paper_recipe, with_adam

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
MEASURES = {
    "Accuracy": "accuracy",
    "mAP": "mean_average_precision",
    "AP": "box_ap",
    "Precision": "patch_precision",
    "Recall": "patch_recall",
    "F-score": "patch_f",
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
    method, data, measure = column.split(", ")
    head = HEADS["CapNet" if method == "Dynamic Routing" else "ConvNet", method]
    recipe = paper_recipe(DATA[data], head=head, optimizer="sgd")
    return MEASURES[measure], with_adam(recipe) if row.labels == ("Adam",) else recipe


def _table2(row: PaperRow, column: str) -> tuple[str, Recipe | None]:
    architecture, backbone, method = row.labels
    parameters = column not in DATA
    measure = PARAMETERS if parameters else "accuracy"
    if backbone not in BACKBONES:
        return measure, None
    data = "cifar10" if parameters else DATA[column]
    return measure, paper_recipe(data, BACKBONES[backbone], HEADS[architecture, method])


def _table3(row: PaperRow, column: str) -> tuple[str, Recipe | None]:
    backbone, data = column.split(", ")
    head = HEADS["ConvNet", row.labels[0]]
    return "accuracy", paper_recipe(DATA[data], BACKBONES[backbone], head)


def _table45(data: str) -> CellOf:
    def cell(row: PaperRow, column: str) -> tuple[str, Recipe | None]:
        backbone, architecture, method = row.labels
        head = HEADS[architecture, method]
        return MEASURES[column], paper_recipe(data, BACKBONES[backbone], head)

    return cell


def _table6(row: PaperRow, column: str) -> tuple[str, Recipe | None]:
    recipe = paper_recipe("tiny-imagenet", BACKBONES[row.labels[0]])
    return MEASURES[column], replace(recipe, **_parameters(row.labels[1]))


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
    return EPOCH_SECONDS if what.startswith("Seconds") else MEASURES[what], recipe


CELLS: dict[str, CellOf] = {
    "table1": _table1,
    "table2": _table2,
    "table3": _table3,
    "table4": _table45("tiny-imagenet"),
    "table5": _table45("coco2014"),
    "table6": _table6,
    "table7": _table7,
}


@dataclass(frozen=True)
class TableAtScale:
    """A table and what measures each of its figures at a scale."""

    table: PaperTable
    cells: tuple[Cell, ...]


def table_at(name: str, scale: Scale) -> TableAtScale:
    """Return a table at a scale; figures that the paper does not print have no cell.

    Raises:
        InputError: the scale is not made for this table.
    """
    scale.check(name)
    if scale.name == "reduced":
        return reduced_table(name, scale)
    table, cell_of = PAPER_TABLES[name], CELLS[name]
    cells = []
    for row in table.rows:
        for column, value in zip(table.columns, row.values, strict=True):
            if value is None:
                continue
            measure, recipe = cell_of(row, column)
            if recipe is not None and measure != PARAMETERS:
                recipe = scale.recipe(recipe)
            factor = 1.0 if measure in (PARAMETERS, EPOCH_SECONDS) else 100.0
            cells.append(Cell(row.labels, column, value, measure, recipe, factor))
    return TableAtScale(table, tuple(cells))


def table_cells(name: str, scale: Scale) -> tuple[Cell, ...]:
    """Return the cells of a table at a scale, row by row."""
    return table_at(name, scale).cells


REDUCED_BACKBONES = {"CIFAR-10": "resnet18", "digits": "vgg11_bn"}
REDUCED_MEASURES = {
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
        ("its figures beside ours are those of the full network after 200 epochs.",),
    ),
    "table6": PaperTable(
        "table6",
        f"What the regulariser and the threshold do, convolutional Loss-Attention. {_SCENES}",
        ("Parameters",),
        (),
        (),
        ("it measures this on Tiny ImageNet, see table6 at --scale paper.",),
    ),
}


def reduced_table(name: str, scale: Scale) -> TableAtScale:
    """Return Table II or VI for small machines: every head, or both parameters, on two data sets.

    CIFAR-10 has no boxes, so accuracy alone; beside it stand the paper's figures of its full
    training. What the paper measured on other data, or not at all, has none.
    """
    columns = {"CIFAR-10, Accuracy": ("cifar10", "accuracy")}
    columns |= {f"digits, {m}": ("digits", MEASURES[m]) for m in REDUCED_MEASURES[name]}
    rows, cells = [], []
    for labels, changes in _reduced_rows(name).items():
        values: list[float | None] = []
        for column, (data, measure) in columns.items():
            backbone = REDUCED_BACKBONES[column.split(", ")[0]]
            head = HEADS[labels] if name == "table2" else "loss-attention"
            if head == "baseline" and measure != "accuracy":
                values.append(None)  # it has no patches
                continue
            recipe = replace(paper_recipe("cifar10", backbone, head), data=data, **changes)
            printed = name == "table2" and data == "cifar10"
            paper = TABLE_2.value("CIFAR-10", labels[0], RESNET, labels[1]) if printed else None
            values.append(paper)
            cells.append(Cell(labels, column, paper, measure, scale.recipe(recipe)))
        rows.append(PaperRow(labels, tuple(values)))
    table = replace(REDUCED_TABLES[name], columns=tuple(columns), rows=tuple(rows))
    return TableAtScale(table, tuple(cells))


def _reduced_rows(name: str) -> dict[tuple[str, ...], dict[str, Any]]:
    """Return the labels of each row, and what it changes of the usual training."""
    if name == "table2":
        return {labels: {} for labels in HEADS}
    settings = dict.fromkeys(row.labels[1] for row in PAPER_TABLES[name].rows)
    return {(words,): _parameters(words) for words in settings}
