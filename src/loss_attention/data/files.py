"""The files of a folder: regular ones, each once, whatever links lead to it."""

from __future__ import annotations

import os
import posixpath
import stat
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from loss_attention.data.file_types import HEAD, is_hidden, is_image, may_be_meant, told_unread
from loss_attention.data.records import MOST_NAMED, Problem, count
from loss_attention.data.splits import split_of
from loss_attention.errors import InputError, printable, reason

MOST_DEEP = 200
"""Folders within folders beyond this are refused."""
_MOST_VISITS = 8  # of one folder, through links

_ODD = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@dataclass
class Found:
    """What is in a folder and the folders in it, without what is hidden.

    Attributes:
        files: where each file is, by its path from the folder with forward slashes.
        links: paths that lead to one of these files as well, with that one's name.
        problems: what is named like an image and is no file, and images that two splits share.
        notes: links that are not followed, files that count once, a line each.
    """

    files: dict[str, Path] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class _Entry(NamedTuple):
    """A regular file: how it was reached, and which one it is."""

    name: str
    path: str
    is_link: bool
    in_linked: bool  # a link to a folder leads to it
    identity: tuple[int, int]

    @property
    def place(self) -> tuple[bool, bool, str]:
        """Sorts the names of one file: the first is the one that it counts under.

        A split's folder goes before one that is none, and the file before links to it.
        """
        return not _split(self.name), self.is_link or self.in_linked, self.name


class _Folder(NamedTuple):
    """A folder to look into: its path from the root, where it is, and by which way."""

    name: str
    path: str
    real: str
    jumps: tuple[str, ...]  # the folders that hold the links on the way
    depth: int


def find_files(folder: Path) -> Found:
    """Return the files in a folder and the folders in it.

    Links are followed, but not to a folder that they lie in. A file that several names lead to
    counts under one of them.

    Raises:
        InputError: a folder that cannot be read, or folders too deep in each other.
    """
    walk = _Walk(folder)
    entries = list(walk.entries())
    return _each_once(entries, walk.finished())


class _Walk:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.found = Found()
        self._loops: list[str] = []
        self._again: list[str] = []
        self._visits: dict[tuple[int, int], int] = defaultdict(int)

    def entries(self) -> Iterator[_Entry]:
        """Yield every regular file; what else there is goes into `found`."""
        folders = [_Folder("", str(self.root), os.path.realpath(self.root), (), 0)]
        while folders:
            folder = folders.pop()
            if folder.depth > MOST_DEEP:
                raise InputError(
                    f"{printable(str(self.root))}: folders are nested more than {MOST_DEEP} deep "
                    f"({printable(folder.name[:60])}...)"
                )
            try:
                device = Path(folder.path).stat().st_dev
                with os.scandir(folder.path) as inside:
                    children = sorted(inside, key=lambda child: child.name)
            except OSError as error:
                raise InputError(
                    f"the folder {printable(folder.path)} cannot be read: {reason(error)}"
                ) from error
            for child in children:
                if is_hidden(child.name):
                    continue
                name = posixpath.join(folder.name, child.name)
                if child.is_symlink():
                    entry = self._linked(folder, child, name)
                elif child.is_dir(follow_symlinks=False):
                    real = posixpath.join(folder.real, child.name)
                    entry = _Folder(name, child.path, real, folder.jumps, folder.depth + 1)
                elif child.is_file(follow_symlinks=False):
                    identity = device, child.inode()
                    entry = _Entry(name, child.path, False, bool(folder.jumps), identity)
                else:
                    self._odd(name, child.stat(follow_symlinks=False).st_mode)
                    continue
                if isinstance(entry, _Folder):
                    folders.append(entry)
                elif entry is not None:
                    yield entry

    def _linked(
        self, folder: _Folder, link: os.DirEntry[str], name: str
    ) -> _Entry | _Folder | None:
        """Return what a link leads to; None where it is not followed."""
        try:
            target = link.stat()
        except OSError as error:
            self._broken(name, reason(error))
            return None
        identity = target.st_dev, target.st_ino
        if stat.S_ISREG(target.st_mode):
            return _Entry(name, link.path, True, bool(folder.jumps), identity)
        if not stat.S_ISDIR(target.st_mode):
            self._odd(name, target.st_mode)
            return None
        real = os.path.realpath(link.path)
        jumps = (*folder.jumps, folder.real)
        if any(_lies_in(place, real) for place in jumps):
            self._loops.append(name)
            return None
        self._visits[identity] += 1
        if self._visits[identity] > _MOST_VISITS:
            self._again.append(name)
            return None
        return _Folder(name, link.path, real, jumps, folder.depth + 1)

    def _broken(self, name: str, why: str) -> None:
        what = f"{printable(name)} is a link that leads to no file ({why})"
        # Without a suffix it may have been a whole folder of images.
        if is_image(name) or "." not in posixpath.basename(name):
            self.found.problems.append(Problem(name, what))
        else:
            self.found.notes.append(what)

    def _odd(self, name: str, mode: int) -> None:
        if is_image(name):
            kind = _ODD.get(stat.S_IFMT(mode), "no regular file")
            what = f"{printable(name)} cannot be read as an image: it is {kind}"
            self.found.problems.append(Problem(name, what))

    def finished(self) -> Found:
        """Return what was found beside the files."""
        for links, why in (
            (self._loops, "not followed, as what they lead to holds them"),
            (self._again, f"not followed, as over {_MOST_VISITS} links lead to one folder"),
        ):
            if links:
                self.found.notes.append(f"{count(len(links), 'link')} {why}: {_few(links)}")
        return self.found


def _each_once(entries: Iterable[_Entry], found: Found) -> Found:
    """Give every image one name, and every file in a linked folder that is there without it."""
    groups: dict[tuple[int, int], list[_Entry]] = defaultdict(list)
    for entry in entries:
        groups[entry.identity].append(entry)
    double: list[tuple[str, str]] = []
    for entries_of_one in groups.values():
        for same in _same_files(entries_of_one):
            kept, *others = sorted(same, key=lambda entry: entry.place)
            found.files[kept.name] = Path(kept.path)
            for other in others:
                if not other.in_linked and not is_image(other.name):
                    found.files[other.name] = Path(other.path)
                    continue
                found.links[other.name] = kept.name
                splits = _split(kept.name), _split(other.name)
                if is_image(other.name) and all(splits) and splits[0] != splits[1]:
                    found.problems.append(_shared(kept.name, other.name))
                else:
                    double.append((other.name, kept.name))
    if double:
        link, name = map(printable, min(double))
        found.notes.append(
            f"{count(len(double), 'link')} to files that are here by another name, too, which "
            f"count once ({link} is {name}{', say' if len(double) > 1 else ''})"
        )
    return found


def _same_files(entries: list[_Entry]) -> Iterable[list[_Entry]]:
    """Divide entries of one number by the file that they are.

    Some file systems give several files one number: those are told by their paths.
    """
    if len(entries) == 1:
        return [entries]
    by_path: dict[str, list[_Entry]] = defaultdict(list)
    for entry in entries:
        by_path[os.path.realpath(entry.path)].append(entry)
    if len(by_path) == 1 or Path(entries[0].path).stat().st_nlink > 1:
        return [entries]
    return by_path.values()


def _shared(kept: str, other: str) -> Problem:
    return Problem(
        other,
        f"{printable(other)} is the same file as {printable(kept)}, by a link: an image belongs to "
        "one split",
    )


def _split(name: str) -> str:
    return split_of(PurePosixPath(name).parent)


def _lies_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def _few(names: list[str]) -> str:
    shown = ", ".join(map(printable, names[:MOST_NAMED]))
    rest = len(names) - MOST_NAMED
    return shown + (f" and {rest:,} more" if rest > 0 else "")


class Listed(NamedTuple):
    """The images of a folder, sorted; `odd` says what is no file, `unread` what is not read."""

    images: list[Path]
    odd: list[str]
    unread: list[str]


def list_images(folder: Path) -> Listed:
    """Return the images in a folder and the folders in it, and what beside them is not read.

    Raises:
        InputError: a folder that cannot be read.
    """
    found = find_files(folder)
    return Listed(
        sorted(path for name, path in found.files.items() if is_image(name)),
        [problem.what for problem in found.problems if problem.image not in found.links],
        _unread(found.files),
    )


def _unread(files: Mapping[str, Path]) -> list[str]:
    return told_unread(sorted(filter(may_be_meant, files)), lambda name: head_of(files[name]))


def head_of(path: Path) -> bytes:
    """Return the first bytes of a file; none where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(HEAD)
    except OSError:
        return b""
