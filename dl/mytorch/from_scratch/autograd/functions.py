"""What a convolutional network needs beyond arithmetic. Only `windows` has a gradient of its own."""

from typing import Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from dl.mytorch.from_scratch.autograd.tensor import Tensor

# B batch, C channels, H height, W width, D output channels; Y, X sides of the output, I, J sides of the window


def windows(x: Tensor, size: tuple[int, int], stride: int = 1) -> Tensor:
    """Return what a window sees at each of its places: (B, C, H, W) -> (B, C, Y, X, I, J)."""
    seen = sliding_window_view(x.data, size, axis=(2, 3))[:, :, ::stride, ::stride]
    rows, columns = (stride * side for side in seen.shape[2:4])

    def pull(g: np.ndarray) -> Sequence[np.ndarray]:
        spread = np.zeros_like(x.data)
        for i in range(size[0]):
            for j in range(size[1]):  # the numbers that are at place i, j of some window
                spread[:, :, i : i + rows : stride, j : j + columns : stride] += g[..., i, j]
        return (spread,)

    return Tensor(seen, parents=(x,), pull=pull)


def conv2d(x: Tensor, weight: Tensor, bias: Tensor, stride: int = 1, padding: int = 0) -> Tensor:
    """x (B, C, H, W), weight (D, C, I, J), bias (D,) -> (B, D, Y, X): a product of all windows with all kernels."""
    frame = (padding, padding)
    seen = windows(x.pad((0, 0), (0, 0), frame, frame) if padding else x, weight.shape[2:], stride)
    batch, channels, height, width, *size = seen.shape
    rows = seen.transpose(0, 2, 3, 1, 4, 5).reshape(batch * height * width, channels * size[0] * size[1])
    output = rows @ weight.reshape(weight.shape[0], -1).transpose(1, 0) + bias  # (B Y X, C I J) -> (B Y X, D)
    return output.reshape(batch, height, width, -1).transpose(0, 3, 1, 2)  # (B Y X, D) -> (B, D, Y, X)


def max_pool2d(x: Tensor, size: int) -> Tensor:
    """Return the largest of each square: (B, C, H, W) -> (B, C, H / size, W / size)."""
    seen = windows(x, (size, size), stride=size)
    return seen.reshape(*seen.shape[:4], size * size).max(-1)


def avg_pool2d(x: Tensor, size: int) -> Tensor:
    """Return the mean of each square: (B, C, H, W) -> (B, C, H / size, W / size)."""
    return windows(x, (size, size), stride=size).mean((-2, -1))


def log_softmax(x: Tensor) -> Tensor:
    """x - log(sum of e^x) over the last axis; without its largest number, which changes nothing, no x overflows."""
    shifted = x - Tensor(x.data.max(-1, keepdims=True))
    return shifted - shifted.exp().sum(-1, keepdims=True).log()


def cross_entropy(logits: Tensor, labels: np.ndarray) -> Tensor:
    """Return the mean of -log softmax(logits)[label]: logits (B, K), labels (B,) -> a number."""
    return -log_softmax(logits)[np.arange(len(labels)), labels].mean()
