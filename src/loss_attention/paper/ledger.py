"""The ledger: what has been measured, with what it was measured on, in one JSON file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from loss_attention.errors import InputError
from loss_attention.saving import make_folder, write_whole

LEDGER_FILE = "ledger.json"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Record:
    """The figures of one training with one seed.

    Attributes:
        training: its key, see `cells.training_key`.
        seed: the seed.
        recipe: the whole recipe.
        measures: by name; None where undefined.
        floors: of each measure that has some, what constant answers score, by name.
        minutes: of training, validation included.
        source: what the data was, in a line.
        test_images: how many images the figures are of.
        hardware: see `training.environment.hardware`.
        versions: of Python and the packages that decide figures, ours included.
        finished: the day, ISO 8601.
    """

    training: str
    seed: int
    recipe: dict[str, Any]
    measures: dict[str, float | None]
    floors: dict[str, dict[str, float | None]]
    minutes: float
    source: str
    test_images: int
    hardware: dict[str, Any]
    versions: dict[str, str]
    finished: str


class Ledger:
    """The records in one file. Reading is lenient about nothing; writing is whole or not at all.

    Args:
        path: the file; it need not exist yet.

    Raises:
        InputError: it is damaged, or from another version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._records = _read(path)

    def get(self, training: str, seed: int) -> Record | None:
        """Return a record, None where it has not been measured."""
        return self._records.get((training, seed))

    def seeds(self, training: str) -> list[Record]:
        """Return all records of a training, by seed."""
        found = [record for (key, _), record in self._records.items() if key == training]
        return sorted(found, key=lambda record: record.seed)

    def add(self, record: Record) -> None:
        """Add a record, or replace the one of the same training and seed, and write the file.

        What another command wrote into the file meanwhile is kept.
        """
        self._records = {**_read(self.path), (record.training, record.seed): record}
        rows = [asdict(self._records[key]) for key in sorted(self._records)]
        content = json.dumps({"format_version": FORMAT_VERSION, "records": rows}, indent=1)
        make_folder(self.path.parent)
        write_whole(self.path, content + "\n")


def _read(path: Path) -> dict[tuple[str, int], Record]:
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content["format_version"]
        if version != FORMAT_VERSION:
            raise InputError(
                f"the ledger {path} is of format {version}, this version of loss-attention reads "
                f"format {FORMAT_VERSION}: use the version that wrote it, or another --out"
            )
        records = [Record(**row) for row in content["records"]]
    except InputError:
        raise
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} is damaged or no ledger of loss-attention ({error!r})") from error
    return {(record.training, record.seed): record for record in records}
