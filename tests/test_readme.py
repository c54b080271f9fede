"""Every command and every Python block of README.md runs, as `markdown_pages.py` says.

A page that is wrong is found out.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from markdown_pages import run_page


@pytest.mark.timeout(3600)
@pytest.mark.usefixtures("own_images", "own_bags")
def test_readme_runs_from_top_to_bottom(repository: Path, clone: Path) -> None:
    page = (repository / "README.md").read_text(encoding="utf-8")
    done = run_page(page, clone)
    assert (clone / "runs" / "demo" / "report.html").is_file()
    # The README is to show how to do all of these; a page that has lost one has lost its point.
    for purpose in ("demo", "train photos", "train bags", "resume", "explain", "compare"):
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
