"""Flow matching.

"Flow Matching for Generative Modeling", Yaron Lipman, Ricky T. Q. Chen, Heli Ben-Hamu, Maximilian Nickel, Matt Le, 2022,
https://arxiv.org/abs/2210.02747, with the straight paths of section 4.1, example II (smallest std 0), which are
those of rectified flow (Liu, Gong & Liu 2022, https://arxiv.org/abs/2209.03003, equation 1).

The network is DDPM's U-Net, as in the paper; it gives a velocity. Paths, loss and sampler are in flow.py.

Deviations:
- Time runs as in DDPM, from the image at 0 to noise at the end, which the paper calls time 0. The network sees it times
  1000, as in diffusers.
"""

from typing import Any

import torch
from torch import Tensor

from dl.modules.Diffusion.DDPM.model import PRESETS as SIZES
from dl.modules.Diffusion.DDPM.model import UNet

PRESETS: dict[str, dict[str, Any]] = {name: SIZES[name] for name in ("cifar10", "small", "tiny")}


def build(preset: str = "cifar10", **overrides: Any) -> UNet:
    """Return a U-Net by the name of its preset; `overrides` are arguments of `UNet`."""
    return UNet(**{**PRESETS[preset], **overrides})


def example(preset: str) -> tuple[Tensor]:
    """Return an image that the preset takes: zeros (1, C, H, W)."""
    return (torch.zeros(1, 1, 28, 28) if PRESETS[preset].get("in_channels") == 1 else torch.zeros(1, 3, 32, 32),)
