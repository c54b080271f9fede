"""Which files are explained, and what the files of their explanations are called."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from loss_attention.data.tree import Listed, list_images
from loss_attention.errors import InputError, printable
from loss_attention.explained.formats import SUFFIXES, ImageFormat

LONGEST_NAME = 200


class Job(NamedTuple):
    """An image file and where what is written for it goes."""

    source: Path
    picture: Path | None
    description: Path | None


def jobs_of(
    sources: Sequence[Path],
    out: Path,
    image_format: ImageFormat,
    *,
    pictures: bool = True,
    descriptions: bool = True,
) -> list[Job]:
    """Return what is written for each image file: a picture and a JSON, or one of them, or none."""
    # Names of millions of files take minutes, so none are made where nothing is called by them.
    names = output_names(sources) if pictures or descriptions else [""] * len(sources)
    return [
        Job(
            source,
            out / f"{name}{SUFFIXES[image_format]}" if pictures else None,
            out / f"{name}.json" if descriptions else None,
        )
        for source, name in zip(sources, names, strict=True)
    ]


def output_names(sources: Sequence[Path]) -> list[str]:
    """Return a name for each file, all different, even where upper and lower case are one.

    It is the file's name without its ending; with the ending, or with the folder too, where that
    is needed to tell files apart; and numbered where nothing else helps.

    Example:
        >>> output_names([Path("x/a.jpg"), Path("x/a.png"), Path("x/b.png"), Path("y/b.png")])
        ['a.jpg', 'a.png', 'x-b.png', 'y-b.png']
    """
    ways: tuple[Callable[[Path], str], ...] = (
        lambda path: path.stem,
        lambda path: path.name,
        lambda path: f"{path.parent.name}-{path.name}",
    )
    tries = [[_cut(way(path)) for way in ways] for path in sources]
    counts = [Counter(row[way].casefold() for row in tries) for way in range(len(ways))]
    names, taken = [], set[str]()
    for row in tries:
        alone = (
            name for name, count in zip(row, counts, strict=True) if count[name.casefold()] < 2
        )
        base = next(alone, row[-1])
        numbered = (f"{base}-{number}" for number in itertools.count(2))
        name = next(n for n in itertools.chain([base], numbered) if n.casefold() not in taken)
        taken.add(name.casefold())
        names.append(name)
    return names


def _cut(name: str) -> str:
    """Cut a name: file systems take up to 255 bytes; an ending and a number come on top."""
    coded = os.fsencode(name)
    return name if len(coded) <= LONGEST_NAME else coded[:LONGEST_NAME].decode(errors="ignore")


class Sources(NamedTuple):
    """What paths name.

    Attributes:
        images: the image files, each once, in order.
        unreadable: a line for each file of the folders that is named like an image and is none.
        unread: a line for each kind of file there that may be meant as images and is not read.
    """

    images: list[Path]
    unreadable: list[str]
    unread: list[str]


def sources_of(paths: Sequence[Path], out: Path) -> Sources:
    """Return the image files that paths name, those of folders included.

    Args:
        paths: files and folders.
        out: a folder whose files are left out, as results lie in it.

    Raises:
        InputError: a path that is not there, or is neither; a folder without images.
    """
    sources: dict[Path, Path] = {}
    unreadable: list[str] = []
    unread: list[str] = []
    results = out.resolve()
    for path in paths:
        if path.is_dir():
            there = list_images(path)
            unreadable += there.odd
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
    return Sources(list(sources.values()), unreadable, unread)


def _no_images(path: Path, there: Listed, results: Path) -> str:
    folder = printable(str(path))
    if there.images and results in (path.resolve(), *path.resolve().parents):
        return f"the images of {folder} are in the `out` folder itself; name another"
    lines = [*there.odd, *there.unread]
    return f"the folder {folder} holds no images" + (f" ({'; '.join(lines)})" if lines else "")


def refuse_to_replace(
    sources: Sequence[Path], files: Iterable[Path | None], *, overwrite: bool
) -> None:
    """Raise `InputError` for a file in the way: an image always, an explanation unless allowed.

    Args:
        sources: the images.
        files: what is written.
        overwrite: explanations may be replaced.
    """
    images = {source.resolve() for source in sources}
    for path in files:
        if path is None:
            continue
        if path.resolve() in images:
            raise InputError(f"{path} is one of the images; name another `out`")
        if path.exists() and not overwrite:
            raise InputError(
                f"{path} exists already; name another `out`, or replace it with `overwrite`"
            )


def files_of(jobs: Sequence[Job]) -> list[Path | None]:
    """Return what is written for images, in order."""
    return [path for job in jobs for path in (job.picture, job.description)]
