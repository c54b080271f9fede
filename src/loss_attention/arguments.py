"""The flags of each word, typed, and how they are read. No torch here, so `--help` is fast."""

from __future__ import annotations

import contextlib
import io
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro

from loss_attention.errors import InputError
from loss_attention.training.recipe import Accelerator, Recipe, RunOptions

Arguments = TypeVar("Arguments")
Flat = tyro.conf.arg(name="")
Device = Annotated[Accelerator, tyro.conf.arg(help="auto: a GPU where there is one.")]


@dataclass(frozen=True)
class TrainArguments:
    """Train, checkpoint, evaluate and report. Every field of the recipe is a flag."""

    recipe: Annotated[Recipe, Flat]
    hardware: Annotated[RunOptions, Flat] = field(default_factory=RunOptions)
    out: Path | None = None
    """The run's folder; runs/NAME if not given."""
    overwrite: bool = False
    """Replace the run that is in the folder already."""


@dataclass(frozen=True)
class DemoArguments:
    """Train the digits recipe and a mean-pooling twin, and compare them in one report."""

    out: Path = Path("runs/demo")
    """The demo's folder; run again, it continues where it stopped."""
    epochs: int | None = None
    """Fewer epochs than the recipe's, for a quick look."""
    limit_images: int | None = None
    """At most this many training and this many test images, for a quick look."""
    hardware: Annotated[RunOptions, Flat] = field(default_factory=RunOptions)


@dataclass(frozen=True)
class ResumeArguments:
    """Continue an interrupted run on what it began on; evaluate and report."""

    run: tyro.conf.Positional[Path]
    """The run's folder."""
    data: str | None = None
    """Where the run's data lies now, if it has moved."""
    learning_rate: float | None = None
    """The schedule's highest learning rate for what is left to train: a lower one after the loss
    became NaN. None: the recipe's."""


@dataclass(frozen=True)
class ReportArguments:
    """Evaluate a run and write its report.html anew."""

    run: tyro.conf.Positional[Path]
    """The run's folder."""
    data: str | None = None
    """Where the run's data lies now, if it has moved."""
    accelerator: Device = "auto"


@dataclass(frozen=True)
class EvaluateArguments:
    """Accuracy and localisation on the test split, each beside its floors."""

    run: tyro.conf.Positional[Path]
    """The run's folder."""
    data: str | None = None
    """Other data than the run's own, with classes of the model, matched by name."""
    classes: tuple[str, ...] = ()
    """Of other data measure these classes of the model alone."""
    skip_broken: bool = False
    """Of other data leave out images that something is wrong with or whose class the model does not
    know, and say how many."""
    masks: bool = False
    """Read the masks of objects too, to measure against, where the run was trained without."""
    accelerator: Device = "auto"


@dataclass(frozen=True)
class ExplainArguments:
    """Show where the evidence lies: a picture and a JSON for each image."""

    run: tyro.conf.Positional[Path]
    """A run folder, a .safetensors file of ours, or a hub id."""
    images: tyro.conf.Positional[tuple[Path, ...]]
    """Image files, or folders of them."""
    out: Path
    """Where the pictures and JSON files go."""
    target: str | None = None
    """Explain this class instead of the predicted one."""
    method: str | None = None
    """evidence, contrast, cam, grad-cam, layer-cam, integrated-gradients, occlusion; also uniform,
    random and edges. None: what the model itself says of its patches."""
    accelerator: Device = "auto"
    overwrite: bool = False
    """Replace explanations that are in the folder already."""


@dataclass(frozen=True)
class ReproduceArguments:
    """Measure what the paper's tables and figures need, and show ours beside the paper's."""

    targets: tyro.conf.Positional[tuple[str, ...]]
    """table1 to table7, figure4 to figure7, or all."""
    scale: str = "paper"
    """paper: its settings; short: 30 epochs; reduced: Tables II and VI on a CPU; smoke: tiny."""
    only: str | None = None
    """Measure just the cells with these words in their path: "ResNet18 CIFAR-10", say."""
    out: Path = Path("runs/reproduce")
    """Where the ledger, the trainings and the tables go; run again, it continues there."""
    seeds: int | None = None
    """Seeds of each training, from 0 up; None: as many as the scale has (the paper's 4)."""
    data_root: Path | None = None
    """A folder with data sets in it, each under its name; None: the Hugging Face hub."""
    workers: int | None = None
    """Trainings side by side; None: one for each GPU, or one."""
    accelerator: Device = "auto"
    show: bool = False
    """Train nothing, and show what has been measured so far."""


@dataclass(frozen=True)
class DataCheckArguments:
    """What is in a data set and what is wrong with it."""

    data: tyro.conf.Positional[str]
    """A folder, archive, table of images, known name, NAME:PATH, or Hugging Face dataset id."""
    out: Path | None = None
    """Draw some of the images, with their labels and boxes, in this .png or .jpg."""


@dataclass(frozen=True)
class CompareArguments:
    """Methods of explanation side by side: where they point, how faithful they are, their cost."""

    run: tyro.conf.Positional[Path]
    """The run's folder."""
    methods: str | None = None
    """Their names with commas between: evidence,grad-cam. None: all that the model allows. The
    floors uniform, random and edges come on top."""
    images: int = 50
    """How many test images to explain; time grows with it."""
    data: str | None = None
    """Other data than the run's own, with classes of the model, matched by name."""
    classes: tuple[str, ...] = ()
    """Of other data take these classes of the model alone."""
    skip_broken: bool = False
    """Of other data leave out images that something is wrong with or whose class the model does not
    know, and say how many."""
    out: Path | None = None
    """Where table, JSON and picture go; None: compare in the run's folder."""
    batch_size: int = 32
    """Images at a time."""
    seed: int = 0
    """Which images are drawn."""
    accelerator: Device = "auto"
    overwrite: bool = False
    """Replace a comparison that is in the folder already."""


def parse(
    kind: type[Arguments], rest: list[str], words: str, default: Arguments | None = None
) -> Arguments:
    """Parse flags; tyro's boxed complaint becomes one line."""
    complaint = io.StringIO()
    options: dict[str, Any] = {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stderr(complaint):
            parsed: Arguments = tyro.cli(kind, args=rest, prog=f"loss-attention {words}", **options)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise InputError(_one_line(complaint.getvalue(), words)) from None
    return parsed


def _one_line(complaint: str, words: str) -> str:
    text = re.sub(r"\x1b\[[0-9;]*m", "", complaint)
    # Where the terminal has no letters for boxes, their rules are of plain dashes.
    lines = [line.strip("│╭╮╰╯─ \t") for line in text.splitlines() if line.strip("─-= \t")]
    message = re.sub(r"\s+", " ", " ".join(lines)).strip()
    message = re.split(r" (?:Got errors:|Argument helptext:|For full helptext)", message)[0]
    titles = (
        "Parsing error|Value error|Invalid choice|Missing argument|(Unrecognized|Required) options"
    )
    message = re.sub(f"^({titles}) ", "", message)
    # Of the nearest flag keep its name, not its whole entry.
    message = re.sub(r"Perhaps you meant: (--\S+).*", r"did you mean \1?", message)
    return f"{message.rstrip('.')}; see loss-attention {words} --help"
