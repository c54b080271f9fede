"""Files of bags: each form reads as it was written, and what is none is refused in one line."""

from __future__ import annotations

import json
import os
import pickle
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import zarr
from bags.bag_files import features, places, write
from live_memory import LiveMemory
from safetensors.numpy import save_file as numpy_file
from safetensors.torch import save_file

from loss_attention.bags import files as bag_files
from loss_attention.bags import hdf5 as reading
from loss_attention.bags.files import BagFile, FileInstances, look_at_files
from loss_attention.errors import InputError

FORMS = (".h5", ".pt", ".npy", ".safetensors", ".zarr")


BRAIN_FLOAT = h5py.h5t.IEEE_F32LE.copy()
BRAIN_FLOAT.set_fields(15, 7, 8, 0, 7)
BRAIN_FLOAT.set_size(2)
BRAIN_FLOAT.set_ebias(127)


def instances(path: Path) -> FileInstances:
    (found,) = look_at_files(path.parent, [path.name])
    if isinstance(found, InputError):
        raise found
    return FileInstances(path.parent, [path.name], [found])


@pytest.mark.parametrize("ending", FORMS)
@pytest.mark.parametrize("kind", ["float16", "float32", "float64"])
def test_a_file_reads_as_it_was_written(ending: str, kind: str, tmp_path: Path) -> None:
    written, coords = features(7).astype(kind), places(7)
    found = instances(write(tmp_path / f"a{ending}", written, None if ending == ".npy" else coords))
    assert found.sizes.tolist() == [7]
    assert found.width == 4
    for start, stop in ((0, None), (0, 3), (2, 5), (6, 9), (-2, None)):
        read = found.features(0, start, stop)
        assert read.dtype == written.dtype
        np.testing.assert_array_equal(read, written[start:stop])
    if ending == ".npy":
        assert found.coordinates(0) is None
    else:
        np.testing.assert_array_equal(found.coordinates(0), coords)
    again = pickle.loads(pickle.dumps(found))
    assert again.fingerprint() == found.fingerprint()
    np.testing.assert_array_equal(again.features(0), written)


def test_other_shapes_and_types_are_read_too(tmp_path: Path) -> None:
    one = features(5)
    with h5py.File(tmp_path / "clam.h5", "w") as file:
        file.create_dataset("features", data=one[None], chunks=(1, 2, 4), compression="gzip")
        file["coords"] = places(5)
        file["coords"].attrs.update(patch_size=256, patch_size_level0=512)
    clam = instances(tmp_path / "clam.h5")
    assert clam.files == (BagFile(5, 4, "float16", True, 512),)
    np.testing.assert_array_equal(clam.features(0, 1, 4), one[1:4])
    for level, tile in ((0, 256), (1, None)):
        write(tmp_path / "tile.h5", one, places(5), patch_size=256, patch_level=level)
        assert instances(tmp_path / "tile.h5").files[0].tile == tile
    rough = torch.from_numpy(one).bfloat16()
    torch.save(rough, tmp_path / "rough.pt")
    save_file({"features": rough}, tmp_path / "rough.safetensors")
    for name in ("rough.pt", "rough.safetensors"):
        np.testing.assert_array_equal(instances(tmp_path / name).features(0), rough.float().numpy())
    np.save(tmp_path / "whole.npy", np.asfortranarray(np.arange(12).reshape(4, 3).astype(">i4")))
    whole = instances(tmp_path / "whole.npy").features(0, 1)
    assert whole.dtype == np.float32
    np.testing.assert_array_equal(whole, np.arange(12).reshape(4, 3)[1:])
    zarr.save_array(tmp_path / "bare.zarr", one, zarr_format=2)
    np.testing.assert_array_equal(instances(tmp_path / "bare.zarr").features(0), one)


LAYOUTS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "a block a row": {"chunks": (1, 4)},
    "blocks of rows": {"chunks": (3, 4)},
    "blocks of a part of each row": {"chunks": (2, 3)},
    "compressed": {"chunks": (3, 4), "compression": "gzip"},
    "a compressed block a row": {"chunks": (1, 4), "compression": "gzip"},
    "the other order of bytes": {"dtype": ">f2"},
    "16 bits that are read as 32": {"dtype": BRAIN_FLOAT},
}
"""Of datasets of HDF5."""


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("ahead", [(), (1,)])
@pytest.mark.parametrize(("at_once", "gap"), [(1, 0), (20, 16), (2**20, 0), (2**20, 2**14)])
def test_some_rows_of_hdf5_are_those_of_the_whole(
    layout: str,
    ahead: tuple[int, ...],
    at_once: int,
    gap: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reading, "AT_ONCE", at_once)
    monkeypatch.setattr(reading, "GAP", gap)
    whole, options = np.arange(44).reshape(11, 4), {"dtype": "f2"} | LAYOUTS[layout]
    if "chunks" in options:
        options["chunks"] = ahead + options["chunks"]
    hdf5(
        tmp_path / "a.h5",
        lambda f: f.create_dataset("features", data=whole.reshape(*ahead, 11, 4), **options),
    )
    found = instances(tmp_path / "a.h5")
    for index in ([0], [10], [2, 3, 4], [0, 5, 6, 10], list(range(11)), []):
        read = found.features_at(0, np.array(index, dtype=np.int64))
        np.testing.assert_array_equal(read, whole[index])
        assert read.dtype == ("f4" if layout.startswith("16") else "f2")
        assert read.flags.c_contiguous
    np.testing.assert_array_equal(found.features(0, 3, 9), whole[3:9])


@pytest.mark.parametrize("ending", FORMS)
def test_some_rows_are_those_of_the_whole(ending: str, tmp_path: Path) -> None:
    index = np.array([0, 2, 3, 6])
    for kind in ("float16", "float32", "float64", "int16"):
        whole = (10 * features(7)).astype(kind)
        read = instances(write(tmp_path / kind / f"a{ending}", whole)).features_at(0, index)
        np.testing.assert_array_equal(read, whole[index])
        assert read.dtype == ("float32" if kind == "int16" else kind)
        whole = whole[None]
        ahead = write(tmp_path / "ahead" / kind / f"a{ending}", whole)
        np.testing.assert_array_equal(instances(ahead).features_at(0, index), whole[0, index])


def test_some_rows_of_other_types_are_those_of_the_whole(tmp_path: Path) -> None:
    rough, index = torch.from_numpy(features(5)).bfloat16(), np.array([1, 4])
    torch.save(rough, tmp_path / "a.pt")
    save_file({"features": rough}, tmp_path / "a.safetensors")
    for name in ("a.pt", "a.safetensors"):
        read = instances(tmp_path / name).features_at(0, index)
        np.testing.assert_array_equal(read, rough[index].float().numpy())
    np.save(tmp_path / "a.npy", np.asfortranarray(features(5).astype(">f4")))
    read = instances(tmp_path / "a.npy").features_at(0, index)
    np.testing.assert_array_equal(read, features(5)[index])
    assert read.flags.c_contiguous


@pytest.mark.parametrize("ending", [*FORMS, "-row.h5", "-gzip.h5"])
def test_no_more_is_read_than_is_asked_for(ending: str, tmp_path: Path) -> None:
    whole, path = features(1000, 1024), tmp_path / f"a{ending}"
    block = {"chunks": (10, 1024), "compression": "gzip"}
    match ending:
        case "-row.h5":
            hdf5(path, lambda f: f.create_dataset("features", data=whole, chunks=(1, 1024)))
        case "-gzip.h5":
            hdf5(path, lambda f: f.create_dataset("features", data=whole, **block))
        case ".zarr":
            zarr.create_array(path, data=whole, chunks=(10, 1024))
        case _:
            write(path, whole)
    found, index = instances(path), np.arange(0, 1000, 50)

    def taken(read: Callable[[], np.ndarray]) -> int:
        """Bytes at most at once: of tensors but for the file's, which is mapped; or of arrays."""
        if ending in (".pt", ".safetensors"):
            with LiveMemory() as tensors:
                read()
            return tensors.peak - whole.nbytes
        tracemalloc.start()
        read()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    found.features_at(0, index)  # imports what it needs
    blocks = {".zarr": 40, "-gzip.h5": 2}.get(ending, 0)  # of 10 rows; zarr has all of them at once
    assert taken(lambda: found.features_at(0, index)) < (20 + 10 * blocks) * 2048 + 50_000
    assert taken(lambda: found.features(0)) >= whole.nbytes  # what would be too much


def test_fingerprints_tell_content_and_not_folders(tmp_path: Path) -> None:
    prints = []
    for place, seed in (("a", 0), ("b", 0), ("c", 1)):
        prints.append(
            instances(write(tmp_path / place / "s.npy", features(3, seed=seed))).fingerprint()
        )
    assert prints[0] == prints[1] != prints[2]


def test_a_bag_larger_than_memory_is_read_in_parts_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = instances(write(tmp_path / "a.npy", features(1000, 8)))
    monkeypatch.setattr(bag_files, "UNASKED", 100)
    monkeypatch.setattr(bag_files, "free_memory", lambda: 1600)
    assert found.features(0, 900).shape == (100, 8)
    with pytest.raises(InputError, match=r"^a\.npy: 0\.0 GB are to be read at once"):
        found.features(0)


def test_a_file_that_changes_is_noticed(tmp_path: Path) -> None:
    found = instances(write(tmp_path / "a.npy", features(3)))
    write(tmp_path / "a.npy", features(4))
    with pytest.raises(InputError, match=r"^a\.npy has changed since it was first read"):
        found.features(0)


class Runs:
    """Would be run by a reader that takes any pickle."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("was-run"),)


def zipped(path: Path) -> None:
    torch.save(torch.zeros(100, 4), path)
    with zipfile.ZipFile(path) as old:
        content = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name, data in content.items():
            new.writestr(name, data)


def shortened(path: Path, size: int) -> None:
    write(path, features(100))
    path.write_bytes(path.read_bytes()[:size])


def shorter() -> dict[str, np.ndarray]:
    return {"features": features(3), "instance_labels": np.zeros(2, int)}


def hdf5(path: Path, fill: Callable[[h5py.File], object]) -> None:
    with h5py.File(path, "w") as file:
        fill(file)


def zarr_encoded(path: Path, codec: str) -> None:
    array = zarr.create_array(
        path, shape=(3, 4), chunks=(3, 4), dtype="f4", zarr_format=2, compressors=None
    )
    array[:] = 1
    described = path / ".zarray"
    text = described.read_text()
    assert '"compressor": null' in text
    described.write_text(text.replace('"compressor": null', f'"compressor": {{"id": "{codec}"}}'))
    (path / "0.0").write_bytes(pickle.dumps(Runs()))


WRONG: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "empty": ("a.h5", lambda p: p.touch(), "a.h5 is empty"),
    "a pipe": ("a.h5", os.mkfifo, "a.h5 is not a file"),
    "a file as zarr": ("a.zarr", lambda p: p.write_text("no"), "a.zarr is not a folder"),
    "not HDF5": (
        "a.h5",
        lambda p: p.write_text("no"),
        "a.h5 is not an HDF5 file, despite its ending",
    ),
    "short HDF5": ("a.h5", lambda p: shortened(p, 2500), "a.h5 cannot be read: .*truncated file"),
    "no features": (
        "a.h5",
        lambda p: hdf5(p, lambda f: f.create_dataset("coords", data=places(3))),
        "a.h5 holds no `features`, but has `coords`: they are of other files",
    ),
    "nothing stored": (
        "a.h5",
        lambda p: hdf5(p, lambda f: f.create_dataset("features", (10**9, 1024), "f4")),
        "a.h5: `features` is declared as (1000000000, 1024), of which the file holds a part",
    ),
    "blocks not stored": (
        "a.h5",
        lambda p: hdf5(
            p,
            lambda f: f.create_dataset("features", (10**6, 4), "f4", chunks=(9, 4)).__setitem__(
                0, 1
            ),
        ),
        "a.h5: `features` is declared as (1000000, 4), of which",
    ),
    "another file": (
        "a.h5",
        lambda p: hdf5(p, lambda f: f.__setitem__("features", h5py.ExternalLink("b.h5", "x"))),
        "a.h5: `features` is not an array within the file",
    ),
    "bytes of another file": (
        "a.h5",
        lambda p: hdf5(
            p, lambda f: f.create_dataset("features", (1, 4), "u1", external=[("/etc/hosts", 0, 4)])
        ),
        "a.h5: `features` is not an array within the file",
    ),
    "a group": (
        "a.h5",
        lambda p: hdf5(p, lambda f: f.create_group("features")),
        "a.h5: `features` is not an array within the file",
    ),
    "text": (
        "a.h5",
        lambda p: hdf5(p, lambda f: f.create_dataset("features", data=[["a", "b"]])),
        "a.h5: `features` holds object, not numbers",
    ),
    "no instance": ("a.h5", lambda p: write(p, features(0)), "a.h5: a bag without instances"),
    "a vector": (
        "a.pt",
        lambda p: write(p, features(3)[0]),
        "a.pt: `features` is (4): it must be (instances, features)",
    ),
    "coords of another": (
        "a.pt",
        lambda p: write(p, features(3), places(4)),
        "a.pt: `coords` is (4, 2), and there are 3 instances: it must be (3, 2)",
    ),
    "labels of another": (
        "a.h5",
        lambda p: hdf5(p, lambda f: f.update(shorter())),
        "a.h5: `instance_labels` is (2), and there are 3 instances: it must be (3), or (3, classe",
    ),
    "labels that are measured": (
        "a.h5",
        lambda p: with_labels(p, np.zeros(3)),
        "a.h5: `instance_labels` holds float64, not whole numbers",
    ),
    "classes twice": (
        "a.h5",
        lambda p: with_labels(p, np.zeros(3, int), ("a", "a")),
        "a.h5: `classes` are not names of classes, each once",
    ),
    "classes that are numbers": (
        "a.safetensors",
        lambda p: with_labels(p, np.zeros(3, int), (1, 2)),  # type: ignore[arg-type]
        "a.safetensors: `classes` are not names of classes, each once",
    ),
    "not torch": ("a.pt", lambda p: p.write_text("no"), "a.pt was not written by torch.save"),
    "a pickle": (
        "a.pt",
        lambda p: p.write_bytes(pickle.dumps(Runs())),
        "a.pt was not written by torch.save",
    ),
    "objects": ("a.pt", lambda p: torch.save(Runs(), p), "a.pt holds something other than tensors"),
    "a list": (
        "a.pt",
        lambda p: torch.save([1], p),
        "a.pt: `features` is a list, not a plain tensor",
    ),
    "sparse": (
        "a.pt",
        lambda p: torch.save(torch.eye(3).to_sparse(), p),
        "a.pt: `features` is a Tensor, not a plain tensor",
    ),
    "a row, again and again": (
        "a.pt",
        lambda p: torch.save(torch.zeros(1, 4).expand(10**9, 4), p),
        "a.pt: `features` is declared as (1000000000, 4), of which the file holds a part",
    ),
    "complex": (
        "a.pt",
        lambda p: torch.save(torch.zeros(3, 4, dtype=torch.complex64), p),
        "a.pt: `features` holds complex64, not numbers",
    ),
    "compressed": ("a.pt", zipped, "a.pt is compressed, as no file of torch.save is"),
    "short torch": ("a.pt", lambda p: shortened(p, 900), "a.pt was not written by torch.save"),
    "not npy": (
        "a.npy",
        lambda p: write(p.with_suffix(".h5"), features(3)).rename(p),
        "a.npy is not a .npy file",
    ),
    "object array": (
        "a.npy",
        lambda p: np.save(p, np.array([[Runs()]]), allow_pickle=True),
        "a.npy holds objects, not numbers",
    ),
    "texts": ("a.npy", lambda p: np.save(p, np.array([["a"]])), "a.npy holds <U1, not numbers"),
    "short npy": ("a.npy", lambda p: shortened(p, 300), "a.npy cannot be read: mmap length is gre"),
    "not safetensors": (
        "a.safetensors",
        lambda p: p.write_text("no such file, and longer"),
        "a.safetensors is not a safetensors file: ",
    ),
    "short safetensors": (
        "a.safetensors",
        lambda p: shortened(p, 300),
        "a.safetensors is not a safetensors file: ",
    ),
    "not zarr": ("a.zarr", lambda p: p.mkdir(), "a.zarr cannot be read: "),
    "pickling zarr": (
        "a.zarr",
        lambda p: zarr_encoded(p, "pickle"),
        "a.zarr cannot be read: No Zarr data type",
    ),
    "strange zarr": (
        "a.zarr",
        lambda p: zarr_encoded(p, "base64"),
        "a.zarr: `features` is encoded by 'base64', unknown here",
    ),
    "zarr without its blocks": (
        "a.zarr",
        lambda p: zarr.create_array(p, shape=(10**9, 4), chunks=(9, 4), dtype="f4"),
        "a.zarr: `features` is declared as (1000000000, 4), of which the file holds a part",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_with_a_file_is_one_line(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name, make, said = WRONG[case]
    make(tmp_path / name)
    (found,) = look_at_files(tmp_path, [name])
    assert isinstance(found, InputError), found
    before, _, after = said.partition(".*")
    assert str(found).startswith(before)
    assert after in str(found)
    assert "\n" not in str(found)
    assert not Path("was-run").exists()


@pytest.mark.parametrize(("library", "ending"), [("h5py", ".h5"), ("zarr", ".zarr")])
def test_a_library_that_is_not_there_is_named_with_its_extra(
    library: str, ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / f"a{ending}", features(3))
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(InputError, match=rf"needs {library} .*pip install .loss-attention\[bags\]"):
        instances(path)


def test_places_that_are_no_numbers_are_named(tmp_path: Path) -> None:
    found = instances(
        write(tmp_path / "a.h5", features(3), np.array([[0, 0], [1, np.nan], [2, 2]]))
    )
    with pytest.raises(InputError, match=r"^a\.h5: row 2 of `coords` is not finite$"):
        found.coordinates(0)


def with_labels(path: Path, labels: np.ndarray, classes: tuple[str, ...] = ()) -> Path:
    """Write a bag's file with labels of its instances, and the names of what they number."""
    match path.suffix:
        case ".h5":
            with h5py.File(path, "w") as file:
                file["features"] = features(len(labels))
                file["instance_labels"] = labels
                if classes:
                    file["instance_labels"].attrs["classes"] = list(classes)
        case ".safetensors":
            tensors = {"features": features(len(labels)), "instance_labels": labels}
            metadata = {"classes": json.dumps(classes)} if classes else None
            numpy_file(tensors, path, metadata)
        case ".pt":
            torch.save(
                {
                    "features": torch.from_numpy(features(len(labels))),
                    "instance_labels": torch.from_numpy(labels),
                }
                | ({"classes": list(classes)} if classes else {}),
                path,
            )
        case ".zarr":
            group = zarr.open_group(path, mode="w")
            arrays = {"features": features(len(labels)), "instance_labels": labels}
            for name, array in arrays.items():
                group.create_array(name, shape=array.shape, dtype=array.dtype)[...] = array
            group["instance_labels"].attrs["classes"] = list(classes)
    return path


@pytest.mark.parametrize("ending", [".h5", ".safetensors", ".pt", ".zarr"])
def test_labels_of_instances_are_read_by_the_names_of_their_classes(
    ending: str, tmp_path: Path
) -> None:
    written = np.array([0, -1, 1, 1], np.int16)
    path = with_labels(tmp_path / f"a{ending}", written, ("crack", "blowhole"))
    found = pickle.loads(pickle.dumps(instances(path)))
    names = ("blowhole", "break", "crack")
    assert found.instance_labels(0, names, several=False).tolist() == [2, -1, 0, 0]
    assert found.instance_labels(0, names, several=True).tolist() == [
        [0, 0, 1],
        [0, 0, 0],
        [1, 0, 0],
        [1, 0, 0],
    ]
    flags = np.array([[0, 1], [0, 0], [1, 1]], np.uint8)
    found = instances(with_labels(tmp_path / f"b{ending}", flags, ("crack", "blowhole")))
    assert found.instance_labels(0, names, several=True).tolist() == [
        [1, 0, 0],
        [0, 0, 0],
        [1, 0, 1],
    ]


def test_labels_of_instances_without_names_number_the_classes_of_the_bags(tmp_path: Path) -> None:
    found = instances(with_labels(tmp_path / "a.h5", np.array([True, False])))
    assert found.files[0].labels == (2,)
    assert found.instance_labels(0, ("no", "yes"), several=False).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("labels", "classes", "said"),
    [
        ([0, 2, 1], (), "row 2 of `instance_labels` is 2: it must be the number of a class, below"),
        ([0, 0, -2], (), "row 3 of `instance_labels` is -2: it must be the number of a class, bel"),
        ([0, 1, 1], ("no", "odd"), "row 2 of `instance_labels` is of the class 'odd', which no b"),
        ([[0, 1], [3, 0]], (), "row 2 of `instance_labels` is 3: it must be 0 or 1"),
    ],
)
def test_labels_of_instances_that_are_none_are_named(
    labels: list[Any], classes: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    found = instances(with_labels(tmp_path / "a.h5", np.array(labels), classes))
    with pytest.raises(InputError, match=f"^a.h5: {said}"):
        found.instance_labels(0, ("no", "yes"), several=isinstance(labels[0], list))
