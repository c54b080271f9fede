"""What can be changed of a run before the rest of it is trained, and that it is written down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace

from loss_attention.errors import InputError, guarded
from loss_attention.saving import FACTS_FILE
from loss_attention.training.devices import choose_accelerator
from loss_attention.training.processes import check_processes
from loss_attention.training.recipe import LoggerName, RunOptions
from loss_attention.training.restarting import restarted
from loss_attention.training.run_folder import RECIPE_FILE, RunFolder
from loss_attention.training.sampling import check_batches


def change_learning_rate(run: RunFolder, rate: float, say: Callable[[str], None]) -> None:
    """Have the rest of a run take another learning rate, and write down from where on.

    Args:
        run: an unfinished run that is `locked`.
        rate: the schedule's highest learning rate from now on.
        say: told what is done, in a line.

    Raises:
        InputError: the run is finished, or no run can have that rate.
    """
    facts, recipe = run.facts(), run.recipe()
    changed = replace(recipe, learning_rate=rate)
    if changed == recipe and restarted():  # changed by an earlier attempt
        return
    if facts.get("finished"):
        raise InputError(f"{run.path} is finished: `learning_rate` changes what is still to train")
    if changed == recipe:
        return
    reached = _reached(run)
    change = {"learning_rate": [recipe.learning_rate, rate], **reached}
    changes = [*facts.get("changes", []), change]
    run.write_all({RECIPE_FILE: changed.to_yaml()}, changes=changes)
    say(
        f"learning rate {rate:g} in place of {recipe.learning_rate:g} from epoch "
        f"{reached['epoch'] + 1} on"
    )


def _reached(run: RunFolder) -> dict[str, int]:
    """Return where the last checkpoint of a run stands: its epoch and step."""
    position = (run.find_state() or {}).get("position", {})
    return {"epoch": position.get("epoch", 0), "step": position.get("step", 0)}


def change_processes(run: RunFolder, options: RunOptions, say: Callable[[str], None]) -> None:
    """Have the rest of a run train in other processes than it began in, and write that down.

    Args:
        run: an unfinished run that is `locked`.
        options: the run's, but for `devices` and `num_nodes`.
        say: told what is done, in a line.

    Raises:
        InputError: the run is finished, or cannot train in so many.
    """
    facts, before = run.facts(), run.options()
    if not run.writes:
        run.take_options(options)
    if options == before or not run.writes:
        return
    if facts.get("finished"):
        raise InputError(
            f"{run.path} is finished: `devices` and `num_nodes` change what is still to train"
        )
    with guarded(str(run.path / FACTS_FILE)):
        images = int(facts["train_images"])
    accelerator = choose_accelerator(options.accelerator, options.devices)
    check_batches(images, run.recipe().batch_size, options.processes)
    check_processes(accelerator, options)
    reached = _reached(run)
    change = {"processes": [before.processes, options.processes], **reached}
    run.note(options=asdict(options), changes=[*facts.get("changes", []), change])
    say(
        f"processes: {options.processes} in place of {before.processes} from epoch "
        f"{reached['epoch'] + 1} on"
    )


def change_loggers(run: RunFolder, names: tuple[LoggerName, ...]) -> None:
    """Have the rest of a run, which is `locked`, log its curves elsewhere.

    Raises:
        InputError: the run is finished, or a name is unknown.
    """
    options = replace(run.options(), loggers=names)
    if options == run.options() and restarted():
        return
    if run.facts().get("finished"):
        raise InputError(f"{run.path} is finished: `loggers` changes what is still to train")
    run.note(options=asdict(options))
