"""Changed inputs of every kind, thousands of each, and what became of them.

    python benchmarks/fuzzing.py --keep              # 5,000 of each kind, to results/reliability.*
    python benchmarks/fuzzing.py coco --count 300    # some of one kind
    python benchmarks/fuzzing.py coco 17             # one case again
    python benchmarks/fuzzing.py coco 17 --files case    # and its files, to look at

What is changed how, and what counts as good, is in tests/fuzz/.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from reliability import keep_part

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from fuzz.harness import Harness, Tried, report  # noqa: E402
from fuzz.judging import MOST_BYTES, MOST_SECONDS  # noqa: E402
from fuzz.kinds import DATA, KINDS, case  # noqa: E402

COUNT = 5000
PROCESSES = 2


def fuzzed(kinds: Sequence[str], count: int, seed: int = 0) -> dict[str, list[Tried]]:
    """Try so many changed inputs of each kind, and say of each kind how many are good."""

    def one(kind: str) -> list[Tried]:
        with Harness() as harness:
            tried = harness.run(kind, count, seed=seed)
        print(f"{kind}: {row(kind, tried)['good']:,} of {count:,} good", flush=True)
        return tried

    # In threads that only wait for the processes that do it.
    with ThreadPoolExecutor(PROCESSES) as pool:
        return dict(zip(kinds, pool.map(one, kinds), strict=True))


def fuzz_part(tried: dict[str, list[Tried]], seed: int = 0) -> dict[str, Any]:
    """Return the part of results/reliability.json that changed inputs make."""
    return {
        "title": "Hostile files",
        "about": "Small valid inputs of each kind, changed at random: bytes flipped, cut, put in "
        "and taken out, and values, keys, rows, elements, members and sizes that cannot be. Good "
        "is what is read, or refused in one line that can be printed, within "
        f"{MOST_SECONDS:.0f} seconds of the processor and {MOST_BYTES // 2**20:,} MiB of memory, "
        "without the network.",
        "command": "python benchmarks/fuzzing.py --keep",
        "seeds": [seed],
        "columns": {
            "read": "read",
            "refused": "refused in one line",
            "most_seconds": "seconds at most",
            "most_mib": "MiB at most",
        },
        "rows": [row(kind, found) for kind, found in tried.items()],
    }


def row(kind: str, tried: Sequence[Tried]) -> dict[str, Any]:
    """Return how many cases of a kind ended how, and the most that one of them took."""
    counts = Counter(one.outcome.name for one in tried)
    return {
        "what": kind,
        "tried": len(tried),
        "good": counts["ok"] + counts["told"],
        "read": counts["ok"],
        "refused": counts["told"],
        "most_seconds": max(one.outcome.seconds for one in tried),
        "most_mib": max(one.outcome.peak for one in tried) // 2**20,
    }


def again(kind: str, number: int, seed: int, files: Path | None) -> bool:
    """Run one case, print what became of it, and return whether that is good."""
    with Harness() as harness:
        (tried,) = harness.run(kind, 1, seed=seed, first=number)
    print(tried)
    if files is not None:
        case(kind, seed, number).write(files)
        print(f"its files are in {files / DATA}")
    return tried.outcome.good


def main() -> None:
    """Do what the command line asks for; exit with 1 where something is not good."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", nargs="?", choices=KINDS)
    parser.add_argument("number", nargs="?", type=int)
    parser.add_argument("--count", type=int, default=COUNT, help="cases of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", action="store_true", help="write results/reliability.*")
    parser.add_argument("--files", type=Path, help="a folder for the files of the one case")
    given = parser.parse_args()
    if given.number is not None:
        sys.exit(not again(given.kind, given.number, given.seed, given.files))
    found = fuzzed([given.kind] if given.kind else list(KINDS), given.count, given.seed)
    if given.keep:
        print(keep_part("fuzz", fuzz_part(found, given.seed), ROOT / "results"))
    bad = [one for tried in found.values() for one in tried if not one.outcome.good]
    print(report(bad) if bad else "all good")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
