"""What a second look, the image's colours, or a box in the middle add to boxes around evidence.

    python benchmarks/box_tries.py RUN      # of a set with a box an image, Tiny ImageNet say

Takes the images that a run held out of its training set, and prints as tables in Markdown how many
boxes have an IoU above 0.5 with the true one, and how far the map tells where the object is and how
large. What a box depends on (a reach, a cut, a share) is chosen on every second image for the
others, and on the others for these.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from box_limits import batches, print_of_held_out

if TYPE_CHECKING:
    from torch import Tensor

    from loss_attention.data.sample import ImageSet
    from loss_attention.models import PatchClassifier

COLOUR, REACH = 0.1, 24.0
"""Of the smoothing, as deviations: in colour, whose channels go from 0 to 1, and in pixels."""
SHARES = (1.0, 0.75, 0.5, 0.25)
"""Of the map's own box in one that is drawn to the middle; of equally good ones the first."""
PLACES = ("middle, across", "middle, down", "width", "height")


def main() -> None:
    """Run the command."""
    print_of_held_out("box_tries", "Try what might make boxes around evidence better.", tables)


def tables(model: PatchClassifier, images: ImageSet) -> list[str]:
    """Return the lines of both tables, of images that have a box each."""
    import torch

    assert images.boxes is not None
    truth, size = images.boxes[:, 0], images.size
    maps: dict[str, list[Tensor]] = {}
    for batch in batches(images):
        for name, part in tried_maps(model, batch).items():
            maps.setdefault(name, []).append(part)
    middle = middle_boxes(size)
    lines = [
        "| map | its spread | a cut of it | its spread, drawn to the middle |",
        "| --- | ---: | ---: | ---: |",
        f"| none: the box in the middle | {framed(middle.unsqueeze(0), truth):.3f} | | |",
    ]
    correlated = [f"| map | {' | '.join(PLACES)} |", f"| --- |{' ---: |' * len(PLACES)}"]
    for name, parts in maps.items():
        whole = torch.cat(parts)
        shares = (f"{share:.3f}" for share in framed_by(whole, truth, middle))
        lines.append(f"| {name} | {' | '.join(shares)} |")
        told = (f"{one:.2f}" for one in correlations(whole, truth))
        correlated.append(f"| {name} | {' | '.join(told)} |")
    return [*lines, "", *correlated]


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
    place = torch.cartesian_prod(rows, columns)
    far = torch.cdist(place, place).square() / (2 * REACH**2)
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
    """Return the share framed by the spread, by a cut, and by the spread drawn to the middle."""
    import torch

    from loss_attention.metrics.detection import box_overlaps, spread_boxes
    from loss_attention.metrics.localisation import FRAMING_IOU, scaled_maps

    spread = spread_boxes(maps)
    cut = box_overlaps(scaled_maps(maps), truth.unsqueeze(1)).largest
    drawn = [(share * spread.unsqueeze(2) + (1 - share) * middle).flatten(1, 2) for share in SHARES]
    by_cut = chosen_by_halves(cut > FRAMING_IOU)
    return [framed(spread, truth), by_cut, framed(torch.cat(drawn, 1), truth)]


def framed(boxes: Tensor, truth: Tensor) -> float:
    """Return the share of true boxes `(N, 4)` that boxes `(N or 1, T, 4)` frame."""
    from loss_attention.geometry import box_iou
    from loss_attention.metrics.localisation import FRAMING_IOU

    return chosen_by_halves(box_iou(boxes, truth.unsqueeze(1)) > FRAMING_IOU)


def chosen_by_halves(right: Tensor) -> float:
    """Return the share that is right when each half of the images chooses for the other.

    Args:
        right: whether each choice is right for each image, shape `(N, T)`.
    """
    right = right.double()
    halves = right[0::2], right[1::2]
    best = [half.mean(dim=0).argmax() for half in halves]
    return float((halves[0][:, best[1]].sum() + halves[1][:, best[0]].sum()) / len(right))


def correlations(maps: Tensor, truth: Tensor) -> list[float]:
    """Return rank correlations of a map's mean place and spread with the box's, as in `PLACES`.

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
