"""Test images of a run, to try its page with."""

from __future__ import annotations

from pathlib import Path

import torch

from loss_attention.data.sample import LabelledImages
from loss_attention.errors import printable
from loss_attention.explained.encoding import encoded
from loss_attention.report.marks import as_picture
from loss_attention.serve.page import Example

FOLDER = "examples"


def examples_of(images: LabelledImages, count: int, folder: Path) -> list[Example]:
    """Write some images as files, of every class as many where that is possible.

    Args:
        images: to choose from.
        count: how many at most.
        folder: where they go, in a folder of their own.
    """
    shown = images.subset(torch.tensor(spread(images, count), dtype=torch.int64)).decoded()
    labels = shown.label_matrix().cpu()
    (folder / FOLDER).mkdir()
    examples = []
    for number, pixels in enumerate(shown.images.cpu()):
        names = [shown.class_names[k] for k in labels[number].nonzero().flatten().tolist()]
        path = folder / FOLDER / f"example-{number + 1}.png"
        path.write_bytes(encoded(as_picture(pixels).convert("RGB"), "png"))
        examples.append(Example(path, printable(", ".join(names)) or "no class"))
    return examples


def spread(images: LabelledImages, count: int) -> list[int]:
    """Return the numbers of some images, class by class in turn, the same each time."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0)).tolist()
    labels = images.label_matrix().cpu()
    queues = [[n for n in order if labels[n, k]] for k in range(len(images.class_names))]
    chosen: list[int] = []
    for rank in range(len(images)):
        for queue in queues:
            if len(chosen) < count and rank < len(queue) and queue[rank] not in chosen:
                chosen.append(queue[rank])
        if len(chosen) >= count:
            break
    return chosen
