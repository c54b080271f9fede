"""What the tests of the service share: a model with classes, photos, requests."""

from __future__ import annotations

import io
import threading
import zlib
from typing import Any

import numpy as np
import torch
from heads.used import used_model
from numpy.typing import NDArray
from PIL import Image

from loss_attention.model import PatchClassifier
from loss_attention.serve.answering import Said, ServedModel

CLASSES = ("cat", "dog", "ewe", "fox", "gnu")
SIZE = (24, 20)


def model_of(head: str = "loss-attention", **options: Any) -> PatchClassifier:
    """A model whose classes are not certain whatever is shown."""
    options = {"patch_kernel": 3, "resize": "pad", "class_names": CLASSES, **options}
    model = used_model(backbone="vgg11_bn", image_size=SIZE, head=head, **options)
    if head != "capsule-dynamic-routing":
        with torch.no_grad():
            biases = model.head.classifier.bias
            biases -= model(torch.rand(8, 3, *SIZE)).logits.mean(dim=0)
    return model


def photo(number: int = 0, size: tuple[int, int] = (60, 40), kind: str = "PNG") -> bytes:
    """An image file of noise in red, green or blue; width and height in pixels."""
    rng = np.random.default_rng(number)
    pixels = rng.integers(0, 100, (size[1], size[0], 3), dtype=np.uint8)
    pixels[:, :, number % 3] += 155
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def bomb(side: int = 20_000) -> bytes:
    """A small PNG of very many pixels, by its header alone."""
    file = io.BytesIO()
    Image.new("1", (8, 8)).save(file, "PNG")
    content = bytearray(file.getvalue())
    content[16:24] = side.to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(bytes(content[12:29])).to_bytes(4, "big")
    return bytes(content)


class Slow(ServedModel):
    """A model that answers once it is let, and remembers the sizes of its batches."""

    def __init__(self, model: PatchClassifier) -> None:
        super().__init__(model)
        self.let, self.begun = threading.Event(), threading.Event()
        self.batches: list[int] = []

    def said(self, images: NDArray[Any]) -> list[Said]:
        self.begun.set()
        assert self.let.wait(60)
        self.batches.append(len(images))
        return super().said(images)
