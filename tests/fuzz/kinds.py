"""All kinds of input by name, and the case of each number: the same for the same seed."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random

from fuzz import archives, entries, layouts, pictures, runs
from fuzz.entries import Entry
from fuzz.hostile import TEXTS, bytewise, shown
from fuzz.layouts import Seed

DATA = "data"
"""The folder that an input lies in."""


@dataclass(frozen=True)
class Odd:
    """What is not a regular file: a link, with what it leads to, or of another type."""

    type: int
    target: str = ""


@dataclass(frozen=True)
class Kind:
    """A kind of input.

    Attributes:
        seeds: makes the valid ones that are changed.
        entries: what is done with cases, with each of them one in turn.
        data: it is the user's data: files may be missing, be links or have odd names.
        sealed: checksums of the changed files are made right again.
    """

    seeds: Callable[[], Sequence[Seed]]
    entries: Sequence[Entry]
    data: bool = False
    sealed: bool = False
    _made: dict[str, Sequence[Seed]] = field(default_factory=dict, compare=False)

    def made(self) -> Sequence[Seed]:
        """Return the seeds, made once."""
        if not self._made:
            self._made["seeds"] = self.seeds()
        return self._made["seeds"]


@dataclass(frozen=True)
class Case:
    """A changed input.

    Attributes:
        files: its files by their paths.
        changes: what was done to them.
        given: the file that the user names; "" for the folder they lie in.
    """

    files: Mapping[str, bytes | Odd]
    changes: Sequence[str]
    given: str = ""

    def write(self, folder: Path) -> None:
        """Write the files into the folder `DATA` of one that is not there yet."""
        for name, content in self.files.items():
            path = folder / DATA / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                path.write_bytes(content)
            elif content.type == stat.S_IFLNK:
                path.symlink_to(content.target)
            elif content.type == stat.S_IFIFO:
                os.mkfifo(path)
            elif content.type == stat.S_IFDIR:
                path.mkdir()
            else:
                with socket.socket(socket.AF_UNIX) as made:
                    made.bind(os.path.relpath(path))


def case(name: str, seed: int, number: int) -> Case:
    """Return a case of a kind, the same for the same seed and number; -1, -2, ...: valid ones."""
    kind, rng = KINDS[name], Random(f"{name} {seed} {number}")
    if number < 0:
        return Case(kind.made()[-1 - number].files, ())
    chosen = rng.choice(kind.made())
    files: dict[str, bytes] = dict(chosen.files)
    changes = []
    for _ in range(rng.choices((1, 2, 3), (70, 20, 10))[0]):
        target = rng.choice(list(chosen.targets))
        structured = chosen.targets[target]
        change = structured if structured is not None and rng.random() < 0.7 else bytewise
        files[target], what = change(rng, files[target])
        changes.append(f"{target}: {what}")
    if kind.sealed and rng.random() < 0.9:
        files = runs.resealed(chosen.files, files)
    if not kind.data:
        return Case(files, changes)
    how = rng.random()
    if how < 0.08:
        return _rearranged(rng, files, changes if rng.random() < 0.2 else [], chosen)
    if how < 0.12:
        return Case({"all.zip": archives.plain_zip(files)}, [*changes, "all in a zip"])
    whole = [name for name in chosen.targets if name.endswith(_GIVEN)]
    return Case(files, changes, rng.choice(whole) if whole and how < 0.4 else "")


_GIVEN = (".csv", ".tsv", ".jsonl", ".json", ".zip", ".tar", ".gz", ".xz", ".parquet")
"""Files that users name in place of the folder."""


def _rearranged(rng: Random, files: dict[str, bytes], changes: list[str], seed: Seed) -> Case:
    """Rename a file, take it away, or put what is not a file in its place."""
    found: dict[str, bytes | Odd] = dict(files if changes else seed.files)
    name = rng.choice(list(found))
    folder, _, base = name.rpartition("/")
    how = rng.choice(("named", "named", "gone", "odd", "odd", "odd", "empty", "beside"))
    if how == "named":
        new = rng.choice((*TEXTS, "a\udcff.png", ".hidden.png", base + ".heic", base.upper()))
        new = new.replace("\0", "").encode("utf-8", "surrogateescape")[:200]
        new_name = os.path.normpath(f"{folder}/{new.decode('utf-8', 'surrogateescape')}").lstrip(
            "/"
        )
        if new_name in ("", ".") or ".." in new_name or _blocked(new_name, found):
            new_name = f"{name}.txt"
        found[new_name] = found.pop(name)
        how = f"named {shown(new_name)}"
    elif how == "gone":
        del found[name]
    elif how == "empty":
        found[name] = b""
    else:
        if how == "beside":
            name = f"{folder}/odd{Path(base).suffix}".lstrip("/")
        odd = rng.choice((*_ODD, Odd(stat.S_IFLNK, Path(name).name)))
        found[name] = odd
        how = f"is {stat.filemode(odd.type)[0]} {odd.target}"
    return Case(found, [*changes, f"{name} {how}"])


def _blocked(name: str, found: Mapping[str, object]) -> bool:
    """Return whether a file or folder of this name is there, or a file where a folder has to be."""
    return any(
        name == one or one.startswith(f"{name}/") or name.startswith(f"{one}/") for one in found
    )


_ODD = (
    *(
        Odd(stat.S_IFLNK, target)
        for target in (".", "..", "loop", "/dev/zero", "/dev/null", "gone")
    ),
    *(Odd(stat.S_IFLNK, target) for target in ("/etc/passwd", "/proc/self/mem", "../..")),
    *(Odd(stat.S_IFIFO), Odd(stat.S_IFSOCK), Odd(stat.S_IFDIR)),
)


def _data(seeds: Callable[[], Sequence[Seed]]) -> Kind:
    return Kind(seeds, (entries.loaded, entries.streamed, entries.checked), data=True)


def _images(form: str) -> Kind:
    def seeds() -> list[Seed]:
        suffix = {"jpeg2000": "jp2", "ppm": "pnm"}.get(form, form)
        structured = pictures.structured(form)
        return [
            Seed({f"image.{suffix}": content}, {f"image.{suffix}": structured})
            for content in pictures.seeds(form)
        ]

    return Kind(seeds, (entries.pictured, entries.greyed, entries.numbered))


def _run(names: tuple[str, ...], *found: Entry) -> Kind:
    return Kind(partial(runs.run_seeds, *names), found, sealed=True)


ANNOTATIONS: dict[str, Kind] = {
    "yolo": _data(layouts.yolo),
    "coco": _data(layouts.coco),
    "voc": _data(layouts.voc),
    "csv": _data(layouts.csv),
    "tsv": _data(layouts.tsv),
    "jsonl": _data(layouts.jsonl),
    "metadata-jsonl": _data(layouts.metadata),
    "json-array": _data(layouts.json_array),
    "tiny-imagenet": _data(layouts.tiny_imagenet),
    "bags": Kind(layouts.bags, (entries.bagged, entries.checked), data=True),
}
ARCHIVES: dict[str, Kind] = {
    "class-folders": _data(layouts.class_folders),
    "zip": _data(layouts.zips),
    "tar": _data(layouts.tars),
    "tar-gz": _data(partial(layouts.tars, "gz")),
    "tar-xz": _data(partial(layouts.tars, "xz")),
    "parquet": _data(layouts.parquets),
}
IMAGES: dict[str, Kind] = {form: _images(form) for form in pictures.FORMATS}
# Opening takes milliseconds, the others a twentieth of a second: so they come less often.
RUNS: dict[str, Kind] = {
    "run-json": _run(("run.json",), entries.opened, entries.resumed),
    "metrics-jsonl": _run(("metrics.jsonl",), *[entries.opened] * 5, entries.resumed),
    "evaluation-json": _run(("evaluation.json",), *[entries.opened] * 3, entries.explained),
    "state-pt": _run(("state.pt",), *[entries.opened] * 2, entries.resumed),
    "shards": Kind(runs.sharded_seeds, (entries.restored, entries.filled)),
    "recipe": _run(("recipe.yaml",), entries.opened, entries.resumed),
    "weights": Kind(runs.weights_seeds, (entries.weighed,)),
    "backbone-weights": Kind(runs.backbone_seeds, (entries.begun,)),
}
KINDS: dict[str, Kind] = ANNOTATIONS | ARCHIVES | IMAGES | RUNS
