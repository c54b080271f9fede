"""The subcommand `explain`: images explained by a run, as pictures, JSON or tables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from loss_attention.cli.options import Device
from loss_attention.cli.subcommands import fail
from loss_attention.errors import InputError, printable
from loss_attention.explained.formats import Engine, ExplainedFormat, ImageFormat

if TYPE_CHECKING:
    from rich.console import Console


def explain(
    console: Console,
    run: Annotated[
        tyro.conf.Positional[Path],
        tyro.conf.arg(help="A run's folder, a .safetensors file of this package, or a Hub id."),
    ],
    images: Annotated[
        tyro.conf.Positional[tuple[Path, ...]],
        tyro.conf.arg(help="Image files, or folders of images."),
    ],
    out: Path,
    target: str | None = None,
    versus: str | None = None,
    map: str | None = None,
    method: str | None = None,
    tile: int | None = None,
    overlap: float | None = None,
    scale: float | None = None,
    format: ExplainedFormat = "json",
    shard: str | None = None,
    engine: Engine = "local",
    shards: int | None = None,
    pictures: Annotated[bool | None, tyro.conf.DisallowNone] = None,
    image_format: ImageFormat = "png",
    workers: int | None = None,
    accelerator: Device = "auto",
    overwrite: bool = False,
) -> int:
    """Show where the evidence lies: write a picture and a JSON file for each image, or a table.

    Of a folder of images, index.html and contact-sheet.jpg show all of them.

    Args:
        out: The folder for the pictures and JSON files.
        target: Explain this class instead of the predicted one.
        versus: Why the target and not this class: show the evidence for the one against the other.
        map: What the picture shows of the class. margin: the evidence that no other class disputes;
            contrast: the evidence over the mean of all classes; evidence: all of it. None: the
            margin, or the evidence where each class is decided by itself (several labels, or
            one-vs-rest).
        method: Another map, of any model: margin, contrast, evidence, cam, grad-cam, layer-cam,
            integrated-gradients (these three also with -competition, of the logit less the greatest
            other), occlusion, or a trivial baseline: uniform, random, edges. None: what the model's
            own patches say; the head "baseline" has no patches and needs a method.
        tile: Explain photos at their own size, in tiles with sides of so many pixels, whose patches
            are weighed together. None: resize them to the size that the model was trained at.
        overlap: With --tile: the least fraction of a tile that its neighbour sees too, in [0, 1).
            None: 0.25.
        scale: With --tile: factor of a photo's sides before it is cut, such as 0.5, so that things
            are as large as they were in training. None: 1.
        format: json: a file for each image. parquet: a table with a row for each, in one file or a
            file for each shard. coco, label-studio, fiftyone, qupath: the objects that are found,
            for these programs.
        shard: With --format parquet: explain only a part of the images, NUMBER/OF from 1/OF to
            OF/OF, to a file of its own. A shard that is there is skipped. None: all images.
        engine: local: this process. ray: with --format parquet, all shards at once by actors on the
            Ray cluster of RAY_ADDRESS, or on one that is begun on this machine. Shards that are
            there are skipped.
        shards: With --engine ray: how many there are. None: one for each 10,000 images.
        pictures: Draw them. None: with --format json.
        image_format: Of the pictures. png keeps every pixel; jpeg and webp are faster and smaller.
        workers: Processes that draw and write pictures. None: one for each core, where there are
            100 images or more. With --engine ray: actors, each with the model. None: as many as
            there are GPUs, or as many as find cores for their threads.
        overwrite: Replace explanations that are already in the folder.
    """
    if not images:
        raise InputError("explain needs image files or folders after the run")
    for name, value in (("overlap", overlap), ("scale", scale)):
        if tile is None and value is not None:
            raise InputError(f"`{name}` is for photos in tiles: it needs `tile`")
    if shard is not None and format != "parquet":
        raise InputError("`shard` is for a table: it needs `format` parquet")
    if format != "json" and method is not None:
        raise InputError(
            f"`format` {format} is of what the model's own patches say: it takes no `method`"
        )
    if format not in ("json", "parquet") and pictures:
        raise InputError(f"`format` {format} has no `pictures`; json and parquet have")
    least = 1 if engine == "ray" else 0
    if workers is not None and workers < least:
        raise InputError(f"`workers` must be at least {least}, got {workers}")
    if engine == "ray":
        _check_for_ray(format, shard, pictures=bool(pictures))
    elif shards is not None:
        raise InputError("`shards` is for `engine` ray; for the local one, give `shard` NUMBER/OF")
    from loss_attention.explained.waiting import wait_briefly

    wait_briefly()  # before torch is there
    from loss_attention.explained.files import explain_files
    from loss_attention.explained.objects import THRESHOLD
    from loss_attention.explained.questions import own_question
    from loss_attention.explanation import named_map
    from loss_attention.model import load
    from loss_attention.terminal import counted
    from loss_attention.tiling import OVERLAP, Tiles
    from loss_attention.training.devices import choose_device
    from loss_attention.training.finished import load_weights, object_threshold, written_to
    from loss_attention.training.run_folder import RunFolder

    part = None
    if format == "parquet":
        from loss_attention.explained.shards import Shard, explain_table

        part = Shard() if shard is None else Shard.named(shard)
    tiles = None
    if tile is not None:
        tiles = Tiles(tile=tile, overlap=OVERLAP if overlap is None else overlap)
    device = choose_device("cpu" if engine == "ray" else accelerator)
    folder = RunFolder.open(run) if (run / "recipe.yaml").is_file() else None
    model = (load(run) if folder is None else load_weights(folder)).to(device)
    found = None if folder is None or method else object_threshold(folder)
    threshold, factor = THRESHOLD if found is None else found, 1.0 if scale is None else scale
    with written_to(folder, out), counted("explaining", console) as progress:
        if format != "json":
            question = own_question(
                model,
                target=target,
                versus=versus,
                map=named_map(map),
                threshold=threshold,
                tiles=tiles,
                scale=factor,
            )
        if engine == "ray":
            from loss_attention.explained.on_ray import explain_on_ray, silenced

            with silenced():
                table = explain_on_ray(
                    model,
                    question,
                    images,
                    out,
                    shards=shards,
                    workers=workers,
                    accelerator=accelerator,
                    overwrite=overwrite,
                    progress=progress,
                )
            said = f"{table.rows} images explained in {out}"
            if table.skipped:
                said += f"; {table.skipped} of {table.shards} shards existed already"
            problems = table.unread, table.unreadable
        elif part is not None:
            rows = explain_table(
                model,
                question,
                images,
                out,
                shard=part,
                pictures=bool(pictures),
                image_format=image_format,
                workers=workers,
                overwrite=overwrite,
                progress=progress,
            )
            said = f"{rows.rows} images explained in {rows.path}"
            said = f"{rows.path} exists already: skipped" if rows.skipped else said
            problems = rows.unread, rows.unreadable
        elif format != "json" and format != "parquet":
            from loss_attention.explained.elsewhere import explain_elsewhere

            summary = explain_elsewhere(
                model, question, images, out, format, overwrite=overwrite, progress=progress
            )
            said = f"objects of {summary.count} images written to {out}"
            problems = summary.unread, summary.unreadable
        else:
            summary = explain_files(
                model,
                images,
                out,
                target=target,
                versus=versus,
                map=named_map(map),
                method=method,
                object_threshold=threshold,
                tiles=tiles,
                scale=factor,
                pictures=pictures is not False,
                image_format=image_format,
                workers=workers,
                overwrite=overwrite,
                progress=progress,
            )
            page = "" if summary.index is None else f"; all of them: {summary.index}"
            said = f"{len(summary.written)} images explained in {out}{page}"
            problems = summary.unread, summary.unreadable
    print(printable(said))
    for line in (*problems[0], *problems[1]):
        fail(line)
    return 2 if problems[1] else 0


def _check_for_ray(format: ExplainedFormat, shard: str | None, *, pictures: bool) -> None:
    """Raise `InputError` for what actors do not do."""
    if format != "parquet":
        raise InputError("`engine` ray writes a table: it needs `format` parquet")
    if pictures:
        raise InputError("`engine` ray draws no `pictures`; `engine` local does")
    if shard is not None:
        raise InputError("`shard` is for `engine` local; ray writes all: `shards` says how many")
