"""What the service counts, in Prometheus' text format, version 0.0.4."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper ends of the buckets of the histogram of how long requests take."""
PREFIX = "loss_attention"


class Counts:
    """Counters, which any thread may add to."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._within: Counter[float] = Counter()
        self._timed = self._images = self._batches = self._batched = 0
        self._seconds = 0.0

    def request(self, path: str, status: int, seconds: float | None) -> None:
        """Count a request, and how long it took, where that says something."""
        with self._lock:
            self._requests[path, status] += 1
            if seconds is None:
                return
            self._timed += 1
            self._seconds += seconds
            self._within.update(end for end in SECONDS if seconds <= end)

    def images(self, count: int) -> None:
        """Count answered images."""
        with self._lock:
            self._images += count

    def batch(self, images: int) -> None:
        """Count a batch of so many images."""
        with self._lock:
            self._batches += 1
            self._batched += images

    def text(self, waiting: int) -> str:
        """Return all counts.

        Args:
            waiting: images that wait for the network.
        """
        with self._lock:
            return "\n".join(self._lines(waiting)) + "\n"

    def _lines(self, waiting: int) -> Iterator[str]:
        yield from _head("requests_total", "counter", "Requests that were answered.")
        for (path, status), count in sorted(self._requests.items()):
            yield f'{PREFIX}_requests_total{{path="{path}",status="{status}"}} {count}'
        yield from _head("request_seconds", "histogram", "Seconds until the API answered.")
        for end in SECONDS:
            yield f'{PREFIX}_request_seconds_bucket{{le="{end:g}"}} {self._within[end]}'
        yield f'{PREFIX}_request_seconds_bucket{{le="+Inf"}} {self._timed}'
        yield f"{PREFIX}_request_seconds_sum {self._seconds:.6f}"
        yield f"{PREFIX}_request_seconds_count {self._timed}"
        yield from _head("images_total", "counter", "Images that the network has answered.")
        yield f"{PREFIX}_images_total {self._images}"
        yield from _head("batch_images", "summary", "Images that the network took at a time.")
        yield f"{PREFIX}_batch_images_sum {self._batched}"
        yield f"{PREFIX}_batch_images_count {self._batches}"
        yield from _head("waiting_images", "gauge", "Images that wait for the network.")
        yield f"{PREFIX}_waiting_images {waiting}"
        memory = resident_bytes()
        if memory is not None:
            yield "# HELP process_resident_memory_bytes Resident memory size in bytes."
            yield "# TYPE process_resident_memory_bytes gauge"
            yield f"process_resident_memory_bytes {memory}"


def _head(name: str, kind: str, what: str) -> Iterator[str]:
    yield f"# HELP {PREFIX}_{name} {what}"
    yield f"# TYPE {PREFIX}_{name} {kind}"


def resident_bytes(process: str = "self") -> int | None:
    """Return the bytes of memory that a process has, where the system says (Linux)."""
    try:
        pages = Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return None
