"""The command `loss-attention`: a subcommand is a function, and its parameters are its options.

torch and all that stands on it load when a subcommand starts, so `--help` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from io import TextIOWrapper
from typing import NamedTuple

from loss_attention.cli import subcommands
from loss_attention.cli.options import as_options, fail, make_console, option_names, parse
from loss_attention.errors import InputError, ReportedError, unknown_name
from loss_attention.interruption import KEYBOARD, ending_on_signals
from loss_attention.training.recipes import RECIPES, recipe


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
        subcommands.explain,
        "explain RUN IMAGE|FOLDER ... --out DIR",
        "show where the evidence lies",
    ),
    "compare": Subcommand(
        subcommands.compare,
        "compare RUN [--methods A,B,...]",
        "methods of explanation side by side",
    ),
    "report": Subcommand(subcommands.report, "report RUN", "write a run's report.html anew"),
    "reproduce": Subcommand(
        subcommands.reproduce,
        "reproduce TABLE|FIGURE ... [--scale smoke]",
        "the paper's tables and figures beside ours",
    ),
    "data": Subcommand(
        subcommands.check_data,
        "data check PATH [--out PICTURE]",
        "what is in a data set, and what is wrong with it",
    ),
    "recipes": Subcommand(
        subcommands.recipes, "recipes", "list the recipes, with expected score and time"
    ),
    "demo": Subcommand(
        subcommands.demo, "demo [--out DIR]", "train on digits beside a mean-pooling counterpart"
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
        from loss_attention import __version__

        print(f"loss-attention {__version__}")
        return 0
    name, *rest = arguments
    if name not in SUBCOMMANDS:
        raise unknown_name("subcommand", name, SUBCOMMANDS)
    parsed = partial(parse, SUBCOMMANDS[name].run)
    if name == "train":
        if not rest or rest[0].startswith("-"):
            if rest and rest[0] in ("-h", "--help"):
                print("usage: loss-attention train RECIPE [--field VALUE ...]\n")
                print(f"{subcommands.recipe_list()}\n")
                print("the fields of a recipe: loss-attention train RECIPE --help")
                return 0
            raise InputError(f"train needs the name of a recipe first: {', '.join(RECIPES)}")
        base = recipe(rest[0])
        call = parsed(rest[1:], f"train {base.name}", recipe=base)
    elif name == "data":
        if not rest or rest[0] not in ("check", "-h", "--help"):
            raise InputError("data needs a subcommand after it: data check PATH [--out PICTURE]")
        call = parsed(rest[1:] if rest[0] == "check" else rest, "data check")
    else:
        call = parsed(rest, name)
    return call(make_console(_named(arguments)))


def _named(arguments: list[str]) -> frozenset[str]:
    """Return the fields that the subcommand of these arguments has as options."""
    found = SUBCOMMANDS.get(arguments[0]) if arguments else None
    return frozenset() if found is None else option_names(found.run)


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
            "  loss-attention SUBCOMMAND --help says more, loss-attention --version which this is.",
        ]
    )
