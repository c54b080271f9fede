"""What arrives together is worked on together, in a bounded queue; an error is its batch's."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError

import pytest

from loss_attention.errors import InputError
from loss_attention.serve.batching import Batches, FullError
from loss_attention.serve.counting import Counts
from loss_attention.serve.limits import Limits


class Work:
    """Doubles numbers once it is let; remembers its batches."""

    def __init__(self) -> None:
        self.let, self.begun = threading.Event(), threading.Event()
        self.batches: list[list[int]] = []

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.begun.set()
        assert self.let.wait(60)
        self.batches.append(list(items))
        if 13 in items:
            raise ValueError("13")
        return [2 * item for item in items]


@pytest.fixture
def work() -> Iterator[Work]:
    work = Work()
    yield work
    work.let.set()


def test_what_waits_is_taken_together_and_in_order(work: Work) -> None:
    counted: list[int] = []
    batches = Batches(work, most=4, wait=0.0, waiting=100, done=counted.append)
    first = batches.submit([0])
    assert work.begun.wait(60)
    later = [batches.submit([number, number + 1]) for number in (1, 3, 5)]
    assert len(batches) == 6
    work.let.set()
    assert [one.result() for some in (first, *later) for one in some] == [0, 2, 4, 6, 8, 10, 12]
    assert work.batches == [[0], [1, 2, 3, 4], [5, 6]]
    batches.close()
    assert counted == [1, 4, 2]


def test_the_first_waits_for_others(work: Work) -> None:
    work.let.set()
    batches = Batches(work, most=2, wait=60.0, waiting=100)
    [first] = batches.submit([1])
    assert not work.begun.wait(0.05)
    [second] = batches.submit([2])  # the batch is full, so that it waits no longer
    assert (first.result(60), second.result(60)) == (2, 4)
    assert work.batches == [[1, 2]]
    batches.close()


def test_all_of_a_request_or_none_of_it_waits(work: Work) -> None:
    batches = Batches(work, most=1, wait=0.0, waiting=3)
    batches.submit([0])
    assert work.begun.wait(60)
    batches.submit([1, 2])
    with pytest.raises(FullError):
        batches.submit([3, 4])
    last = batches.submit([3])
    work.let.set()
    assert last[0].result(60) == 6
    assert work.batches == [[0], [1], [2], [3]]
    batches.close()
    with pytest.raises(FullError):
        batches.submit([5])


def test_what_nobody_waits_for_is_left_out(work: Work) -> None:
    batches = Batches(work, most=8, wait=0.0, waiting=8)
    batches.submit([0])
    assert work.begun.wait(60)
    some = batches.submit([1, 2, 3])
    assert some[1].cancel()
    work.let.set()
    assert some[2].result(60) == 6
    assert work.batches == [[0], [1, 3]]
    batches.close()


def test_an_error_is_told_to_its_batch_and_the_next_is_answered(work: Work) -> None:
    batches = Batches(work, most=2, wait=0.0, waiting=8)
    batches.submit([0])
    assert work.begun.wait(60)
    wrong, right = batches.submit([13, 1]), batches.submit([2])
    work.let.set()
    for one in wrong:
        with pytest.raises(ValueError, match="13"):
            one.result(60)
    assert right[0].result(60) == 4
    batches.close()


def test_closing_cancels_what_waits(work: Work) -> None:
    batches = Batches(work, most=1, wait=0.0, waiting=8)
    [first] = batches.submit([1])
    assert work.begun.wait(60)
    [second] = batches.submit([2])
    closing = threading.Thread(target=batches.close)
    closing.start()
    with pytest.raises(CancelledError):
        second.result(60)
    work.let.set()
    closing.join(60)
    assert first.result(60) == 2


def test_counts_are_as_prometheus_reads_them() -> None:
    counts = Counts()
    counts.request("/v1/predict", 200, 0.03)
    counts.request("/v1/predict", 200, 7.0)
    counts.request("/v1/explain", 422, 0.2)
    counts.request("page", 200, None)
    counts.images(5)
    counts.batch(3)
    counts.batch(2)
    lines = counts.text(waiting=4).splitlines()
    assert 'loss_attention_requests_total{path="/v1/predict",status="200"} 2' in lines
    assert 'loss_attention_requests_total{path="page",status="200"} 1' in lines
    assert 'loss_attention_request_seconds_bucket{le="0.025"} 0' in lines
    assert 'loss_attention_request_seconds_bucket{le="0.05"} 1' in lines
    assert 'loss_attention_request_seconds_bucket{le="0.25"} 2' in lines
    assert 'loss_attention_request_seconds_bucket{le="+Inf"} 3' in lines
    assert "loss_attention_request_seconds_sum 7.230000" in lines
    assert "loss_attention_request_seconds_count 3" in lines
    assert "loss_attention_images_total 5" in lines
    assert "loss_attention_batch_images_sum 5" in lines
    assert "loss_attention_batch_images_count 2" in lines
    assert "loss_attention_waiting_images 4" in lines
    names = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("limits", "wrong"),
    [
        ({"max_mb": 0}, "`max_mb` must be above 0"),
        ({"max_seconds": float("nan")}, "`max_seconds` must be above 0 and finite"),
        ({"max_megapixels": 90}, "`max_megapixels` must be at most 89"),
        ({"batch_size": 0}, "`batch_size` must be at least 1"),
        ({"max_waiting": 4}, "`max_waiting` must be at least `max_images`, 16"),
        ({"batch_wait_ms": -1}, "`batch_wait_ms` must be at least 0"),
    ],
)
def test_limits_that_no_request_can_keep_to(limits: dict[str, float], wrong: str) -> None:
    with pytest.raises(InputError, match=wrong):
        Limits(**limits)  # type: ignore[arg-type]
