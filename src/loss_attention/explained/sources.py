"""Which files are explained, and what the files of their explanations are called."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from loss_attention.errors import InputError
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
    tries = [[cut(way(path)) for way in ways] for path in sources]
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


def cut(name: str) -> str:
    """Cut a name: file systems take up to 255 bytes; an ending and a number come on top."""
    coded = os.fsencode(name)
    return name if len(coded) <= LONGEST_NAME else coded[:LONGEST_NAME].decode(errors="ignore")


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
