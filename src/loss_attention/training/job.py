"""A run from its recipe to trained weights: choose hardware, launch processes, train, resume."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from lightning_fabric import Fabric
from rich.console import Console
from torch import Tensor

from loss_attention import __version__
from loss_attention.data.loading import recorded
from loss_attention.data.sample import LabelledImages, Splits, are_uneven, images_by_class
from loss_attention.errors import InputError, KilledError, guarded
from loss_attention.heads import check_regulariser
from loss_attention.interruption import StopRequest
from loss_attention.model import PatchClassifier, create_model
from loss_attention.model_spec import LONGEST_GUIDE
from loss_attention.saving import FACTS_FILE
from loss_attention.terminal import counted, say_line
from loss_attention.training.augmentation import Scenes, check_augmentation
from loss_attention.training.bookkeeping import Checkpoints, TrainingLog, Validation
from loss_attention.training.devices import choose_accelerator
from loss_attention.training.environment import (
    choose_precision,
    command_line,
    hardware,
    image_memory,
    keep_freed_memory,
    versions,
)
from loss_attention.training.features import FEATURES_FOLDER, FeatureSource, cached_features
from loss_attention.training.frozen import Examples, FeatureSet
from loss_attention.training.guidance import Guide, check_guide
from loss_attention.training.initial import InitialWeights
from loss_attention.training.loggers import Loggers, check_loggers
from loss_attention.training.optimisation import begin_at_prior, keep_statistics, recipe_loss
from loss_attention.training.processes import (
    alike,
    check_processes,
    cluster_of,
    from_first,
    join_processes,
    launch_processes,
    make_fabric,
)
from loss_attention.training.rates import parameter_groups
from loss_attention.training.recipe import Recipe, RunOptions
from loss_attention.training.restarting import attempt
from loss_attention.training.run_folder import (
    RunFolder,
    require_utf8,
)
from loss_attention.training.sampling import check_batches, in_epochs, smallest_batch
from loss_attention.training.trainer import Trainer

STATISTICS_IMAGES = 10_000
"""Of a streamed set so many images, evenly taken, stand for all in the normalisation."""

Statistics = tuple[Float[Tensor, " C"], Float[Tensor, " C"]]
"""Mean and standard deviation of each channel, in units of [0, 1]."""


def build_model(
    recipe: Recipe,
    splits: Splits,
    statistics: Statistics | None = None,
    *,
    begun: Mapping[str, Any] | None = None,
    initial: InitialWeights | None = None,
) -> PatchClassifier:
    """Build the recipe's model for a data set, with the training set's normalisation.

    Args:
        recipe: names the network.
        splits: the data.
        statistics: of the training set, where they are known already.
        begun: the facts of the run, if it has begun: the backbone's weights are then those of its
            checkpoint, and neither the hub nor a file is asked for them.
        initial: weights to begin with, the backbone's too, and their normalisation; None: the
            recipe's for the backbone, and the others drawn by the seed.

    Raises:
        InputError: a value of the recipe that its network cannot have, images too small, or
            weights that are not to be had or are another network's.
    """
    if recipe.regularise:
        check_regulariser(recipe.head)
    known = begun or {}
    if initial is not None:
        known = {"backbone_config": initial.model.spec.backbone_config}
    elsewhere = begun is not None or initial is not None
    classes = splits.trainval.class_names
    # Refuses what it cannot be.
    recipe_loss(recipe, splits.trainval.labels, len(classes))
    torch.manual_seed(recipe.seed)
    model = create_model(
        recipe.model_spec(
            num_classes=len(classes),
            class_names=classes,
            image_size=splits.trainval.size,
            multi_label=splits.trainval.multi_label,
            one_vs_rest=recipe.objective == "one-vs-rest",
            backbone_config=str(known.get("backbone_config", "")),
        ),
        pretrained=recipe.pretrained and recipe.weights is None and not elsewhere,
        weights=None if elsewhere else recipe.weights,
        revision=None if elsewhere else recipe.revision,
    )
    model.check_image_size(*splits.trainval.size)
    check_augmentation(recipe, splits.trainval.size)
    if recipe.choose_by == "balanced-accuracy" and splits.trainval.multi_label:
        raise InputError("`choose_by` balanced-accuracy is for one label an image, not for several")
    parameter_groups(recipe, model)  # refuses what it cannot be
    if model.spec.one_vs_rest:
        begin_at_prior(recipe, model, splits.train.labels)
    if initial is not None:
        initial.give(model)
    elif model.backbone.normalisation is None:
        model.set_normalisation(*(statistics or channel_statistics(splits.trainval)))
    return model


def channel_statistics(data: LabelledImages) -> Statistics:
    """Return mean and standard deviation of each channel.

    They are of `STATISTICS_IMAGES` images where the set is streamed.
    """
    count = len(data) if data.in_memory else min(len(data), STATISTICS_IMAGES)
    batches = torch.split(torch.arange(count) * len(data) // count, 256)
    levels = torch.arange(256, dtype=torch.float64) / 255
    # From histograms: exact, and without a floating-point copy of the set.
    fractions = torch.zeros(data.images.shape[1], 256, dtype=torch.float64)
    with data.reading():
        data.expect(batches)
        for index in batches:
            for channel, pixels in enumerate(data.take(index).images.unbind(1)):
                fractions[channel] += torch.bincount(pixels.flatten(), minlength=256).cpu()
    fractions /= fractions.sum(dim=1, keepdim=True)
    mean = fractions @ levels
    std = ((fractions * (levels - mean.unsqueeze(1)) ** 2).sum(dim=1)).sqrt()
    return mean.float(), std.float()


def begin_run(
    run: RunFolder, recipe: Recipe, splits: Splits, options: RunOptions
) -> PatchClassifier:
    """Check everything that can be wrong, then write what a new run begins with.

    Args:
        run: a folder that is `claimed`.
        recipe: what to train; a length in steps becomes one in epochs, and run.json has both.
        splits: its data.
        options: what to train it on.

    Returns:
        The network to train, for `continue_run`.

    Raises:
        InputError: see `build_model` and `choose_accelerator`.
    """
    if run.writes:
        check_loggers(options.loggers)
    asked, recipe = recipe, in_epochs(recipe, len(splits.train))
    accelerator = choose_accelerator(options.accelerator, options.devices)
    check_processes(accelerator, options)
    precision = choose_precision(recipe.precision, accelerator)
    data = recorded(recipe.data, run.path)
    initial = None
    if recipe.initial is not None:
        initial = InitialWeights.for_new(run, recipe, data)
    check_guide(recipe, splits.train)
    model = build_model(recipe, splits, initial=initial)
    _check_division(recipe, splits)
    _check_steps(recipe, options, model, len(splits.train))
    facts = {
        "package_version": __version__,
        "command": command_line(),
        # As chosen, so that resuming does the same.
        "options": asdict(options)
        | {"accelerator": accelerator, "stream": "no" if splits.trainval.in_memory else "yes"},
        "precision": precision,
        "data": data,
        "source": splits.source,
        "storage": splits.storage,
        "data_fingerprint": splits.trainval.fingerprint(),
        "classes": list(splits.trainval.class_names),
        "multi_label": splits.trainval.multi_label,
        "train_images": len(splits.train),
        "class_images": images_by_class(splits.train).tolist(),
        "validation_images": len(splits.validation),
        "test_images": len(splits.test),
        "normalisation": {
            "mean": model.mean.flatten().tolist(),
            "std": model.std.flatten().tolist(),
        },
        **({} if initial is None else {"initial": initial.record()}),
        **({} if asked.steps is None else {"steps": asked.steps}),
        **({} if (torchrun := attempt()) is None else {"torchrun": torchrun}),
        "parameters": sum(p.numel() for p in model.parameters()),
        "backbone_weights": getattr(model.backbone, "weights", {}),
        "backbone_config": model.spec.backbone_config,
        "versions": versions(),
        "hardware": hardware(accelerator, options.processes, precision),
        "finished": False,
    }
    run.begin(recipe, facts)
    return model


def _check_division(recipe: Recipe, splits: Splits) -> None:
    """Raise `InputError` where the images that are held out are not those of the recipe."""
    held = splits.validation_fraction, splits.seed, splits.group
    wanted = recipe.validation_fraction, recipe.seed, recipe.group
    if held != wanted:
        raise InputError(
            f"the data was loaded with `validation_fraction`, `seed` and `group` {held}, and the "
            f"run's are {wanted}"
        )


def _check_steps(recipe: Recipe, options: RunOptions, model: PatchClassifier, images: int) -> None:
    """Raise `InputError` for steps of so few images that they cannot be divided or trained on."""
    check_batches(images, recipe.batch_size, options.processes)
    part = smallest_batch(images, recipe.batch_size) // options.processes
    if part // min(options.accumulate, part) > 1 or _trains_on_one_image(recipe, model):
        return
    raise InputError(
        f"`batch_size` {recipe.batch_size}: some steps see 1 image at a time, of which the network "
        "makes a single patch, and batch norm needs two; take a larger batch size, fewer `devices` "
        "or a smaller `accumulate`"
    )


def _trains_on_one_image(recipe: Recipe, model: PatchClassifier) -> bool:
    """Whether batch norm, where it takes the batch's, always has two values of each channel."""
    assert model.image_size is not None
    single = copy.deepcopy(model).train()
    if recipe.frozen_statistics:
        keep_statistics(single.backbone)
    try:
        with torch.no_grad():
            single(torch.zeros(1, len(single.mean), *model.image_size))
    except ValueError as error:
        if "more than 1 value per channel" in str(error):
            return False
        raise
    return True


def continue_run(
    run: RunFolder,
    splits: Splits,
    console: Console | None = None,
    *,
    model: PatchClassifier | None = None,
    stop: StopRequest | None = None,
) -> bool:
    """Train a run from its last checkpoint, or from the start where it has none.

    Args:
        run: the run; its folder names the recipe, the devices and the precision.
        splits: the run's data, loaded anew.
        console: where to show progress.
        model: what `begin_run` returned; None: it is built anew.
        stop: hears of signals; None: one of its own.

    Returns:
        True when the run is finished, False when it was interrupted and can be resumed.

    Raises:
        InputError: the data is not what the run began with, another process is training it, or
            what `Trainer` raises.
        KilledError: a process of it was ended by something else.
    """
    with run.locked():
        run.check()
        if run.writes:
            check_loggers(run.options().loggers)
        recipe, facts = run.recipe(), run.facts()
        if facts.get("data_fingerprint") != splits.trainval.fingerprint():
            raise InputError(
                f"the training data of {run.path} has changed since it began ({recipe.data}); "
                "start a new run with it"
            )
        run.check_weights()
        require_utf8(run.path)
        run.settle()
        try:
            outcome = _train(run, facts, splits, console, model, stop or StopRequest())
        except KilledError as error:
            raise KilledError(
                f"{error}; the last checkpoint stays: loss-attention resume {run.path}"
            ) from error
        known = {name: value for name, value in outcome.items() if value is not None}
        run.note(**known)
        if outcome["finished"]:
            run.remove_state(previous_only=True)
    return bool(outcome["finished"])


def _train(
    run: RunFolder,
    facts: dict[str, Any],
    splits: Splits,
    console: Console | None,
    model: PatchClassifier | None,
    stop: StopRequest,
) -> dict[str, Any]:
    """Train what is left, in as many processes as the run has; return what is new of it."""
    for talkative in ("lightning_fabric", "lightning.fabric", "torch.multiprocessing.spawn"):
        logging.getLogger(talkative).setLevel(logging.ERROR)
    options, recipe = run.options(), run.recipe()
    accelerator = choose_accelerator(options.accelerator, options.devices)
    _check_division(recipe, splits)
    with guarded(str(run.path / FACTS_FILE)):
        precision, statistics = facts["precision"], _statistics(facts, recipe.in_channels)
    check_processes(accelerator, options)
    fabric = make_fabric(accelerator, precision, options)
    if model is None:
        # Without a checkpoint the weights come from where the run had them.
        begun = facts if run.has_state else None
        again = begun is None and recipe.initial is not None
        initial = InitialWeights.again(facts, run.path) if again else None
        model = build_model(recipe, splits, statistics, begun=begun, initial=initial)
        if recipe.frozen and begun is not None:
            _restore_backbone(run, model)
        _check_steps(recipe, options, model, len(splits.train))  # of a changed number of processes
    model.backbone.checkpoint_activations = options.checkpoint_activations
    train: Examples = splits.train.images_and_labels()
    validation: Examples = splits.validation.images_and_labels()
    guide = _guide(run, splits, console)
    if recipe.frozen:
        source = FeatureSource(model, splits.trainval, recipe, precision, torch.device(accelerator))
        features = _features(run, source, console)
        train, validation = map(features.subset, splits.divided)
        if guide is not None:
            guide = _guide_in_views(guide, source, splits)
    model.spec = replace(model.spec, guided_by=_guided_by(guide, facts))
    work = _Work(run, model, train, validation, options, guide, shown=console is not None)
    if options.devices > 1 and cluster_of(options) is None:
        return launch_processes(fabric, work, stop)

    def work_alike(fabric: Fabric, stop: StopRequest) -> dict[str, Any]:
        known = "" if guide is None else guide.record["digest"]
        if not alike(fabric, f"{facts.get('data_fingerprint')} {known}".strip()):
            raise InputError(
                f"the processes of {run.path} have different training data: it has to be the same "
                "on every machine; where `stream` is auto and their memory differs, say yes or no"
            )
        return work.train(fabric, stop, console)

    return join_processes(fabric, work_alike, stop)


def _restore_backbone(run: RunFolder, model: PatchClassifier) -> None:
    """Give a model the backbone of the run's checkpoint, which its features are of."""
    state = run.load_state()
    with guarded(f"the checkpoint in {run.path}"):
        weights = {} if state is None else state["model"]
        own = {f"backbone.{name}": name for name in model.backbone.state_dict()}
        model.backbone.load_state_dict({name: weights[key] for key, name in own.items()})


def _guide(run: RunFolder, splits: Splits, console: Console | None) -> Guide | None:
    """Return what guides a run, and write it down; None: labels alone.

    Raises:
        InputError: there is nothing to guide by, or other boxes or masks than it began with.
    """
    recipe, console = run.recipe(), console or Console(quiet=True)
    if not recipe.guide:
        return None
    with counted("reading masks", console) as progress:
        guide = Guide.of(splits.train, recipe, progress)
    before = run.facts().get("guide", guide.record)
    if before != guide.record:
        raise InputError(
            f"the boxes or masks that guide the run {run.path} have changed since it began; start "
            "a new run with them"
        )
    run.note(guide=guide.record)
    say_line(console, guide.told())
    return guide


def _guided_by(guide: Guide | None, facts: Mapping[str, Any]) -> str:
    """Return what a run is guided by, and before it the one that its weights come from."""
    names = ["" if guide is None else guide.name, facts.get("initial", {}).get("guided_by", "")]
    return ", and before by ".join(dict.fromkeys(filter(None, names)))[:LONGEST_GUIDE]


def _guide_in_views(guide: Guide, source: FeatureSource, splits: Splits) -> Guide:
    """Return a guide that knows where objects are in each view that there are features of."""
    trained, _ = splits.divided
    identities = source.identities(trained[guide.image])

    def seen(scenes: Scenes, objects: Tensor) -> list[Scenes]:
        return source.seen(scenes, [identities[number] for number in objects.tolist()])

    return guide.in_views(source.recipe.views, seen)


def _features(run: RunFolder, source: FeatureSource, console: Console | None) -> FeatureSet:
    """Return the features of all training images, held-out ones included."""
    recipe, options = run.recipe(), run.options()
    root = Path(options.features) if options.features else run.path.parent / FEATURES_FOLDER
    console = console or Console(quiet=True)
    if not recipe.pretrained and recipe.weights is None and recipe.initial is None:
        say_line(
            console,
            f"the frozen backbone {recipe.backbone} has random weights: a baseline, from which "
            "little can be expected; `pretrained` or `weights` give it others",
        )
    features, told = cached_features(source, root, console, image_memory(options))
    before = run.facts().get("features", told)
    if before.get("weights") != told["weights"]:
        raise InputError(
            f"the backbone's weights are not those that the run {run.path} began with: begin "
            "again with `overwrite`"
        )
    run.note(features=told)
    return features


def _statistics(facts: Mapping[str, Any], channels: int) -> Statistics | None:
    """Return the normalisation that a run keeps; None: it is measured anew."""
    known = facts.get("normalisation")
    if known is None:
        return None
    mean, std = torch.tensor(known["mean"]), torch.tensor(known["std"])
    if not mean.shape == std.shape == (channels,) or not (mean + std).isfinite().all():
        raise ValueError(f"normalisation is not a mean and a std of {channels} channels")
    return mean, std


def make_trainer(
    fabric: Fabric,
    recipe: Recipe,
    model: PatchClassifier,
    train: Examples,
    validation: Examples,
    run: RunFolder,
    options: RunOptions | None = None,
    *,
    guide: Guide | None = None,
    console: Console | None = None,
    stop: StopRequest | None = None,
) -> Trainer:
    """Return a trainer with all that it works with.

    Args:
        fabric: precision, device and processes.
        recipe: what to compute.
        model: the model to train; moved to the device.
        train: the training images of every process, without the validation slice.
        validation: the held-out slice; may be empty, then the last epoch is the best.
        run: where to save.
        options: how often to save, parts of a step, and loggers; None: the usual ones.
        guide: which training images guide, and by what; None: none.
        console: where the first process shows its progress.
        stop: hears of signals; None: one of its own.
    """
    options, stop = options or RunOptions(), stop or StopRequest()
    first = fabric.is_global_zero
    return Trainer(
        fabric,
        recipe,
        model,
        train,
        validation=Validation(fabric, validation, recipe.batch_size, stop),
        checkpoints=Checkpoints(fabric, run, options.checkpoint_every_steps, options.checkpoint),
        log=TrainingLog(
            recipe.name,
            recipe.epochs,
            console if first else None,
            Loggers(run, recipe, options.loggers) if first else None,
            balanced=are_uneven(train.labels),
        ),
        guide=guide,
        accumulate=options.accumulate,
        stop=stop,
    )


class _Work:
    """What each process does; a class, so that it can be sent to a spawned process.

    No dataclass: Fabric's launcher would take it apart.
    """

    def __init__(
        self,
        run: RunFolder,
        model: PatchClassifier,
        train: Examples,
        validation: Examples,
        options: RunOptions,
        guide: Guide | None = None,
        *,
        shown: bool,
    ) -> None:
        self.run, self.model, self.options, self.shown = run, model, options, shown
        self.train_set, self.validation, self.guide = train, validation, guide

    def __call__(self, fabric: Fabric, stop: StopRequest) -> dict[str, Any]:
        """Work in one of several processes."""
        # What is sent to processes lies in shared memory: the images should, weights must not.
        self.model = copy.deepcopy(self.model)
        return self.train(fabric, stop, Console() if self.shown else None)

    def train(self, fabric: Fabric, stop: StopRequest, console: Console | None) -> dict[str, Any]:
        """Train in this process, beside the others of `fabric`."""
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        keep_freed_memory(parameters, spare=self.options.checkpoint_activations)
        trainer = make_trainer(
            fabric,
            from_first(fabric, self.run.recipe),
            self.model,
            self.train_set,
            self.validation,
            self.run,
            self.options,
            guide=self.guide,
            console=console,
            stop=stop,
        )
        state = trainer.checkpoints.load()
        if state is not None:
            trainer.restore(state)
        finished = trainer.train()
        position = trainer.position
        return {
            "finished": finished,
            "best_epoch": position.best_epoch,
            "train_seconds": position.seconds,
        }
