"""What a request may cost, and how one is refused; light, as the command's options are."""

from __future__ import annotations

import math
from dataclasses import dataclass

from loss_attention.errors import InputError, printable

MOST_MEGAPIXELS = 89
"""What `data.decoding.MOST_PIXELS` allows, without Pillow."""
RETRY_SECONDS = 1
"""After so long a request that met a full queue may come again."""


class RequestError(Exception):
    """A request that is refused, in one line for people.

    Attributes:
        status: of HTTP: 4xx where another request would be answered, 503 where a later one would.
        line: why.
    """

    def __init__(self, status: int, line: str) -> None:
        super().__init__(status, line)
        self.status, self.line = status, printable(line)

    @property
    def headers(self) -> dict[str, str]:
        """What the answer says beside the line."""
        return {"Retry-After": str(RETRY_SECONDS)} if self.status == 503 else {}


@dataclass(frozen=True)
class Limits:
    """What a request may cost, and how requests are put together."""

    max_mb: float = 32
    """Megabytes of a request, all its images together, above 0."""
    max_megapixels: float = 40
    """Megapixels of an image, above 0 and at most 89; looked at before it is decoded."""
    max_images: int = 16
    """Images of a request, at least 1."""
    max_seconds: float = 30
    """Seconds that a request may take to arrive, and as many to be answered, above 0."""
    max_waiting: int = 64
    """Requests that are answered or wait, and images that wait for the network, at least 1; what
    comes beyond is told to come again."""
    batch_size: int = 16
    """Images that the network takes at a time, at least 1; of large ones fewer."""
    batch_wait_ms: float = 5
    """Milliseconds that an image waits for others to be taken together with, at least 0."""

    def __post_init__(self) -> None:
        """Refuse what no request could keep to.

        Raises:
            InputError: a limit out of its range.
        """
        for name in ("max_mb", "max_megapixels", "max_seconds"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise InputError(f"`{name}` must be above 0 and finite, got {value}")
        if self.max_megapixels > MOST_MEGAPIXELS:
            raise InputError(
                f"`max_megapixels` must be at most {MOST_MEGAPIXELS}, got {self.max_megapixels:g}"
            )
        for name in ("max_images", "max_waiting", "batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"`{name}` must be at least 1, got {getattr(self, name)}")
        if self.max_images > self.max_waiting:
            raise InputError(
                f"`max_waiting` must be at least `max_images`, {self.max_images}, got "
                f"{self.max_waiting}: a request of so many images would always be refused"
            )
        if not (math.isfinite(self.batch_wait_ms) and self.batch_wait_ms >= 0):
            raise InputError(f"`batch_wait_ms` must be at least 0, got {self.batch_wait_ms}")

    @property
    def bytes(self) -> int:
        """The bytes of a request."""
        return int(self.max_mb * 1e6)

    @property
    def pixels(self) -> int:
        """The pixels of an image."""
        return int(self.max_megapixels * 1e6)

    def check_bytes(self, count: int) -> None:
        """Raise `RequestError` for a request of more bytes."""
        if count > self.bytes:
            raise RequestError(413, f"the request is larger than {self.max_mb:g} MB")

    def check_images(self, count: int) -> None:
        """Raise `RequestError` for no image, or too many."""
        if count == 0:
            raise RequestError(422, "the request has no image: send each as a part `files`")
        if count > self.max_images:
            raise RequestError(422, f"{count} images in a request, at most {self.max_images}")
