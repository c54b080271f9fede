"""One case, from its number to what became of it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from fuzz.judging import RANKS, Outcome, judged
from fuzz.kinds import DATA, KINDS, case


def run(kind: str, seed: int, number: int, folder: Path) -> tuple[Outcome, Sequence[str]]:
    """Make a case in a folder and do with it what users do.

    Of the things that users do each case has one, in turn; valid inputs have all.

    Returns:
        The worst outcome, and what was changed in the valid input.
    """
    made, entries = case(kind, seed, number), KINDS[kind].entries
    outcomes = []
    for entry in dict.fromkeys(entries) if number < 0 else (entries[number % len(entries)],):
        made.write(folder)
        outcomes.append(judged(partial(entry, folder / DATA / made.given)))
        shutil.rmtree(folder, ignore_errors=True)
    return max(outcomes, key=lambda outcome: RANKS.index(outcome.name)), made.changes
