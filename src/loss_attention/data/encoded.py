"""Where every image of a source lies, packed so that many processes can read it and none copies it.

A million records as Python objects take most of a gigabyte, once more in every process that looks
at them. Here names and paths are bytes in tensors, which processes share.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from loss_attention.data.masks import Mask
from loss_attention.data.records import Content, Part
from loss_attention.data.stacking import Encoded, Form

_NOT_A_ROW = -1


class Texts:
    """Texts by their number.

    Example:
        >>> Texts(["a.jpg", "", "grün"])[2]
        'grün'
    """

    def __init__(self, texts: Sequence[str]) -> None:
        # Names of files need not be valid Unicode.
        coded = [text.encode("utf-8", "surrogatepass") for text in texts]
        self._ends = torch.tensor([0, *map(len, coded)]).cumsum(0)
        self._bytes = torch.from_numpy(np.frombuffer(b"".join(coded), np.uint8).copy())

    def __getitem__(self, number: int) -> str:
        start, stop = self._ends[number : number + 2].tolist()
        return self._bytes[start:stop].numpy().tobytes().decode("utf-8", "surrogatepass")


class EncodedTable:
    """The images of all parts of a source, one part after the other, and the form they are to have.

    Args:
        parts: of the source.
        form: what to bring the images to.
    """

    def __init__(self, parts: Sequence[Part], form: Form) -> None:
        records = [record for part in parts for record in part.records]
        contents = [record.content for record in records]
        self.form = form
        self.names = Texts([record.name for record in records])
        self._paths = Texts([str(c) if isinstance(c, Path) else "" for c in contents])
        self._row = torch.tensor([c if isinstance(c, int) else _NOT_A_ROW for c in contents])
        self._others: dict[int, Content] = {
            number: content
            for number, content in enumerate(contents)
            if content is not None and not isinstance(content, (Path, int))
        }
        self._sizes = torch.tensor(
            [record.size or (0, 0) for record in records], dtype=torch.int32
        ).reshape(-1, 2)
        self._masks: dict[int, Mask] = {
            number: record.mask
            for number, record in enumerate(records)
            if form.masks and record.mask is not None
        }
        self._lookups = [part.lookup for part in parts]
        self._ends = torch.tensor([len(part) for part in parts]).cumsum(0)

    def encoded(self, numbers: Sequence[int]) -> list[Encoded]:
        """Return images of these numbers, in this order; those in tables are looked up together."""
        contents = dict(zip(numbers, map(self._direct, numbers), strict=True))
        parts = torch.searchsorted(self._ends, torch.tensor(numbers), right=True).tolist()
        for which, lookup in enumerate(self._lookups):
            asked = [n for n, part in zip(numbers, parts, strict=True) if part == which]
            rows = self._row[asked].tolist()
            stored = [(n, row) for n, row in zip(asked, rows, strict=True) if row != _NOT_A_ROW]
            if lookup is not None and stored:
                found = lookup([row for _, row in stored])
                contents |= {n: content for (n, _), content in zip(stored, found, strict=True)}
        return [
            Encoded(self.names[n], contents[n], self._size(n), self._masks.get(n)) for n in numbers
        ]

    def file_size(self, number: int) -> int:
        """Return the bytes of the file of an image; 0 where it has none of its own."""
        path = self._paths[number]
        return Path(path).stat().st_size if path else 0

    def _direct(self, number: int) -> Content:
        if number in self._others:
            return self._others[number]
        path = self._paths[number]
        return Path(path) if path else None

    def _size(self, number: int) -> tuple[int, int] | None:
        width, height = self._sizes[number].tolist()
        return (width, height) if width else None
