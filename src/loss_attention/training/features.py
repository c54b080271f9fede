"""Features of a frozen backbone in files: computed once an image and view, shared by runs.

What differs between runs on the same data and backbone (head, threshold, gamma, the images that are
held out, the seed) does not change a feature. A folder of features has a file for each level,
`(N, V, h, w, D)` numbers and nothing else, one image after the other; and `features.json`, which
says of what they are, how many images are done, and the digests of so much of the files. It is
written after them: what a kill leaves beyond it is computed again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
from filelock import FileLock, Timeout
from jaxtyping import UInt8
from rich.console import Console
from torch import Tensor

from loss_attention.backbones import Features
from loss_attention.data.sample import LabelledImages
from loss_attention.errors import InputError, guarded, quoted, reason
from loss_attention.evaluation.measuring import for_inference
from loss_attention.model import PatchClassifier
from loss_attention.saving import (
    SaveError,
    digest_of,
    make_folder,
    read_object,
    sealed,
    write_whole,
)
from loss_attention.terminal import counted, json_text, say_line
from loss_attention.training.frozen import (
    FeatureMaps,
    FeatureSet,
    Kind,
    level_file,
    maps_of,
)
from loss_attention.training.recipe import Recipe
from loss_attention.training.sampling import AUGMENTATION, Augmenter

FORMAT_VERSION = 1
FEATURES_FILE, LOCK_FILE = "features.json", ".lock"
FEATURES_FOLDER = "features"
"""Beside the runs that share it, unless they name another."""

LARGEST_HALF = 65504.0
"""The largest number that 16 bits hold."""

PIXELS = 2**18
"""In a batch of so many, the activations of a mobile network stay in a CPU's cache."""

GPU_PIXELS = 2**23
SAVE_SECONDS = 5.0
"""So much work a kill may cost."""

VIEW_SEED = 0
"""Views are those of the images and not of a run: all seeds see the same."""

PROBES = 4
"""So many images, changed as the recipe says, tell augmentations apart whose settings do not."""

BLOCK = 2**22
"""Bytes of a file that are read at a time."""

PARTS = 2
"""Features may take one part in so many of the free memory."""

Shape = tuple[int, int, int]
"""Channels, height and width of a level's map."""


@dataclass(frozen=True)
class FeatureSource:
    """What features are made of.

    Attributes:
        model: its backbone makes them; it is copied.
        data: the images.
        recipe: how many views there are, and how they are augmented.
        precision: of the arithmetic, as `choose_precision` has it.
        device: where they are computed.
    """

    model: PatchClassifier
    data: LabelledImages
    recipe: Recipe
    precision: str
    device: torch.device

    def facts(self) -> dict[str, Any]:
        """Return what decides the features, as JSON can hold it, and the shapes of the maps."""
        model, recipe = self.model, self.recipe
        probes = self.data.take(torch.arange(min(PROBES, len(self.data)))).images.cpu()
        shapes = [list(one.shape[1:]) for one in maps_of(self.features_of(probes[:1]))]
        views: dict[str, Any] = {"views": recipe.views}
        if recipe.views > 1:
            views |= {name: getattr(recipe, name) for name in AUGMENTATION}
            views["probes"] = _digest(self.views(probes, 0)[:, 1:])
        return {
            "format_version": FORMAT_VERSION,
            "data": self.data.fingerprint(),
            "images": len(self.data),
            "image_size": list(self.data.size),
            "backbone": model.spec.backbone,
            "weights": _digest(*model.backbone.state_dict().values(), model.mean, model.std),
            "levels": shapes,
            "precision": self.precision,
            **views,
        }

    def views(self, images: UInt8[Tensor, "B C H W"], first: int) -> UInt8[Tensor, "B V C H W"]:
        """Return the views of images, each a pure function of the image's number and the view's.

        Args:
            images: of the data, one after the other, on the CPU.
            first: the number of the first.
        """
        alone, shown = slice(0, 1), [images]
        for view in range(1, self.recipe.views):
            changed = [
                self._augmenter(
                    image.unsqueeze(0), torch.tensor([number]), alone, epoch=view, step=number
                )
                for number, image in enumerate(images, start=first)
            ]
            shown.append(torch.cat(changed))
        return torch.stack(shown, dim=1)

    def features_of(self, images: UInt8[Tensor, "B C H W"]) -> Features:
        """Return what the backbone makes of images, on the device."""
        bf16 = self.precision == "bf16"
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, bf16):
            there = images.to(self.device).contiguous(memory_format=torch.channels_last)
            features: Features = self._fast.features(there)
        return features

    @cached_property
    def _fast(self) -> PatchClassifier:
        return for_inference(self.model).to(self.device)

    @cached_property
    def _augmenter(self) -> Augmenter:
        return Augmenter(replace(self.recipe, seed=VIEW_SEED), len(self.data))


def cached_features(
    source: FeatureSource, root: Path, console: Console, memory: int
) -> tuple[FeatureSet, dict[str, Any]]:
    """Return features of a set, from their folder in `root` where they are there already.

    What is not there is computed, with a bar; interrupted, it goes on from there the next time.

    Args:
        source: what they are made of.
        root: a folder for those of any data and backbone.
        console: where the bar goes, and what is to be said.
        memory: bytes that there are for them, also on the device that trains.

    Returns:
        The features of all images; and what run.json is to say of them.

    Raises:
        InputError: there is no room for them, or they are not finite.
        SaveError: they could not be written.
    """
    facts = source.facts()
    folder = FeatureFolder(root / _digest_of_facts(facts), facts)
    with folder.locked(console):
        folder.read(console, memory)
        found = ", found" if folder.complete else ""
        say_line(console, f"{folder.described}{found} in {folder.path}")
        if not folder.complete:
            folder.compute(source, console)
    data, kind = source.data, folder.progress.kind
    features = FeatureSet(
        FeatureMaps(folder.path, folder.shapes, folder.images * folder.views, kind),
        torch.arange(len(data)),
        data.labels.cpu(),
        source.recipe.views,
        torch.zeros(len(data), dtype=torch.int64),
        movable=folder.size * PARTS <= memory,
    )
    told = {"folder": str(folder.path.absolute()), "bytes": folder.size, "type": kind}
    return features, told | facts


class Progress(NamedTuple):
    """How far features are.

    Attributes:
        kind: of their numbers.
        done: images that are done.
        digests: the SHA-256 of each level's file up to there.
    """

    kind: Kind
    done: int
    digests: tuple[str, ...]


class FeatureFolder:
    """The files of the features of one set of images.

    Args:
        path: where they are, or will be.
        facts: what they are of; see `FeatureSource.facts`.

    Attributes:
        progress: how far they are, once they were `read`.
    """

    def __init__(self, path: Path, facts: dict[str, Any]) -> None:
        self.path, self.facts = path, facts
        self.images: int = facts["images"]
        self.views: int = facts["views"]
        self.shapes: list[Shape] = [(d, h, w) for d, h, w in facts["levels"]]
        self._begin("float16")

    def _begin(self, kind: Kind) -> None:
        """Have nothing done yet, in numbers of a kind."""
        self._hashes = [hashlib.sha256() for _ in self.shapes]
        self.progress = Progress(kind, 0, tuple(one.hexdigest() for one in self._hashes))

    @property
    def complete(self) -> bool:
        """Whether all images are done."""
        return self.progress.done == self.images

    @property
    def size(self) -> int:
        """What all files take together."""
        return self.images * sum(self._image_bytes(self.progress.kind))

    @property
    def described(self) -> str:
        """What they are, in a line for people."""
        maps = " + ".join(f"{d} x {h} x {w}" for d, h, w in self.shapes)
        views = "view" if self.views == 1 else "views"
        return (
            f"features of the frozen backbone: {self.images:,} images, {self.views} {views}, each "
            f"{maps}; {self.size / 1e9:.3g} GB of {self.progress.kind}"
        )

    @contextlib.contextmanager
    def locked(self, console: Console) -> Iterator[None]:
        """Keep other processes from the folder; wait for one that is at it.

        Raises:
            InputError: there is a file in its way.
            SaveError: it cannot be made or written to.
        """
        make_folder(self.path)
        lock = FileLock(self.path / LOCK_FILE)
        try:
            try:
                lock.acquire(timeout=0)
            except Timeout:
                say_line(console, f"another process computes features in {self.path}; waiting")
                lock.acquire()
        except OSError as error:
            raise SaveError(f"cannot write to {self.path}: {reason(error)}") from error
        try:
            yield
        finally:
            lock.release()

    def read(self, console: Console, memory: int) -> None:
        """Read how far they are, and say so where what is there cannot be used.

        Args:
            console: where to say it.
            memory: files that fit in so many bytes are compared with their digests; of larger ones
                the sizes are, until they are gone on with.
        """
        if not (self.path / FEATURES_FILE).exists():
            return
        try:
            self.progress = self._read()
            if not self.complete or self.size * PARTS <= memory:
                self._check_digests()
        except (InputError, OSError) as error:
            say_line(console, f"{reason(error)}; its features are computed anew")
            self._begin("float16")

    def _read(self) -> Progress:
        """Return what features.json says.

        Raises:
            InputError: it is damaged, or of other features; or a file is too short.
        """
        path = self.path / FEATURES_FILE
        found = read_object(path)
        with guarded(str(path)):
            if found != sealed(found):
                raise InputError(f"{path} is damaged")
            if found["facts"] != self.facts:
                raise InputError(f"{path} is of other data or another backbone")
            progress = Progress(found["type"], found["done"], tuple(found["digests"]))
        for number, size in enumerate(self._image_bytes(progress.kind)):
            file = level_file(self.path, number)
            if not file.is_file() or file.stat().st_size < progress.done * size:
                raise InputError(f"{file} is truncated or gone")
        return progress

    def _check_digests(self) -> None:
        """Compare what is done with its digests, and go on with these.

        Raises:
            InputError: a file is not as it was written.
        """
        sizes = self._image_bytes(self.progress.kind)
        hashes = []
        for number, (size, digest) in enumerate(zip(sizes, self.progress.digests, strict=True)):
            file = level_file(self.path, number)
            hashes.append(_digest_of_beginning(file, self.progress.done * size))
            if hashes[-1].hexdigest() != digest:
                raise InputError(f"{file} is damaged: its SHA-256 is not the one in features.json")
        self._hashes = hashes

    def compute(self, source: FeatureSource, console: Console) -> None:
        """Compute what is missing; whatever ends it, what is done stays.

        Raises:
            InputError: there is no room for it, or it is not finite.
            SaveError: it could not be written.
        """
        self._require_room()
        try:
            self._compute(source, console)
        except _TooLargeError:
            say_line(console, f"features above {LARGEST_HALF:,.0f}: kept as float32, computed anew")
            self._begin("float32")
            self._require_room()
            self._compute(source, console)

    def _require_room(self) -> None:
        done = self.progress.done / self.images
        needed, free = self.size * (1 - done), shutil.disk_usage(self.path).free
        if needed > free:
            raise InputError(
                f"the features take {needed / 1e9:.3g} GB, and {free / 1e9:.3g} GB are free in "
                f"{self.path}: name another folder with `features`, or take fewer `views`"
            )

    def _compute(self, source: FeatureSource, console: Console) -> None:
        data, done = source.data.images_and_labels(), self.progress.done
        most = PIXELS if source.device.type == "cpu" else GPU_PIXELS
        height, width = data.size
        together = max(1, most // (height * width))
        batches = torch.split(torch.arange(done, self.images), together)
        with contextlib.ExitStack() as open_files:
            files = [open_files.enter_context(file) for file in self._files()]
            open_files.callback(self._save, files)
            progress = open_files.enter_context(counted("computing features", console))
            open_files.enter_context(data.reading())
            data.expect(batches)
            saved = time.monotonic()
            for index in batches:
                images = data.take(index).images.cpu()
                self._add(source, images, files)
                progress(self.progress.done, self.images)
                if time.monotonic() - saved > SAVE_SECONDS:
                    self._save(files)
                    saved = time.monotonic()

    def _files(self) -> list[IO[bytes]]:
        """Open the files where what is done ends."""
        files: list[IO[bytes]] = []
        for number, size in enumerate(self._image_bytes(self.progress.kind)):
            path = level_file(self.path, number)
            with _written(path):
                file = path.open("r+b" if self.progress.done else "wb")
                file.seek(self.progress.done * size)
                file.truncate()
            files.append(file)
        return files

    def _add(self, source: FeatureSource, images: Tensor, files: Sequence[IO[bytes]]) -> None:
        """Compute the features of the next images, and append them to the files."""
        first, kind = self.progress.done, getattr(torch, self.progress.kind)
        views = [maps_of(source.features_of(v)) for v in source.views(images, first).unbind(1)]
        hashes = [one.copy() for one in self._hashes]
        for level, maps in enumerate(zip(*views, strict=True)):
            # (B, V, h, w, D): channels last, as convolutions want them.
            rows = torch.stack(maps, dim=1).permute(0, 1, 3, 4, 2)
            self._check_values(source, rows, first)
            content = rows.to(kind).cpu().contiguous().numpy().data
            with _written(level_file(self.path, level)):
                files[level].write(content)
            hashes[level].update(content)
        digests = tuple(one.hexdigest() for one in hashes)
        done = Progress(self.progress.kind, first + len(images), digests)
        self._hashes, self.progress = hashes, done

    def _check_values(self, source: FeatureSource, rows: Tensor, first: int) -> None:
        """Raise where numbers are not finite, or no float16."""
        largest = rows.abs().flatten(1).amax(dim=1)
        if not largest.isfinite().all():
            number = first + int((~largest.isfinite()).nonzero()[0])
            names = source.data.names
            name = f" ({quoted(names[number])})" if names else ""
            raise InputError(
                f"the backbone makes NaN or infinity of image {number + 1}{name}; try `precision` "
                "32, or other weights"
            )
        if self.progress.kind == "float16" and bool((largest > LARGEST_HALF).any()):
            raise _TooLargeError

    def _save(self, files: Sequence[IO[bytes]]) -> None:
        """Bring the files to the disk, then say how far they are."""
        kind, done, digests = self.progress
        with _written(self.path / FEATURES_FILE):
            for file in files:
                file.flush()
                os.fsync(file.fileno())
        values = {"facts": self.facts, "type": kind, "done": done, "digests": list(digests)}
        write_whole(self.path / FEATURES_FILE, json_text(sealed(values), indent=2) + "\n")

    def _image_bytes(self, kind: Kind) -> list[int]:
        """Return the bytes of an image's views, of each level."""
        number = {"float16": 2, "float32": 4}[kind]
        return [self.views * d * h * w * number for d, h, w in self.shapes]


class _TooLargeError(Exception):
    """A feature is larger than a float16."""


@contextlib.contextmanager
def _written(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SaveError(f"cannot write {path}: {reason(error)}; what is done is kept") from error


def _digest_of_beginning(path: Path, size: int) -> Any:
    """Return the SHA-256 of so many bytes of a file, as what hashes on from there."""
    digest, left = hashlib.sha256(), size
    with path.open("rb") as file:
        while left > 0:
            block = file.read(min(left, BLOCK))
            if not block:
                break
            digest.update(block)
            left -= len(block)
    return digest


def _digest_of_facts(facts: dict[str, Any]) -> str:
    return digest_of(json.dumps(facts, sort_keys=True))[:16]


def _digest(*tensors: Tensor) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(repr((tuple(tensor.shape), tensor.dtype)).encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
