"""An extension of griffe, which reads docstrings: a section `Example:` is one of examples.

Griffe knows `Examples:` alone; a doctest under the singular would be taken for quoted text.
"""

from __future__ import annotations

import re
from typing import Any

import griffe


class SingularExamples(griffe.Extension):
    """Turn the heading of the section."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change the docstring of an object that was found."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(
                r"^( *)Example:$", r"\1Examples:", obj.docstring.value, flags=re.MULTILINE
            )
