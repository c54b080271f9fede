"""Guidance from a few boxes: the map of a class is drawn to where its object is known to be.

Where training images have boxes or masks, the loss gets a term, the energy loss of Rao et al.,
"Studying How to Efficiently and Effectively Guide Models with Explanations" (ICCV 2023), on the
evidence that the model decides by anyway: no gradients of gradients, no second pass
(`energy_loss`). `Guide` knows which images have something to say, draws those that may, and hands
out what they say of the images of a step, moved along with their augmentation.

Images that are not drawn add nothing, nor do those whose object was cropped away. The mean over all
that may guide is what the weight multiplies, however few they are: one image in a hundred, when its
turn comes, counts a hundred times (`MOST_OFTEN` at most). A constant factor, and a sum over the
images of a step divided by their number, so that a step may be divided into parts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.utils import _pytree as pytree

from loss_attention.data.sample import ImageSet, LabelledImages, sent
from loss_attention.errors import InputError
from loss_attention.geometry import painted_on
from loss_attention.heads import HEADS
from loss_attention.metrics.localisation import pixels_in_boxes, relevant_boxes
from loss_attention.prediction import PatchPrediction
from loss_attention.training.augmentation import Augmenter, Scenes
from loss_attention.training.recipe import Recipe
from loss_attention.training.sampling import GUIDES, stream

MOST_OFTEN = 100.0
"""An image that guides counts at most so many times: of fewer than one in a hundred, each alone
would decide the steps that it is in."""
FULL = 1.0
"""A map is taken to sum to so many logit units at least, where each patch is painted on as many
pixels; see `energy_loss`."""
AT_ONCE = 2**24
"""Pixels of objects that are looked at together."""


@dataclass(frozen=True)
class Objects:
    """What is known of some images of a step, on the CPU: of n images and a class of each.

    Attributes:
        row: the image's place among those of the step that are looked at, shape `(n,)`, rising.
        classes: shape `(n,)`.
        scenes: the boxes of the class in the image, and its mask.
    """

    row: Int[Tensor, " n"]
    classes: Int[Tensor, " n"]
    scenes: Scenes

    def __len__(self) -> int:
        return len(self.row)

    def part(self, start: int, count: int) -> Objects:
        """Return those of so many images from one on, which are then the first."""
        first, last = torch.searchsorted(self.row, torch.tensor([start, start + count])).tolist()
        some = slice(first, last)
        return Objects(self.row[some] - start, self.classes[some], self.scenes[some])

    def pixels(self, device: torch.device) -> Bool[Tensor, "n H W"]:
        """Return the pixels of the objects, on a device."""
        scenes = self.scenes
        assert scenes.boxes is not None
        inside = pixels_in_boxes(sent(scenes.boxes, device), *scenes.images.shape[2:])
        return inside if scenes.masks is None else inside | sent(scenes.masks, device)


def energy_loss(
    prediction: PatchPrediction, objects: Objects, *, competing: bool
) -> Float[Tensor, " n"]:
    """Return the energy loss of each object, differentiable, in [0, 1].

    Rao et al. 2023: `L_k = 1 - EPG_k`, where the energy pointing game of class k is the fraction of
    the positive part of its map A that lies on the pixels B of its object (theirs are boxes),

        EPG_k = (sum over pixels x of B_x max(A_kx, 0)) / (sum over pixels x of max(A_kx, 0)).

    A map is painted from the positive values v_m of the M patches, each pixel the mean over the
    windows that cover it. That is linear: with s_m what is painted of patch m on B, and t_m what is
    painted of it at all (`painted_on` of B and of all pixels),

        EPG_k = (sum over m of v_m s_m) / (sum over m of v_m t_m),

    so that no map is painted here. As in their code the loss is one minus the metric: unlike minus
    its logarithm it is bounded, so that one box in a wrong place costs at most 1. An empty map has
    an EPG of 0, as in `metrics.localisation.energy_pointing`.

    Which map: what is shown of the class. Under a softmax that is the margin, where each class is
    decided by itself the evidence. Both are sparse where maps of pixels are dense, so that there
    are places where the loss has no gradient though it is far from its best: where the map is
    empty, as for images that are still taken for others, and where all of it lies elsewhere. So the
    gradient is that of the equation,

        dL / dv_m = (EPG t_m - s_m) / (sum over m of v_m t_m),

    with two changes. A patch whose value is not positive is raised too, where that would help, as
    the equation would raise it from 0 on; it is never lowered. And the sum is taken to be at least
    `FULL` logits (times the mean of t), or the gradient would grow without bound as a map fades.

    Args:
        prediction: of B images; of heads with exact evidence.
        objects: in these images.
        competing: a softmax decides between classes.

    Returns:
        One value for each object; 0 for what is out of the picture.
    """
    if not len(objects):
        return prediction.logits.new_zeros(0)
    device, grid = prediction.logits.device, prediction.image_grid
    row, classes = sent(objects.row, device), sent(objects.classes, device)
    # Of these images alone: what rivals a class is looked up for all patches of an image.
    of_these: PatchPrediction = pytree.tree_map_only(Tensor, lambda one: one[row], prediction)
    values = (of_these.margin_of if competing else of_these.evidence_of)(classes)
    with torch.no_grad():
        inside = objects.pixels(device)
        each = max(1, AT_ONCE // (grid.height * grid.width))
        painted = torch.cat([painted_on(some, grid) for some in torch.split(inside, each)])
        whole = painted_on(torch.ones_like(inside[:1]), grid)
        positive = values.clamp(min=0)
        total = (positive * whole).sum(dim=1, keepdim=True)
        energy = (positive * painted).sum(dim=1, keepdim=True) / total.where(total > 0, 1.0)
        slope = (energy * whole - painted) / total.clamp(min=FULL * float(whole.mean()))
        slope = slope.where((values > 0) | (slope < 0), 0.0)
        loss = 1 - energy.squeeze(1)
        there = painted.sum(dim=1) > 0
    # The value of the one, with the gradient of the other.
    carried = (slope * values).sum(dim=1)
    return (loss + carried - carried.detach()).where(there, 0.0)


@dataclass(frozen=True)
class Guide:
    """The training images that guide, and where the objects in them are.

    Attributes:
        image: the number of the training image of each of P objects, shape `(P,)`, rising.
        classes: the class of each, shape `(P,)`.
        boxes: its boxes in each of V views of the image, shape `(P, V, G, 4)`; NaN for "no box",
            and where there is a mask instead.
        masks: bits of its pixels in each view, shape `(Q, V, bytes)`; None: no image has a mask.
        mask_of: which of these is that of each object, shape `(P,)`; -1: none.
        size: height and width of the images.
        factor: what the weight of the guidance is multiplied by.
        record: what run.json says of it.
    """

    image: Int[Tensor, " P"]
    classes: Int[Tensor, " P"]
    boxes: Float[Tensor, "P V G 4"]
    masks: UInt8[Tensor, "Q V bytes"] | None
    mask_of: Int[Tensor, " P"]
    size: tuple[int, int]
    factor: float
    record: Mapping[str, Any]

    @classmethod
    def of(
        cls,
        train: LabelledImages,
        recipe: Recipe,
        progress: Callable[[int, int], None] | None = None,
    ) -> Guide:
        """Return what guides a run.

        A mask says more than a box. It shows all that an image is labelled with, so it guides where
        that is one class; else the boxes of each class do. A streamed set with masks is read once.

        Args:
            train: the training images, without those that are held out.
            recipe: which fraction of them may guide, and the seed that draws them.
            progress: called with the number of images looked at for masks and of all.

        Raises:
            InputError: there is nothing to guide by.
        """
        labels, classes = train.labels.cpu(), len(train.class_names)
        alone = torch.ones(len(train), dtype=torch.bool)
        if train.multi_label:
            alone, labels = labels.sum(dim=1) == 1, labels.argmax(dim=1)
        masks, masked = _packed_masks(train, alone, recipe, progress)
        pairs = [masked * classes + labels[masked]]
        if train.boxes is not None and train.box_labels is not None:
            boxes, box_labels = train.boxes.cpu(), train.box_labels.cpu()
            image, box = relevant_boxes(box_labels, train.labels.cpu()).nonzero(as_tuple=True)
            pairs.append(image * classes + box_labels[image, box])
        else:
            boxes = torch.full((len(train), 1, 4), torch.nan)
            box_labels = torch.full((len(train), 1), -1)
        known: Tensor = torch.unique(torch.cat(pairs))
        if not len(known):
            raise InputError(NOTHING)
        image, of_class = known // classes, known % classes
        chosen = drawn_images(image, of_class, recipe.guide_fraction, recipe.seed)
        drawn = torch.isin(image, chosen)
        of_images = len(torch.unique(image))
        image, of_class = image[drawn], of_class[drawn]
        # The masks of those that are drawn, and which of them each has.
        kept = torch.isin(masked, chosen)
        masked, masks = masked[kept], masks[kept]
        mask_of = torch.searchsorted(masked, image)
        mask_of[~torch.isin(image, masked)] = -1
        others = (box_labels[image] != of_class.unsqueeze(1)) | (mask_of >= 0).unsqueeze(1)
        some = boxes[image].masked_fill(others.unsqueeze(2), torch.nan)
        first = others.long().argsort(dim=1, stable=True)  # theirs, and no more columns than that
        some = some.gather(1, first.unsqueeze(2).expand_as(some))
        some = some[:, : max(1, int((~others).sum(dim=1).max()))]
        record: dict[str, Any] = {
            "weight": recipe.guide,
            "images": len(chosen),
            "of_images": of_images,
            "training_images": len(train),
            "boxes": int((~others).sum()),
            "masks": len(masks),
        }
        guide = cls(
            image=image,
            classes=of_class,
            boxes=some.unsqueeze(1),
            masks=masks.unsqueeze(1) if len(masks) else None,
            mask_of=mask_of,
            size=train.size,
            factor=min(MOST_OFTEN, len(train) / len(image)),
            record=record,
        )
        return replace(guide, record=record | {"digest": guide._digest()})

    @property
    def name(self) -> str:
        """What guides, for people: "90 boxes" for example."""
        counts = [(self.record["boxes"], "box"), (self.record["masks"], "mask")]
        return " and ".join(
            f"{count:,} {what if count == 1 else what + ('es' if what == 'box' else 's')}"
            for count, what in counts
            if count
        )

    def told(self) -> str:
        """Return what guides and of how many images, in a line."""
        record = self.record
        images, of = record["images"], record["of_images"]
        drawn = "" if images == of else f", drawn by the seed from {of:,} that have some"
        return (
            f"guided by {self.name}, of {images:,} of {record['training_images']:,} training "
            f"images{drawn}"
        )

    def in_views(
        self, views: int, seen: Callable[[Scenes, Int[Tensor, " n"]], list[Scenes]]
    ) -> Guide:
        """Return the guide of images that are changed once, in so many views.

        Args:
            views: of each image; the first is the image as it is.
            seen: from scenes and the numbers of their objects here to these in each view.
        """
        boxes = self.boxes.expand(-1, views, -1, -1).clone()
        bits = None if self.masks is None else self.masks.expand(-1, views, -1).clone()
        for some in _batches(len(self.image), self.size):
            found = seen(self._scenes(some, torch.zeros_like(some)), some)
            masked = self.mask_of[some] >= 0
            for view, scenes in enumerate(found):
                assert scenes.boxes is not None
                boxes[some, view] = scenes.boxes
                if bits is not None:
                    assert scenes.masks is not None
                    bits[self.mask_of[some[masked]], view] = _packed(scenes.masks[masked])
        return replace(self, boxes=boxes, masks=bits)

    def objects(self, index: Int[Tensor, " b"], shown: Int[Tensor, " b"] | None = None) -> Objects:
        """Return what is known of images of a step.

        Args:
            index: the numbers of the training images; one may come twice.
            shown: the view of each; None: the first.
        """
        first = torch.searchsorted(self.image, index)
        counts = torch.searchsorted(self.image, index, right=True) - first
        row = torch.repeat_interleave(torch.arange(len(index)), counts)
        within = torch.arange(len(row)) - (counts.cumsum(0) - counts)[row]
        which = first[row] + within
        views = torch.zeros_like(row) if shown is None else shown[row]
        return Objects(row, self.classes[which], self._scenes(which, views))

    def changed(
        self,
        augmented: Augmenter,
        batch: Int[Tensor, " B"],
        part: slice,
        *,
        epoch: int,
        step: int,
    ) -> Objects:
        """Return what is known of a part of a step, moved as the images of the step are.

        Args:
            augmented: changes the images.
            batch: which images are in the step.
            part: which of them are looked at.
            epoch: counted from 0.
            step: of the epoch, counted from 0.
        """
        found = self.objects(batch[part])
        if not len(found):
            return found
        positions = torch.arange(len(batch))[part][found.row]
        moved = augmented.with_targets(found.scenes, batch, positions, epoch=epoch, step=step)
        return replace(found, scenes=moved)

    def _scenes(self, which: Int[Tensor, " n"], views: Int[Tensor, " n"]) -> Scenes:
        """Return boxes and masks of objects; nothing is seen of the images, whatever they show."""
        height, width = self.size
        images = torch.zeros(len(which), 1, height, width, dtype=torch.uint8)
        masks = None
        if self.masks is not None:
            masks = torch.zeros(len(which), height, width, dtype=torch.bool)
            masked = self.mask_of[which] >= 0
            bits = self.masks[self.mask_of[which[masked]], views[masked]]
            flat = np.unpackbits(bits.numpy(), axis=1, count=height * width)
            masks[masked] = torch.from_numpy(flat).view(-1, height, width).bool()
        return Scenes(images, self.boxes[which, views], masks)

    def _digest(self) -> str:
        """Return a hash of which images guide, and by what."""
        digest = hashlib.sha256()
        for tensor in (self.image, self.classes, self.boxes, self.masks):
            if tensor is not None:
                digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]


NOTHING = (
    "`guide` needs training images with boxes or masks of their labels, and these have none; "
    "`masks` reads the masks of objects where the data has them"
)


def check_guide(recipe: Recipe, train: LabelledImages) -> None:
    """Raise `InputError` for a guided run that cannot be; nothing is decoded.

    Args:
        recipe: of the run.
        train: its training images.
    """
    if not recipe.guide:
        return
    if not HEADS[recipe.head].has_evidence:
        able = ", ".join(name for name, entry in HEADS.items() if entry.has_evidence)
        raise InputError(
            f"`guide`: the head {recipe.head} has no evidence of patches to draw to objects; "
            f"these have: {able}"
        )
    if train.masks is not None and train.masks.any():
        return
    if recipe.masks and not isinstance(train, ImageSet):  # whose masks come with the images
        return
    if train.box_labels is None or not relevant_boxes(train.box_labels, train.labels).any():
        raise InputError(NOTHING)


def drawn_images(
    image: Int[Tensor, " P"], classes: Int[Tensor, " P"], fraction: float, seed: int
) -> Int[Tensor, " n"]:
    """Draw which images may guide; return their numbers, rising.

    As many of those with an object as the fraction says, rounded; more where one of each class
    takes more. Of the same seed, a smaller fraction is a part of a larger one.

    Args:
        image: the image of each known object.
        classes: its class.
        fraction: in (0, 1].
        seed: of the run.
    """
    candidates, number = torch.unique(image, return_inverse=True)
    order = torch.randperm(len(candidates), generator=stream(seed, 0, GUIDES))
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order))
    # The first of each class in this order comes before all others.
    none = torch.full((int(classes.max()) + 1,), len(order))
    first = none.scatter_reduce(0, classes, place[number], "amin")
    first = torch.unique(first[first < len(order)])
    others = torch.ones(len(order), dtype=torch.bool)
    others[first] = False
    count = max(len(first), round(fraction * len(order)))
    places = torch.cat([first, others.nonzero().squeeze(1)])[:count]
    chosen: Tensor = candidates[order[places]].sort().values
    return chosen


def _batches(count: int, size: tuple[int, int]) -> Sequence[Tensor]:
    """Divide numbers from 0 on into parts whose pixels are looked at together."""
    height, width = size
    return torch.split(torch.arange(count), max(1, AT_ONCE // (height * width)))


def _packed(masks: Bool[Tensor, "n H W"]) -> UInt8[Tensor, "n bytes"]:
    """Return eight pixels a byte."""
    return torch.from_numpy(np.packbits(masks.flatten(1).numpy(), axis=1))


def _packed_masks(
    train: LabelledImages,
    meant: Bool[Tensor, " N"],
    recipe: Recipe,
    progress: Callable[[int, int], None] | None,
) -> tuple[UInt8[Tensor, "Q bytes"], Int[Tensor, " Q"]]:
    """Return the masks of those of the images that are meant and have one, and which these are."""
    found = [torch.zeros(0, -(-train.size[0] * train.size[1] // 8), dtype=torch.uint8)]
    rows = [torch.zeros(0, dtype=torch.int64)]
    for index, masks in _masks(train, recipe):
        some = masks.flatten(1).any(dim=1) & meant[index]
        found.append(_packed(masks[some]))
        rows.append(index[some])
        if progress is not None:
            progress(int(index[-1]) + 1, len(train))
    return torch.cat(found), torch.cat(rows)


def _masks(train: LabelledImages, recipe: Recipe) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the masks of all images, some at a time, on the CPU; nothing where there are none."""
    batches = _batches(len(train), train.size)
    if isinstance(train, ImageSet):
        if train.masks is not None:
            yield from ((index, train.masks[index].cpu()) for index in batches)
    elif recipe.masks:  # they come with the images
        with train.reading():
            train.expect(batches)
            for index in batches:
                masks = train.take(index).masks
                assert masks is not None
                yield index, masks.cpu()
