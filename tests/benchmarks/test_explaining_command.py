"""The page on the command's speed, from numbers put in by hand, and what it is timed on."""

from __future__ import annotations

import json
from pathlib import Path

import pages
from explaining_command import FORMS, TABLE, make_images, page, small_network
from measuring import spread
from PIL import Image

FOUND = {
    "measured": "2026-01-02",
    "hardware": {"cpu": "a CPU", "cores": 2, "device": "CPU", "precision": "32"},
    "versions": {"python": "3.11", "torch": "2.13"},
    "command": "python benchmarks/explaining_command.py",
    "images": 2000,
    "one_photo": {
        "seconds": spread([3.0]),
        "import_torch_seconds": spread([1.5]),
        "above_seconds": spread([1.5]),
    },
    "rates": {
        "forward pass": {"images_per_second": spread([600.0]), "of_forward": spread([1.0])},
        TABLE: {"images_per_second": spread([500.0]), "of_forward": spread([0.9, 0.8, 0.7])},
        "JSON and png": {"images_per_second": spread([149.0]), "of_forward": spread([0.25])},
        "JSON and jpeg": {"images_per_second": spread([151.0]), "of_forward": spread([0.25])},
    },
}


def test_the_page_says_what_is_reached_and_what_is_not(tmp_path: Path) -> None:
    text = page(FOUND)
    assert f"| {TABLE} | 500 | 0.80 (0.70 to 0.90) | 0.8 of the forward pass: met |" in text
    assert "| JSON and png | 149 | 0.25 | 150 a second: not met |" in text
    assert "| JSON and jpeg | 151 | 0.25 | 150 a second: met |" in text
    assert "above it 1.50 s (goal: at most 1.3 s, not met)" in text
    assert "Tried with few images" not in text
    assert "Tried with few images" in page(FOUND | {"images": 20})
    (tmp_path / "explain-rate.json").write_text(json.dumps(FOUND), encoding="utf-8")
    pages.write_summary(tmp_path)
    assert "at 0.80 of the forward pass's rate" in (tmp_path / "README.md").read_text("utf-8")


def test_what_is_timed_is_what_the_page_says(tmp_path: Path) -> None:
    first, second = make_images(tmp_path / "in", 2)
    with Image.open(first) as one, Image.open(second) as other:
        assert one.size == small_network().image_size
        assert one.tobytes() != other.tobytes()
    assert set(FORMS) == {"png", "webp", "jpeg"}
