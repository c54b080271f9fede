"""Every command and every Python block of README.md runs, as `markdown_pages.py` says.

A page that is wrong is found out.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from markdown_pages import run_page
from PIL import Image


@pytest.fixture
def small_cifar10(clone: Path) -> Path:
    """A folder in CIFAR-10's layout on the hub, with 60 training and 20 test images."""
    import datasets

    rng = np.random.default_rng(0)
    names = [
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ]
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=names))
    folder = clone / "small-cifar10"
    folder.mkdir()
    for split, count in (("train", 60), ("test", 20)):
        pictures = [
            Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)) for _ in range(count)
        ]
        columns = {"image": pictures, "label": [number % 10 for number in range(count)]}
        made = datasets.Dataset.from_dict(columns, features=features)
        made.to_parquet(folder / f"{split}.parquet")
    return folder


@pytest.mark.timeout(3600)
@pytest.mark.usefixtures("own_images", "small_cifar10")
def test_readme_runs_from_top_to_bottom(repository: Path, clone: Path) -> None:
    page = (repository / "README.md").read_text(encoding="utf-8")
    done = run_page(page, clone)
    assert (clone / "runs" / "demo" / "report.html").is_file()
    # The README is to show how to do all of these; a page that has lost one has lost its point.
    for purpose in ("demo", "train cifar10-small", "train photos", "resume", "explain"):
        assert any(f"loss-attention {purpose} " in command for command in done), purpose
    assert "python" in done


@pytest.mark.parametrize(
    ("page", "complaint"),
    [
        ("```bash\nloss-attention no-such-word\n```", "line 1: `loss-attention no-such-word`"),
        ("```bash\ntrue\nloss-attention recipes --wrong\n```", "exited with 2"),
        ("```console\n$ ls no-such-file\nnothing\n```", "no-such-file"),
        ("```bash\nmake no-such-target\n```", "No rule to make target"),
        ("```python\nimport loss_attention\nloss_attention.no_such_name\n```", "no_such_name"),
        ("```\nno language\n```", "unknown kind ''"),
        ("<!-- test: gone + --epochs 1 -->\n```bash\ntrue\n```", "no command here begins"),
        ("<!-- test: gone + --epochs 1 -->\ntext\n```bash\ntrue\n```", "right above a block"),
        ("<!-- test: skip -->\n```bash\ntrue\n```", "not of the form"),
        ("```bash\ntrue\n", "not closed"),
    ],
)
def test_a_page_that_is_wrong_is_found_out(page: str, complaint: str, clone: Path) -> None:
    with pytest.raises(AssertionError, match=re.escape(complaint)):
        run_page(page, clone)


def test_flags_are_added_to_the_command_they_name(clone: Path) -> None:
    block = "```sh\n# said twice\necho one  # once\necho \\\n  three\n```"
    page = f"<!-- test: echo one + two -->\n\n{block}"
    assert run_page(page, clone) == ["echo one two", "echo    three"]
