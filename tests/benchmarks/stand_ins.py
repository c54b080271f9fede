"""What the tests of benchmarks put in place of commands that take long."""

from __future__ import annotations

import json
from pathlib import Path


def write_json(path: Path, **values: object) -> None:
    """Write what a command would, and the folder that it would be in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))
