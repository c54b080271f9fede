"""The subcommands: each is a function; its parameters are its options, its docstring is its help.

Each takes the console first and returns the exit code. The imports at the top are light; torch and
everything that needs it are imported inside the functions.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import textwrap
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from loss_attention import __version__
from loss_attention.bags.recipe import BAGS, PURPOSE
from loss_attention.cli.options import Device
from loss_attention.errors import InputError, printable
from loss_attention.interruption import Interrupted, RunStopped
from loss_attention.training.recipe import LoggerName, Recipe, RunOptions
from loss_attention.training.recipes import RECIPES
from loss_attention.training.recipes import demo as demo_recipe

if TYPE_CHECKING:
    from rich.console import Console

    from loss_attention.runs import FinishedRun

Flat = tyro.conf.arg(name="")
"""For a parameter that is a dataclass: its fields are options by their own names."""
Run = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(help="The run's folder.")]
NEAR = 16
"""Pixels from an object that count as near it: `metrics.localisation.NEAR`, without torch."""
MEAN_POOLING = "mean-pooling"
"""What a demo calls the mean-pooling counterpart, and the folder of its run."""
DEMO = (
    "Trains two networks to name the digit in a scene, from the names alone, and then asks where "
    "they looked: about a minute on two cores."
)
COMPARISON_FILES = ("comparison.json", "comparison.md", "maps.png", "values.npz")


def train(
    console: Console,
    recipe: Annotated[Recipe, Flat],
    hardware: Annotated[RunOptions, Flat] = RunOptions(),  # noqa: B008 (it is frozen)
    out: Path | None = None,
    overwrite: bool = False,
    seeds: int | None = None,
    verbose: bool = False,
) -> int:
    """Train, checkpoint, evaluate and report. Every field of the recipe is an option.

    Args:
        out: The run's folder. None: runs/NAME.
        seeds: Train so many runs, from --seed up, in seed-0 and so on of the folder, and show mean
            and spread of their scores; run again to continue, or with more. None: a single run.
        overwrite: Replace the run that is in the folder already.
        verbose: Print all metrics, not only those that say most.
    """
    from loss_attention.fitting import check_data, fit

    check_data(recipe)
    path = out or Path("runs") / recipe.name
    if seeds is not None:
        from loss_attention.seeds import SeedRuns

        SeedRuns.asked(path, recipe, hardware, seeds, overwrite=overwrite).train(
            console, overwrite=overwrite, verbose=verbose
        )
        return 0
    fit(recipe, path, console, hardware, overwrite=overwrite, verbose=verbose)
    return 0


def resume(
    console: Console,
    run: Run,
    data: str | None = None,
    learning_rate: float | None = None,
    loggers: tuple[LoggerName, ...] | None = None,
    devices: int | None = None,
    num_nodes: int | None = None,
    verbose: bool = False,
) -> int:
    """Continue an interrupted run on the hardware it began on; evaluate and report.

    A finished run is only evaluated again. Of a folder of runs that differ by their seed, what is
    left of them is trained.

    Args:
        data: Where the run's data is now, if it has moved.
        learning_rate: The schedule's highest learning rate for the rest of the training: a lower
            one, for example, after the loss became NaN. None: the recipe's.
        loggers: Where the curves of the rest go, as in train. None: where they went.
        devices: Number of processes on each machine for the rest. None: as many as before.
        num_nodes: Number of machines for the rest. None: as many as before.
        verbose: Print all metrics, not only those that say most.
    """
    from loss_attention import runs
    from loss_attention.data.loading import recorded
    from loss_attention.seeds import SeedRuns, is_folder_of_seeds
    from loss_attention.terminal import say_line
    from loss_attention.training.changing import (
        change_learning_rate,
        change_loggers,
        change_processes,
    )
    from loss_attention.training.devices import count_devices
    from loss_attention.training.processes import leads
    from loss_attention.training.run_folder import RunFolder

    if is_folder_of_seeds(run):
        if any(one is not None for one in (data, learning_rate, loggers, devices, num_nodes)):
            raise InputError(
                f"{run} holds several runs: `data`, `learning_rate`, `loggers`, `devices` and "
                "`num_nodes` are for one"
            )
        SeedRuns.open(run).train(console, verbose=verbose)
        return 0
    options = RunFolder.open(run).options()
    options = replace(
        options,
        devices=options.devices if devices is None else devices,
        num_nodes=options.num_nodes if num_nodes is None else num_nodes,
    )
    writes = leads(options)
    console.quiet = not writes
    with (
        runs.opened_to_write(run, console, writes=writes) as folder,
        runs.resumable(folder),
    ):
        change_processes(folder, options, partial(say_line, console))
        if learning_rate is not None:
            change_learning_rate(folder, learning_rate, partial(say_line, console))
        if loggers is not None:
            change_loggers(folder, loggers)
        accelerator = folder.options().accelerator
        if not count_devices("cpu" if accelerator == "auto" else accelerator):
            if not folder.facts().get("finished"):
                raise InputError(
                    f"{run} began on a GPU and torch finds none here: resume it on one"
                )
            accelerator = "auto"  # the whole run has come here from another machine
        splits = runs.own_data(folder, console, data=data)
        if data is not None:
            folder.note(data=recorded(data, run))
        runs.finish(folder, splits, console, accelerator).report(console, verbose=verbose)
    return 0


def evaluate(
    console: Console,
    run: Run,
    data: str | None = None,
    classes: tuple[str, ...] = (),
    skip_broken: bool = False,
    masks: bool = False,
    map: str | None = None,
    within: int = NEAR,
    locality: int | None = None,
    accelerator: Device = "auto",
    verbose: bool = False,
) -> int:
    """Measure accuracy and localisation on the test split, beside trivial baselines.

    Scores on the run's own data are also written to the run's folder. Thresholds are always chosen
    on the run's own validation images.

    Args:
        data: Measure on this data instead of the run's own; classes are matched by name.
        classes: With --data: measure only these of the model's classes.
        skip_broken: With --data: leave out images that have an error or whose class the model does
            not have, and say how many.
        masks: Also measure against the masks of objects, if the run was trained without them.
        map: What the heat maps that are measured show: margin, contrast or evidence. None: what
            explain shows, the margin, or the evidence where each class is decided by itself
            (several labels, or one-vs-rest).
        within: How many pixels from an object count as near it.
        locality: How many images to measure on what a patch sees, 0 for none. None: as many as take
            a quarter of the time that all images do, from 8 to 64.
        verbose: Print all metrics, not only those that say most.
    """
    from loss_attention import runs
    from loss_attention.explanation import named_map
    from loss_attention.report.summary import show_scores
    from loss_attention.report.verdict import ending, nothing_learned
    from loss_attention.terminal import say_line
    from loss_attention.training.devices import choose_device
    from loss_attention.training.finished import load_weights
    from loss_attention.training.run_folder import RunFolder

    device = choose_device(accelerator)
    other = runs.OtherData.asked(data, classes, skip_broken=skip_broken)
    with contextlib.ExitStack() as held:
        if other is None:
            folder = held.enter_context(runs.opened_to_write(run, console))
        else:
            folder = RunFolder.open(run)
        model = load_weights(folder).to(device)
        found = runs.measured(folder, model, other, console, masks=masks)
        how = runs.MapOptions(named_map(map), within, locality)
        evaluation = runs.measure(model, found.images, found.own, console, found.split, how)
        if not found.others:
            with folder.locked():
                folder.write_json("evaluation.json", evaluation.to_json())
        show_scores({"score": evaluation}, console, verbose=verbose)
        said = nothing_learned(evaluation)
        if said is not None and not found.others:
            said = ending(evaluation, folder.recipe(), folder.facts())
        if said is not None:
            say_line(console, said, "bold")
    return 0


def report(
    console: Console,
    run: Run,
    data: str | None = None,
    map: str | None = None,
    within: int = NEAR,
    locality: int | None = None,
    accelerator: Device = "auto",
    verbose: bool = False,
) -> int:
    """Evaluate a run and write its report.html again.

    Args:
        data: Where the run's data is now, if it has moved.
        map: What the heat maps show and are measured by: margin, contrast or evidence. None: the
            margin, or the evidence where each class is decided by itself (several labels, or
            one-vs-rest).
        within: How many pixels from an object count as near it.
        locality: How many images to measure on what a patch sees, 0 for none. None: as many as take
            a quarter of the time that all images do, from 8 to 64.
        verbose: Print all metrics, not only those that say most.
    """
    from loss_attention import runs
    from loss_attention.explanation import named_map
    from loss_attention.training.devices import choose_device
    from loss_attention.training.finished import load_weights

    device = choose_device(accelerator)
    with runs.opened_to_write(run, console) as folder:
        model = load_weights(folder).to(device)
        splits = runs.own_data(folder, console, data=data)
        how = runs.MapOptions(named_map(map), within, locality)
        evaluation = runs.measure(model, splits.test, splits, console, how=how)
        finished = runs.FinishedRun(folder, model, splits, evaluation, how.map)
        finished.report(console, verbose=verbose)
    return 0


def demo(
    console: Console,
    out: Path = Path("runs/demo"),
    epochs: int | None = None,
    limit_images: int | None = None,
    hardware: Annotated[RunOptions, Flat] = RunOptions(),  # noqa: B008 (it is frozen)
    verbose: bool = False,
) -> int:
    """Train a small network on scenes of digits, and its mean-pooling counterpart; compare them.

    Run it again to continue where it stopped; once finished, it only shows the results again.

    Args:
        out: The demo's folder.
        epochs: Train for fewer epochs than the recipe, for a quick look.
        limit_images: Use at most this many training and this many test images, for a quick look.
        verbose: Print all metrics, not only those that say most.
    """
    from loss_attention import runs
    from loss_attention.terminal import say_line
    from loss_attention.training.job import begin_run
    from loss_attention.training.processes import cluster_of
    from loss_attention.training.run_folder import RunFolder

    if hardware.num_nodes > 1 or cluster_of(hardware) is not None:
        raise InputError("the demo trains on one machine, without torchrun or srun")
    recipe = demo_recipe()
    recipe = recipe if limit_images is None else replace(recipe, limit_images=limit_images)
    recipe = recipe if epochs is None else replace(recipe, epochs=epochs)
    recipes = {
        recipe.head: recipe,
        MEAN_POOLING: replace(recipe, name="demo-mean", head="mean"),
    }
    folders = {recipe.head: RunFolder(out), MEAN_POOLING: RunFolder(out / MEAN_POOLING)}
    finished: dict[str, FinishedRun] = {}
    with contextlib.ExitStack() as held:
        for label, folder in folders.items():
            begun = (folder.path / "recipe.yaml").exists()
            held.enter_context(folder.locked() if begun else folder.claimed())
            if not finished:
                say_line(console, DEMO)
                splits = runs.load_data(recipe, console, hardware)
            model = None if begun else begin_run(folder, recipes[label], splits, hardware)
            folder.check()
            if folder.recipe() != recipes[label]:
                raise InputError(
                    f"{folder.path} holds a run with other settings; name another folder with --out"
                )
            say_line(console, f"{label} in {folder.path}", "bold")
            try:
                finished[label] = runs.finish(folder, splits, console, hardware.accelerator, model)
            except (Interrupted, RunStopped) as stop:
                how = f"continue with: loss-attention demo --out {out}"
                raise RunStopped(f"stopped; {how}", stop.number) from stop
        counterpart = {MEAN_POOLING: finished[MEAN_POOLING]}
        finished[recipe.head].report(console, counterpart, label=recipe.head, verbose=verbose)
    return 0


def _listed(text: str | None) -> list[str] | None:
    """Return the names that an option lists with commas between; None where it is not given."""
    return None if text is None else [name.strip() for name in text.split(",")]


def compare(
    console: Console,
    run: Run,
    methods: str | None = None,
    metrics: str | None = None,
    images: int = 50,
    data: str | None = None,
    classes: tuple[str, ...] = (),
    skip_broken: bool = False,
    masks: bool = False,
    within: int = NEAR,
    against: str | None = None,
    out: Path | None = None,
    batch_size: int = 32,
    seed: int = 0,
    accelerator: Device = "auto",
    overwrite: bool = False,
) -> int:
    """Compare methods of explanation: where they point, how faithful they are, what they cost.

    Scores have 95 % intervals, and a sign where a method is better or worse than the margin (or
    what --against names) on the same images.

    Args:
        methods: Names separated by commas, such as margin,grad-cam-competition. None: all that the
            model allows. The trivial baselines uniform, random and edges are always added.
        metrics: Groups of metrics separated by commas, of localisation, insertion-deletion,
            sensitivity, grid-pointing, randomisation, time and locality (what a patch sees, once
            for the model). None: all. Insertion and deletion, and the sensitivity, take some
            hundred times as long as the others.
        images: How many test images to explain.
        data: Compare on this data instead of the run's own; classes are matched by name.
        classes: With --data: use only these of the model's classes.
        skip_broken: With --data: leave out images that have an error or whose class the model does
            not have, and say how many.
        against: The method that the others are held against, image by image. None: the margin, or
            the evidence where each class is decided by itself; else the first that is compared.
        out: The folder for the table, the JSON file, what was measured of each image, and the
            picture. None: "compare" in the run's folder.
        batch_size: Images in a batch.
        seed: Decides which images are drawn.
        overwrite: Replace a comparison that is already in the folder.
    """
    from loss_attention import runs
    from loss_attention.attribution import compare as comparing
    from loss_attention.attribution.measures import groups_named
    from loss_attention.attribution.scores import packed_values
    from loss_attention.report.compared import comparison_json, comparison_table, differences_table
    from loss_attention.report.side_by_side import maps_picture
    from loss_attention.report.tables import show_table, table_markdown
    from loss_attention.saving import make_folder, write_whole
    from loss_attention.terminal import counted, json_text, markdown, say_line
    from loss_attention.training.devices import choose_device
    from loss_attention.training.environment import hardware as hardware_facts
    from loss_attention.training.environment import versions
    from loss_attention.training.finished import load_weights, written_to
    from loss_attention.training.run_folder import RunFolder

    names = _listed(methods)
    comparing.check_asked(names, against)
    groups = groups_named(_listed(metrics))
    folder, goal = RunFolder.open(run), out or run / "compare"
    files = [goal / name for name in COMPARISON_FILES]
    with written_to(folder, goal):
        other = runs.OtherData.asked(data, classes, skip_broken=skip_broken)
        for file in files:
            if file.exists() and not overwrite:
                raise InputError(
                    f"{file} exists already; name another --out, or replace it with --overwrite"
                )
        device = choose_device(accelerator)
        model, recipe = load_weights(folder).to(device), folder.recipe()
        found = runs.measured(folder, model, other, console, masks=masks)
        held_out = None if found.own is None else found.own.validation
        with counted("comparing", console) as progress:
            comparison, subject = comparing.compare(
                model,
                found.images,
                names,
                # Cuts chosen on images that it was trained on would flatter whatever fits these.
                train=held_out if held_out is not None and len(held_out) else None,
                images=images,
                batch_size=batch_size,
                seed=seed,
                within=within,
                metrics=groups,
                against=against,
                progress=progress,
            )
        picture = maps_picture(subject, list(comparison.scores))
        facts = {
            "run": recipe.name,
            "head": recipe.head,
            "backbone": recipe.backbone,
            "data": found.source,
            "loss_attention": __version__,
            "versions": versions(),
            "hardware": hardware_facts(device.type, 1, "32"),
        }
        title = f"# {markdown(recipe.name)}: methods of explanation compared\n\n"
        title += f"{markdown(found.source)}\n\n"
        contents: tuple[str | bytes, ...] = (
            json_text(facts | comparison_json(comparison), indent=2) + "\n",
            title
            + table_markdown(comparison_table(comparison, intervals=True))
            + f"\n## How much more than {comparison.against}, on the same images\n\n"
            + table_markdown(differences_table(comparison)),
            picture,
            packed_values(comparison.values, comparison.drawn),
        )
        make_folder(goal)
        for file, content in zip(files, contents, strict=True):
            write_whole(file, content)
        show_table(comparison_table(comparison), console)
        say_line(console, f"written: {', '.join(map(str, files))}")
    return 0


def reproduce(
    console: Console,
    targets: Annotated[
        tyro.conf.Positional[tuple[str, ...]],
        tyro.conf.arg(help="table1 to table7, figure4 to figure7, or all."),
    ],
    scale: str = "paper",
    only: str | None = None,
    out: Path = Path("runs/reproduce"),
    seeds: int | None = None,
    data_root: Path | None = None,
    workers: int | None = None,
    accelerator: Device = "auto",
    show: bool = False,
) -> int:
    """Reproduce tables and figures of the paper, and show our scores beside the paper's.

    Args:
        scale: paper: the paper's settings; short: 30 epochs; reduced: Tables II and VI on a CPU;
            smoke: tiny, for a quick try.
        only: Measure only the cells whose path contains all of these words, such as
            "ResNet18 CIFAR-10".
        out: The folder for the ledger, the trainings and the tables; run again to continue there.
        seeds: How many seeds for each training, from 0 up. None: as many as the scale has (the
            paper's 4).
        data_root: A folder that contains the data sets, each under its name. None: the Hugging Face
            Hub.
        workers: How many trainings run in parallel. None: one for each GPU, or one.
        show: Train nothing; show what has been measured so far.
    """
    if not targets:
        raise InputError("reproduce needs a table or figure: table1 to table7, figure4 to figure7")
    from loss_attention import paper

    outcome = paper.reproduce(
        targets,
        scale,
        out,
        seeds=seeds,
        data_root=data_root,
        workers=workers,
        accelerator=accelerator,
        only=only,
        train=not show,
        console=console,
    )
    print(printable(f"written: {', '.join(map(str, outcome.written))}"))
    for problem in outcome.problems:
        fail(problem)
    return 2 if outcome.problems else 0


def recipes(console: Console) -> int:  # noqa: ARG001 (as all subcommands)
    """List the recipes, with expected scores and times."""
    print(recipe_list())
    return 0


def recipe_list() -> str:
    """Return what each recipe is for and what to expect of it, as wide as the terminal."""
    said: dict[str, tuple[str, ...]] = {
        name: (entry.purpose, f"expected: {entry.expected}; {entry.hardware}")
        for name, entry in RECIPES.items()
    }
    said[BAGS] = (PURPOSE,)
    column = 2 + max(map(len, said))
    width = max(2 * column, shutil.get_terminal_size().columns)
    lines: list[str] = []
    for name, texts in said.items():
        for number, text in enumerate(texts):
            first = ("" if number else name).ljust(column)
            lines += textwrap.wrap(
                text, width, initial_indent=first, subsequent_indent=" " * column
            )
    return "\n".join(lines)


def fail(message: str, code: int = 2) -> int:
    """Print an error in one line, and return the exit code."""
    print(f"loss-attention: {printable(message)}", file=sys.stderr)
    return code
