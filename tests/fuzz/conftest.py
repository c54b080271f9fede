"""A process for hostile inputs that all tests of this room share."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from fuzz.harness import Harness, report

Fuzz = Callable[[str], None]


@pytest.fixture(scope="session")
def harness() -> Iterator[Harness]:
    """Runs cases."""
    with Harness() as started:
        yield started


@pytest.fixture
def fuzz(harness: Harness, request: pytest.FixtureRequest) -> Fuzz:
    """Try a kind's valid inputs and as many changed ones as `--fuzz` says."""
    count: int = request.config.getoption("--fuzz")

    def tried(kind: str) -> None:
        bad = [one for one in harness.valid(kind) if one.outcome.name != "ok"]
        bad += [one for one in harness.run(kind, count) if not one.outcome.good]
        if bad:
            pytest.fail(report(bad), pytrace=False)

    return tried
