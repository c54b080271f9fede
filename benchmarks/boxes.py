"""What keeps boxes around evidence from framing more objects, and what might help.

    python benchmarks/boxes.py limits RUN    # of a set with a box an image, Tiny ImageNet say
    python benchmarks/boxes.py tries RUN

Both take the images that a run held out of its training set, and print tables in Markdown of how
many boxes have an IoU above 0.5 with the true one.

`limits`: is it where they lie, or their sizes? Boxes of the map's spread (docs/measures.md) as they
are; moved to the true middle; brought to the true size; and beside them the box in the middle of
the image that frames most objects. The reach of the spread is the best on the same images.

`tries`: what do a second look, the image's colours, or a box in the middle add to them, and how far
does the map tell where the object is and how large? What a box depends on (a reach, a cut, a
fraction) is chosen on every second image for the others, and on the others for these.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from loss_attention.terminal import markdown_table

if TYPE_CHECKING:
    from torch import Tensor

    from loss_attention.data.sample import ImageSet
    from loss_attention.model import PatchClassifier

BATCH = 100
AREAS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""Of the image's area: the bounds between small and large objects."""
COLOUR, REACH = 0.1, 24.0
"""Standard deviations of the smoothing: in colour, whose channels go from 0 to 1; in pixels."""
DRAWN = (1.0, 0.75, 0.5, 0.25)
"""Of the map's own box in one that is drawn to the middle; of equally good ones the first."""
TOLD = ("middle, across", "middle, down", "width", "height")


@dataclass(frozen=True)
class Arguments:
    """Say what keeps boxes around evidence from framing more objects, or try what might help."""

    question: tyro.conf.Positional[Literal["limits", "tries"]]
    """Where they lie and how large they are, or other ways to draw them."""
    run: tyro.conf.Positional[Path]
    """A finished run on images that have a box each."""


def main() -> None:
    """Run the command; what a user can mend is one line."""
    arguments = tyro.cli(Arguments)
    # Not before a flag was wrong or --help was asked for: torch takes seconds.
    from loss_attention.errors import InputError

    answers: dict[str, Callable[[PatchClassifier, ImageSet], list[str]]] = {
        "limits": lambda model, images: limits(*held_out_boxes(model, images)),
        "tries": tries,
    }
    try:
        print("\n".join(answers[arguments.question](*held_out_images(arguments.run))))
    except InputError as error:
        print(f"boxes: {error}", file=sys.stderr)
        sys.exit(2)


def held_out_images(path: Path) -> tuple[PatchClassifier, ImageSet]:
    """Return a run's model, and the images that it held out, with a box each.

    Raises:
        InputError: no run, or one on images that do not have one box each.
    """
    from rich.console import Console

    from loss_attention.errors import InputError
    from loss_attention.runs import load_data
    from loss_attention.training.finished import load_weights
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

    for index in torch.arange(len(images)).split(BATCH):
        yield images.take(index)


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


def limits(found: Tensor, truth: Tensor, size: tuple[int, int]) -> list[str]:
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
    fraction = box_area(truth) / (size[0] * size[1])
    rows = [(0.0, AREAS[-1]), *pairwise(AREAS)]
    lines = []
    for low, high in rows:
        chosen = (fraction > low) & (fraction <= high)
        cells = [
            f"{fraction_framed(boxes[chosen], truth[chosen]):.3f}" for boxes in answers.values()
        ]
        lines.append([f"{low:.1f} to {high:.1f}", str(int(chosen.sum())), *cells])
    return markdown_table(["object's fraction of the image", "images", *answers], lines).split("\n")


def made(middles: Tensor, sizes: Tensor) -> Tensor:
    """Return boxes with the middles of some and the sizes of others, all `(N, 4)`."""
    import torch

    middle = (middles[:, :2] + middles[:, 2:]) / 2
    half = (sizes[:, 2:] - sizes[:, :2]) / 2
    return torch.cat([middle - half, middle + half], dim=1)


def fraction_framed(boxes: Tensor, truth: Tensor) -> float:
    """Return the fraction with an IoU above 0.5; NaN of none."""
    from loss_attention.geometry import box_iou
    from loss_attention.metrics.localisation import framed

    return float(framed(box_iou(boxes, truth)).float().mean())


def tries(model: PatchClassifier, images: ImageSet) -> list[str]:
    """Return the lines of both tables, of images that have a box each."""
    import torch

    assert images.boxes is not None
    truth, size = images.boxes[:, 0], images.size
    maps: dict[str, list[Tensor]] = {}
    for batch in batches(images):
        for name, part in tried_maps(model, batch).items():
            maps.setdefault(name, []).append(part)
    middle = middle_boxes(size)
    lines = [["none: the box in the middle", f"{framed(middle.unsqueeze(0), truth):.3f}", "", ""]]
    correlated = []
    for name, parts in maps.items():
        whole = torch.cat(parts)
        lines.append([name, *(f"{found:.3f}" for found in framed_by(whole, truth, middle))])
        correlated.append([name, *(f"{one:.2f}" for one in correlations(whole, truth))])
    headings = ["map", "its spread", "a cut of it", "its spread, drawn to the middle"]
    tables = (markdown_table(headings, lines), markdown_table(["map", *TOLD], correlated))
    return "\n\n".join(tables).split("\n")


def tried_maps(model: PatchClassifier, images: ImageSet) -> dict[str, Tensor]:
    """Return maps of the images' classes, by what was done to them, each of sum 1."""
    seen = as_shares(model.explain(images.images, images.labels).heat_maps)
    mirrored = model.explain(images.images.flip(3), images.labels).heat_maps.flip(2)
    both = (seen + as_shares(mirrored)) / 2
    return {
        "evidence": seen,
        "mean with that of the mirrored image": both,
        "evidence, smoothed along colours": along_colours(seen, images.images),
        "the mean, smoothed along colours": along_colours(both, images.images),
    }


def as_shares(maps: Tensor) -> Tensor:
    """Return the positive part over its sum; the same everywhere where nothing is positive."""
    positive = maps.clamp(min=0)
    total = positive.sum(dim=(1, 2), keepdim=True)
    return (positive / total).where(total > 0, 1 / maps[0].numel())


def along_colours(maps: Tensor, images: Tensor) -> Tensor:
    """Return maps smoothed over what is near and of a like colour (a joint bilateral filter).

    At half of the image's size, as every pixel is compared with every other.

    Args:
        maps: shape `(B, H, W)`.
        images: uint8, shape `(B, C, H, W)`.
    """
    import torch
    from torch.nn.functional import adaptive_avg_pool2d, interpolate

    size = images.shape[2:]
    half = [-(-side // 2) for side in size]
    colours = adaptive_avg_pool2d(images.float() / 255, half).flatten(2).transpose(1, 2)
    rows, columns = (2 * torch.arange(side, device=maps.device).float() for side in half)
    position = torch.cartesian_prod(rows, columns)
    far = torch.cdist(position, position).square() / (2 * REACH**2)
    coarse = adaptive_avg_pool2d(maps.unsqueeze(1), half).flatten(1)
    smooth = torch.empty_like(coarse)
    for i, colour in enumerate(colours):  # all pairs of pixels of one image at a time
        unlike = torch.cdist(colour, colour).square() / (2 * COLOUR**2)
        near = torch.exp(-(unlike + far))
        smooth[i] = near @ coarse[i] / near.sum(dim=1)
    return interpolate(smooth.view(len(maps), 1, *half), size=size, mode="nearest").squeeze(1)


def middle_boxes(size: tuple[int, int]) -> Tensor:
    """Return boxes in the middle of an image: 6 heights and as many widths."""
    import torch

    from loss_attention.metrics.localisation import centred_box

    sides = [step / 8 for step in range(3, 9)]
    return torch.stack([centred_box(across, down, *size) for across in sides for down in sides])


def framed_by(maps: Tensor, truth: Tensor, middle: Tensor) -> list[float]:
    """Return the fraction framed by the spread, by a cut, and by the spread drawn to the middle."""
    import torch

    from loss_attention.metrics.detection import box_overlaps, spread_boxes
    from loss_attention.metrics.localisation import FRAMING_IOU, scaled_maps

    spread = spread_boxes(maps)
    cut = box_overlaps(scaled_maps(maps), truth.unsqueeze(1)).largest
    drawn = [(part * spread.unsqueeze(2) + (1 - part) * middle).flatten(1, 2) for part in DRAWN]
    by_cut = chosen_by_halves(cut > FRAMING_IOU)
    return [framed(spread, truth), by_cut, framed(torch.cat(drawn, 1), truth)]


def framed(boxes: Tensor, truth: Tensor) -> float:
    """Return the fraction of true boxes `(N, 4)` that boxes `(N or 1, T, 4)` frame."""
    from loss_attention.geometry import box_iou
    from loss_attention.metrics.localisation import FRAMING_IOU

    return chosen_by_halves(box_iou(boxes, truth.unsqueeze(1)) > FRAMING_IOU)


def chosen_by_halves(right: Tensor) -> float:
    """Return the fraction that is right when each half of the images chooses for the other.

    Args:
        right: whether each choice is right for each image, shape `(N, T)`.
    """
    right = right.double()
    halves = right[0::2], right[1::2]
    best = [half.mean(dim=0).argmax() for half in halves]
    return float((halves[0][:, best[1]].sum() + halves[1][:, best[0]].sum()) / len(right))


def correlations(maps: Tensor, truth: Tensor) -> list[float]:
    """Return rank correlations of a map's mean position and spread with the box's, as in `TOLD`.

    NaN where there is nothing to tell apart.
    """
    from scipy.stats import spearmanr

    from loss_attention.metrics.detection import REACHES, spread_boxes

    # Not cut off by the image's border, but for maps that spread over nearly all of it.
    told = _middle_and_size(spread_boxes(maps)[:, REACHES.index(0.8)])
    true = _middle_and_size(truth)
    return [
        float(spearmanr(a, b).statistic) if len(a.unique()) > 1 < len(b.unique()) else float("nan")
        for a, b in zip(told, true, strict=True)
    ]


def _middle_and_size(boxes: Tensor) -> tuple[Tensor, ...]:
    x0, y0, x1, y1 = boxes.unbind(1)
    return x0 + x1, y0 + y1, x1 - x0, y1 - y0


if __name__ == "__main__":
    main()
