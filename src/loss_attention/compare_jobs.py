"""What the word `compare` does: methods of explanation measured side by side, and written down."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from loss_attention import __version__
from loss_attention.attribution.compare import Comparison, compare
from loss_attention.attribution.maps import find_method
from loss_attention.errors import InputError
from loss_attention.jobs import load_weights, written_to
from loss_attention.report.drawing import maps_picture
from loss_attention.report.tables import (
    comparison_json,
    comparison_markdown,
    show_comparison,
)
from loss_attention.run_data import OtherData, measured
from loss_attention.saving import make_folder, write_whole
from loss_attention.terminal import counted, json_text, markdown, say_line
from loss_attention.training.environment import choose_device, hardware, versions
from loss_attention.training.recipe import Accelerator
from loss_attention.training.run_folder import RunFolder

JSON_FILE, MARKDOWN_FILE, PICTURE_FILE = "comparison.json", "comparison.md", "maps.png"


def compare_run(
    path: Path,
    methods: Sequence[str] | None,
    console: Console,
    *,
    data: str | None = None,
    classes: Sequence[str] = (),
    skip_broken: bool = False,
    out: Path | None = None,
    images: int = 50,
    batch_size: int = 32,
    seed: int = 0,
    accelerator: Accelerator = "auto",
    overwrite: bool = False,
) -> Comparison:
    """Compare methods of explanation on a run's best weights and its test images.

    Args:
        path: the run's folder.
        methods: their names; None: all that the model allows. The floors come on top.
        console: where the table goes.
        data: other data than the run's own, with classes of the model.
        classes: of other data take these classes of the model alone; none: all.
        skip_broken: of other data leave out images that something is wrong with, or whose classes
            the model does not know.
        out: where the table, its JSON and a picture go; None: `compare` in the run's folder.
        images: how many to explain.
        batch_size: images at a time.
        seed: which images are drawn.
        accelerator: auto, cpu, cuda, mps or xpu.
        overwrite: replace a comparison that is in the folder.

    Raises:
        InputError: anything that the flags, the run or the data have wrong; nothing is written.
    """
    for name in methods or ():
        find_method(name)
    run = RunFolder.open(path)
    folder = out or path / "compare"
    with written_to(run, folder):
        return _compared(
            run,
            folder,
            methods,
            console,
            other=OtherData.asked(data, classes, skip_broken=skip_broken),
            images=images,
            batch_size=batch_size,
            seed=seed,
            accelerator=accelerator,
            overwrite=overwrite,
        )


def _compared(
    run: RunFolder,
    folder: Path,
    methods: Sequence[str] | None,
    console: Console,
    *,
    other: OtherData | None,
    images: int,
    batch_size: int,
    seed: int,
    accelerator: Accelerator,
    overwrite: bool,
) -> Comparison:
    taken = [folder / name for name in (JSON_FILE, MARKDOWN_FILE, PICTURE_FILE)]
    for file in taken:
        if file.exists() and not overwrite:
            raise InputError(
                f"{file} exists already; name another --out, or replace it with --overwrite"
            )
    device = choose_device(accelerator)
    model = load_weights(run).to(device)
    recipe, found = run.recipe(), measured(run, model, other, console)
    held_out = None if found.own is None else found.own.validation
    with counted("comparing", console) as progress:
        comparison, subject = compare(
            model,
            found.images,
            methods,
            # Cuts chosen on images that it was trained on would flatter whatever fits these.
            train=held_out if held_out is not None and len(held_out) else None,
            images=images,
            batch_size=batch_size,
            seed=seed,
            progress=progress,
        )
    picture = maps_picture(subject, list(comparison.figures))
    facts = {
        "run": recipe.name,
        "head": recipe.head,
        "backbone": recipe.backbone,
        "data": found.source,
        "loss_attention": __version__,
        "versions": versions(),
        "hardware": hardware(device.type, 1, "32"),
    }
    written = json_text(facts | comparison_json(comparison), indent=2)
    title = f"# {markdown(recipe.name)}: methods of explanation compared\n\n"
    title += f"{markdown(found.source)}\n\n"
    make_folder(folder)
    texts: tuple[str | bytes, ...] = (
        written + "\n",
        title + comparison_markdown(comparison),
        picture,
    )
    for file, content in zip(taken, texts, strict=True):
        write_whole(file, content)
    show_comparison(comparison, console)
    say_line(console, f"written: {', '.join(map(str, taken))}")
    return comparison
