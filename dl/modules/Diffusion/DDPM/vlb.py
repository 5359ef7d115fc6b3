"""The loss that teaches a learned variance: Nichol & Dhariwal 2021, https://arxiv.org/abs/2102.09672, section 3.1."""

import math

import torch
from torch import Tensor

from dl.modules.Diffusion.DDPM.process import DiffusionSchedule

# B batch, C channels


def variational_bound(process: DiffusionSchedule, output: Tensor, images: Tensor, x: Tensor, times: Tensor) -> Tensor:
    """Return the term of L_vlb, equations 4 to 7, at times (B,): bits per pixel and channel, (B,).

    `output` (B, 2C, H, W) is what the network gives for `x`, which are the `images` (B, C, H, W) with noise. Gradients
    reach v alone, as the mean is taught by L_simple. The sum over all times is the bound, but for its constant L_T.
    """
    _, v = process.split(output)
    guess = process.predict_x0(output.detach(), x, times)
    before = times - 1
    mean, truth = (process.posterior_mean(of, x, times, before) for of in (guess, images))
    log_variance = process.log_variance(v, times, before)
    true_log_variance = process.log_variance(torch.full_like(v[:, :1], -1.0), times, before)  # log beta tilde
    divergence = normal_divergence(truth, true_log_variance, mean, log_variance)
    surprise = -log_likelihood(images, mean, log_variance)
    nats = torch.where((times == 0).view(-1, 1, 1, 1), surprise, divergence)
    return nats.flatten(1).mean(1) / math.log(2)


def normal_divergence(mean: Tensor, log_variance: Tensor, other_mean: Tensor, other_log_variance: Tensor) -> Tensor:
    """Return the Kullback-Leibler divergence of N(mean, ...) from N(other_mean, ...), in nats for each number."""
    ratio = (log_variance - other_log_variance).exp()
    return 0.5 * (other_log_variance - log_variance + ratio + (mean - other_mean).square() / other_log_variance.exp() - 1)


def log_likelihood(images: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return the log-likelihood (Ho et al., equation 13) of images whose bytes lie in [-1, 1], in nats for each number.

    It is the probability of the interval of width 2 / 255 around each value; the outer ones extend to infinity.
    """
    std = (log_variance / 2).exp()
    above, below = (torch.special.ndtr((images + side / 255 - mean) / std) for side in (1, -1))
    above = torch.where(images > 0.999, 1.0, above)
    below = torch.where(images < -0.999, 0.0, below)
    return (above - below).clamp_min(1e-12).log()
