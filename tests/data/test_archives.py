"""Image folders, and layouts within one outer folder, read from archives as from folders."""

from __future__ import annotations

from pathlib import Path

import pytest
from data.formats.test_yolo import make as yolo
from data.making import image_folder, parquet, png, stored, text
from data.refusing import load, refusal
from data.test_tree import make_tar, make_zip

FILES = {
    f"{s}/{c}/{i}.png": 10 * ord(c) % 90 + i for s in ("train", "val") for c in "ab" for i in (1, 2)
}


def packed(path: Path, files: dict[str, int], root: str = "") -> Path:
    """Pack pictures of these levels."""
    content = {root + name: png(level) for name, level in files.items()}
    kind = {".zip": None, ".tar": "", ".tgz": "gz", ".xz": "xz"}[path.suffix]
    return make_zip(path, content) if kind is None else make_tar(path, content, kind)


@pytest.mark.parametrize("name", ["pets.zip", "pets.tar", "pets.tgz", "pets.tar.xz"])
@pytest.mark.parametrize("root", ["", "pets/", "a/b/"])
def test_an_image_folder_in_an_archive(tmp_path: Path, name: str, root: str) -> None:
    plain = load(image_folder(tmp_path / "plain", FILES))
    found = load(packed(tmp_path / name, FILES, root))
    assert found.train.names == plain.train.names
    assert found.train.fingerprint() == plain.train.fingerprint()
    assert found.test.fingerprint() == plain.test.fingerprint()
    assert sorted(path.name for path in tmp_path.iterdir()) == [name, "plain"]  # nothing unpacked


def test_class_folders_without_splits_in_an_archive(tmp_path: Path) -> None:
    files = {f"{c}/{i}.png": i for c in "ab" for i in range(5)}
    splits = load(packed(tmp_path / "x.zip", files, "outer/"))
    assert splits.train.class_names == ("a", "b")
    assert (len(splits.train), len(splits.test)) == (8, 2)


def test_one_folder_around_everything_may_be_on_disk_too(tmp_path: Path) -> None:
    image_folder(tmp_path / "x" / "pets", FILES)
    assert load(tmp_path / "x").train.names == tuple(sorted(n for n in FILES if n[0] == "t"))


def test_a_folder_with_the_archive_in_it(tmp_path: Path) -> None:
    packed(tmp_path / "pets.zip", FILES, "pets/")
    text(tmp_path / "pets" / "README.md", "of pets")
    assert load(tmp_path).train.names == tuple(sorted(n for n in FILES if n[0] == "t"))


def test_an_archive_a_split(tmp_path: Path) -> None:
    for split in ("train", "test"):
        files = {f"{c}/{i}.png": len(split) * 10 + i for c in "ab" for i in range(2)}
        packed(tmp_path / f"{split}.zip", files)
    splits = load(tmp_path)
    assert splits.train.images[:, 0, 0, 0].tolist() == [50, 51, 50, 51]
    assert splits.test.images[:, 0, 0, 0].tolist() == [40, 41, 40, 41]
    assert splits.test.names[0] == "test/a/0.png"


def test_archives_that_hold_the_same_image_are_refused(tmp_path: Path) -> None:
    packed(tmp_path / "one.zip", {"a/1.png": 1})
    packed(tmp_path / "two.zip", {"a/1.png": 2, "b/1.png": 3})
    assert "one.zip and two.zip both hold a/1.png; unpack them and keep one" in refusal(tmp_path)


def test_a_table_and_yolo_texts_within_an_outer_folder(tmp_path: Path) -> None:
    rows = "".join(f"{i}.png,{'ab'[i % 2]}\n" for i in range(6))
    content = {f"pets/{i}.png": png(i) for i in range(6)}
    path = make_zip(
        tmp_path / "x.zip", {**content, "pets/labels.csv": b"image,label\n" + rows.encode()}
    )
    assert load(path).train.class_names == ("a", "b")
    made = yolo(tmp_path / "made")
    files = {f"y/{p.relative_to(made).as_posix()}": p.read_bytes() for p in made.rglob("*.*")}
    assert len(load(make_zip(tmp_path / "y.zip", files), image_size=8).train) == 3


def test_what_is_wrong_in_an_archive_is_named(tmp_path: Path) -> None:
    content = {name: png(level) for name, level in FILES.items()} | {"train/a/1.png": b"junk"}
    path = make_zip(tmp_path / "x.zip", content)
    assert refusal(path) == "1 image cannot be read: train/a/1.png (of no known image format)"
    path = packed(tmp_path / "flat.zip", {"1.png": 1})
    assert f"{path} holds images but no class folders" in refusal(path)
    path = make_zip(tmp_path / "t.zip", {"notes.md": b"x"})
    assert refusal(path) == f"data folder {path} holds no images to train on"
    table = parquet(tmp_path / "p" / "train.parquet", {"image": stored(1, 2), "label": [0, 1]})
    path = make_zip(tmp_path / "p.zip", {"train.parquet": table.read_bytes()})
    assert f"parquet files are not read from archives; unpack {path}" in refusal(path)


def test_a_damaged_picture_in_a_zip_is_named(tmp_path: Path) -> None:
    """The archive's list is whole, and a byte of a picture is not."""
    path = packed(tmp_path / "x.zip", FILES)
    content = bytearray(path.read_bytes())
    start = content.index(b"IDAT")
    content[start + 6] ^= 255
    path.write_bytes(bytes(content))
    assert "train/a/1.png (Bad CRC-32 for file 'train/a/1.png')" in refusal(path)


def test_listing_beside_archives(tmp_path: Path) -> None:
    """As competitions hand out data: a table, and its pictures in an archive."""
    packed(tmp_path / "train.zip", {f"{i}.png": i for i in range(4)})
    text(tmp_path / "train.csv", "image,label", *(f"{i}.png,{'ab'[i % 2]}" for i in range(4)))
    assert len(load(tmp_path).train) == 2
