"""The grid pointing game: does a map find the right one of several images in a mosaic?

Images that the model classifies rightly, and most confidently, are put together in a square grid,
each class at most once, so that the place of the evidence for each class is known without any
annotation. The figure is the share of the positive attribution for a class that lies in its cell:
in [0, 1], higher is better. Böhle et al. 2021, "Convolutional Dynamic Alignment Networks"; Rao et
al. 2022, "Towards Better Understanding Attribution Methods" (GridPG). The floor of uniform and
random maps is one over the number of cells.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor


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
        chosen[-1] = [chosen[-1][place] for place in order]
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


def share_in_cell(
    maps: Float[Tensor, "B V U"], cell: Int[Tensor, " B"], side: int
) -> Float[Tensor, " B"]:
    """Return the share of each map's positive part that lies in its cell; 0 where none is positive.

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
    share = parts.gather(1, cell.unsqueeze(1)).squeeze(1) / total.where(total > 0, 1.0)
    return share.where(total > 0, 0.0)
