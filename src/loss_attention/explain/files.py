"""Explain image files: a picture and a JSON for each, in pixels of the original image."""

from __future__ import annotations

import io
import itertools
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from loss_attention.data.decoding import (
    UnreadableImage,
    fitted,
    list_images,
    read_image,
    to_tensor,
)
from loss_attention.data.placement import Resize, place, to_original
from loss_attention.errors import InputError, unknown_name
from loss_attention.explain.attributions_files import (
    check_method,
    describe_attribution,
    describe_decision,
    explain_by,
)
from loss_attention.explain.drawing import LONGEST, Marks, marks_of, overlay, resized
from loss_attention.explanation import Explanation
from loss_attention.heads.catalog import HEADS
from loss_attention.models import PatchClassifier
from loss_attention.saving import make_folder, write_whole

EVIDENCE_UNITS = (
    "evidence and logits: in units of the logits; the evidence of a class summed over patches is "
    "its logit."
)
MANY_CLASSES_UNITS = (
    "evidence: null, as there are too many classes to list it for each. target_evidence and "
    "logits: in units of the logits; target_evidence summed over patches is the logit of the "
    "target class."
)
NO_EVIDENCE_UNITS = (
    "evidence: null, as no sum over patches is what this model decides on; the patch weights, "
    "which the picture shows, are those of the target class and sum to 1. logits: log-odds of the "
    "lengths of the class capsules."
)
BOX_UNITS = (
    "boxes and windows: [x0, y0, x1, y1] in pixels of the upright original image, x1 and y1 "
    "exclusive."
)
LONGEST_NAME = 200


@dataclass
class ExplainSummary:
    """What became of each file.

    Attributes:
        written: the JSON files, one for each explained image.
        unreadable: a line for each file that is no image.
    """

    written: list[Path] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)


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
    index = _class_index(model, target)
    sources = _sources(paths, out)
    jobs = [
        _Job(source, out / f"{name}.png", out / f"{name}.json")
        for source, name in zip(sources, output_names(sources), strict=True)
    ]
    _refuse_to_replace(jobs, overwrite=overwrite)
    make_folder(out)
    summary = ExplainSummary()
    for start in range(0, len(jobs), batch_size):
        _explain_batch(model, jobs[start : start + batch_size], index, method, summary)
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
    # File systems take up to 255 bytes; an ending and a number come on top.
    tries = [
        [way(path).encode()[:LONGEST_NAME].decode(errors="ignore") for way in ways]
        for path in sources
    ]
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


def describe(
    explanation: Explanation,
    index: int,
    class_names: Sequence[str],
    original: tuple[int, int],
    resize: Resize = "squash",
) -> dict[str, Any]:
    """Return the JSON of one explained image.

    Args:
        explanation: of its batch.
        index: which image of the batch.
        class_names: of the model.
        original: width and height of the upright original image, in pixels.
        resize: how it was brought to the model's size.
    """
    grid = explanation.grid
    placement = torch.tensor([place(original, (grid.height, grid.width), resize)]).float()

    def originally(boxes: Float[Tensor, "N 4"]) -> list[Any]:
        return _rounded(to_original(boxes.cpu().unsqueeze(0), placement)[0])

    box = explanation.boxes[index].cpu()
    evidence, of_target = explanation.evidence, explanation.target_evidence
    units = EVIDENCE_UNITS
    if evidence is None:
        units = NO_EVIDENCE_UNITS if of_target is None else MANY_CLASSES_UNITS
    return {
        **describe_decision(explanation, index, class_names, original),
        "box": None if box.isnan().any() else originally(box.unsqueeze(0))[0],
        "selected_patches": explanation.selected[index].nonzero().squeeze(1).tolist(),
        "patch_weights": explanation.patch_weights[index].tolist(),
        "evidence": None if evidence is None else evidence[index].tolist(),
        "target_evidence": None if of_target is None else of_target[index].tolist(),
        "heat_map": {"shows": explanation.shown.name, "unit": explanation.shown.unit},
        "grid": {
            "rows": grid.rows,
            "columns": grid.columns,
            "windows": originally(grid.windows()),
        },
        "units": f"{units} {BOX_UNITS}",
    }


def _explain_batch(
    model: PatchClassifier,
    jobs: Sequence[_Job],
    target: int | None,
    method: str | None,
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
        target,
        method,
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
        text = json.dumps({"file": str(job.source)} | described, ensure_ascii=False)
        write_whole(job.description, text + "\n")
        summary.written.append(job.description)


def _explained(
    model: PatchClassifier,
    images: Tensor,
    sizes: Sequence[tuple[int, int]],
    target: int | None,
    method: str | None,
) -> list[tuple[dict[str, Any], Marks]]:
    """Return the JSON of each image of a batch and what to draw for it."""
    names = model.class_names
    if method is None:
        own = model.explain(images, target)
        return [
            (describe(own, index, names, size, model.resize), marks_of(own, index))
            for index, size in enumerate(sizes)
        ]
    found = explain_by(model, images, target, method)
    return [
        (describe_attribution(found, index, names, size), found.marks(index))
        for index, size in enumerate(sizes)
    ]


def _as_seen(image: Image.Image, size: tuple[int, int], resize: Resize) -> Image.Image:
    """Return a picture with the border that the model sees it with, in the picture's own size."""
    if resize == "squash":  # the heat map is stretched to the picture instead
        return image
    scale = max(image.height / size[0], image.width / size[1])
    return fitted(image, (round(size[0] * scale), round(size[1] * scale)), resize)


def _class_index(model: PatchClassifier, target: str | None) -> int | None:
    if target is None:
        return None
    if target not in model.class_names:
        raise unknown_name("class", target, model.class_names)
    return model.class_names.index(target)


def _sources(paths: Sequence[Path], out: Path) -> list[Path]:
    """Return the image files that the paths name, each once, in order."""
    sources: dict[Path, Path] = {}
    results = out.resolve()
    for path in paths:
        if path.is_dir():
            found = [file for file in list_images(path) if results not in file.resolve().parents]
            if not found:
                raise InputError(
                    f"the images of {path} are in the --out folder itself; name another"
                    if results in (path.resolve(), *path.resolve().parents) and list_images(path)
                    else f"the folder {path} holds no images"
                )
        elif path.exists():
            found = [path]
        else:
            raise InputError(f"there is no file or folder {path}")
        for file in found:
            sources.setdefault(file.resolve(), file)
    return list(sources.values())


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


def _rounded(values: Float[Tensor, "*N 4"]) -> list[Any]:
    """Round pixels to hundredths, which is all that a resized image can say."""
    rounded: list[Any] = (values.double() * 100).round().div(100).tolist()
    return rounded
