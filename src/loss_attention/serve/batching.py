"""What arrives within a few milliseconds is given to the network together, in a bounded queue."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, NamedTuple, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class FullError(Exception):
    """So many wait already that no more are taken."""


class _Waiting(NamedTuple, Generic[Item, Result]):
    item: Item
    future: Future[Result]


class Batches(Generic[Item, Result]):
    """A thread that has one function work on many people's items at a time.

    Args:
        work: from the items of a batch to a result for each, in their order.
        most: items in a batch, at least 1.
        wait: seconds that the first of a batch waits for others.
        waiting: items that may wait.
        done: called with the number of items of each batch.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Item]], Sequence[Result]],
        *,
        most: int,
        wait: float,
        waiting: int,
        done: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._work, self._done = work, done
        self._most, self._wait, self._room = most, wait, waiting
        self._queue: deque[_Waiting[Item, Result]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._go_on, name="network", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """Return how many items wait."""
        return len(self._queue)

    def submit(self, items: Sequence[Item]) -> list[Future[Result]]:
        """Have items worked on, each of them or none.

        Returns:
            What will be their results. One that is cancelled before its turn is left out.

        Raises:
            FullError: too many wait already, or it is closed.
        """
        futures: list[Future[Result]] = [Future() for _ in items]
        with self._changed:
            if self._closed or len(self._queue) + len(items) > self._room:
                raise FullError
            self._queue.extend(map(_Waiting, items, futures))
            self._changed.notify()
        return futures

    def close(self) -> None:
        """Finish the batch that is worked on, and cancel what waits."""
        with self._changed:
            self._closed = True
            while self._queue:
                self._queue.popleft().future.cancel()
            self._changed.notify()
        self._thread.join()

    def _go_on(self) -> None:
        while some := self._next():
            # False: nobody waits for it any more.
            some = [one for one in some if one.future.set_running_or_notify_cancel()]
            if some:
                self._run(some)

    def _next(self) -> list[_Waiting[Item, Result]]:
        """Wait for a batch, and return it; none when closed."""
        with self._changed:
            while not (self._queue or self._closed):
                self._changed.wait()
            end = time.monotonic() + self._wait
            while len(self._queue) < self._most and not self._closed:
                left = end - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            return [self._queue.popleft() for _ in range(min(self._most, len(self._queue)))]

    def _run(self, some: Sequence[_Waiting[Item, Result]]) -> None:
        try:
            results = self._work([one.item for one in some])
            pairs = list(zip(some, results, strict=True))
        except Exception as error:  # whatever it is, those who wait are told, and it goes on
            for one in some:
                one.future.set_exception(error)
        else:
            for one, result in pairs:
                one.future.set_result(result)
            self._done(len(some))
