"""What is made of a run: its best weights, what they are worth, and a report on them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields
from pathlib import Path

from rich.console import Console

from loss_attention.data.sample import LabelledImages, Splits
from loss_attention.errors import InputError, guarded
from loss_attention.evaluation import Evaluation, evaluate
from loss_attention.evaluation.metric import current_names
from loss_attention.interruption import Interrupted, RunStopped, StopRequest
from loss_attention.model import PatchClassifier, load
from loss_attention.model_spec import ModelOptions
from loss_attention.report.page import write_report
from loss_attention.report.tables import show_evaluations
from loss_attention.saving import FACTS_FILE
from loss_attention.terminal import counted, say, say_line
from loss_attention.training.environment import (
    choose_device,
    shown_precision,
)
from loss_attention.training.job import continue_run
from loss_attention.training.recipe import Accelerator
from loss_attention.training.run_folder import RunFolder


@dataclass(frozen=True)
class FinishedRun:
    """A trained and evaluated run."""

    folder: RunFolder
    model: PatchClassifier
    splits: Splits
    evaluation: Evaluation

    def report(self, console: Console) -> None:
        """Print the scores and write the report."""
        show_evaluations({self.folder.recipe().name: self.evaluation}, console)
        self.write_report(console, {})

    def write_report(self, console: Console, beside: Mapping[str, FinishedRun]) -> None:
        """Write the report, with other runs on the same data beside this one."""
        path = write_report(
            self.folder.path,
            self.model,
            self.splits.test,
            self.evaluation,
            comparisons={label: run.evaluation for label, run in beside.items()},
            counterparts={label: run.model for label, run in beside.items()},
        )
        say_line(console, f"report: {path}")


def written_to(run: RunFolder | None, out: Path) -> AbstractContextManager[None]:
    """Keep others from a run while something is written into its folder; elsewhere, from nothing.

    A run that is only read need not be in a folder that can be written to.
    """
    if run is None or run.path.resolve() not in (out.resolve(), *out.resolve().parents):
        return nullcontext()
    return run.locked()


@contextlib.contextmanager
def opened_to_write(path: Path, console: Console, *, writes: bool = True) -> Iterator[RunFolder]:
    """Open a run that is going to be written to, and say which of its pages are not as written."""
    with RunFolder.opened_to_write(path, writes=writes) as run:
        for line in run.changed_pages():
            say_line(console, line)
        yield run


@contextlib.contextmanager
def resumable(run: RunFolder) -> Iterator[None]:
    """Say how to go on where a signal comes while nothing is trained."""
    try:
        yield
    except Interrupted as stop:
        raise _stopped(run, stop.number) from stop


def _stopped(run: RunFolder, number: int | None) -> RunStopped:
    return RunStopped(f"stopped; continue with: loss-attention resume {run.path}", number)


def object_threshold(run: RunFolder) -> float | None:
    """Return what `evaluate` found best on held-out images for several boxes, if it did."""
    if not (run.path / "evaluation.json").is_file():
        return None
    thresholds = run.read_json("evaluation.json").get("thresholds")
    found = (
        current_names(thresholds).get("detection_ap50") if isinstance(thresholds, dict) else None
    )
    return found if isinstance(found, float) and 0 <= found < 1 else None


def load_weights(run: RunFolder) -> PatchClassifier:
    """Load a run's best weights, to the CPU.

    Raises:
        InputError: there are none yet, they are damaged, or not those of the run's recipe.
    """
    run.check_weights()
    model, recipe = load(run.path), run.recipe()
    for field in fields(ModelOptions):
        name = field.name
        wanted, found = getattr(recipe, name), getattr(model.spec, name)
        if found != wanted:
            raise InputError(
                f"the weights in {run.path} are not those of its recipe.yaml: "
                f"{name} is {found} in the weights and {wanted} in the recipe"
            )
    return model


def measure(
    model: PatchClassifier,
    images: LabelledImages,
    own: Splits | None,
    console: Console,
    split: str = "test",
) -> Evaluation:
    """Measure a model on images, where the model is; they get there batch by batch.

    What needs a threshold takes the one that is best on the run's validation slice. A recipe
    without one leaves no image that is neither trained on nor reported, and such scores undefined.

    Args:
        model: the model.
        images: what to measure it on.
        own: what there is of the data that it was trained on.
        console: where the bar goes.
        split: what to call the images.
    """
    with counted("evaluating", console) as progress:
        return evaluate(
            model,
            images,
            train=None if own is None else own.trainval,
            held_out=None if own is None else own.validation,
            split=split,
            progress=progress,
        )


def finish(
    run: RunFolder,
    splits: Splits,
    console: Console,
    accelerator: Accelerator,
    model: PatchClassifier | None = None,
) -> FinishedRun:
    """Train what is left of a run, and evaluate its best weights on the test split, once.

    Of the processes that torchrun or srun started, the first one alone comes back.
    """
    facts, stop = run.facts(), StopRequest()
    if facts.get("finished"):
        say_line(console, f"{run.path} is finished ({run.recipe().epochs} epochs)")
    else:
        with guarded(str(run.path / FACTS_FILE)):
            line = (
                f"{facts['train_images']:,} training, {facts['validation_images']:,} validation "
                f"and {facts['test_images']:,} test images; "
                f"{facts['parameters'] / 1e6:.2f} M parameters; "
                f"{shown_precision(facts['precision'])} on {facts['hardware']['device']}"
            )
        say(console, line)
        if not continue_run(run, splits, console, model=model, stop=stop) or stop.requested:
            raise _stopped(run, stop.number)
    if not run.writes:
        raise SystemExit(0)
    model = load_weights(run).to(choose_device(accelerator))
    evaluation = measure(model, splits.test, splits, console)
    run.write_json("evaluation.json", evaluation.to_json())
    return FinishedRun(run, model, splits, evaluation)
