"""The command `loss-attention`: a subcommand is a function, and its parameters are its options.

torch and all that stands on it load when a subcommand starts, so `--help` answers at once.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import re
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import partial
from io import TextIOWrapper
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import tyro

from loss_attention import __version__
from loss_attention.bags.recipe import BAGS, BagRunRecipe
from loss_attention.cli import bags, checking, elsewhere, explaining, serving, subcommands, tiles
from loss_attention.cli.subcommands import fail
from loss_attention.errors import InputError, ReportedError, unknown_name
from loss_attention.interruption import KEYBOARD, ending_on_signals
from loss_attention.training.recipe import Recipe
from loss_attention.training.recipes import RECIPES, recipe

if TYPE_CHECKING:
    from rich.console import Console


class Subcommand(NamedTuple):
    """A function and its line of the overview.

    The function is called with a console and with what the options say, and returns the exit code.
    """

    run: Callable[..., int]
    usage: str
    summary: str


SUBCOMMANDS: dict[str, Subcommand] = {
    "train": Subcommand(
        subcommands.train,
        "train RECIPE [--field VALUE ...]",
        "train, checkpoint, evaluate and report",
    ),
    "resume": Subcommand(subcommands.resume, "resume RUN", "continue an interrupted run"),
    "evaluate": Subcommand(
        subcommands.evaluate,
        "evaluate RUN [--data DATA]",
        "score a run beside its trivial baselines",
    ),
    "explain": Subcommand(
        explaining.explain,
        "explain RUN IMAGE|FOLDER ... --out DIR",
        "show where the evidence lies",
    ),
    "predict": Subcommand(
        elsewhere.predict,
        "predict RUN|FILE IMAGE|FOLDER|BAGS ...",
        "name the class of images or bags; exported files need no torch",
    ),
    "export": Subcommand(
        elsewhere.export,
        "export RUN --out FILE.onnx",
        "write a model as ONNX, torch.export or OpenVINO, its evidence included",
    ),
    "serve": Subcommand(
        serving.serve,
        "serve RUN|FILE [--port PORT]",
        "serve a model as a web page and an HTTP API",
    ),
    "compare": Subcommand(
        subcommands.compare,
        "compare RUN [--methods A,B,...]",
        "compare methods of explanation",
    ),
    "tile": Subcommand(
        tiles.tile,
        "tile IMAGES --tile PIXELS --out DIR",
        "make bags of images: features of their tiles",
    ),
    "crossval": Subcommand(
        bags.crossval,
        "crossval --data BAGS --out DIR [--poolings A B ...]",
        "cross-validate classifiers of bags of instances, side by side",
    ),
    "report": Subcommand(
        subcommands.report, "report RUN", "evaluate a run and write its report.html again"
    ),
    "reproduce": Subcommand(
        subcommands.reproduce,
        "reproduce TABLE|FIGURE ... [--scale smoke]",
        "reproduce tables and figures of the paper",
    ),
    "data": Subcommand(
        checking.check_data,
        "data check PATH [--group COLUMN|PATTERN] [--out PICTURE]",
        "show what a data set contains, with warnings and errors",
    ),
    "recipes": Subcommand(
        subcommands.recipes, "recipes", "list the recipes, with expected scores and times"
    ),
    "demo": Subcommand(
        subcommands.demo, "demo [--out DIR]", "train on digits, and compare with mean pooling"
    ),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; its exit codes are those of docs/running.md."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):  # letters that an encoding lacks are no reason to fail
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        with ending_on_signals():
            code = _run(arguments)
    except ReportedError as error:
        code = fail(as_options(str(error), _named(arguments)), error.exit_code)
    except KeyboardInterrupt as stop:
        code = fail(str(stop) or "interrupted", getattr(stop, "exit_code", KEYBOARD))
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        sys.stderr.close()
        code = 0
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return 0
    if arguments[0] == "--version":
        print(f"loss-attention {__version__}")
        return 0
    name, *rest = arguments
    if name not in SUBCOMMANDS:
        raise unknown_name("subcommand", name, SUBCOMMANDS)
    parsed = partial(parse, _function(arguments))
    if name == "train":
        if not rest or rest[0].startswith("-"):
            if rest and rest[0] in ("-h", "--help"):
                print("usage: loss-attention train RECIPE [--field VALUE ...]\n")
                print(f"{subcommands.recipe_list()}\n")
                print("the fields of a recipe: loss-attention train RECIPE --help")
                return 0
            names = ", ".join([*RECIPES, BAGS])
            raise InputError(f"train needs the name of a recipe first: {names}")
        base = BagRunRecipe() if rest[0] == BAGS else _of_one_length(recipe(rest[0]), rest[1:])
        call = parsed(rest[1:], f"train {rest[0]}", recipe=base)
    elif name == "data":
        if not rest or rest[0] not in ("check", "-h", "--help"):
            raise InputError("data needs a subcommand after it: data check PATH [--out PICTURE]")
        call = parsed(rest[1:] if rest[0] == "check" else rest, "data check")
    else:
        call = parsed(rest, name)
    return call(make_console(_named(arguments)))


def _of_one_length(base: Recipe, arguments: list[str]) -> Recipe:
    """Return a recipe without its own length where the arguments say one in the other unit."""
    given = {argument.partition("=")[0] for argument in arguments}
    if "--steps" in given and "--epochs" not in given:
        return replace(base, steps=base.steps or 1, epochs=0)
    if "--epochs" in given and "--steps" not in given:
        return replace(base, steps=None, epochs=base.epochs or 1)
    return base


def _function(arguments: list[str]) -> Callable[..., int]:
    """Return the function that these arguments, a known subcommand first, are for."""
    name, *rest = arguments
    if name == "train" and rest[:1] == [BAGS]:
        return bags.train
    return bags.function_for(name, rest, SUBCOMMANDS[name].run, option_names)


def _named(arguments: list[str]) -> dict[str, str]:
    """Return the fields that the subcommand of these arguments has as options, with these."""
    if not arguments or arguments[0] not in SUBCOMMANDS:
        return {}
    try:
        return option_names(_function(arguments))
    except InputError:  # an option that it has not, which is being told
        return {}


def _overview() -> str:
    width = max(len(subcommand.usage) for subcommand in SUBCOMMANDS.values())
    lines = [f"  {one.usage:<{width}}  {one.summary}" for one in SUBCOMMANDS.values()]
    return "\n".join(
        [
            "usage: loss-attention SUBCOMMAND ...",
            "",
            "Image classifiers whose decision is, exactly, a weighted sum of image patches.",
            "",
            *lines,
            "",
            "  loss-attention SUBCOMMAND --help lists the options; --version prints the version.",
        ]
    )


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
    if not {"-h", "--help"}.isdisjoint(arguments):
        for kind in filter(is_dataclass, map(_unannotated, hints.values())):
            _flow_help(kind)
    asked.__annotations__, asked.__doc__ = hints, _flowing(function.__doc__ or "")
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(asked, args=arguments, prog=f"loss-attention {words}")
    except SystemExit as stop:
        if not stop.code:
            raise
        raise InputError(_one_line(complaint.getvalue(), words)) from None


def _flowing(docstring: str) -> str:
    """Return a docstring in which each argument is a single line.

    tyro breaks its help where a line is indented, as the further lines of an argument are.
    """
    return re.sub(r"\n {9,}(?=\S)", " ", docstring)


def _flow_help(kind: Any) -> None:
    """Give each field of a dataclass its docstring as the help that tyro prints, without breaks."""
    from docstring_parser import parse_from_object

    for one in filter(is_dataclass, kind.__mro__):
        said = {doc.arg_name: doc.description for doc in parse_from_object(one).params}
        for field in fields(one):
            if text := said.get(field.name):
                joined = re.sub(r"\s+", " ", text)
                field.metadata = MappingProxyType({**field.metadata, "help": joined})


def option_names(function: Callable[..., int]) -> dict[str, str]:
    """Return the options of a subcommand by field: its parameters, and the fields of dataclasses.

    Example:
        >>> options = option_names(subcommands.train)
        >>> options["batch_size"], options["initial"]
        ('--batch-size', '--from')
    """
    options: dict[str, str] = {}
    for name, hint in _hints(function).items():
        kind = _unannotated(hint)
        parts = typing.get_type_hints(kind, include_extras=True) if is_dataclass(kind) else {}
        options |= {part: _option(part, of) for part, of in (parts or {name: hint}).items()}
    return options


def _unannotated(hint: Any) -> Any:
    return typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint


def _option(name: str, hint: Any) -> str:
    """Return the option of a field: by its own name, unless its annotation has another."""
    given = [getattr(one, "name", None) for one in getattr(hint, "__metadata__", ())]
    name = next(filter(None, given), name)
    return f"--{name.replace('_', '-')}"


def _hints(function: Callable[..., int]) -> dict[str, Any]:
    """Return the types of a subcommand's parameters but for the console, in their order."""
    hints = typing.get_type_hints(function, localns={"Console": object}, include_extras=True)
    return {name: hint for name, hint in hints.items() if name not in ("console", "return")}


def as_options(message: str, options: Mapping[str, str]) -> str:
    """Return a message of the library with fields as the options that they are on a command line.

    Example:
        >>> as_options("`in_channels` must be 1 or 3", {"in_channels": "--in-channels"})
        '--in-channels must be 1 or 3'
    """

    def option(match: re.Match[str]) -> str:
        return options.get(match[1], match[0])

    return re.sub(r"`([a-z0-9_]+)`", option, message)


def make_console(options: Mapping[str, str]) -> Console:
    """Return the console of a subcommand, which says fields as the options that they are here."""
    from rich.console import Console
    from rich.text import Text

    class CommandConsole(Console):
        def print(self, *objects: Any, **how: Any) -> None:
            super().print(*map(self._named, objects), **how)

        def _named(self, what: Any) -> Any:
            if isinstance(what, Text) and not what.spans and "`" in what.plain:
                return Text(as_options(what.plain, options), what.style)
            return what

    return CommandConsole(markup=False, highlight=False, emoji=False)


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
