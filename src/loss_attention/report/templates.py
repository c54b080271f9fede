"""The templates of pages, in which no text that is given becomes markup or a control character."""

from __future__ import annotations

from importlib import resources
from typing import Any

from loss_attention.errors import printable

PACKAGE = "loss_attention.report"


def part(name: str) -> str:
    """Return a file of a page, which is within it: its style, its script."""
    return resources.files(PACKAGE).joinpath(name).read_text("utf-8")


def template(name: str) -> Any:
    """Return a template; what is rendered into it is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("loss_attention", "report"),
        autoescape=True,
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def _shown(value: Any) -> Any:
    """Escape control characters in texts of the page that are not its own markup."""
    return printable(value) if type(value) is str else value
