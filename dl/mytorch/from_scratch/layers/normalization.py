"""Normalization: numbers minus their mean, divided by their standard deviation; what differs is over which numbers.

    batch norm   each channel over the batch and all places    Ioffe & Szegedy 2015, https://arxiv.org/abs/1502.03167
    layer norm   each example, or token, over its features     Ba et al. 2016, https://arxiv.org/abs/1607.06450
    group norm   each example over a group of channels         Wu & He 2018, https://arxiv.org/abs/1803.08494
    RMS norm     as layer norm, without the mean               Zhang & Sennrich 2019, https://arxiv.org/abs/1910.07467

Inputs in half precision are computed in float32, and what comes out is rounded once.
"""

from typing import Any, Sequence

import torch
from torch import Tensor, nn

from dl.mytorch.from_scratch.checks import at_least, floating, same_shape

# B batch, C channels or features, G groups


def widened(input: Tensor) -> Tensor:
    """Half types as float32: in float16, the square of 256 is already infinite. Others as they are."""
    return floating(input).to(torch.promote_types(input.dtype, torch.float32))


def moments(input: Tensor, dims: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return mean and variance over `dims`, kept as dimensions of length 1; at least in float32."""
    input = widened(input)
    mean = input.mean(dims, keepdim=True)
    return mean, (input - mean).square().mean(dims, keepdim=True)


def normalized(input: Tensor, mean: Tensor, variance: Tensor, eps: float) -> Tensor:
    """Mean 0 and variance 1, by statistics that broadcast to `input`; `eps` keeps the division from exploding."""
    return (input - mean) / (variance + eps).sqrt()


def scaled(input: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """input weight + bias, of which either may be missing."""
    input = input if weight is None else input * weight
    return input if bias is None else input + bias


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """input (B, C, ...) -> (B, C, ...), with statistics (C,): in training those of the batch, else the running ones.

    Training moves the running ones by the share `momentum` towards those of the batch; the variance that is remembered is
    the unbiased one. An empty batch moves none. Raises `ValueError` for training on one number a channel, and for an `eps`
    below 0, or of 0 in training.
    """
    if eps < 0 or (training and eps == 0):
        raise ValueError(f"eps has to be above 0; got {eps}")
    floating(input)
    if training:
        count = input.numel() // input.shape[1]
        if count == 1:
            raise ValueError(f"one number a channel has no variance to train with: input {tuple(input.shape)}")
        mean, variance = moments(input, [0, *range(2, input.ndim)])  # (1, C, 1, ...)
        if count and running_mean is not None and running_var is not None:
            with torch.no_grad():
                running_mean.lerp_(mean.flatten().to(running_mean.dtype), momentum)
                running_var.lerp_((variance.flatten() * count / (count - 1)).to(running_var.dtype), momentum)
    else:
        mean, variance = _by_channel(running_mean, input), _by_channel(running_var, input)
    output = normalized(input, mean, variance, eps)
    return scaled(output, _by_channel(weight, input), _by_channel(bias, input)).to(input.dtype)


def _by_channel(x: Tensor | None, like: Tensor) -> Tensor | None:
    """(C,) -> (C, 1, ...), which broadcasts to `like` (B, C, ...). Raises `RuntimeError` when they differ in C."""
    return None if x is None else x.view(like.shape[1], *[1] * (like.ndim - 2))


def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Over the last dimensions, whose sizes are `normalized_shape`, as those of weight and bias: (..., C) -> (..., C)."""
    mean, variance = moments(input, _last_dims(input, normalized_shape))
    same_shape("weight", weight, tuple(normalized_shape))
    same_shape("bias", bias, tuple(normalized_shape))
    return scaled(normalized(input, mean, variance, eps), weight, bias).to(input.dtype)


def rms_norm(input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None) -> Tensor:
    """input / sqrt(mean of its squares + eps) weight; `eps` is by default the smallest step at 1 of the type it computes in."""
    wide = widened(input)
    eps = torch.finfo(wide.dtype).eps if eps is None else eps
    same_shape("weight", weight, tuple(normalized_shape))
    mean_square = wide.square().mean(_last_dims(input, normalized_shape), keepdim=True)
    return scaled(wide / (mean_square + eps).sqrt(), weight, None).to(input.dtype)


def _last_dims(input: Tensor, sizes: Sequence[int]) -> list[int]:
    """Return the last dimensions, as many as `sizes`. Raises `ValueError` when those are not their sizes."""
    if input.shape[-len(sizes) :] != tuple(sizes):
        raise ValueError(f"an input {tuple(input.shape)}, whose last dimensions are not {tuple(sizes)}")
    return [*range(-len(sizes), 0)]


def group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """Each of `num_groups` groups of channels by itself; weight and bias are (C,): (B, C, ...) -> (B, C, ...).

    Raises `ValueError` for one number a group in one example, as torch does.
    """
    groups = input.unflatten(1, (num_groups, -1)).flatten(2)  # (B, C, ...) -> (B, G, C/G ...)
    if groups.shape[0] * groups.shape[2] == 1:
        raise ValueError(f"one number a group has no variance: input {tuple(input.shape)}")
    output = normalized(groups, *moments(groups, [-1]), eps).view(input.shape)
    return scaled(output, _by_channel(weight, input), _by_channel(bias, input)).to(input.dtype)


class _BatchNorm(nn.Module):
    """`batch_norm` with scale, shift and running statistics.

    Args:
        momentum: None makes the running statistics the plain mean over all batches so far.
        affine: with a scale and, if `bias`, a shift.
        track_running_stats: False normalizes by the batch in evaluation too.
    """

    dims: tuple[int, ...]  # that an input may have

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        _add_scale_and_shift(self, (num_features,), affine, affine and bias, device=device, dtype=dtype)
        tracked = track_running_stats
        self.register_buffer("running_mean", torch.zeros(num_features, device=device, dtype=dtype) if tracked else None)
        self.register_buffer("running_var", torch.ones(num_features, device=device, dtype=dtype) if tracked else None)
        self.register_buffer("num_batches_tracked", torch.tensor(0, device=device) if tracked else None)

    def forward(self, input: Tensor) -> Tensor:
        if input.ndim not in self.dims:
            raise ValueError(f"{type(self).__name__} takes inputs of {self.dims} dimensions; got {tuple(input.shape)}")
        momentum = self.momentum or 0.0
        if self.training and self.track_running_stats:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                momentum = 1 / self.num_batches_tracked.item()
        by_batch = self.training or self.running_mean is None
        running = (self.running_mean, self.running_var)
        return batch_norm(input, *running, self.weight, self.bias, by_batch, momentum, self.eps)


class BatchNorm1d(_BatchNorm):
    """forward: (B, C) or (B, C, T) -> the same."""

    dims = (2, 3)


class BatchNorm2d(_BatchNorm):
    """forward: (B, C, H, W) -> the same."""

    dims = (4,)


class LayerNorm(nn.Module):
    """See `layer_norm`. forward: (..., *normalized_shape) -> the same."""

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.normalized_shape, self.eps, self.elementwise_affine = shape, eps, elementwise_affine
        _add_scale_and_shift(self, shape, elementwise_affine, elementwise_affine and bias, device=device, dtype=dtype)

    def forward(self, input: Tensor) -> Tensor:
        return layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)


class RMSNorm(nn.Module):
    """See `rms_norm`. forward: (..., *normalized_shape) -> the same."""

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.normalized_shape, self.eps, self.elementwise_affine = shape, eps, elementwise_affine
        self.register_parameter(
            "weight", nn.Parameter(torch.ones(shape, device=device, dtype=dtype)) if elementwise_affine else None
        )

    def forward(self, input: Tensor) -> Tensor:
        return rms_norm(input, self.normalized_shape, self.weight, self.eps)


class GroupNorm(nn.Module):
    """See `group_norm`. forward: (B, num_channels, ...) -> the same. Raises `ValueError` when groups do not divide channels."""

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        at_least("num_groups", num_groups, 1)
        if num_channels % num_groups:
            raise ValueError(f"{num_channels} channels do not divide into {num_groups} groups")
        self.num_groups, self.num_channels, self.eps, self.affine = num_groups, num_channels, eps, affine
        _add_scale_and_shift(self, (num_channels,), affine, affine and bias, device=device, dtype=dtype)

    def forward(self, input: Tensor) -> Tensor:
        return group_norm(input, self.num_groups, self.weight, self.bias, self.eps)


def _add_scale_and_shift(module: nn.Module, shape: tuple[int, ...], scale: bool, shift: bool, **factory: Any) -> None:
    module.register_parameter("weight", nn.Parameter(torch.ones(shape, **factory)) if scale else None)
    module.register_parameter("bias", nn.Parameter(torch.zeros(shape, **factory)) if shift else None)
