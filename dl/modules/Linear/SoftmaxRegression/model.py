"""Softmax regression.

"Probabilistic Interpretation of Feedforward Classification Network Outputs, with Relationships to Statistical Pattern
Recognition", John S. Bridle, 1990, https://doi.org/10.1007/978-3-642-76153-9_28, which named the softmax and trained it
by the logarithm of the right class's probability; the model is older: multinomial logistic regression
(https://d2l.ai, sections 4.1 to 4.5).

One linear layer from pixels to classes: no hidden unit, a floor that every deeper network has to pass.

Deviations:
- The model gives logits. The softmax is part of the loss, where its logarithm cannot overflow.
"""

from typing import Any

import torch
from torch import Tensor, nn

# B batch, C channels, X side of an image, K classes


class SoftmaxRegression(nn.Module):
    """Logits W x + b of flattened images; softmax makes them the probabilities of the classes.

    forward: images (B, in_channels, image_size, image_size) -> logits (B, num_classes).
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 1, image_size: int = 28) -> None:
        super().__init__()
        self.output = nn.Linear(in_channels * image_size**2, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.output(images.flatten(1))  # (B, C, X, X) -> (B, C * X * X) -> (B, K)


PRESETS: dict[str, dict[str, Any]] = {
    "linear": {},
    "tiny": {},  # it is tiny as it is
}


def build(preset: str = "linear", **overrides: Any) -> SoftmaxRegression:
    """Return a softmax regression by the name of its preset; `overrides` are arguments of `SoftmaxRegression`."""
    return SoftmaxRegression(**{**PRESETS[preset], **overrides})


def example(preset: str) -> tuple[Tensor]:
    """Return an image that the preset takes: zeros (1, C, H, W)."""
    return (torch.zeros(1, 1, 28, 28),)
