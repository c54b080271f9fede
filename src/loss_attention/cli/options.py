"""Options read from a function's parameters, and what the command prints of fields and errors."""

from __future__ import annotations

import contextlib
import inspect
import io
import re
import sys
import typing
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from loss_attention.errors import InputError, printable
from loss_attention.training.recipe import Accelerator

if TYPE_CHECKING:
    from rich.console import Console

Flat = tyro.conf.arg(name="")
"""Of a parameter that is a dataclass: its fields are options by their own names."""
Run = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(help="The run's folder.")]
Device = Annotated[Accelerator, tyro.conf.arg(help="auto: a GPU where there is one.")]

Call = Callable[["Console"], int]


def parse(function: Callable[..., int], arguments: list[str], words: str, **defaults: Any) -> Call:
    """Read the options of a subcommand; tyro's boxed complaint becomes one line.

    Args:
        function: the subcommand, from a console and what its options say to the exit code. Its
            docstring is what `--help` says.
        arguments: as typed.
        words: the subcommand as typed, for messages.
        defaults: of parameters that have none, or another one.

    Returns:
        The call that is asked for, which takes the console.

    Raises:
        InputError: options that the function does not take, or values of another type.
    """

    def asked(*values: Any, **options: Any) -> Call:
        return lambda console: function(console, *values, **options)

    hints = _hints(function)
    parameters = inspect.signature(function).parameters
    asked.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            parameters[name].replace(
                annotation=hint, default=defaults.get(name, parameters[name].default)
            )
            for name, hint in hints.items()
        ]
    )
    asked.__annotations__, asked.__doc__ = hints, function.__doc__
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(asked, args=arguments, prog=f"loss-attention {words}")
    except SystemExit as stop:
        if not stop.code:
            raise
        raise InputError(_one_line(complaint.getvalue(), words)) from None


def option_names(function: Callable[..., int]) -> frozenset[str]:
    """Return the fields that are options of a subcommand: parameters, and fields of dataclasses."""
    names: set[str] = set()
    for name, hint in _hints(function).items():
        kind = typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint
        names |= {field.name for field in fields(kind)} if is_dataclass(kind) else {name}
    return frozenset(names)


def _hints(function: Callable[..., int]) -> dict[str, Any]:
    """Return the types of a subcommand's parameters but for the console, in their order."""
    hints = typing.get_type_hints(function, localns={"Console": object}, include_extras=True)
    return {name: hint for name, hint in hints.items() if name not in ("console", "return")}


def as_options(message: str, names: frozenset[str]) -> str:
    """Return a message of the library with fields as the options that they are on a command line.

    Example:
        >>> as_options("`in_channels` must be 1 or 3", frozenset({"in_channels"}))
        '--in-channels must be 1 or 3'
    """

    def option(match: re.Match[str]) -> str:
        return f"--{match[1].replace('_', '-')}" if match[1] in names else match[0]

    return re.sub(r"`([a-z_]+)`", option, message)


def make_console(names: frozenset[str]) -> Console:
    """Return the console of a subcommand, which says fields as the options that they are here."""
    from rich.console import Console
    from rich.text import Text

    class CommandConsole(Console):
        def print(self, *objects: Any, **how: Any) -> None:
            super().print(*map(self._named, objects), **how)

        def _named(self, what: Any) -> Any:
            if isinstance(what, Text) and not what.spans and "`" in what.plain:
                return Text(as_options(what.plain, names), what.style)
            return what

    return CommandConsole(markup=False, highlight=False, emoji=False)


def fail(message: str, code: int = 2) -> int:
    """Print an error in one line, and return the exit code."""
    print(f"loss-attention: {printable(message)}", file=sys.stderr)
    return code


def _one_line(complaint: str, words: str) -> str:
    text = re.sub(r"\x1b\[[0-9;]*m", "", complaint)
    # Where the terminal has no letters for boxes, their rules are of plain dashes.
    lines = [line.strip("│╭╮╰╯─ \t") for line in text.splitlines() if line.strip("─-= \t")]
    message = re.sub(r"\s+", " ", " ".join(lines)).strip()
    message = re.split(r" (?:Got errors:|Argument helptext:|For full helptext)", message)[0]
    titles = (
        "Parsing error|Value error|Invalid choice|Missing argument|(Unrecognized|Required) options"
    )
    message = re.sub(f"^({titles}) ", "", message)
    # Of the nearest flag keep its name, not its whole entry.
    message = re.sub(r"Perhaps you meant: (--\S+).*", r"did you mean \1?", message)
    return f"{message.rstrip('.')}; see loss-attention {words} --help"
