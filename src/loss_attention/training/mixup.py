"""Mixup: training images mixed in pairs, and their labels in the same ratio (Zhang et al. 2018).

Which images are mixed, and how far, is a pure function of seed, epoch and step, and drawn for all
processes together: a process takes the partners of its images too, wherever their own process is.

A mixed image shows both of a pair in every patch, each as far as it was mixed in. So the targets of
the patch regulariser are mixed like those of the image: Eq. 9 takes each label by its fraction, and
in Eq. 10 a patch may answer with whichever label of either image suits it best.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from loss_attention.data.sample import sent
from loss_attention.training.sampling import PAIRS, drawing_from, stream_seed


@dataclass(frozen=True)
class Pairs:
    """Which images of a step are mixed.

    Attributes:
        partner: the position in the step of each image's partner; for some it is their own.
        kept: the fraction of each mixed image that is itself, in [1/2, 1].
    """

    partner: Int[Tensor, " B"]
    kept: Float[Tensor, " B"]

    def needed(self, part: slice) -> Int[Tensor, " n"]:
        """Return the positions of the images in a part, and then those of partners outside it."""
        own = torch.arange(len(self.partner))[part]
        partners = self.partner[part]
        return torch.cat([own, partners[~torch.isin(partners, own)]])

    def mixed(
        self,
        images: UInt8[Tensor, "n C H W"],
        targets: Float[Tensor, "n K"],
        part: slice,
    ) -> tuple[UInt8[Tensor, "b C H W"], Float[Tensor, "b K"]]:
        """Return the images of a part mixed with their partners, and their targets.

        Args:
            images: of the positions that are `needed`.
            targets: theirs: 1 for each class that an image has, else 0.
            part: of the step.
        """
        needed, device = self.needed(part), images.device
        own = len(self.partner[part])
        row_of = torch.empty_like(self.partner)
        row_of[needed] = torch.arange(len(needed))
        partner, kept = row_of[self.partner[part]], sent(self.kept[part], device)
        # One after the other: the floats of a whole batch take a CPU ten times as long.
        shown = [
            torch.lerp(images[other].float(), images[row].float(), kept[row]).round_()
            for row, other in enumerate(partner.tolist())
        ]
        there = torch.stack([image.to(torch.uint8) for image in shown])
        return there, torch.lerp(targets[sent(partner, device)], targets[:own], kept[:, None])


def draw_pairs(count: int, alpha: float, seed: int, epoch: int, step: int) -> Pairs:
    """Draw the pairs of a step, and fractions from Beta(alpha, alpha).

    Partners are a permutation and the distribution is symmetric. So it changes nothing but names
    that the larger one of two fractions is the image's own, and then its own label is the heavier.

    Args:
        count: images in the step.
        alpha: from 0.01 on; small ones leave most images nearly as they are.
        seed: of the run.
        epoch: counted from 0.
        step: of the epoch, counted from 0.
    """
    with drawing_from(stream_seed(seed, epoch, PAIRS + step)):
        partner = torch.randperm(count)
        both = torch.full((2,), alpha, dtype=torch.float64)  # tiny numbers for a small alpha
        kept = torch.distributions.Beta(*both).sample((count,))
    return Pairs(partner, torch.maximum(kept, 1 - kept).float())
