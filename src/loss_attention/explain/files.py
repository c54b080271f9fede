"""Explain image files: a picture and a JSON for each, in pixels of the original image."""

from __future__ import annotations

import io
import itertools
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from loss_attention.data.decoding import UnreadableImage, fitted, read_image, to_tensor
from loss_attention.data.files import Listed, list_images
from loss_attention.data.placement import Resize
from loss_attention.errors import InputError, printable
from loss_attention.explain.attributions_files import (
    check_method,
    describe_attribution,
    explain_by,
)
from loss_attention.explain.description import describe
from loss_attention.explain.drawing import LONGEST, Marks, marks_of, overlay, resized
from loss_attention.explain.objects import THRESHOLD, FoundObject, find_objects
from loss_attention.explanation import class_index
from loss_attention.heads.catalog import HEADS
from loss_attention.models import PatchClassifier
from loss_attention.saving import make_folder, write_whole
from loss_attention.showing import json_text

DRAWN_SHARE = 0.1
"""Objects with a smaller share of the evidence are listed, not drawn."""
LONGEST_NAME = 200


@dataclass
class ExplainSummary:
    """What became of each file.

    Attributes:
        written: the JSON files, one for each explained image.
        unreadable: a line for each file that is no image.
        unread: a line for each kind of file in the folders that may be meant as images and is not
            read.
    """

    written: list[Path] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Asked:
    """What is to be explained of every image, and how; see `explain_files`."""

    target: int | None
    method: str | None
    object_threshold: float


@dataclass(frozen=True)
class _Job:
    """An image file and where what is written for it goes."""

    source: Path
    picture: Path
    description: Path


def explain_files(
    model: PatchClassifier,
    paths: Sequence[Path],
    out: Path,
    *,
    batch_size: int = 64,
    target: str | None = None,
    method: str | None = None,
    object_threshold: float = THRESHOLD,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ExplainSummary:
    """Explain image files and folders of them.

    Args:
        model: a trained model with patches; images are resized to the size that it was trained at.
        paths: image files, and folders whose images are taken, sub-folders included.
        out: where NAME.png and NAME.json go; see `output_names` for NAME. What lies in it is not
            explained, even where it is inside one of the folders.
        batch_size: images at a time.
        target: name of the class to explain; None: the predicted one of each image.
        method: one of `attributions.METHODS`; None: what the model itself says of its patches.
        object_threshold: see `find_objects`.
        overwrite: replace explanations that are there already.
        progress: called with the number of files done and of all files.

    Raises:
        InputError: before anything is written: a model without patches or image size, an unknown
            class, a path that is not there, a folder without images, an output that exists or
            would replace an image. Later: a full disk, weights that give no finite logits.
    """
    if method is None and HEADS[model.config["head"]].pooled_backbone:
        raise InputError(
            f"a model with the head {model.config['head']} has no patches, so it has no evidence "
            "to show; train with --head loss-attention, or try --method cam or --method grad-cam"
        )
    if model.image_size is None:
        raise InputError("this model does not say the image size that it was trained at")
    if method is not None:
        check_method(model, model.image_size, method)
    asked = _Asked(_class_index(model, target), method, object_threshold)
    summary = ExplainSummary()
    sources = _sources(paths, out, summary)
    jobs = [
        _Job(source, out / f"{name}.png", out / f"{name}.json")
        for source, name in zip(sources, output_names(sources), strict=True)
    ]
    _refuse_to_replace(jobs, overwrite=overwrite)
    make_folder(out)
    for start in range(0, len(jobs), batch_size):
        _explain_batch(model, jobs[start : start + batch_size], asked, summary)
        if progress is not None:
            progress(min(start + batch_size, len(jobs)), len(jobs))
    return summary


def output_names(sources: Sequence[Path]) -> list[str]:
    """Return a name for each file, all different, even where upper and lower case are one.

    It is the file's name without its ending; with the ending, or with the folder too, where that
    is needed to tell files apart; and numbered where nothing else helps.

    Example:
        >>> output_names([Path("x/a.jpg"), Path("x/a.png"), Path("x/b.png"), Path("y/b.png")])
        ['a.jpg', 'a.png', 'x-b.png', 'y-b.png']
    """
    ways: tuple[Callable[[Path], str], ...] = (
        lambda path: path.stem,
        lambda path: path.name,
        lambda path: f"{path.parent.name}-{path.name}",
    )
    tries = [[_cut(way(path)) for way in ways] for path in sources]
    counts = [Counter(row[way].casefold() for row in tries) for way in range(len(ways))]
    names, taken = [], set[str]()
    for row in tries:
        alone = (
            name for name, count in zip(row, counts, strict=True) if count[name.casefold()] < 2
        )
        base = next(alone, row[-1])
        numbered = (f"{base}-{number}" for number in itertools.count(2))
        name = next(n for n in itertools.chain([base], numbered) if n.casefold() not in taken)
        taken.add(name.casefold())
        names.append(name)
    return names


def _cut(name: str) -> str:
    """Cut a name: file systems take up to 255 bytes; an ending and a number come on top."""
    coded = os.fsencode(name)
    return name if len(coded) <= LONGEST_NAME else coded[:LONGEST_NAME].decode(errors="ignore")


def _explain_batch(
    model: PatchClassifier,
    jobs: Sequence[_Job],
    asked: _Asked,
    summary: ExplainSummary,
) -> None:
    assert model.image_size is not None
    readable: list[tuple[_Job, Image.Image, tuple[int, int]]] = []
    inputs: list[Tensor] = []
    for job in jobs:
        try:
            image = read_image(job.source, model.config["in_channels"])
        except UnreadableImage as error:
            summary.unreadable.append(str(error))
            continue
        inputs.append(to_tensor(image, model.image_size, model.resize))
        # A batch of photos in full size would fill the memory.
        shown = _as_seen(resized(image, 1, LONGEST), model.image_size, model.resize)
        readable.append((job, shown, image.size))
    if not readable:
        return
    described_with_marks = _explained(
        model,
        torch.stack(inputs).to(model.mean.device),
        [size for _, _, size in readable],
        asked,
    )
    for (job, image, _), (described, marks) in zip(readable, described_with_marks, strict=True):
        picture = overlay(
            image,
            marks,
            prediction=described["prediction"],
            probability=described["probability"],
            target=described["target"],
        )
        drawn = io.BytesIO()
        picture.save(drawn, "PNG")
        write_whole(job.picture, drawn.getvalue())
        text = json_text({"file": str(job.source)} | described)
        write_whole(job.description, text + "\n")
        summary.written.append(job.description)


def _explained(
    model: PatchClassifier,
    images: Tensor,
    sizes: Sequence[tuple[int, int]],
    asked: _Asked,
) -> list[tuple[dict[str, Any], Marks]]:
    """Return the JSON of each image of a batch and what to draw for it."""
    names = model.class_names
    if asked.method is not None:
        by_method = explain_by(model, images, asked.target, asked.method)
        return [
            (describe_attribution(by_method, index, names, size), by_method.marks(index))
            for index, size in enumerate(sizes)
        ]
    own, threshold = model.explain(images, asked.target), asked.object_threshold
    objects = find_objects(own, threshold)
    written = []
    for index, size in enumerate(sizes):
        found = None if objects is None else objects[index]
        described = describe(own, index, names, size, model.resize, found, threshold)
        marks = _with_objects(marks_of(own, index), found or (), int(own.target[index]))
        written.append((described, marks))
    return written


def _with_objects(marks: Marks, objects: Sequence[FoundObject], target: int) -> Marks:
    """Add the boxes of what was found of the explained class, but for the faintest."""
    boxes = [one.box for one in objects if one.class_index == target and one.share >= DRAWN_SHARE]
    return replace(marks, objects=np.array(boxes, np.float32).reshape(-1, 4))


def _as_seen(image: Image.Image, size: tuple[int, int], resize: Resize) -> Image.Image:
    """Return a picture with the border that the model sees it with, in the picture's own size."""
    if resize == "squash":  # the heat map is stretched to the picture instead
        return image
    scale = max(image.height / size[0], image.width / size[1])
    return fitted(image, (round(size[0] * scale), round(size[1] * scale)), resize)


def _class_index(model: PatchClassifier, target: str | None) -> int | None:
    return None if target is None else class_index(target, model.class_names)


def _sources(paths: Sequence[Path], out: Path, summary: ExplainSummary) -> list[Path]:
    """Return the image files that the paths name, each once, in order; note what is none."""
    sources: dict[Path, Path] = {}
    results = out.resolve()
    for path in paths:
        if path.is_dir():
            there = list_images(path)
            summary.unreadable += there.odd
            summary.unread += there.unread
            found = [file for file in there.images if results not in file.resolve().parents]
            if not found:
                raise InputError(_no_images(path, there, results))
        elif path.is_file():
            found = [path]
        elif path.exists():
            raise InputError(f"{printable(str(path))} is neither a file nor a folder")
        else:
            raise InputError(f"there is no file or folder {printable(str(path))}")
        for file in found:
            sources.setdefault(file.resolve(), file)
    return list(sources.values())


def _no_images(path: Path, there: Listed, results: Path) -> str:
    folder = printable(str(path))
    if there.images and results in (path.resolve(), *path.resolve().parents):
        return f"the images of {folder} are in the --out folder itself; name another"
    lines = [*there.odd, *there.unread]
    return f"the folder {folder} holds no images" + (f" ({'; '.join(lines)})" if lines else "")


def _refuse_to_replace(jobs: Sequence[_Job], *, overwrite: bool) -> None:
    """Raise `InputError` for a file in the way: an image always, an explanation unless allowed."""
    images = {job.source.resolve() for job in jobs}
    for path in (path for job in jobs for path in (job.picture, job.description)):
        if path.resolve() in images:
            raise InputError(f"{path} is one of the images; name another --out")
        if path.exists() and not overwrite:
            raise InputError(
                f"{path} exists already; name another --out, or replace it with --overwrite"
            )
