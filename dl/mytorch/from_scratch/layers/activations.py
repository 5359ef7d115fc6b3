"""Activations, from exponentials, hyperbolic tangents and comparisons.

`inplace` is taken, and changes nothing: what is written here returns new tensors. NaN stays NaN. As in torch, integers are
refused (`TypeError`) but by ReLU, which refuses only bool (`ValueError`), and softmax has to be told over which dimension.
"""

import math

import torch
from torch import Tensor, nn

from dl.mytorch.from_scratch.checks import floating


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """max(0, x); its derivative at 0 is 0."""
    if input.dtype == torch.bool:
        raise ValueError("a ReLU of bool: numbers are needed")
    return torch.where(input <= 0, torch.zeros_like(input), input)


def relu6(input: Tensor, inplace: bool = False) -> Tensor:
    """min(6, max(0, x)): Krizhevsky 2010."""
    return torch.where(input >= 6, torch.full_like(input, 6), relu(input))


def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """x where it is positive, else `negative_slope` x: Maas et al. 2013."""
    return torch.where(floating(input) > 0, input, negative_slope * input)


def elu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """x where it is positive, else alpha (e^x - 1): Clevert et al. 2015, https://arxiv.org/abs/1511.07289."""
    below = torch.where(floating(input) > 0, torch.zeros_like(input), input)  # where it is not used, e^x could overflow
    return torch.where(input > 0, input, alpha * torch.expm1(below))


def sigmoid(input: Tensor) -> Tensor:
    """1 / (1 + e^-x), written as e^x / (1 + e^x), which keeps its digits where it is almost 0."""
    largest = math.floor(math.log(torch.finfo(input.dtype).max))  # whose power does not overflow; there it is 1 already
    power = input.clamp_max(largest).exp()
    return power / (1 + power)


def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """x sigmoid(x), also called swish: Elfwing et al. 2017, https://arxiv.org/abs/1702.03118."""
    return input * sigmoid(input)


def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """x Phi(x), the distribution function of the normal: Hendrycks & Gimpel 2016, https://arxiv.org/abs/1606.08415.

    `approximate` "tanh" is the paper's formula for fast machines. Raises `ValueError` for any word but "none" and "tanh".
    """
    if approximate not in ("none", "tanh"):
        raise ValueError(f'approximate {approximate!r}: there are "none" and "tanh"')
    floating(input)
    if approximate == "tanh":
        return input * (1 + torch.tanh(math.sqrt(2 / math.pi) * (input + 0.044715 * input**3))) / 2
    return input * (1 + torch.erf(input / math.sqrt(2))) / 2


def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """log(1 + e^(beta x)) / beta; x itself where beta x is above `threshold`, where the two are as good as equal."""
    large = beta * input > min(threshold, math.log(torch.finfo(input.dtype).max))  # e^11.1 is too large for float16
    small = torch.where(large, torch.zeros_like(input), input)  # where it is not used, e^x could overflow
    return torch.where(large, input, torch.log1p(torch.exp(beta * small)) / beta)


def log_softmax(input: Tensor, dim: int) -> Tensor:
    """x - log(sum of e^x); the largest x goes out of the sum first, so that nothing overflows."""
    shifted = floating(input) - input.detach().amax(dim, keepdim=True)
    return shifted - shifted.exp().sum(dim, keepdim=True).log()


def softmax(input: Tensor, dim: int) -> Tensor:
    """e^x / (sum of e^x)."""
    powers = (floating(input) - input.detach().amax(dim, keepdim=True)).exp()
    return powers / powers.sum(dim, keepdim=True)


class _Inplace(nn.Module):
    """An activation with no argument but `inplace`."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace


class ReLU(_Inplace):
    """See `relu`."""

    def forward(self, input: Tensor) -> Tensor:
        return relu(input)


class ReLU6(_Inplace):
    """See `relu6`."""

    def forward(self, input: Tensor) -> Tensor:
        return relu6(input)


class SiLU(_Inplace):
    """See `silu`."""

    def forward(self, input: Tensor) -> Tensor:
        return silu(input)


class LeakyReLU(_Inplace):
    """See `leaky_relu`."""

    def __init__(self, negative_slope: float = 0.01, inplace: bool = False) -> None:
        super().__init__(inplace)
        self.negative_slope = negative_slope

    def forward(self, input: Tensor) -> Tensor:
        return leaky_relu(input, self.negative_slope)


class ELU(_Inplace):
    """See `elu`."""

    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
        super().__init__(inplace)
        self.alpha = alpha

    def forward(self, input: Tensor) -> Tensor:
        return elu(input, self.alpha)


class GELU(nn.Module):
    """See `gelu`."""

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        self.approximate = approximate

    def forward(self, input: Tensor) -> Tensor:
        return gelu(input, self.approximate)


class Softplus(nn.Module):
    """See `softplus`."""

    def __init__(self, beta: float = 1.0, threshold: float = 20.0) -> None:
        super().__init__()
        self.beta, self.threshold = beta, threshold

    def forward(self, input: Tensor) -> Tensor:
        return softplus(input, self.beta, self.threshold)


class Sigmoid(nn.Module):
    """See `sigmoid`."""

    def forward(self, input: Tensor) -> Tensor:
        return sigmoid(input)


class Tanh(nn.Module):
    """tanh(x) = (e^x - e^-x) / (e^x + e^-x)."""

    def forward(self, input: Tensor) -> Tensor:
        return torch.tanh(input)


class Softmax(nn.Module):
    """See `softmax`."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, input: Tensor) -> Tensor:
        return softmax(input, self.dim)


class LogSoftmax(Softmax):
    """See `log_softmax`."""

    def forward(self, input: Tensor) -> Tensor:
        return log_softmax(input, self.dim)
