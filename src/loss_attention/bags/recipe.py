"""What decides how a classifier of bags is trained, and a run on bags.

No torch: `--help` is made of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from loss_attention.errors import InputError, guarded, quoted, unknown_name
from loss_attention.model_spec import KIND
from loss_attention.training.recipe import from_file, settings_in, settings_text

BAGS = "bags"
"""The recipe's name, and what the recipe.yaml of its runs says that they are on."""
PURPOSE = "bags of instances: slides, sets, tables of feature vectors"
RECIPE_FILE = "recipe.yaml"
COLUMNS = ("bag", "label", "instance_label", "x", "y", "patient", "split")
"""What columns of a table of instances may be beside features; of a list of bags, four of them."""


def named_columns(columns: Sequence[str]) -> dict[str, str]:
    """Return what columns are called, by what they are.

    Args:
        columns: a text such as `bag=slide_name` for each that does not have its usual name.

    Raises:
        InputError: another form, something that no column is, or one that is named twice.

    Example:
        >>> named_columns(["bag=slide name", "label=y=1"])
        {'bag': 'slide name', 'label': 'y=1'}
    """
    found: dict[str, str] = {}
    for one in columns:
        what, _, name = one.partition("=")
        if not name:
            raise InputError(f"`columns` {quoted(one)}: write WHAT=COLUMN, as bag=slide_name")
        if what not in COLUMNS:
            raise unknown_name("kind of column in `columns`:", what, COLUMNS)
        if what in found or name in found.values():
            raise InputError(f"`columns` {quoted(one)}: the {what}, or this column, is named twice")
        found[what] = name
    return found


@dataclass(frozen=True)
class BagRecipe:
    """Everything that decides what a training on bags computes."""

    pooling: str = "positive-evidence"
    """How instances are weighed: mean, max, attention, gated-attention, additive, loss-attention,
    loss-attention-uncentred, loss-attention-2020 or positive-evidence."""
    hidden: tuple[int, ...] = (256,)
    """Features after each hidden layer of an instance; none: it is classified as it is."""
    dropout: float = 0.25
    """Fraction of the features that training drops after each hidden layer."""
    threshold: float = 0.1
    """Instances of less than this over M count for nothing (xi of Eq. 5)."""
    gamma_max: float = 0.1
    """Weight of the instance regulariser (Eqs. 9 and 10) of poolings that have one."""
    ramp_epochs: int = 20
    """Epochs until the regulariser has its weight."""
    epochs: int = 200
    """Times that each bag is trained on."""
    batch_bags: int = 16
    """Bags of a step, at most."""
    batch_instances: int = 65536
    """Instances of a step, at most; a bag of more has a step of its own."""
    most_instances: int | None = None
    """Instances of a bag that a step sees, drawn anew each time; None: all."""
    learning_rate: float = 1e-3
    """Of AdamW; it falls to 0 along half a cosine."""
    weight_decay: float = 1e-2
    """Of AdamW."""
    balance: Literal["none", "weights"] = "none"
    """weights: bags of rare classes count more, so that all classes weigh the same."""
    normalise: bool = True
    """Bring each feature to mean 0 and standard deviation 1 over the instances trained on."""
    seed: int = 0
    """Of the weights, of the order of bags and of what is dropped."""

    def __post_init__(self) -> None:
        """Refuse what no training can have."""
        least = {"epochs": 1, "batch_bags": 1, "batch_instances": 1, "ramp_epochs": 0, "seed": 0}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise InputError(f"`{name}` must be at least {value}, got {getattr(self, name)}")
        if self.most_instances is not None and self.most_instances < 1:
            raise InputError(f"`most_instances` must be at least 1, got {self.most_instances}")
        for name in ("learning_rate", "weight_decay", "gamma_max"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise InputError(f"`{name}` must be a number of at least 0, got {value}")


@dataclass(frozen=True)
class BagRunRecipe(BagRecipe):
    """Everything that decides what a run on bags computes: its data and their division, too."""

    data: str = ""
    """A table of instances, CSV or parquet, or a folder of one file a bag."""
    columns: tuple[str, ...] = ()
    """What columns of the table, or of the CSV of labels, are called that do not have their usual
    names, as bag=slide_name label=diagnosis. Also of instance_label, x, y, patient and split."""
    positive: str | None = None
    """Of two classes, the one that a bag is searched for: instances speak for it or do not. None:
    the second by name."""
    test_fraction: float = 0.2
    """Fraction of the bags held out to be reported on, in (0, 1), where the data names no test
    part. Classes are held out alike, and patients or groups whole."""
    validation_fraction: float = 0.15
    """Fraction of the training bags held out to choose the best epoch, by its loss, in [0, 1),
    where the data names no validation part; 0: the last epoch."""

    def __post_init__(self) -> None:
        """Refuse what no run can have."""
        super().__post_init__()
        named_columns(self.columns)
        if not 0 < self.test_fraction < 1:
            raise InputError(f"`test_fraction` must be in (0, 1), got {self.test_fraction}")
        if not 0 <= self.validation_fraction < 1:
            raise InputError(
                f"`validation_fraction` must be in [0, 1), got {self.validation_fraction}"
            )

    def to_yaml(self) -> str:
        """Return the recipe as YAML, which begins with what it is of."""
        return settings_text({KIND: BAGS, "data": self.data} | asdict(self))

    @classmethod
    def from_yaml(cls, path: Path) -> BagRunRecipe:
        """Read what `to_yaml` wrote.

        Raises:
            InputError: the file is missing, is of a run on something else, or has fields or values
                that are unknown here.
        """
        values = settings_in(path)
        if values.pop(KIND, None) != BAGS:
            raise InputError(f"{path} is of a run on images, not on bags")
        return from_file(cls, values, path)


def bag_recipe(folder: Path) -> BagRunRecipe:
    """Return the recipe of the run on bags that a folder holds."""
    return BagRunRecipe.from_yaml(folder / RECIPE_FILE)


def is_bag_run(path: Path) -> bool:
    """Return whether a folder is that of a run on bags, by the first line of its recipe."""
    file = path / RECIPE_FILE
    if not file.is_file():
        return False
    with guarded(str(file)), file.open("rb") as opened:
        return opened.readline(len(KIND) + 80).strip() == f"{KIND}: {BAGS}".encode()
