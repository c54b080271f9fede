"""One training of the ledger: from its recipe to a record, in a run folder of its own."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from loss_attention import __version__
from loss_attention.data.sample import Splits
from loss_attention.errors import InputError
from loss_attention.evaluation import Evaluation
from loss_attention.interruption import RunStopped, StopRequest
from loss_attention.jobs import evaluate_weights, load_weights
from loss_attention.models import PatchClassifier
from loss_attention.paper.cells import EPOCH_SECONDS, training_key
from loss_attention.paper.datasets import Shelf, located
from loss_attention.paper.ledger import Record
from loss_attention.training.environment import choose_device
from loss_attention.training.job import begin_run, continue_run
from loss_attention.training.recipe import Accelerator, Recipe, RunOptions
from loss_attention.training.run_folder import RunFolder


@dataclass(frozen=True)
class Trained:
    """A trained model and the data it was trained on."""

    model: PatchClassifier
    splits: Splits
    record: Record


def run_path(out: Path, recipe: Recipe) -> Path:
    """Return the folder of a training with its seed."""
    return out / "trainings" / training_key(recipe) / f"seed-{recipe.seed}"


def is_trained(out: Path, recipe: Recipe) -> bool:
    """Whether the weights of a finished training are here."""
    return (run_path(out, recipe) / "evaluation.json").exists()


def train(
    recipe: Recipe,
    out: Path,
    shelf: Shelf,
    accelerator: Accelerator,
    console: Console | None,
    stop: StopRequest | None = None,
) -> Trained:
    """Train a recipe, or what is left of it, and evaluate it once on the test split.

    Args:
        recipe: names its data, and has its seed.
        out: the folder that holds all trainings.
        shelf: loads the data.
        accelerator: what to train on.
        console: where to show progress; None: nowhere.
        stop: hears of signals; None: one of its own.

    Raises:
        InputError: data that is not there, or another run in the folder.
        DivergedError: the loss or the weights became NaN.
        RunStopped: stopped by a signal, with everything saved.
    """
    stop, run = stop or StopRequest(), RunFolder(run_path(out, recipe))
    begun = run.begun
    # A folder without run.json was cut short before its first step: nothing to lose there.
    with run.locked() if begun else run.claimed(overwrite=run.path.exists()):
        return _train(recipe, run, shelf, RunOptions(accelerator=accelerator), console, stop)


def _train(
    recipe: Recipe,
    run: RunFolder,
    shelf: Shelf,
    asked: RunOptions,
    console: Console | None,
    stop: StopRequest,
) -> Trained:
    begun = run.begun
    options = RunFolder.open(run.path).options() if begun else asked
    splits, wanted = shelf.splits(recipe, options), located(recipe, shelf.data_root)
    model = None
    if not begun:
        model = begin_run(run, wanted, splits, options)
    elif replace(run.recipe(), data=wanted.data) != wanted:
        raise InputError(
            f"{run.path} holds a run with other settings; name another folder with --out"
        )
    unfinished = not run.facts().get("finished")
    if unfinished and not continue_run(run, splits, console, model=model, stop=stop):
        raise RunStopped("stopped; the same command continues", stop.number)
    model = load_weights(run)
    evaluated = run.read_json("evaluation.json")
    if evaluated:
        figures = Evaluation.from_json(evaluated)
    else:
        model.to(choose_device(asked.accelerator))
        figures = evaluate_weights(model, splits, console or Console(quiet=True))
        model.cpu()
        run.write_json("evaluation.json", figures.to_json())
        # Only an unfinished run is continued, and the ledger has many runs.
        run.remove_state()
    return Trained(model, splits, _record(recipe, run, figures))


def _record(recipe: Recipe, run: RunFolder, figures: Evaluation) -> Record:
    facts, history = run.facts(), run.metrics()
    measures = {measure.name: measure.value for measure in figures.measures}
    seconds = [facts["train_images"] / line["images_per_second"] for line in history]
    measures[EPOCH_SECONDS] = sum(seconds) / len(seconds)
    return Record(
        training=training_key(recipe),
        seed=recipe.seed,
        recipe=asdict(recipe),
        measures=measures,
        floors={measure.name: dict(measure.floors) for measure in figures.measures},
        minutes=round(facts["train_seconds"] / 60, 5),
        source=facts["source"],
        test_images=figures.images,
        hardware=facts["hardware"],
        versions={"loss-attention": __version__, **facts["versions"]},
        finished=datetime.now(UTC).date().isoformat(),
    )
