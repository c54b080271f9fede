"""What is served: a model or an exported file, from images to predictions that can be explained.

A file says what its evidence is, so that the same code explains both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from loss_attention.backbones import Features
from loss_attention.backbones.levels import levels_of
from loss_attention.errors import InputError
from loss_attention.explained.objects import THRESHOLD
from loss_attention.explanation import (
    Explanation,
    check_map,
    class_index,
    explain_prediction,
    named_map,
)
from loss_attention.exporting.reading import ExportedModel
from loss_attention.geometry import PatchGrid
from loss_attention.heads import HEADS
from loss_attention.model import PatchClassifier
from loss_attention.predicting import Classifier, OfFile, OfModel
from loss_attention.prediction import (
    ImagePrediction,
    MapName,
    PatchPrediction,
    WeightedPrediction,
    as_pytree,
    on_cpu,
)
from loss_attention.terminal import as_unicode

WITHOUT_PATCHES = "this model has no patches, so it has no evidence to show"


class Served(Classifier, Protocol):
    """What answers requests.

    Attributes:
        kind: what it is, for people.
        competing: a softmax decides; see `ModelSpec.competing`.
        has_patches: it can be explained.
        has_evidence: its decision is a sum over patches.
        predicted_alone: nothing but the predicted class can be explained.
        threshold: that of `find_objects`.
    """

    kind: str
    competing: bool
    has_patches: bool
    has_evidence: bool
    predicted_alone: bool
    threshold: float

    def said(self, images: NDArray[Any]) -> list[Said]:
        """Return what is said of each of uint8 images `(B, C, H, W)`, on the CPU."""


class Said(NamedTuple):
    """What is said of an image.

    Attributes:
        prediction: of it alone, as of a batch of one.
        mean: see `mean_of`; None where it is not wanted or not to be had.
    """

    prediction: ImagePrediction
    mean: Float[Tensor, " D"] | None = None


class ServedModel(OfModel):
    """A model behind the service.

    Args:
        model: in evaluation, on its device.
        threshold: of `find_objects`.

    Attributes:
        wants_means: say the mean of an image's features too.

    Raises:
        InputError: it does not say what size its images have.
    """

    predicted_alone = False

    def __init__(self, model: PatchClassifier, threshold: float = THRESHOLD) -> None:
        super().__init__(model)
        self.class_names = tuple(map(as_unicode, self.class_names))
        entry = HEADS[model.spec.head]
        self.kind = f"{model.spec.backbone} with the head {model.spec.head}"
        self.competing, self.threshold = model.competing, threshold
        self.has_patches, self.has_evidence = not entry.pooled_backbone, entry.has_evidence
        self.wants_means = False

    def said(self, images: NDArray[Any]) -> list[Said]:
        """Return what is said of each of uint8 images `(B, C, H, W)`, on the CPU."""
        model, (height, width) = self.model, images.shape[2:]
        with torch.inference_mode():
            features = model.features(torch.from_numpy(images).to(model.mean.device))
            found = on_cpu(model.decide(features, (height, width)))
            means = mean_of(features).cpu() if self.wants_means else None
        return [
            Said(_of_image(found, number), None if means is None else means[number])
            for number in range(len(images))
        ]


class ServedFile(OfFile):
    """An exported file behind the service."""

    threshold = THRESHOLD

    def __init__(self, exported: ExportedModel) -> None:
        super().__init__(exported)
        self.class_names = tuple(map(as_unicode, self.class_names))
        about = exported.metadata
        self.kind = f"{about.backbone} with the head {about.head}, exported"
        self.competing = about.competing
        self.has_patches = "patch_weights" in about.outputs
        self.has_evidence = "evidence" in about.outputs
        self.predicted_alone = self.has_patches and not self.has_evidence

    def said(self, images: NDArray[Any]) -> list[Said]:
        """Return what is said of each of uint8 images `(B, C, H, W)`."""
        given = {name: torch.from_numpy(value) for name, value in self.exported(images).items()}
        logits = given["logits"]
        found = ImagePrediction(logits)
        if self.has_patches:
            height, width = images.shape[2:]
            grid = grid_of(given["windows"], height, width)
            weights, chosen = given["patch_weights"], given["selected"]
            if self.has_evidence:
                found = FileEvidence(logits, given["evidence"], weights, grid, 0.0, chosen)
            else:
                found = FileWeights(logits, weights, grid, 0.0, chosen)
        return [Said(_of_image(found, number)) for number in range(len(images))]


@as_pytree
@dataclass
class FileEvidence(PatchPrediction):
    """What an exported file says of images: their evidence as it was worked out there.

    Patch logits do not follow from it where a weight is 0, so `patch_logits` has the evidence.

    Attributes:
        chosen: the selected patches, shape `(B, M)`.
    """

    chosen: Bool[Tensor, "B M"]

    @property
    def selected(self) -> Bool[Tensor, "B M"]:
        """True for the patches that count as chosen by the network."""
        return self.chosen

    def _evidence_of_patches(self, some: slice) -> Float[Tensor, "B m K"]:
        return self.patch_logits[:, some].clone()  # callers may change it

    def evidence_at(self, image: Tensor, classes: Tensor) -> Float[Tensor, "n M"]:
        """Return the evidence of all patches of an image for a class, for n such pairs."""
        return self.patch_logits[image, :, classes]


@as_pytree
@dataclass
class FileWeights(WeightedPrediction):
    """What an exported file says of images that has no evidence: weights of the predicted class.

    Attributes:
        chosen: the selected patches, shape `(B, M)`.
    """

    patch_weights: Float[Tensor, "B M"]
    grid: PatchGrid | None
    selection: float
    chosen: Bool[Tensor, "B M"]

    @property
    def patch_scores(self) -> Float[Tensor, "B M K"]:
        """What each patch says to each class, which the file does not hold."""
        raise InputError("the file does not hold what each patch says to each class")

    @property
    def selected(self) -> Bool[Tensor, "B M"]:
        """True for the patches that count as chosen by the network."""
        return self.chosen


def mean_of(features: Features) -> Float[Tensor, "B D"]:
    """Return the mean of feature maps over their cells, of all levels, of length 1.

    It says what is in an image and not where: images are alike whose means point the same way.
    """
    return F.normalize(torch.cat([one.float().mean((2, 3)) for one in levels_of(features)], 1))


def grid_of(windows: Float[Tensor, "M 4"], height: int, width: int) -> PatchGrid:
    """Return the grid whose windows these are, in an image of a height and width in pixels.

    Example:
        >>> grid = PatchGrid(2, 3, window=9, stride=4, height=12, width=17)
        >>> grid_of(grid.windows(), 12, 17) == grid
        True
    """
    left, top = (sorted({int(x) for x in windows[:, axis]}) for axis in (0, 1))
    sides = windows[:, 2:] - windows[:, :2]
    starts = left if len(left) > 1 else top
    stride = starts[1] - starts[0] if len(starts) > 1 else int(sides.max())
    grid = PatchGrid(len(top), len(left), int(sides.max()), stride, height, width)
    if not torch.equal(grid.windows(), windows.float()):
        raise InputError("the file's windows are not those of a grid: it is damaged")
    return grid


def _of_image(prediction: ImagePrediction, number: int) -> ImagePrediction:
    """Return the prediction of one image of a batch."""
    found: ImagePrediction = pytree.tree_map_only(
        Tensor, lambda tensor: tensor[number : number + 1], prediction
    )
    return found


class Asked(NamedTuple):
    """What is asked about an image.

    Attributes:
        target: the class to explain; None: the predicted one.
        versus: the class that the evidence is held against, if any.
        map: what is shown; None: see `explanation.default_map`.
    """

    target: int | None = None
    versus: int | None = None
    map: MapName | None = None


def asked(
    served: Served, target: str | None = None, versus: str | None = None, map: str | None = None
) -> Asked:
    """Return what is asked, by names.

    Raises:
        InputError: a model without patches, an unknown class (with the nearest), a map that the
            model does not have.
    """
    if not served.has_patches:
        raise InputError(WITHOUT_PATCHES)
    names = served.class_names
    wanted = None if target is None else class_index(target, names)
    rival = None if versus is None else class_index(versus, names)
    check_map(
        named_map(map),
        has_evidence=served.has_evidence,
        competing=served.competing,
        versus=versus is not None,
    )
    return Asked(wanted, rival, named_map(map))


def explained(served: Served, prediction: ImagePrediction, question: Asked) -> Explanation:
    """Return the explanation of one image.

    Raises:
        InputError: `versus` is the explained class itself, or the file holds nothing of this class.
    """
    predicted = int(prediction.logits.argmax())
    if served.predicted_alone and question.target not in (None, predicted):
        raise InputError(
            "this file holds the patch weights of the predicted class alone; leave `target`"
        )
    return explain_prediction(
        prediction,
        question.target,
        competing=served.competing,
        map=question.map,
        versus=question.versus,
    )
