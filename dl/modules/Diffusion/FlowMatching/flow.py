"""Straight paths from images to noise, the velocity along them, and the sampler that goes back: Euler's.

Lipman et al. 2022, https://arxiv.org/abs/2210.02747, equations 20 to 23 with the smallest std 0; Liu et al. 2022,
https://arxiv.org/abs/2209.03003, equation 1.
"""

import torch
from torch import Tensor

from dl.modules.Diffusion.DDPM.samplers import Denoiser, Watch


class Flow:
    """x_t = (1 - s) x_0 + s noise with s = t / steps in [0, 1]; the network predicts dx/ds = noise - x_0.

    It has the interface of DDPM's `DiffusionSchedule`, so that the same task trains it; its times are real numbers.
    """

    prediction = "velocity"
    steps = 1000

    def sample_timesteps(self, count: int, device: torch.device | str = "cpu") -> Tensor:
        """Return times (count,) for a training step, uniform in [0, steps)."""
        return torch.rand(count, device=device) * self.steps

    def q_sample(self, images: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """x_t from images (B, C, H, W), normal noise and times (B,)."""
        share = (times / self.steps).view(-1, 1, 1, 1)
        return (1 - share) * images + share * noise

    def target(self, images: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """Return the velocity, which is the same all along a path."""
        return noise - images

    def split(self, output: Tensor) -> tuple[Tensor, None]:
        """Return a network's output, the velocity, and None: it has no variance, as `DiffusionSchedule` can have."""
        return output, None


def euler(denoise: Denoiser, flow: Flow, noise: Tensor, steps: int = 25, watch: Watch | None = None) -> Tensor:
    """From noise (B, C, H, W) to images in `steps` equal steps against the velocity.

    `watch` is called after each step with its number and x. Raises `ValueError` for less than one step.
    """
    if steps < 1:
        raise ValueError(f"{steps} steps: sampling takes at least 1")
    x = noise
    for i in range(steps):
        times = torch.full((len(x),), (1 - i / steps) * flow.steps, dtype=x.dtype, device=x.device)
        x = x - denoise(x, times) / steps
        if watch:
            watch(i + 1, x)
    return x
