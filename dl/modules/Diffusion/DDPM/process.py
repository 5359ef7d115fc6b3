"""The forward process: how noise is added to images, and what a network can predict of it.

Ho et al. 2020, https://arxiv.org/abs/2006.11239, section 2; the cosine schedule is that of Nichol & Dhariwal 2021,
https://arxiv.org/abs/2102.09672, equation 17; v that of Salimans & Ho 2022, https://arxiv.org/abs/2202.00512, appendix D.
A learned variance is that of Nichol & Dhariwal, section 3.1; vlb.py has the loss that teaches it.
"""

import math

import torch
from torch import Tensor

from dl.mytorch.float64 import with_float64

PREDICTIONS = ("epsilon", "x0", "v")

# T steps of the process, B batch


def linear_betas(steps: int = 1000, first: float = 1e-4, last: float = 0.02, largest: float = 0.999) -> Tensor:
    """Return the variances of section 4, which grow linearly from `first` to `last` in the paper's 1000 steps. (T,) in float64.

    Fewer steps add as much noise, each 1000 / steps as much, as in Nichol & Dhariwal's code, and none above `largest`:
    samplers begin with pure noise, which has to be what is left in the end.
    """
    scale = 1000 / steps
    return torch.linspace(scale * first, scale * last, steps, dtype=torch.float64).clamp(max=largest)


def cosine_betas(steps: int = 1000, offset: float = 0.008, largest: float = 0.999) -> Tensor:
    """Return the variances of equation 17: the signal falls as a squared cosine. (T,) in float64, none above `largest`."""
    angle = (torch.arange(steps + 1, dtype=torch.float64) / steps + offset) / (1 + offset) * math.pi / 2
    left = angle.cos().square()
    return (1 - left[1:] / left[:-1]).clamp(max=largest)


SCHEDULES = {"linear": linear_betas, "cosine": cosine_betas}


class DiffusionSchedule:
    """q(x_t | x_0) = N(sqrt(alpha_bar_t) x_0, (1 - alpha_bar_t) I), equation 4, and the network's part in undoing it.

    Args:
        schedule: "linear" or "cosine", with `steps` times, or betas (T,) themselves.
        prediction: what the network gives: "epsilon", the noise; "x0", the image; "v" = sqrt(alpha_bar) epsilon -
            sqrt(1 - alpha_bar) x_0.
        learned_variance: the network gives (B, 2C, H, W): after its prediction, a number v for each pixel, which sets the
            variance of a step back, see `log_variance`.

    Attributes: `steps`, T; `alpha_bar` (T,), the share of variance that is signal, in float64.
    Raises `ValueError` for another schedule or prediction, and for a learned variance of less than two steps.
    """

    def __init__(
        self,
        schedule: str | Tensor = "linear",
        prediction: str = "epsilon",
        steps: int = 1000,
        learned_variance: bool = False,
    ) -> None:
        if isinstance(schedule, str):
            if schedule not in SCHEDULES:
                raise ValueError(f"schedule {schedule!r}: there are {', '.join(SCHEDULES)}")
            schedule = SCHEDULES[schedule](steps)
        if prediction not in PREDICTIONS:
            raise ValueError(f"prediction {prediction!r}: there are {', '.join(PREDICTIONS)}")
        self.prediction, self.learned_variance = prediction, learned_variance
        self.steps = len(schedule)
        if learned_variance and self.steps < 2:
            raise ValueError("a learned variance takes a process of at least 2 steps")
        self.alpha_bar = (1 - schedule.double()).cumprod(0)

    def sample_timesteps(self, count: int, device: torch.device | str = "cpu") -> Tensor:
        """Return times (count,) for a training step, uniform: algorithm 1."""
        return torch.randint(self.steps, (count,), device=device)

    def coefficients(self, times: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return sqrt(alpha_bar) and sqrt(1 - alpha_bar) at times (B,), each (B, 1, 1, 1) of the dtype of `like`."""
        roots = (self.alpha_bar.sqrt(), (1 - self.alpha_bar).sqrt())  # in float64, which not every device has
        signal, std = (root.to(like.dtype).to(times.device)[times].view(-1, 1, 1, 1) for root in roots)
        return signal, std

    def q_sample(self, images: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """Return x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) noise for images x_0 (B, C, H, W): equation 4."""
        signal, std = self.coefficients(times, images)
        return signal * images + std * noise

    def target(self, images: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """Return what the network should give for the images that `q_sample` returns."""
        if self.prediction == "epsilon":
            return noise
        if self.prediction == "x0":
            return images
        signal, std = self.coefficients(times, images)
        return signal * noise - std * images

    def predict_x0(self, output: Tensor, x: Tensor, times: Tensor) -> Tensor:
        """Return the image x_0 that a network's output means, given x_t; equation 15 for epsilon."""
        output, _ = self.split(output)
        signal, std = self.coefficients(times, x)
        if self.prediction == "epsilon":
            return (x - std * output) / signal
        if self.prediction == "x0":
            return output
        return signal * x - std * output

    def noise(self, images: Tensor, x: Tensor, times: Tensor) -> Tensor:
        """Return the noise that made x_t from images x_0."""
        signal, std = self.coefficients(times, x)
        return (x - signal * images) / std

    def split(self, output: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return a network's output as its prediction and, where the variance is learned, v: (B, C, H, W) each."""
        if not self.learned_variance:
            return output, None
        prediction, v = output.chunk(2, dim=1)
        return prediction, v

    def posterior_mean(self, images: Tensor, x: Tensor, times: Tensor, before: Tensor) -> Tensor:
        """Return the mean of q(x_before | x_t, x_0), equation 7, for times and before (B,), where -1 is the clean image."""
        bar, bar_before = self._bars(times, before)
        alpha = bar / bar_before
        of_images, of_x = bar_before.sqrt() * (1 - alpha) / (1 - bar), alpha.sqrt() * (1 - bar_before) / (1 - bar)
        return of_images.to(x.dtype).to(x.device) * images + of_x.to(x.dtype).to(x.device) * x

    def variances(self, times: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        """The two choices of section 3.2, (B, 1, 1, 1) each in float64: beta tilde, the variance of the posterior; and beta.

        They are on the CPU if the device of `times` has no float64.
        """
        bar, bar_before = self._bars(times, before)
        beta = 1 - bar / bar_before
        return beta * (1 - bar_before) / (1 - bar), beta

    def log_variance(self, v: Tensor, times: Tensor, before: Tensor) -> Tensor:
        """Interpolate by equation 15 (Nichol & Dhariwal): log beta tilde where v (B, C, H, W) is -1, log beta where it is 1.

        Beta tilde of the step to the clean image is 0; as in the authors' code, that of the step before it takes its place.
        """
        small, large = self.variances(times, before)
        least, _ = self.variances(times.new_full((1,), 1), times.new_full((1,), 0))
        low, high = (variance.log().to(v.dtype).to(v.device) for variance in (torch.maximum(small, least), large))
        share = (v + 1) / 2
        return share * high + (1 - share) * low

    def _bars(self, times: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        """Return alpha_bar at both, (B, 1, 1, 1) each; 1 at -1."""
        times, before = with_float64(times), with_float64(before)
        bars = torch.cat([self.alpha_bar, torch.ones(1, dtype=torch.float64)]).to(times.device)
        return bars[times].view(-1, 1, 1, 1), bars[before].view(-1, 1, 1, 1)
