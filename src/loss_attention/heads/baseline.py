"""The published networks' own classifiers, which look at no patch: the paper's baselines."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from loss_attention.prediction import ImagePrediction, full_precision


class BaselineHead(nn.Module):
    """Average over all places, then a linear layer, with two hidden layers where VGG has them.

    Args:
        in_channels: channels of the feature map.
        num_classes: K.
        hidden: width of the two hidden layers (ReLU, dropout 0.5); 0 for none.
    """

    def __init__(self, in_channels: int, num_classes: int, hidden: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(2 if hidden else 0):
            layers += [nn.Linear(in_channels, hidden), nn.ReLU(inplace=True), nn.Dropout(0.5)]
            in_channels = hidden
        self.classifier = nn.Sequential(*layers, nn.Linear(in_channels, num_classes))

    def forward(
        self,
        feature_map: Float[Tensor, "B C h w"],
        image_size: tuple[int, int],  # noqa: ARG002 (patch heads need it for their grid)
    ) -> ImagePrediction:
        """Return the image's logits."""
        logits: Tensor = self.classifier(feature_map.mean(dim=(2, 3)))
        return ImagePrediction(full_precision(logits))
