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
from loss_attention.jobs import RunStopped, evaluate_weights, load_weights
from loss_attention.models import PatchClassifier
from loss_attention.paper.cells import EPOCH_SECONDS, training_key
from loss_attention.paper.datasets import Shelf, located
from loss_attention.paper.ledger import Record
from loss_attention.training.environment import choose_device
from loss_attention.training.job import continue_run, start_run
from loss_attention.training.recipe import Accelerator, Recipe, RunOptions
from loss_attention.training.run_folder import STATE_FILE, RunFolder


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
    recipe: Recipe, out: Path, shelf: Shelf, accelerator: Accelerator, console: Console | None
) -> Trained:
    """Train a recipe, or what is left of it, and evaluate it once on the test split.

    Args:
        recipe: names its data, and has its seed.
        out: the folder that holds all trainings.
        shelf: loads the data.
        accelerator: what to train on.
        console: where to show progress; None: nowhere.

    Raises:
        InputError: data that is not there, another run in the folder, weights that diverged.
        RunStopped: stopped by Ctrl-C, with everything saved.
    """
    options = _options(recipe, out) or RunOptions(accelerator=accelerator)
    splits = shelf.splits(recipe, options)
    run = _run(recipe, out, splits, shelf.data_root, options)
    if not run.read_json("run.json").get("finished") and not continue_run(run, splits, console):
        raise RunStopped("stopped; the same command continues")
    model = load_weights(run)
    evaluated = run.read_json("evaluation.json")
    if evaluated:
        figures = Evaluation.from_json(evaluated)
    else:
        model.to(choose_device(accelerator))
        figures = evaluate_weights(model, splits, recipe, console or Console(quiet=True))
        model.cpu()
        run.write_json("evaluation.json", figures.to_json())
        # Only an unfinished run is continued, and the ledger has many runs.
        (run.path / STATE_FILE).unlink(missing_ok=True)
    return Trained(model, splits, _record(recipe, run, figures))


def _options(recipe: Recipe, out: Path) -> RunOptions | None:
    """Return what a training that has begun runs on; None where it has not."""
    path = run_path(out, recipe)
    return RunFolder.open(path).options() if (path / "run.json").exists() else None


def _run(
    recipe: Recipe, out: Path, splits: Splits, data_root: Path | None, options: RunOptions
) -> RunFolder:
    path, wanted = run_path(out, recipe), located(recipe, data_root)
    if not (path / "run.json").exists():
        # A folder without run.json was cut short before its first step: nothing to lose there.
        return start_run(path, wanted, splits, options, overwrite=path.exists())
    run = RunFolder.open(path)
    if replace(run.recipe(), data=wanted.data) != wanted:
        raise InputError(f"{path} holds a run with other settings; name another folder with --out")
    return run


def _record(recipe: Recipe, run: RunFolder, figures: Evaluation) -> Record:
    facts, history = run.read_json("run.json"), run.metrics()
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
