"""Objects of explained images in the forms of other programs: annotations to look at and correct.

COCO, Label Studio, FiftyOne and QuPath. All boxes are in pixels of the upright original image, or
in fractions of it where the form wants those.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

from loss_attention import __version__
from loss_attention.data.tree import given_images
from loss_attention.errors import InputError
from loss_attention.explained.answers import answered
from loss_attention.explained.files import ExplainSummary
from loss_attention.explained.formats import ElsewhereFormat
from loss_attention.explained.questions import OwnQuestion, images_together
from loss_attention.explained.reading import read_batches
from loss_attention.explained.sources import output_names, refuse_to_replace
from loss_attention.heads import HEADS
from loss_attention.model import PatchClassifier
from loss_attention.saving import make_folder, write_whole
from loss_attention.terminal import json_text

Row = Mapping[str, Any]
"""Of an image: `name` (see `output_names`), and of its columns what `KEPT` names."""
KEPT = ("path", "width", "height", "class", "probability", "objects")
SIDES, PERCENT = ("x", "y", "width", "height"), 100
MADE_BY = f"loss-attention {__version__}"


def coco(rows: Iterable[Row], classes: Sequence[str]) -> dict[str, Any]:
    """Return images, categories and annotations as COCO has them, each with its score.

    Example:
        >>> box = {"class": "cat", "score": 0.5, "share": 1.0, "box": [1, 2, 4, 8]}
        >>> row = {"name": "a", "path": "a.png", "width": 9, "height": 9, "objects": [box]}
        >>> coco([row], ["cat", "dog"])["annotations"][0]["bbox"]
        [1, 2, 3, 6]
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for row in rows:
        images.append(
            {
                "id": len(images) + 1,
                "file_name": row["path"],
                "width": row["width"],
                "height": row["height"],
            }
        )
        for one in row["objects"]:
            x0, y0, x1, y1 = one["box"]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": len(images),
                    "category_id": classes.index(one["class"]) + 1,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": (x1 - x0) * (y1 - y0),
                    "iscrowd": 0,
                    "score": one["score"],
                }
            )
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, 1)]
    return {
        "info": {"description": MADE_BY},
        "images": images,
        "categories": categories,
        "annotations": annotations,
    }


def label_studio(rows: Iterable[Row], classes: Sequence[str]) -> list[dict[str, Any]]:  # noqa: ARG001
    """Return tasks with predictions, as Label Studio imports them.

    The labelling interface has an Image named image, RectangleLabels named object and Choices named
    class. Images are served from the machine's own files, with the root folder as the document
    root.
    """
    tasks = []
    for row in rows:
        size = {"original_width": row["width"], "original_height": row["height"]}
        path = Path(row["path"]).absolute().as_posix().lstrip("/")
        choice = {
            "from_name": "class",
            "to_name": "image",
            "type": "choices",
            "value": {"choices": [row["class"]]},
            "score": row["probability"],
        }
        boxes = [
            {
                "from_name": "object",
                "to_name": "image",
                "type": "rectanglelabels",
                "image_rotation": 0,
                **size,
                "value": {
                    **dict(zip(SIDES, _relative(one, row, PERCENT), strict=True)),
                    "rotation": 0,
                    "rectanglelabels": [one["class"]],
                },
                "score": one["score"],
            }
            for one in row["objects"]
        ]
        prediction = {
            "model_version": MADE_BY,
            "score": row["probability"],
            "result": [choice, *boxes],
        }
        address = f"/data/local-files/?d={quote(path)}"
        tasks.append({"data": {"image": address}, "predictions": [prediction]})
    return tasks


def fiftyone_labels(rows: Iterable[Row], classes: Sequence[str]) -> dict[str, Any]:
    """Return the labels.json of a FiftyOneImageDetectionDataset, images by their names."""
    labels = {
        row["name"]: [
            {
                "label": classes.index(one["class"]),
                "bounding_box": _relative(one, row, 1),
                "confidence": one["score"],
            }
            for one in row["objects"]
        ]
        for row in rows
    }
    return {"classes": list(classes), "labels": labels}


def fiftyone_data(rows: Iterable[Row], classes: Sequence[str]) -> dict[str, str]:  # noqa: ARG001
    """Return its data.json: where each image lies."""
    return {row["name"]: str(Path(row["path"]).absolute()) for row in rows}


def qupath(row: Row, classes: Sequence[str]) -> dict[str, Any]:
    """Return the objects of an image as QuPath (0.4 and later) imports them: GeoJSON."""
    return feature_collection(
        feature(
            one["box"],
            one["class"],
            _colour(classes.index(one["class"]), len(classes)),
            {"score": one["score"], "share": one["share"]},
        )
        for one in row["objects"]
    )


def feature(
    box: Sequence[float],
    name: str,
    colour: Sequence[int],
    measurements: Mapping[str, float],
    kind: str = "annotation",
) -> dict[str, Any]:
    """Return a rectangle as an object of QuPath.

    Args:
        box: left, top, right and bottom, in pixels of the image at its full size.
        name: of its classification.
        colour: of that: red, green and blue, 0 to 255.
        measurements: numbers that it has, by name.
        kind: annotation, detection or tile.
    """
    x0, y0, x1, y1 = box
    around = [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [around]},
        "properties": {
            "objectType": kind,
            "classification": {"name": name, "color": list(colour)},
            "measurements": dict(measurements),
        },
    }


def feature_collection(features: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return objects as the content of one GeoJSON file."""
    return {"type": "FeatureCollection", "features": list(features)}


def _relative(found: Mapping[str, Any], row: Row, whole: int) -> list[float]:
    """Return left, top, width and height of a box as parts of the image's sides."""
    x0, y0, x1, y1 = found["box"]
    across, down = whole / row["width"], whole / row["height"]
    return [x0 * across, y0 * down, (x1 - x0) * across, (y1 - y0) * down]


def _colour(number: int, count: int) -> list[int]:
    """Return a colour of its own for each class: red, green and blue, 0 to 255."""
    return [round(255 * part) for part in colorsys.hsv_to_rgb(number / max(1, count), 0.8, 0.9)]


Form = Callable[[Sequence[Row], Sequence[str]], Any]
FORMS: dict[ElsewhereFormat, dict[str, Form]] = {
    "coco": {"coco.json": coco},
    "label-studio": {"label-studio.json": label_studio},
    "fiftyone": {"labels.json": fiftyone_labels, "data.json": fiftyone_data},
}
"""The files of each form that has all images in one."""


def explain_elsewhere(
    model: PatchClassifier,
    question: OwnQuestion,
    paths: Sequence[Path],
    out: Path,
    wanted: ElsewhereFormat,
    *,
    batch_size: int = 64,
    overwrite: bool = False,
    progress: Callable[..., None] | None = None,
) -> ExplainSummary:
    """Find the objects of image files, and write them for another program.

    Args:
        model: a trained model with evidence.
        question: what is asked of it; see `own_question`.
        paths: image files, and folders whose images are taken.
        out: where the files go.
        wanted: the program. For qupath there is a file for each image, else one for all.
        batch_size: images at a time, of large ones fewer.
        overwrite: replace files that are there already.
        progress: see `explain_files`.

    Raises:
        InputError: paths as for `explain_files`, a model without evidence, or a file in the way.
        SaveError: a full disk, for instance.
    """
    if not HEADS[model.spec.head].has_evidence:
        raise InputError(
            f"`format` {wanted} needs a head with exact evidence, such as loss-attention or mean; "
            "this model finds no objects"
        )
    found = given_images(paths, out)
    summary = ExplainSummary(unreadable=found.odd, unread=found.unread)
    names = output_names(found.images)
    whole = [out / name for name in FORMS.get(wanted, {})]
    each = [out / f"{name}.geojson" for name in names] if not whole else []
    refuse_to_replace(found.images, [*whole, *each], overwrite=overwrite)
    make_folder(out)
    classes = model.class_names
    most = images_together(model, question.sight, batch_size)
    batches = read_batches(
        found.images, question.sight, model.spec.in_channels, most, pictures=False
    )
    rows: list[Row] = []
    with closing(batches):
        for answer in answered(model, question, batches, len(names), summary.unreadable, progress):
            columns = answer.columns(model, question)
            for index, image in enumerate(answer.batch):
                if image.error:
                    continue
                row = {"name": names[image.number]} | {key: columns[key][index] for key in KEPT}
                summary.count += 1
                if whole:
                    rows.append(row)
                else:
                    path = each[image.number]
                    write_whole(path, json_text(qupath(row, classes)) + "\n")
                    summary.written.append(path)
    for path, form in zip(whole, FORMS.get(wanted, {}).values(), strict=True):
        write_whole(path, json_text(form(rows, classes)) + "\n")
        summary.written.append(path)
    return summary
