"""Files of a folder: regular ones, each once, whatever links lead to it."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from data.making import image_folder, png, text, write
from data.refusing import load, refusal

from loss_attention.data import tree as listing
from loss_attention.data.sample import Storage
from loss_attention.data.tree import find_files, list_images, open_tree
from loss_attention.errors import InputError

PETS = {f"{c}/{i}.png": 10 * ord(c) % 90 + i for c in "ab" for i in (1, 2)}
REAL = tuple(sorted(PETS))


def names(root: Path) -> tuple[str, ...]:
    return tuple(sorted(find_files(root).files))


def realpaths(root: Path) -> list[str]:
    return [os.path.realpath(root / name) for name in find_files(root).names]


@pytest.mark.parametrize(
    "links",
    [
        {"a/self": "."},
        {"a/self": "../a"},
        {"loop": "."},
        {"a/up": ".."},
        {"a/up": "../.."},  # beyond the root
        {"a/up": "/"},
        {"a/x": "../b", "b/y": "../a"},  # a cycle of two
        {"a/l": "../b", "a/m": "../b", "b/l": "../a", "b/m": "../a"},
        {"c": "a"},  # two names of one folder
        {"c": "a", "d": "a"},
        {"c": "d", "d": "a"},  # a chain of links
        {"a/3.png": "1.png"},  # two names of one file
        {"a/3.png": "../b/1.png"},
    ],
)
def test_links_within_a_folder_lead_to_no_file_again(tmp_path: Path, links: dict[str, str]) -> None:
    root = image_folder(tmp_path / "pets", PETS)
    for link, target in links.items():
        (root / link).symlink_to(target)
    found = find_files(root)
    assert tuple(sorted(found.files)) == REAL
    assert found.notes, "what is not followed is said"
    splits = load(root)
    assert sorted(splits.train.names + splits.test.names) == list(REAL)
    assert "link" in splits.source


def test_many_links_to_each_other_end_soon(tmp_path: Path) -> None:
    """Twenty folders, each with two links to the next: a million ways to the last."""
    for i in range(20):
        (tmp_path / str(i)).mkdir()
        for which in "xy":
            (tmp_path / str(i) / which).symlink_to(f"../{i + 1}")
    write(tmp_path / "20" / "a.png", png())
    assert names(tmp_path) == ("20/a.png",)


def test_links_to_what_lies_elsewhere_are_followed(tmp_path: Path) -> None:
    image_folder(tmp_path / "store", PETS)
    root = tmp_path / "pets"
    (root / "train").mkdir(parents=True)
    for name in "ab":
        (root / "train" / name).symlink_to(tmp_path / "store" / name)
    assert names(root) == tuple(f"train/{name}" for name in REAL)
    assert not find_files(root).notes


def test_a_split_made_of_links_goes_before_the_folder_that_it_was_taken_from(
    tmp_path: Path,
) -> None:
    image_folder(tmp_path / "all", {f"{i}.png": i for i in range(8)})
    for i in range(8):
        link = tmp_path / ("train" if i < 4 else "test") / "ab"[i % 2] / f"{i}.png"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(f"../../all/{i}.png")
    splits = load(tmp_path)
    assert (len(splits.train), len(splits.test)) == (4, 4)
    assert not set(realpaths(tmp_path)) - {str(tmp_path / "all" / f"{i}.png") for i in range(8)}


@pytest.mark.parametrize("kind", ["folder", "file", "hard", "both to elsewhere"])
def test_no_image_is_in_two_splits_by_a_link(tmp_path: Path, kind: str) -> None:
    root = tmp_path / "pets"
    image_folder(root, {f"train/{name}": level for name, level in PETS.items()})
    image_folder(root, {f"test/{c}/9.png": 9 for c in "ab"})
    if kind == "folder":
        (root / "test" / "b" / "more").symlink_to("../../train/a")
    elif kind == "file":
        (root / "test" / "a" / "x.png").symlink_to("../../train/a/1.png")
    elif kind == "hard":
        (root / "test" / "a" / "x.png").hardlink_to(root / "train" / "a" / "1.png")
    else:
        write(tmp_path / "elsewhere" / "1.png", png(5))
        for split in ("train", "test"):
            (root / split / "a" / "e").symlink_to(tmp_path / "elsewhere")
    said = refusal(root)
    assert "is the same file as " in said
    assert "by a link: an image belongs to one split" in said
    splits = load(root, skip_broken=True)
    taken = [os.path.realpath(root / name) for name in splits.train.names + splits.test.names]
    assert len(taken) == len(set(taken)) == 6 + (kind == "both to elsewhere")
    inodes = [(root / name).stat().st_ino for name in splits.train.names + splits.test.names]
    assert len(inodes) == len(set(inodes))


def test_files_of_one_number_are_told_by_their_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some file systems number all files alike."""
    image_folder(tmp_path, PETS)
    monkeypatch.setattr(listing._Entry, "identity", property(lambda self: (1, 1)), raising=True)
    assert names(tmp_path) == REAL


@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "broken", "loop"])
def test_what_is_no_file_is_named_and_not_opened(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    image_folder(tmp_path, PETS)
    odd = tmp_path / "a" / "odd.png"
    said = "a/odd.png is a link that leads to no file ("
    if kind == "pipe":
        os.mkfifo(odd)
        said = "a/odd.png cannot be read as an image: it is a named pipe"
    elif kind == "socket":
        monkeypatch.chdir(odd.parent)  # names of sockets are short
        with socket.socket(socket.AF_UNIX) as end:
            end.bind("odd.png")
        said = "a/odd.png cannot be read as an image: it is a socket"
    elif kind == "device":
        odd.symlink_to("/dev/zero")
        said = "a/odd.png cannot be read as an image: it is a device"
    else:
        odd.symlink_to("nowhere" if kind == "broken" else "odd.png")
    assert said in refusal(tmp_path)
    splits = load(tmp_path, skip_broken=True)
    assert sorted(splits.train.names + splits.test.names) == list(REAL)
    assert "1 image left out, as asked" in splits.source
    listed = list_images(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in listed.images] == list(REAL)
    assert said in listed.odd[0]


def test_other_files_that_are_none_are_passed_over(tmp_path: Path) -> None:
    image_folder(tmp_path, PETS)
    os.mkfifo(tmp_path / "a" / "control")
    (tmp_path / "a" / "notes.txt").symlink_to("gone")
    found = find_files(tmp_path)
    assert tuple(sorted(found.files)) == REAL
    assert not found.problems
    assert "a/notes.txt is a link that leads to no file" in found.notes[0]
    (tmp_path / "c").symlink_to("unmounted")  # a class, perhaps
    assert "c is a link that leads to no file" in refusal(tmp_path)


def test_names_that_are_no_utf_8_survive(tmp_path: Path) -> None:
    folders = [os.fsdecode(name) for name in (b"caf\xe9", b"th\xe9")]
    files = {f"{folder}/\udcff{i}.png": i for folder in folders for i in range(3)}
    image_folder(tmp_path, files)
    for stream in ("no", "yes"):
        splits = load(tmp_path, storage=Storage(stream=stream, workers=0))
        assert splits.train.class_names == tuple(folders)
        assert set(splits.train.names + splits.test.names) == set(files)
        assert splits.train.fingerprint()
    write(tmp_path / folders[1] / "\udcff9.png", b"junk")
    said = refusal(tmp_path)
    assert "th\\xe9/\\xff9.png" in said or os.fsdecode(b"th\xe9/\xff9.png") in said


def test_a_folder_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image_folder(tmp_path, PETS)
    plain = os.scandir

    def guarded(path: str) -> object:
        if path.endswith("/b"):
            raise PermissionError(13, "Permission denied")
        return plain(path)

    monkeypatch.setattr(os, "scandir", guarded)
    assert refusal(tmp_path) == f"the folder {tmp_path / 'b'} cannot be read: Permission denied"


def test_folders_too_deep_in_each_other(tmp_path: Path) -> None:
    image_folder(tmp_path, PETS)
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(listing.MOST_DEEP + 2):
        os.mkdir("d", dir_fd=here)
        inner = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)
    assert "folders are nested more than 200 deep" in refusal(tmp_path)


def test_list_images(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpeg", "sub/c.webp", "notes.txt", ".hidden.png", ".h/d.png"):
        write(tmp_path / name, b"x")
    for folder in ("@eaDir/a.jpeg", "__MACOSX", "$RECYCLE.BIN"):
        write(tmp_path / folder / "thumb.jpg", b"x")
    found = list_images(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in found.images] == [
        "a.jpeg",
        "b.PNG",
        "sub/c.webp",
    ]
    assert (found.odd, found.unread) == ([], [])


def test_annotations_find_an_image_by_a_link(tmp_path: Path) -> None:
    image_folder(tmp_path / "pics", {f"{i}.png": i for i in range(4)})
    (tmp_path / "links").symlink_to("pics")
    tree = open_tree(tmp_path)
    assert tree.find("links/1.png") == tree.find("./links/../links/1.png") == "pics/1.png"
    assert tree.find_folder("links") == "links"
    assert sorted(set(tree.images_in("links").values())) == [f"pics/{i}.png" for i in range(4)]


def test_tables_are_not_refused_for_what_they_do_not_list(tmp_path: Path) -> None:
    image_folder(tmp_path, {f"{i}.png": i for i in range(4)})
    os.mkfifo(tmp_path / "odd.png")
    text(tmp_path / "labels.csv", "image,label", *(f"{i}.png,{'ab'[i % 2]}" for i in range(4)))
    assert len(load(tmp_path).train) == 2


def test_an_error_of_the_system_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: No such file or directory"):
        find_files(tmp_path / "gone")
