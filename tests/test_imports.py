"""What importing costs, and the house: rooms stand only on rooms below them, without circles."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

import loss_attention

PACKAGE = "loss_attention"
SOURCE = Path(loss_attention.__file__).parent

# The floor of each room; docs/architecture.md draws the same house.
LEVELS = {
    "errors": 0,
    "interruption": 0,
    "saving": 0,
    "terminal": 0,
    "attention": 1,
    "backbones": 1,
    "data": 1,
    "geometry": 1,
    "explanation": 2,
    "images": 2,
    "metrics": 2,
    "prediction": 2,
    "weights_file": 2,
    "heads": 3,
    "losses": 3,
    "model_config": 4,
    "models": 4,
    "evaluation": 5,
    "inference": 5,
    "training": 5,
    "attribution": 6,
    "paper": 6,
    "report": 6,
    "runs": 6,
    "cli": 7,
    "__main__": 7,
}


def modules() -> dict[str, Path]:
    """Every module of the package but its front door, by dotted name within the package."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name:
            found[name] = path
    return found


def imports_of(source: str, known: set[str]) -> set[str]:
    """The package's own modules that a module imports anywhere, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports in this package are absolute"
            # `from package.room import module` and `from package.module import name` alike
            targets = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for target in targets:
            if target.split(".")[0] == PACKAGE:
                found.add(_module(target.split(".")[1:], known))
    return found - {""}


def _module(parts: list[str], known: set[str]) -> str:
    """The longest known module that a dotted name starts with; a public name's home."""
    if parts and parts[0] in loss_attention.__all__:
        return loss_attention._HOMES[parts[0]]
    for end in range(len(parts), 0, -1):
        if ".".join(parts[:end]) in known:
            return ".".join(parts[:end])
    return ""


def import_graph() -> dict[str, set[str]]:
    found = modules()
    known = set(found)
    return {name: imports_of(path.read_text("utf-8"), known) for name, path in found.items()}


def test_the_reader_of_imports_finds_them_all() -> None:
    source = (
        "import os\nimport loss_attention.models\nfrom loss_attention import geometry, load\n"
        "from loss_attention.heads import catalog\n"
        "def late():\n    from loss_attention.cli import main\n"
        "from loss_attention import __version__\n"
    )
    known = {"models", "geometry", "heads", "heads.catalog", "cli"}
    assert imports_of(source, known) == {"models", "geometry", "heads.catalog", "cli"}


def test_every_room_has_its_floor() -> None:
    homeless = sorted({name.split(".")[0] for name in modules()} - set(LEVELS))
    assert not homeless, f"give {homeless} a level here and a line in docs/architecture.md"


def test_nothing_imports_upward() -> None:
    upward = [
        f"{name} (level {LEVELS[room]}) imports {target} (level {LEVELS[below]})"
        for name, targets in import_graph().items()
        for target in sorted(targets)
        if LEVELS[(room := name.split(".")[0])] < LEVELS[(below := target.split(".")[0])]
    ]
    assert not upward, "\n".join(upward)


def test_there_are_no_circles() -> None:
    graph = import_graph()
    assert len(graph) > 20
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_no_two_rooms_stand_on_each_other() -> None:
    """Rooms of one floor may share, but in one direction only."""
    rooms: dict[str, set[str]] = {}
    for name, targets in import_graph().items():
        room = name.split(".")[0]
        rooms.setdefault(room, set()).update({t.split(".")[0] for t in targets} - {room})
    graphlib.TopologicalSorter(rooms).prepare()


def loaded_after(statement: str) -> set[str]:
    """The top-level modules that a fresh interpreter has loaded after a statement."""
    program = f"{statement}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True
    )
    return set(result.stdout.split())


def test_importing_the_package_is_light() -> None:
    loaded = loaded_after("import loss_attention")
    assert "loss_attention" in loaded
    heavy = {"torch", "numpy", "torchvision", "timm", "datasets", "sklearn", "matplotlib"}
    assert not loaded & heavy


def test_creating_a_model_needs_neither_torchvision_nor_timm() -> None:
    loaded = loaded_after("import loss_attention as la; la.create_model(width=0.01)")
    assert "torch" in loaded
    unneeded = {"torchvision", "timm", "datasets", "sklearn", "matplotlib", "torchmetrics"}
    assert not loaded & unneeded


@pytest.mark.parametrize("name", loss_attention.__all__)
def test_public_names_resolve(name: str) -> None:
    assert callable(getattr(loss_attention, name))
    assert name in dir(loss_attention)


def test_public_names_are_those_of_the_design() -> None:
    assert {
        "patch_weights",
        "capsule_weights",
        "single_label_loss",
        "multi_label_loss",
        "ramp_up",
        "create_model",
        "load",
    } <= set(loss_attention.__all__)
    assert sorted(loss_attention._HOMES) == sorted(loss_attention.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'create_modell'"):
        _ = loss_attention.create_modell
