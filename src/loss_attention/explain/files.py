"""Explain image files: a picture and a JSON for each, in pixels of the original image."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from loss_attention.data.decoding import UnreadableImage, list_images, read_image, to_tensor
from loss_attention.errors import InputError, unknown_name
from loss_attention.explain.drawing import marks_of, overlay
from loss_attention.explanation import Explanation
from loss_attention.heads.catalog import HEADS
from loss_attention.models import PatchClassifier
from loss_attention.saving import write_whole

UNITS = (
    "evidence and logits: in units of the logits; the evidence of a class summed over patches is "
    "its logit. boxes and windows: [x0, y0, x1, y1] in pixels of the upright original image, x1 "
    "and y1 exclusive."
)


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
    """An image file and the stem of what is written for it."""

    source: Path
    stem: Path

    @property
    def outputs(self) -> tuple[Path, Path]:
        return (
            self.stem.parent / f"{self.stem.name}.png",
            self.stem.parent / f"{self.stem.name}.json",
        )


def explain_files(
    model: PatchClassifier,
    paths: Sequence[Path],
    out: Path,
    *,
    batch_size: int = 64,
    target: str | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ExplainSummary:
    """Explain image files and folders of them.

    Args:
        model: a trained model with patches; images are resized to the size that it was trained at.
        paths: image files, and folders whose images are taken, sub-folders included.
        out: where NAME.png and NAME.json go, NAME being the file's name without its ending, and
            with it where that is needed to tell two files apart.
        batch_size: images at a time.
        target: name of the class to explain; None: the predicted one of each image.
        overwrite: replace explanations that are there already.
        progress: called with the number of files done and of all files.

    Raises:
        InputError: before anything is written: a model without patches or image size, an unknown
            class, a path that is not there, a folder without images, an output that exists.
    """
    if HEADS[model.config["head"]].pooled_backbone:
        raise InputError(
            f"a model with the head {model.config['head']} has no patches, so it has no evidence "
            "to show; train with --head loss-attention"
        )
    if model.image_size is None:
        raise InputError("this model does not say the image size that it was trained at")
    index = _class_index(model, target)
    jobs = _jobs(paths, out)
    if not overwrite:
        _refuse_existing(jobs)
    _make_folder(out)
    summary = ExplainSummary()
    for start in range(0, len(jobs), batch_size):
        _explain_batch(model, jobs[start : start + batch_size], index, summary)
        if progress is not None:
            progress(min(start + batch_size, len(jobs)), len(jobs))
    return summary


def describe(
    explanation: Explanation, index: int, class_names: Sequence[str], original: tuple[int, int]
) -> dict[str, Any]:
    """Return the JSON of one explained image.

    Args:
        explanation: of its batch.
        index: which image of the batch.
        class_names: of the model.
        original: width and height of the upright original image, in pixels.
    """
    grid = explanation.grid
    scale = torch.tensor([original[0] / grid.width, original[1] / grid.height] * 2)
    predicted = int(explanation.logits[index].argmax())
    box = explanation.boxes[index].cpu()
    return {
        "width": original[0],
        "height": original[1],
        "prediction": class_names[predicted],
        "probability": float(explanation.probabilities[index, predicted]),
        "target": class_names[int(explanation.target[index])],
        "classes": list(class_names),
        "logits": explanation.logits[index].tolist(),
        "probabilities": explanation.probabilities[index].tolist(),
        "box": None if box.isnan().any() else _rounded(box * scale),
        "selected_patches": explanation.selected[index].nonzero().squeeze(1).tolist(),
        "patch_weights": explanation.patch_weights[index].tolist(),
        "evidence": explanation.evidence[index].tolist(),
        "grid": {
            "rows": grid.rows,
            "columns": grid.columns,
            "windows": _rounded(grid.windows() * scale),
        },
        "units": UNITS,
    }


def _explain_batch(
    model: PatchClassifier, jobs: Sequence[_Job], target: int | None, summary: ExplainSummary
) -> None:
    readable: list[tuple[_Job, Image.Image]] = []
    for job in jobs:
        try:
            readable.append((job, read_image(job.source, model.config["in_channels"])))
        except UnreadableImage as error:
            summary.unreadable.append(str(error))
    if not readable:
        return
    images = torch.stack([to_tensor(image, model.image_size) for _, image in readable])
    explanation = model.explain(images.to(model.mean.device), target)
    for index, (job, image) in enumerate(readable):
        described = describe(explanation, index, model.class_names, image.size)
        title = f"{described['prediction']}, {described['probability']:.1%}"
        marks = marks_of(explanation, index)
        picture = overlay(image, marks, title=title, target=described["target"])
        picture_path, json_path = job.outputs
        drawn = io.BytesIO()
        picture.save(drawn, "PNG")
        write_whole(picture_path, drawn.getvalue())
        text = json.dumps({"file": str(job.source)} | described, ensure_ascii=False)
        write_whole(json_path, text + "\n")
        summary.written.append(json_path)


def _class_index(model: PatchClassifier, target: str | None) -> int | None:
    if target is None:
        return None
    if target not in model.class_names:
        raise unknown_name("class", target, model.class_names)
    return model.class_names.index(target)


def _jobs(paths: Sequence[Path], out: Path) -> list[_Job]:
    """Find the files, each once, and give each a name of its own."""
    sources: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            found = list_images(path)
            if not found:
                raise InputError(f"the folder {path} holds no images")
            sources |= dict.fromkeys(found)
        elif path.exists():
            sources[path] = None
        else:
            raise InputError(f"there is no file or folder {path}")
    taken: set[str] = set()
    jobs = []
    stems = [source.stem for source in sources]
    for source in sources:
        name = source.stem if stems.count(source.stem) == 1 else source.name
        base, number = name, 2
        while name.lower() in taken:
            name, number = f"{base}-{number}", number + 1
        taken.add(name.lower())
        jobs.append(_Job(source, out / name))
    return jobs


def _refuse_existing(jobs: Iterable[_Job]) -> None:
    for job in jobs:
        for path in job.outputs:
            if path.exists():
                raise InputError(
                    f"{path} exists already; name another --out, or replace it with --overwrite"
                )


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {out}: {error.strerror}") from error


def _rounded(values: Float[Tensor, "*N 4"]) -> list[Any]:
    """Round pixels to hundredths, which is all that a resized image can say."""
    rounded: list[Any] = (values.double() * 100).round().div(100).tolist()
    return rounded
