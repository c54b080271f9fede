"""The subcommands on bags of instances: `train bags`, `crossval`, and what is done with a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from loss_attention.bags.kind import is_bag_model, is_exported_bags
from loss_attention.bags.recipe import BAGS, BagRecipe, BagRunRecipe, is_bag_run
from loss_attention.cli.elsewhere import prediction_format, say_predicted
from loss_attention.cli.options import Device
from loss_attention.errors import InputError
from loss_attention.interruption import Interrupted, RunStopped

if TYPE_CHECKING:
    from rich.console import Console

SCORES_FILE = "crossval.json"
BagRun = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(help="The folder of a run on bags.")]
BagModel = Annotated[
    tyro.conf.Positional[Path],
    tyro.conf.arg(help="A run's folder, or a .safetensors file, of a classifier of bags."),
]


def train(
    console: Console,
    recipe: Annotated[BagRunRecipe, tyro.conf.arg(name="")],
    accelerator: Device = "auto",
    out: Path = Path("runs") / BAGS,
    overwrite: bool = False,
) -> int:
    """Train a classifier of bags, checkpoint and evaluate. Every field of the recipe is an option.

    Args:
        out: The run's folder.
        overwrite: Replace the run that is in the folder already.
    """
    from loss_attention.bags.run import train_bags

    train_bags(recipe, out, console, accelerator, overwrite=overwrite)
    return 0


def resume(console: Console, run: BagRun, data: str | None = None) -> int:
    """Continue an interrupted run on bags on the hardware it began on; evaluate and report.

    A finished run is only evaluated again.

    Args:
        data: Where the run's bags are now, if they have moved.
    """
    from loss_attention.bags.run import resume_bags

    resume_bags(run, console, data)
    return 0


def evaluate(
    console: Console,
    run: BagRun,
    data: str | None = None,
    columns: tuple[str, ...] = (),
    accelerator: Device = "auto",
) -> int:
    """Measure how the test bags are told and how instances are found, beside trivial baselines.

    Instances are measured where the data has labels of them. Scores on the run's own bags are also
    written to the run's folder.

    Args:
        data: Measure on these bags instead of the run's own; classes are matched by name.
        columns: With --data: what its columns are called, as bag=slide_name label=diagnosis. None
            of them given: as in the run's own data, or as they usually are.
    """
    from loss_attention.bags.run import evaluate_bag_run, show_evaluation

    show_evaluation(evaluate_bag_run(run, console, data, accelerator, columns), console)
    return 0


def report(
    console: Console, run: BagRun, data: str | None = None, accelerator: Device = "auto"
) -> int:
    """Evaluate a run on bags and write its report.html again.

    Args:
        data: Where the run's bags are now, if they have moved.
    """
    from loss_attention.bags.run import report_bag_run

    report_bag_run(run, console, data, accelerator)
    return 0


def predict(
    console: Console,
    run: Annotated[
        tyro.conf.Positional[Path],
        tyro.conf.arg(
            help="A run's folder, a .safetensors file, or an exported .onnx file, of a classifier "
            "of bags."
        ),
    ],
    data: Annotated[
        tyro.conf.Positional[tuple[str, ...]],
        tyro.conf.arg(help="A table of instances, or a folder of one file a bag."),
    ],
    format: Literal["table", "csv", "jsonl"] | None = None,
    out: Path | None = None,
    columns: tuple[str, ...] = (),
    accelerator: Device = "auto",
    overwrite: bool = False,
) -> int:
    """Name the class of bags, with its probability; they need no labels.

    Args:
        format: A table for people, or the probabilities of all classes as CSV or JSON lines. None:
            as --out ends, or a table.
        out: Write to this file, ending in .csv or .jsonl. None: print.
        columns: What columns of a table are called, as bag=slide_name. None of them given: as in
            the run's own data, or as they usually are.
        accelerator: auto: a GPU if there is one; for a run, as exported files run on the CPU.
        overwrite: Replace a file that is there.
    """
    kind = prediction_format(out, format, overwrite=overwrite)
    if len(data) != 1:
        raise InputError(
            f"{run} is of bags, and predicts those of one table or folder: {len(data)} were given"
        )
    from loss_attention.bags.run import predict_bags
    from loss_attention.terminal import counted

    with counted("predicting", console) as progress:
        predicted, names = predict_bags(run, data[0], accelerator, progress, columns)
    say_predicted(console, predicted, names, "bag", kind, out)
    return 0


def crossval(
    console: Console,
    data: str,
    out: Path,
    recipe: Annotated[BagRecipe, tyro.conf.arg(name="")],
    poolings: tuple[str, ...] = ("positive-evidence", "loss-attention", "attention", "mean", "max"),
    folds: int = 5,
    repeats: int = 3,
    inner: int = 0,
    learning_rates: tuple[float, ...] = (),
    weight_decays: tuple[float, ...] = (),
    baselines: bool = True,
    labels: Path | None = None,
    columns: tuple[str, ...] = (),
    jobs: int = 1,
) -> int:
    """Cross-validate classifiers of bags side by side, on the same folds.

    What came of each fold is kept in --out: the same command goes on where it was stopped.

    Args:
        data: A table of instances, CSV or parquet, or a folder of one file a bag.
        out: Where scores and predictions go.
        poolings: The ways of weighing instances that are compared.
        folds: Parts that the bags are divided into, each tested on once.
        repeats: Divisions.
        inner: With several learning rates or weight decays: parts of the training bags that one is
            chosen on, anew for each fold. At least 2.
        learning_rates: To choose from, on inner folds. None: that of the recipe.
        weight_decays: Likewise.
        baselines: Also measure the bag's size alone, its mean feature and its single best instance.
        labels: Of bags in a folder: the CSV of their labels. None: the one in the folder, or the
            names of its folders.
        columns: What columns of the table or the CSV are called that do not have their usual names,
            as bag=slide_name label=diagnosis.
        jobs: Folds that are worked on at the same time, each by a process of its own.
    """
    from loss_attention.bags.bag_set import described
    from loss_attention.bags.crossval import Plan, cross_validated
    from loss_attention.bags.labels import how_asked
    from loss_attention.bags.pooling import pooling_named
    from loss_attention.bags.reading import read_bags
    from loss_attention.saving import write_whole
    from loss_attention.terminal import counted, json_text, say_line

    if recipe.pooling != BagRecipe().pooling:
        raise InputError("`pooling` is for one classifier: name those to compare with `poolings`")
    for name in poolings:
        pooling_named(name)
    if len(set(poolings)) < len(poolings) or not poolings:
        raise InputError("`poolings` must be names, each once")
    rates, decays = (
        learning_rates or (recipe.learning_rate,),
        weight_decays or (recipe.weight_decay,),
    )
    if len(rates) * len(decays) > 1 and not inner:
        raise InputError(
            "`inner` must be at least 2 for one of several `learning_rates` or `weight_decays` to "
            "be chosen"
        )
    models = {
        name: [
            replace(recipe, pooling=name, learning_rate=rate, weight_decay=decay)
            for rate in rates
            for decay in decays
        ]
        for name in poolings
    }
    plan = Plan(folds, repeats, recipe.seed, inner)
    with counted("looking at files", console) as progress:
        bags = read_bags(data, labels, progress, how_asked(columns))
    say_line(console, f"{data}: {described(bags)}")
    try:
        with counted("cross-validating", console) as progress:
            found = cross_validated(
                bags,
                models,
                plan,
                out,
                lambda _task, done, whole: progress(done, whole),
                baselines=baselines,
                jobs=jobs,
            )
    except Interrupted as stop:
        raise RunStopped(
            f"stopped; the folds that are done are kept in {out}: the same command goes on",
            stop.number,
        ) from stop
    write_whole(out / SCORES_FILE, json_text({"data": data} | found, indent=2) + "\n")
    console.print(scores_table(found))
    say_line(console, f"scores and predictions: {out / SCORES_FILE}")
    return 0


def explain(
    console: Console,
    run: BagModel,
    data: Annotated[
        tyro.conf.Positional[str],
        tyro.conf.arg(help="A table of instances, or a folder of one file a bag."),
    ],
    out: Path,
    target: str | None = None,
    versus: str | None = None,
    map: Literal["evidence", "contrast", "margin", "weights"] | None = None,
    format: Literal["json", "geojson", "parquet", "jsonl"] = "json",
    shard: str | None = None,
    shards: int | None = None,
    bags: tuple[str, ...] = (),
    top: int = 10,
    pictures: Annotated[bool | None, tyro.conf.DisallowNone] = None,
    zooms: tuple[int, ...] | None = None,
    tile_size: float | None = None,
    thumbnails: Path | None = None,
    thumbnail_downsample: float | None = None,
    most_tiles: int | None = None,
    columns: tuple[str, ...] = (),
    accelerator: Device = "auto",
    overwrite: bool = False,
) -> int:
    """Show which instances of each bag speak for its class, and where on the slide they lie.

    Of each bag a JSON file and, where it has coordinates, a map; index.html shows all of them.

    Args:
        out: The folder for the files.
        target: Explain this class instead of the predicted one.
        versus: Why the target and not this class: show the evidence for the one against the other.
        map: What maps show of the class. evidence: all of it; contrast: the evidence over the mean
            of all classes; margin: that which no other class disputes; weights: how much each
            instance counts, without a sign. None: the evidence, or the contrast where class vectors
            are not centred.
        format: json: files and maps of each bag. geojson: its tiles, for QuPath. parquet, jsonl:
            a table with a row a bag, all instances in it; parquet: in one file or a file for each
            shard.
        shard: With --format parquet: explain only a part of the bags, NUMBER/OF from 1/OF to OF/OF,
            to a file of its own. A shard that is there is skipped. None: all bags.
        shards: With --format parquet: all bags, in so many files, one after the other. Shards that
            are there are skipped.
        bags: Only these, by name. None of them given: all.
        top: How many instances the JSON files list for the class, and as many against it.
        pictures: Draw maps. None: with --format json.
        zooms: Sizes of maps: at 1, the longer side of the slide has 800 pixels. The first lies
            beside the JSON, others in x4 and so on. None: 1 4.
        tile_size: Side of a tile in pixels of the slide. None: the commonest step between
            coordinates.
        thumbnails: A folder of NAME.png or NAME.jpg that are drawn under the maps.
        thumbnail_downsample: Pixels of the slide in one of its thumbnail, which shows the whole
            slide. None: thumbnails show the rectangle around the tiles.
        most_tiles: With --format geojson: tiles of a bag, those that say most. None: 5000.
        columns: What columns of the table or the CSV are called, as bag=slide_name. None of them
            given: as in the run's own data, or as they usually are.
        overwrite: Replace files that are already in the folder.
    """
    asked: dict[str, dict[str, Any]] = {
        "json": {
            "pictures": pictures,
            "zooms": zooms,
            "thumbnails": thumbnails,
            "thumbnail_downsample": thumbnail_downsample,
        },
        "geojson": {"most_tiles": most_tiles},
        "parquet": {"shard": shard, "shards": shards},
    }
    for of, options in asked.items():
        for name, value in options.items():
            if value is not None and format != of:
                raise InputError(f"`{name}` is for `format` {of}, not for {format}")
    if tile_size is not None and format not in ("json", "geojson"):
        raise InputError(f"`tile_size` is for maps and tiles, and `format` {format} has none")
    if shard is not None and shards is not None:
        raise InputError("`shards` writes all of them: leave `shard`, which is one")
    for name, count, least in (
        ("top", top, 0),
        ("most_tiles", most_tiles, 1),
        ("shards", shards, 1),
    ):
        if count is not None and count < least:
            raise InputError(f"`{name}` must be at least {least}, got {count}")
    from loss_attention.bags import elsewhere, writing
    from loss_attention.bags.explaining import bag_question
    from loss_attention.bags.labels import how_asked
    from loss_attention.bags.reading import read_bags
    from loss_attention.bags.run import columns_of
    from loss_attention.bags.saved import load_bag_model
    from loss_attention.explained.shards import Shard
    from loss_attention.terminal import counted, say_line
    from loss_attention.training.devices import choose_device

    parts = [Shard(number, shards or 1) for number in range(1, (shards or 1) + 1)]
    if shard is not None:
        parts = [Shard.named(shard)]
    maps = None
    if format == "json" and pictures is not False:
        maps = writing.Maps(zooms or writing.ZOOMS, tile_size, thumbnails, thumbnail_downsample)
    model = load_bag_model(run).to(choose_device(accelerator))
    question = bag_question(model, target=target, versus=versus, map=map)
    found = read_bags(data, how=how_asked(columns, columns_of(run), labelled=None))
    if bags:
        found = found.subset(_named(bags, found.names))
    with counted("explaining", console) as progress:
        how: dict[str, Any] = {"overwrite": overwrite, "progress": progress}
        if format == "json":
            summary = writing.write_bags(model, found, out, question, maps=maps, top=top, **how)
        elif format == "geojson":
            most = elsewhere.MOST_TILES if most_tiles is None else most_tiles
            summary = elsewhere.write_tiles(
                model, found, out, question, tile=tile_size, most=most, **how
            )
        else:
            summary = elsewhere.write_table(
                model, found, out, question, format, shards=parts, **how
            )
    for line in writing.said(summary, out):
        say_line(console, line)
    return 0


def _named(wanted: Sequence[str], names: Sequence[str]) -> list[int]:
    """Return the numbers of bags by their names."""
    from loss_attention.errors import nearest_name, quoted

    numbers = {name: number for number, name in enumerate(names)}
    for name in wanted:
        if name not in numbers:
            nearest = nearest_name(name, names)
            hint = "" if nearest is None else f"; did you mean {quoted(nearest)}?"
            raise InputError(f"`bags`: there is no bag {quoted(name)}{hint}")
    return [numbers[name] for name in wanted]


def export(
    console: Console,
    run: BagModel,
    out: Path,
    format: Literal["onnx", "torch"] | None = None,
    mask: bool = False,
    overwrite: bool = False,
) -> int:
    """Write a classifier of bags to a file for other programs, its evidence included, and check it.

    The file takes bags of any number of instances, several of one size at a time. It is run and
    compared with the model: an output that differs by more than 1e-4 is an error, and leaves no
    file.

    Args:
        out: The file, ending in .onnx or .pt2 (torch).
        format: None: as the file's name ends.
        mask: The file also takes a mask, True where an instance is real, so that bags of several
            sizes are taken together.
        overwrite: Replace a file that is there.
    """
    from loss_attention.bags.exporting import export_bags
    from loss_attention.bags.saved import load_bag_model
    from loss_attention.exporting.writing import MOST_DIFFERENCE, check_target
    from loss_attention.terminal import say_line

    check_target(out, format, overwrite=overwrite)
    model = load_bag_model(run)
    written = export_bags(model, out, format, mask=mask, overwrite=overwrite)
    about = written.metadata
    say_line(console, f"{out}: {out.stat().st_size / 1e6:.1f} MB, bags of any size")
    for kind, names in (("inputs", about.inputs), ("outputs", about.outputs)):
        say_line(console, f"{kind}: {', '.join(names)}")
    tried = ", ".join(f"{bags} x {size}" for bags, size in written.tried)
    say_line(
        console,
        f"largest difference from the model: {written.difference:.2g}, at most "
        f"{MOST_DIFFERENCE:g} (bags x instances: {tried})",
    )
    return 0


OF_BAGS: dict[str, Callable[..., int]] = {
    "resume": resume,
    "evaluate": evaluate,
    "report": report,
    "explain": explain,
    "predict": predict,
    "export": export,
}
"""Subcommands that have other options where the model is of bags."""


def _is_of_bags(path: Path, subcommand: str) -> bool:
    """Return whether a run's folder, trained or not, or a file that a subcommand takes, is of bags.

    An exported file is opened for that, which `predict` alone takes.
    """
    if is_bag_run(path) or is_bag_model(path):
        return True
    return subcommand == "predict" and is_exported_bags(path)


def function_for(
    name: str,
    arguments: Sequence[str],
    usual: Callable[..., int],
    options: Callable[[Callable[..., int]], Mapping[str, str]],
) -> Callable[..., int]:
    """Return the function of a subcommand: where its model is of bags, that which is for those.

    Args:
        name: of the subcommand.
        arguments: after it.
        usual: its function for images.
        options: returns the options of a function by their fields.

    Raises:
        InputError: an option of images alone for a model of bags.
    """
    if name not in OF_BAGS:
        return usual
    models = (one for one in arguments if not one.startswith("-") and _is_of_bags(Path(one), name))
    model = next(models, None)
    if model is None:
        return usual
    others = set(options(usual).values()) - set(options(OF_BAGS[name]).values())
    for argument in arguments:
        option = argument.partition("=")[0].replace("_", "-")
        if option in others:
            raise InputError(
                f"{option} is for images, and {model} holds a classifier of bags; see "
                f"loss-attention {name} {model} --help"
            )
    return OF_BAGS[name]


def scores_table(found: dict[str, Any]) -> Any:
    """Return the scores of all classifiers as a table."""
    from rich.table import Table

    headings = {
        "accuracy": "accuracy",
        "exact_match": "exact match",
        "balanced_accuracy": "balanced",
        "auc": "AUC",
        "mean_average_precision": "mAP",
    }
    first = next(iter(found["models"].values()))
    kinds = [kind for kind in headings if kind in first["scores"]]
    table = Table("classifier", box=None)
    for kind in kinds:
        table.add_column(headings[kind], justify="right")
    for name, one in found["models"].items():
        table.add_row(name, *(_shown(one["scores"][kind]) for kind in kinds))
    return table


def _shown(score: dict[str, Any]) -> str:
    spread = "" if score["sd"] is None else f" ± {score['sd']:.3f}"
    return f"{score['mean']:.3f}{spread}"
