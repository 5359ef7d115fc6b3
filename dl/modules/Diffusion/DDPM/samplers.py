"""From noise to images: DDPM, DDIM and DPM-Solver++(2M), as pure functions named by their algorithm.

- `ddpm`: Ho et al. 2020, https://arxiv.org/abs/2006.11239, algorithm 2.
- `ddim`: Song, Meng & Ermon 2020, https://arxiv.org/abs/2010.02502, equations 12 and 16.
- `dpm_solver_2m`: Lu et al. 2022, https://arxiv.org/abs/2211.01095, algorithm 2.
- `guided`: Ho & Salimans 2022, https://arxiv.org/abs/2207.12598, equation 6.

A denoiser is any function of noisy images (B, C, H, W) and times (B,) that gives the prediction of `process`. All samplers
take normal noise (B, C, H, W) for x_T and use the same times: `trailing(T, steps)`. With `clip`, each predicted image is
cut to [-1, 1], as in the authors' code. `watch` is called after each step with its number and the images so far.
"""

from typing import Any, Callable

import torch
from torch import Tensor, nn

from dl.modules.Diffusion.DDPM.process import DiffusionSchedule

Denoiser = Callable[[Tensor, Tensor], Tensor]
Watch = Callable[[int, Tensor], Any]


def trailing(total: int, steps: int) -> list[int]:
    """Return `steps` times from total - 1 down, evenly spaced, and -1, the clean image (Lin et al. 2023, table 2,
    https://arxiv.org/abs/2305.08891).

    Raises `ValueError` for more steps than there are times.
    """
    if not 1 <= steps <= total:
        raise ValueError(f"{steps} steps: the process has {total}, and sampling takes 1 to {total}")
    return [round(total - i * total / steps) - 1 for i in range(steps)] + [-1]


def guided(model: nn.Module, labels: Tensor, scale: float = 1.0) -> Denoiser:
    """Return a denoiser for labels (B,): the unconditional prediction plus `scale` times what the label adds to it.

    1 is the conditional model alone, 0 the unconditional one. The paper's weight w is scale - 1. A learned variance, in
    channels after those of the prediction, stays that of the conditional model.
    Raises `ValueError` for a label that the model does not know.
    """
    if labels.min() < 0 or labels.max() > model.num_classes:
        known = f"from 0 to {model.num_classes - 1}, or {model.num_classes} for none"
        raise ValueError(f"labels are {known}; got {labels.tolist()}")

    def denoise(x: Tensor, times: Tensor) -> Tensor:
        if scale == 1:
            return model(x, times, labels)
        no_label = torch.full_like(labels, model.num_classes)
        both = model(torch.cat([x, x]), torch.cat([times, times]), torch.cat([labels, no_label]))
        conditional, unconditional = both.to(x.dtype).chunk(2)
        channels = x.shape[1]
        prediction = unconditional[:, :channels] + scale * (conditional - unconditional)[:, :channels]
        return torch.cat([prediction, conditional[:, channels:]], dim=1)

    return denoise


def ddpm(
    denoise: Denoiser,
    process: DiffusionSchedule,
    noise: Tensor,
    steps: int = 0,
    variance: str = "",
    clip: bool = True,
    generator: torch.Generator | None = None,
    watch: Watch | None = None,
) -> Tensor:
    """Sample by algorithm 2, with all steps of the process or with fewer.

    `variance` is "small" (beta tilde), "large" (beta) or "learned"; by default the last where the process has it, else
    the first. Raises `ValueError` for another.
    """
    known = ("small", "large", "learned") if process.learned_variance else ("small", "large")
    variance = variance or ("learned" if process.learned_variance else "small")
    if variance not in known:
        raise ValueError(f"variance {variance!r}: this process has {', '.join(known)}")
    x, times = noise, trailing(process.steps, steps or process.steps)
    for i, (t, before) in enumerate(zip(times, times[1:])):
        images, v = _images(denoise, process, x, t, clip)
        new = torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device) if before >= 0 else torch.zeros_like(x)
        x = ddpm_step(process, images, x, t, before, new, v if variance == "learned" else variance)
        if watch:
            watch(i + 1, x)
    return x


def ddpm_step(
    process: DiffusionSchedule, images: Tensor, x: Tensor, t: int, before: int, new: Tensor, variance: str | Tensor = "small"
) -> Tensor:
    """Return x at time `before` from x at time t, the predicted images x_0 and new noise: equations 6 and 7.

    `variance` is "small" or "large"; or v (B, C, H, W) of a learned one.
    """
    times, earlier = (torch.full((1,), time, device=x.device) for time in (t, before))
    mean = process.posterior_mean(images, x, times, earlier)
    if isinstance(variance, Tensor):
        return mean + (process.log_variance(variance, times, earlier) / 2).exp() * new
    small, large = process.variances(times, earlier)
    return mean + (large if variance == "large" else small).sqrt().to(x.dtype).to(x.device) * new


def ddim(
    denoise: Denoiser,
    process: DiffusionSchedule,
    noise: Tensor,
    steps: int = 50,
    eta: float = 0.0,
    clip: bool = True,
    generator: torch.Generator | None = None,
    watch: Watch | None = None,
) -> Tensor:
    """Sample by equation 12 in `steps` steps. Eta 0: the images are a function of the noise; eta 1: the variance of `ddpm`."""
    x, times = noise, trailing(process.steps, steps)
    for i, (t, before) in enumerate(zip(times, times[1:])):
        images, _ = _images(denoise, process, x, t, clip)
        new = torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device) if eta else torch.zeros_like(x)
        x = ddim_step(process, images, x, t, before, new, eta)
        if watch:
            watch(i + 1, x)
    return x


def ddim_step(
    process: DiffusionSchedule, images: Tensor, x: Tensor, t: int, before: int, new: Tensor, eta: float = 0.0
) -> Tensor:
    """Return x at time `before` from x at time t, the predicted images x_0 and new noise: equations 12 and 16."""
    bar, bar_before = (float(process.alpha_bar[s]) if s >= 0 else 1.0 for s in (t, before))
    sigma = eta * ((1 - bar_before) / (1 - bar) * (1 - bar / bar_before)) ** 0.5
    epsilon = (x - bar**0.5 * images) / (1 - bar) ** 0.5
    return bar_before**0.5 * images + (1 - bar_before - sigma**2) ** 0.5 * epsilon + sigma * new


def dpm_solver_2m(
    denoise: Denoiser, process: DiffusionSchedule, noise: Tensor, steps: int = 10, clip: bool = True, watch: Watch | None = None
) -> Tensor:
    """Algorithm 2: each step goes along a line through this prediction and the one before, in log signal-to-noise ratio.

    The first step is of first order, having none before; so is the last, to the clean image.
    """
    x, times = noise, trailing(process.steps, steps)
    earlier: tuple[Tensor, int] | None = None
    for i, (t, before) in enumerate(zip(times, times[1:])):
        images, _ = _images(denoise, process, x, t, clip)
        x = dpm_solver_step(process, images, x, t, before, earlier if before >= 0 else None)
        earlier = (images, t)
        if watch:
            watch(i + 1, x)
    return x


def dpm_solver_step(
    process: DiffusionSchedule, images: Tensor, x: Tensor, t: int, before: int, earlier: tuple[Tensor, int] | None
) -> Tensor:
    """x at time `before` from x at time t and the predicted images x_0; `earlier`: those of the step before, and its time."""
    if before < 0:
        return images  # where no noise is left, the first-order step ends here
    bars = process.alpha_bar
    log_ratio = (bars.sqrt().log() - (1 - bars).sqrt().log()).tolist()  # lambda
    step = log_ratio[before] - log_ratio[t]  # h
    direction = images
    if earlier is not None:
        ratio = (log_ratio[t] - log_ratio[earlier[1]]) / step  # r
        direction = images + (images - earlier[0]) / (2 * ratio)
    std, std_before = float((1 - bars[t]).sqrt()), float((1 - bars[before]).sqrt())
    shrink = float(torch.tensor(-step, dtype=torch.float64).expm1())  # exp(-h) - 1
    return std_before / std * x - float(bars[before].sqrt()) * shrink * direction


def _images(denoise: Denoiser, process: DiffusionSchedule, x: Tensor, t: int, clip: bool) -> tuple[Tensor, Tensor | None]:
    """Return what the denoiser takes the clean images to be, and v where the variance is learned."""
    times = torch.full((len(x),), t, device=x.device)
    output = denoise(x, times).to(x.dtype)  # a network under autocast gives bf16
    images = process.predict_x0(output, x, times)
    return images.clamp(-1, 1) if clip else images, process.split(output)[1]
