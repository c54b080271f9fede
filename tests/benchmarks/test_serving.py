"""The page on the service's speed, from numbers put in by hand, and what is sent to it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pages
import pytest
from measuring import spread
from serving import WAYS, content, page

FOUND = {
    "measured": "2026-01-02",
    "hardware": {"cpu": "a CPU", "cores": 2, "device": "CPU", "precision": "32"},
    "versions": {"python": "3.11", "torch": "2.13"},
    "command": "python benchmarks/serving.py",
    "requests": 10_000,
    "memory_mib": [300.0, 310.0, *[312.0] * 7, 315.0],
    "ways": {
        "bare forward pass, 1 image at a time": {"images_per_second": spread([600.0])},
        "classes, one connection": {
            "requests_per_second": spread([100.0, 90.0, 120.0]),
            "images_per_second": spread([100.0, 90.0, 120.0]),
            "median_ms": spread([9.0]),
            "p99_ms": spread([20.0]),
        },
    },
}


def test_the_page_says_how_fast_it_is_and_whether_memory_grows(tmp_path: Path) -> None:
    text = page(FOUND)
    assert "| bare forward pass, 1 image at a time | - | 600 | - | - |" in text
    row = "| classes, one connection | 100 (90 to 120) | 100 (90 to 120) | 9.0 | 20.0 |"
    assert row in text
    assert "1.02 times as much at the end as after two tenths (flat)" in text
    assert "(not flat)" in page(FOUND | {"memory_mib": [300.0, 310.0, 400.0]})
    assert "Tried with few requests" not in text
    assert "Tried with few requests" in page(FOUND | {"requests": 100})
    (tmp_path / "serving.json").write_text(json.dumps(FOUND), encoding="utf-8")
    pages.write_summary(tmp_path)
    said = (tmp_path / "README.md").read_text("utf-8")
    assert "up to 100 requests a second (classes, one connection)" in said


def test_what_is_sent_is_a_form_of_as_many_images() -> None:
    requests = pytest.importorskip("starlette.requests")
    most = max(way.images for way in WAYS.values())
    body, headers = content([b"first", *[b"next"] * (most - 1)])

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def read() -> list[bytes]:
        pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        request = requests.Request({"type": "http", "headers": pairs}, receive)
        async with request.form() as form:
            return [await one.read() for one in form.getlist("files")]

    assert asyncio.run(read()) == [b"first", *[b"next"] * (most - 1)]
    assert content([b"one"]) == (b"one", {"Content-Type": "image/jpeg"})
