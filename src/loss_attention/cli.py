"""The command `loss-attention`, thin: words and flags in, jobs out.

torch and all that stands on it load when a job starts, so `--help` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from loss_attention.arguments import (
    CompareArguments,
    DataCheckArguments,
    DemoArguments,
    EvaluateArguments,
    ExplainArguments,
    ReportArguments,
    ReproduceArguments,
    ResumeArguments,
    TrainArguments,
    parse,
)
from loss_attention.errors import InputError, ReportedError, printable, unknown_name
from loss_attention.interruption import KEYBOARD, ending_on_signals


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; its exit codes are those of docs/running.md."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):  # letters that an encoding lacks are no reason to fail
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        with ending_on_signals():
            code = _dispatch(arguments)
    except ReportedError as error:
        code = _fail(str(error), code=error.exit_code)
    except KeyboardInterrupt as stop:
        code = _fail(str(stop) or "interrupted", code=getattr(stop, "exit_code", KEYBOARD))
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        sys.stderr.close()
        code = 0
    sys.exit(code)


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return 0
    if arguments[0] == "--version":
        from loss_attention import __version__

        print(f"loss-attention {__version__}")
        return 0
    word, rest = arguments[0], arguments[1:]
    if word not in COMMANDS:
        raise unknown_name("command", word, COMMANDS)
    return COMMANDS[word].run(rest)


def _train(rest: list[str]) -> int:
    from loss_attention.training.recipes import RECIPES, recipe

    if not rest or rest[0].startswith("-"):
        if rest and rest[0] in ("-h", "--help"):
            print("usage: loss-attention train RECIPE [--field VALUE ...]\n\n" + _recipe_list())
            print("\nthe fields of a recipe: loss-attention train RECIPE --help")
            return 0
        raise InputError(f"train needs the name of a recipe first: {', '.join(RECIPES)}")
    base = recipe(rest[0])
    given = parse(TrainArguments, rest[1:], f"train {rest[0]}", default=TrainArguments(recipe=base))
    if not given.recipe.data:
        raise InputError(f"the recipe {base.name} needs --data: a folder of images, or a hub id")

    from loss_attention import jobs

    out = given.out or Path("runs") / given.recipe.name
    jobs.train(given.recipe, out, given.hardware, _console(), overwrite=given.overwrite)
    return 0


def _resume(rest: list[str]) -> int:
    given = parse(ResumeArguments, rest, "resume")
    from loss_attention import jobs

    jobs.resume(given.run, _console(), data=given.data, learning_rate=given.learning_rate)
    return 0


def _evaluate(rest: list[str]) -> int:
    given = parse(EvaluateArguments, rest, "evaluate")
    from loss_attention import jobs

    jobs.evaluate_run(
        given.run,
        given.data,
        _console(),
        masks=given.masks,
        classes=given.classes,
        skip_broken=given.skip_broken,
        accelerator=given.accelerator,
    )
    return 0


def _explain(rest: list[str]) -> int:
    given = parse(ExplainArguments, rest, "explain")
    if not given.images:
        raise InputError("explain needs image files or folders after the run")
    from loss_attention import jobs

    summary = jobs.explain(
        given.run,
        given.images,
        given.out,
        _console(),
        target=given.target,
        method=given.method,
        accelerator=given.accelerator,
        overwrite=given.overwrite,
    )
    print(printable(f"{len(summary.written)} images explained in {given.out}"))
    for line in summary.unread:
        _fail(line)
    for problem in summary.unreadable:
        _fail(problem)
    return 2 if summary.unreadable else 0


def _compare(rest: list[str]) -> int:
    given = parse(CompareArguments, rest, "compare")
    from loss_attention.compare_jobs import compare_run

    names = None if given.methods is None else [n.strip() for n in given.methods.split(",")]
    compare_run(
        given.run,
        names,
        _console(),
        data=given.data,
        classes=given.classes,
        skip_broken=given.skip_broken,
        out=given.out,
        images=given.images,
        batch_size=given.batch_size,
        seed=given.seed,
        accelerator=given.accelerator,
        overwrite=given.overwrite,
    )
    return 0


def _report(rest: list[str]) -> int:
    given = parse(ReportArguments, rest, "report")
    from loss_attention import jobs

    jobs.report(given.run, _console(), data=given.data, accelerator=given.accelerator)
    return 0


def _demo(rest: list[str]) -> int:
    given = parse(DemoArguments, rest, "demo")
    from dataclasses import replace

    from loss_attention import jobs
    from loss_attention.training.recipes import recipe

    chosen = replace(recipe("digits"), name="demo", limit_images=given.limit_images)
    if given.epochs is not None:
        chosen = replace(chosen, epochs=given.epochs)
    jobs.demo(chosen, given.out, given.hardware, _console())
    return 0


def _reproduce(rest: list[str]) -> int:
    given = parse(ReproduceArguments, rest, "reproduce")
    if not given.targets:
        raise InputError("reproduce needs a table or figure: table1 to table7, figure4 to figure7")
    from loss_attention.paper.command import reproduce
    from loss_attention.paper.reproduction import Reproduction
    from loss_attention.paper.scales import scale

    reproduction = Reproduction(
        scale(given.scale),
        given.out,
        seeds=given.seeds,
        data_root=given.data_root,
        workers=given.workers,
        accelerator=given.accelerator,
        console=_console(),
    )
    outcome = reproduce(given.targets, reproduction, only=given.only, train=not given.show)
    print(printable(f"written: {', '.join(map(str, outcome.written))}"))
    for problem in outcome.problems:
        _fail(problem)
    return 2 if outcome.problems else 0


def _data(rest: list[str]) -> int:
    if not rest or rest[0] not in ("check", "-h", "--help"):
        raise InputError("data needs a word after it: data check PATH [--out PICTURE]")
    given = parse(DataCheckArguments, rest[1:] if rest[0] == "check" else rest, "data check")
    from loss_attention.data_jobs import check_data

    wrong = check_data(given.data, given.out, _console())
    if wrong:
        what = "1 thing is" if wrong == 1 else f"{wrong:,} things are"
        hint = "where it is images, --skip-broken trains without them"
        return _fail(f"{what} wrong with {given.data}; {hint}")
    return 0


def _recipes(rest: list[str]) -> int:
    if rest:
        raise InputError("recipes takes no arguments")
    print(_recipe_list())
    return 0


@dataclass(frozen=True)
class Command:
    """One word of the command."""

    run: Callable[[list[str]], int]
    usage: str
    summary: str


COMMANDS: dict[str, Command] = {
    "train": Command(
        _train, "train RECIPE [--field VALUE ...]", "train, checkpoint, evaluate and report"
    ),
    "resume": Command(_resume, "resume RUN", "continue an interrupted run"),
    "evaluate": Command(_evaluate, "evaluate RUN [--data DATA]", "score a run, beside its floors"),
    "explain": Command(
        _explain, "explain RUN IMAGE|FOLDER ... --out DIR", "show where the evidence lies"
    ),
    "compare": Command(
        _compare, "compare RUN [--methods A,B,...]", "methods of explanation side by side"
    ),
    "report": Command(_report, "report RUN", "write a run's report.html anew"),
    "reproduce": Command(
        _reproduce,
        "reproduce TABLE|FIGURE ... [--scale smoke]",
        "the paper's tables and figures beside ours",
    ),
    "data": Command(
        _data, "data check PATH [--out PICTURE]", "what is in a data set, and what is wrong with it"
    ),
    "recipes": Command(_recipes, "recipes", "list the recipes, with expected score and time"),
    "demo": Command(_demo, "demo [--out DIR]", "train on digits beside a mean-pooling twin"),
}


def _overview() -> str:
    width = max(len(command.usage) for command in COMMANDS.values())
    lines = [f"  {command.usage:<{width}}  {command.summary}" for command in COMMANDS.values()]
    return "\n".join(
        [
            "usage: loss-attention COMMAND ...",
            "",
            "Image classifiers whose decision is, exactly, a weighted sum of image patches.",
            "",
            *lines,
            "",
            "  loss-attention COMMAND --help says more, loss-attention --version which this is.",
        ]
    )


def _recipe_list() -> str:
    from loss_attention.training.recipes import RECIPES

    blocks = [
        f"{name:<14} {entry.purpose}\n{'':<14} reaches {entry.expected}; {entry.hardware}"
        for name, entry in RECIPES.items()
    ]
    return "\n".join(blocks)


def _console() -> Any:
    from loss_attention.terminal import make_console

    return make_console()


def _fail(message: str, code: int = 2) -> int:
    print(f"loss-attention: {printable(message)}", file=sys.stderr)
    return code
