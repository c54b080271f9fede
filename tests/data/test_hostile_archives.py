"""Archives that are not what they say: each is one line, or read as it was meant."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from data.making import png
from data.refusing import load, refusal
from data.test_tree import make_tar, make_zip
from data.test_tree import refusal as unopened

from loss_attention.data import archives
from loss_attention.data.tree import open_tree
from loss_attention.errors import InputError

PETS = {f"{c}/{i}.png": png(10 * ord(c) % 90 + i) for c in "ab" for i in range(3)}


@pytest.mark.parametrize("root", ["", "pets\\", ".\\pets\\"])
def test_a_zip_with_backslashes(tmp_path: Path, root: str) -> None:
    files = {root + name.replace("/", "\\"): content for name, content in PETS.items()}
    path = make_zip(tmp_path / "x.zip", {**files, root + "empty\\": b""})
    plain = load(make_zip(tmp_path / "y.zip", PETS))
    found = load(path)
    assert found.train.names == plain.train.names
    assert found.train.fingerprint() == plain.train.fingerprint()


def test_names_in_zips_that_do_not_say_that_they_are_utf_8(tmp_path: Path) -> None:
    """As macOS writes them; and those of other code pages stay as they are."""
    content = {f"é{c}/{i}.png": png(i) for c in "ab" for i in range(3)}
    path = make_zip(tmp_path / "x.zip", content)
    raw = path.read_bytes()
    for sign, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = raw.find(sign)
        while at >= 0:
            raw = raw[: at + offset] + struct.pack("<H", 0) + raw[at + offset + 2 :]
            at = raw.find(sign, at + 4)
    path.write_bytes(raw)
    assert load(path).train.class_names == ("éa", "éb")


@pytest.mark.parametrize(
    "name",
    ["../x", "a/../../x", "/x", "C:/x", "C:\\x", "c:x", "\\x", "\\\\server\\x", "a\\..\\..\\x"],
)
def test_names_that_lead_out_of_a_zip(tmp_path: Path, name: str) -> None:
    assert "would lie outside of it" in unopened(make_zip(tmp_path / "a.zip", {name: b"x"}))


def test_files_named_twice(tmp_path: Path) -> None:
    with warnings.catch_warnings(), zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        warnings.simplefilter("ignore")
        archive.writestr("a/1.png", png(1))
        archive.writestr("a/1.png", png(2))
    assert "it holds 'a/1.png' twice" in unopened(tmp_path / "a.zip")
    two = make_zip(tmp_path / "b.zip", {"a/1.png": png(1), "a\\1.png": png(2)})
    assert "it holds 'a/1.png' twice" in unopened(two)
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in ("a/1.png", "./a/1.png"):
            member = tarfile.TarInfo(name)
            member.size = 4
            tar.addfile(member, io.BytesIO(b"1234"))
    assert "it holds 'a/1.png' twice" in unopened(tmp_path / "a.tar")


def patched(path: Path, sign: bytes, offset: int, content: bytes) -> Path:
    """Overwrite bytes of the first header of a kind."""
    raw = bytearray(path.read_bytes())
    at = raw.index(sign) + offset
    raw[at : at + len(content)] = content
    path.write_bytes(bytes(raw))
    return path


def test_encryption_and_compression_that_are_not_read(tmp_path: Path) -> None:
    path = patched(make_zip(tmp_path / "a.zip", PETS), b"PK\x01\x02", 8, struct.pack("<H", 1))
    assert "is encrypted; unpack it and give the folder" in unopened(path)
    for method, what in ((9, "deflate64"), (93, ""), (98, ""), (4000, "")):
        path = make_zip(tmp_path / f"{method}.zip", PETS)
        said = unopened(patched(path, b"PK\x01\x02", 10, struct.pack("<H", method)))
        assert "'a/0.png' is compressed by a method that is not read" in said
        assert what in said
        assert f", {method})" in said


def test_a_zero_in_a_name(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {"a/1Z.png": png()})
    path.write_bytes(path.read_bytes().replace(b"1Z.png", b"1\0.png"))
    assert "is cut by a zero" in unopened(path)


@pytest.mark.parametrize("kind", [0o010000, 0o020000, 0o060000, 0o140000, 0o120000])
def test_zip_members_that_are_no_files(tmp_path: Path, kind: int) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        info = zipfile.ZipInfo("odd.png")
        info.external_attr = (kind | 0o644) << 16
        archive.writestr(info, b"x")
    assert "'odd.png' in it is a link or a device" in unopened(tmp_path / "a.zip")


METHODS = [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]


@pytest.mark.parametrize("method", METHODS)
def test_a_member_that_is_larger_than_it_declares(tmp_path: Path, method: int) -> None:
    """32 MiB of zeros that are said to be 40 bytes: no more than a piece comes out."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("a.txt", bytes(2**25))
    size = struct.pack("<I", 40)
    patched(patched(path, b"PK\x01\x02", 24, size), b"PK\x03\x04", 22, size)
    tree = open_tree(path)
    tracemalloc.start()
    with pytest.raises(InputError, match=r"a\.txt cannot be read: Bad CRC-32"):
        tree.read("a.txt")
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < (3 if method == zipfile.ZIP_DEFLATED else 80) * 2**20


def test_a_member_that_is_smaller_than_it_declares(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {"a.txt": b"short"})
    patched(path, b"PK\x01\x02", 24, struct.pack("<I", 4000))
    with pytest.raises(InputError, match=r"a\.txt cannot be read"):
        open_tree(path).read("a.txt")


@pytest.mark.parametrize("form", ["zip", "gz", "xz", "bz2"])
def test_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    """Each file is within its limit, and all together are what no set of images packs into."""
    monkeypatch.setattr(archives, "RATIO_FREE", 2**16)
    files = {f"{i}.txt": bytes(2**20) for i in range(8)}
    path = tmp_path / (f"a.tar.{form}" if form != "zip" else "a.zip")
    if form == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    else:
        make_tar(path, files, form)
    assert "unpacks to over 200 times its size" in unopened(path)


def test_the_limits_hold_for_several_archives_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "MOST_BYTES", 5000)
    for name in "abc":
        make_tar(tmp_path / f"{name}.tar", {f"{name}.txt": bytes(2000)})
    with pytest.raises(InputError, match="which would be held in memory"):
        open_tree(tmp_path)


def test_a_tar_of_more_than_the_free_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "free_memory", lambda: 4000)
    path = make_tar(tmp_path / "a.tar", {"a.txt": bytes(3000)})
    assert "which would be held in memory" in unopened(path)


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_a_name_of_gigabytes_is_not_read(tmp_path: Path, kind: bytes) -> None:
    member = tarfile.TarInfo("x")
    member.type, member.size = kind, 6 * 2**30
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(member.tobuf(tarfile.GNU_FORMAT) + bytes(2**23), 1))
    tracemalloc.start()
    said = unopened(path)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "what it says of one file takes more than 1 MiB" in said
    assert most < 8 * 2**20


def sparse() -> tarfile.TarInfo:
    member = tarfile.TarInfo("a.png")
    member.pax_headers = {
        "GNU.sparse.major": "0",
        "GNU.sparse.minor": "1",
        "GNU.sparse.name": "a.png",
        "GNU.sparse.size": str(2**29),
        "GNU.sparse.map": "0,0",
    }
    return member


def test_sparse_members(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(sparse().tobuf(tarfile.PAX_FORMAT) + bytes(1024))
    assert "'a.png' is stored as a sparse file" in unopened(path)


@pytest.mark.parametrize("kind", [b"1", b"2", b"3", b"4", b"6"])
def test_tar_members_that_are_no_files(tmp_path: Path, kind: bytes) -> None:
    path = tmp_path / "a.tar"
    member = tarfile.TarInfo("odd.png")
    member.type, member.linkname = kind, "a"
    path.write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    assert "'odd.png' in it is a link or a device" in unopened(path)


def test_tars_one_after_the_other(tmp_path: Path) -> None:
    one = make_tar(tmp_path / "a.tar", {"a/1.txt": b"1"}).read_bytes()
    two = make_tar(tmp_path / "b.tar", {"a/2.txt": b"2"}).read_bytes()
    (tmp_path / "c.tar").write_bytes(one + two)
    assert "it goes on after its end (is it several in one?)" in unopened(tmp_path / "c.tar")
    (tmp_path / "c.tar").write_bytes(one + bytes(2**16))
    assert open_tree(tmp_path / "c.tar").names == ("a/1.txt",)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_what_is_packed_twice(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    inner = make_tar(tmp_path / "a.tar.gz", PETS, "gz").read_bytes()
    path = tmp_path / "b.tar.gz"
    path.write_bytes(pack(inner))
    assert "is truncated or damaged: " in unopened(path)


def test_an_archive_in_an_archive_is_said(tmp_path: Path) -> None:
    inner = make_zip(tmp_path / "in.zip", PETS).read_bytes()
    path = make_zip(tmp_path / "x.zip", {"in.zip": inner})
    assert refusal(path) == f"data folder {path} holds no images to train on"


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_folders_too_deep_in_an_archive(tmp_path: Path, make) -> None:
    form = "zip" if make is make_zip else "tar"
    path = make(tmp_path / f"a.{form}", {"d/" * 5000 + "a.png": png()})
    assert "folders in it are nested more than 200 deep" in unopened(path)
    deep = {"d/" * 150 + name: content for name, content in PETS.items()}
    assert load(make(tmp_path / f"b.{form}", deep)).train.class_names == ("a", "b")


def test_names_that_are_no_utf_8_survive_in_a_tar(tmp_path: Path) -> None:
    files = {f"{c}/\udcff{i}.png": png(i) for c in "ab" for i in range(3)}
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    assert set(open_tree(path).names) == set(files)
    assert load(path).train.class_names == ("a", "b")


def test_a_damaged_text_in_a_zip_is_named(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "x.zip", {**PETS, "labels.csv": b"image,label\na/0.png,x\n"})
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b"image,label", b"image,lapel", 1))
    said = refusal(path)
    assert "labels.csv cannot be read: Bad CRC-32 for file 'labels.csv'" in said


@pytest.mark.parametrize("form", ["zip", "tar", "tgz"])
def test_flipped_bytes(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"a.{form}"
    if form == "zip":
        make_zip(path, PETS)
    else:
        make_tar(path, PETS, "gz" if form == "tgz" else "")
    raw = path.read_bytes()
    for at in range(0, min(len(raw), 3000), 37):
        for flip in (1, 128, 255):
            changed = bytearray(raw)
            changed[at] ^= flip
            path.write_bytes(bytes(changed))
            with suppress(InputError):
                tree = open_tree(path)
                for name in tree.names:
                    tree.read(name)


def test_a_gzip_whose_sum_is_wrong(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "a.tgz", PETS, "gz")
    raw = bytearray(path.read_bytes())
    raw[-5] ^= 1
    path.write_bytes(bytes(raw))
    assert "is truncated or damaged" in unopened(path)
