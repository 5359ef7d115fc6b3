"""Multilayer perceptron.

"Learning representations by back-propagating errors", David E. Rumelhart, Geoffrey E. Hinton, Ronald J. Williams,
1986, https://doi.org/10.1038/323533a0.

Layers of units, each fully connected to the one before; what the hidden ones stand for is found by gradient descent.
Two sizes: "d2l" has one hidden layer (https://d2l.ai, section 5.2), "large" has two, with dropout (Srivastava et al.
2014, https://jmlr.org/papers/v15/srivastava14a.html).

Deviations:
- Hidden units are rectified linear, the paper's are sigmoids (equation 2).
- The outputs are logits for a softmax and cross-entropy; the paper's are sigmoids, with squared errors (equation 3).
- Weights start as torch's linear layers do, not as d2l's normal numbers of std 0.01.
"""

from typing import Any

import torch
from torch import Tensor, nn

from dl.mytorch.layers import sequential

# B batch, C channels, X side of an image, H units of a hidden layer, K classes


class MLP(nn.Module):
    """Hidden layers of `hidden` units, each followed by ReLU and dropout, then one of logits.

    forward: images (B, in_channels, image_size, image_size) -> logits (B, num_classes).
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 1,
        image_size: int = 28,
        hidden: tuple[int, ...] = (256,),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        layers: dict[str, nn.Module] = {}
        inputs = in_channels * image_size**2
        for i, units in enumerate(hidden, start=1):
            layers |= {f"fc{i}": nn.Linear(inputs, units), f"act{i}": nn.ReLU(), f"drop{i}": nn.Dropout(dropout)}
            inputs = units
        self.hidden = sequential(**layers)
        self.output = nn.Linear(inputs, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.hidden(images.flatten(1))  # (B, C, X, X) -> (B, C * X * X) -> (B, H)
        return self.output(x)  # (B, K)


PRESETS: dict[str, dict[str, Any]] = {
    "large": {"hidden": (512, 256), "dropout": 0.2},
    "d2l": {"hidden": (256,)},
    "tiny": {"hidden": (16, 16), "dropout": 0.1},
}


def build(preset: str = "large", **overrides: Any) -> MLP:
    """Return an MLP by the name of its preset; `overrides` are arguments of `MLP`."""
    return MLP(**{**PRESETS[preset], **overrides})


def example(preset: str) -> tuple[Tensor]:
    """Return an image that the preset takes: zeros (1, C, H, W)."""
    return (torch.zeros(1, 1, 28, 28),)
