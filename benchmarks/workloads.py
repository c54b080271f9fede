"""A training step and an evaluation pass, ours and the yardstick's, ready to be timed.

With them what is said of a step: the parts that its time goes to, its profile, how many operations
it needs, and how many a second the machine can do at best.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from lightning_fabric import Fabric
from reference_structure import augmented, copied, reference_loss, unaugmented
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from loss_attention.attribution.measures import take_turns
from loss_attention.data.sample import ImageSet, Splits
from loss_attention.evaluation.measuring import validate
from loss_attention.model import PatchClassifier
from loss_attention.training.augmentation import draw_shifts
from loss_attention.training.job import build_model, make_trainer
from loss_attention.training.processes import make_fabric
from loss_attention.training.recipe import Recipe, RunOptions
from loss_attention.training.recipes import paper_recipe
from loss_attention.training.run_folder import RunFolder

GAMMA = 0.1
"""The regulariser's full weight: a step early in training has less to compute."""
BATCHES = 4
"""Batches that there are images for."""


@dataclass(frozen=True)
class Setting:
    """What is trained: the paper's CIFAR-10 recipe of ResNet18, but for what is named here."""

    head: str = "loss-attention"
    width: float = 1.0
    classes: int = 10
    side: int = 32
    """Of the images, in pixels."""
    patch_stride: int = 4
    """Step between patches, in cells of the feature map."""
    batch: int = 32
    evaluated: int = 64
    """Images of an evaluation pass."""
    accelerator: str = "cpu"
    precision: str = "32"
    """Of ours; the yardstick is in float32."""
    checkpoint_activations: bool = False
    """Of ours: less memory, for more time."""

    def recipe(self) -> Recipe:
        """Return what is trained."""
        recipe = paper_recipe("cifar10", head=self.head)
        return replace(
            recipe, width=self.width, patch_stride=self.patch_stride, batch_size=self.batch
        )

    @property
    def device(self) -> torch.device:
        """Where it is trained."""
        return torch.device(self.accelerator)

    def splits(self) -> Splits:
        """Return noise of the size of CIFAR-10's images: what they show costs nothing."""
        generator = torch.Generator().manual_seed(0)

        def some(count: int) -> ImageSet:
            images = torch.randint(
                0, 256, (count, 3, self.side, self.side), generator=generator, dtype=torch.uint8
            )
            labels = torch.randint(0, self.classes, (count,), generator=generator)
            return ImageSet(images, labels, tuple(map(str, range(self.classes))))

        return Splits(some(BATCHES * self.batch), some(self.evaluated), "noise")

    def model(self) -> PatchClassifier:
        """Return a new model, the same each time."""
        return build_model(self.recipe(), self.splits())


class Workload(Protocol):
    """What is timed."""

    def step(self) -> None:
        """Take the next training step, from images in memory to changed weights."""

    def evaluate(self) -> None:
        """Classify the evaluated images and add up what is right."""


def fabric_for(setting: Setting, processes: int = 1) -> Fabric:
    """Return what trains as the recipe would, in so many processes; not launched yet."""
    return make_fabric(setting.accelerator, setting.precision, RunOptions(devices=processes))


class Ours:
    """The training loop's own step and validation."""

    def __init__(self, setting: Setting, fabric: Fabric | None = None) -> None:
        self.setting = setting
        if fabric is None:
            fabric = fabric_for(setting)
            fabric.launch()
        splits = setting.splits()
        self.images = splits.test.to(fabric.device)
        model = setting.model()
        model.backbone.checkpoint_activations = setting.checkpoint_activations
        nowhere = RunFolder(Path("nothing is saved"))
        recipe, train = setting.recipe(), splits.train
        self.trainer = make_trainer(fabric, recipe, model, train, splits.test, nowhere)
        self.trainer.network.train()
        self.batches = _batches(setting)

    def step(self) -> None:
        """Take a step of the loop."""
        self.trainer.train_step(next(self.batches), GAMMA)

    def evaluate(self) -> None:
        """Measure loss and accuracy as after each epoch."""
        trainer = self.trainer
        size = max(self.setting.batch, 256)  # as after each epoch of training
        validate(trainer.model, self.images, size, trainer.fabric.autocast, loss=trainer.loss)


class Yardstick:
    """The same steps as the first published implementation would take them."""

    def __init__(self, setting: Setting) -> None:
        recipe, splits = setting.recipe(), setting.splits()
        model = setting.model()
        self.recipe, self.device = recipe, setting.device
        self.mean, self.std = model.mean.clone(), model.std.clone()
        self.network: Any = copied(model).to(self.device)
        self.optimizer = torch.optim.SGD(
            self.network.parameters(),
            lr=recipe.learning_rate,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
        )
        self.train, self.test = (
            (list(part.images.permute(0, 2, 3, 1).contiguous().numpy()), part.labels)
            for part in (splits.train.decoded(), splits.test.decoded())
        )
        self.batch = setting.batch
        self.batches = _batches(setting)
        self.generator = torch.Generator().manual_seed(0)

    def step(self) -> None:
        """Take a step, its images through PIL one by one, its loss read back."""
        self.network.train()
        index = next(self.batches)
        padding = self.recipe.crop_padding
        shifts = draw_shifts(len(index), padding, flip=True, generator=self.generator)
        pixels = [self.train[0][i] for i in index.tolist()]
        images = augmented(pixels, shifts, padding, self.mean, self.std).to(self.device)
        labels = self.train[1][index].to(self.device)
        loss = reference_loss(self.network(images), labels, GAMMA)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        loss.item()

    @torch.no_grad()
    def evaluate(self) -> None:
        """Measure loss and accuracy, reading both back for each batch."""
        self.network.eval()
        pixels, truth = self.test
        for start in range(0, len(pixels), self.batch):
            part = slice(start, start + self.batch)
            images = unaugmented(pixels[part], self.mean, self.std).to(self.device)
            labels = truth[part].to(self.device)
            outputs = self.network(images)
            reference_loss(outputs, labels, 0.0).item()
            (outputs.logits.argmax(dim=1) == labels).sum().item()


def _batches(setting: Setting) -> Iterator[Tensor]:
    """Yield the indices of a batch, for ever."""
    generator = torch.Generator().manual_seed(0)
    while True:
        order = torch.randperm(BATCHES * setting.batch, generator=generator)
        yield from order.split(setting.batch)


def checkpointed(setting: Setting) -> Ours:
    """Return ours with activation checkpointing."""
    return Ours(replace(setting, checkpoint_activations=True))


WORKLOADS: dict[str, Callable[[Setting], Workload]] = {
    "ours": Ours,
    "checkpointed": checkpointed,
    "yardstick": Yardstick,
}
"""What is measured, by name."""


DTYPES = {"bf16": torch.bfloat16, "float32": torch.float32}
COUNTED_BATCH = 2
"""Operations are counted on so many images: their number grows with them exactly."""


@dataclass(frozen=True)
class MatrixProduct:
    """A square matrix product that takes its turn beside what is timed."""

    dtype: str
    size: int
    job: Callable[[], object]

    @property
    def operations(self) -> float:
        """A multiplication and an addition for each of `size ** 3` pairs."""
        return 2.0 * self.size**3


def matrix_product(dtype: str, size: int, device: torch.device) -> MatrixProduct:
    left, right = (torch.randn(size, size, device=device, dtype=DTYPES[dtype]) for _ in range(2))
    out = torch.empty_like(left)
    return MatrixProduct(dtype, size, lambda: torch.mm(left, right, out=out))


def fastest_products(
    sizes: tuple[int, ...], turns: int, setting: Setting, warm_up: int = 1
) -> dict[str, MatrixProduct]:
    """Return, for each number format, the product of the size with the most operations a second.

    The products of float32 are exact where torch's default has it so: no TF32 on a GPU. Those of
    bf16 are left out where we compute in float32: a CPU without units for bf16 takes minutes for
    one.
    """
    device = setting.device
    formats = [dtype for dtype in DTYPES if dtype == "float32" or setting.precision == "bf16"]
    products = [matrix_product(dtype, size, device) for dtype in formats for size in sizes]
    seconds = take_turns([product.job for product in products], turns, device, warm_up)
    rates = [
        product.operations / statistics.median(taken)
        for product, taken in zip(products, seconds, strict=True)
    ]
    best: dict[str, MatrixProduct] = {}
    for _, index in sorted(zip(rates, range(len(rates)), strict=True)):
        best[products[index].dtype] = products[index]
    return best


def operations_of_step(setting: Setting, kind: str) -> float:
    """Count the floating-point operations of a training step by torch's own counter."""
    workload = WORKLOADS[kind](replace(setting, batch=COUNTED_BATCH))
    with FlopCounterMode(display=False) as counter:
        workload.step()
    return counter.get_total_flops() * setting.batch / COUNTED_BATCH


LAST_PATCH_LAYER = {
    "loss-attention": "head.patch_layers",
    "capsule-loss-attention": "head.patch_capsules",
}
"""From its output on, everything is the head's."""

PARTS = {
    "data": ("start", "images"),
    "network, forward": ("images", "patches"),
    "head, forward and backward": ("patches", "gradient"),
    "network, backward": ("gradient", "update"),
    "optimiser and bookkeeping": ("update", "end"),
}
"""The marks at which each part begins and ends. Data: take the images, crop, flip, normalise."""

PROFILED_ROWS = 30
SYNCHRONISED = "called a synchronizing CUDA operation"


class Marks:
    """When a step passed which mark: by the clock, or by events that a GPU passes."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.passed: dict[str, Any] = {}

    def __call__(self, name: str) -> None:
        """Note that the step is at this mark."""
        if self.device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self.passed[name] = event
        else:
            self.passed[name] = time.perf_counter()

    def seconds(self, begin: str, end: str) -> float:
        """Return the time between two marks; the device must have passed them."""
        first, second = self.passed[begin], self.passed[end]
        if self.device.type == "cuda":
            return float(first.elapsed_time(second)) / 1000
        return float(second - first)


def parts_of_step(ours: Ours) -> dict[str, float]:
    """Take a step, and return the seconds of each part and of the `step` as a whole."""
    device = ours.setting.device
    marks = Marks(device)
    with _marked(ours, marks):
        _wait_for(device)
        marks("start")
        ours.step()
        marks("end")
        _wait_for(device)
    parts = {"step": ("start", "end"), **PARTS}
    return {name: marks.seconds(begin, end) for name, (begin, end) in parts.items()}


@contextmanager
def _marked(ours: Ours, marks: Marks) -> Iterator[None]:
    """Set the marks between start and end, as long as the context lasts."""
    model, optimizer = ours.trainer.model, ours.trainer.optimizer
    patches = model.get_submodule(LAST_PATCH_LAYER[ours.setting.head])

    def at_patches(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        marks("patches")
        output.register_hook(lambda _gradient: marks("gradient"))

    with ExitStack() as hooks:
        for handle in (
            model.backbone.register_forward_pre_hook(lambda *_: marks("images")),
            patches.register_forward_hook(at_patches),
            optimizer.optimizer.register_step_pre_hook(lambda *_: marks("update")),
        ):
            hooks.callback(handle.remove)
        yield


def host_waits(ours: Ours) -> int | None:
    """Return how often a step makes the host wait for a GPU; None on a CPU."""
    if ours.setting.accelerator != "cuda":
        return None
    import warnings

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            ours.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    # Switching it on warns too, that it does not see everything.
    return sum(SYNCHRONISED in str(warning.message) for warning in caught)


def profile_of_step(ours: Ours) -> str:
    """Return torch.profiler's table of a step, the costliest operations first."""
    activities = [ProfilerActivity.CPU]
    order = "self_cpu_time_total"
    if ours.setting.accelerator == "cuda":
        activities.append(ProfilerActivity.CUDA)
        order = "self_device_time_total"
    with profile(activities=activities) as found:
        ours.step()
        _wait_for(ours.setting.device)
    table = found.key_averages().table(
        sort_by=order, row_limit=PROFILED_ROWS, max_name_column_width=60
    )
    return "\n".join(line.rstrip() for line in table.splitlines()) + "\n"


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
