"""The files around the code agree with it: pins, versions, clean text."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import loss_attention


@pytest.fixture(scope="module")
def project(repository: Path) -> dict[str, Any]:
    text = (repository / "pyproject.toml").read_text(encoding="utf-8")
    table: dict[str, Any] = tomllib.loads(text)
    return table


@pytest.fixture(scope="module")
def pins(repository: Path) -> dict[str, Version]:
    """The versions of requirements.txt; every line of it has to be a pin, a comment or empty."""
    lines = (repository / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pinned: dict[str, Version] = {}
    for line in lines:
        if line and not line.startswith("#"):
            match = re.fullmatch(r"([a-z0-9-]+)==([\w.]+)", line)
            assert match, f"not a pin: {line!r}"
            assert match[1] not in pinned, f"pinned twice: {match[1]}"
            pinned[match[1]] = Version(match[2])
    return pinned


@pytest.fixture(scope="module")
def tracked(repository: Path) -> list[Path]:
    """The repository's own text files."""
    if not (repository / ".git").exists():
        pytest.skip("no git checkout, so there is no list of its files")
    listing = subprocess.run(
        ["git", "ls-files", "-z"], cwd=repository, check=True, capture_output=True, text=True
    ).stdout
    files = [repository / name for name in listing.split("\0") if name]
    return [path for path in files if path.is_file() and b"\0" not in path.read_bytes()]


def test_pins_satisfy_what_the_package_asks_for(
    project: dict[str, Any], pins: dict[str, Version]
) -> None:
    wanted = [
        *project["project"]["dependencies"],
        *project["project"]["optional-dependencies"]["dev"],
        *project["project"]["optional-dependencies"]["docs"],
        *project["build-system"]["requires"],
    ]
    assert len(wanted) > 20
    for requirement in map(Requirement, wanted):
        pin = pins.get(canonicalize_name(requirement.name))
        assert pin is not None, f"{requirement} has no pin"
        assert pin in requirement.specifier, f"{requirement} is pinned to {pin}"
    assert pins["torch"] == Version("2.13.0")


def test_the_package_itself_needs_none_of_the_extras(project: dict[str, Any]) -> None:
    needed = {
        canonicalize_name(Requirement(one).name) for one in project["project"]["dependencies"]
    }
    assert not {"torchvision", "timm", "transformers", "captum", "mkdocs"} & needed


def test_versions_agree(project: dict[str, Any], repository: Path) -> None:
    assert project["project"]["version"] == loss_attention.__version__
    changes = (repository / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## \[?(\d+\.\d+\.\d+)", changes, re.MULTILINE)
    assert newest
    assert newest[1] == loss_attention.__version__


@pytest.mark.parametrize(
    "pattern",
    [
        # In pieces, so that this file is not its own finding.
        "/wo" + "rk/",
        "/ro" + "ot/",
        r"/ho" + r"me/\w",
        "py" + r"pi\.org",
        "pythonhos" + r"ted\.org",
        r"download\.py" + r"torch\.org",
        "npm" + r"js\.org",
        "deb" + r"ian\.org",
    ],
)
def test_no_file_names_a_machine_or_a_registry(pattern: str, tracked: list[Path]) -> None:
    assert len(tracked) > 20
    found = [
        f"{path}:{number}"
        for path in tracked
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if re.search(pattern, line)
    ]
    assert not found


def test_links_between_documents_lead_somewhere(tracked: list[Path]) -> None:
    pages = [path for path in tracked if path.suffix == ".md"]
    assert pages
    broken = []
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)\s]+)\)|<img[^>]* src=\"([^\"]+)\"", text):
            link = (target[0] or target[1]).split("#")[0]
            if link and "://" not in link and not (page.parent / link).exists():
                broken.append(f"{page.name}: {link}")
    assert not broken


def test_files_of_the_release_agree_with_the_package(
    repository: Path, project: dict[str, Any]
) -> None:
    citation = yaml.safe_load((repository / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == project["project"]["version"]
    assert citation["license"] == project["project"]["license"]
    workflows = {
        path.stem: yaml.safe_load(path.read_text(encoding="utf-8"))
        for path in (repository / ".github" / "workflows").glob("*.yml")
    }
    assert sorted(workflows) == ["release", "test"]
    tested = workflows["test"]["jobs"]["versions"]["strategy"]["matrix"]["python"]
    words = "Programming Language :: Python :: 3."
    named = [one for one in project["project"]["classifiers"] if one.startswith(words)]
    assert [f"3.{one.removeprefix(words)}" for one in named] == tested
    assert f">={tested[0]}" == project["project"]["requires-python"]
    # A tag is compared with this very line.
    line = f'version = "{project["project"]["version"]}"'
    assert line in (repository / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    for job in (job for flow in workflows.values() for job in flow["jobs"].values()):
        assert all("uses" in step or "run" in step for step in job["steps"])
