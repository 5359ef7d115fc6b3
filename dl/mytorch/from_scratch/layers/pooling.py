"""Pooling of images: the largest number or the mean of every window.

Left out: images without a dimension for the batch.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dl.mytorch.from_scratch.checks import at_least, floating
from dl.mytorch.from_scratch.layers.conv import Pair, pair, windows

# B batch, C channels, H height, W width; Y, X sides of the output, I, J sides of the window


def framed(input: Tensor, size: Pair, stride: Pair, padding: Pair, dilation: Pair, ceil_mode: bool, value: float) -> Tensor:
    """`input` with `padding` of `value` around it.

    With `ceil_mode` also after its ends, as much as one more window needs that would begin inside `input` or before it.
    Raises `ValueError` for no channels or pixels, and for padding below 0 or above half a window, which would see nothing else.
    """
    if 0 in input.shape[1:]:
        raise ValueError(f"nothing to pool in an input {tuple(input.shape)}")
    at_least("padding", pair(padding), 0)
    frame: list[int] = []
    for length, reach, step, edge, gap in zip(input.shape[2:], pair(size), pair(stride), pair(padding), pair(dilation)):
        if 2 * edge > gap * (reach - 1) + 1:
            raise ValueError(f"padding {padding} is more than half of a window of {size}")
        left = length + 2 * edge - gap * (reach - 1) - 1  # how far the first window can move
        more = -left % step if ceil_mode else 0
        if more and left + more >= length + edge:  # the further window would see nothing but padding
            more = 0
        frame = [edge, edge + more, *frame]  # F.pad begins with the last dimension
    return F.pad(input, frame, value=value)


def max_pool2d(
    input: Tensor,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    dilation: Pair = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Return the largest number of each window: (B, C, H, W) -> (B, C, Y, X). The stride is by default the size of the window.

    Of several that are largest, the first gets the gradient. With `return_indices` also where they are, as places in an
    image whose rows are joined, (B, C, Y, X).
    """
    if input.dtype == torch.bool:
        raise TypeError("a largest number of bool: numbers are needed")
    stride = kernel_size if stride is None else stride
    x = framed(input, kernel_size, stride, padding, dilation, ceil_mode, -torch.inf)
    largest, place = windows(x, kernel_size, stride, dilation).flatten(-2).max(-1)  # (B, C, Y, X, I J) -> (B, C, Y, X)
    if not return_indices:
        return largest
    width = pair(kernel_size)[1]
    inside = (place // width, place % width)  # row and column in the window
    first = torch.meshgrid(*(torch.arange(side, device=place.device) for side in place.shape[2:]), indexing="ij")
    moves = zip(first, pair(stride), pair(padding), inside, pair(dilation))
    row, column = (number * step - edge + within * gap for number, step, edge, within, gap in moves)
    return largest, row * input.shape[3] + column


def avg_pool2d(
    input: Tensor,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """Return the mean of each window: (B, C, H, W) -> (B, C, Y, X). The stride is by default the size of the window.

    Zeros of the padding count as numbers unless `count_include_pad` is False; what `ceil_mode` adds never does.
    `divisor_override` divides the sum instead.
    """
    if divisor_override == 0:
        raise ValueError("divisor_override has to be another number than 0")
    stride = kernel_size if stride is None else stride
    total = windows(framed(floating(input), kernel_size, stride, padding, 1, ceil_mode, 0.0), kernel_size, stride).sum((-2, -1))
    if divisor_override is not None:
        return total / divisor_override
    ones = input.new_ones(1, 1, *input.shape[2:])
    if count_include_pad:
        vertical, horizontal = pair(padding)
        ones, padding = F.pad(ones, (horizontal, horizontal, vertical, vertical), value=1.0), 0
    count = windows(framed(ones, kernel_size, stride, padding, 1, ceil_mode, 0.0), kernel_size, stride).sum((-2, -1))
    return total / count[..., : total.shape[2], : total.shape[3]]  # padding that is counted may seem to need one more window


def adaptive_avg_pool2d(input: Tensor, output_size: int | None | tuple[int | None, int | None]) -> Tensor:
    """Means over windows that divide the image into `output_size` rows and columns: (B, C, H, W) -> (B, C, Y, X).

    Window i of Y covers rows floor(i H / Y) to ceil((i + 1) H / Y), so neighbours may overlap. None keeps a side. The mean
    over rows and then over columns is a product with a matrix on either side. Raises `ValueError` for an image without pixels.
    """
    if 0 in input.shape[2:]:
        raise ValueError(f"nothing to pool in an input {tuple(input.shape)}")
    sizes = (output_size, output_size) if output_size is None else pair(output_size)
    sides = zip(input.shape[2:], sizes)
    rows, columns = (_shares(length, length if size is None else size, input) for length, size in sides)
    return rows @ input @ columns.T  # (Y, H) @ (B, C, H, W) @ (W, X) -> (B, C, Y, X)


def _shares(length: int, size: int, like: Tensor) -> Tensor:
    """Return (size, length): the weight of each position in the mean of each window."""
    place = torch.arange(length, device=like.device)
    window = torch.arange(size, device=like.device)[:, None]
    inside = (window * length // size <= place) & (place < -(-(window + 1) * length // size))
    return inside.to(like.dtype) / inside.sum(1, keepdim=True)


class MaxPool2d(nn.Module):
    """See `max_pool2d`."""

    def __init__(
        self,
        kernel_size: Pair,
        stride: Pair | None = None,
        padding: Pair = 0,
        dilation: Pair = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        self.kernel_size, self.stride = kernel_size, kernel_size if stride is None else stride
        self.padding, self.dilation = padding, dilation
        self.return_indices, self.ceil_mode = return_indices, ceil_mode

    def forward(self, input: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        options = (self.padding, self.dilation, self.ceil_mode, self.return_indices)
        return max_pool2d(input, self.kernel_size, self.stride, *options)


class AvgPool2d(nn.Module):
    """See `avg_pool2d`."""

    def __init__(
        self,
        kernel_size: Pair,
        stride: Pair | None = None,
        padding: Pair = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        super().__init__()
        self.kernel_size, self.stride = kernel_size, kernel_size if stride is None else stride
        self.padding, self.ceil_mode = padding, ceil_mode
        self.count_include_pad, self.divisor_override = count_include_pad, divisor_override

    def forward(self, input: Tensor) -> Tensor:
        options = (self.padding, self.ceil_mode, self.count_include_pad, self.divisor_override)
        return avg_pool2d(input, self.kernel_size, self.stride, *options)


class AdaptiveAvgPool2d(nn.Module):
    """See `adaptive_avg_pool2d`."""

    def __init__(self, output_size: int | None | tuple[int | None, int | None]) -> None:
        super().__init__()
        self.output_size = output_size

    def forward(self, input: Tensor) -> Tensor:
        return adaptive_avg_pool2d(input, self.output_size)
