"""Folders, zips and tars as one: what is read, and which archives are refused."""

from __future__ import annotations

import io
import os
import random
import tarfile
import zipfile
from pathlib import Path

import pytest
from data.making import png, write

from loss_attention.data import archives
from loss_attention.data.tree import open_tree
from loss_attention.errors import InputError

FILES = {"a/1.txt": b"one", "a/b/2.txt": os.urandom(5000), "3.txt": b""}


def make_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def make_tar(path: Path, files: dict[str, bytes], kind: str = "") -> Path:
    with tarfile.open(path, f"w:{kind}") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        open_tree(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("form", ["folder", "a.zip", "a.tar", "a.tar.xz", "a.tgz", "a.tar.bz2"])
def test_the_same_files_wherever_they_lie(tmp_path: Path, form: str) -> None:
    path = tmp_path / form
    hidden = {".DS_Store": b"x", "a/._1.txt": b"x"}
    if form == "folder":
        for name, content in {**FILES, **hidden}.items():
            write(path / name, content)
    elif form == "a.zip":
        make_zip(path, {**FILES, **hidden, "__MACOSX/a/1.txt": b"x"})
    else:
        kind = {"tar": "", "xz": "xz", "tgz": "gz", "bz2": "bz2"}[path.name.split(".")[-1]]
        make_tar(path, {**FILES, **hidden}, kind)
    found = open_tree(path)
    assert found.names == tuple(sorted(FILES))
    assert {name: found.read(name) for name in found.names} == FILES
    assert found.below("a/").names == ("1.txt", "b/2.txt")
    assert found.below("a/").read("1.txt") == b"one"


def test_a_folder_of_archives_is_what_they_hold_together(tmp_path: Path) -> None:
    make_zip(tmp_path / "x.zip", {"a/1.txt": b"zipped", "b.txt": b"b"})
    make_tar(tmp_path / "y.tar.xz", {"c/d.txt": b"d"}, "xz")
    write(tmp_path / "a" / "1.txt", b"unpacked")
    found = open_tree(tmp_path)
    assert found.names == ("a/1.txt", "b.txt", "c/d.txt", "x.zip", "y.tar.xz")
    assert [found.read(name) for name in found.names[:3]] == [b"unpacked", b"b", b"d"]
    write(tmp_path / "a" / "1.png", png())  # unpacked already: the archives are of no interest
    assert open_tree(tmp_path).names == ("a/1.png", "a/1.txt", "x.zip", "y.tar.xz")


@pytest.mark.parametrize("name", ["../out.txt", "a/../../out.txt", "/etc/out.txt", "C:/out.txt"])
@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_files_outside_the_archive(tmp_path: Path, name: str, make) -> None:
    path = make(tmp_path / ("a.zip" if make is make_zip else "a.tar"), {"ok.txt": b"", name: b"x"})
    before = sorted(tmp_path.rglob("*"))
    assert f"its file {name!r} would lie outside of it" in refusal(path)
    assert sorted(tmp_path.rglob("*")) == before


def test_links(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        member = tarfile.TarInfo("link")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(member)
    assert "'link' in it is a link or a device" in refusal(tmp_path / "a.tar")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        info = zipfile.ZipInfo("link")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    assert "'link' in it is a link or a device" in refusal(tmp_path / "a.zip")


@pytest.mark.parametrize("form", ["a.zip", "a.tar", "a.tar.xz", "a.tgz"])
def test_truncated(tmp_path: Path, form: str) -> None:
    chance = random.Random(0)
    files = {f"{i}.bin": chance.randbytes(chance.choice([512, 700, 3000])) for i in range(12)}
    path = tmp_path / form
    if form == "a.zip":
        make_zip(path, files)
    else:
        make_tar(path, files, {"tar": "", "xz": "xz", "tgz": "gz"}[form.split(".")[-1]])
    content = path.read_bytes()
    # Up to the last file's own bytes: of a tar, only zeros come after them.
    for kept in range(400, min(len(content), 12 * 700), 211):
        path.write_bytes(content[:kept])
        assert "is truncated or damaged: " in refusal(path)


def test_a_tar_cut_between_two_files(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "a.tar", {"1": b"x" * 512, "2": b"y" * 512})
    path.write_bytes(path.read_bytes()[:1024])  # exactly the header and content of the first
    assert "is truncated or damaged: its end is missing" in refusal(path)


def test_no_archive_at_all(tmp_path: Path) -> None:
    for name in ("a.zip", "a.tar.xz"):
        assert "is truncated or damaged: " in refusal(write(tmp_path / name, b"not one"))


def test_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MOST_MEMBER_BYTES", 4000)
    for path in (make_zip(tmp_path / "a.zip", FILES), make_tar(tmp_path / "a.tar", FILES)):
        assert "'a/b/2.txt' unpacks to " in refusal(path)
    monkeypatch.setattr(archives, "MOST_MEMBER_BYTES", 6000)
    monkeypatch.setattr(archives, "MOST_BYTES", 5001)
    assert "which would be held in memory; unpack it" in refusal(tmp_path / "a.tar")
    assert len(open_tree(tmp_path / "a.zip").names) == 3  # zips are read where they are


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("a.png", "a.png"),
        ("./a.png", "a.png"),
        ("./sub/./b.png", "sub/b.png"),
        (r"sub\b.png", "sub/b.png"),
        (r".\sub\b.png", "sub/b.png"),
        ("sub//b.png", "sub/b.png"),
        ("sub/../a.png", "a.png"),
        ("../a.png", None),
        ("c.png", None),
        ("", None),
        (".", None),
        ("/a.png", None),
        ("/etc/passwd", None),
        ("\0", None),
    ],
)
def test_a_path_in_an_annotation_means_a_file(
    tmp_path: Path, written: str, meant: str | None
) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("a.png", "sub/b.png"):
        (tmp_path / name).write_bytes(b"x")
    tree = open_tree(tmp_path)
    assert tree.find(written) == meant
    assert tree.find(f"{tmp_path}/{written.lstrip('/')}") == (
        None if written == "../a.png" else tree.find(written.lstrip("/"))
    )


def test_a_path_starts_from_the_first_folder_that_leads_to_a_file(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"x")
    (tmp_path / r"odd\name.png").write_bytes(b"x")
    tree = open_tree(tmp_path)
    assert tree.find("a.png") is None
    assert tree.find("a.png", ["labels/", "images/"]) == "images/a.png"
    assert tree.find("../images/a.png", ["labels/"]) == "images/a.png"
    assert tree.find(r"odd\name.png") == r"odd\name.png"
