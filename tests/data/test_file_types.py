"""Which files are images by name, and what is said of those that look like some."""

from __future__ import annotations

import io
import sys
import types
from pathlib import Path

import pytest
from data.making import image_folder, png, text, write
from data.refusing import load, refusal
from PIL import Image
from rich.console import Console

from loss_attention.cli.checking import check_data
from loss_attention.data import decoding
from loss_attention.data.decoding import is_image, may_be_meant
from loss_attention.data.tree import list_images

PETS = {f"{c}/{i}.png": 10 * ord(c) % 90 + i for c in "ab" for i in range(3)}


def checked(data: Path) -> str:
    console = Console(file=io.StringIO(), width=300)
    check_data(console, str(data))
    return console.file.getvalue()  # type: ignore[attr-defined]


def said_of(root: Path) -> str:
    """Return what training, `data check` and listing say of a folder, if they agree."""
    line = load(root).source
    told = list_images(root).unread
    printed = checked(root)
    for one in told:
        assert one in line
        assert f"warning: {one}" in printed
    assert ("no errors in" in printed) is not bool(told)
    return "; ".join(told)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (
            {"a/x.heic": b"", "b/y.HEIC": b"", "b/z.heif": b""},
            "2 files .heic are not read (a/x.heic, say): `pip install pillow-heif` reads them",
        ),
        ({"a/x.jxl": b"\xff\x0a"}, "1 file .jxl is not read (a/x.jxl): `pip install pillow-jxl-"),
        ({"a/x.CR2": b"II*\0"}, "1 file .cr2 is not read (a/x.CR2): save them as PNG, JPEG or TIF"),
        ({"a/x.psd": b"8BPS"}, "1 file .psd is not read (a/x.psd): save them as PNG or JPEG"),
        ({"a/x.mp4": b""}, "1 file .mp4 is not read (a/x.mp4): they are videos"),
        (
            {"a/x": png(), "b/y": png()},
            "2 files without suffix are not read (a/x, say): PNG by the content; end the name in "
            ".png",
        ),
        (
            {"a/x.jpg.part": b"\xff\xd8\xff\xe0 and more"},
            "1 file .part is not read (a/x.jpg.part): JPEG by the content; end the name in .jpg",
        ),
        ({"a/x.png~": png()}, "1 file .png~ is not read (a/x.png~): PNG by the content"),
        ({"a/x.jpg_large": b"\xff\xd8\xff"}, "1 file .jpg_large is not read (a/x.jpg_large): JPEG"),
        ({"a/x": b"\0\0\0\x18ftypheic...."}, "HEIF by the content; end the name in .heic; `pip"),
        ({"a/x.foo": b"???"}, "1 file .foo is not read (a/x.foo): of no known image format"),
        ({"a/x": b"???"}, "1 file without suffix is not read (a/x): of no known image format"),
    ],
)
def test_files_that_may_be_meant_are_counted_and_named(
    tmp_path: Path, files: dict[str, bytes], said: str
) -> None:
    image_folder(tmp_path, PETS)
    for name, content in files.items():
        write(tmp_path / name, content)
    assert said in said_of(tmp_path)
    assert sum(map(len, (load(tmp_path).train, load(tmp_path).test))) == 6


def test_three_of_four_files(tmp_path: Path) -> None:
    for c in "ab":
        image_folder(tmp_path, {f"{c}/1.png": ord(c), f"{c}/2.png": ord(c) + 9})
        for i in range(6):
            write(tmp_path / c / f"{i}.heic", b"\0\0\0\x18ftypheic")
    assert "12 files .heic are not read (a/0.heic, say)" in said_of(tmp_path)
    assert "no errors in" not in checked(tmp_path)


@pytest.mark.parametrize("split", ["", "train/"])
def test_a_folder_of_nothing_else_says_so(tmp_path: Path, split: str) -> None:
    for c in "ab":
        write(tmp_path / f"{split}{c}" / "1.heic", b"x")
    assert "1 file .heic is not read (1.heic): `pip install pillow-heif`" in refusal(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        *(
            ".DS_Store",
            "Thumbs.db",
            "THUMBS.DB",
            "desktop.ini",
            "README",
            "readme.first",
            "LICENSE",
        ),
        *(
            "LICENSE-CC-BY",
            "a/notes.txt",
            "a/1.json",
            "a/Icon\r",
            "CITATION.cff",
            "x.py",
            "a/x.xml",
        ),
        *("labels.cache", "b/weights.pt", "checksums.sha256", "b/._1.png", "COPYING"),
    ],
)
def test_what_always_lies_about_is_passed_over(tmp_path: Path, name: str) -> None:
    image_folder(tmp_path, PETS)
    write(tmp_path / name, b"x")
    assert said_of(tmp_path) == ""


def test_upper_case_and_double_suffixes_are_read(tmp_path: Path) -> None:
    names = ("1.PNG", "2.tar.png", "3.jpg.png", "4.heic.png", "5..png", " 6 .Png")
    image_folder(tmp_path, {f"{c}/{name}": i for c in "ab" for i, name in enumerate(names)})
    splits = load(tmp_path)
    assert len(splits.train) + len(splits.test) == 12
    assert all(is_image(name) for name in names)
    assert not any(is_image(name) for name in (".png", "a/.png", "png", "a.png/b", "a.png.", ""))


def test_files_that_annotations_name_are_read_whatever_they_are_called(tmp_path: Path) -> None:
    for i in range(4):
        write(tmp_path / f"pic{i}", png(i))
    text(tmp_path / "labels.csv", "image,label", *(f"pic{i},{'ab'[i % 2]}" for i in range(4)))
    assert "not read" not in load(tmp_path).source


def test_archives_are_told_as_folders_are(tmp_path: Path) -> None:
    from data.test_tree import make_tar, make_zip

    files = {name: png(level) for name, level in PETS.items()}
    for make, name in ((make_zip, "x.zip"), (make_tar, "x.tar")):
        path = make(tmp_path / name, {**files, "a/x": png(), "a/y.heic": b""})
        line = load(path).source
        assert "1 file without suffix is not read (a/x): PNG by the content" in line
        assert "1 file .heic is not read (a/y.heic)" in line


@pytest.fixture
def heif(monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a plugin that reads .heic files, which here hold three letters and a PNG."""

    def opener(file: io.BytesIO, name: str) -> Image.Image:
        file.seek(3)
        return Image.open(io.BytesIO(file.read()))

    opener.__module__ = "pillow_heif.as_plugin"

    def register() -> None:
        Image.register_open("HEIF", opener, lambda head: head.startswith(b"HIF"))  # type: ignore[arg-type]
        Image.register_extension("HEIF", ".heic")

    Image.init()
    for table in ("OPEN", "EXTENSION"):
        monkeypatch.setattr(Image, table, dict(getattr(Image, table)))
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    module = types.ModuleType("pillow_heif")
    module.register_heif_opener = register  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pillow_heif", module)
    decoding.load_plugins.cache_clear()
    yield
    decoding.load_plugins.cache_clear()


@pytest.mark.usefixtures("heif")
def test_heic_is_read_where_its_plugin_is_installed(tmp_path: Path) -> None:
    image_folder(tmp_path, PETS)
    for c in "ab":
        for i in range(2):
            write(tmp_path / c / f"x{i}.HEIC", b"HIF" + png(40 + i))
    splits = load(tmp_path)
    assert len(splits.train) + len(splits.test) == 10
    levels = [*splits.train.images[:, 0, 0, 0].tolist(), *splits.test.images[:, 0, 0, 0].tolist()]
    assert sorted(level for level in levels if 40 <= level < 50) == [40, 40, 41, 41]
    assert "not read" not in splits.source
    assert len(list_images(tmp_path).images) == 10


def test_names() -> None:
    assert may_be_meant("a/x.heic")
    assert not may_be_meant("a/x.png")
    assert not may_be_meant("a/x.txt")
