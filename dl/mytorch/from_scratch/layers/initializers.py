"""First weights, under the names and with the arguments of `torch.nn.init`; from one seed, the same numbers.

The aim of all: outputs and gradients that neither grow nor shrink from layer to layer. For a layer y = W x with independent
weights, Var(y) = fan_in Var(w) Var(x), and on the way back fan_out takes the place of fan_in.
"""

import math

import torch
from torch import Generator, Tensor

LINEAR = ("linear", "sigmoid", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """Return what the standard deviation is multiplied by, since the activation after the layer shrinks it.

    A ReLU halves the mean square, hence sqrt(2); 5/3 for tanh and 3/4 for SELU are torch's values, found by trying.
    `param` is the slope of "leaky_relu", by default 0.01. Raises `ValueError` for an unknown name.
    """
    if isinstance(param, bool) or not isinstance(param, (int, float, type(None))):
        raise ValueError(f"the slope of a leaky ReLU is a number, not {param!r}")
    slope = 0.01 if param is None else param
    gains = {"tanh": 5 / 3, "relu": math.sqrt(2), "leaky_relu": math.sqrt(2 / (1 + slope**2)), "selu": 3 / 4}
    gains |= dict.fromkeys(LINEAR, 1.0)
    if nonlinearity not in gains:
        raise ValueError(f"no gain is known for {nonlinearity!r}; there are {', '.join(gains)}")
    return gains[nonlinearity]


def fans(tensor: Tensor) -> tuple[int, int]:
    """Inputs of an output, and outputs of an input: of a matrix (out, in) or of kernels (out, in, ...).

    Raises `ValueError` for a vector, which has none.
    """
    if tensor.ndim < 2:
        raise ValueError(f"fan-in and fan-out are those of a matrix or of kernels, not of shape {tuple(tensor.shape)}")
    receptive_field = math.prod(tensor.shape[2:])
    return tensor.shape[1] * receptive_field, tensor.shape[0] * receptive_field


@torch.no_grad()
def xavier_uniform_(tensor: Tensor, gain: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Uniform in +-gain sqrt(6 / (fan_in + fan_out)): Glorot & Bengio 2010, equation 16."""
    bound = gain * math.sqrt(6 / sum(fans(tensor)))
    return tensor.uniform_(-bound, bound, generator=generator)


@torch.no_grad()
def xavier_normal_(tensor: Tensor, gain: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Normal with variance gain^2 2 / (fan_in + fan_out): Glorot & Bengio 2010, equation 12."""
    return tensor.normal_(0, gain * math.sqrt(2 / sum(fans(tensor))), generator=generator)


def _he_deviation(tensor: Tensor, a: float, mode: str, nonlinearity: str) -> float:
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"mode is fan_in or fan_out, not {mode!r}")
    return calculate_gain(nonlinearity, a) / math.sqrt(fans(tensor)[mode == "fan_out"])


@torch.no_grad()
def kaiming_uniform_(
    tensor: Tensor, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu", generator: Generator | None = None
) -> Tensor:
    """Uniform with the variance of `kaiming_normal_`: the bound is sqrt(3) deviations. `a` is the slope of a leaky ReLU."""
    if 0 in tensor.shape:
        return tensor  # no numbers, and no fan to divide by
    bound = math.sqrt(3) * _he_deviation(tensor, a, mode, nonlinearity)
    return tensor.uniform_(-bound, bound, generator=generator)


@torch.no_grad()
def kaiming_normal_(
    tensor: Tensor, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu", generator: Generator | None = None
) -> Tensor:
    """Normal with variance gain^2 / fan: He et al. 2015, https://arxiv.org/abs/1502.01852, equations 10, 14 and 15."""
    if 0 in tensor.shape:
        return tensor
    return tensor.normal_(0, _he_deviation(tensor, a, mode, nonlinearity), generator=generator)


@torch.no_grad()
def orthogonal_(tensor: Tensor, gain: float = 1, generator: Generator | None = None) -> Tensor:
    """Return a random matrix with orthogonal rows or columns, whichever are fewer, of length `gain`.

    Saxe et al. 2013, https://arxiv.org/abs/1312.6120. Q of a normal matrix is uniform over all only when the signs of R's
    diagonal go into it (Mezzadri 2006, https://arxiv.org/abs/math-ph/0609050). Raises `ValueError` for a vector.
    """
    if tensor.ndim < 2:
        raise ValueError(f"orthogonal is a matrix, or kernels as one, not a tensor of shape {tuple(tensor.shape)}")
    normal = torch.empty(len(tensor), tensor[0].numel(), dtype=tensor.dtype, device=tensor.device).normal_(generator=generator)
    wide = normal.shape[0] < normal.shape[1]
    q, r = torch.linalg.qr(normal.T if wide else normal)
    q = q * r.diagonal().sign()
    return tensor.copy_(gain * (q.T if wide else q).reshape(tensor.shape))


@torch.no_grad()
def trunc_normal_(
    tensor: Tensor, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0, generator: Generator | None = None
) -> Tensor:
    """Normal, where numbers outside [a, b] are drawn again until none is: of use where most numbers are inside.

    Raises `ValueError` where that would hardly end: for a mean more than two deviations outside.
    """
    if not a < b or not a - 2 * std <= mean <= b + 2 * std:
        raise ValueError(f"hardly a number of mean {mean} and std {std} is in [{a}, {b}]")
    tensor.normal_(mean, std, generator=generator)
    while (outside := (tensor < a) | (tensor > b)).any():
        again = torch.empty_like(tensor).normal_(mean, std, generator=generator)
        tensor.copy_(torch.where(outside, again, tensor))
    return tensor
