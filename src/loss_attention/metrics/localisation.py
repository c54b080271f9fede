"""Where the evidence lies and where the object is: boxes, selected patches, heat maps, mosaics.

All are in [0, 1], higher is better. What trivial baselines score on the same images has to stand
beside them: the whole image, a centred box, equal weights, shuffled evidence, edges.

**One box an image** is correct when its IoU with one relevant box is above 0.5: GT-known Loc, or
Top-1 Loc where the predicted class has to be right as well. The paper's "AP" (Section IV-C) is the
fraction of images that are correct. An IoU of exactly 0.5 is not enough wherever one box is asked
for; MaxBoxAccV2 and COCO's average precision, as published, take it.

**Selected patches**, the paper's Section IV-C, are three sets, each a bool tensor `(B, M)`:

* S, the selected patches (`PatchPrediction.selected`);
* A, those whose own predicted class is one of the image's labels (`right_patches`);
* B, those with more than half their window inside a box of one of the image's labels
  (`patches_in_boxes`).

Equal weights select every patch. No selection of the same patches has a higher recall than that,
so recall only says something beside precision, in F.

**Heat maps** of any attribution can be measured: a map is what it says of each pixel of the image,
larger where more speaks for the class. Only its positive part counts.

**Small objects**, defects for instance, are smaller than a patch, and a map that finds one is off
its pixels by some. So the pointing game and the energy pointing game are also measured with a
tolerance: on the object and within so many pixels of it (`near_object`).

**Mosaics** (the grid pointing game): images that the model classifies rightly, and most
confidently, are put together in a square grid, each class at most once, so that the cell of the
evidence for each class is known without any annotation. Measured is the fraction of the positive
attribution for a class that lies in its cell. Böhle et al. 2021, "Convolutional Dynamic Alignment
Networks"; Rao et al. 2022, "Towards Better Understanding Attribution Methods" (GridPG). Equal and
random maps score one over the number of cells.

**Edges** pass for an explanation to many eyes, and no model made them: Adebayo et al., Sanity
Checks for Saliency Maps, NeurIPS 2018.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from torch.nn import functional as F

from loss_attention.geometry import PatchGrid, box_area, box_iou, inside_fraction

FRAMING_IOU = 0.5
"""A box whose IoU with the object's is above this frames it."""
CENTRED_STEPS = 32
"""Widths and heights of centred boxes are tried in this many steps of the image's size."""


def relevant_boxes(
    box_labels: Int[Tensor, "B G"], labels: Shaped[Tensor, B * K]
) -> Bool[Tensor, "B G"]:
    """Return which boxes are of one of their image's labels; -1 stands for "no box".

    Args:
        box_labels: the class of each box.
        labels: class indices `(B,)` or, multi-label, 0/1 `(B, K)`.
    """
    if labels.ndim == 1:
        return box_labels == labels.unsqueeze(1)
    return labels.bool().gather(1, box_labels.clamp(min=0)) & (box_labels >= 0)


def framed(overlaps: Float[Tensor, "*N"]) -> Bool[Tensor, "*N"]:
    """Return which boxes frame their object, from their IoU with it.

    Example:
        >>> framed(torch.tensor([0.49, 0.5, 0.51]))
        tensor([False, False,  True])
    """
    return overlaps > FRAMING_IOU


def correct_boxes(
    predicted: Float[Tensor, "B 4"], boxes: Float[Tensor, "B G 4"], relevant: Bool[Tensor, "B G"]
) -> Bool[Tensor, " B"]:
    """Return which predicted boxes have an IoU above 0.5 with a relevant box of their image.

    "No box" (NaN) is never correct. The mean over images that have a relevant box is GT-known Loc:
    the class that the model predicts is not asked for. Where it has to be right as well, the mean
    is Top-1 Loc (Russakovsky et al., ImageNet, IJCV 2015).

    Example:
        >>> import torch
        >>> truth = torch.tensor([[[0.0, 0.0, 4.0, 4.0]]])
        >>> correct_boxes(torch.tensor([[0.0, 0.0, 4.0, 3.0]]), truth, torch.tensor([[True]]))
        tensor([True])
    """
    return (framed(box_iou(predicted.unsqueeze(1), boxes)) & relevant).any(dim=1)


SMALL = 0.4
"""Objects whose boxes each cover a smaller part of the image are small. On common data sets objects
are larger, and lie in the middle: there a box around the middle is right without looking."""


def are_small(boxes: Float[Tensor, "P G 4"], height: int, width: int) -> Bool[Tensor, " P"]:
    """Return where none of the boxes covers `SMALL` of the image; NaN stands for "no box".

    Example:
        >>> boxes = torch.tensor([[[0.0, 0.0, 3.0, 10.0]], [[0.0, 0.0, 4.0, 10.0]]])
        >>> are_small(boxes, height=10, width=10)
        tensor([ True, False])
    """
    return ~(box_area(boxes) >= SMALL * height * width).any(dim=1)


def centred_box(across: float, down: float, height: int, width: int) -> Float[Tensor, 4]:
    """Return the box of `across * width` by `down * height` pixels in the middle of an image.

    Example:
        >>> centred_box(0.5, 1.0, height=10, width=20)
        tensor([ 5.,  0., 15., 10.])
    """
    x, y = (1 - across) / 2 * width, (1 - down) / 2 * height
    return torch.tensor([x, y, width - x, height - y])


def fit_centred_box(
    boxes: Float[Tensor, "N G 4"],
    relevant: Bool[Tensor, "N G"],
    height: int,
    width: int,
    iou: float = FRAMING_IOU,
) -> tuple[float, float] | None:
    """Return the size of the centred box that is correct in the most images of a training set.

    Width and height are tried independently in steps of 1/32 of the image's; ties go to the
    larger box. Correct is one whose IoU is above `iou`.

    Returns:
        The fractions `across` and `down` for `centred_box`, in (0, 1], or None where no image has
        a relevant box.
    """
    image, _ = relevant.nonzero(as_tuple=True)
    flat = boxes[relevant]
    if len(flat) == 0:
        return None
    steps = range(CENTRED_STEPS, 0, -1)
    across = torch.tensor([step / CENTRED_STEPS for step in steps], device=flat.device)
    # A centred box and another share a rectangle whose sides do not depend on each other.
    wide, high = (across * side for side in (width, height))
    shared_x = _shared_length(wide, width, flat[:, 0], flat[:, 2])
    shared_y = _shared_length(high, height, flat[:, 1], flat[:, 3])
    hits = []
    for x, side in zip(shared_x, wide, strict=True):
        shared = x * shared_y
        union = (side * high).unsqueeze(1) + box_area(flat) - shared
        hit = (shared > iou * union).float()
        found = hit.new_zeros(len(high), len(boxes)).index_add_(1, image, hit)
        hits += (found > 0).sum(dim=1).tolist()
    sizes = [(a / CENTRED_STEPS, b / CENTRED_STEPS) for a in steps for b in steps]
    best = max(range(len(sizes)), key=lambda i: (hits[i], sizes[i][0] * sizes[i][1]))
    return sizes[best]


def _shared_length(
    lengths: Float[Tensor, " S"], side: int, low: Float[Tensor, " n"], high: Float[Tensor, " n"]
) -> Float[Tensor, "S n"]:
    """Return how much of each interval lies in the middle `lengths` of a side."""
    margin = ((side - lengths) / 2).unsqueeze(1)
    return (torch.minimum(high, side - margin) - torch.maximum(low, margin)).clamp(min=0)


def right_patches(
    patch_logits: Float[Tensor, "B M K"], labels: Shaped[Tensor, B * K]
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

    In [0, 1], higher is better. Uniform weights have the fraction of patches in B.
    """
    return (patch_weights * inside).sum(dim=1)


@dataclass(frozen=True)
class PatchCounts:
    """Patches counted over any number of images; counts of two batches add up with `+`.

    They stay on their device until a metric is read, so a loop over batches need not wait.

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


NEAR = 16
"""Pixels of the image from an object that count as near it, unless told otherwise."""
NEAR_OF_SIDE = 8
"""What is near is part of an image at most a side of so many times that; else all would be near."""


def has_distance(height: int, width: int, within: int) -> bool:
    """Return whether images are large enough for "within so many pixels" to say something.

    Example:
        >>> has_distance(32, 32, NEAR), has_distance(320, 240, NEAR), has_distance(32, 32, 4)
        (False, True, True)
    """
    return min(height, width) >= NEAR_OF_SIDE * within


def near_object(inside: Bool[Tensor, "B H W"], within: int = NEAR) -> Bool[Tensor, "B H W"]:
    """Return the pixels that are on the object or at most so many pixels from it.

    The distance is that of a pixel's centre to the nearest one of the object's (the Euclidean
    distance transform of SciPy). Without an object, nothing is near it.

    With `pointing_hits` this is the pointing game as published, whose tolerance is 15 pixels
    (Zhang et al., Top-down Neural Attention by Excitation Backprop, IJCV 2018).

    Example:
        >>> object = torch.tensor([[[0, 0, 0, 0, 1, 0]]]).bool()
        >>> near_object(object, within=2).int()
        tensor([[[0, 0, 1, 1, 1, 1]]], dtype=torch.int32)
    """
    from scipy import ndimage

    near = torch.zeros(inside.shape, dtype=torch.bool)
    for index, one in enumerate(inside.cpu().numpy()):
        if one.any():
            away = ndimage.distance_transform_edt(~one)
            near[index] = torch.from_numpy(away <= within)
    return near.to(inside.device)


PIXEL_STEPS = 1000
"""Thresholds of pixel-level AP, as many as its source has."""


def scaled_maps(maps: Float[Tensor, "B H W"]) -> Float[Tensor, "B H W"]:
    """Return the positive part of each map divided by its maximum; all 0 where nothing is above 0.

    Example:
        >>> scaled_maps(torch.tensor([[[-1.0, 2.0, 4.0]]]))
        tensor([[[0.0000, 0.5000, 1.0000]]])
    """
    positive = maps.clamp(min=0)
    top = positive.amax(dim=(1, 2), keepdim=True)
    return torch.where(top > 0, positive / top, 0.0)


def pixels_in_boxes(
    boxes: Float[Tensor, "B G 4"], height: int, width: int
) -> Bool[Tensor, "B {height} {width}"]:
    """Return the pixels whose centre lies in one of the boxes; a NaN row is "no box"."""
    x = torch.arange(width, device=boxes.device) + 0.5
    y = torch.arange(height, device=boxes.device) + 0.5
    inside = torch.zeros(len(boxes), height, width, dtype=torch.bool, device=boxes.device)
    for x0, y0, x1, y1 in (box.unsqueeze(-1).unbind(1) for box in boxes.unbind(1)):
        inside |= ((y >= y0) & (y < y1)).unsqueeze(2) & ((x >= x0) & (x < x1)).unsqueeze(1)
    return inside


def empty_maps(maps: Float[Tensor, "B H W"]) -> Bool[Tensor, " B"]:
    """Return which maps have nothing above 0, and so point nowhere: where they lie they score 0."""
    return ~(maps > 0).any(dim=2).any(dim=1)


def energy_pointing(
    maps: Float[Tensor, "B H W"], inside: Bool[Tensor, "B H W"]
) -> Float[Tensor, " B"]:
    """Return which fraction of each map's positive sum lies on the object.

    0 where nothing is positive. The energy pointing game (EPG) of Wang et al., Score-CAM, CVPR
    Workshops 2020. A constant map has the fraction of the pixels that are the object's.
    """
    positive = maps.clamp(min=0)
    total = positive.sum(dim=(1, 2))
    return torch.where(total > 0, (positive * inside).sum(dim=(1, 2)) / total, 0.0)


def pointed_pixels(maps: Float[Tensor, "B H W"]) -> Int[Tensor, " B"]:
    """Return the pixel of each map's maximum, counted row by row; -1 where nothing is positive.

    Of several pixels with the greatest value, the one nearest to the middle of them all is taken
    (where the middle is an edge between two, the later one), so a constant map points at the
    middle of the image.
    """
    top = maps.flatten(1).amax(dim=1)
    tied = maps == top[:, None, None]
    # Of each pixel, how far it is from the middle of the tied ones, squared.
    away = []
    for axis, other in ((1, 2), (2, 1)):
        pixel = torch.arange(maps.shape[axis], device=maps.device).double()
        along = tied.sum(dim=other)
        middle = (along * pixel).sum(dim=1, keepdim=True) / along.sum(dim=1, keepdim=True)
        away.append((pixel - middle).square())
    far = away[0].unsqueeze(2) + away[1].unsqueeze(1)
    last = far.masked_fill(~tied, torch.inf).flatten(1).flip(1).argmin(dim=1)
    return torch.where(top > 0, maps.shape[1] * maps.shape[2] - 1 - last, -1)


def hits(pixels: Int[Tensor, " B"], inside: Bool[Tensor, "B H W"]) -> Bool[Tensor, " B"]:
    """Return whether pixels, as `pointed_pixels` gives them, lie on the object."""
    found = inside.flatten(1).gather(1, pixels.clamp(min=0).unsqueeze(1)).squeeze(1)
    return found & (pixels >= 0)


def pointing_hits(
    maps: Float[Tensor, "B H W"], inside: Bool[Tensor, "B H W"]
) -> Bool[Tensor, " B"]:
    """Return whether the maximum of each map lies on the object; see `pointed_pixels`.

    False where nothing is positive: such a map points nowhere.

    The pointing game of Zhang et al., Top-down Neural Attention by Excitation Backprop, IJCV 2018,
    without its tolerance of 15 pixels (`near_object` has one), over all (image, class) pairs alike.
    The trivial baseline is the middle of the image.
    """
    return hits(pointed_pixels(maps), inside)


def count_pixels(
    scaled: Float[Tensor, "B H W"], masks: Bool[Tensor, "B H W"]
) -> Int[Tensor, "2 T"]:
    """Count pixels by value, off (row 0) and on (row 1) the object; counts of batches add up.

    Args:
        scaled: maps in [0, 1], from `scaled_maps`.
        masks: the object's pixels.
    """
    steps = (scaled * PIXEL_STEPS).long().clamp(0, PIXEL_STEPS - 1)
    index = steps + PIXEL_STEPS * masks
    return torch.bincount(index.flatten(), minlength=2 * PIXEL_STEPS).reshape(2, PIXEL_STEPS)


def pixel_average_precision(counts: Int[Tensor, "2 T"]) -> float | None:
    """Return the area under precision over recall of pixels, all images pooled: PxAP.

    Choe et al., Evaluating Weakly Supervised Object Localization Methods Right, CVPR 2020. A
    constant map has the fraction of pixels that are an object's. None without object.

    Args:
        counts: pixels by value, from `count_pixels`.
    """
    off, on = counts.flip(1).cumsum(dim=1).double().cpu()
    if not on[-1]:
        return None
    some = (on + off) > 0
    recall, precision = on[some] / on[-1], on[some] / (on + off)[some]
    return float((precision * recall.diff(prepend=recall.new_zeros(1))).sum())


def choose_mosaics(
    confidence: Float[Tensor, " N"],
    classes: Int[Tensor, " N"],
    cells: int,
    mosaics: int,
    seed: int,
) -> Int[Tensor, "G cells"] | None:
    """Choose images for mosaics, the most confident of each class first.

    Classes take turns: those that occur least so far have a cell in the next mosaic, by chance
    among equals; an image occurs again only when its class has run out.

    Args:
        confidence: the probability of the right class; negative for an image that must not be
            used, a wrongly classified one for instance.
        classes: the class of each image.
        cells: images of a mosaic.
        mosaics: how many to make.
        seed: the same seed makes the same mosaics.

    Returns:
        Indices of images, shape `(G, cells)`; None where fewer than `cells` classes have an image.
    """
    queues: dict[int, list[int]] = {}
    for image in confidence.argsort(descending=True, stable=True).tolist():
        if confidence[image] >= 0:
            queues.setdefault(int(classes[image]), []).append(image)
    if len(queues) < cells:
        return None
    generator = torch.Generator().manual_seed(seed)
    names, used = sorted(queues), dict.fromkeys(queues, 0)
    chosen: list[list[int]] = []
    for _ in range(mosaics):
        lots = torch.randperm(len(names), generator=generator).tolist()
        drawn = sorted(zip(names, lots, strict=True), key=lambda pair: (used[pair[0]], pair[1]))
        chosen.append([])
        for name, _lot in drawn[:cells]:
            chosen[-1].append(queues[name][used[name] % len(queues[name])])
            used[name] += 1
        # Which cell a class is in must not tell how common it is.
        order = torch.randperm(cells, generator=generator).tolist()
        chosen[-1] = [chosen[-1][cell] for cell in order]
    return torch.tensor(chosen)


def assemble(images: Shaped[Tensor, "G S C H W"], side: int) -> Shaped[Tensor, "G C V U"]:
    """Put `side * side` images of each mosaic in a square, in reading order.

    Example:
        >>> assemble(torch.arange(4).reshape(1, 4, 1, 1, 1), 2)
        tensor([[[[0, 1],
                  [2, 3]]]])
    """
    mosaics, _, channels, height, width = images.shape
    grid = images.reshape(mosaics, side, side, channels, height, width)
    return grid.permute(0, 3, 1, 4, 2, 5).reshape(mosaics, channels, side * height, side * width)


def grid_pointing(
    maps: Float[Tensor, "B V U"], cell: Int[Tensor, " B"], side: int
) -> Float[Tensor, " B"]:
    """Return the fraction of each map's positive part that lies in its cell; 0 where there is none.

    Args:
        maps: heat maps of mosaics, for the class of one cell each.
        cell: the number of that cell, in reading order.
        side: cells along a side of the mosaic.
    """
    count, height, width = maps.shape
    positive = maps.clamp(min=0).double()
    parts = positive.reshape(count, side, height // side, side, width // side).sum(dim=(2, 4))
    parts = parts.reshape(count, side * side)
    total = parts.sum(dim=1)
    fraction = parts.gather(1, cell.unsqueeze(1)).squeeze(1) / total.where(total > 0, 1.0)
    return fraction.where(total > 0, 0.0)


def edge_strength(images: Shaped[Tensor, "B C H W"]) -> Float[Tensor, "B H W"]:
    """Return the magnitude of the brightness gradient by the Sobel operator, in brightness a pixel.

    Brightness is the mean over the channels; at the border the outermost pixels are repeated.
    """
    grey = images.float().mean(dim=1, keepdim=True)
    across = grey.new_tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 8
    padded = F.pad(grey, (1, 1, 1, 1), mode="replicate")
    slopes = F.conv2d(padded, torch.stack([across, across.T]).unsqueeze(1))
    strength: Tensor = torch.linalg.vector_norm(slopes, dim=1)
    return strength


def edges_in_windows(images: Shaped[Tensor, "B C H W"], grid: PatchGrid) -> Float[Tensor, "B M"]:
    """Return the mean strength of the edges in each patch's window."""
    strength = edge_strength(images).unsqueeze(1)
    height = (grid.rows - 1) * grid.stride + grid.window
    width = (grid.columns - 1) * grid.stride + grid.window
    # Windows may reach past the image; what is not there adds nothing and does not count.
    pad = (0, max(0, width - grid.width), 0, max(0, height - grid.height))
    total = F.avg_pool2d(F.pad(strength, pad), grid.window, grid.stride)
    there = F.avg_pool2d(F.pad(torch.ones_like(strength[:1]), pad), grid.window, grid.stride)
    return (total / there)[:, 0, : grid.rows, : grid.columns].flatten(1)
