"""The forward process: how noise is added to images, and what a network can predict of it.

Ho et al. 2020, https://arxiv.org/abs/2006.11239, section 2; the cosine schedule is that of Nichol & Dhariwal 2021,
https://arxiv.org/abs/2102.09672, equation 17; v that of Salimans & Ho 2022, https://arxiv.org/abs/2202.00512, appendix D.
"""

import math

import torch
from torch import Tensor

PREDICTIONS = ("epsilon", "x0", "v")

# T steps of the process, B batch


def linear_betas(steps: int = 1000, first: float = 1e-4, last: float = 0.02) -> Tensor:
    """Section 4: variances that grow linearly, (T,) in float64."""
    return torch.linspace(first, last, steps, dtype=torch.float64)


def cosine_betas(steps: int = 1000, offset: float = 0.008, largest: float = 0.999) -> Tensor:
    """Equation 17: the signal that is left falls as a squared cosine. (T,) in float64, none above `largest`."""
    angle = (torch.arange(steps + 1, dtype=torch.float64) / steps + offset) / (1 + offset) * math.pi / 2
    left = angle.cos().square()
    return (1 - left[1:] / left[:-1]).clamp(max=largest)


SCHEDULES = {"linear": linear_betas, "cosine": cosine_betas}


class Process:
    """q(x_t | x_0) = N(sqrt(alpha_bar_t) x_0, (1 - alpha_bar_t) I), equation 4, and the network's part in undoing it.

    Args:
        schedule: "linear" or "cosine", with `steps` times, or betas (T,) themselves.
        prediction: what the network gives: "epsilon", the noise; "x0", the image; "v" = sqrt(alpha_bar) epsilon -
            sqrt(1 - alpha_bar) x_0.

    Attributes: `steps`, T; `alpha_bar` (T,), the share of variance that is signal, in float64.
    Raises `ValueError` for another schedule or prediction.
    """

    def __init__(self, schedule: str | Tensor = "linear", prediction: str = "epsilon", steps: int = 1000) -> None:
        if isinstance(schedule, str):
            if schedule not in SCHEDULES:
                raise ValueError(f"schedule {schedule!r}: there are {', '.join(SCHEDULES)}")
            schedule = SCHEDULES[schedule](steps)
        if prediction not in PREDICTIONS:
            raise ValueError(f"prediction {prediction!r}: there are {', '.join(PREDICTIONS)}")
        self.prediction = prediction
        self.steps = len(schedule)
        self.alpha_bar = (1 - schedule.double()).cumprod(0)

    def draw_times(self, count: int, device: torch.device | str = "cpu") -> Tensor:
        """Times (count,) for a training step, uniform: algorithm 1."""
        return torch.randint(self.steps, (count,), device=device)

    def levels(self, times: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(alpha_bar) and sqrt(1 - alpha_bar) at times (B,), each (B, 1, 1, 1) of the dtype of `like`."""
        alpha_bar = self.alpha_bar.to(times.device)[times].view(-1, 1, 1, 1)
        return alpha_bar.sqrt().to(like.dtype), (1 - alpha_bar).sqrt().to(like.dtype)

    def noised(self, images: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """x_t from images x_0 (B, C, H, W) and normal noise, equation 4."""
        signal, deviation = self.levels(times, images)
        return signal * images + deviation * noise

    def target(self, images: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """What the network should give for the `noised` images."""
        if self.prediction == "epsilon":
            return noise
        if self.prediction == "x0":
            return images
        signal, deviation = self.levels(times, images)
        return signal * noise - deviation * images

    def clean(self, output: Tensor, x: Tensor, times: Tensor) -> Tensor:
        """The image x_0 that a network's output means, given x_t; equation 15 for epsilon."""
        signal, deviation = self.levels(times, x)
        if self.prediction == "epsilon":
            return (x - deviation * output) / signal
        if self.prediction == "x0":
            return output
        return signal * x - deviation * output

    def noise(self, images: Tensor, x: Tensor, times: Tensor) -> Tensor:
        """The noise that made x_t from images x_0."""
        signal, deviation = self.levels(times, x)
        return (x - signal * images) / deviation
