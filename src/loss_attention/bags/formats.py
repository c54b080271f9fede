"""The forms of files that bags come in, by their endings: arrays, read a part at a time.

Nothing of a file is run. Where it asks for more than numbers, or for other files, it is refused.
"""

from __future__ import annotations

import importlib
import json
import os
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int

from loss_attention.bags.hdf5 import some_rows
from loss_attention.errors import InputError, guarded, printable, quoted, reason

FEATURES, COORDS, LABELS = "features", "coords", "instance_labels"
CLASSES = "classes"
"""What says the names of the classes that `instance_labels` number."""
MOST_CLASSES = 100_000
CODECS = frozenset(
    (
        *("blosc", "bytes", "bz2", "crc32c", "delta", "gzip", "lz4", "lzma", "sharding_indexed"),
        *("shuffle", "transpose", "zlib", "zstd"),
    )
)
"""Of zarr, those that make nothing but numbers; numcodecs has one that unpickles."""

Rows = slice | Int[np.ndarray, " n"]


class Array(NamedTuple):
    """An array in an open file.

    Attributes:
        shape: its axes.
        kind: its type as numpy calls it, or bfloat16.
        part: some rows along an axis, the second argument, in memory of their own: those from one
            to another, or those of ascending numbers.
        whole: whether all of it is in the file.
        block: bytes that are read at once at least, as those of a compressed block.
    """

    shape: tuple[int, ...]
    kind: str
    part: Callable[[Rows, int], np.ndarray]
    whole: Callable[[], bool] = lambda: True
    block: int = 0

    @property
    def bytes(self) -> int:
        """Of all of it, once it is read."""
        return prod(self.shape) * (2 if self.kind == "bfloat16" else np.dtype(self.kind).itemsize)


class Content(NamedTuple):
    """The arrays of an open file, and what it says of them.

    Attributes:
        features, coords, labels: of the instances; None: there are none.
        tile: how many pixels of a slide a tile covers; None: it does not say.
        classes: the names of the classes that labels number; empty: it does not say.
    """

    features: Array | None
    coords: Array | None
    labels: Array | None = None
    tile: int | None = None
    classes: tuple[str, ...] = ()


@contextmanager
def opened(path: Path, name: str) -> Iterator[Content]:
    """Open a bag's file by its ending.

    Args:
        path: of the file; of zarr, of the folder.
        name: what it is called in errors.

    Raises:
        InputError: it is not what its ending says, or whatever goes wrong within the context.
    """
    with guarded(printable(name)):
        ending = path.suffix.lower()
        if not (path.is_dir() if ending in FOLDERS else path.is_file()):
            kind = "folder" if ending in FOLDERS else "file"
            raise InputError(f"{printable(name)} is not a {kind}")
        if ending not in FOLDERS and not path.stat().st_size:
            raise InputError(f"{printable(name)} is empty")
        with READERS[ending](path, printable(name)) as content:
            yield content


def _needed(library: str, name: str) -> Any:
    """Return a library that a file needs; raise `InputError` where it is not installed."""
    try:
        return importlib.import_module(library)
    except ImportError as error:
        raise InputError(
            f'{name} needs {library} ({reason(error)}): pip install "loss-attention[bags]"'
        ) from error


@contextmanager
def _hdf5(path: Path, name: str) -> Iterator[Content]:
    h5py = _needed("h5py", name)
    if not h5py.is_hdf5(path):
        raise InputError(f"{name} is not an HDF5 file, despite its ending")
    with h5py.File(path, "r", locking=False) as file:

        def dataset(what: str) -> Any:
            if what not in file:
                return None
            found = file[what] if isinstance(file.get(what, getlink=True), h5py.HardLink) else None
            if not isinstance(found, h5py.Dataset) or found.external or found.is_virtual:
                raise InputError(f"{name}: `{what}` is not an array within the file")
            return found

        def array(found: Any) -> Array | None:
            if found is None:
                return None

            def whole() -> bool:
                if found.chunks is None:
                    size = found.size * found.id.get_type().get_size()
                    return bool(found.id.get_storage_size() >= size)
                grid = zip(found.shape, found.chunks, strict=True)
                number = prod(-(-length // one) for length, one in grid)
                return bool(found.id.get_num_chunks() >= number)

            block = 0 if found.chunks is None else found.dtype.itemsize * prod(found.chunks)
            part = partial(some_rows, found)
            return Array(found.shape, str(found.dtype), part, whole, block)

        coords = dataset(COORDS)
        tile = None if coords is None else _tile(coords.attrs)
        labels = dataset(LABELS)
        names = () if labels is None else _names(labels.attrs.get(CLASSES), name)
        yield Content(array(dataset(FEATURES)), array(coords), array(labels), tile, names)


def _tile(attributes: Mapping[str, Any]) -> int | None:
    """Return how many pixels of the slide itself a tile covers, by the attributes of `coords`."""
    name = "patch_size_level0"
    if name not in attributes and not attributes.get("patch_level", 0):
        name = "patch_size"  # of the level that tiles were cut at, which is the slide itself
    value = np.asarray(attributes.get(name, 0))
    whole = value.size == 1 and value.dtype.kind in "iuf" and 0 < value.item() < 2**31
    return int(value.item()) if whole else None


def _names(value: Any, name: str) -> tuple[str, ...]:
    """Return the names of the classes that a file says its instances' labels number."""
    found = () if value is None else tuple(np.asarray(value).ravel()[: MOST_CLASSES + 1].tolist())
    texts = tuple(one.decode("utf-8") if isinstance(one, bytes) else one for one in found)
    sound = all(isinstance(one, str) for one in texts) and len(set(texts)) == len(texts)
    if not sound or len(texts) > MOST_CLASSES:
        raise InputError(f"{name}: `{CLASSES}` are not names of classes, each once")
    return texts


@contextmanager
def _torch(path: Path, name: str) -> Iterator[Content]:
    if not zipfile.is_zipfile(path):
        raise InputError(f"{name} was not written by torch.save (of torch 1.6 or later)")
    with zipfile.ZipFile(path) as archive:
        if any(one.compress_type != zipfile.ZIP_STORED for one in archive.infolist()):
            raise InputError(f"{name} is compressed, as no file of torch.save is")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{name} holds something other than tensors, which is not loaded: save a tensor, or a "
            f"dict with `{FEATURES}` and `{COORDS}`"
        ) from error
    arrays = found if isinstance(found, dict) else {FEATURES: found}

    def array(what: str) -> Array | None:
        tensor = arrays.get(what)
        if tensor is None:
            return None
        if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided or tensor.is_meta:
            raise InputError(f"{name}: `{what}` is a {type(tensor).__name__}, not a plain tensor")

        def part(rows: Rows, axis: int) -> np.ndarray:
            return _own(tensor.detach()[(slice(None),) * axis + (rows,)], rows)

        kind = str(tensor.dtype).removeprefix("torch.")
        there = tensor.untyped_storage().nbytes()  # less where rows are one row, again and again
        return Array(tuple(tensor.shape), kind, part, lambda: there >= tensor.nbytes)

    labels = array(LABELS)
    names = () if labels is None else _names(arrays.get(CLASSES), name)
    yield Content(array(FEATURES), array(COORDS), labels, classes=names)


@contextmanager
def _npy(path: Path, name: str) -> Iterator[Content]:
    with path.open("rb") as file:
        if file.read(6) != b"\x93NUMPY":
            raise InputError(f"{name} is not a .npy file, despite its ending")
        file.seek(0)
        version = np.lib.format.read_magic(file)
        read = getattr(np.lib.format, f"read_array_header_{version[0]}_0", None)
        _, _, kind = (read or np.lib.format.read_array_header_2_0)(file)
    if kind.hasobject or kind.kind not in "fiu":
        raise InputError(f"{name} holds {'objects' if kind.hasobject else kind}, not numbers")
    array = np.load(path, mmap_mode="r", allow_pickle=False)

    def part(rows: Rows, axis: int) -> np.ndarray:
        found = array[(slice(None),) * axis + (rows,)]
        return np.array(found) if isinstance(rows, slice) else np.asarray(found)

    yield Content(Array(array.shape, str(array.dtype), part), None)


@contextmanager
def _safetensors(path: Path, name: str) -> Iterator[Content]:
    from safetensors import SafetensorError, safe_open

    names = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
    names |= {
        f"{sign}{bits}": f"{kind}{bits}"
        for sign, kind in (("I", "int"), ("U", "uint"))
        for bits in (8, 16, 32, 64)
    }
    try:
        file = safe_open(path, framework="pt")
    except SafetensorError as error:
        raise InputError(f"{name} is not a safetensors file: {reason(error)}") from error
    with file:
        there: Any = file

        def array(what: str) -> Array | None:
            if what not in there.keys():  # noqa: SIM118 (it is not a dict)
                return None
            found = there.get_slice(what)

            def part(rows: Rows, axis: int) -> np.ndarray:
                chosen = rows if isinstance(rows, slice) else rows.tolist()
                return _own(found[(slice(None),) * axis + (chosen,)], rows)

            kind = str(found.get_dtype())
            return Array(tuple(found.get_shape()), names.get(kind, kind), part)

        said: dict[str, str] = there.metadata() or {}
        sizes = {key: int(one) for key, one in said.items() if re.fullmatch(r"[0-9]{1,10}", one)}
        classes = _names(json.loads(said[CLASSES]), name) if CLASSES in said else ()
        yield Content(array(FEATURES), array(COORDS), array(LABELS), _tile(sizes), classes)


@contextmanager
def _zarr(path: Path, name: str) -> Iterator[Content]:
    zarr = _needed("zarr", name)
    found = zarr.open(path, mode="r")
    arrays = {FEATURES: found} if isinstance(found, zarr.Array) else found

    def array(what: str) -> Array | None:
        one = arrays.get(what)
        if one is None:
            return None
        if not isinstance(one, zarr.Array):
            raise InputError(f"{name}: `{what}` is not an array")
        for codec in _codecs(json.loads(json.dumps(one.metadata.to_dict(), default=str))):
            if codec.removeprefix("numcodecs.") not in CODECS:
                raise InputError(f"{name}: `{what}` is encoded by {quoted(codec)}, unknown here")
        grid = zip(one.shape, one.shards or one.chunks, strict=True)
        number = prod(-(-length // block) for length, block in grid)
        size = one.dtype.itemsize * prod(one.chunks)

        def part(rows: Rows, axis: int) -> np.ndarray:
            found: np.ndarray = one.oindex[(slice(None),) * axis + (rows,)]
            return found

        # Zarr itself would ask for each block by name, however many there are said to be.
        def whole() -> bool:
            return bool(_blocks_in(path / one.path) >= number)

        return Array(one.shape, str(one.dtype), part, whole, size)

    labels = array(LABELS)
    names = () if labels is None else _names(arrays[LABELS].attrs.get(CLASSES), name)
    yield Content(array(FEATURES), array(COORDS), labels, classes=names)


def _blocks_in(folder: Path) -> int:
    """Return how many files of an array's folder are blocks of it."""
    described = ("zarr.json", ".zarray", ".zattrs")
    names = (name for _, _, files in os.walk(folder) for name in files)
    return sum(name not in described for name in names)


def _codecs(value: Any) -> Iterator[str]:
    """Yield the names of all codecs of an array's description, of those within others too."""
    if isinstance(value, dict):
        for key, one in value.items():
            if key in ("codecs", "filters", "index_codecs", "compressor"):
                for codec in one if isinstance(one, list) else [one]:
                    if codec is not None:
                        yield str(codec.get("id", codec.get("name")))
            yield from _codecs(one)
    elif isinstance(value, list):
        for one in value:
            yield from _codecs(one)


def _own(tensor: torch.Tensor, rows: Rows) -> np.ndarray:
    """Return some rows as an array of their own: between two numbers they are a view of a file."""
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.float()
    elif isinstance(rows, slice):
        tensor = tensor.clone()
    found: np.ndarray = tensor.numpy()
    return found


FOLDERS = frozenset((".zarr",))
"""Forms that are folders of files."""
READERS: dict[str, Callable[[Path, str], Any]] = {
    ".h5": _hdf5,
    ".hdf5": _hdf5,
    ".safetensors": _safetensors,
    ".zarr": _zarr,
    ".pt": _torch,
    ".pth": _torch,
    ".npy": _npy,
}
"""The form of a file by its ending; of one bag in two forms the upper is read."""
