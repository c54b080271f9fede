"""Explain image files: a picture and a JSON for each, and an overview of a folder."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from PIL import Image

from loss_attention.data.decoding import UnreadableImage, read_image, to_tensor
from loss_attention.data.sample import images_at_once
from loss_attention.errors import InputError, printable
from loss_attention.explained.objects import THRESHOLD
from loss_attention.explained.questions import (
    Explained,
    Progress,
    Sight,
    as_seen,
    by_method,
    by_model,
    rival_of,
    sight_of,
)
from loss_attention.explained.sources import Job, output_names, refuse_to_replace, sources_of
from loss_attention.explanation import check_map, class_index
from loss_attention.heads import HEADS
from loss_attention.model import PatchClassifier
from loss_attention.prediction import MapName
from loss_attention.report.drawing import LONGEST, overlay, resized
from loss_attention.report.overview import (
    INDEX_FILE,
    MOST,
    SHEET_FILE,
    Entry,
    contact_sheet,
    index_page,
    small,
)
from loss_attention.saving import make_folder, write_whole
from loss_attention.terminal import json_text
from loss_attention.tiling import RefusedPhoto, Tiles


@dataclass
class ExplainSummary:
    """What became of each file.

    Attributes:
        written: the JSON files, one for each explained image.
        entries: likewise what was explained, for an overview.
        index: the page of all; None: no folder was explained.
        unreadable: a line for each file that is no image.
        unread: a line for each kind of file in the folders that may be meant as images and is not
            read.
    """

    written: list[Path] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    index: Path | None = None
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
    overwrite: bool = False,
    progress: Callable[..., None] | None = None,
) -> ExplainSummary:
    """Explain image files and folders of them.

    Args:
        model: a trained model with patches; images are resized to the size that it was trained at,
            unless there are `tiles`.
        paths: image files, and folders whose images are taken, sub-folders included.
        out: where NAME.png and NAME.json go; see `output_names` for NAME. What lies in it is not
            explained, even where it is inside one of the folders. Where one of the paths is a
            folder, index.html and contact-sheet.jpg show all of them.
        batch_size: images at a time, of large ones fewer.
        target: name of the class to explain; None: the predicted one of each image.
        method: one of `attribution.maps.METHODS`; None: what the model itself says of its patches.
        map: what of that is shown; None: see `explanation.default_map`.
        versus: name of a class to show the evidence for `target` against.
        object_threshold: see `find_objects`.
        tiles: how photos are cut that are explained at their own size, one at a time.
        scale: with `tiles`, factor of the sides of photos before they are cut, above 0.
        overwrite: replace explanations that are there already.
        progress: called with the number of files done and of all files; with `tiles`, of tiles of a
            photo, and its name.

    Raises:
        InputError: before anything is written: a model without patches or image size, an unknown
            class, a map that the model does not have, a path that is not there, a folder without
            images, an output that exists or would replace an image; tiles that the model does not
            take, or that `method` cannot use. Later: a full disk, weights that give no finite
            logits.
    """
    if method is None and HEADS[model.spec.head].pooled_backbone:
        raise InputError(
            f"a model with the head {model.spec.head} has no patches, so it has no evidence "
            "to show; train with `head` loss-attention, or try `method` cam or `method` grad-cam"
        )
    sight = sight_of(model, tiles, scale)
    index = None if target is None else class_index(target, model.class_names)
    if method is None:
        rival = None if versus is None else rival_of(model, index, versus)
        has_evidence = HEADS[model.spec.head].has_evidence
        check_map(
            map,
            has_evidence=has_evidence,
            competing=model.competing,
            versus=versus is not None,
        )
        explained: Explained = partial(by_model, model, index, rival, map, object_threshold, sight)
    elif tiles is not None:
        raise InputError("`tile` is for what the model's own patches say: it takes no `method`")
    else:
        for name, asked in (("map", map), ("versus", versus)):
            if asked is not None:
                raise InputError(f"`{name}` is of the model's own patches; leave it or `method`")
        from loss_attention.attribution.maps import attribute

        assert model.image_size is not None
        # Tried before anything is written: not every model allows every method.
        attribute(model, model.mean.expand(1, -1, *model.image_size), method, 0)
        explained = partial(by_method, model, index, method)
    sources, unreadable, unread = sources_of(paths, out)
    summary = ExplainSummary(unreadable=unreadable, unread=unread)
    jobs = [
        Job(source, out / f"{name}.png", out / f"{name}.json")
        for source, name in zip(sources, output_names(sources), strict=True)
    ]
    of_folder = any(path.is_dir() for path in paths)
    whole = [out / INDEX_FILE, out / SHEET_FILE] if of_folder else []
    refuse_to_replace(jobs, whole, overwrite=overwrite)
    make_folder(out)
    size = model.image_size
    batch_size = 1 if tiles is not None or size is None else images_at_once(size, batch_size)
    for start in range(0, len(jobs), batch_size):
        some = jobs[start : start + batch_size]
        told = None
        if progress is not None and tiles is not None:
            told = partial(_told, progress, some[0].source.name)
        _explain_batch(model, some, explained, sight, told, summary)
        if progress is not None and tiles is None:
            progress(min(start + batch_size, len(jobs)), len(jobs))
    if whole and summary.entries:
        summary.index = out / INDEX_FILE
        write_whole(summary.index, index_page(summary.entries))
        write_whole(out / SHEET_FILE, contact_sheet(summary.entries))
    return summary


def _told(progress: Callable[..., None], name: str, done: int, total: int) -> None:
    progress(done, total, name)


def _explain_batch(
    model: PatchClassifier,
    jobs: Sequence[Job],
    explained: Explained,
    sight: Sight,
    progress: Progress | None,
    summary: ExplainSummary,
) -> None:
    readable: list[tuple[Job, Image.Image]] = []
    inputs, sizes = [], []
    for job in jobs:
        try:
            image = read_image(job.source, model.spec.in_channels)
            size = sight.of(image)
        except UnreadableImage as error:
            summary.unreadable.append(str(error))
            continue
        except RefusedPhoto as error:
            summary.unreadable.append(f"{printable(str(job.source))}: {error}")
            continue
        inputs.append(to_tensor(image, size, sight.resize))
        sizes.append(image.size)
        # A batch of photos in full size would fill the memory.
        readable.append((job, as_seen(resized(image, 1, LONGEST), size, sight.resize)))
        del image
    if not readable:
        return
    pixels = torch.stack(inputs).to(model.mean.device)
    inputs.clear()
    try:
        # All of them, before any is written: the model may turn out to be damaged.
        found = list(explained(pixels, sizes, progress))
    except RefusedPhoto as error:  # one at a time, where there are tiles
        summary.unreadable.append(f"{printable(str(jobs[0].source))}: {error}")
        return
    for (job, image), (described, marks) in zip(readable, found, strict=True):
        said = {key: described[key] for key in ("prediction", "probability", "target")}
        if described.get("versus"):
            said["target"] += f" against {described['versus']['class']}"
        picture, drawn = overlay(image, marks, **said), io.BytesIO()
        picture.save(drawn, "PNG")
        write_whole(job.picture, drawn.getvalue())
        text = json_text({"file": str(job.source)} | described)
        write_whole(job.description, text + "\n")
        summary.written.append(job.description)
        seen = small(picture) if len(summary.entries) < MOST else None
        names = (str(job.source), job.picture.name, job.description.name)
        summary.entries.append(Entry(*names, **said, small=seen))
