"""SimCLR.

"A Simple Framework for Contrastive Learning of Visual Representations", Ting Chen, Simon Kornblith, Mohammad Norouzi,
Geoffrey Hinton, 2020, https://arxiv.org/abs/2002.05709, section 2.1 and figure 2.

An encoder, a ResNet without its classifier, makes a representation h of an image; a small network, the projection head, maps h
to the embedding z, of which the loss knows. What is kept afterwards is h. loss.py has the loss, NT-Xent.

"resnet50" is the paper's; for small images, as in its appendix B.9, it gets a stem of one 3x3 convolution. "small" is ours, for
a CPU, "resnet18" stands between them, and "tiny" is for tests.

Deviations:
- Over ranks each normalises by the statistics of its own examples, where the paper's batch norm takes those of all.
"""

from typing import Any

import torch
from torch import Tensor, nn

from dl.modules.CNN.ResNet.model import PRESETS as ENCODERS
from dl.modules.CNN.ResNet.model import build as build_encoder
from dl.mytorch.layers import sequential

# B images, C channels, X their side, D length of h


class SimCLR(nn.Module):
    """forward: images (B, in_channels, X, X) -> embeddings z (B, dim), of any length.

    Args:
        encoder: preset of the ResNet.
        small: a stem for images of 28 or 32, where the preset's is for ImageNet.
        hidden: width of the projection head's hidden layer; the paper's is D.
        dim: length of z.
    """

    def __init__(self, encoder: str, hidden: int, dim: int, in_channels: int = 3, small: bool = False) -> None:
        super().__init__()
        stem = ENCODERS[encoder].get("stem", "small" if small else "imagenet")
        self.encoder = build_encoder(encoder, in_channels=in_channels, stem=stem)
        features = self.encoder.head.in_features
        self.encoder.head = nn.Identity()
        self.dim = dim
        # Equation of section 2.1: z = W2 relu(W1 h)
        self.projector = sequential(fc1=nn.Linear(features, hidden), act=nn.ReLU(), fc2=nn.Linear(hidden, dim))

    def represent(self, images: Tensor) -> Tensor:
        """Return h (B, D) of images (B, in_channels, X, X)."""
        return self.encoder(images)

    def forward(self, images: Tensor) -> Tensor:
        return self.projector(self.represent(images))


PRESETS: dict[str, dict[str, Any]] = {
    "small": {"encoder": "small", "hidden": 256, "dim": 64},
    "resnet18": {"encoder": "resnet18", "hidden": 512, "dim": 128},
    "resnet50": {"encoder": "resnet50", "hidden": 2048, "dim": 128},
    "tiny": {"encoder": "tiny", "hidden": 16, "dim": 8},
}


def build(preset: str = "small", **overrides: Any) -> SimCLR:
    """Return a SimCLR by the name of its preset; `overrides` are arguments of `SimCLR`."""
    return SimCLR(**{**PRESETS[preset], **overrides})


def example(preset: str) -> tuple[Tensor]:
    """Return an image that the preset takes: zeros (1, 3, X, X)."""
    size = 224 if preset.startswith("resnet") else 32
    return (torch.zeros(1, 3, size, size),)
