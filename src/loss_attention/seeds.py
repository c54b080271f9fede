"""Runs of one recipe that differ by their seed alone, and how far their scores spread."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from loss_attention.data.sample import Splits
from loss_attention.errors import InputError, guarded
from loss_attention.evaluation.metric import Evaluation
from loss_attention.explanation import default_map
from loss_attention.interruption import Interrupted, RunStopped
from loss_attention.report.scores import seeds_table
from loss_attention.report.summary import key_metrics
from loss_attention.report.tables import show_table, table_markdown
from loss_attention.runs import finish, load_data, own_data
from loss_attention.saving import make_folder, read_object, write_whole
from loss_attention.terminal import json_text, markdown, say_line
from loss_attention.training.features import FEATURES_FOLDER
from loss_attention.training.job import begin_run
from loss_attention.training.processes import cluster_of
from loss_attention.training.recipe import Recipe, RunOptions, from_file
from loss_attention.training.run_folder import EVALUATION_FILE, RunFolder

SEEDS_FILE, TABLE_FILE = "seeds.json", "seeds.md"
FORMAT_VERSION = 1
MOST_SEEDS = 1_000


@dataclass(frozen=True)
class SeedRuns:
    """The runs of a recipe from its seed up, in `seed-0` and so on of a folder.

    Attributes:
        path: the folder.
        recipe: of the first; the others have the seeds after it.
        options: what they are trained on.
        count: how many.
    """

    path: Path
    recipe: Recipe
    options: RunOptions
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.count <= MOST_SEEDS:
            raise InputError(f"`seeds` must be between 1 and {MOST_SEEDS:,}, got {self.count}")
        if self.options.num_nodes > 1 or cluster_of(self.options) is not None:
            raise InputError("`seeds` trains on one machine, without torchrun or srun")

    @classmethod
    def open(cls, path: Path) -> SeedRuns:
        """Return those of a folder.

        Raises:
            InputError: its seeds.json is not as it was written.
        """
        file = path / SEEDS_FILE
        values = read_object(file)
        with guarded(str(file)):
            recipe = from_file(Recipe, values["recipe"], file)
            options = from_file(RunOptions, values["options"], file)
            count = values["count"]
            if type(count) is not int:
                raise InputError(f"{file}: count cannot be {count!r}")
            return cls(path, recipe, options, count)

    @classmethod
    def asked(
        cls, path: Path, recipe: Recipe, options: RunOptions, count: int, *, overwrite: bool
    ) -> SeedRuns:
        """Return new ones in a folder, or those that it has, which may become more.

        Raises:
            InputError: there are those of another recipe, or something else is there.
        """
        if options.features is None and recipe.frozen:  # shared with the runs beside the folder
            shared = (path.parent / FEATURES_FOLDER).absolute()
            options = replace(options, features=str(shared))
        new = cls(path, recipe, options, count)
        if not (path / SEEDS_FILE).exists():
            if path.exists() and (not path.is_dir() or any(path.iterdir())):
                raise InputError(
                    f"{path} is not a folder of seeds, and not empty: name another with `out`"
                )
        elif not overwrite:
            before = cls.open(path)
            if before.recipe != recipe:
                raise InputError(
                    f"{path} holds runs with other settings: name another folder with `out`, or "
                    "replace them with `overwrite`"
                )
            new = replace(before, count=max(count, before.count))
        make_folder(path)
        new.write({})
        return new

    def write(self, scores: dict[str, Any]) -> None:
        """Write seeds.json: what to train, and what came of it."""
        values = {
            "format_version": FORMAT_VERSION,
            "count": self.count,
            "recipe": asdict(self.recipe),
            "options": asdict(self.options),
            "metrics": scores,
        }
        write_whole(self.path / SEEDS_FILE, json_text(values, indent=2) + "\n")

    def recipes(self) -> list[Recipe]:
        """Return the recipe of each run; `initial` may be a folder of runs, one for each seed."""
        seeds = range(self.recipe.seed, self.recipe.seed + self.count)
        initial = self.recipe.initial
        if initial is None or not is_folder_of_seeds(Path(initial)):
            return [replace(self.recipe, seed=seed) for seed in seeds]
        runs = {seed: str(Path(initial) / f"seed-{seed}") for seed in seeds}
        return [replace(self.recipe, seed=seed, initial=runs[seed]) for seed in seeds]

    def train(self, console: Console, *, overwrite: bool = False, verbose: bool = False) -> None:
        """Train and evaluate what is left, one after the other; show and write the table.

        Raises:
            RunStopped: a signal came; everything is saved.
        """
        evaluations: dict[int, Evaluation] = {}
        splits: Splits | None = None
        for recipe in self.recipes():
            run = RunFolder(self.path / f"seed-{recipe.seed}")
            say_line(console, f"seed {recipe.seed} in {run.path}", "bold")
            try:
                new = overwrite or not run.begun
                with run.claimed(overwrite=new) if new else run.locked():
                    if not new:
                        self._check(run, recipe)
                        done = _evaluated(run)
                        if done is not None:
                            say_line(console, "finished")
                            evaluations[recipe.seed] = done
                            continue
                    splits = self._splits(run, recipe, splits, console)
                    model = begin_run(run, recipe, splits, self.options) if new else None
                    found = finish(run, splits, console, self.options.accelerator, model)
                    say_line(console, f"report: {found.write_report({})}")
                    found.conclude(console)
                    evaluations[recipe.seed] = found.evaluation
            except (Interrupted, RunStopped) as stop:
                how = f"continue with: loss-attention resume {self.path}"
                raise RunStopped(f"stopped; {how}", stop.number) from stop
        self._conclude(evaluations, console, verbose=verbose)

    def _check(self, run: RunFolder, recipe: Recipe) -> None:
        run.check()
        begun = replace(run.recipe(), data=recipe.data)
        if recipe.steps is not None and run.facts().get("steps") == recipe.steps:
            begun = replace(begun, steps=recipe.steps, epochs=0)  # as it was asked for
        if begun != recipe:
            raise InputError(
                f"{run.path} holds a run with other settings; replace all with `overwrite`"
            )

    def _splits(
        self, run: RunFolder, recipe: Recipe, before: Splits | None, console: Console
    ) -> Splits:
        """Return a run's data; what a seed does not decide is read once."""
        if before is not None and not before.drawn:
            return replace(before, seed=recipe.seed)
        return own_data(run, console) if run.begun else load_data(recipe, console, self.options)

    def _conclude(
        self, evaluations: dict[int, Evaluation], console: Console, *, verbose: bool
    ) -> None:
        table = seeds_table(evaluations)
        self.write(_scores(evaluations))
        seeds = ", ".join(map(str, evaluations))
        title = f"# {markdown(self.recipe.name)}: seeds {seeds}\n\n"
        write_whole(self.path / TABLE_FILE, title + table_markdown(table))
        known = [metric.name for metric in key_metrics(next(iter(evaluations.values())))]
        show_table(table if verbose else seeds_table(evaluations, known), console)
        say_line(console, f"written: {self.path / TABLE_FILE}, {self.path / SEEDS_FILE}")


def is_folder_of_seeds(path: Path) -> bool:
    """Whether a folder holds runs that differ by their seed."""
    return (path / SEEDS_FILE).is_file() and not (path / "recipe.yaml").exists()


def _evaluated(run: RunFolder) -> Evaluation | None:
    """Return what a finished run scored; None: it is not finished or has to be measured.

    It was measured by other heat maps where an earlier version did it, or somebody asked for them:
    a mean over seeds must not be of both.
    """
    facts = run.facts()
    found = run.read_json(EVALUATION_FILE) if facts.get("finished") else {}
    if not found:
        return None
    evaluation = Evaluation.from_json(found)
    competing = not facts.get("multi_label") and run.recipe().objective != "one-vs-rest"
    usual = default_map(competing=competing)
    return evaluation if evaluation.map == usual else None


def _scores(evaluations: dict[int, Evaluation]) -> dict[str, Any]:
    """Return each metric's scores by seed, their mean, standard deviation and worst."""
    scores: dict[str, Any] = {}
    for metric in next(iter(evaluations.values())).metrics:
        values = {
            seed: found.value if (found := one.get(metric.name)) else None
            for seed, one in evaluations.items()
        }
        known = [value for value in values.values() if value is not None]
        if known:
            scores[metric.name] = {
                "label": metric.label,
                "mean": statistics.fmean(known),
                "standard_deviation": statistics.stdev(known) if len(known) > 1 else None,
                "worst": min(known) if metric.higher_is_better else max(known),
                "by_seed": values,
            }
    return scores
