"""What a prediction says about where its evidence lies: evidence, heat maps, patches, boxes."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from loss_attention.errors import InputError, printable, quoted, unknown_name
from loss_attention.geometry import PatchGrid, enclosing_boxes, paint_patches
from loss_attention.prediction import (
    MAPS,
    ImagePrediction,
    MapName,
    PatchPrediction,
    RoutedPrediction,
    WeightedPrediction,
    margins,
    probabilities_of,
)
from loss_attention.quantities import (
    CONTRAST,
    DIFFERENCE,
    EVIDENCE,
    MARGIN,
    ROUTING_WEIGHT,
    Quantity,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Target = int | str | Sequence[int | str] | NDArray[Any] | Tensor
else:  # what is none of these meets the message of `explained_class`
    Target = Any

MOST_NAMED = 10  # classes that an error lists


SHOWN: dict[MapName, Quantity] = {"margin": MARGIN, "contrast": CONTRAST, "evidence": EVIDENCE}


@dataclass(frozen=True)
class Explanation:
    """The explained predictions of a batch. Nothing in it is estimated: all of it was used.

    A head without exact evidence (dynamic routing) has weights to show: then `evidence` is None,
    and the heat maps are of the patch weights, which say where it looked and not what it was for.

    Attributes:
        logits: shape `(B, K)`.
        probabilities: shape `(B, K)`: softmax, or sigmoids where each class is decided by itself.
        target: the explained class of each image, shape `(B,)`.
        evidence: what each patch adds to each class, in units of the logits, shape `(B, M, K)`;
            sums over M to `logits`. None where the head has no exact evidence.
        target_evidence: that of the target class, shape `(B, M)`; None likewise.
        patch_weights: shape `(B, M)`; each row sums to 1. With dynamic routing, those of the
            target class.
        selected: the patches that count as chosen by these weights, shape `(B, M)`.
        target_margin: `margin` for the target class, shape `(B, M)`; None likewise.
        heat_maps: what `shown` names, for the target class, painted on the pixels, each pixel the
            mean over the patches that cover it, shape `(B, H, W)`. Of the margin it is the positive
            part; where nothing of that is positive, contrast in its stead (`shown_of`).
        shown: what the heat maps show, and its unit: `MARGIN`, `CONTRAST`, `EVIDENCE`, the
            `DIFFERENCE` between two classes, or `ROUTING_WEIGHT`.
        no_margin: the images that have no patch with a margin above 0 for the target class,
            shape `(B,)`; None where there is no margin.
        versus: the class that the evidence is held against, shape `(B,)`; None: no single one.
        boxes: the smallest rectangle around the selected patches' windows, in pixels of the input
            `(x0, y0, x1, y1)`, shape `(B, 4)`; NaN where nothing is selected.
        grid: where the patches lie.
        images: what was explained, as it was given, shape `(B, C, H, W)`, and
        class_names: of the model, for pictures; None and empty where only a prediction was given.
        patch_map: what the heat maps are painted from, a value for each patch, shape `(B, M)`.
    """

    logits: Float[Tensor, "B K"]
    probabilities: Float[Tensor, "B K"]
    target: Int[Tensor, " B"]
    evidence: Float[Tensor, "B M K"] | None
    target_evidence: Float[Tensor, "B M"] | None
    patch_weights: Float[Tensor, "B M"]
    selected: Bool[Tensor, "B M"]
    heat_maps: Float[Tensor, "B H W"]
    shown: Quantity
    boxes: Float[Tensor, "B 4"]
    grid: PatchGrid
    target_margin: Float[Tensor, "B M"] | None = None
    no_margin: Bool[Tensor, " B"] | None = None
    versus: Int[Tensor, " B"] | None = None
    images: Shaped[Tensor, "B C H W"] | None = None
    class_names: tuple[str, ...] = ()
    patch_map: Float[Tensor, "B M"] | None = None

    def _repr_html_(self) -> str:
        """Return pictures of the first images, for a notebook."""
        # The one call upward of the layers: nothing but a notebook asks for it.
        drawing = importlib.import_module("loss_attention.report.notebook")
        shown: str = drawing.explanation_html(self)
        return shown

    @property
    def margin(self) -> Float[Tensor, "B M K"] | None:
        """Each patch's evidence for each class less that for its closest rival, `(B, M, K)`.

        None without exact evidence, and where each class is decided by itself: there no class is
        another's rival. See `PatchPrediction.margin`.
        """
        if self.evidence is None or self.target_margin is None:
            return None
        return margins(self.evidence)

    def shown_of(self, index: int) -> Quantity:
        """Return what the heat map of one image shows: contrast where the margin is empty."""
        return CONTRAST if self.is_empty(index) else self.shown

    def is_empty(self, index: int) -> bool:
        """Return whether the margin was to be shown of an image and has nothing to show."""
        return self.shown == MARGIN and self.no_margin is not None and bool(self.no_margin[index])


def explain_prediction(
    prediction: ImagePrediction,
    target: Target | None = None,
    *,
    competing: bool = True,
    map: MapName | None = None,
    versus: Target | None = None,
) -> Explanation:
    """Explain a prediction; no hooks, no gradients, one forward pass.

    Args:
        prediction: what the model returned.
        target: the class to explain, one for all or one an image; None: the predicted class.
        competing: a softmax decides, rather than a sigmoid each; see `ModelSpec.competing`.
        map: what the heat maps show of the target class. None: the margin under a softmax, the
            evidence where each class is decided by itself, the weights where there is no evidence.
        versus: a class, or one an image, that the evidence is held against: the heat maps show
            `alpha_m (p_mA - p_mB)`, whose sum is the difference of the two logits.

    Raises:
        ValueError: a prediction without patches (a baseline) or without an image (a bag), a class
            outside the classes, a map that this prediction does not have (`check_map`), or
            `versus` the target itself.
    """
    if not isinstance(prediction, WeightedPrediction):
        raise InputError(
            "this model has no patches, so its decision has no exact evidence to show; "
            "a patch head such as 'loss-attention' or 'mean' has"
        )
    has_evidence = isinstance(prediction, PatchPrediction)
    check_map(map, has_evidence=has_evidence, competing=competing, versus=versus is not None)
    logits = prediction.logits
    batch, classes = logits.shape
    if target is None:
        # Not checked, as it is right: a check would make the host wait for the device.
        target = logits.argmax(dim=1)
    else:
        target = explained_class(target, batch, classes, logits.device)
    rival = None
    if versus is not None:
        rival = explained_class(versus, batch, classes, logits.device)
        if (rival == target).any():
            raise InputError("`versus` must be another class than the one that is explained")
    if isinstance(prediction, RoutedPrediction):
        prediction = prediction.of_class(target)
    grid = prediction.image_grid
    shown, values = ROUTING_WEIGHT, prediction.real_weights
    evidence = of_target = margin = no_margin = None
    if isinstance(prediction, PatchPrediction):
        evidence, of_target = prediction.evidence, prediction.evidence_of(target)
        if competing:
            margin = prediction.margin_of(target)
            no_margin = (margin <= 0).all(dim=1)
        name: MapName = map or default_map(competing=competing)
        shown, values = SHOWN[name], prediction.map_of(name, target)
        if rival is not None:
            shown, values = DIFFERENCE, of_target - prediction.evidence_of(rival)
        elif name == "margin":
            assert no_margin is not None
            instead = prediction.map_of("contrast", target)
            values = torch.where(no_margin.unsqueeze(1), instead, values)
    return Explanation(
        logits=logits,
        probabilities=probabilities_of(logits, competing=competing),
        target=target,
        evidence=evidence,
        target_evidence=of_target,
        patch_weights=prediction.real_weights,
        selected=prediction.selected,
        heat_maps=paint_patches(values, grid),
        shown=shown,
        boxes=enclosing_boxes(prediction.selected, grid.windows(logits.device)),
        grid=grid,
        target_margin=margin,
        no_margin=no_margin,
        versus=rival,
        patch_map=values,
    )


def default_map(*, competing: bool) -> MapName:
    """Return what is shown unless something else is asked for.

    A softmax decides between classes, so only what no other class disputes speaks for one; where
    each class is decided by itself, no other has a say.
    """
    return "margin" if competing else "evidence"


def named_map(name: str | None) -> MapName | None:
    """Return the map of a name.

    Raises:
        ValueError: there is none of that name; the nearest is named.
    """
    if name is not None and name not in MAPS:
        raise unknown_name("map", name, MAPS)
    return name


def check_map(
    map: MapName | None, *, has_evidence: bool, competing: bool, versus: bool = False
) -> None:
    """Raise `InputError` for a map that a model does not have, or one beside `versus`.

    Args:
        map: the map; None: any.
        has_evidence: the model's decision is a sum over patches.
        competing: its classes compete under a softmax; each is not decided by itself.
        versus: the evidence for one class against another is asked for.
    """
    if versus and map is not None:
        raise InputError("`versus` shows the evidence for one class against another; leave `map`")
    named_map(map)
    if (map is not None or versus) and not has_evidence:
        raise InputError(
            f"`{'versus' if versus else 'map'}` needs a head with exact evidence, such as "
            "loss-attention or mean; this model has none to show"
        )
    if not competing and map not in (None, "evidence"):
        raise InputError(
            f"`map` {map} is for models of one label an image under a softmax; this one decides "
            "each class by itself, and `map` evidence says all there is to say"
        )


def explained_class(
    target: Target, batch: int, classes: int, device: torch.device, names: Sequence[str] = ()
) -> Int[Tensor, " B"]:
    """Return the class to explain for each image of a batch, as int64 on a device.

    Args:
        target: an index or a name for all, or one an image.
        batch: the number of images.
        classes: the number of classes.
        device: where the result goes.
        names: of the classes; none where only indices can be meant.

    Raises:
        ValueError: not one class for all or one an image, or one outside the classes; a name that
            no class has (with the nearest that one has).
    """
    given = target.tolist() if isinstance(target, (Tensor, np.ndarray, np.generic)) else target
    each: list[Any] = list(given) if isinstance(given, (list, tuple)) else [given] * batch
    indices = [class_index(one, names) if isinstance(one, str) and names else one for one in each]
    if len(indices) != batch or not all(_is_index(one, classes) for one in indices):
        raise InputError(
            f"target must be {batch} class indices{' or names' if names else ''} in "
            f"0..{classes - 1}, got {quoted(each)}"
        )
    return torch.tensor([int(one) for one in indices], dtype=torch.int64, device=device)


def _is_index(value: Any, classes: int) -> bool:
    whole = not isinstance(value, bool) and isinstance(value, Integral)
    return whole and bool(0 <= value < classes)


def class_index(name: str, names: Sequence[str]) -> int:
    """Return the index of a class by its name.

    Raises:
        ValueError: no class has that name; the nearest that one has are named.
    """
    if name in names:
        return names.index(name)
    nearest = difflib.get_close_matches(name, names, n=MOST_NAMED, cutoff=0.5)
    shown = list(names) if len(names) <= MOST_NAMED else nearest
    error = unknown_name("class", name, map(printable, shown))
    more = f" (of {len(names)} classes)" if len(names) > len(shown) else ""
    raise InputError(f"{error}{more}")
