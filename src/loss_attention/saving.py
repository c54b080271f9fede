"""Write files so that a crash or a full disk loses nothing."""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from loss_attention.errors import InputError, ReportedError, reason

fcntl: Any = None
with contextlib.suppress(ImportError):  # on Windows, which removes no file that is open
    fcntl = importlib.import_module("fcntl")

TEMPORARY = re.compile(r"\.loss-attention-[0-9a-f]{16}\.tmp")
"""What a file is called while it is written: nothing that a user's file would be."""


class SaveError(ReportedError, ValueError):
    """A file could not be written, because the disk is full for instance."""

    exit_code = 74  # EX_IOERR of sysexits.h


def write_whole(path: Path, content: str | bytes, *, previous: Path | None = None) -> None:
    """Write a file so that it is either the old one or the new one, whole, at every moment.

    Its permissions are what the umask leaves.

    Args:
        path: the file.
        content: text as UTF-8, or bytes.
        previous: what the old one is kept as, once the new one is on the disk. A crash between the
            two renames leaves the old one there alone.

    Raises:
        SaveError: it could not be written; the old one, if any, is still there.
    """
    # Names of files may be no Unicode; escaped so, they survive in JSON as they are.
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    temporary: Path | None = None
    try:
        with _temporary_file(path.parent) as file:
            temporary = Path(file.name)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            if previous is not None and path.exists():
                path.replace(previous)
            temporary.replace(path)
            temporary = None
        _sync_folder(path.parent)
    except BaseException as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        kept = "; the one before it is kept" if path.exists() else ""
        raise SaveError(f"cannot write {path}: {reason(error)}{kept}") from error


def make_folder(path: Path) -> None:
    """Make a folder to write into, and those above it; remove what killed writes left in it.

    Raises:
        InputError: a file is there, or where a folder above it should be.
        SaveError: it cannot be made.
    """
    for folder in (path, *path.parents):
        if folder.exists() and not folder.is_dir():
            raise InputError(f"cannot make the folder {path}: {folder} is a file; name another")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SaveError(f"cannot make the folder {path}: {reason(error)}") from error
    remove_leftovers(path)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of writes that a kill cut short, and of no write under way."""
    for path in folder.iterdir():
        if not TEMPORARY.fullmatch(path.name):
            continue
        with contextlib.suppress(OSError), path.open("rb") as file:
            if _locked(file):
                path.unlink()


@contextlib.contextmanager
def _temporary_file(folder: Path) -> Iterator[IO[bytes]]:
    """Make a file of its own, locked so that others see that somebody is at it."""
    while True:
        path = folder / f".loss-attention-{secrets.token_hex(8)}.tmp"
        with path.open("xb") as file:
            # Between the two, another process may have taken it for a leftover.
            if _locked(file) and path.exists():
                yield file
                return


def _locked(file: IO[bytes]) -> bool:
    """Lock a file as long as it is open; False where another process has it."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:  # a file system that has no locks: nobody can tell
        return error.errno not in (errno.EAGAIN, errno.EACCES)
    return True


def _sync_folder(folder: Path) -> None:
    """Bring a rename to the disk, where folders can be opened and brought there."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
