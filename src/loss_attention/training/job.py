"""A run from its recipe to trained weights: choose hardware, launch processes, train, resume."""

from __future__ import annotations

import copy
import logging
import re
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from lightning_fabric import Fabric
from rich.console import Console
from torch import Tensor
from torch.multiprocessing.spawn import ProcessRaisedException

from loss_attention import __version__
from loss_attention.data.naming import recorded
from loss_attention.data.sample import LabelledImages, Splits, hold_out
from loss_attention.errors import InputError
from loss_attention.heads.catalog import check_regulariser
from loss_attention.models import PatchClassifier, create_model
from loss_attention.training.batches import check_batches, smallest_batch
from loss_attention.training.environment import (
    choose_accelerator,
    choose_precision,
    hardware,
    keep_freed_memory,
    versions,
)
from loss_attention.training.interruption import ForwardedStop
from loss_attention.training.loop import Trainer
from loss_attention.training.objective import recipe_loss
from loss_attention.training.recipe import Recipe, RunOptions
from loss_attention.training.run_folder import FORMAT_VERSION, RunFolder, require_utf8

STATISTICS_IMAGES = 10_000
"""Of a streamed set so many images, evenly taken, stand for all in the normalisation."""

Statistics = tuple[Float[Tensor, " C"], Float[Tensor, " C"]]
"""Mean and deviation of each channel, in units of [0, 1]."""


def build_model(
    recipe: Recipe, splits: Splits, statistics: Statistics | None = None
) -> PatchClassifier:
    """Build the recipe's model for a data set, with the training set's normalisation.

    Args:
        recipe: names the network.
        splits: the data.
        statistics: of the training set, where they are known already.

    Raises:
        InputError: a value of the recipe that its network cannot have, or images too small.
    """
    if recipe.regularise:
        check_regulariser(recipe.head)
    torch.manual_seed(recipe.seed)
    model = create_model(
        recipe.backbone,
        head=recipe.head,
        num_classes=len(splits.train.class_names),
        in_channels=recipe.in_channels,
        width=recipe.width,
        strided_layers=recipe.strided_layers,
        patch_kernel=recipe.patch_kernel,
        patch_stride=recipe.patch_stride,
        threshold=recipe.threshold,
        class_names=splits.train.class_names,
        image_size=splits.train.size,
        multi_label=splits.train.multi_label,
        resize=recipe.resize,
    )
    model.check_image_size(*splits.train.size)
    if recipe.cutout >= min(splits.train.size):
        height, width = splits.train.size
        raise InputError(
            f"--cutout {recipe.cutout} must be less than the images' {height} x {width} pixels"
        )
    recipe_loss(recipe, multi_label=splits.train.multi_label)  # refuses what it cannot be
    model.set_normalisation(*(statistics or channel_statistics(splits.train)))
    return model


def channel_statistics(data: LabelledImages) -> Statistics:
    """Return mean and deviation of each channel, of `STATISTICS_IMAGES` where it is streamed."""
    count = len(data) if data.in_memory else min(len(data), STATISTICS_IMAGES)
    batches = torch.split(torch.arange(count) * len(data) // count, 256)
    levels = torch.arange(256, dtype=torch.float64) / 255
    # From histograms: exact, and without a floating-point copy of the set.
    shares = torch.zeros(data.images.shape[1], 256, dtype=torch.float64)
    with data.reading():
        data.expect(batches)
        for index in batches:
            for channel, pixels in enumerate(data.take(index).images.unbind(1)):
                shares[channel] += torch.bincount(pixels.flatten(), minlength=256).cpu()
    shares /= shares.sum(dim=1, keepdim=True)
    mean = shares @ levels
    deviation = ((shares * (levels - mean.unsqueeze(1)) ** 2).sum(dim=1)).sqrt()
    return mean.float(), deviation.float()


def start_run(
    path: Path, recipe: Recipe, splits: Splits, options: RunOptions, *, overwrite: bool = False
) -> RunFolder:
    """Check everything that can be wrong, then make the folder of a new run.

    Raises:
        InputError: see `build_model`, `choose_accelerator` and `RunFolder.create`.
    """
    accelerator = choose_accelerator(options.accelerator, options.devices)
    precision = choose_precision(recipe.precision, accelerator)
    model = build_model(recipe, splits)
    kept, held_out = hold_out(splits.train.labels, recipe.validation_fraction, recipe.seed)
    _check_steps(recipe, options, model, len(kept))
    run = RunFolder.create(path, recipe, overwrite=overwrite)
    facts = {
        "format_version": FORMAT_VERSION,
        "package_version": __version__,
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        # As chosen, so that resuming does the same.
        "options": asdict(options)
        | {"accelerator": accelerator, "stream": "no" if splits.train.in_memory else "yes"},
        "precision": precision,
        "data": recorded(recipe.data, path),
        "source": splits.source,
        "storage": splits.storage,
        "data_fingerprint": splits.train.fingerprint(),
        "classes": list(splits.train.class_names),
        "multi_label": splits.train.multi_label,
        "train_images": len(kept),
        "validation_images": len(held_out),
        "test_images": len(splits.test),
        "normalisation": {
            "mean": model.mean.flatten().tolist(),
            "std": model.std.flatten().tolist(),
        },
        "parameters": sum(p.numel() for p in model.parameters()),
        "versions": versions(),
        "hardware": hardware(accelerator, options.devices, precision),
        "finished": False,
    }
    run.write_json("run.json", facts)
    return run


def _check_steps(recipe: Recipe, options: RunOptions, model: PatchClassifier, images: int) -> None:
    """Raise `InputError` for steps of so few images that they cannot be divided or trained on."""
    check_batches(images, recipe.batch_size, options.devices)
    part = smallest_batch(images, recipe.batch_size) // options.devices
    if part // min(options.accumulate, part) > 1 or _trains_on_one_image(model):
        return
    raise InputError(
        f"--batch-size {recipe.batch_size}: some steps see 1 image at a time, of which the network "
        "makes a single place, and batch norm needs two; take a larger batch size, fewer --devices "
        "or a smaller --accumulate"
    )


def _trains_on_one_image(model: PatchClassifier) -> bool:
    """Whether batch norm always has more than one value of each channel."""
    assert model.image_size is not None
    single = copy.deepcopy(model).train()
    try:
        with torch.no_grad():
            single(torch.zeros(1, len(single.mean), *model.image_size))
    except ValueError as error:
        if "more than 1 value per channel" in str(error):
            return False
        raise
    return True


def continue_run(run: RunFolder, splits: Splits, console: Console | None = None) -> bool:
    """Train a run from its last checkpoint, or from the start where it has none.

    Args:
        run: the run; its folder names the recipe, the devices and the precision.
        splits: the run's data, loaded anew.
        console: where to show progress.

    Returns:
        True when the run is finished, False when it was interrupted and can be resumed.

    Raises:
        InputError: the data is not what the run began with, another process is training it, or
            what `Trainer` raises.
    """
    recipe, facts = run.recipe(), run.read_json("run.json")
    if facts.get("data_fingerprint") != splits.train.fingerprint():
        raise InputError(
            f"the training data of {run.path} has changed since it began ({recipe.data}); "
            "start a new run with it"
        )
    require_utf8(run.path)
    run.remove_leftovers()
    for talkative in ("lightning_fabric", "lightning.fabric", "torch.multiprocessing.spawn"):
        logging.getLogger(talkative).setLevel(logging.ERROR)
    options = run.options()
    accelerator = choose_accelerator(options.accelerator, options.devices)
    kept, held_out = hold_out(splits.train.labels, recipe.validation_fraction, recipe.seed)
    images = splits.train.without_places()
    train, validation = images.subset(kept), images.subset(held_out)
    fabric = Fabric(
        accelerator=accelerator,
        devices=options.devices,
        strategy="auto" if options.devices == 1 else "ddp_spawn",
        precision="bf16-mixed" if facts["precision"] == "bf16" else "32-true",
    )
    known = facts.get("normalisation")
    statistics = known and (torch.tensor(known["mean"]), torch.tensor(known["std"]))
    model = build_model(recipe, splits, statistics)
    model.backbone.checkpoint_activations = options.checkpoint_activations
    work = _Work(run, model, train, validation, options, shown=console is not None)
    with run.locked():
        if options.devices == 1:
            fabric.launch()
            outcome = work(fabric, console)
        else:
            outcome = _launch_processes(fabric, work)
    facts["finished"] = outcome["finished"]
    facts["best_epoch"], facts["train_seconds"] = outcome["best_epoch"], outcome["seconds"]
    run.write_json("run.json", facts)
    return bool(outcome["finished"])


class _Work:
    """What each process does; a class, so that it can be sent to a spawned process.

    No dataclass: Fabric's launcher would take it apart.
    """

    def __init__(
        self,
        run: RunFolder,
        model: PatchClassifier,
        train: LabelledImages,
        validation: LabelledImages,
        options: RunOptions,
        *,
        shown: bool,
    ) -> None:
        self.run, self.model, self.options, self.shown = run, model, options, shown
        self.train, self.validation = train, validation

    def __call__(self, fabric: Fabric, console: Console | None = None) -> dict[str, Any]:
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        keep_freed_memory(parameters, spare=self.options.checkpoint_activations)
        if console is None and self.shown:
            console = Console()
        trainer = Trainer(
            fabric,
            self.run.recipe(),
            # What is sent to processes lies in shared memory: the images should, weights must not.
            copy.deepcopy(self.model),
            self.train,
            self.validation,
            self.run,
            checkpoint_every=self.options.checkpoint_every_steps,
            accumulate=self.options.accumulate,
            console=console,
        )
        state = self.run.load_state()
        if state is not None:
            trainer.restore(state)
        finished = trainer.train()
        position = trainer.position
        leave_together(fabric)
        return {
            "finished": finished,
            "best_epoch": position.best_epoch,
            "seconds": position.seconds,
        }


def leave_together(fabric: Fabric) -> None:
    """Take down the group of processes that `fabric` launched; each calls it as the last thing.

    Left to the end of the process, the group's threads now and then still run when they are taken
    down, and the process aborts.
    """
    if fabric.world_size > 1:
        fabric.barrier()
        torch.distributed.destroy_process_group()


def _launch_processes(fabric: Fabric, work: _Work) -> dict[str, Any]:
    """Run the work in several processes; an error that a user can mend comes back as one line."""
    with ForwardedStop().listening():
        try:
            outcome: dict[str, Any] = fabric.launch(work)
        except ProcessRaisedException as error:
            mendable = re.search(r"^loss_attention\.[\w.]+: (.*)$", str(error), re.MULTILINE)
            if mendable:
                raise InputError(mendable[1]) from error
            raise
    return outcome
