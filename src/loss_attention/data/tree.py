"""Files by name, wherever they lie: in a folder, a zip or a tar, or in several of these.

One name is one file: links are resolved where the files are listed, see `files.py`.
"""

from __future__ import annotations

import codecs
import posixpath
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

from loss_attention.data.archives import ARCHIVES, Budget, Member, is_archive, open_archive
from loss_attention.data.file_types import HEAD, is_image, may_be_meant, told_unread
from loss_attention.data.files import find_files, head_of
from loss_attention.data.records import Content, Problem
from loss_attention.data.splits import SPLITS
from loss_attention.errors import InputError, guarded, printable


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
        place = f"{printable(str(self.path))}: {printable(name)}"
        with guarded(place):
            size = _size(content)
            if most is not None and size > most:
                raise InputError(f"{place} is of {size:,} bytes, and read up to {most:,} here")
            if isinstance(content, Path):
                return content.read_bytes()
            return content if isinstance(content, bytes) else content()

    def head(self, name: str) -> bytes:
        """Return a file's first bytes, enough to tell what it is; none where it is unreadable."""
        content = self.file(name)
        if isinstance(content, Path):
            return head_of(content)
        with suppress(Exception):  # whatever a damaged archive leads its reader into
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
            raise InputError(
                f"{printable(str(self.path))}: {printable(name)} is no UTF-8 text: {error.reason}"
            ) from error

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
        content = partial(_content_below, self.content, root)
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
    found = find_files(path)
    files = found.files
    problems, notes = tuple(found.problems), tuple(found.notes)
    folder = Tree(path, tuple(sorted(files)), path.joinpath, found.links, problems, notes)
    archives = [file for file in files.values() if file.parent == path and is_archive(file)]
    if not archives or any(map(is_image, files)):
        return folder
    archives.sort()
    with ThreadPoolExecutor() as pool:  # decompressing leaves Python's lock to the others
        opened = pool.map(lambda archive: open_archive(archive, budget), archives)
        parts = {a: _of_its_split(a, held) for a, held in zip(archives, opened, strict=True)}
    joined = _joined(path, {path: dict(files), **parts})
    return replace(joined, links=found.links, problems=problems, notes=notes)


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
    """Join files of several places; of two with one name the first is taken, of images neither."""
    files: dict[str, Content] = {}
    home: dict[str, Path] = {}
    for place, part in parts.items():
        for name, content in part.items():
            if name in files and is_image(name):
                raise InputError(
                    f"{printable(str(path))}: {printable(home[name].name)} and "
                    f"{printable(place.name)} both hold {printable(name)}; unpack them and keep one"
                )
            if name not in files:
                files[name], home[name] = content, place
    return Tree(path, tuple(sorted(files)), files.__getitem__)
