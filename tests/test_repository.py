"""The files around the code agree with it: pins, versions, the drawing of the house, clean text."""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import loss_attention

HOUSE_LINE = re.compile(r"(?P<floor>\d| )  (?P<room>[\w/]+\.py)  +\S.*")


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
        *project["build-system"]["requires"],
    ]
    assert len(wanted) > 20
    for requirement in map(Requirement, wanted):
        pin = pins.get(canonicalize_name(requirement.name))
        assert pin is not None, f"{requirement} has no pin"
        assert pin in requirement.specifier, f"{requirement} is pinned to {pin}"
    assert pins["torch"] == Version("2.13.0")


def test_pins_leave_out_what_only_extras_need(pins: dict[str, Version]) -> None:
    # captum is among them all the same: the tests compare with it.
    assert not {"torchvision", "timm"} & set(pins)


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


@pytest.fixture(scope="module")
def rooms(repository: Path) -> dict[str, Path]:
    """The modules of the package by their path below it."""
    source = repository / "src" / "loss_attention"
    return {
        path.relative_to(source).as_posix(): path
        for path in sorted(source.rglob("*.py"))
        if path.name != "__init__.py"
    }


@pytest.fixture(scope="module")
def house(repository: Path) -> dict[str, int]:
    """The floor of each module in the drawing of docs/architecture.md.

    A line of it is `FLOOR  folder/module.py  what it is`; a line without a floor is on that of the
    line above.
    """
    page = (repository / "docs" / "architecture.md").read_text(encoding="utf-8")
    _, drawing = page.split("<!-- house -->")
    placed: dict[str, int] = {}
    floor = 0
    for line in drawing.split("```")[1].splitlines()[1:]:
        match = HOUSE_LINE.fullmatch(line)
        assert match, f"docs/architecture.md: no line of the house: {line!r}"
        floor = int(match["floor"]) if match["floor"] != " " else floor
        assert match["room"] not in placed, f"drawn twice: {match['room']}"
        placed[match["room"]] = floor
    return placed


def imported_rooms(path: Path, rooms: dict[str, Path]) -> set[str]:
    """Return the modules of the package that a module imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names = [node.module or ""]
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        paths = {name.removeprefix("loss_attention.").replace(".", "/") + ".py" for name in names}
        found |= paths & set(rooms)
    return found


def test_every_room_is_drawn(rooms: dict[str, Path], house: dict[str, int]) -> None:
    assert not set(rooms) - set(house), "give these their line in docs/architecture.md"
    assert not set(house) - set(rooms), "docs/architecture.md draws what is not there"


def test_rooms_stand_on_rooms_below(rooms: dict[str, Path], house: dict[str, int]) -> None:
    upward = [
        f"{room} (floor {house[room]}) imports {below} (floor {house[below]})"
        for room, path in rooms.items()
        for below in imported_rooms(path, rooms)
        if room in house and house.get(below, 0) > house[room]
    ]
    assert not upward


def test_no_circle_of_imports(rooms: dict[str, Path]) -> None:
    graph = {room: imported_rooms(path, rooms) for room, path in rooms.items()}
    assert graph["models.py"] >= {"prediction.py", "heads/catalog.py"}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle
