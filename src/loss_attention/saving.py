"""Write files so that a crash or a full disk loses nothing."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from loss_attention.errors import InputError


class SaveError(InputError):
    """A file could not be written, because the disk is full for instance."""


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file so that it is either the old one or the new one, whole, at every moment.

    Raises:
        SaveError: it could not be written; the old one, if any, is still there.
    """
    # Names of files may be no Unicode; escaped so, they survive in JSON as they are.
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    temporary: Path | None = None
    try:
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as file:
            temporary = Path(file.name)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        kept = "; the one before it is kept" if path.exists() else ""
        raise SaveError(f"cannot write {path}: {error.strerror or error}{kept}") from error


def make_folder(path: Path) -> None:
    """Make a folder and those above it, where they are not there.

    Raises:
        SaveError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SaveError(f"cannot make the folder {path}: {error.strerror or error}") from error
