"""The harness sees what it is to see: each way to go wrong, done on purpose."""

from __future__ import annotations

import mmap
import threading
from collections.abc import Callable
from typing import Any

import pytest
from fuzz import judging
from fuzz.harness import Harness, Tried, report
from fuzz.judging import Network, Outcome, judged
from fuzz.kinds import KINDS, case

from loss_attention.errors import InputError


class UnescapedError(InputError):
    """An error that shows what it was given, as errors did before they escaped it."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.args = (text,)


def refused(text: str) -> Callable[[], None]:
    def entry() -> None:
        raise UnescapedError(text)

    return entry


def test_what_is_read_or_refused_in_a_line_is_good() -> None:
    assert judged(lambda: None).name == "ok"
    told = judged(refused("a.csv row 3: no label"))
    assert (told.name, told.text, told.good) == ("told", "a.csv row 3: no label", True)


@pytest.mark.parametrize(
    "text", ["", "two\nlines", "\x1b[31mred", "a\udcff.png", "x" * 2001, "a\0b"]
)
def test_a_line_that_cannot_be_shown_is_not(text: str) -> None:
    assert judged(refused(text)).name == "misprinted"


@pytest.mark.parametrize("error", [KeyError("a"), RecursionError(), SystemExit(1), UserWarning()])
def test_other_errors_are_not(error: BaseException) -> None:
    def entry() -> None:
        raise error

    found = judged(entry)
    assert (found.name, found.good) == ("raised", False)
    assert type(error).__name__ in found.text


def test_memory_beyond_the_bound_is_seen_even_where_its_error_was_told() -> None:
    def entry() -> None:
        try:
            bytearray(2**31)
        except MemoryError as error:
            raise InputError("it does not fit in memory") from error

    assert judged(entry).name == "memory"


def test_memory_that_was_used_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "MOST_BYTES", 2**24)

    def entry() -> None:
        # Not from the heap, which may have as much left over from the tests before.
        with mmap.mmap(-1, 2**25) as memory:
            memory[:: mmap.PAGESIZE] = bytes(2**25 // mmap.PAGESIZE)

    found = judged(entry)
    assert found.name == "memory"
    assert found.peak > 2**24


def test_what_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "MOST_SECONDS", 0.02)

    def entry() -> None:
        while True:
            pass

    assert judged(entry).name == "slow"


def test_what_waits_for_ever_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "_BLOCKED_AFTER", 0.05)
    assert judged(lambda: threading.Event().wait(100) and None).name == "hung"


def test_who_asks_for_the_network_is_seen() -> None:
    def entry() -> None:
        try:
            raise Network("asked for huggingface.co")
        except Network as error:
            raise InputError("the hub cannot be reached") from error

    assert judged(entry).name == "network"


def test_a_case_is_the_same_each_time() -> None:
    cases = [case(kind, 0, number) for kind in KINDS for number in range(8)]
    again = [case(kind, 0, number) for kind in KINDS for number in range(8)]
    assert cases == again
    assert cases[0] != case("yolo", 1, 0)


def test_a_process_that_dies_is_named_and_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    ask, asked = Harness._ask, []

    def ask_and_kill(self: Harness, *words: Any) -> None:
        ask(self, *words)
        if not asked:
            assert self._process is not None
            self._process.kill()
        asked.append(words)

    monkeypatch.setattr(Harness, "_ask", ask_and_kill)
    with Harness() as harness:
        died, next_one = harness.run("png", 2)
    assert asked == [("png", 0, 0, 2), ("png", 0, 1, 2)]
    assert (died.outcome.name, died.number) == ("died", 0)
    assert next_one.outcome.good


def test_a_report_says_how_to_see_it_again() -> None:
    bad = [
        Tried(
            "csv", 3, number, Outcome("raised", f"KeyError: {number}", ("listed.py:9 f",)), ("a",)
        )
        for number in (5, 7)
    ]
    text = report(bad)
    assert text.startswith("2 cases went wrong, of 1 causes\n2 like csv 5 (seed 3): raised")
    assert "python benchmarks/fuzzing.py csv 5 --seed 3" in text
