"""How well the selected patches lie on the object: precision, recall and F of patches.

Three sets of patches, each a bool tensor `(B, M)`:

* S, the selected patches (`PatchPrediction.selected`);
* A, those whose own predicted class is one of the image's labels (`right_patches`);
* B, those with more than half their window inside a box of one of the image's labels
  (`patches_in_boxes`).

All measures are in [0, 1], higher is better; the paper's Section IV-C. Their floor is that of
uniform weights, which select every patch. No selection of the same patches has a higher recall
than that, so recall only says something beside precision, in F.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from loss_attention.geometry import inside_fraction


def right_patches(
    patch_logits: Float[Tensor, "B M K"], labels: Shaped[Tensor, "B *K"]
) -> Bool[Tensor, "B M"]:
    """Return the set A: patches whose own predicted class is one of the image's labels.

    Single-label (labels `(B,)`): the largest logit is the label's. Multi-label (labels `(B, K)`):
    the sigmoid of some true label is above 0.5.
    """
    if labels.ndim == 1:
        return patch_logits.argmax(dim=2) == labels.unsqueeze(1)
    return ((patch_logits > 0) & labels.bool().unsqueeze(1)).any(dim=2)


def patches_in_boxes(
    windows: Float[Tensor, "M 4"], boxes: Float[Tensor, "B G 4"], relevant: Bool[Tensor, "B G"]
) -> Bool[Tensor, "B M"]:
    """Return the set B: patches with more than half their window inside one relevant box.

    An object that fills half of no window has no patch in B.
    """
    return ((inside_fraction(windows, boxes) > 0.5) & relevant.unsqueeze(2)).any(dim=1)


def weight_inside(
    patch_weights: Float[Tensor, "B M"], inside: Bool[Tensor, "B M"]
) -> Float[Tensor, " B"]:
    """Return the weight that lies on patches of the set B, for each image.

    In [0, 1], higher is better. The floor is that of uniform weights: the share of patches in B.
    """
    return (patch_weights * inside).sum(dim=1)


@dataclass(frozen=True)
class PatchCounts:
    """Patches counted over any number of images; counts of two batches add up with `+`.

    They stay on their device until a measure is read, so a loop over batches need not wait.

    Attributes:
        chosen: |S & A|.
        found: |S & A & B|.
        wanted: |B|.
    """

    chosen: Int[Tensor, ""]
    found: Int[Tensor, ""]
    wanted: Int[Tensor, ""]

    def __add__(self, other: PatchCounts) -> PatchCounts:
        return PatchCounts(
            self.chosen + other.chosen, self.found + other.found, self.wanted + other.wanted
        )

    @property
    def precision(self) -> float | None:
        """|S & A & B| / |S & A|; None where no patch was both selected and right."""
        return _ratio(self.found, self.chosen)

    @property
    def recall(self) -> float | None:
        """|S & A & B| / |B|; None where no patch lies in a box."""
        return _ratio(self.found, self.wanted)

    @property
    def f(self) -> float | None:
        """Harmonic mean of precision and recall; 0 where both are, None where one is undefined."""
        if self.precision is None or self.recall is None:
            return None
        return _ratio(2 * self.found, self.chosen + self.wanted)


def count_patches(
    selected: Bool[Tensor, "B M"], right: Bool[Tensor, "B M"], inside: Bool[Tensor, "B M"]
) -> PatchCounts:
    """Count the patches of a batch; the arguments are the sets S, A and B.

    Example:
        >>> import torch
        >>> yes = torch.tensor([[True, True, False, False]])
        >>> counts = count_patches(yes, right=yes | True, inside=yes.roll(1))
        >>> counts.precision, counts.recall, counts.f
        (0.5, 0.5, 0.5)
    """
    chosen = selected & right
    return PatchCounts(chosen.sum(), (chosen & inside).sum(), inside.sum())


def _ratio(part: Tensor, whole: Tensor) -> float | None:
    return int(part) / int(whole) if int(whole) else None
