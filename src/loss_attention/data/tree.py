"""Files by name, wherever they lie: in a folder, a zip or a tar, or in several of these.

Nothing is unpacked to disk. Zips are read where they are, member by member; tars, which can only
be read from front to back, are read into memory.
"""

from __future__ import annotations

import lzma
import os
import posixpath
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path, PurePosixPath

from loss_attention.data.decoding import IMAGE_SUFFIXES, visible_files
from loss_attention.data.records import Content
from loss_attention.data.splits import SPLITS
from loss_attention.errors import InputError

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2")
MOST_BYTES = 8 * 2**30
"""A tar of more than this, unpacked, is refused: it would have to be held in memory."""
MOST_MEMBER_BYTES = 2**30
"""A file in an archive that unpacks to more than this is refused."""

_DAMAGE = (zipfile.BadZipFile, tarfile.TarError, lzma.LZMAError, zlib.error, EOFError)


@dataclass(frozen=True)
class Tree:
    """Files below a root.

    Attributes:
        path: the folder or archive that people named.
        names: the files' paths from the root, sorted, with forward slashes.
        content: from such a path to where the file is.
    """

    path: Path
    names: tuple[str, ...]
    content: Callable[[str], Content]

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
            most: so many bytes at most; None: any number, in archives `MOST_MEMBER_BYTES`.

        Raises:
            InputError: it has more.
        """
        content = self.file(name)
        if not isinstance(content, Path):
            content = content if isinstance(content, bytes) else content()
        size = content.stat().st_size if isinstance(content, Path) else len(content)
        if most is not None and size > most:
            raise InputError(
                f"{self.path}: {name} is of {size:,} bytes, and read up to {most:,} here"
            )
        return content.read_bytes() if isinstance(content, Path) else content

    def text(self, name: str) -> str:
        """Return a file's text.

        Raises:
            InputError: it is not UTF-8.
        """
        try:
            return self.read(name).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise InputError(f"{self.path}: {name} is no UTF-8 text: {error.reason}") from error

    @cached_property
    def files(self) -> frozenset[str]:
        """The names, to look one up in."""
        return frozenset(self.names)

    def find(self, path: str, folders: Sequence[str] = ("",)) -> str | None:
        r"""Return the file that a path means which stands in an annotation; None: there is none.

        The one way for all annotations: `./a.png`, `b/../a.png`, `b\a.png` and absolute paths
        inside the root are understood, and so are paths that begin with the root's own name; a path
        that leads out of the root means no file.

        Args:
            path: as it is written.
            folders: where it may start from, paths from the root; the first that leads to a file
                is taken.
        """
        for written in dict.fromkeys((path, path.replace("\\", "/"))):
            inside = self._inside(written)
            for folder in ("",) if inside is not None else folders:
                name = posixpath.normpath(posixpath.join(folder, inside or written))
                if name in self.files:
                    return name
        above, _, name = posixpath.normpath(path.replace("\\", "/")).partition("/")
        return name if above == self.path.name and name in self.files else None

    def _inside(self, path: str) -> str | None:
        """Return an absolute path from the root; None for one that is relative or elsewhere."""
        if not path.startswith("/") and ":" not in path[:2]:
            return None
        roots = (root for root in self._roots if path.startswith(root))
        return next((path[len(root) :] for root in roots), None)

    @cached_property
    def _roots(self) -> tuple[str, ...]:
        """The ways to write the root."""
        both = (self.path.absolute(), self.path.resolve())
        return tuple(f"{root.as_posix()}/" for root in both)

    def below(self, root: str) -> Tree:
        """Return the files whose path starts with `root`, seen from there."""
        if not root:
            return self
        names = tuple(name[len(root) :] for name in self.names if name.startswith(root))
        return Tree(self.path / root, names, partial(_content_below, self.content, root))

    def unwrapped(self, known_classes: Collection[str] = ()) -> Tree:
        """Return the files as seen from within the folders that all of them lie in.

        An archive most often has one such folder around everything. The folder of a split is none,
        nor is one of a class: of images and nothing else, or named like a class that is known.
        """
        files = {name for name in self.names if not name.lower().endswith(ARCHIVES)}
        top = {name.partition("/")[0] for name in files}
        if len(top) != 1 or top & files or {name.lower() for name in top} & set(SPLITS):
            return self
        (folder,) = top
        inside = self.below(f"{folder}/")
        more = any("/" in name or not is_image(name) for name in inside.names)
        return inside.unwrapped(known_classes) if more and folder not in known_classes else self


def _content_below(content: Callable[[str], Content], root: str, name: str) -> Content:
    return content(root + name)


def is_image(name: str) -> bool:
    """Return whether a file is named like an image."""
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES


def is_archive(path: Path) -> bool:
    """Return whether a file is named like an archive."""
    return path.name.lower().endswith(ARCHIVES)


def open_tree(path: Path) -> Tree:
    """Return the files of a folder or an archive.

    A folder without images in it but with archives, as data sets are downloaded, is taken for what
    its archives hold together.

    Raises:
        InputError: an archive that is truncated, too large, holds links, or names a file outside
            itself.
    """
    if path.is_file():
        return _joined(path, {path: _open_archive(path)})
    files = {file.relative_to(path).as_posix(): file for file in visible_files(path)}
    folder = Tree(path, tuple(sorted(files)), path.joinpath)
    archives = [file for file in files.values() if file.parent == path and is_archive(file)]
    if not archives or any(map(is_image, files)):
        return folder
    archives.sort()
    with ThreadPoolExecutor() as pool:  # decompressing leaves Python's lock to the others
        opened = dict(zip(archives, pool.map(_open_archive, archives), strict=True))
    parts = {archive: _of_its_split(archive, held) for archive, held in opened.items()}
    return _joined(path, {path: dict(files), **parts})


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
                    f"{path}: {home[name].name} and {place.name} both hold {name}; unpack them and "
                    "keep one"
                )
            if name not in files:
                files[name], home[name] = content, place
    return Tree(path, tuple(sorted(files)), files.__getitem__)


def _open_archive(path: Path) -> Mapping[str, Content]:
    with _damage_named(path):
        files = _open_zip(path) if path.suffix.lower() == ".zip" else _read_tar(path)
    return {name: content for name, content in files.items() if not _hidden(name)}


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        reason = str(error) or type(error).__name__
        raise InputError(f"archive {path} is truncated or damaged: {reason}") from error
    except OSError as error:
        raise InputError(f"archive {path} cannot be read: {error}") from error


class _Zip:
    """A zip that each process opens for itself: a file that several share has one position."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._opened: tuple[int, zipfile.ZipFile] | None = None

    def __getstate__(self) -> dict[str, object]:
        return {"_path": self._path, "_opened": None}

    def opened(self) -> zipfile.ZipFile:
        """Return the archive, as this process opened it."""
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = (os.getpid(), zipfile.ZipFile(self._path))
        return self._opened[1]

    def read(self, name: str) -> bytes:
        """Return a member, unpacked."""
        return self.opened().read(name)


def _open_zip(path: Path) -> Mapping[str, Content]:
    archive = _Zip(path)
    files: dict[str, Content] = {}
    for member in archive.opened().infolist():
        _require_inside(path, member.filename)
        if (member.external_attr >> 16) & 0o170000 == 0o120000:
            _refuse_link(path, member.filename)
        _require_size(path, member.filename, member.file_size)
        if member.flag_bits & 1:
            raise InputError(f"archive {path} is encrypted; unpack it and give the folder")
        if not member.is_dir():
            files[member.filename] = partial(archive.read, member.filename)
    return files


def _read_tar(path: Path) -> Mapping[str, Content]:
    files: dict[str, Content] = {}
    total = 0
    with tarfile.open(path, "r|*") as archive:
        for member in archive:
            _require_inside(path, member.name)
            if member.isdir():
                continue
            if not member.isfile():
                _refuse_link(path, member.name)
            _require_size(path, member.name, member.size)
            total += member.size
            if total > MOST_BYTES:
                raise InputError(
                    f"archive {path} unpacks to more than {MOST_BYTES / 2**30:.0f} GiB, which "
                    "would be held in memory; unpack it and give the folder"
                )
            file = archive.extractfile(member)
            assert file is not None
            content = file.read()
            if len(content) < member.size:
                raise EOFError(f"{member.name} ends early")
            files[PurePosixPath(member.name).as_posix()] = content
        _require_end(archive)
    return files


def _require_end(archive: tarfile.TarFile) -> None:
    """Raise where a tar stops between two files, which `tarfile` takes for its end.

    A whole one ends with a block of zeros, at `offset`: all of it has been read from there.
    """
    assert archive.fileobj is not None
    if archive.fileobj.tell() < archive.offset + tarfile.BLOCKSIZE:
        raise EOFError("its end is missing")


def _require_inside(path: Path, name: str) -> None:
    parts = re.split(r"[/\\]", name)
    if ".." in parts or name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", name):
        raise InputError(f"archive {path} is refused: its file {name!r} would lie outside of it")


def _refuse_link(path: Path, name: str) -> None:
    raise InputError(
        f"archive {path} is refused: {name!r} in it is a link or a device, not a file; "
        "unpack it and give the folder"
    )


def _require_size(path: Path, name: str, size: int) -> None:
    if size > MOST_MEMBER_BYTES:
        raise InputError(
            f"archive {path} is refused: {name!r} unpacks to {size / 2**30:.1f} GiB, over "
            f"the limit of {MOST_MEMBER_BYTES / 2**30:.0f} GiB; unpack it and give the folder"
        )


def _hidden(name: str) -> bool:
    """Return whether a path has a hidden part, or is what macOS puts beside the files in a zip."""
    return any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts)
