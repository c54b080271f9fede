"""What keeps boxes around evidence from framing more objects: their places, or their sizes?

    python benchmarks/box_limits.py RUN      # of a set with a box an image, Tiny ImageNet say

Takes the images that a run held out of its training set, and prints as a table in Markdown how many
boxes of the map's spread (docs/measures.md) have an IoU above 0.5 with the true one: as they are;
moved to the true middle; brought to the true size; and beside them the box in the middle of the
image that frames most of them. The reach of the spread is the best on the same images.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

if TYPE_CHECKING:
    from torch import Tensor

    from loss_attention.data.sample import ImageSet
    from loss_attention.models import PatchClassifier

BATCH = 100
SHARES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""Of the image's area: the bounds between small and large objects."""


@dataclass(frozen=True)
class Arguments:
    """What a command on the held-out images of a run is told."""

    run: tyro.conf.Positional[Path]
    """A finished run on images that have a box each."""


def print_of_held_out(
    name: str, description: str, lines: Callable[[PatchClassifier, ImageSet], list[str]]
) -> None:
    """Print what is made of a run's held-out images; what a user can mend is one line."""
    arguments = tyro.cli(Arguments, description=description)
    # Not before a flag was wrong or --help was asked for: torch takes seconds.
    from loss_attention.errors import InputError

    try:
        print("\n".join(lines(*held_out_images(arguments.run))))
    except InputError as error:
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(2)


def main() -> None:
    """Run the command."""
    print_of_held_out(
        "box_limits",
        "Say what keeps boxes around evidence from framing more objects.",
        lambda model, images: table(*held_out_boxes(model, images)),
    )


def held_out_images(path: Path) -> tuple[PatchClassifier, ImageSet]:
    """Return a run's model, and the images that it held out, with a box each.

    Raises:
        InputError: no run, or one on images that do not have one box each.
    """
    from rich.console import Console

    from loss_attention.errors import InputError
    from loss_attention.jobs import load_weights
    from loss_attention.run_data import load_data
    from loss_attention.training.run_folder import RunFolder

    run = RunFolder.open(path)
    recipe, model = run.recipe(), load_weights(run)
    splits = load_data(recipe, Console(stderr=True), run.options())
    train = splits.trainval
    if train.boxes is None or train.boxes.shape[1] != 1:
        raise InputError(f"{path}: its images ({recipe.data}) do not have one box each")
    return model, splits.validation.decoded()


def batches(images: ImageSet) -> Iterator[ImageSet]:
    """Return the images in their order, `BATCH` at a time."""
    import torch

    for places in torch.arange(len(images)).split(BATCH):
        yield images.take(places)


def held_out_boxes(
    model: PatchClassifier, images: ImageSet
) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """Return boxes of the spread at every reach `(N, T, 4)`, true ones `(N, 4)`, and the size."""
    import torch

    from loss_attention.metrics.detection import spread_boxes

    found = [
        spread_boxes(model.explain(batch.images, batch.labels).heat_maps)
        for batch in batches(images)
    ]
    assert images.boxes is not None
    return torch.cat(found), images.boxes[:, 0], images.size


def table(found: Tensor, truth: Tensor, size: tuple[int, int]) -> list[str]:
    """Return the lines of the table.

    Args:
        found: boxes at some reaches, shape `(N, T, 4)`.
        truth: shape `(N, 4)`.
        size: of the images, height and width.
    """
    import torch

    from loss_attention.geometry import box_area, box_iou
    from loss_attention.metrics.localisation import centred_box, fit_centred_box, framed

    best = framed(box_iou(found, truth.unsqueeze(1))).sum(dim=0).argmax()
    own = found[:, best]
    fitted = fit_centred_box(truth.unsqueeze(1), torch.ones(len(truth), 1, dtype=torch.bool), *size)
    assert fitted is not None  # there is a box
    middle = centred_box(*fitted, *size)
    answers = {
        "in the middle": middle.expand_as(truth),
        "the map's spread": own,
        "its true middle": made(truth, own),
        "its true size": made(own, truth),
    }
    share = box_area(truth) / (size[0] * size[1])
    rows = [(0.0, SHARES[-1]), *pairwise(SHARES)]
    lines = [
        f"| object's share of the image | images | {' | '.join(answers)} |",
        f"| --- | ---: |{' ---: |' * len(answers)}",
    ]
    for low, high in rows:
        chosen = (share > low) & (share <= high)
        cells = [f"{share_framed(boxes[chosen], truth[chosen]):.3f}" for boxes in answers.values()]
        lines.append(f"| {low:.1f} to {high:.1f} | {int(chosen.sum())} | {' | '.join(cells)} |")
    return lines


def made(middles: Tensor, sizes: Tensor) -> Tensor:
    """Return boxes with the middles of some and the sizes of others, all `(N, 4)`."""
    import torch

    middle = (middles[:, :2] + middles[:, 2:]) / 2
    half = (sizes[:, 2:] - sizes[:, :2]) / 2
    return torch.cat([middle - half, middle + half], dim=1)


def share_framed(boxes: Tensor, truth: Tensor) -> float:
    """Return the share with an IoU above 0.5; NaN of none."""
    from loss_attention.geometry import box_iou
    from loss_attention.metrics.localisation import framed

    return float(framed(box_iou(boxes, truth)).float().mean())


if __name__ == "__main__":
    main()
