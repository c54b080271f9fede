"""The subcommands that take a model elsewhere: `export` and `predict`.

`predict` loads no torch where it is given an exported file.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from loss_attention.cli.options import Device
from loss_attention.cli.subcommands import fail
from loss_attention.errors import InputError, printable

if TYPE_CHECKING:
    from rich.console import Console

    from loss_attention.exporting.quantising import QuantisationLoss
    from loss_attention.exporting.reading import ExportedModel
    from loss_attention.model import PatchClassifier
    from loss_attention.predicting import Classifier, Predicted
    from loss_attention.training.run_folder import RunFolder

Model = Annotated[
    tyro.conf.Positional[Path],
    tyro.conf.arg(help="A run's folder, a .safetensors file of this package, or a Hub id."),
]
ModelOrFile = Annotated[
    tyro.conf.Positional[Path],
    tyro.conf.arg(
        help="A run's folder, a .safetensors file, a Hub id, or an exported file: .onnx, .xml or "
        ".pt2."
    ),
]
CALIBRATION = 128
HELD_OUT = 500
"""Images that 8 bits are calibrated on, and that their loss is measured on, at most."""


def export(
    console: Console,
    run: Model,
    out: Path,
    format: Literal["onnx", "torch", "openvino"] | None = None,
    upsample: bool = False,
    input_type: Literal["uint8", "float32"] = "uint8",
    sizes: Literal["any", "fixed"] | None = None,
    image_size: tuple[int, int] | None = None,
    int8: bool = False,
    data: str | None = None,
    overwrite: bool = False,
) -> int:
    """Write a model to a file for other programs, its evidence included, and check the file.

    The file takes any number of images. It is run on batches of 1, 4 and 7 and compared with the
    model: an output that differs by more than 1e-4 is an error, and leaves no file.

    Args:
        out: The file, ending in .onnx, .pt2 (torch) or .xml (OpenVINO).
        format: None: as the file's name ends.
        upsample: Paint the map on the pixels; else it has one value a patch.
        input_type: Of the images that the file takes: uint8 in 0..255 or float32 in [0, 1].
        sizes: Whether the file takes any height and width, or that of --image-size alone. None: any
            where the network allows it, but fixed with a network of timm or transformers, of which
            any takes several times as long to write.
        image_size: Height and width of the images. None: those that the model was trained at.
        int8: Compute convolutions in 8 bits, calibrated on the run's training images, and print
            what that loses on held-out images. ONNX only.
        data: With --int8: where the run's data is now, if it has moved.
        overwrite: Replace a file that is there.
    """
    from loss_attention.exporting.writing import BATCHES, MOST_DIFFERENCE, check_target
    from loss_attention.exporting.writing import export as write
    from loss_attention.model import load
    from loss_attention.terminal import say_line
    from loss_attention.training.finished import load_weights, written_to
    from loss_attention.training.run_folder import RunFolder

    check_target(out, format, overwrite=overwrite)
    if data is not None and not int8:
        raise InputError("`data` is for images that 8 bits are calibrated on: it needs `int8`")
    folder = RunFolder.open(run) if (run / "recipe.yaml").is_file() else None
    if int8 and folder is None:
        raise InputError("`int8` needs a run's folder, whose training images it is calibrated on")
    model = load(run) if folder is None else load_weights(folder)
    with written_to(folder, out):
        images: Any = None
        if folder is not None and int8:
            images = _images_of(folder, console, data)
        written = write(
            model,
            out,
            format,
            upsample=upsample,
            input_type=input_type,
            image_size=image_size,
            sizes=sizes,
            calibration=None if images is None else images[0],
            overwrite=overwrite,
        )
    about = written.metadata
    size = out.stat().st_size + (
        out.with_suffix(".bin").stat().st_size if out.suffix.lower() == ".xml" else 0
    )
    say_line(console, f"{out}: {size / 1e6:.1f} MB, {about.input['type']} images, any batch")
    say_line(console, f"takes images of {about.input['sizes']}")
    say_line(console, f"outputs: {', '.join(about.outputs)}")
    batches = f"batches of {', '.join(map(str, BATCHES[:-1]))} and {BATCHES[-1]} images"
    of = " and ".join(f"{height} x {width}" for height, width in written.tried)
    if int8:
        say_line(
            console, f"largest difference of a logit: {written.difference:.2g} ({batches} of {of})"
        )
        for line in _loss_lines(_loss(model, out, images), images[3]):
            say_line(console, line)
    else:
        say_line(
            console,
            f"largest difference from the model: {written.difference:.2g}, at most "
            f"{MOST_DIFFERENCE:g} ({batches} of {of})",
        )
    return 0


def _images_of(folder: RunFolder, console: Console, data: str | None) -> tuple[Any, Any, Any, str]:
    """Return training images of a run, and held-out images with their labels and what they are."""
    import torch

    from loss_attention import runs

    splits = runs.own_data(folder, console, data=data)
    order = torch.randperm(len(splits.train), generator=torch.Generator().manual_seed(0))
    calibration = splits.train.take(order[:CALIBRATION].sort().values).images.numpy()
    held_out, name = splits.validation, "validation"
    if not len(held_out):
        held_out, name = splits.test, "test"
    order = torch.randperm(len(held_out), generator=torch.Generator().manual_seed(0))
    some = held_out.take(order[:HELD_OUT].sort().values)
    return calibration, some.images.numpy(), some.labels.numpy(), name


def _loss(model: PatchClassifier, out: Path, images: Any) -> QuantisationLoss:
    from loss_attention.exporting.quantising import quantisation_loss
    from loss_attention.exporting.reading import ExportedModel

    return quantisation_loss(model, ExportedModel(out), images[1], images[2])


def _loss_lines(loss: QuantisationLoss, split: str) -> list[str]:
    change = loss.quantised_accuracy - loss.accuracy
    lines = [
        f"accuracy on {loss.images} {split} images: {loss.accuracy:.3f} in float32, "
        f"{loss.quantised_accuracy:.3f} in 8 bits ({change:+.3f})"
    ]
    if loss.margin_agreement is not None:
        lines.append(
            f"margin agreement: {loss.margin_agreement:.3f} (the part of its sum that a map has on "
            "the same patches in both, mean over the images; 1: the same maps)"
        )
    return lines


def predict(
    console: Console,
    run: ModelOrFile,
    images: Annotated[
        tyro.conf.Positional[tuple[Path, ...]],
        tyro.conf.arg(help="Image files, or folders of images."),
    ],
    format: Literal["table", "csv", "jsonl"] | None = None,
    out: Path | None = None,
    accelerator: Device = "auto",
    overwrite: bool = False,
) -> int:
    """Name the class of images, with its probability.

    An exported file needs no torch, and runs on the CPU.

    Args:
        format: A table for people, or the probabilities of all classes as CSV or JSON lines. None:
            as --out ends, or a table.
        out: Write to this file, ending in .csv or .jsonl. None: print.
        accelerator: auto: a GPU if there is one; for a run, as exported files run on the CPU.
        overwrite: Replace a file that is there.
    """
    from loss_attention.predicting import predict_files
    from loss_attention.terminal import counted

    if not images:
        raise InputError("predict needs image files or folders after the run")
    kind = prediction_format(out, format, overwrite=overwrite)
    classifier = _classifier(run, accelerator)
    with counted("predicting", console) as progress:
        summary = predict_files(classifier, images, progress)
    say_predicted(console, summary.predicted, classifier.class_names, "file", kind, out)
    for line in (*summary.unread, *summary.unreadable):
        fail(line)
    return 2 if summary.unreadable else 0


def say_predicted(
    console: Console,
    predicted: Sequence[Predicted],
    names: tuple[str, ...],
    what: Literal["file", "bag"],
    kind: str,
    out: Path | None,
) -> None:
    """Print what was said of images or bags, or write it to a file.

    Args:
        console: for a table.
        predicted: what was said.
        names: of the classes.
        what: each is the name of.
        kind: table, csv or jsonl; see `prediction_format`.
        out: the file; None: printed.
    """
    from loss_attention.predicting import as_csv, as_jsonl, table_rows

    if kind == "table":
        _show(console, table_rows(predicted, names), what)
        return
    text = (as_csv if kind == "csv" else as_jsonl)(predicted, names, what)
    if out is None:
        sys.stdout.write(text)
        return
    from loss_attention.saving import write_whole

    write_whole(out, text)
    of = "images" if what == "file" else "bags"
    print(printable(f"{len(predicted)} {of}: {out}"))


def prediction_format(out: Path | None, format: str | None, *, overwrite: bool) -> str:
    """Return how predictions are to be written."""
    if out is None:
        return format or "table"
    kind = format or {".csv": "csv", ".jsonl": "jsonl"}.get(out.suffix.lower())
    if kind not in ("csv", "jsonl"):
        raise InputError(f"`out` {out}: write `format` csv or jsonl, such as predictions.csv")
    if out.exists() and not overwrite:
        raise InputError(
            f"{out} exists already; name another `out`, or replace it with `overwrite`"
        )
    if not out.parent.is_dir():
        raise InputError(f"`out` {out}: there is no folder {out.parent}")
    return kind


def _classifier(run: Path, accelerator: Device) -> Classifier:
    """Return what a path names as a classifier; of an exported file without torch."""
    from loss_attention.predicting import OfFile, OfModel

    exported = exported_file(run)
    return OfModel(opened_model(run, accelerator)[0]) if exported is None else OfFile(exported)


def exported_file(path: Path) -> ExportedModel | None:
    """Return the exported file that a path names, opened; None: it is to be a model.

    Raises:
        InputError: a file of an ending that is neither's, or one that `ExportedModel` refuses.
    """
    from loss_attention.exporting.reading import ExportedModel, format_of
    from loss_attention.saving import EXPORT_FORMATS

    if path.suffix.lower() in EXPORT_FORMATS and not path.is_dir():
        return ExportedModel(path)
    if path.is_file() and path.suffix.lower() != ".safetensors":
        format_of(path)  # which says what there is
    return None


def opened_model(run: Path, accelerator: Device) -> tuple[PatchClassifier, RunFolder | None]:
    """Return the model of a run, a file or a Hub id, on a device, and its folder if it is a run."""
    from loss_attention.model import load
    from loss_attention.training.devices import choose_device
    from loss_attention.training.finished import load_weights
    from loss_attention.training.run_folder import RunFolder

    device = choose_device(accelerator)
    folder = RunFolder.open(run) if (run / "recipe.yaml").is_file() else None
    model = load(run) if folder is None else load_weights(folder)
    return model.to(device), folder


def _show(console: Console, rows: list[list[str]], what: str) -> None:
    from loss_attention.report.tables import Column, Table, show_table

    columns = [Column(what, "left"), Column("class", "left"), Column("probability")]
    if any(len(row) > len(columns) for row in rows):
        columns += [Column("next", "left"), Column("probability of it", narrow="of it")]
    show_table(Table(columns, rows), console)
