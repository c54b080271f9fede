"""Explain image files: a picture and a JSON for each, and an overview of a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from loss_attention.data.tree import given_images
from loss_attention.errors import InputError
from loss_attention.explained.answers import named
from loss_attention.explained.formats import ImageFormat
from loss_attention.explained.objects import THRESHOLD
from loss_attention.explained.pictures import Drawing, Explained, write_explained
from loss_attention.explained.pipeline import in_order, processes, suitable_processes
from loss_attention.explained.questions import (
    Question,
    by_method,
    by_model,
    images_together,
    own_question,
    sight_of,
)
from loss_attention.explained.reading import ReadImage, read_batches, refused
from loss_attention.explained.sources import Job, files_of, jobs_of, refuse_to_replace
from loss_attention.explanation import class_index
from loss_attention.model import PatchClassifier
from loss_attention.prediction import MapName
from loss_attention.report.overview import (
    INDEX_FILE,
    MOST,
    SHEET_FILE,
    Entry,
    contact_sheet,
    index_page,
)
from loss_attention.saving import make_folder, write_whole
from loss_attention.tiling import RefusedPhoto, Tiles


@dataclass
class ExplainSummary:
    """What became of each file.

    Attributes:
        written: the files, but for pictures: a JSON for each explained image, for instance.
        entries: likewise what was explained, for an overview.
        index: the page of all; None: no folder was explained.
        count: how many images were explained.
        unreadable: a line for each file that is not an image.
        unread: a line for each kind of file in the folders that may be meant as images and is not
            read.
    """

    written: list[Path] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    index: Path | None = None
    count: int = 0
    unreadable: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)


def explain_files(
    model: PatchClassifier,
    paths: Sequence[Path],
    out: Path,
    *,
    batch_size: int = 64,
    target: str | None = None,
    method: str | None = None,
    map: MapName | None = None,
    versus: str | None = None,
    object_threshold: float = THRESHOLD,
    tiles: Tiles | None = None,
    scale: float = 1.0,
    pictures: bool = True,
    image_format: ImageFormat = "png",
    workers: int | None = 0,
    overwrite: bool = False,
    progress: Callable[..., None] | None = None,
) -> ExplainSummary:
    """Explain image files and folders of them.

    Args:
        model: a trained model with patches; images are resized to the size that it was trained at,
            unless there are `tiles`.
        paths: image files, and folders whose images are taken, sub-folders included.
        out: where NAME.json and NAME.png (or .jpg, .webp) go; see `output_names` for NAME. What
            lies in it is not explained, even where it is inside one of the folders. Where one of
            the paths is a folder, index.html and contact-sheet.jpg show all of them.
        batch_size: images at a time, of large ones fewer.
        target: name of the class to explain; None: the predicted one of each image.
        method: one of `attribution.maps.METHODS`; None: what the model itself says of its patches.
        map: what of that is shown; None: see `explanation.default_map`.
        versus: name of a class to show the evidence for `target` against.
        object_threshold: see `find_objects`.
        tiles: how photos are cut that are explained at their own size, one at a time.
        scale: with `tiles`, factor of the sides of photos before they are cut, above 0.
        pictures: draw them; without, JSON files alone are written.
        image_format: of the pictures: png keeps every pixel, jpeg and webp take less time and room.
        workers: processes that draw and write; 0: none, this one does; None: as many as suit. A
            script that asks for some has `if __name__ == "__main__":` (see `multiprocessing`).
        overwrite: replace explanations that are there already.
        progress: called with the number of files done and of all files; with `tiles`, of tiles of a
            photo, and its name.

    Raises:
        InputError: before anything is written: a model without patches or image size, an unknown
            class, a map that the model does not have, a path that is not there, a folder without
            images, an output that exists or would replace an image; tiles that the model does not
            take, or that `method` cannot use. Later: a full disk, weights that give no finite
            logits, a process that was ended.
    """
    question: Question
    if method is None:
        asked = own_question(
            model,
            target=target,
            versus=versus,
            map=map,
            threshold=object_threshold,
            tiles=tiles,
            scale=scale,
        )
        sight, question = asked.sight, partial(by_model, model, asked)
    elif tiles is not None:
        raise InputError("`tile` is for what the model's own patches say: it takes no `method`")
    else:
        for name, given in (("map", map), ("versus", versus)):
            if given is not None:
                raise InputError(f"`{name}` is for the model's own patches; leave it or `method`")
        sight, question = sight_of(model, None, scale), _method_question(model, target, method)
    found = given_images(paths, out)
    summary = ExplainSummary(unreadable=found.odd, unread=found.unread)
    jobs = jobs_of(found.images, out, image_format, pictures=pictures)
    of_folder = pictures and any(path.is_dir() for path in paths)
    whole = [out / INDEX_FILE, out / SHEET_FILE] if of_folder else []
    refuse_to_replace(found.images, [*whole, *files_of(jobs)], overwrite=overwrite)
    make_folder(out)
    batch_size = images_together(model, sight, batch_size)
    batches = read_batches(
        found.images, sight, model.spec.in_channels, batch_size, pictures=pictures
    )
    tasks = (
        task
        for batch in batches
        for task in _answers(model, question, batch, jobs, image_format, summary, progress)
    )
    count = suitable_processes(len(jobs)) if workers is None else workers
    with closing(batches), processes(count) as submit:
        for written in in_order(submit, write_explained, tasks, batch_size + 2 * count):
            summary.count += 1
            summary.written += [written.description] if written.description else []
            summary.entries += [written.entry] if written.entry else []
            if progress is not None and tiles is None:
                progress(written.number + 1, len(jobs))
    if progress is not None and tiles is None:
        progress(len(jobs), len(jobs))
    if whole and summary.entries:
        summary.index = out / INDEX_FILE
        write_whole(summary.index, index_page(summary.entries))
        write_whole(out / SHEET_FILE, contact_sheet(summary.entries))
    return summary


def _method_question(model: PatchClassifier, target: str | None, method: str) -> Question:
    """Return what is asked of a method, once it is tried: not every model allows every method."""
    from loss_attention.attribution.maps import attribute

    index = None if target is None else class_index(target, model.class_names)
    assert model.image_size is not None
    attribute(model, model.mean.expand(1, -1, *model.image_size), method, 0)
    return partial(by_method, model, index, method)


def _answers(
    model: PatchClassifier,
    question: Question,
    batch: Sequence[ReadImage],
    jobs: Sequence[Job],
    image_format: ImageFormat,
    summary: ExplainSummary,
    progress: Callable[..., None] | None,
) -> Iterator[Explained]:
    """Yield what is to be written of a batch; note which of its images cannot be explained."""
    summary.unreadable += [image.error for image in batch if image.pixels is None]
    readable = [image for image in batch if image.pixels is not None]
    if not readable:
        return
    pixels = torch.stack([image.pixels for image in readable if image.pixels is not None])
    told = None if progress is None else named(progress, readable[0])
    try:
        # All of them, before any is written: the model may turn out to be damaged.
        sizes = [image.size for image in readable]
        answers = list(question(pixels.to(model.mean.device), sizes, told))
    except RefusedPhoto as error:  # one at a time, where there are tiles
        summary.unreadable.append(refused(readable[0].source, error))
        return
    for image, (described, marks) in zip(readable, answers, strict=True):
        job, drawing = jobs[image.number], None
        if job.picture is not None and image.picture is not None:
            wanted = image.number < MOST
            drawing = Drawing(job.picture, image_format, image.picture, marks, wanted)
        yield Explained(image.number, str(job.source), job.description, described, drawing)
