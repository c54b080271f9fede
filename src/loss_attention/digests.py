"""What is read of a run is what was written: SHA-256 of its files in run.json, and of itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loss_attention.errors import InputError, guarded, quoted

FACTS_FILE = "run.json"
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
