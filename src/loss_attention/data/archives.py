"""The files in a zip or a tar, and which archives are refused.

Nothing is unpacked to disk. A zip is read where it is, a member at a time; a tar, which can only be
read from front to back, is read into memory. What an archive says of its sizes is not believed:
what comes out is counted while it comes.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import posixpath
import re
import stat
import tarfile
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import IO, BinaryIO, cast

from loss_attention.data.decoding import is_hidden
from loss_attention.data.records import Content
from loss_attention.errors import InputError, ReportedError, quoted, reason
from loss_attention.memory import free_memory

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2")
MOST_BYTES = 8 * 2**30
"""A tar of more than this, unpacked, is refused: it would have to be held in memory."""
MOST_MEMBER_BYTES = 2**30
"""A file in an archive that unpacks to more than this is refused."""
MOST_MEMBERS = 4_000_000
MOST_DEEP = 200
"""Folders within folders beyond this are refused, in archives and out of them."""
MOST_RATIO = 200
"""An archive that unpacks to over so many times its size, and `RATIO_FREE` bytes, is refused."""
RATIO_FREE = 64 * 2**20

_MOST_HEADER_BYTES = 2**20  # of one tar member: long names, and what else is said of it
_READ_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
_INSTEAD = "unpack it and give the folder"


def is_archive(path: Path) -> bool:
    """Return whether a file is named like an archive."""
    return path.name.lower().endswith(ARCHIVES)


class Budget:
    """How many bytes of archives are held in memory, and how many may be."""

    def __init__(self) -> None:
        self._left = self._most = min(MOST_BYTES, free_memory() // 2)
        self._lock = Lock()

    def take(self, size: int, path: Path) -> None:
        """Raise `InputError` where so many bytes more are too many."""
        with self._lock:
            self._left -= size
            if self._left < 0:
                raise InputError(
                    f"archive {path} unpacks to more than {self._most / 2**30:.2g} GiB, "
                    f"which would be held in memory; {_INSTEAD}"
                )


def open_archive(path: Path, budget: Budget) -> Mapping[str, Content]:
    """Return the files of an archive that are not hidden, by their paths in it.

    Args:
        path: a zip or a tar.
        budget: for what is read into memory, of all archives together.

    Raises:
        InputError: it is damaged, encrypted, compressed in an unknown way or to a small part of
            what it holds, or names a file twice, outside of itself, or that is none.
    """
    try:
        files = _open_zip(path) if path.suffix.lower() == ".zip" else _read_tar(path, budget)
    except ReportedError:
        raise
    except Exception as error:  # parsers raise whatever broken content leads them into
        # And decompressors an error of the system without a number, where it is not theirs.
        unread = isinstance(error, OSError) and error.errno is not None
        what = "cannot be read" if unread else "is truncated or damaged"
        raise InputError(f"archive {path} {what}: {reason(error)}") from error
    return {
        name: content for name, content in files.items() if not any(map(is_hidden, name.split("/")))
    }


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


@dataclass(frozen=True)
class Member:
    """A file in a zip: called, it gives the bytes."""

    archive: _Zip
    stored: str
    size: int

    def __call__(self) -> bytes:
        """Return the bytes.

        Raises:
            Exception: whatever a damaged archive leads its reader into.
        """
        content = self.head(self.size)
        if len(content) < self.size:
            raise zipfile.BadZipFile(f"{quoted(self.stored)} has fewer bytes than it declares")
        return content

    def head(self, most: int) -> bytes:
        """Return up to so many bytes from the beginning; never more than it declares."""
        archive = self.archive.opened()
        member = archive.getinfo(self.stored)
        # The other methods give out all that a piece unpacks to, so theirs are small.
        piece = 2**20 if member.compress_type in (0, zipfile.ZIP_DEFLATED) else 4096
        pieces, held = [], 0
        with archive.open(member) as file:
            while held < most and (read := file.read(min(piece, most - held))):
                pieces.append(read)
                held += len(read)
        return b"".join(pieces)


def _open_zip(path: Path) -> Mapping[str, Content]:
    archive = _Zip(path)
    files: dict[str, Content] = {}
    total, most = 0, RATIO_FREE + MOST_RATIO * path.stat().st_size
    for member in archive.opened().infolist():
        name = _name_in(path, _written(member))
        kind = stat.S_IFMT(member.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise _not_a_file(path, name)
        _require_size(path, name, member.file_size)
        total += member.file_size
        if total > most:
            raise _bomb(path)
        if member.flag_bits & 1:
            raise InputError(f"archive {path} is encrypted; {_INSTEAD}")
        if kind == stat.S_IFDIR or _written(member).endswith("/"):
            continue
        if member.compress_type not in _READ_METHODS:
            method = zipfile.compressor_names.get(member.compress_type, "unknown")  # type: ignore[attr-defined]
            raise InputError(
                f"archive {path}: {quoted(name)} is compressed by a method that is not "
                f"read ({method}, {member.compress_type}); {_INSTEAD}, or pack it with deflate"
            )
        _add(files, path, name, Member(archive, member.filename, member.file_size))
    return files


def _written(member: zipfile.ZipInfo) -> str:
    """Return the name of a member as it was meant, with forward slashes.

    Some programs of Windows write backslashes, and some of macOS UTF-8 without saying so.
    """
    name = member.orig_filename
    if not member.flag_bits & 0x800:
        with suppress(UnicodeError):
            name = name.encode("cp437").decode("utf-8")
    return name.replace("\\", "/")


class _Counted:
    """What comes out of a tar's compression: counted, and held against what is allowed."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self._path, self._file = path, file
        self._out, self._most = 0, RATIO_FREE + MOST_RATIO * path.stat().st_size
        self.allowed = _MOST_HEADER_BYTES

    def read(self, size: int) -> bytes:
        """Return the next bytes.

        Raises:
            InputError: too many since `allowed` was set, or in all.
        """
        content = self._file.read(size)
        self.allowed -= len(content)
        self._out += len(content)
        if self._out > self._most:
            raise _bomb(self._path)
        if self.allowed < 0:
            most = f"more than {_MOST_HEADER_BYTES / 2**20:.0f} MiB"
            raise _refused(self._path, f"what it says of one file takes {most}")
        return content


def _read_tar(path: Path, budget: Budget) -> Mapping[str, Content]:
    files: dict[str, Content] = {}
    with path.open("rb") as packed, _unpacked(packed) as unpacked:
        counted = _Counted(path, unpacked)
        with tarfile.open(fileobj=cast(BinaryIO, counted), mode="r|") as archive:
            while (member := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined] # which else keeps all that there were
                name = _name_in(path, member.name)
                if not member.isdir():
                    counted.allowed = max(0, member.size) + _MOST_HEADER_BYTES
                    _add(files, path, name, _tar_member(path, archive, member, budget))
                if len(files) > MOST_MEMBERS:
                    raise InputError(
                        f"archive {path} holds more than {MOST_MEMBERS:,} files; {_INSTEAD}"
                    )
                counted.allowed = _MOST_HEADER_BYTES
            _require_end(archive, counted)
    return files


def _tar_member(
    path: Path, archive: tarfile.TarFile, member: tarfile.TarInfo, budget: Budget
) -> bytes:
    if not member.isfile():
        raise _not_a_file(path, member.name)
    if member.issparse():
        raise _refused(path, f"{quoted(member.name)} is stored as a sparse file")
    if member.size < 0:
        raise tarfile.ReadError(f"{member.name} is of a negative size")
    _require_size(path, member.name, member.size)
    budget.take(member.size, path)
    file = archive.extractfile(member)
    assert file is not None
    content = file.read()
    if len(content) < member.size:
        raise EOFError(f"{member.name} ends early")
    return content


def _unpacked(file: BinaryIO) -> IO[bytes]:
    head = file.read(6)
    file.seek(0)
    if head.startswith(b"\x1f\x8b"):
        return cast(IO[bytes], gzip.GzipFile(fileobj=file))
    if head.startswith(b"BZh"):
        return bz2.BZ2File(file)
    if head.startswith((b"\xfd7zXZ", b"]\0\0\x80")):
        return lzma.LZMAFile(file)
    return file


def _require_end(archive: tarfile.TarFile, counted: _Counted) -> None:
    """Raise where a tar stops between two files, which `tarfile` takes for its end, or goes on.

    A whole one ends with blocks of zeros, the first at `offset`: all was read from there.
    """
    stream = archive.fileobj
    assert stream is not None
    if stream.tell() < archive.offset + tarfile.BLOCKSIZE:
        raise EOFError("its end is missing")
    while content := stream.read(2**16):
        counted.allowed = _MOST_HEADER_BYTES
        if content.strip(b"\0"):
            raise tarfile.ReadError("it goes on after its end (is it several in one?)")


def _add(files: dict[str, Content], path: Path, name: str, content: Content) -> None:
    if not name:
        raise _refused(path, "a file in it has no name", "")
    if name in files:
        raise _refused(path, f"it holds {quoted(name)} twice")
    files[name] = content


def _name_in(path: Path, written: str) -> str:
    """Return a file's path in an archive, plain.

    Raises:
        InputError: it leads out of the archive, or is none.
    """
    parts = re.split(r"[/\\]", written)
    if ".." in parts or parts[0] == "" or re.match(r"[A-Za-z]:", written):
        raise _refused(path, f"its file {quoted(written)} would lie outside of it", "")
    if "\0" in written:
        raise _refused(path, f"the name {quoted(written)} in it is cut by a zero", "")
    if len(parts) > MOST_DEEP:
        deep = f"folders in it are nested more than {MOST_DEEP} deep ({quoted(written)})"
        raise _refused(path, deep, "")
    name = posixpath.normpath(written)
    return "" if name == "." else name


def _not_a_file(path: Path, name: str) -> InputError:
    return _refused(path, f"{quoted(name)} in it is a link or a device, not a file")


def _require_size(path: Path, name: str, size: int) -> None:
    if size > MOST_MEMBER_BYTES:
        limit = f"over the limit of {MOST_MEMBER_BYTES / 2**30:.2g} GiB"
        raise _refused(path, f"{quoted(name)} unpacks to {size / 2**30:.3g} GiB, {limit}")


def _bomb(path: Path) -> InputError:
    what = f"it unpacks to over {MOST_RATIO} times its size, as only a bomb does"
    return _refused(path, what, f"; if it is none, {_INSTEAD}")


def _refused(path: Path, why: str, instead: str = f"; {_INSTEAD}") -> InputError:
    return InputError(f"archive {path} is refused: {why}{instead}")
