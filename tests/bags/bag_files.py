"""Made-up bags in files of every form, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
import zarr
from safetensors.numpy import save_file


def write(path: Path, features: Any, coords: Any = None, **attributes: int) -> Path:
    """Write a bag's file in the form of its ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {"features": features} | ({} if coords is None else {"coords": coords})
    match path.suffix:
        case ".h5":
            with h5py.File(path, "w") as file:
                for name, array in arrays.items():
                    file.create_dataset(name, data=array)
                if coords is not None:
                    file["coords"].attrs.update(attributes)
        case ".pt":
            tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
            torch.save(tensors if coords is not None else tensors["features"], path)
        case ".npy":
            np.save(path, features)
        case ".safetensors":
            save_file({name: np.ascontiguousarray(one) for name, one in arrays.items()}, path)
        case ".zarr":
            group = zarr.open_group(path, mode="w")
            for name, array in arrays.items():
                group.create_array(name, data=array, chunks=(2,) * array.ndim)
    return path


def features(size: int, width: int = 4, seed: int = 0) -> np.ndarray:
    """Return float16 features, (size, width)."""
    return np.random.default_rng(seed).standard_normal((size, width)).astype(np.float16)


def places(size: int) -> np.ndarray:
    """Return places on a grid of tiles of 256 pixels, (size, 2)."""
    return np.stack([np.arange(size) % 4, np.arange(size) // 4], axis=1) * 256


def folder(root: Path, sizes: tuple[int, ...] = (3, 5, 2, 4), ending: str = ".h5") -> Path:
    """Write bags s0, s1 and so on, and a CSV: classes in turn, two bags a patient, two splits."""
    rows = ["slide_id,label,patient,split"]
    for number, size in enumerate(sizes):
        coords = None if ending == ".npy" else places(size)
        write(root / f"s{number}{ending}", features(size, seed=number), coords)
        kind, split = ("normal", "tumour")[number % 2], ("train", "test")[number // 2 % 2]
        rows.append(f"s{number},{kind},p{number // 2},{split}")
    (root / "labels.csv").write_text("\n".join(rows) + "\n")
    return root


def change(path: Path, old: str, new: str) -> None:
    """Replace a text of a file, which must be there."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
