"""Exported files in 8 bits: most convolutions, so that the evidence still adds up to the logits.

The head's sums stay in float32. What 8 bits lose is measured on images with labels.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from loss_attention.errors import InputError
from loss_attention.exporting.network import ExportedNetwork
from loss_attention.exporting.reading import ExportedModel, Metadata, required
from loss_attention.model import PatchClassifier
from loss_attention.saving import METADATA_KEY

if TYPE_CHECKING:
    from numpy.typing import NDArray

AT_ONCE = 16
"""Images that are run at a time."""


@dataclass(frozen=True)
class QuantisationLoss:
    """What a file in 8 bits loses against the model.

    Attributes:
        images: how many it was measured on.
        accuracy: of the model: the fraction of images whose highest logit is of a label of theirs.
        quantised_accuracy: of the file.
        margin_agreement: of the two maps of an image (the margin, or the evidence above 0 where
            each class is decided by itself), each divided by its sum, the sum over patches of the
            smaller value; the mean of that over the images. 1: the same maps; 0: nowhere the same
            patches, as also where one map is empty and the other is not. None: no such map.
    """

    images: int
    accuracy: float
    quantised_accuracy: float
    margin_agreement: float | None


def quantise(source: Path, path: Path, about: Metadata, calibration: NDArray[np.uint8]) -> Metadata:
    """Write an ONNX file with its convolutions in 8 bits.

    Args:
        source: the file in float32.
        path: the file to write.
        about: what the former says of itself.
        calibration: images `(N, C, H, W)`, uint8, that ranges of values are taken from.

    Returns:
        What the new file says of itself.
    """
    if calibration.ndim != 4 or not len(calibration):
        raise InputError(
            f"`calibration` must be images (N, C, H, W), at least one, got {calibration.shape}"
        )
    if calibration.dtype != np.uint8:
        raise InputError(f"`calibration` must be uint8 images, got {calibration.dtype}")
    onnx, runtime = required("onnx"), required("onnxruntime.quantization")
    prepared = path.with_name("prepared.onnx")
    with _quiet():
        runtime.shape_inference.quant_pre_process(
            str(source), str(prepared), skip_symbolic_shape=True
        )
        runtime.quantize_static(
            str(prepared),
            str(path),
            _Reader(calibration, about),
            op_types_to_quantize=["Conv"],
            nodes_to_exclude=kept_in_float(onnx.load(prepared)),
            per_channel=True,
            # Of weights 7 bits: sums of 8 overflow on CPUs without instructions for them (VNNI).
            reduce_range=True,
        )
    about = replace(about, quantised=True)
    proto = onnx.load(path)
    del proto.metadata_props[:]
    proto.metadata_props.add(key=METADATA_KEY, value=about.to_json())
    onnx.save(proto, path)
    return about


def kept_in_float(proto: Any) -> list[str]:
    """Return the names of the convolutions of an ONNX model that 8 bits would harm.

    These are the first, which has the image's own range of values, and those of each channel by
    itself, whose outputs differ by orders of magnitude from channel to channel. Together they have
    few of the weights. EfficientNet-Lite0 on photos lost 17 points of its accuracy with them in 8
    bits, and one without.
    """
    convolutions = [node for node in proto.graph.node if node.op_type == "Conv"]

    def groups(node: Any) -> int:
        return max((one.i for one in node.attribute if one.name == "group"), default=1)

    return [
        node.name for number, node in enumerate(convolutions) if number == 0 or groups(node) > 1
    ]


class _Reader:
    """Images as onnxruntime asks for them."""

    def __init__(self, images: NDArray[np.uint8], about: Metadata) -> None:
        if about.input["type"] == "float32":
            images = (images / np.float32(255)).astype(np.float32)
        self._batches = iter(
            {about.input["name"]: images[start : start + AT_ONCE]}
            for start in range(0, len(images), AT_ONCE)
        )

    def get_next(self) -> dict[str, Any] | None:
        return next(self._batches, None)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep onnxruntime from recommending what was done already."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def quantisation_loss(
    model: PatchClassifier, file: ExportedModel, images: NDArray[np.uint8], labels: NDArray[Any]
) -> QuantisationLoss:
    """Compare a file in 8 bits with the model that it was made of.

    Args:
        model: the model.
        file: the file.
        images: `(N, C, H, W)`, held out from training and calibration.
        labels: class indices `(N,)`, or a 0/1 matrix `(N, K)`.
    """
    network = ExportedNetwork(model)
    right, agreement = np.zeros(2), []
    for start in range(0, len(images), AT_ONCE):
        some, theirs = images[start : start + AT_ONCE], labels[start : start + AT_ONCE]
        with torch.inference_mode():
            own = {name: value.numpy() for name, value in network(torch.from_numpy(some)).items()}
        found = file(some)
        for which, outputs in enumerate((own, found)):
            best = outputs["logits"].argmax(axis=1)
            if theirs.ndim == 2:
                right[which] += theirs[np.arange(len(best)), best].sum()
            else:
                right[which] += (theirs == best).sum()
        name = next((one for one in own if one in ("margin_map", "evidence_map")), None)
        if name is not None:
            agreement += _overlaps(own[name], found[name])
    accuracy, quantised = (right / len(images)).tolist()
    mean = float(np.mean(agreement)) if agreement else None
    return QuantisationLoss(len(images), accuracy, quantised, mean)


def _overlaps(own: NDArray[Any], found: NDArray[Any]) -> list[float]:
    """Return the margin agreement of each image."""
    overlaps = []
    for one, other in zip(own, found, strict=True):
        parts = [np.maximum(values.astype(np.float64), 0) for values in (one, other)]
        totals = [part.sum() for part in parts]
        if min(totals) > 0:
            first, second = (part / total for part, total in zip(parts, totals, strict=True))
            overlaps.append(float(np.minimum(first, second).sum()))
        else:
            overlaps.append(float(max(totals) == 0))
    return overlaps
