"""Features of a frozen backbone in files: computed once an image and view, shared by runs.

What differs between runs on the same images and backbone (head, threshold, gamma, the seed and so
the images that are held out) does not change a feature. So features are found by the image: a
folder has `images.bin`, 16 bytes of a hash of each, and a file for each level, `(N, V, h, w, D)`
numbers, one image after the other as they were first asked for. `features.json` says what made
them, how many images are done, and the digests of so much of the files. It is written after them:
what a kill leaves beyond it is computed again.
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
from jaxtyping import Float, Int, UInt8
from rich.console import Console
from torch import Tensor

from loss_attention.backbones import Features
from loss_attention.backbones.levels import levels_of
from loss_attention.data.sample import ImageSet, LabelledImages
from loss_attention.errors import InputError, guarded, reason
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
from loss_attention.training.augmentation import AUGMENTATION, Augmenter, Scenes
from loss_attention.training.frozen import FeatureMaps, FeatureSet, Kind
from loss_attention.training.recipe import Recipe

FORMAT_VERSION = 1
FEATURES_FILE, IMAGES_FILE, LOCK_FILE = "features.json", "images.bin", ".lock"
FEATURES_FOLDER = "features"
"""Beside the runs that share it, unless they name another."""

IDENTITY = 16
"""Bytes that tell an image from all others."""

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
"""So many images of noise, changed as the recipe says, tell augmentations apart beside their
settings."""

BLOCK = 2**22
"""Bytes of a file that are read at a time."""

PARTS = 2
"""Features may take one part in so many of the free memory."""

Shape = tuple[int, int, int]
"""Channels, height and width of a level's map."""


@dataclass(frozen=True)
class FrozenBackbone:
    """A backbone that makes features of images and does not learn.

    Attributes:
        model: its backbone makes them; it is copied.
        precision: of the arithmetic, as `choose_precision` has it.
        device: where they are computed.
    """

    model: PatchClassifier
    precision: str
    device: torch.device

    def facts(self) -> dict[str, Any]:
        """Return what decides the features of an image, as JSON can hold it."""
        model = self.model
        return {
            "backbone": model.spec.backbone,
            "weights": _digest(*model.backbone.state_dict().values(), model.mean, model.std),
            "precision": self.precision,
        }

    def images_at_once(self, height: int, width: int) -> int:
        """Return how many images of a size to give it together."""
        most = PIXELS if self.device.type == "cpu" else GPU_PIXELS
        return max(1, most // (height * width))

    def features_of(self, images: UInt8[Tensor, "B C H W"]) -> Features:
        """Return what the backbone makes of images, on the device."""
        bf16 = self.precision == "bf16"
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, bf16):
            there = images.to(self.device).contiguous(memory_format=torch.channels_last)
            features: Features = self._fast.features(there)
        return features

    def pooled(self, images: UInt8[Tensor, "B C H W"]) -> Float[Tensor, "B D"]:
        """Return the mean over the cells of each level's map, one level after the other.

        Returns:
            float32, on the CPU.
        """
        maps = levels_of(self.features_of(images))
        return torch.cat([one.float().mean(dim=(2, 3)) for one in maps], dim=1).cpu()

    @cached_property
    def _fast(self) -> PatchClassifier:
        return for_inference(self.model).to(self.device)


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
        """Return all but the images that decides the features, as JSON can hold it.

        The shapes of the maps are among it.
        """
        recipe = self.recipe
        noise = torch.Generator().manual_seed(VIEW_SEED)
        shape = (PROBES, len(self.model.mean), *self.data.size)
        probes = torch.randint(0, 256, shape, dtype=torch.uint8, generator=noise)
        shapes = [list(one.shape[1:]) for one in levels_of(self.features_of(probes[:1]))]
        views: dict[str, Any] = {"views": recipe.views}
        if recipe.views > 1:
            chosen = {name: getattr(recipe, name) for name in AUGMENTATION}
            views |= {name: list(v) if isinstance(v, tuple) else v for name, v in chosen.items()}
            numbered = [number.to_bytes(3, "big") for number in range(len(probes))]
            views["probes"] = _digest(self.views(probes, numbered)[:, 1:])
        return {
            "format_version": FORMAT_VERSION,
            "classes": digest_of(repr(self.data.class_names))[:16],
            "image_size": list(self.data.size),
            "levels": shapes,
            **self.backbone.facts(),
            **views,
        }

    def identities(self, some: Int[Tensor, " n"] | None = None) -> list[bytes]:
        """Return 16 bytes for each image: a hash of its pixels.

        Of a streamed set they are of its fingerprint and the image's number in it.

        Args:
            some: the numbers of the images; None: all.
        """
        numbers = range(len(self.data)) if some is None else some.tolist()
        if isinstance(self.data, ImageSet):
            pixels = self.data.images.cpu().contiguous().numpy()
            return [hashlib.sha256(pixels[n].data).digest()[:IDENTITY] for n in numbers]
        whole = self.data.fingerprint()
        return [_of_number(whole, number) for number in numbers]

    def views(
        self, images: UInt8[Tensor, "B C H W"], identities: Sequence[bytes]
    ) -> UInt8[Tensor, "B V C H W"]:
        """Return the views of images, each a pure function of the image and the view's number.

        Args:
            images: on the CPU.
            identities: theirs.
        """
        return torch.stack([one.images for one in self.seen(Scenes(images), identities)], dim=1)

    def seen(self, scenes: Scenes, identities: Sequence[bytes]) -> list[Scenes]:
        """Return the views of images as `views` does, and what is known of them moved along.

        Args:
            scenes: on the CPU; of any images of this size, as what they show changes nothing.
            identities: of the images whose views these are.
        """
        first, alone, shown = torch.tensor([0]), slice(0, 1), [scenes]
        for view in range(1, self.recipe.views):
            steps = [int.from_bytes(identity[:3], "big") for identity in identities]
            changed = [
                self._augmenter.with_targets(
                    scenes[number : number + 1], first, alone, epoch=view, step=step
                )
                for number, step in enumerate(steps)
            ]
            shown.append(Scenes.together(changed))
        return shown

    def features_of(self, images: UInt8[Tensor, "B C H W"]) -> Features:
        """Return what the backbone makes of images, on the device."""
        return self.backbone.features_of(images)

    @cached_property
    def backbone(self) -> FrozenBackbone:
        """What makes the features."""
        return FrozenBackbone(self.model, self.precision, self.device)

    @cached_property
    def _augmenter(self) -> Augmenter:
        return Augmenter(replace(self.recipe, seed=VIEW_SEED), 1)


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
    facts, identities = source.facts(), source.identities()
    folder = FeatureFolder(root / digest_of(json.dumps(facts, sort_keys=True))[:16], facts)
    with folder.locked(console):
        folder.read(console, memory)
        missing = folder.missing(identities)
        say_line(console, folder.described(len(identities), len(missing)))
        if missing:
            folder.compute(source, identities, console)
    features = folder.features(identities, source.data.labels.cpu(), memory)
    size, kind = folder.size(len(identities)), folder.progress.kind
    told = {"folder": str(folder.path.absolute()), "bytes": size, "type": kind}
    return features, told | facts


class Progress(NamedTuple):
    """How far features are.

    Attributes:
        kind: of their numbers.
        done: images that are done.
        digests: the SHA-256 of each file up to there.
    """

    kind: Kind
    done: int
    digests: tuple[str, ...]


class FeatureFolder:
    """The files of the features that one backbone makes of images.

    Args:
        path: where they are, or will be.
        facts: what they are of; see `FeatureSource.facts`.

    Attributes:
        progress: how far they are, once they were `read`.
    """

    def __init__(self, path: Path, facts: dict[str, Any]) -> None:
        self.path, self.facts = path, facts
        self.views: int = facts["views"]
        self.shapes: list[Shape] = [(d, h, w) for d, h, w in facts["levels"]]
        levels = [path / f"level-{number}.bin" for number in range(len(self.shapes))]
        self._paths = [path / IMAGES_FILE, *levels]
        self._begin("float16")

    def _begin(self, kind: Kind) -> None:
        """Have nothing done yet, in numbers of a kind."""
        self._hashes = [hashlib.sha256() for _ in self._paths]
        self.progress = Progress(kind, 0, tuple(one.hexdigest() for one in self._hashes))
        self._row_of: dict[bytes, int] = {}
        self._whole = True

    def missing(self, identities: Sequence[bytes]) -> list[int]:
        """Return the numbers of images whose features are not there; of equal ones, the first."""
        first = {one: number for number, one in reversed(list(enumerate(identities)))}
        return sorted(number for one, number in first.items() if one not in self._row_of)

    def features(self, identities: Sequence[bytes], labels: Tensor, memory: int) -> FeatureSet:
        """Return the features of images, all of which are there.

        Args:
            identities: of the images.
            labels: theirs.
            memory: bytes that there are on the device that trains.
        """
        kind, done, _ = self.progress
        return FeatureSet(
            FeatureMaps(self._paths[1:], self.shapes, done * self.views, kind),
            torch.tensor([self._row_of[one] for one in identities]),
            labels,
            self.views,
            torch.zeros(len(identities), dtype=torch.int64),
            movable=self.size(done) * PARTS <= memory,
        )

    def size(self, images: int) -> int:
        """Return the bytes that so many images take."""
        return images * sum(self._image_bytes(self.progress.kind))

    def described(self, images: int, missing: int) -> str:
        """Say what of so many images is there, in a line for people."""
        maps = " + ".join(f"{d} x {h} x {w}" for d, h, w in self.shapes)
        views = "view" if self.views == 1 else "views"
        found = f"; {images - missing:,} images found" if missing < images else ""
        return (
            f"features of the frozen backbone: {images:,} images, {self.views} {views}, each "
            f"{maps}; {self.size(images) / 1e9:.3g} GB of {self.progress.kind}, in "
            f"{self.path}{found}"
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
            self._row_of = self._read_identities()
            self._whole = self.size(self.progress.done) * PARTS <= memory
            if self._whole:
                self._hashes = self._checked()
        except (InputError, OSError) as error:
            say_line(console, f"{reason(error)}; the features there are computed anew")
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
                raise InputError(f"{path} is of another backbone or other images")
            progress = Progress(found["type"], found["done"], tuple(found["digests"]))
        for file, size in zip(self._paths, self._sizes(progress), strict=True):
            if not file.is_file() or file.stat().st_size < size:
                raise InputError(f"{file} is truncated or gone")
        return progress

    def _read_identities(self) -> dict[bytes, int]:
        """Return the number of each image that is done."""
        with self._paths[0].open("rb") as file:
            content = file.read(IDENTITY * self.progress.done)
        return {
            content[start : start + IDENTITY]: start // IDENTITY
            for start in range(0, len(content), IDENTITY)
        }

    def _checked(self) -> list[Any]:
        """Compare what is done with its digests, and return hashes that go on from these.

        Raises:
            InputError: a file is not as it was written.
        """
        hashes = []
        sizes = self._sizes(self.progress)
        for file, size, digest in zip(self._paths, sizes, self.progress.digests, strict=True):
            hashes.append(_hash_of_beginning(file, size))
            if hashes[-1].hexdigest() != digest:
                raise InputError(
                    f"{file} is damaged: its SHA-256 is not the one in {FEATURES_FILE}"
                )
        return hashes

    def compute(self, source: FeatureSource, identities: Sequence[bytes], console: Console) -> None:
        """Compute what is missing of the source's images; whatever ends it, what is done stays.

        Raises:
            InputError: there is no room for it, or it is not finite; a file is damaged.
            SaveError: it could not be written.
        """
        if not self._whole:
            self._hashes = self._checked()
        self._require_room(len(self.missing(identities)))
        try:
            self._compute(source, identities, console)
        except _TooLargeError:
            say_line(console, f"features above {LARGEST_HALF:,.0f}: computed anew, as float32")
            self._begin("float32")
            self._require_room(len(self.missing(identities)))
            self._compute(source, identities, console)

    def _require_room(self, images: int) -> None:
        needed, free = self.size(images), shutil.disk_usage(self.path).free
        if needed > free:
            raise InputError(
                f"the features take {needed / 1e9:.3g} GB, and {free / 1e9:.3g} GB are free in "
                f"{self.path}: name another folder with `features`, or take fewer `views`"
            )

    def _compute(
        self, source: FeatureSource, identities: Sequence[bytes], console: Console
    ) -> None:
        data, missing = source.data.images_and_labels(), self.missing(identities)
        batches = torch.split(torch.tensor(missing), source.backbone.images_at_once(*data.size))
        with contextlib.ExitStack() as held:
            files = [held.enter_context(file) for file in self._files()]
            held.callback(self._save, files)
            progress = held.enter_context(counted("computing features", console))
            held.enter_context(data.reading())
            data.expect(batches)
            saved, done = time.monotonic(), len(identities) - len(missing)
            for index in batches:
                images = data.take(index).images.cpu()
                self._add(source, images, [identities[i] for i in index.tolist()], files)
                done += len(index)
                progress(done, len(identities))
                if time.monotonic() - saved > SAVE_SECONDS:
                    self._save(files)
                    saved = time.monotonic()

    def _files(self) -> list[IO[bytes]]:
        """Open the files where what is done ends; new ones where nothing is.

        Another run may still have the old ones mapped.
        """
        files: list[IO[bytes]] = []
        for path, size in zip(self._paths, self._sizes(self.progress), strict=True):
            with _written(path):
                if not size:
                    path.unlink(missing_ok=True)
                file = path.open("r+b" if size else "xb")
                file.seek(size)
                file.truncate()
            files.append(file)
        return files

    def _add(
        self,
        source: FeatureSource,
        images: Tensor,
        identities: Sequence[bytes],
        files: Sequence[IO[bytes]],
    ) -> None:
        """Compute the features of some images, and append them to the files."""
        kind, done, _ = self.progress
        shown = source.views(images, identities).unbind(1)
        views = [levels_of(source.features_of(view)) for view in shown]
        # (B, V, h, w, D): channels last, as convolutions want them.
        levels = [torch.stack(maps, 1).permute(0, 1, 3, 4, 2) for maps in zip(*views, strict=True)]
        contents: list[Any] = [b"".join(identities)]
        for level in levels:
            self._check_values(level, done)
            numbers = level.to(getattr(torch, kind)).cpu().contiguous()
            contents.append(numbers.numpy().data)
        hashes = [one.copy() for one in self._hashes]
        for path, file, digest, content in zip(self._paths, files, hashes, contents, strict=True):
            with _written(path):
                file.write(content)
            digest.update(content)
        digests = tuple(one.hexdigest() for one in hashes)
        done_now = Progress(kind, done + len(images), digests)
        self._hashes, self.progress = hashes, done_now  # at once, whatever interrupts
        self._row_of.update({one: done + number for number, one in enumerate(identities)})

    def _check_values(self, level: Tensor, done: int) -> None:
        """Raise where numbers are not finite, or no float16."""
        largest = level.abs().amax()
        if not largest.isfinite():
            raise InputError(
                f"the backbone makes NaN or infinity of the images from number {done + 1} on; try "
                "`precision` 32, or other weights"
            )
        if self.progress.kind == "float16" and largest > LARGEST_HALF:
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

    def _sizes(self, progress: Progress) -> list[int]:
        """Return the bytes of each file when so much is done."""
        return [progress.done * size for size in (IDENTITY, *self._image_bytes(progress.kind))]

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


def _hash_of_beginning(path: Path, size: int) -> Any:
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


def _of_number(whole: str, number: int) -> bytes:
    return hashlib.sha256(f"{whole} {number}".encode()).digest()[:IDENTITY]


def _digest(*tensors: Tensor) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(repr((tuple(tensor.shape), tensor.dtype)).encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
