"""Image files explained to a Parquet table, whole or a shard of it: a row an image.

A shard is a part of the images, or of the bags, one after the other, in a file of its own; shard
1/1 is all of them. It is there once it is whole, so a run that was cut short goes on with the
shards that are missing. Each is locked while it is written.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

from filelock import FileLock, Timeout

from loss_attention import __version__
from loss_attention.data.tree import given_images
from loss_attention.errors import InputError, printable, quoted, reason
from loss_attention.explained.answers import Answered, answered
from loss_attention.explained.columns import UNITS, Columns, table_schema
from loss_attention.explained.formats import ImageFormat
from loss_attention.explained.pictures import Drawing, Explained, write_explained
from loss_attention.explained.pipeline import (
    ahead,
    in_order,
    processes,
    suitable_processes,
    threads,
)
from loss_attention.explained.questions import OwnQuestion, images_together, own_marks
from loss_attention.explained.reading import read_batches
from loss_attention.explained.sources import Job, files_of, jobs_of, refuse_to_replace
from loss_attention.model import PatchClassifier
from loss_attention.saving import METADATA_KEY, SaveError, make_folder, whole_file
from loss_attention.terminal import as_unicode

ROWS, NUMBERS = 4096, 2**22
"""Of a row group: the most rows, and numbers of patches, that are held before they are written."""

Item = TypeVar("Item")


class Shard(NamedTuple):
    """A part of the images: the `number`th, from 1, of `of` parts that differ by one at most."""

    number: int = 1
    of: int = 1

    @classmethod
    def named(cls, text: str) -> Shard:
        """Return the shard that a text such as "2/8" means.

        Raises:
            InputError: it means none.

        Example:
            >>> Shard.named("2/8")
            Shard(number=2, of=8)
            >>> Shard.named("0/8")
            Traceback (most recent call last):
            ...
            loss_attention.errors.InputError: `shard` counts from 1: 1/8 to 8/8, got '0/8'
        """
        match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
        if match is None:
            raise InputError(f"`shard` is NUMBER/OF, such as 2/8, got {quoted(text)}")
        number, of = int(match[1]), int(match[2])
        if not 1 <= number <= of:
            first = f"1/{max(1, of)} to {max(1, of)}/{max(1, of)}"
            raise InputError(f"`shard` counts from 1: {first}, got {quoted(text)}")
        return cls(number, of)

    @property
    def file(self) -> str:
        """The name of its file."""
        return f"part-{self.number:05}-of-{self.of:05}.parquet"

    def part(self, items: Sequence[Item]) -> range:
        """Return which of some items are its own, by their numbers from 0.

        Example:
            >>> [list(Shard(number, 3).part("abcde")) for number in (1, 2, 3)]
            [[0], [1, 2], [3, 4]]
        """
        count = len(items)
        return range((self.number - 1) * count // self.of, self.number * count // self.of)


@dataclass
class TableSummary:
    """What became of a shard.

    Attributes:
        path: its file.
        rows: how many it has, one for each image.
        skipped: it was there already, whole.
        unreadable: a line for each image that could not be read or explained: those of its rows.
        unread: see `ExplainSummary`.
    """

    path: Path
    rows: int = 0
    skipped: bool = False
    unreadable: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)


def explain_table(
    model: PatchClassifier,
    question: OwnQuestion,
    paths: Sequence[Path],
    out: Path,
    *,
    shard: Shard = Shard(),  # noqa: B008 (a tuple)
    batch_size: int = 64,
    pictures: bool = False,
    image_format: ImageFormat = "png",
    workers: int | None = 0,
    overwrite: bool = False,
    progress: Callable[..., None] | None = None,
) -> TableSummary:
    """Explain image files, or a shard of them, to a Parquet file with a row for each.

    Args:
        model: a trained model with patches.
        question: what is asked of it; see `own_question`.
        paths: image files, and folders whose images are taken. All shards are given the same.
        out: the folder of the shards, and of the pictures.
        shard: which of the images.
        batch_size: images at a time, of large ones fewer.
        pictures: draw them too.
        image_format: of the pictures.
        workers: see `explain_files`.
        overwrite: write the shard anew though it is there.
        progress: called with the number of images done and of all of the shard.

    Raises:
        InputError: paths as for `explain_files`; more shards than images; a shard of other images,
            of another model or question or of another number of shards that is there already; one
            that another process writes. Later: weights that give no finite logits.
        SaveError: a full disk, for instance.
    """
    found = given_images(paths, out)
    refuse_more_shards(shard.of, f"`shard` {shard.number}/{shard.of}", len(found.images))
    # Of all images, so that no two shards call their pictures alike.
    jobs = jobs_of(found.images, out, image_format, pictures=pictures, descriptions=False)
    jobs = [jobs[number] for number in shard.part(found.images)]
    refuse_to_replace(found.images, files_of(jobs), overwrite=True)
    asked = f"`shard` {shard.number}/{shard.of} one of {shard.of}"
    refuse_other_shards(out, shard.of, asked)
    make_folder(out)
    summary = write_shard(
        model,
        question,
        jobs,
        out,
        shard,
        digest_of(model, question)([job.source for job in jobs]),
        batch_size=batch_size,
        image_format=image_format,
        workers=suitable_processes(len(jobs)) if workers is None else workers,
        overwrite=overwrite,
        progress=progress,
    )
    summary.unread = found.unread
    summary.unreadable[:0] = [] if summary.skipped else found.odd
    return summary


def write_shard(
    model: PatchClassifier,
    question: OwnQuestion,
    jobs: Sequence[Job],
    out: Path,
    shard: Shard,
    digest: str,
    *,
    batch_size: int,
    image_format: ImageFormat = "png",
    workers: int = 0,
    overwrite: bool = False,
    progress: Callable[..., None] | None = None,
    patience: float = 0,
) -> TableSummary:
    """Write one shard, whichever engine asks for it: the same batches, and so the same bits.

    Args:
        model: a trained model with patches.
        question: what is asked of it.
        jobs: the shard's own images, and their pictures, if any.
        out: the folder of the shards, which is there.
        shard: which of them.
        digest: its own; see `digest_of`.
        batch_size: images at a time, of large ones fewer.
        image_format: of the pictures.
        workers: processes that draw them; 0: none, this one does.
        overwrite: write the shard anew though it is there.
        progress: called with the number of images done and of all of the shard.
        patience: seconds to wait for another process that writes the shard.

    Raises:
        InputError: another one is there; another process writes it; see `explain_table`.
        SaveError: a full disk, for instance.
    """
    summary = TableSummary(out / shard.file, len(jobs))
    with shard_to_write(
        out, shard, digest, "images", overwrite=overwrite, patience=patience
    ) as file:
        if file is None:
            summary.skipped = True
            return summary
        told = {"version": __version__, "classes": list(model.class_names), "units": UNITS}
        most = images_together(model, question.sight, batch_size)
        sources, channels = [job.source for job in jobs], model.spec.in_channels
        pictures = any(job.picture is not None for job in jobs)
        batches = read_batches(sources, question.sight, channels, most, pictures=pictures)
        answers = answered(model, question, batches, len(jobs), summary.unreadable, progress)
        count = workers if pictures else 0
        with (
            closing(batches),
            processes(count) as submit,
            threads(1) as beside,  # the network has the next batch while rows are made of one
        ):
            tasks = (
                drawing
                for answer in _written(
                    file, model, question, ahead(beside, answers), told | {"digest": digest}
                )
                for drawing in _drawings(model, answer, jobs, image_format)
            )
            for _ in in_order(submit, write_explained, tasks, most + 2 * count):
                pass
    return summary


def _written(
    file: IO[bytes],
    model: PatchClassifier,
    question: OwnQuestion,
    answers: Iterable[Answered],
    told: dict[str, Any],
) -> Iterator[Answered]:
    """Write answers as rows, and yield them on."""
    with table_to_write(file, table_schema(), told) as write:
        for answer in answers:
            columns = answer.columns(model, question)
            write(columns, sum(len(row) for row in columns["patch_weights"] if row is not None))
            yield answer


def _drawings(
    model: PatchClassifier, answer: Answered, jobs: Sequence[Job], image_format: ImageFormat
) -> Iterator[Explained]:
    """Yield what is to be drawn of a batch."""
    own, names = answer.own, model.class_names
    if own is None:
        return
    predicted = own.logits.argmax(dim=1).tolist()
    readable = [image for image in answer.batch if image.pixels is not None]
    for index, image in enumerate(readable):
        job = jobs[image.number]
        if job.picture is None or image.picture is None:
            return
        marks = own_marks(own, answer.objects, index)
        drawing = Drawing(job.picture, image_format, image.picture, marks, small=False)
        said: dict[str, Any] = {
            "prediction": names[predicted[index]],
            "probability": float(own.probabilities[index, predicted[index]]),
            "target": names[int(own.target[index])],
        }
        if own.versus is not None:
            said["versus"] = {"class": names[int(own.versus[index])]}
        yield Explained(image.number, str(job.source), None, said, drawing)


@contextlib.contextmanager
def table_to_write(
    file: IO[bytes], schema: Any, told: dict[str, Any]
) -> Iterator[Callable[[Columns, int], None]]:
    """Open a table: what is yielded takes rows as columns, and the numbers of patches in them.

    It holds a few million numbers before it writes them.

    Args:
        file: where it goes.
        schema: of the columns.
        told: what the table's metadata says.
    """
    from pyarrow import parquet

    schema = schema.with_metadata({METADATA_KEY: json.dumps(told)})
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        held: list[Columns] = []
        rows = numbers = 0

        def write(columns: Columns, size: int) -> None:
            nonlocal rows, numbers
            held.append(columns)
            rows += len(next(iter(columns.values())))
            numbers += size
            if rows >= ROWS or numbers >= NUMBERS:
                _write_group(writer, held)
                held.clear()
                rows = numbers = 0

        yield write
        _write_group(writer, held)


def _write_group(writer: Any, batches: Sequence[Columns]) -> None:
    """Write the rows of some batches as one row group; of none, nothing."""
    import pyarrow as pa

    if batches:
        schema = writer.schema
        parts = [
            pa.RecordBatch.from_arrays(
                [pa.array(columns[name], schema.field(name).type) for name in schema.names],
                schema=schema,
            )
            for columns in batches
        ]
        table = pa.Table.from_batches(parts)
        writer.write_table(table, row_group_size=max(1, table.num_rows))


def digest_of(model: PatchClassifier, question: OwnQuestion) -> Callable[[Sequence[Path]], str]:
    """Return a function of a shard's images.

    What it returns tells shards apart that are not of the same images, model and question.
    """
    tiles = question.sight.tiles
    asked = (*question[:4], question.sight.resize, tiles, question.sight.scale, model.image_size)
    begun = hashlib.sha256(model.to_bytes())  # once for all shards
    begun.update(repr(asked).encode())

    def digest(sources: Sequence[Path]) -> str:
        whole = begun.copy()
        whole.update(repr([as_unicode(str(path)) for path in sources]).encode())
        return whole.hexdigest()

    return digest


@contextlib.contextmanager
def shard_to_write(
    out: Path,
    shard: Shard,
    digest: str,
    of: str,
    *,
    overwrite: bool = False,
    patience: float = 0,
) -> Iterator[IO[bytes] | None]:
    """Open a shard, which gets its name once it is whole; None: it is there already.

    Args:
        out: the folder of the shards, which is there.
        shard: which of them.
        digest: of what it is to hold.
        of: what its rows are of, such as "images".
        overwrite: write it anew though it is there.
        patience: seconds to wait for another process that writes it.

    Raises:
        InputError: another shard is there; another process writes it.
        SaveError: a full disk, for instance.
    """
    path = out / shard.file
    with _locked(out, shard, patience):
        if not overwrite and is_there(path, digest, of):
            yield None
            return
        with whole_file(path) as file:
            yield file


def is_there(path: Path, digest: str, of: str = "images") -> bool:
    """Return whether a shard is there, which is whole then.

    Args:
        path: its file.
        digest: of what it is to hold.
        of: what its rows are of.

    Raises:
        InputError: another one is.
    """
    if path.exists():
        _require_same(path, digest, of)
        return True
    return False


def _require_same(path: Path, digest: str, of: str) -> None:
    """Raise `InputError` unless a file is the shard that would be written."""
    from pyarrow import parquet

    try:
        told = json.loads((parquet.read_schema(path).metadata or {})[METADATA_KEY.encode()])
        known = told["digest"]
    except Exception as error:  # whatever the file holds
        raise InputError(
            f"{path} is not a shard of this command ({reason(error)}); name another `out`, or "
            "replace it with `overwrite`"
        ) from error
    if known != digest:
        raise InputError(
            f"{path} is a shard of other {of}, of another model or of other options; name "
            "another `out`, or replace it with `overwrite`"
        )


def refuse_more_shards(of: int, asked: str, count: int, what: str = "images") -> None:
    """Raise `InputError` where there would be shards with nothing in them."""
    if of > count:
        raise InputError(f"{asked}: there are {count} {what}, so at most {count} shards")


def refuse_other_shards(out: Path, of: int, asked: str) -> None:
    """Raise `InputError` where shards of another number lie, which have the same rows."""
    for path in sorted(out.glob("part-*-of-*.parquet")):
        match = re.fullmatch(r"part-[0-9]{5,}-of-([0-9]{5,})\.parquet", path.name)
        if match is not None and int(match[1]) != of:
            raise InputError(
                f"{printable(str(path))} is one of {int(match[1])} shards, and {asked}: name "
                "another `out`"
            )


@contextlib.contextmanager
def _locked(out: Path, shard: Shard, patience: float) -> Iterator[None]:
    """Keep other processes from writing a shard; the system frees a dead one's lock."""
    lock = FileLock(out / f".{shard.file}.lock")
    try:
        lock.acquire(timeout=patience)
    except Timeout as error:
        raise InputError(
            f"another process is writing shard {shard.number}/{shard.of} in {out}; wait for it, "
            "or take another shard"
        ) from error
    except OSError as error:
        raise SaveError(f"cannot write to {out}: {reason(error)}") from error
    try:
        yield
    finally:
        lock.release()
