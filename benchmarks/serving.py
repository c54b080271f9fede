"""How many requests `loss-attention serve` answers a second, how late, and in how much memory.

python benchmarks/serving.py

The client is our own: so many connections of this machine to itself, each of which asks again once
it is answered. A part of it, to try it: `--requests 100 --turns 1 --results elsewhere`.
"""

from __future__ import annotations

import contextlib
import http.client
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import tyro
from explaining_command import SIDE, make_images, small_network

from loss_attention.serve.counting import resident_bytes
from loss_attention.terminal import markdown_table

ROOT = Path(__file__).resolve().parent.parent
NAME = "serving"
TOGETHER, IN_ONE, WARM_UP = 8, 16, 32
"""Connections at a time; images of the requests that have several; requests before any is timed."""
FEWER = 4
"""Connections at a time where requests have several images: by default no more than 64 may wait."""
PARTS = 10
"""The memory is looked at after each of so many parts of the requests."""
FLAT = 1.05
"""Memory is flat that grows by less than this from the second part to the last."""
ADDRESS = re.compile(r"at http://([\d.]+):(\d+) ")
BOUNDARY = "b7c1"


@dataclass(frozen=True)
class Arguments:
    """What to measure."""

    requests: int = 10_000
    """Requests over which memory is measured; a twentieth of them times each way in a turn."""
    turns: int = 5
    """How often each way is timed, in turns."""
    results: Annotated[Path, tyro.conf.arg(help="Folder of the JSON file and the page.")] = (
        ROOT / "results"
    )


class Way(NamedTuple):
    """A kind of request.

    Attributes:
        path: what is asked.
        images: how many there are in a request.
        connections: how many ask at a time.
    """

    path: str
    images: int
    connections: int


WAYS = {
    "classes, one connection": Way("/v1/predict", 1, 1),
    f"classes, {TOGETHER} connections": Way("/v1/predict", 1, TOGETHER),
    f"classes, {IN_ONE} images a request, {FEWER} connections": Way("/v1/predict", IN_ONE, FEWER),
    f"map and boxes, {TOGETHER} connections": Way("/v1/explain", 1, TOGETHER),
    f"map, boxes and picture, {TOGETHER} connections": Way("/v1/explain?picture=true", 1, TOGETHER),
}


class Service(NamedTuple):
    """A service that runs."""

    host: str
    port: int
    pid: int


@contextlib.contextmanager
def serving(model: Path) -> Iterator[Service]:
    """Serve a model by the command, without the page, in a process of its own."""
    program = "from loss_attention.cli import main; main()"
    words = [sys.executable, "-c", program, "serve", str(model), "--no-page"]
    process = subprocess.Popen([*words, "--port", "0"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        match = ADDRESS.search(line)
        if match is None:
            sys.exit(f"serving: {' '.join(words)} said {line!r}")
        yield Service(match[1], int(match[2]), process.pid)
    finally:
        process.terminate()
        process.wait()


def asked(service: Service, way: Way, photos: Sequence[bytes], requests: int) -> list[float]:
    """Send requests over a connection, one after the other; return the seconds of each."""
    connection = http.client.HTTPConnection(service.host, service.port, timeout=60)
    seconds = []
    for number in range(requests):
        some = [photos[(number + n) % len(photos)] for n in range(way.images)]
        begun = time.perf_counter()
        connection.request("POST", way.path, *content(some))
        answer = connection.getresponse()
        text = answer.read()
        seconds.append(time.perf_counter() - begun)
        if answer.status != 200:
            sys.exit(f"serving: {way.path} was answered {answer.status}: {text[:200]!r}")
    connection.close()
    return seconds


def content(photos: Sequence[bytes]) -> tuple[bytes, dict[str, str]]:
    """Return the content of a request and its headers."""
    if len(photos) == 1:
        return photos[0], {"Content-Type": "image/jpeg"}
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="files"; filename="a.jpg"\r\n\r\n'
    parts = [head.encode() + photo + b"\r\n" for photo in photos]
    kind = f"multipart/form-data; boundary={BOUNDARY}"
    return b"".join([*parts, f"--{BOUNDARY}--\r\n".encode()]), {"Content-Type": kind}


def timed(
    service: Service, way: Way, photos: Sequence[bytes], requests: int
) -> tuple[float, list[float]]:
    """Return the seconds that requests take in all, over the connections of a way, and of each."""
    each = max(1, requests // way.connections)
    with ThreadPoolExecutor(way.connections) as pool:
        begun = time.perf_counter()
        lists = pool.map(lambda _: asked(service, way, photos, each), range(way.connections))
        seconds = [one for some in lists for one in some]
        return time.perf_counter() - begun, seconds


def forward_passes(photos: Sequence[bytes]) -> Any:
    """Return a function from images at a time to images a second of the bare forward pass."""
    import torch

    from loss_attention.data.decoding import read_image, to_tensor

    model = small_network()
    pixels = torch.stack([to_tensor(read_image(photo, 3)) for photo in photos])

    def rate(at_once: int, images: int) -> float:
        batches = [pixels[n % len(pixels) :][:at_once] for n in range(0, images, at_once)]
        begun = time.perf_counter()
        with torch.inference_mode():
            for batch in batches:
                model(batch)
        return sum(map(len, batches)) / (time.perf_counter() - begun)

    return rate


def measure_all(requests: int, turns: int) -> dict[str, Any]:
    """Return rates and latencies of each way in turn with the bare forward pass, and the memory."""
    from measuring import spread

    each = max(TOGETHER, requests // 20)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = folder / "model.safetensors"
        model.write_bytes(small_network().to_bytes())
        photos = [path.read_bytes() for path in make_images(folder / "in", 64)]
        forward = forward_passes(photos)
        found: dict[str, dict[str, list[float]]] = {}

        def add(way: str, **values: float) -> None:
            for what, value in values.items():
                found.setdefault(way, {}).setdefault(what, []).append(value)

        with serving(model) as service:
            for way in WAYS.values():
                timed(service, way, photos, WARM_UP)
            for at_once in (1, IN_ONE):
                forward(at_once, IN_ONE)
            for _ in range(turns):
                for at_once in (1, IN_ONE):
                    add(bare(at_once), images_per_second=forward(at_once, 2 * each))
                for name_of_way, way in WAYS.items():
                    count = max(TOGETHER, each // way.images)
                    whole, seconds = timed(service, way, photos, count)
                    percentile = statistics.quantiles(seconds, n=100, method="inclusive")
                    add(
                        name_of_way,
                        requests_per_second=len(seconds) / whole,
                        images_per_second=len(seconds) * way.images / whole,
                        median_ms=1000 * percentile[49],
                        p99_ms=1000 * percentile[98],
                    )
            memory = memory_over(service, photos, requests)
    return {
        "ways": {
            way: {what: spread(values) for what, values in one.items()}
            for way, one in found.items()
        },
        "memory_mib": memory,
    }


def bare(at_once: int) -> str:
    """Return what the bare forward pass is called."""
    return f"bare forward pass, {at_once} image{'s'[: at_once > 1]} at a time"


def memory_over(service: Service, photos: Sequence[bytes], requests: int) -> list[float]:
    """Return the MiB that the service has after each part of the requests, in equal parts."""
    way = Way("/v1/explain", 1, TOGETHER)
    memory = []
    for _ in range(PARTS):
        timed(service, way, photos, requests // PARTS)
        memory.append((resident_bytes(str(service.pid)) or 0) / 2**20)
    return memory


def page(numbers: dict[str, Any]) -> str:
    """Return the page of the numbers."""
    from measuring import shown

    rows = [
        [
            way,
            shown(one.get("requests_per_second"), 0),
            shown(one["images_per_second"], 0),
            shown(one.get("median_ms"), 1),
            shown(one.get("p99_ms"), 1),
        ]
        for way, one in numbers["ways"].items()
    ]
    headings = ["way", "requests a second", "images a second", "median, ms", "99th percentile, ms"]
    memory, machine = numbers["memory_mib"], numbers["hardware"]
    growth = memory[-1] / memory[1] if memory[1] else 0.0
    parts = [
        "# How fast `loss-attention serve` is",
        f"`{numbers['command']}`. JPEG files of {SIDE} x {SIDE} pixels, the network of the recipe "
        "`digits` in colour; the service with its usual limits, without the page, and the client "
        "on the same machine over its loopback, so both share its cores. Each way in turn with the "
        "others; median and range of the turns. Each connection asks again once it is answered. "
        "The forward pass has its images decoded, in memory.",
        markdown_table(headings, rows),
        f"Memory of the service after each tenth of {numbers['requests']:,} requests for maps: "
        f"{', '.join(f'{one:.0f}' for one in memory)} MiB; {growth:.2f} times as much at the end "
        f"as after two tenths ({'flat' if growth < FLAT else 'not flat'}).",
        f"Measured {numbers['measured']} on {machine['cpu']}, {machine['cores']} cores; torch "
        f"{numbers['versions']['torch']}.",
    ]
    if numbers["requests"] < Arguments().requests:
        parts.insert(1, "**Tried with few requests: no number here says anything.**")
    return "\n\n".join(parts) + "\n"


def measure(arguments: Arguments) -> list[Path]:
    """Measure, and write the JSON file and the page of it."""
    from measuring import keep_with_page

    numbers = {
        "command": "python benchmarks/serving.py",
        "requests": arguments.requests,
        **measure_all(arguments.requests, arguments.turns),
    }
    return keep_with_page(NAME, numbers, page, arguments.results)


def main() -> None:
    """Run the command."""
    from measuring import refuse_below, write_and_list

    arguments = tyro.cli(Arguments)
    least = {"requests": (arguments.requests, PARTS * TOGETHER), "turns": (arguments.turns, 1)}
    refuse_below("serving", least)
    write_and_list("serving", lambda: measure(arguments))


if __name__ == "__main__":
    main()
