"""What became of a case, judged inside the process that ran it: good, or what was wrong."""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

MOST_SECONDS = 5.0
"""Of the processor, for one case."""
MOST_BYTES = 2**30
"""Of memory, for one case."""
_MOST_ADDRESSED = MOST_BYTES + 2**29
"""Asking for more than this fails: threads and allocators ask for more than they use."""
_BLOCKED_AFTER, _HUNG_AFTER = 10.0, 120.0
"""Seconds of the clock; only guards against waiting for ever."""
_LONGEST_LINE = 2000

GOOD = ("ok", "told")
"""Read; or refused in one line that can be printed."""
RANKS = (*GOOD, "misprinted", "raised", "memory", "slow", "hung", "network", "died")
"""From the best to the worst: a case is as bad as the worst of what was done with it."""


@dataclass(frozen=True)
class Outcome:
    """What became of a case.

    Attributes:
        name: one of `RANKS`.
        text: the line, or what was raised.
        frames: the last places in the package, the outermost first.
        seconds: of the processor.
        peak: bytes of memory above what the process held before.
    """

    name: str
    text: str = ""
    frames: tuple[str, ...] = ()
    seconds: float = 0.0
    peak: int = 0

    @property
    def good(self) -> bool:
        """Whether it is as it should be."""
        return self.name in GOOD

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


class TooLong(BaseException):
    """A case takes too long: no `except Exception` may keep it."""


class Network(BaseException):
    """Something asked for the network."""


def judged(entry: Callable[[], None]) -> Outcome:
    """Do something that may go wrong, and judge it."""
    clear_peak()
    before, started = memory("VmRSS"), time.process_time()
    try:
        with _guarded():
            entry()
        outcome = Outcome("ok")
    except BaseException as error:
        outcome = _of_error(error)
    seconds, peak = time.process_time() - started, max(0, memory("VmHWM") - before)
    if outcome.good and peak > MOST_BYTES:
        outcome = Outcome("memory", f"{peak / 2**20:,.0f} MiB", outcome.frames)
    if outcome.good and seconds > MOST_SECONDS:
        outcome = Outcome("slow", f"{seconds:.1f} seconds", outcome.frames)
    return Outcome(outcome.name, outcome.text, outcome.frames, seconds, peak)


def _of_error(error: BaseException) -> Outcome:
    from loss_attention.errors import ReportedError

    chain = list(_chain(error))
    frames = tuple(frame for one in reversed(chain) for frame in _frames(one))
    text = f"{type(error).__name__}: {str(error)[:300]}"
    named = [(TooLong, "slow"), (Network, "network")]
    for kind, name in named:
        if any(isinstance(one, kind) for one in chain):
            found = next(one for one in chain if isinstance(one, kind))
            name = "hung" if "clock" in str(found) else name
            return Outcome(name, str(found), frames)
    if any(map(_is_want_of_memory, chain)):
        return Outcome("memory", text, frames)
    if isinstance(error, ReportedError):
        wrong = _wrong_line(str(error))
        return Outcome("misprinted", wrong, frames) if wrong else Outcome("told", str(error))
    if type(error).__name__ == "MisprintError":
        return Outcome("misprinted", text, frames)
    return Outcome("raised", text, frames)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and those that led to it."""
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__ or found.__context__


def _frames(error: BaseException) -> list[str]:
    """Return where in the package, and at last in which library, an error came from."""
    stack = traceback.extract_tb(error.__traceback__)
    ours = [
        f"{frame.filename.rpartition('loss_attention/')[2]}:{frame.lineno} {frame.name}"
        for frame in stack
        if "loss_attention" in Path(frame.filename).parts and "tests" not in frame.filename
    ]
    return ours[-3:]


def _is_want_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(
        words in text
        for words in ("can't allocate", "cannot allocate", "unable to allocate", "malloc of size")
    )


def _wrong_line(text: str) -> str:
    """Say what is wrong with a line that people are told; "" for nothing."""
    from loss_attention.errors import printable

    if not text.strip():
        return "an empty line"
    if len(text) > _LONGEST_LINE:
        return f"a line of {len(text):,} characters: {text[:200]!r}"
    return "" if printable(text) == text else f"a line that is not printable: {text[:300]!r}"


@contextmanager
def _guarded() -> Iterator[None]:
    """Bound seconds and memory of what is done."""
    started, waited = time.process_time(), time.monotonic()

    def too_slow(number: int, frame: FrameType | None) -> None:
        raise TooLong(f"over {MOST_SECONDS:.0f} seconds of the processor")

    def blocked(number: int, frame: FrameType | None) -> None:
        used, passed = time.process_time() - started, time.monotonic() - waited
        if used < 0.05 * passed or passed > _HUNG_AFTER:
            raise TooLong(f"{passed:.0f} seconds of the clock, {used:.1f} of the processor")

    kept = signal.signal(signal.SIGPROF, too_slow), signal.signal(signal.SIGALRM, blocked)
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (memory("VmData") + _MOST_ADDRESSED, hard))
    signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS, 1.0)
    waiting = signal.setitimer(signal.ITIMER_REAL, _BLOCKED_AFTER, _BLOCKED_AFTER)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
        signal.signal(signal.SIGPROF, kept[0])
        signal.signal(signal.SIGALRM, kept[1])
        signal.setitimer(signal.ITIMER_REAL, *waiting)  # whoever else guards against waiting


def memory(field: str) -> int:
    """Return bytes of this process: VmRSS now, VmHWM at most since `clear_peak`, VmData asked."""
    if sys.platform != "linux":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    raise KeyError(field)


def clear_peak() -> None:
    """Forget the most memory that this process has held, where the system can."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def no_network() -> None:
    """Make whatever would ask for the network raise, the hub first of all."""
    import socket

    import huggingface_hub

    from loss_attention import model
    from loss_attention.data import loading

    def refused(*words: Any, **named: Any) -> Any:
        raise Network(f"asked for {words!r:.200}")

    os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
    connect = socket.socket.connect
    for name, module in (
        ("open_hub", loading),
        ("hf_hub_download", model),
        ("hf_hub_download", huggingface_hub),
        ("snapshot_download", huggingface_hub),
        ("getaddrinfo", socket),
        ("create_connection", socket),
    ):
        if hasattr(module, name):
            setattr(module, name, refused)

    def only_here(self: socket.socket, address: Any) -> Any:
        return connect(self, address) if self.family == socket.AF_UNIX else refused(address)

    socket.socket.connect = only_here  # type: ignore[method-assign]
    warnings.simplefilter("ignore")
