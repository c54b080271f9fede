"""Work that goes on beside the network: images read ahead by threads, files written by processes.

Little is ever held: as many results as wait for their turn are bounded, and all come in order.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any, Protocol, TypeVar

from loss_attention.errors import KilledError
from loss_attention.interruption import blocked_signals, leave_signals_to_the_parent

MOST_THREADS = 8
WORTH_PROCESSES = 100
"""Images from which processes that draw are worth the second in which they begin."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class Submit(Protocol):
    """Has somebody call a function with some values, now or soon."""

    def __call__(self, function: Callable[..., Result], /, *values: Any) -> Future[Result]:
        """Return what will be the function's result."""


def in_order(
    submit: Submit, function: Callable[[Item], Result], items: Iterable[Item], most: int
) -> Iterator[Result]:
    """Yield a function's result for each item, in order, while others work on the next ones.

    Args:
        submit: who works.
        function: what is done with an item.
        items: taken only as they are needed.
        most: items that are worked on or wait for their turn, at least 1.

    Example:
        >>> list(in_order(at_once, abs, [-1, 2, -3], most=2))
        [1, 2, 3]
    """
    pending: deque[Future[Result]] = deque()
    for item in items:
        pending.append(submit(function, item))
        if len(pending) >= most:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def ahead(submit: Submit, items: Iterator[Item]) -> Iterator[Item]:
    """Yield items, the next one being made by another thread meanwhile.

    Example:
        >>> list(ahead(at_once, iter("abc")))
        ['a', 'b', 'c']
    """
    end = object()
    coming: Future[Any] = submit(next, items, end)
    while (item := coming.result()) is not end:
        coming = submit(next, items, end)
        yield item


def at_once(function: Callable[..., Result], /, *values: Any) -> Future[Result]:
    """Call a function now, where nobody else works."""
    done: Future[Result] = Future()
    done.set_result(function(*values))
    return done


@contextmanager
def threads(count: int) -> Iterator[Submit]:
    """Lend threads; what they have not begun when the context ends is left."""
    pool = ThreadPoolExecutor(count, thread_name_prefix="read")
    try:
        yield pool.submit
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def processes(
    count: int, option: str = "workers", begin: Callable[[], object] = bool
) -> Iterator[Submit]:
    """Lend processes, which finish what they have begun when the context ends, and leave the rest.

    Args:
        count: how many; 0: none, and everything is done on the spot.
        option: what a user calls their number.
        begin: what each does first.

    Raises:
        KilledError: one of them died.
    """
    if count == 0:
        yield at_once
        return
    pool = ProcessPoolExecutor(
        count, mp_context=get_context("spawn"), initializer=_begun, initargs=(begin,)
    )

    def submit(function: Callable[..., Result], /, *values: Any) -> Future[Result]:
        with blocked_signals():  # or one to the whole group would end a worker that begins
            return pool.submit(function, *values)

    try:
        yield submit
    except BrokenProcessPool as error:
        raise KilledError(
            f"a process of `{option}` was ended, most likely for want of memory; ask for fewer"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _begun(begin: Callable[[], object]) -> None:
    leave_signals_to_the_parent()
    begin()


def cores() -> int:
    """Return how many cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def suitable_processes(images: int) -> int:
    """Return how many processes draw and write the pictures of so many images."""
    return cores() if images >= WORTH_PROCESSES else 0
