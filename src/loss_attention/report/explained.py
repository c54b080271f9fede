"""Explain image files: a picture and a JSON for each, in pixels of the original image.

By the model itself, whose JSON has its patches, box and objects; or by a method of `attribution`.

An explanation has one box an image. Where patches that speak for a class lie apart they may be of
several objects: `metrics/detection.py` defines them, and `evaluate` measures how good they are
("detection AP50"), with a threshold that it chooses on held-out images.
"""

from __future__ import annotations

import io
import itertools
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor

from loss_attention.attribution.maps import METHODS, attribute
from loss_attention.data.decoding import MOST_PIXELS, UnreadableImage, fitted, read_image, to_tensor
from loss_attention.data.placement import Resize, placement_of
from loss_attention.data.sample import to_original
from loss_attention.data.tree import given_images
from loss_attention.errors import InputError, printable, quoted
from loss_attention.evaluation.measuring import images_at_once
from loss_attention.explanation import (
    CONTRAST,
    MARGIN,
    NO_MARGIN,
    Explanation,
    Quantity,
    check_map,
    class_index,
)
from loss_attention.heads import HEADS
from loss_attention.metrics.detection import group_boxes
from loss_attention.metrics.localisation import empty_maps
from loss_attention.model import PatchClassifier
from loss_attention.prediction import MapName, margins, probabilities_of
from loss_attention.report.drawing import LONGEST, Marks, marks_of, overlay, resized
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
from loss_attention.tiling import RefusedPhoto, Tiles, tile_grid

THRESHOLD = 0.5
"""Where no run says what was best on held-out images."""
LEAST_PROBABILITY = 0.5
LEAST_DRAWN = 0.1
"""Objects with a smaller fraction of the evidence are listed, not drawn."""
LONGEST_NAME = 200
MOST_NUMBERS = 1_000_000
"""Of all classes' evidence for the patches of a photo in tiles, which would make files of GBs."""
EVIDENCE_UNITS = (
    "evidence and logits: in units of the logits; the evidence of a class summed over patches is "
    "its logit."
)
NO_EVIDENCE_UNITS = (
    "evidence: null, as no sum over patches is what this model decides on; the patch weights, "
    "which the picture shows, are those of the target class and sum to 1. logits: log-odds of the "
    "lengths of the class capsules."
)
MARGIN_UNITS = (
    "margin: evidence of a patch for a class less that for its closest rival, of which the picture "
    "shows the part above 0 unless told otherwise. No patch of the image puts the target first "
    "where margin_is_empty is true; the picture shows its evidence over the mean of all classes "
    "then."
)
BOX_UNITS = (
    "boxes and windows: [x0, y0, x1, y1] in pixels of the upright original image, x1 and y1 "
    "exclusive."
)
OBJECT_UNITS = (
    "objects: connected patches with more than threshold times the greatest evidence for the class "
    "in the image; score is the probability of the class times share, the fraction of its positive "
    "evidence that is theirs."
)
METHOD_UNITS = (
    "logits: the model's own. heat_map: in its unit, a row of values for each row of pixels of the "
    "image in the size that the model saw it in; it need not add up to the logit."
)

ONE_VS_REST_UNITS = (
    "probabilities: of each class by itself against all others, the sigmoid of its logit; those of "
    "an image need not sum to 1."
)
TILED_UNITS = (
    "tiles: sides in pixels of the tiles that the photo was seen in, the least fraction that two "
    "share, and what the photo's sides were multiplied by; all its patches were weighed together."
)
TARGET_UNITS = (
    "logits and target_evidence: in units of the logits; the evidence of the target class summed "
    "over patches is its logit. evidence: null, as that of all classes would be of "
    f"over {MOST_NUMBERS:,} numbers; margin: null likewise."
)

Progress = Callable[[int, int], None]
Explained = Callable[
    [Tensor, Sequence[tuple[int, int]], Progress | None], Iterator[tuple[dict[str, Any], Marks]]
]


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
    sight = _sight(model, tiles, scale)
    index = None if target is None else class_index(target, model.class_names)
    if method is None:
        rival = None if versus is None else _rival(model, index, versus)
        has_evidence = HEADS[model.spec.head].has_evidence
        check_map(
            map,
            has_evidence=has_evidence,
            competing=model.competing,
            versus=versus is not None,
        )
        explained: Explained = partial(_by_model, model, index, rival, map, object_threshold, sight)
    elif tiles is not None:
        raise InputError("`tile` is for what the model's own patches say: it takes no `method`")
    else:
        for name, asked in (("map", map), ("versus", versus)):
            if asked is not None:
                raise InputError(f"`{name}` is of the model's own patches; leave it or `method`")
        assert model.image_size is not None
        # Tried before anything is written: not every model allows every method.
        attribute(model, model.mean.expand(1, -1, *model.image_size), method, 0)
        explained = partial(_by_method, model, index, method)
    summary = ExplainSummary()
    given = given_images(paths, out)
    summary.unreadable += given.odd
    summary.unread += given.unread
    sources = given.images
    jobs = [
        _Job(source, out / f"{name}.png", out / f"{name}.json")
        for source, name in zip(sources, output_names(sources), strict=True)
    ]
    of_folder = any(path.is_dir() for path in paths)
    whole = [out / INDEX_FILE, out / SHEET_FILE] if of_folder else []
    _refuse_to_replace(jobs, whole, overwrite=overwrite)
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


class _Sight(NamedTuple):
    """How a model sees image files.

    Attributes:
        size: from the height and width of a picture to those that it is resized to.
        resize: how.
        tiles: how it is cut then; None: it is seen at once.
        scale: what its sides are multiplied by, where it is cut.
    """

    size: Callable[[int, int], tuple[int, int]]
    resize: Resize
    tiles: Tiles | None = None
    scale: float = 1.0

    def of(self, image: Image.Image) -> tuple[int, int]:
        """Return the height and width that a picture is seen at."""
        return self.size(image.height, image.width)


def _sight(model: PatchClassifier, tiles: Tiles | None, scale: float) -> _Sight:
    if tiles is None:
        seen = model.image_size
        if seen is None:
            raise InputError("this model does not say the image size that it was trained at")
        if scale != 1:
            raise InputError("`scale` is of photos in tiles: it needs `tile`")
        return _Sight(lambda _height, _width: seen, model.resize)
    if not (math.isfinite(scale) and scale > 0):
        raise InputError(f"`scale` must be above 0 and finite, got {scale}")
    grid = tile_grid(model, tiles)

    def size(height: int, width: int) -> tuple[int, int]:
        if height * width * scale**2 > MOST_PIXELS:
            raise RefusedPhoto(
                f"{height} x {width} pixels at the scale {scale:g} are more than {MOST_PIXELS:,}"
            )
        seen = grid.nearest(*(max(1, round(side * scale)) for side in (height, width)))
        grid.check_photo(*seen)
        return seen

    return _Sight(size, "squash", tiles, scale)


def _rival(model: PatchClassifier, target: int | None, versus: str) -> int:
    rival = class_index(versus, model.class_names)
    if target is None:
        raise InputError("`versus` needs `target`: the class to show the evidence for")
    if rival == target:
        raise InputError(
            f"`versus` {quoted(versus)} is the `target` itself; name the class it is held against"
        )
    return rival


class _Job(NamedTuple):
    """An image file and where what is written for it goes."""

    source: Path
    picture: Path
    description: Path


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
    explained: Explained,
    sight: _Sight,
    progress: Progress | None,
    summary: ExplainSummary,
) -> None:
    readable: list[tuple[_Job, Image.Image]] = []
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
        readable.append((job, _as_seen(resized(image, 1, LONGEST), size, sight.resize)))
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


def _by_model(
    model: PatchClassifier,
    target: int | None,
    versus: int | None,
    map: MapName | None,
    threshold: float,
    sight: _Sight,
    images: UInt8[Tensor, "B C H W"],
    sizes: Sequence[tuple[int, int]],
    progress: Progress | None,
) -> Iterator[tuple[dict[str, Any], Marks]]:
    """Yield the JSON of each image of a batch and what to draw for it, by the model itself."""
    explained = partial(model.explain, images, target, map=map, versus=versus)
    tiles = sight.tiles
    own = explained() if tiles is None else explained(progress=progress, **asdict(tiles))
    objects = find_objects(own, threshold)
    for index, size in enumerate(sizes):
        found = None if objects is None else objects[index]
        boxes = [
            one.box
            for one in found or ()
            if one.class_index == int(own.target[index]) and one.share >= LEAST_DRAWN
        ]
        marks = replace(marks_of(own, index), objects=np.array(boxes, np.float32).reshape(-1, 4))
        described = describe(
            own,
            index,
            model.class_names,
            size,
            sight.resize,
            found,
            threshold,
            most_numbers=None if tiles is None else MOST_NUMBERS,
        )
        if model.spec.one_vs_rest:
            described["units"] += f" {ONE_VS_REST_UNITS}"
        if tiles is not None:
            described["tiles"] = {**asdict(tiles), "scale": sight.scale}
            described["units"] += f" {TILED_UNITS}"
        yield described, marks


def _by_method(
    model: PatchClassifier,
    target: int | None,
    method: str,
    images: UInt8[Tensor, "B C H W"],
    sizes: Sequence[tuple[int, int]],
    progress: Progress | None,  # noqa: ARG001 (of tiles, which a method has none of)
) -> Iterator[tuple[dict[str, Any], Marks]]:
    """Yield the JSON of each image of a batch and what to draw for it, by a named method."""
    with torch.inference_mode():
        logits = model(images).logits
    probabilities = probabilities_of(logits, competing=model.competing)
    explained = logits.argmax(dim=1)
    if target is not None:
        explained = torch.full_like(explained, target)
    maps, usual = attribute(model, images, method, explained).float().cpu(), METHODS[method].shown
    empty = empty_maps(maps) if usual == MARGIN else torch.zeros(len(maps), dtype=torch.bool)
    if empty.any():
        instead = attribute(model, images[empty], "contrast", explained[empty])
        maps[empty] = instead.float().cpu()
    for index, size in enumerate(sizes):
        decided = (logits[index], probabilities[index], int(explained[index]))
        values = [[float(f"{value:.5g}") for value in row] for row in maps[index].tolist()]
        note, shown = (NO_MARGIN, CONTRAST) if empty[index] else ("", usual)
        yield (
            {
                **_decision(*decided, model.class_names, size),
                "method": method,
                "heat_map": {**_shown(shown, note), "values": values},
                "units": f"{METHOD_UNITS} {ONE_VS_REST_UNITS}"
                if model.spec.one_vs_rest
                else METHOD_UNITS,
            },
            Marks(maps[index].numpy(), shown=shown, note=note),
        )


def _shown(shown: Quantity, note: str) -> dict[str, str]:
    """Return what a heat map shows, as JSON; with the reason, where that needs saying."""
    return {"shows": shown.name, "unit": shown.unit} | ({"note": note} if note else {})


def _as_seen(image: Image.Image, size: tuple[int, int], resize: Resize) -> Image.Image:
    """Return a picture with the border that the model sees it with, in the picture's own size."""
    if resize == "squash":  # the heat map is stretched to the picture instead
        return image
    scale = max(image.height / size[0], image.width / size[1])
    return fitted(image, (round(size[0] * scale), round(size[1] * scale)), resize)


def _refuse_to_replace(jobs: Sequence[_Job], whole: Sequence[Path], *, overwrite: bool) -> None:
    """Raise `InputError` for a file in the way: an image always, an explanation unless allowed.

    Args:
        jobs: what is written for each image.
        whole: what is written for all of them.
        overwrite: explanations may be replaced.
    """
    images = {job.source.resolve() for job in jobs}
    for path in (*whole, *(path for job in jobs for path in (job.picture, job.description))):
        if path.resolve() in images:
            raise InputError(f"{path} is one of the images; name another `out`")
        if path.exists() and not overwrite:
            raise InputError(
                f"{path} exists already; name another `out`, or replace it with `overwrite`"
            )


def describe(
    explanation: Explanation,
    index: int,
    class_names: Sequence[str],
    original: tuple[int, int],
    resize: Resize = "squash",
    objects: Sequence[FoundObject] | None = None,
    object_threshold: float = THRESHOLD,
    most_numbers: int | None = None,
) -> dict[str, Any]:
    """Return the JSON of one explained image.

    Args:
        explanation: of its batch.
        index: which image of the batch.
        class_names: of the model.
        original: width and height of the upright original image, in pixels.
        resize: how it was brought to the model's size.
        objects: what was found in it; None: nothing was looked for.
        object_threshold: what they were looked for with.
        most_numbers: evidence of all classes is left out where it would be of more; None: never.
    """
    grid = explanation.grid
    placement = torch.tensor([placement_of(original, (grid.height, grid.width), resize)]).float()

    def originally(boxes: Float[Tensor, "N 4"]) -> list[Any]:
        return _rounded(to_original(boxes.cpu().unsqueeze(0), placement)[0])

    found = [
        {
            "class": class_names[one.class_index],
            "score": one.score,
            "share": one.share,
            "box": [x0, y0, x1, y1],
        }
        for one in objects or ()
        for x0, y0, x1, y1 in originally(torch.tensor([one.box]))
        if x0 < x1 and y0 < y1  # what lies on the border alone is nowhere in the original
    ]
    box = explanation.boxes[index].cpu()
    evidence, of_target = explanation.evidence, explanation.target_evidence
    of_target_margin = explanation.target_margin
    units = [NO_EVIDENCE_UNITS if evidence is None else EVIDENCE_UNITS]
    if evidence is not None and most_numbers is not None and evidence[index].numel() > most_numbers:
        evidence, units = None, [TARGET_UNITS]
    units += [] if of_target_margin is None else [MARGIN_UNITS]
    units += [BOX_UNITS] if objects is None else [BOX_UNITS, OBJECT_UNITS]
    margin = None
    if evidence is not None and of_target_margin is not None:
        margin = margins(evidence[index]).tolist()
    no_margin = explanation.no_margin
    note = NO_MARGIN if explanation.is_empty(index) else ""
    return {
        **_decision(
            explanation.logits[index],
            explanation.probabilities[index],
            int(explanation.target[index]),
            class_names,
            original,
        ),
        "box": None if box.isnan().any() else originally(box.unsqueeze(0))[0],
        "objects": None if objects is None else {"threshold": object_threshold, "found": found},
        "selected_patches": explanation.selected[index].nonzero().squeeze(1).tolist(),
        "patch_weights": explanation.patch_weights[index].tolist(),
        "evidence": None if evidence is None else evidence[index].tolist(),
        "target_evidence": None if of_target is None else of_target[index].tolist(),
        "margin": margin,
        "target_margin": None if of_target_margin is None else of_target_margin[index].tolist(),
        "margin_is_empty": None if no_margin is None else bool(no_margin[index]),
        "versus": _versus(explanation, index, class_names),
        "heat_map": _shown(explanation.shown_of(index), note),
        "grid": {
            "rows": grid.rows,
            "columns": grid.columns,
            "windows": originally(grid.windows()),
        },
        "units": " ".join(units),
    }


def _versus(
    explanation: Explanation, index: int, class_names: Sequence[str]
) -> dict[str, Any] | None:
    """Return what an image's JSON says of the class that the evidence is held against, if any."""
    if explanation.versus is None or explanation.evidence is None:
        return None
    evidence, logits = explanation.evidence[index], explanation.logits[index]
    target, rival = int(explanation.target[index]), int(explanation.versus[index])
    return {
        "class": class_names[rival],
        "difference_of_evidence": (evidence[:, target] - evidence[:, rival]).tolist(),
        "difference_of_logits": float(logits[target] - logits[rival]),
    }


def _rounded(values: Float[Tensor, "*N 4"]) -> list[Any]:
    """Round pixels to hundredths, which is all that a resized image can say."""
    rounded: list[Any] = (values.double() * 100).round().div(100).tolist()
    return rounded


def _decision(
    logits: Float[Tensor, " K"],
    probabilities: Float[Tensor, " K"],
    target: int,
    class_names: Sequence[str],
    original: tuple[int, int],
) -> dict[str, Any]:
    """Return the part of an image's JSON that says what was decided, and what is explained."""
    if not logits.isfinite().all():
        raise InputError("the model's logits are not finite numbers: its weights are damaged")
    predicted = int(logits.argmax())
    return {
        "width": original[0],
        "height": original[1],
        "prediction": class_names[predicted],
        "probability": float(probabilities[predicted]),
        "target": class_names[target],
        "classes": list(class_names),
        "logits": logits.tolist(),
        "probabilities": probabilities.tolist(),
    }


@dataclass(frozen=True)
class FoundObject:
    """A connected group of patches that speak for a class.

    Attributes:
        class_index: of the class.
        score: in [0, 1]: the image's probability of the class times `share`.
        share: the group's fraction of the class's positive evidence in the image, in (0, 1].
        box: the smallest rectangle around its windows, `(x0, y0, x1, y1)` in pixels of the input.
    """

    class_index: int
    score: float
    share: float
    box: tuple[float, float, float, float]


def find_objects(
    explanation: Explanation,
    threshold: float = THRESHOLD,
    *,
    least_probability: float = LEAST_PROBABILITY,
) -> list[list[FoundObject]] | None:
    """Find the objects of each image of an explained batch.

    They are looked for of the explained class and of every likely class. (`evaluate` asks for the
    ten likeliest, as average precision ranks unlikely ones too.)

    Args:
        explanation: of the batch.
        threshold: in [0, 1): patches with more than this fraction of the class's greatest evidence
            in the image belong to an object.
        least_probability: a class that is more probable than this is likely.

    Returns:
        A list for each image, the highest score first; None where the head has no exact evidence.

    Raises:
        ValueError: a threshold that is not in [0, 1).
    """
    if not 0 <= threshold < 1:
        raise InputError(f"threshold must be at least 0 and below 1, got {threshold}")
    if explanation.evidence is None:
        return None
    images, classes, values = _questions(explanation, least_probability)
    probabilities = explanation.probabilities[images, classes].tolist()
    # Scores of 1 make fractions of them, even where a probability underflows.
    found = group_boxes(values, torch.ones(len(values)), explanation.grid, threshold)
    objects: list[list[FoundObject]] = [[] for _ in explanation.target]
    for question, (x0, y0, x1, y1), share in zip(
        found.question.tolist(), found.boxes.tolist(), found.scores.tolist(), strict=True
    ):
        score, box = probabilities[question] * share, (x0, y0, x1, y1)
        objects[int(images[question])].append(
            FoundObject(int(classes[question]), score, share, box)
        )
    return [sorted(some, key=lambda one: (-one.score, -one.share)) for some in objects]


def _questions(
    explanation: Explanation, least_probability: float
) -> tuple[Int[Tensor, " Q"], Int[Tensor, " Q"], Float[Tensor, "Q M"]]:
    """Return the images and the classes to look for there, and each patch's evidence for them."""
    target, evidence = explanation.target, explanation.evidence
    assert evidence is not None
    asked = explanation.probabilities > least_probability
    asked = asked.scatter(1, target.unsqueeze(1), value=True)
    images, classes = asked.nonzero(as_tuple=True)
    return images, classes, evidence[images, :, classes]
