"""How many operations a step needs, and how many a second the machine can do at best."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch.utils.flop_counter import FlopCounterMode
from workloads import WORKLOADS, Setting

from loss_attention.attribution.measures import take_turns

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
