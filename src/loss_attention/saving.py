"""Files that a crash or a full disk does not spoil, and that are read as they were written.

A run's run.json has the SHA-256 of its files, and of itself.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib
import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Literal

from loss_attention.errors import InputError, ReportedError, guarded, quoted, reason

fcntl: Any = None
with contextlib.suppress(ImportError):  # on Windows, which removes no file that is open
    fcntl = importlib.import_module("fcntl")

TEMPORARY = re.compile(r"\.loss-attention-[0-9a-f]{16}\.tmp")
"""What a file is called while it is written: nothing that a user's file would be."""


class SaveError(ReportedError, ValueError):
    """A file could not be written, because the disk is full for instance."""

    exit_code = 74  # EX_IOERR of sysexits.h


def write_whole(
    path: Path, content: str | bytes, *, previous: Path | None = None, durable: bool = True
) -> None:
    """Write a file so that it is either the old one or the new one, whole, at every moment.

    Its permissions are what the umask leaves.

    Args:
        path: the file.
        content: text as UTF-8, or bytes.
        previous: what the old one is kept as, once the new one is on the disk. A crash between the
            two renames leaves the old one there alone.
        durable: wait until it is on the disk. Without, a power failure soon after may leave it
            empty: for what is quickly made again.

    Raises:
        SaveError: it could not be written; the old one, if any, is still there.
    """
    with whole_file(path, previous=previous, durable=durable) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def whole_file(
    path: Path, *, previous: Path | None = None, durable: bool = True
) -> Iterator[IO[bytes]]:
    """Open a file to be written bit by bit; it takes the old one's place at the context's end.

    An exception leaves the old one as it was.

    Args:
        path: see `write_whole`.
        previous: likewise.
        durable: likewise.

    Raises:
        SaveError: it could not be written; the old one, if any, is still there.
    """
    temporary: Path | None = None
    try:
        with _temporary_file(path.parent) as file:
            temporary = Path(file.name)
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
            if previous is not None and path.exists():
                path.replace(previous)
            temporary.replace(path)
            temporary = None
        if durable:
            _sync_folder(path.parent)
    except BaseException as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        kept = "; the one before it is kept" if path.exists() else ""
        raise SaveError(f"cannot write {path}: {reason(error)}{kept}") from error


def placed(temporary: Path, folder: Path) -> None:
    """Give a folder, whose files are on the disk, its name, so that it is whole or not there."""
    _sync_folder(temporary)
    temporary.rename(folder)
    _sync_folder(folder.parent)


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


FACTS_FILE = "run.json"
WEIGHTS_FILE = "model.safetensors"
METADATA_KEY = "loss-attention"
"""The one entry of a file's metadata that is ours, of whatever format it is."""
ExportFormat = Literal["onnx", "torch", "openvino"]
EXPORT_FORMATS: dict[str, ExportFormat] = {".onnx": "onnx", ".pt2": "torch", ".xml": "openvino"}
"""How exported files of each format end; OpenVINO's has its weights beside it, ending in .bin."""
FORMAT_VERSION = 2
"""1, of version 0.1, has no digests."""

FILES, DIGEST = "files", "digest"
"""Fields of run.json: the digests that each file may have, newest first; that of all the rest."""


def digest_of(content: str | bytes) -> str:
    """Return the SHA-256 of a file's content."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sealed(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a run.json with its digest, which is of the values, not of the text."""
    plain: dict[str, Any] = json.loads(
        json.dumps({name: facts[name] for name in facts if name != DIGEST})
    )
    return plain | {DIGEST: _digest_of_values(plain)}


def read_facts(folder: Path) -> dict[str, Any]:
    """Return what run.json says, without its own digest; nothing where there is no such file.

    Raises:
        InputError: it is damaged, or of a newer version.
    """
    path = folder / FACTS_FILE
    if not path.exists():
        return {}
    facts = read_object(path)
    version = facts.get("format_version", 1)
    if type(version) is not int or version < 1:
        raise InputError(f"{path}: format_version cannot be {quoted(version)}")
    if version > FORMAT_VERSION:
        raise InputError(
            f"{folder} was written by a newer loss-attention (format {version}, this one reads "
            f"up to {FORMAT_VERSION}): upgrade to read it"
        )
    found = facts.pop(DIGEST, None)
    if found is None and version == 1:
        return facts
    if found != _digest_of_values(facts):
        raise InputError(
            f"{path} is damaged or was edited: it is not what was written; restore it from a copy, "
            "or begin again in another folder"
        )
    files = facts.get(FILES, {})
    if not isinstance(files, dict) or not all(
        isinstance(known, list) and all(isinstance(one, str) for one in known)
        for known in files.values()
    ):
        raise InputError(f"{path}: {FILES} holds no lists of digests")
    return facts


def read_object(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        InputError: the file holds no JSON object.
    """
    with guarded(str(path)):
        value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise InputError(f"{path} holds no JSON object")
    return value


def known_digests(facts: Mapping[str, Any], name: str) -> list[str]:
    """Return the digests that a file of a run may have; none where nothing is known of it."""
    known: list[str] = facts.get(FILES, {}).get(name, [])
    return known


def check_file(path: Path, mend: str = "restore it from a copy", name: str | None = None) -> None:
    """Compare a file of a run folder with its digest in run.json, where that has one.

    Args:
        path: the file.
        mend: what to do if it is another one, for the error.
        name: under which run.json knows it; None: its own.

    Raises:
        InputError: it is not what the run wrote.
    """
    facts = read_facts(path.parent)
    while known := known_digests(facts, name or path.name):
        with guarded(str(path)):
            found = file_digest(path)
        if found in known:
            return
        before, facts = facts, read_facts(path.parent)
        if facts == before:  # or a run in training has just written both anew
            raise InputError(
                f"{path} is truncated or damaged: its SHA-256 is not the one in {FACTS_FILE}; "
                f"{mend}"
            )


def _digest_of_values(facts: Mapping[str, Any]) -> str:
    return digest_of(json.dumps(facts, sort_keys=True))
