"""The exponential moving average of a network's weights as it trains."""

from __future__ import annotations

import copy
from itertools import chain

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from loss_attention.models import PatchClassifier


class WeightAverage:
    """Averages weights, and batch norm's running statistics with them.

    torch's `AveragedModel` asks the device at each update whether it is the first, which makes the
    host wait for a GPU.

    Args:
        model: begins the average; it is copied.
        decay: how much of the average stays at each step, in [0, 1), once there were many.

    Attributes:
        model: the averaged network.
    """

    def __init__(self, model: PatchClassifier, decay: float) -> None:
        self.model = copy.deepcopy(model)
        self._decay = decay

    @torch.no_grad()
    def update(self, model: PatchClassifier, steps: int) -> None:
        """Add the weights after a step, the first of a run being 0.

        Early ones are soon forgotten: the decay is at most `(1 + steps) / (10 + steps)`, as in
        TensorFlow's ExponentialMovingAverage.
        """
        decay = min(self._decay, (1 + steps) / (10 + steps))
        average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        average(_floats(self.model), _floats(model), steps)


def _floats(model: nn.Module) -> list[Tensor]:
    tensors = chain(model.parameters(), model.buffers())
    return [tensor for tensor in tensors if tensor.is_floating_point()]
