"""What a user names as data: understood, its place recorded with a run, and found again."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from loss_attention.data.archives import is_archive
from loss_attention.data.digits import digits, multi_digits
from loss_attention.data.formats.hub import HUB_ID
from loss_attention.data.known import KNOWN
from loss_attention.data.sample import Splits
from loss_attention.errors import InputError, quoted, unknown_name

MADE: dict[str, Callable[[int], Splits]] = {"digits": digits, "multi-digits": multi_digits}
"""Data made here, from a seed."""
HUB_PREFIX = "hub:"
"""Before the id of a data set of the hub, where it could be taken for a path."""
_TABLES = (".parquet", ".csv", ".tsv", ".jsonl", ".json", ".yaml", ".yml")


@dataclass(frozen=True)
class Named:
    """What a user's word for data means.

    Attributes:
        kind: made here; a known data set, fetched by its name; one of the Hugging Face hub; or what
            lies at a path.
        name: the name, or the hub's id; of a path the known data set that is said to lie there.
        path: of a path.
    """

    kind: Literal["made", "known", "hub", "path"]
    name: str = ""
    path: Path | None = None


def understood(data: str) -> Named:
    """Tell what data a user means; a name that is both known and a folder here is the known one.

    Raises:
        InputError: nothing of this name, or a hub id that may be a mistyped path.
    """
    if data in MADE:
        return Named("made", data)
    if data in KNOWN:
        return Named("known", data)
    name, place = _of_known(data)
    if name:
        return Named("path", name, _expanded(place))
    hub = data.removeprefix(HUB_PREFIX)
    if hub != data and HUB_ID.fullmatch(hub):
        return Named("hub", hub)
    path = _expanded(data)
    if _looks_local(data, path):
        return Named("path", path=path)
    if not HUB_ID.fullmatch(data):
        raise unknown_name("dataset", data, [*MADE, *KNOWN])
    folder, _, inside = data.partition("/")
    if _is_there(Path(folder)):
        raise InputError(
            f"there is a folder {folder} here and no {inside} in it: correct the path, or write "
            f"{HUB_PREFIX}{data} for the data set of that name on the Hugging Face hub"
        )
    return Named("hub", data)


def _of_known(data: str) -> tuple[str, str]:
    """Return name and path of `NAME:PATH`; two empty texts for anything else."""
    name, _, place = data.partition(":")
    return (name, place) if name in KNOWN and place else ("", "")


def _looks_local(data: str, path: Path) -> bool:
    """Tell a path from a name: it exists, is written like one, or is not `org/name`."""
    if data and _is_there(path):
        return True
    written_so = (
        data.startswith((".", "~", "/", os.sep))
        or path.suffix.lower() in _TABLES
        or is_archive(path)
    )
    return written_so or (bool({"/", os.sep} & set(data)) and not HUB_ID.fullmatch(data))


def _expanded(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:  # no such user
        return Path(path)


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # too long for a name, or in a folder that may not be looked into
        return False


def recorded(data: str, run: Path) -> dict[str, str]:
    """Return what a run keeps of where its data lies, for `find_again`.

    Args:
        data: what the user wrote.
        run: the run's folder.
    """
    named = _meant(data)
    if named is None:  # data that did not come from its name
        return {"given": data}
    kept = {"given": data, "kind": named.kind}
    if named.path is not None:
        kept["path"] = str(named.path.absolute())
        kept["from_run"] = os.path.relpath(named.path, run)
    return kept


class Found(NamedTuple):
    """A run's data, found again.

    Attributes:
        data: what to load.
        certain: it lies where it lay when the run began; elsewhere it may be other data.
    """

    data: str
    certain: bool


def find_again(data: str, facts: Mapping[str, Any], run: Path) -> Found:
    """Return where the data of a run lies now.

    Looked for where it lay, then as it was written from the current folder, then as it lay from the
    run's folder. What was a local path is never looked for on the hub.

    Args:
        data: as the run's recipe has it.
        facts: the run's run.json; those of version 0.1 do not say where the data lay.
        run: the run's folder.

    Raises:
        InputError: it was a path, and there is nothing now.
    """
    record = facts.get("data")
    if not isinstance(record, dict) or not isinstance(record.get("given"), str):
        record = {"given": data, "kind": _kind_of_old(data, facts.get("source"))}
    given, kind = record["given"], record.get("kind")
    if kind == "hub":
        return Found(HUB_PREFIX + given.removeprefix(HUB_PREFIX), certain=True)
    if kind != "path":
        return Found(given, certain=True)
    name, place = _of_known(given)
    written = _expanded(place or given)
    places = _places(written, record, run)
    for number, path in enumerate(places):
        if _is_there(path):
            as_written = _is_there(written) and written.samefile(path)
            shown = str(written if as_written else path)
            if name:
                shown = f"{name}:{shown}"
            elif as_written:
                shown = given
            return Found(shown, certain=number == 0)
    looked = ", ".join(map(str, places[:3]))
    raise InputError(
        f"the data of the run {run} is gone: it was given as {given}, and there is nothing at "
        f"{looked}; say where it is now with --data"
    )


def _places(written: Path, record: Mapping[str, Any], run: Path) -> list[Path]:
    """Return where local data of a run may lie, the likeliest first."""
    path, from_run = record.get("path"), record.get("from_run")
    places = [Path(path)] if isinstance(path, str) else []
    places.append(written.absolute())
    if isinstance(from_run, str):
        places.append(Path(os.path.normpath(run.absolute() / from_run)))
    elif not written.is_absolute():  # of version 0.1: `train` most often ran in a folder above
        places += [folder / written for folder in run.absolute().parents]
    return list(dict.fromkeys(places))


def _kind_of_old(data: str, source: Any) -> str:
    """Return of what kind the data of a run of version 0.1 is: its description begins with it.

    Raises:
        InputError: it may have been a path or a data set of the hub.
    """
    told = source if isinstance(source, str) else ""
    if data in MADE or data in KNOWN or not data:
        return ""
    if HUB_ID.fullmatch(data) and told.startswith(f"{data}: "):
        return "hub"
    name, place = _of_known(data)
    local = (f"data folder {data}: ", f"{name} in {place}: ")
    if name or told.startswith(local) or _looks_local(data, _expanded(data)):
        return "path"
    if HUB_ID.fullmatch(data):
        raise InputError(
            f"the run's data {quoted(data)} was a folder or a data set of the Hugging Face hub, "
            f"and there is no such folder here: say which with --data PATH or --data "
            f"{HUB_PREFIX}{data}"
        )
    return ""


def same_data(data: str, own: str) -> bool:
    """Return whether two words for data mean the same: one name, or paths to one place."""
    if data == own:
        return True
    one, other = _meant(data), _meant(own)
    if one is None or other is None:
        return False
    if one.path is None or other.path is None:
        return one == other
    return one.path.resolve() == other.path.resolve()


def lies_within(data: str, own: str) -> bool:
    """Return whether data at a path is a part of other data by its path."""
    inner, outer = _meant(data), _meant(own)
    if inner is None or outer is None or inner.path is None or outer.path is None:
        return False
    return outer.path.resolve() in inner.path.resolve().parents


def _meant(data: str) -> Named | None:
    try:
        return understood(data)
    except InputError:
        return None
