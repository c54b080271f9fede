"""results/reliability.md: what was done to the library on purpose, and how often it ended well.

A part is what one command tried. Its rows are what was tried, how often, and how often that was
good; `columns` are further figures of the rows, by what to call them:

    {"title": "Signals", "about": "A run gets ...", "command": "python benchmarks/...",
     "seeds": [0], "columns": {"most_seconds": "seconds at most"},
     "rows": [{"what": "SIGTERM", "tried": 20, "good": 20, "most_seconds": 1.5}]}

Parts are kept in results/reliability.json, each with the machine and the date of its own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from measuring import stand

from loss_attention.terminal import markdown_table

NAME = "reliability"
Part = dict[str, Any]


def keep_part(name: str, part: Part, folder: Path) -> Path:
    """Put a part that was measured now in the place of the one before, and write the page anew."""
    import torch

    path = folder / f"{NAME}.json"
    parts = json.loads(path.read_text(encoding="utf-8"))["parts"] if path.exists() else {}
    about = stand()
    about["hardware"]["vector_units"] = torch.backends.cpu.get_cpu_capability()
    parts[name] = about | part
    folder.mkdir(exist_ok=True)
    text = json.dumps(about | {"parts": parts}, indent=2, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8")
    page = folder / f"{NAME}.md"
    page.write_text(reliability_page(parts), encoding="utf-8")
    return page


def reliability_page(parts: dict[str, Part]) -> str:
    """Return the whole page."""
    pieces = [
        "# What goes wrong on purpose",
        "Each row: what was done, how often, and how often it ended as it should. Where the two "
        "numbers differ, the command says what went wrong and how to see it again.",
        markdown_table(
            ["part", "tried", "good"],
            [[part["title"], *_counts(part["rows"])] for part in parts.values()],
        ),
    ]
    for part in parts.values():
        pieces += [f"## {part['title']}", part["about"], _stand(part), _rows(part)]
    return "\n\n".join(pieces) + "\n"


def _counts(rows: list[dict[str, Any]]) -> list[str]:
    return [f"{sum(row[name] for row in rows):,}" for name in ("tried", "good")]


def _rows(part: Part) -> str:
    columns = part.get("columns", {})
    rows = [
        [row["what"], *_counts([row]), *(_shown(row.get(name)) for name in columns)]
        for row in part["rows"]
    ]
    if len(rows) > 1:
        rows.append(["all", *_counts(part["rows"]), *("" for _ in columns)])
    return markdown_table(["what", "tried", "good", *columns.values()], rows)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.1f}"
    return f"{value:,}" if isinstance(value, int) else str("" if value is None else value)


def _stand(part: Part) -> str:
    machine, versions = part["hardware"], part["versions"]
    seeds = ", ".join(map(str, part["seeds"]))
    return (
        f"`{part['command']}`, {'seed' if len(part['seeds']) == 1 else 'seeds'} {seeds}. Measured "
        f"{part['measured']} on {machine['cpu']}, {machine['cores']} cores, vector units "
        f"{machine['vector_units']}, {machine.get('memory_gib', '?')} GiB; {machine['system']}; "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + "."
    )
