"""The numbers of the paper's Tables I to VII, as printed.

Rows that the paper sets side by side for two backbones stand here one under the other, so that
every table is rows of labels and columns of numbers. None: the paper prints a dash. What we find
doubtful is printed as it is and noted in `doubts`.
"""

from __future__ import annotations

from dataclasses import dataclass

VGG, RESNET = "VGG11_bn", "ResNet18"
CONV, CAPS = "ConvNet", "CapNet"
ROUTING, LOSS_ATTENTION = "Dynamic Routing", "Loss-Attention"


@dataclass(frozen=True)
class PaperRow:
    """A row of a table: what it is called, from the outermost group inward, and its numbers."""

    labels: tuple[str, ...]
    values: tuple[float | None, ...]


@dataclass(frozen=True)
class PaperTable:
    """A table of the paper.

    Attributes:
        name: `table1` to `table7`.
        title: what the paper says above it, in short.
        headings: what the labels of a row are.
        columns: what the numbers of a row are, in percent unless the column says otherwise.
        rows: the rows, from the top.
        doubts: what is printed and looks wrong, and what a reader may take for an error of ours.
    """

    name: str
    title: str
    headings: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[PaperRow, ...]
    doubts: tuple[str, ...] = ()

    def value(self, column: str, *labels: str) -> float | None:
        """Return a number.

        Raises:
            KeyError: no such row or column.
        """
        for row in self.rows:
            if row.labels == labels and column in self.columns:
                return row.values[self.columns.index(column)]
        raise KeyError((self.name, labels, column))


TABLE_1 = PaperTable(
    "table1",
    "Dynamic routing and mean pooling with SGD and Adam; ResNet18",
    ("Optimizer",),
    (
        "Dynamic Routing, CIFAR-10, Accuracy",
        "Dynamic Routing, CIFAR-100, Accuracy",
        "Dynamic Routing, COCO, mAP",
        "Mean-pooling, COCO, mAP",
    ),
    (
        PaperRow(("SGD",), (91.82, 47.37, 22.01, 43.02)),
        PaperRow(("Adam",), (93.88, 68.88, 48.19, 51.43)),
    ),
)

TABLE_2 = PaperTable(
    "table2",
    "Accuracy of convolutional and capsule architectures",
    ("Architecture", "Backbone", "Method"),
    ("Params (millions)", "CIFAR-10", "CIFAR-100", "SVHN"),
    (
        PaperRow((CONV, "VGG11_bn", "Baseline"), (28.15, 92.14, 70.20, 96.48)),
        PaperRow((CONV, "VGG16_bn", "Baseline"), (33.65, 93.52, 72.35, 96.83)),
        PaperRow((CONV, VGG, "Mean-pooling"), (30.73, 93.99, 74.03, 96.37)),
        PaperRow((CONV, VGG, "Attention"), (30.80, 94.17, 75.47, 96.52)),
        PaperRow((CONV, VGG, "Gated-Attention"), (30.86, 93.78, 74.35, 96.88)),
        PaperRow((CONV, VGG, LOSS_ATTENTION), (30.73, 94.51, 76.81, 96.99)),
        PaperRow((CONV, "ResNet18", "Baseline"), (11.17, 94.76, 76.61, 96.98)),
        PaperRow((CONV, "ResNet50", "Baseline"), (58.16, 95.01, 78.15, 97.12)),
        PaperRow((CONV, RESNET, "Mean-pooling"), (32.67, 94.59, 75.58, 96.72)),
        PaperRow((CONV, RESNET, "Attention"), (32.73, 94.83, 77.48, 97.08)),
        PaperRow((CONV, RESNET, "Gated-Attention"), (32.80, 94.89, 76.33, 97.07)),
        PaperRow((CONV, RESNET, LOSS_ATTENTION), (32.67, 95.31, 78.53, 97.11)),
        PaperRow((CAPS, "-", "Sabour et al., ensemble"), (None, 89.40, None, 95.70)),
        PaperRow((CAPS, "-", "Nair et al."), (None, 67.53, None, 91.06)),
        PaperRow((CAPS, "-", "HitNet"), (None, 73.30, None, 94.50)),
        PaperRow((CAPS, "-", "DeepCaps, images of 64 x 64"), (None, 91.01, None, 97.16)),
        PaperRow((CAPS, VGG, ROUTING), (33.41, 93.37, 68.41, 96.08)),
        PaperRow((CAPS, VGG, LOSS_ATTENTION), (31.02, 94.98, 75.84, 96.78)),
        PaperRow((CAPS, RESNET, ROUTING), (35.35, 93.88, 68.88, 96.70)),
        PaperRow((CAPS, RESNET, LOSS_ATTENTION), (32.96, 95.47, 76.70, 97.24)),
    ),
    (
        "Attention prints 30.80 and 32.73 million parameters; a two-layer net of 128 hidden units "
        "has 30.79 and 32.74.",
        "The capsule Loss-Attention's 31.02 and 32.96 hold 0.27 million that its network never "
        "uses: 30.75 and 32.69 without them.",
        "The prose sets Loss-Attention with the capsule architecture above all other capsule "
        "networks; on SVHN DeepCaps' 97.16 is above VGG11_bn's 96.78.",
    ),
)

TABLE_3 = PaperTable(
    "table3",
    "Accuracy with ResNet50 and GoogLeNet as the backbone",
    ("Method",),
    (
        "ResNet50, CIFAR-10",
        "ResNet50, CIFAR-100",
        "GoogLeNet, CIFAR-10",
        "GoogLeNet, CIFAR-100",
    ),
    (
        PaperRow(("Baseline",), (95.01, 78.15, 94.58, 77.45)),
        PaperRow((LOSS_ATTENTION,), (95.70, 79.17, 95.63, 78.68)),
    ),
)

TABLE_4 = PaperTable(
    "table4",
    "Tiny ImageNet",
    ("Backbone", "Architecture", "Method"),
    ("Accuracy", "AP", "Precision", "Recall", "F-score"),
    (
        PaperRow((VGG, CONV, "Baseline"), (56.52, None, None, None, None)),
        PaperRow((VGG, CONV, "Mean-pooling"), (57.83, None, 81.85, 13.53, 23.22)),
        PaperRow((VGG, CONV, "Attention"), (61.75, 55.29, 83.88, 18.81, 30.73)),
        PaperRow((VGG, CONV, "Gated-Attention"), (60.56, 55.29, 84.09, 16.07, 26.98)),
        PaperRow((VGG, CONV, LOSS_ATTENTION), (62.58, 57.07, 82.67, 29.98, 44.00)),
        PaperRow((VGG, CAPS, LOSS_ATTENTION), (59.58, 52.80, 81.20, 29.98, 43.79)),
        PaperRow((RESNET, CONV, "Baseline"), (63.84, None, None, None, None)),
        PaperRow((RESNET, CONV, "Mean-pooling"), (58.79, None, 81.67, 14.06, 23.99)),
        PaperRow((RESNET, CONV, "Attention"), (63.22, 55.31, 84.18, 19.24, 31.32)),
        PaperRow((RESNET, CONV, "Gated-Attention"), (61.82, 55.53, 84.12, 17.33, 28.74)),
        PaperRow((RESNET, CONV, LOSS_ATTENTION), (64.05, 57.52, 82.69, 30.71, 44.79)),
        PaperRow((RESNET, CAPS, LOSS_ATTENTION), (61.58, 52.96, 81.35, 32.41, 46.35)),
    ),
)

TABLE_5 = PaperTable(
    "table5",
    "COCO",
    ("Backbone", "Architecture", "Method"),
    ("mAP", "Precision", "Recall", "F-score"),
    (
        PaperRow((VGG, CONV, "Baseline"), (40.58, None, None, None)),
        PaperRow((VGG, CONV, "Mean-pooling"), (50.16, 23.63, 69.39, 35.25)),
        PaperRow((VGG, CONV, "Attention"), (36.70, 20.75, 48.88, 29.13)),
        PaperRow((VGG, CONV, "Gated-Attention"), (36.06, 20.73, 48.83, 29.10)),
        PaperRow((VGG, CONV, LOSS_ATTENTION), (57.86, 24.88, 71.73, 36.95)),
        PaperRow((VGG, CAPS, ROUTING), (44.65, 22.93, 99.91, 37.30)),
        PaperRow((VGG, CAPS, LOSS_ATTENTION), (55.60, 23.72, 80.11, 36.60)),
        PaperRow((RESNET, CONV, "Baseline"), (49.35, None, None, None)),
        PaperRow((RESNET, CONV, "Mean-pooling"), (51.43, 23.88, 73.10, 36.00)),
        PaperRow((RESNET, CONV, "Attention"), (42.93, 20.66, 48.88, 29.04)),
        PaperRow((RESNET, CONV, "Gated-Attention"), (48.56, 20.72, 49.21, 29.16)),
        PaperRow((RESNET, CONV, LOSS_ATTENTION), (59.38, 25.16, 72.52, 37.36)),
        PaperRow((RESNET, CAPS, ROUTING), (48.19, 22.92, 99.99, 37.31)),
        PaperRow((RESNET, CAPS, LOSS_ATTENTION), (57.65, 23.74, 79.12, 36.52)),
    ),
)

TABLE_6 = PaperTable(
    "table6",
    "Convolutional Loss-Attention on Tiny ImageNet: what the regulariser and the threshold do",
    ("Backbone", "Parameters"),
    TABLE_4.columns,
    (
        PaperRow((VGG, "gamma_max 0, xi 0.1"), (61.51, 55.37, 82.27, 29.18, 43.08)),
        PaperRow((VGG, "gamma_max 0.1, xi 0"), (62.15, 52.26, 82.03, 30.91, 44.90)),
        PaperRow((VGG, "gamma_max 0.1, xi 0.1"), (62.58, 57.07, 82.67, 29.98, 44.00)),
        PaperRow((RESNET, "gamma_max 0, xi 0.1"), (63.68, 53.24, 82.51, 23.09, 36.08)),
        PaperRow((RESNET, "gamma_max 0.1, xi 0"), (63.92, 52.26, 81.89, 31.77, 45.78)),
        PaperRow((RESNET, "gamma_max 0.1, xi 0.1"), (64.05, 57.52, 82.69, 30.71, 44.79)),
    ),
    (
        "AP is 52.26 for both backbones where xi is 0: no patch is dropped there, so the box is "
        "the same for every image and network.",
    ),
)

TABLE_7 = PaperTable(
    "table7",
    "Loss-Attention with ResNet18 on CIFAR-10 at 64 x 64, with more or less striding",
    ("Layers of stride 2 in the backbone",),
    (
        "Patch stride 4, Seconds an epoch",
        "Patch stride 4, Accuracy",
        "Patch stride 2, Seconds an epoch",
        "Patch stride 2, Accuracy",
    ),
    (
        PaperRow(("0",), (658.0, 92.55, 660.0, 92.81)),
        PaperRow(("1",), (294.0, 95.27, 311.0, 95.19)),
        PaperRow(("2",), (117.0, 95.46, 126.0, 95.26)),
        PaperRow(("3",), (104.0, 95.34, 106.0, 95.36)),
    ),
)

PAPER_TABLES: dict[str, PaperTable] = {
    table.name: table for table in (TABLE_1, TABLE_2, TABLE_3, TABLE_4, TABLE_5, TABLE_6, TABLE_7)
}
