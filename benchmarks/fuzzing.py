"""Changed inputs of every kind, thousands of each, and what became of them.

    python benchmarks/fuzzing.py                    # 5,000 of each kind, two processes
    python benchmarks/fuzzing.py coco --count 300   # some of one kind
    python benchmarks/fuzzing.py coco 17            # one case again
    python benchmarks/fuzzing.py coco 17 --keep /tmp/case    # and its files, to look at

What is changed how, and what counts as good, is in tests/fuzz/.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from fuzz.harness import Harness, report, summary
from fuzz.kinds import DATA, KINDS, case

COUNT = 5000
PROCESSES = 2


def fuzzing(
    kinds: Sequence[str] = tuple(KINDS), count: int = COUNT, seed: int = 0
) -> dict[str, Any]:
    """Try so many changed inputs of each kind.

    Returns:
        Figures by kind as `fuzz.harness.summary` has them, each with a `report` of what was bad.
    """

    def one(kind: str) -> dict[str, Any]:
        with Harness() as harness:
            tried = harness.run(kind, count, seed=seed)
        bad = [found for found in tried if not found.outcome.good]
        figures = summary(tried) | {"report": report(bad) if bad else ""}
        print(f"{kind}: {figures['good']:,} of {figures['tried']:,} good", flush=True)
        return figures

    # Of threads that only wait for the processes that do it.
    with ThreadPoolExecutor(PROCESSES) as pool:
        found = dict(zip(kinds, pool.map(one, kinds), strict=True))
    return {"command": "python benchmarks/fuzzing.py", "count": count, "seed": seed, "kinds": found}


def again(kind: str, number: int, seed: int, keep: Path | None) -> bool:
    """Run one case, print what became of it, and return whether that is good."""
    with Harness() as harness:
        (tried,) = harness.run(kind, 1, seed=seed, first=number)
    print(tried)
    if keep is not None:
        case(kind, seed, number).write(keep)
        print(f"its files are in {keep / DATA}")
    return tried.outcome.good


def main() -> None:
    """Run what the command line asks for; exit with 1 where something is not good."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", nargs="?", choices=KINDS)
    parser.add_argument("number", nargs="?", type=int)
    parser.add_argument("--count", type=int, default=COUNT, help="cases of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="a folder for the files of the one case")
    given = parser.parse_args()
    if given.number is not None:
        sys.exit(not again(given.kind, given.number, given.seed, given.keep))
    found = fuzzing([given.kind] if given.kind else tuple(KINDS), given.count, given.seed)
    reports = [f"{kind}: {figures['report']}" for kind, figures in found["kinds"].items()]
    reports = [text for text in reports if not text.endswith(": ")]
    print("\n\n".join(reports) or "all good")
    sys.exit(bool(reports))


if __name__ == "__main__":
    main()
