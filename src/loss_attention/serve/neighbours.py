"""The training images that a photo is most like, by the features that a run keeps of them.

What these were labelled, and what the model says of them itself, tells whether the photo is like
anything that the model has learned from.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from PIL import Image
from rich.console import Console
from torch import Tensor

from loss_attention.data.sample import LabelledImages
from loss_attention.errors import InputError, printable
from loss_attention.model import PatchClassifier
from loss_attention.report.marks import as_picture
from loss_attention.serve.answering import mean_of
from loss_attention.training.features import FEATURES_FOLDER, FeatureFolder, FeatureSource
from loss_attention.training.run_folder import RunFolder

AT_ONCE = 64
"""Images whose features are looked at together."""
TOLD = ("folder", "bytes", "type")
"""What run.json says of features beside what they are of."""
LEAST_LIKE = 0.98
"""How alike the features of an image have to be that the model makes anew and that are kept: their
numbers have fewer bits."""


class Neighbour(NamedTuple):
    """A training image that a photo is like.

    Attributes:
        picture: the image, as the model sees it.
        label: what it was labelled.
        prediction: what the model says of it, which has been trained on it.
        similarity: the cosine of the two means, at most 1.
    """

    picture: Image.Image
    label: str
    prediction: str
    similarity: float


class Neighbours:
    """Training images by their features.

    Args:
        data: the images.
        means: of their features, shape `(N, D)`, each of length 1.
        predictions: the model's class of each.
    """

    def __init__(
        self, data: LabelledImages, means: Float[Tensor, "N D"], predictions: list[str]
    ) -> None:
        self._data, self._means, self._predictions = data, means, predictions

    def of(self, mean: Float[Tensor, " D"], count: int) -> list[Neighbour]:
        """Return the images that are most like one of this mean, the most alike first."""
        found = (self._means @ mean).topk(min(count, len(self._means)))
        images = self._data.subset(found.indices).decoded()
        labels = images.label_matrix().cpu()
        return [
            Neighbour(
                as_picture(images.images[number].cpu()),
                printable(
                    ", ".join(
                        self._data.class_names[k]
                        for k in labels[number].nonzero().flatten().tolist()
                    )
                ),
                self._predictions[index],
                value,
            )
            for number, (index, value) in enumerate(
                zip(found.indices.tolist(), found.values.tolist(), strict=True)
            )
        ]


def has_features(run: RunFolder) -> bool:
    """Return whether a run says that it keeps features, and they are there."""
    told = run.facts().get("features")
    return isinstance(told, dict) and _folder(run, told) is not None


def neighbours_of(run: RunFolder, model: PatchClassifier, data: LabelledImages) -> Neighbours:
    """Return a run's training images by the features that it keeps.

    Args:
        run: the run; it `has_features`.
        model: its model.
        data: what it was trained on, held-out images included, as it was then.

    Raises:
        InputError: the features are damaged, or not those of this model and these images.
    """
    told = run.facts()["features"]
    path = _folder(run, told)
    assert path is not None
    folder = FeatureFolder(path, {key: told[key] for key in told if key not in TOLD})
    source = FeatureSource(model, data, run.recipe(), "32", model.mean.device)
    identities = source.identities()
    folder.read(Console(quiet=True), memory=0)
    if folder.missing(identities):
        raise InputError(f"the features in {path} are not of the run's images, or not of all")
    kept = folder.features(identities, data.labels.cpu(), memory=0)
    means, predictions = [], []
    with torch.inference_mode():
        for rows in torch.split(kept.numbers * kept.views, AT_ONCE):
            features = kept.features.take(rows, model.mean.device)
            means.append(mean_of(features).cpu())
            found = model.decide(features, data.size).logits.argmax(dim=1)
            predictions += [model.class_names[k] for k in found.tolist()]
        first = data.subset(torch.tensor([0])).decoded().images.to(model.mean.device)
        anew = mean_of(model.features(first)).cpu()
    # Clones of what was made for inference alone can be used anywhere.
    together = torch.cat(means).clone()
    if float(anew[0] @ together[0]) < LEAST_LIKE:
        raise InputError(f"the features in {path} are not those of this model's backbone")
    return Neighbours(data, together, predictions)


def _folder(run: RunFolder, told: Mapping[str, Any]) -> Path | None:
    """Return where a run's features are: where they were, or beside the run now."""
    name = told.get("folder")
    if not isinstance(name, str):
        return None
    places = (Path(name), run.path.parent / FEATURES_FOLDER / Path(name).name)
    return next((place for place in places if place.is_dir()), None)
