"""Image files to classes and probabilities, by a model or by an exported file; no torch in itself.

Files are decoded and resized as for training and explaining. With an exported file, no torch is
loaded at all.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from loss_attention.data.decoding import UnreadableImage, read_image, to_array
from loss_attention.data.placement import Resize
from loss_attention.data.tree import given_images
from loss_attention.errors import InputError, printable
from loss_attention.exporting.reading import ExportedModel
from loss_attention.memory import images_at_once
from loss_attention.terminal import json_text

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from loss_attention.model import PatchClassifier

PredictionFormat = Literal["table", "csv", "jsonl"]
MOST_AT_ONCE = 64
LEAST_PROBABILITY = 0.5
"""With several labels an image, those that are as probable as this are said."""


class NamesClasses(Protocol):
    """What knows its classes, and whether one may have several."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of the K classes."""

    @property
    def multi_label(self) -> bool:
        """Whether an image or a bag may have several."""


class Classifier(NamesClasses, Protocol):
    """What classifies images of one size."""

    image_size: tuple[int, int]
    resize: Resize
    in_channels: int

    def probabilities(self, images: NDArray[Any]) -> NDArray[Any]:
        """Return `(B, K)` for uint8 images `(B, C, H, W)`."""


class OfFile:
    """An exported file as a classifier."""

    def __init__(self, exported: ExportedModel) -> None:
        about = exported.metadata
        self.class_names, self.image_size = about.class_names, about.image_size
        self.resize, self.in_channels = about.resize, about.in_channels
        self.multi_label = about.multi_label
        self.exported = exported

    def probabilities(self, images: NDArray[Any]) -> NDArray[Any]:
        """Return `(B, K)` for uint8 images `(B, C, H, W)`."""
        return self.exported(images)["probabilities"]


class OfModel:
    """A model as a classifier.

    Raises:
        InputError: it does not say what size its images have.
    """

    def __init__(self, model: PatchClassifier) -> None:
        if model.image_size is None:
            raise InputError("this model does not say the image size that it was trained at")
        self.class_names, self.image_size = tuple(model.class_names), model.image_size
        self.resize, self.in_channels = model.resize, model.spec.in_channels
        self.multi_label = model.multi_label
        self.model = model

    def probabilities(self, images: NDArray[Any]) -> NDArray[Any]:
        """Return `(B, K)` for uint8 images `(B, C, H, W)`."""
        import torch

        from loss_attention.prediction import probabilities_of

        model = self.model
        with torch.inference_mode():
            logits = model(torch.from_numpy(images).to(model.mean.device)).logits
            found: NDArray[Any] = probabilities_of(logits, competing=model.competing).cpu().numpy()
        return found


@dataclass(frozen=True)
class Predicted:
    """What was said of an image file, or of a bag.

    Attributes:
        file: its path, as it was given or found; the name of a bag.
        prediction: the class of the highest probability.
        probability: of that class.
        labels: with several labels an image, the classes whose probability is at least 0.5.
        probabilities: of each class, in their order.
    """

    file: str
    prediction: str
    probability: float
    labels: tuple[str, ...] | None
    probabilities: tuple[float, ...]


@dataclass
class PredictSummary:
    """What became of the files: predictions, and a line for each that is not read as an image."""

    predicted: list[Predicted] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)


def predict_files(
    classifier: Classifier,
    paths: Sequence[Path],
    progress: Callable[[int, int], None] | None = None,
) -> PredictSummary:
    """Classify image files and folders of them.

    Args:
        classifier: what does it.
        paths: image files, and folders whose images are taken, sub-folders included.
        progress: called with the number of files done and of all.

    Raises:
        InputError: a path that is not there, a folder without images; probabilities that are not
            finite.
    """
    given = given_images(paths)
    summary = PredictSummary(unreadable=list(given.odd), unread=list(given.unread))
    at_once = images_at_once(classifier.image_size, MOST_AT_ONCE)
    for start in range(0, len(given.images), at_once):
        some = given.images[start : start + at_once]
        names, images = [], []
        for path in some:
            try:
                picture = read_image(path, classifier.in_channels)
            except UnreadableImage as error:
                summary.unreadable.append(str(error))
                continue
            names.append(str(path))
            images.append(to_array(picture, classifier.image_size, classifier.resize))
        if images:
            found = classifier.probabilities(np.stack(images))
            summary.predicted += [
                predicted_of(classifier, name, row) for name, row in zip(names, found, strict=True)
            ]
        if progress is not None:
            progress(start + len(some), len(given.images))
    return summary


def predicted_of(classifier: NamesClasses, file: str, row: NDArray[Any]) -> Predicted:
    """Return what the probabilities `(K,)` of an image file, or of a bag, say.

    Raises:
        InputError: they are not finite.
    """
    if not np.isfinite(row).all():
        raise InputError("the probabilities are not finite numbers: the weights are damaged")
    best, names = int(row.argmax()), classifier.class_names
    labels = None
    if classifier.multi_label:
        likely = np.flatnonzero(row >= LEAST_PROBABILITY)
        labels = tuple(names[index] for index in likely)
    return Predicted(file, names[best], float(row[best]), labels, tuple(row.tolist()))


def as_csv(predicted: Sequence[Predicted], class_names: Sequence[str], what: str = "file") -> str:
    """Return a row for each image: file, prediction, its probability, and that of each class.

    Args:
        predicted: what was said of each.
        class_names: of the model.
        what: the heading of what is named first, `file` or `bag`.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([what, "prediction", "probability", *class_names])
    for one in predicted:
        numbers = (f"{value:.6g}" for value in (one.probability, *one.probabilities))
        writer.writerow([one.file, one.prediction, *numbers])
    # Names of files that are not Unicode are escaped; a reader of CSV has no other way to say them.
    return out.getvalue().encode("utf-8", "backslashreplace").decode()


def as_jsonl(predicted: Sequence[Predicted], class_names: Sequence[str], what: str = "file") -> str:
    """Return a JSON object in a line for each image; see `as_csv`."""
    lines = []
    for one in predicted:
        value: dict[str, Any] = {
            what: one.file,
            "prediction": one.prediction,
            "probability": one.probability,
        }
        if one.labels is not None:
            value["labels"] = one.labels
        value["probabilities"] = dict(zip(class_names, one.probabilities, strict=True))
        lines.append(json_text(value) + "\n")
    return "".join(lines)


def table_rows(predicted: Sequence[Predicted], class_names: Sequence[str]) -> list[list[str]]:
    """Return the cells of a table for people: file, class, probability, and the next class."""
    rows = []
    for one in predicted:
        cells = [printable(one.file), one.prediction, f"{one.probability:.3f}"]
        if one.labels is not None:
            cells[1] = ", ".join(one.labels) or f"none (likeliest: {one.prediction})"
        elif len(class_names) > 1:
            second = int(np.argsort(one.probabilities)[-2])
            cells += [class_names[second], f"{one.probabilities[second]:.3f}"]
        rows.append(cells)
    return rows
