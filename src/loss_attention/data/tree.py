"""Files by name, wherever they lie: in a folder, a zip or a tar, or in several of these.

One name is one file: of a folder's files each is there once, whatever links lead to it.
"""

from __future__ import annotations

import codecs
import os
import posixpath
import stat
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from loss_attention.data.archives import (
    ARCHIVES,
    MOST_DEEP,
    Budget,
    Member,
    is_archive,
    open_archive,
)
from loss_attention.data.decoding import HEAD, is_hidden, is_image, may_be_meant, told_unread
from loss_attention.data.division import SPLITS, split_of
from loss_attention.data.records import Content, Problem, count, few
from loss_attention.errors import InputError, guarded, printable, reason


@dataclass(frozen=True)
class Tree:
    """Files below a root.

    Attributes:
        path: the folder or archive that people named.
        names: the files' paths from the root, sorted, with forward slashes.
        content: from such a path to where the file is.
        links: other paths that lead to one of these files, with its name.
        problems: what is wrong with what is named like an image there.
        notes: what is not among the files and why, a line each.
    """

    path: Path
    names: tuple[str, ...]
    content: Callable[[str], Content]
    links: Mapping[str, str] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()

    def file(self, name: str) -> Path | bytes | Callable[[], bytes]:
        """Return where a file is that is there for certain."""
        content = self.content(name)
        assert content is not None
        assert not isinstance(content, int)
        return content

    def read(self, name: str, most: int | None = None) -> bytes:
        """Return a file's bytes.

        Args:
            name: of the file.
            most: refuse a file of more bytes than this.

        Raises:
            InputError: it cannot be read, or is too large.
        """
        content = self.file(name)
        where = f"{self.path}: {name}"
        with guarded(where):
            size = _size(content)
            if most is not None and size > most:
                raise InputError(f"{where} is of {size:,} bytes, and read up to {most:,} here")
            if isinstance(content, Path):
                return content.read_bytes()
            return content if isinstance(content, bytes) else content()

    def head(self, name: str) -> bytes:
        """Return a file's first bytes, enough to tell what it is; none where it is unreadable."""
        content = self.file(name)
        with suppress(Exception):  # whatever a damaged archive leads its reader into
            if isinstance(content, Path):
                with content.open("rb") as file:
                    return file.read(HEAD)
            if isinstance(content, Member):
                return content.head(HEAD)
            return (content if isinstance(content, bytes) else content())[:HEAD]
        return b""

    def text(self, name: str, most: int | None = None) -> str:
        """Return a file's text: UTF-8, or UTF-16 that says so in its first two bytes.

        Raises:
            InputError: it is neither, cannot be read, or is of more than `most` bytes.
        """
        content = self.read(name, most)
        utf_16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        try:
            return content.decode("utf-16" if utf_16 else "utf-8-sig")
        except UnicodeDecodeError as error:
            raise InputError(f"{self.path}: {name} is not UTF-8 text: {error.reason}") from error

    @cached_property
    def files(self) -> frozenset[str]:
        """The names, to look one up in."""
        return frozenset(self.names)

    def find(self, path: str, folders: Sequence[str] = ("",)) -> str | None:
        r"""Return the file that a path means which stands in an annotation; None: there is none.

        The one way for all annotations: `./a.png`, `b/../a.png`, `b\a.png`, absolute paths inside
        the root, paths that begin with the root's own name, and links are understood; a path that
        leads out of the root means no file.

        Args:
            path: as it is written.
            folders: where it may start from, paths from the root; the first that leads to a file
                is taken.
        """
        for name in self._meant(path, folders):
            if name in self.files:
                return name
            if name in self.links:
                return self.links[name]
            if not name.isascii() and (other := self._composed.get(_compose(name))) is not None:
                return other
        return None

    def find_folder(self, path: str, folders: Sequence[str] = ("",)) -> str | None:
        """Return the folder with files in it that a path means, as `find` does for files.

        The root is an empty text; other folders are without a slash at the end.
        """
        for name in self._meant(path, folders):
            if name == "." or name in self._folders:
                return "" if name == "." else name
        return None

    def images_in(self, folder: str) -> dict[str, str]:
        """Return the images in a folder and the folders in it, by the path that leads to them."""
        start = f"{folder}/" if folder else ""
        found = {name: name for name in self.names if name.startswith(start) and is_image(name)}
        links = {name: kept for name, kept in self.links.items() if name.startswith(start)}
        return found | {name: kept for name, kept in links.items() if is_image(kept)}

    def unread(self, names: Iterable[str] | None = None) -> list[str]:
        """Return a line for each kind of file that may be meant as an image and is not read.

        Args:
            names: of such files; None: all that there are.
        """
        meant = filter(may_be_meant, self.names) if names is None else names
        return told_unread(sorted(meant), self.head)

    def _meant(self, path: str, folders: Sequence[str]) -> Iterator[str]:
        """Yield the paths from the root that a written path may mean."""
        for written in dict.fromkeys((path, path.replace("\\", "/"))):
            inside = self._inside(written)
            if inside is not None:
                yield inside
            elif not written.startswith("/") and written:
                for folder in folders:
                    name = posixpath.normpath(posixpath.join(folder, written))
                    if name.startswith("../"):  # out of the root, and perhaps into it again
                        name = self._inside(posixpath.join(self._roots[0], name)) or ""
                    yield name
        above, _, name = posixpath.normpath(path.replace("\\", "/")).partition("/")
        if above == self.path.name and name:
            yield name

    def _inside(self, path: str) -> str | None:
        """Return an absolute path from the root; None for one that is relative or elsewhere."""
        path = posixpath.normpath(path)
        for root in self._roots:
            if path == root:
                return "."
            if path.startswith(root.rstrip("/") + "/"):
                return path[len(root.rstrip("/")) + 1 :]
        return None

    @cached_property
    def _roots(self) -> tuple[str, ...]:
        """The root's absolute path, as it was named and as it is without links."""
        return self.path.absolute().as_posix(), self.path.resolve().as_posix()

    @cached_property
    def _folders(self) -> frozenset[str]:
        found: set[str] = set()
        for name in (*self.names, *self.links):
            folder = posixpath.dirname(name)
            while folder and folder not in found:
                found.add(folder)
                folder = posixpath.dirname(folder)
        return frozenset(found)

    @cached_property
    def _composed(self) -> Mapping[str, str]:
        """Names with accents, by one of the two ways to write these: systems differ in them."""
        return {_compose(name): name for name in self.names if not name.isascii()}

    def below(self, root: str) -> Tree:
        """Return the files whose path starts with `root`, seen from there."""
        if not root:
            return self
        names = tuple(name[len(root) :] for name in self.names if name.startswith(root))
        links = {
            name[len(root) :]: kept[len(root) :]
            for name, kept in self.links.items()
            if name.startswith(root) and kept.startswith(root)
        }
        content = partial(_content_below, self.content, root)  # which processes can be sent
        return Tree(self.path / root, names, content, links, self.problems, self.notes)

    def unwrapped(self, known_classes: Collection[str] = ()) -> Tree:
        """Return the files as seen from within the folders that all of them lie in.

        An archive most often has one such folder around everything. The folder of a split is none,
        nor is one of a class: of images and nothing else, or named like a class that is known.
        """
        tree = self
        while (folder := tree._one_folder()) is not None:
            inside = tree.below(f"{folder}/")
            if folder in known_classes or all(
                "/" not in name and is_image(name) for name in inside.names
            ):
                break
            tree = inside
        return tree

    def _one_folder(self) -> str | None:
        """Return the folder that all files lie in, if that is not one of a split."""
        files = [name for name in self.names if not name.lower().endswith(ARCHIVES)]
        top = {name.partition("/")[0] for name in files}
        if len(top) != 1 or top & set(files):
            return None
        (folder,) = top
        return None if folder.lower() in SPLITS else folder


def _content_below(content: Callable[[str], Content], root: str, name: str) -> Content:
    return content(root + name)


def _size(content: Path | bytes | Callable[[], bytes]) -> int:
    """Return how many bytes a file has; an archive's member never has more than it declares."""
    if isinstance(content, Path):
        return content.stat().st_size
    if isinstance(content, Member):
        return content.size
    return len(content if isinstance(content, bytes) else content())


def _compose(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def open_tree(path: Path) -> Tree:
    """Return the files of a folder or an archive.

    A folder without images in it but with archives, as data sets are downloaded, is taken for what
    its archives hold together.

    Raises:
        InputError: a folder that cannot be read; an archive that is truncated, too large, holds
            links, or names a file outside itself.
    """
    budget = Budget()
    if path.is_file():
        return _joined(path, {path: open_archive(path, budget)})
    folder = find_files(path)
    archives = [path / name for name in folder.names if "/" not in name and is_archive(Path(name))]
    if not archives or any(map(is_image, folder.names)):
        return folder
    with ThreadPoolExecutor() as pool:  # decompressing leaves Python's lock to the others
        opened = pool.map(lambda archive: open_archive(archive, budget), archives)
        parts = {a: _of_its_split(a, held) for a, held in zip(archives, opened, strict=True)}
    joined = _joined(path, {path: {name: path / name for name in folder.names}, **parts})
    return replace(joined, links=folder.links, problems=folder.problems, notes=folder.notes)


def _of_its_split(archive: Path, files: Mapping[str, Content]) -> Mapping[str, Content]:
    """Put an archive's folders into one of its name where that alone says their split.

    So the same class folders may lie in train.zip and in test.zip.
    """
    name = archive.name.lower().partition(".")[0]
    folders = {part.lower() for file in files for part in file.split("/")[:-1]}
    if name not in SPLITS or folders & set(SPLITS) or not all("/" in file for file in files):
        return files
    return {f"{name}/{file}": content for file, content in files.items()}


def _joined(path: Path, parts: Mapping[Path, Mapping[str, Content]]) -> Tree:
    """Join what several hold; of two files with one name the first is taken, of images neither."""
    files: dict[str, Content] = {}
    home: dict[str, Path] = {}
    for holder, part in parts.items():
        for name, content in part.items():
            if name in files and is_image(name):
                raise InputError(
                    f"{path}: {home[name].name} and {holder.name} both hold {name}; unpack them "
                    "and keep one"
                )
            if name not in files:
                files[name], home[name] = content, holder
    return Tree(path, tuple(sorted(files)), files.__getitem__)


_MOST_VISITS = 8  # of one folder, through links

_ODD = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class _Entry(NamedTuple):
    """A regular file: how it was reached, and which one it is."""

    name: str
    path: str
    is_link: bool
    in_linked: bool  # a link to a folder leads to it
    identity: tuple[int, int]

    def rank(self) -> tuple[bool, bool, str]:
        """Sort the names of one file: the first is the one that it counts under.

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


def find_files(folder: Path) -> Tree:
    """Return the files in a folder and the folders in it, without what is hidden.

    Links are followed, but not to a folder that they lie in. A file that several names lead to
    counts under one of them. Problems are what is named like an image and is not a file, and images
    that two splits share; notes are links that are not followed, and files that count once.

    Raises:
        InputError: a folder that cannot be read, or folders too deep in each other.
    """
    return _Walk(folder).tree()


class _Walk:
    def __init__(self, root: Path) -> None:
        self.root = root
        self._problems: list[Problem] = []
        self._notes: list[str] = []
        self._loops: list[str] = []
        self._again: list[str] = []
        self._visits: dict[tuple[int, int], int] = defaultdict(int)

    def tree(self) -> Tree:
        """Give every image one name, and every file in a linked folder that is there without it."""
        groups: dict[tuple[int, int], list[_Entry]] = defaultdict(list)
        for entry in self.entries():
            groups[entry.identity].append(entry)
        for links, why in (
            (self._loops, "not followed, as what they lead to holds them"),
            (self._again, f"not followed, as over {_MOST_VISITS} links lead to one folder"),
        ):
            if links:
                self._notes.append(f"{count(len(links), 'link')} {why}: {few(links)}")
        names: list[str] = []
        links_to: dict[str, str] = {}
        double: list[tuple[str, str]] = []
        for same in (files for group in groups.values() for files in _same_files(group)):
            kept, *others = sorted(same, key=_Entry.rank)
            names.append(kept.name)
            for other in others:
                if not other.in_linked and not is_image(other.name):
                    names.append(other.name)
                    continue
                links_to[other.name] = kept.name
                splits = _split(kept.name), _split(other.name)
                if is_image(other.name) and all(splits) and splits[0] != splits[1]:
                    what = f"{printable(other.name)} is the same file as {printable(kept.name)}"
                    what += ", by a link: an image belongs to one split"
                    self._problems.append(Problem(other.name, what))
                else:
                    double.append((other.name, kept.name))
        if double:
            link, name = map(printable, min(double))
            self._notes.append(
                f"{count(len(double), 'link')} to files that are here by another name, too, which "
                f"count once ({link} is {name}{', say' if len(double) > 1 else ''})"
            )
        return Tree(
            self.root,
            tuple(sorted(names)),
            self.root.joinpath,
            links_to,
            tuple(self._problems),
            tuple(self._notes),
        )

    def entries(self) -> Iterator[_Entry]:
        """Yield every regular file; note what else there is."""
        folders = [_Folder("", str(self.root), os.path.realpath(self.root), (), 0)]
        while folders:
            folder = folders.pop()
            if folder.depth > MOST_DEEP:
                raise InputError(
                    f"{self.root}: folders are nested more than {MOST_DEEP} deep "
                    f"({folder.name[:60]}...)"
                )
            try:
                device = Path(folder.path).stat().st_dev
                with os.scandir(folder.path) as inside:
                    children = sorted(inside, key=lambda child: child.name)
            except OSError as error:
                raise InputError(
                    f"the folder {folder.path} cannot be read: {reason(error)}"
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
        if any(_lies_in(folder_of_link, real) for folder_of_link in jumps):
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
            self._problems.append(Problem(name, what))
        else:
            self._notes.append(what)

    def _odd(self, name: str, mode: int) -> None:
        if is_image(name):
            kind = _ODD.get(stat.S_IFMT(mode), "no regular file")
            what = f"{printable(name)} cannot be read as an image: it is {kind}"
            self._problems.append(Problem(name, what))


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


def _split(name: str) -> str:
    return split_of(PurePosixPath(name).parent)


def _lies_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


class Listed(NamedTuple):
    """The images of a folder, sorted; `odd` says what is not a file, `unread` what is not read."""

    images: list[Path]
    odd: list[str]
    unread: list[str]


def list_images(folder: Path) -> Listed:
    """Return the images in a folder and the folders in it, and what beside them is not read.

    Raises:
        InputError: a folder that cannot be read.
    """
    tree = find_files(folder)
    return Listed(
        sorted(folder / name for name in tree.names if is_image(name)),
        [problem.what for problem in tree.problems if problem.image not in tree.links],
        tree.unread(),
    )


def given_images(paths: Sequence[Path], out: Path | None = None) -> Listed:
    """Return the image files that paths of files and folders name, each once, in their order.

    Args:
        paths: files, which are taken whatever their names, and folders, whose images are.
        out: a folder whose images are left out, as it is where results go.

    Raises:
        InputError: a path that is not there, or a folder without images.
    """
    sources: dict[Path, Path] = {}
    results = None if out is None else out.resolve()
    odd: list[str] = []
    unread: list[str] = []
    for path in paths:
        if path.is_dir():
            there = list_images(path)
            odd += there.odd
            unread += there.unread
            found = [file for file in there.images if results not in file.resolve().parents]
            if not found:
                raise InputError(_no_images(path, there, results))
        elif path.is_file():
            found = [path]
        elif path.exists():
            raise InputError(f"{printable(str(path))} is neither a file nor a folder")
        else:
            raise InputError(f"there is no file or folder {printable(str(path))}")
        for file in found:
            sources.setdefault(file.resolve(), file)
    return Listed(list(sources.values()), odd, unread)


def _no_images(path: Path, there: Listed, results: Path | None) -> str:
    folder = printable(str(path))
    if there.images and results in (path.resolve(), *path.resolve().parents):
        return f"the images of {folder} are in the `out` folder itself; name another"
    lines = [*there.odd, *there.unread]
    return f"the folder {folder} holds no images" + (f" ({'; '.join(lines)})" if lines else "")
