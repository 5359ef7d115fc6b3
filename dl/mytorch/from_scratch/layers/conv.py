"""Convolution: of images, computed in two ways that give the same numbers; of sequences; and its way back."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dl.mytorch.from_scratch.checks import at_least, same_shape
from dl.mytorch.from_scratch.layers.initializers import kaiming_uniform_

# B batch, C channels, H height, W width, G groups, D output channels of a group
# Y, X sides of the output, I, J sides of the kernel

Pair = int | tuple[int, int]


def pair(value: Pair) -> tuple[int, int]:
    """(vertical, horizontal); one number stands for both. Raises `ValueError` for three."""
    vertical, horizontal = (value, value) if isinstance(value, int) else value
    return vertical, horizontal


def single(value: int | tuple[int]) -> tuple[int]:
    """(horizontal,). Raises `ValueError` for two."""
    (horizontal,) = (value,) if isinstance(value, int) else value
    return (horizontal,)


def windows(input: Tensor, size: Pair, stride: Pair = 1, dilation: Pair = 1) -> Tensor:
    """Return what a kernel sees at each of its places: (B, C, H, W) -> (B, C, Y, X, I, J), a view of the same memory.

    Between neighbours of a window lie `dilation` - 1 numbers that it leaves out. Places are `stride` apart.
    """
    for side, (length, step, gap) in enumerate(zip(pair(size), pair(stride), pair(dilation))):
        reach = gap * (length - 1) + 1  # from a window's first number to its last
        input = input.unfold(2 + side, reach, step)[..., ::gap]  # (B, C, H, W) -> (B, C, Y, W, I) -> (B, C, Y, X, I, J)
    return input


def pad_for(input: Tensor, weight: Tensor, stride: Pair, padding: Pair | str, dilation: Pair) -> Tensor:
    """`input` with zeros around it: "valid" means none; "same" as many as keep its sides.

    Raises `ValueError` as `check_padding` does, and for a kernel without pixels or larger than the padded image.
    """
    check_padding(padding, pair(stride))
    at_least("stride", pair(stride), 1)
    at_least("dilation", pair(dilation), 1)
    at_least("output channels", len(weight), 1)
    if padding == "same":
        padded = F.pad(input, same_padding(tuple(weight.shape[2:]), dilation))
    else:
        vertical, horizontal = (0, 0) if padding == "valid" else pair(padding)
        padded = F.pad(input, (horizontal, horizontal, vertical, vertical))
    for length, size, gap in zip(padded.shape[2:], weight.shape[2:], pair(dilation)):
        if size < 1 or gap * (size - 1) + 1 > length:
            raise ValueError(f"a kernel {tuple(weight.shape[2:])} does not fit into an image {tuple(padded.shape[2:])}")
    return padded


def check_padding(padding: int | tuple[int, ...] | str, stride: tuple[int, ...]) -> None:
    """Raise `ValueError` for "same" with a stride, for any other word but "valid", and for a number below 0."""
    if padding == "same" and max(stride) > 1:
        raise ValueError(f'padding "same" keeps the sides, which stride {stride} does not')
    if isinstance(padding, str) and padding not in ("same", "valid"):
        raise ValueError(f'padding {padding!r}: the words for it are "same" and "valid"')
    if not isinstance(padding, str):
        at_least("padding", padding, 0)


def same_padding(size: Pair, dilation: Pair) -> list[int]:
    """Left, right, above, below; where the sum is odd, the second has one more."""
    sums = [gap * (length - 1) for length, gap in zip(pair(size), pair(dilation))]
    return [part for total in reversed(sums) for part in (total // 2, total - total // 2)]


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair | str = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Tensor:
    """By unfolding: y[b, d, y, x] = sum over c, i, j of window[b, c, y, x, i, j] weight[d, c, i, j], one matrix product.

    For this product every window is written out ("im2col"), which takes I J times the memory of the input.

    input (B, C, H, W), weight (G D, C / G, I, J), bias (G D,) -> (B, G D, Y, X). With groups, each of the G parts of the
    output sees only its part of the input. Raises `RuntimeError` for another number of channels than the weight's,
    `ValueError` for a bias of another shape and for what `pad_for` refuses.
    """
    same_shape("bias", bias, weight.shape[:1])
    seen = windows(pad_for(input, weight, stride, padding, dilation), tuple(weight.shape[2:]), stride, dilation)
    seen = seen.unflatten(1, (groups, weight.shape[1]))  # (B, C, Y, X, I, J) -> (B, G, C/G, Y, X, I, J)
    kernels = weight.unflatten(0, (groups, -1))  # (G D, C/G, I, J) -> (G, D, C/G, I, J)
    output = torch.einsum("bgcyxij,gdcij->bgdyx", seen, kernels).flatten(1, 2)  # (B, G, D, Y, X) -> (B, G D, Y, X)
    return output if bias is None else output + bias[:, None, None]


def conv2d_by_sums(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair | str = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Tensor:
    """`conv2d` without the copy: a sum over the places of the kernel, at each of which it is 1x1 on a shifted image."""
    same_shape("bias", bias, weight.shape[:1])
    padded = pad_for(input, weight, stride, padding, dilation)
    padded = padded.unflatten(1, (groups, weight.shape[1]))  # (B, C, H, W) -> (B, G, C/G, H, W)
    kernels = weight.unflatten(0, (groups, -1))  # (G, D, C/G, I, J)
    sides = zip(padded.shape[3:], weight.shape[2:], pair(stride), pair(dilation))
    slices = [  # for each place of the kernel, what it meets as it moves on by the stride
        [slice(place * gap, length - gap * (size - 1 - place), step) for place in range(size)]
        for length, size, step, gap in sides
    ]
    output = sum(
        torch.einsum("bgcyx,gdc->bgdyx", padded[..., rows, columns], kernels[..., i, j])
        for i, rows in enumerate(slices[0])
        for j, columns in enumerate(slices[1])
    ).flatten(1, 2)  # (B, G, D, Y, X) -> (B, G D, Y, X)
    return output if bias is None else output + bias[:, None, None]


def conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int] = 1,
    padding: int | tuple[int] | str = 0,
    dilation: int | tuple[int] = 1,
    groups: int = 1,
) -> Tensor:
    """`conv2d` of images one pixel high: input (B, C, W), weight (G D, C / G, J), bias (G D,) -> (B, G D, X)."""
    strides, dilations = (1, *single(stride)), (1, *single(dilation))
    pads = padding if isinstance(padding, str) else (0, *single(padding))
    return conv2d(input.unsqueeze(2), weight.unsqueeze(2), bias, strides, pads, dilations, groups).squeeze(2)


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair = 0,
    output_padding: Pair = 0,
    groups: int = 1,
    dilation: Pair = 1,
) -> Tensor:
    """Transpose `conv2d`: every pixel stamps the kernel, times its number, onto an image `stride` times as large.

    Which is the convolution, by the kernel turned round, of the pixels with stride - 1 zeros between them.
    `output_padding` more rows and columns at the end tell apart the sizes that a stride makes one.

    input (B, C, H, W), weight (C, D, I, J), bias (G D,) -> (B, G D, Y, X).
    """
    same_shape("bias", bias, (groups * weight.shape[1],))
    at_least("padding", pair(padding), 0)
    at_least("output_padding", pair(output_padding), 0)
    at_least("sides of the input", tuple(input.shape[2:]), 1)
    if any(more >= max(step, gap) for more, step, gap in zip(pair(output_padding), pair(stride), pair(dilation))):
        raise ValueError(f"output_padding {output_padding} has to be below stride {stride} or dilation {dilation}")
    down, right = pair(stride)
    spread = input.new_zeros(*input.shape[:2], (input.shape[2] - 1) * down + 1, (input.shape[3] - 1) * right + 1)
    spread[..., ::down, ::right] = input
    frame: list[int] = []
    for edge, more, gap, size in zip(pair(padding), pair(output_padding), pair(dilation), weight.shape[2:]):
        reach = gap * (size - 1) - edge
        frame = [reach, reach + more, *frame]  # F.pad begins with the last dimension
    kernels = weight.flip(2, 3).unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)  # (C, D, I, J) -> (G D, C/G, I, J)
    return conv2d(F.pad(spread, frame), kernels, bias, dilation=dilation, groups=groups)


class _Conv(nn.Module):
    """Weights of a convolution, both uniform in +-1 / sqrt(fan-in); raises `ValueError` when groups do not divide channels."""

    def __init__(self, channels: tuple[int, int], groups: int, shape: tuple[int, ...], bias: bool, **factory: Any) -> None:
        super().__init__()
        self.in_channels, self.out_channels = channels
        if self.in_channels % groups or self.out_channels % groups:
            raise ValueError(f"{self.in_channels} and {self.out_channels} channels do not both divide into {groups} groups")
        self.groups = groups
        self.weight = nn.Parameter(torch.empty(shape, **factory))
        self.register_parameter("bias", nn.Parameter(torch.empty(self.out_channels, **factory)) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        kaiming_uniform_(self.weight, a=math.sqrt(5))  # gain 1 / sqrt(3), so the bound is 1 / sqrt(fan_in)
        if self.bias is not None:
            fan_in = math.prod(self.weight.shape[1:])
            bound = 1 / math.sqrt(fan_in) if fan_in else 0.0
            nn.init.uniform_(self.bias, -bound, bound)


class Conv2d(_Conv):
    """`conv2d` with parameters.

    `padding_mode` other than "zeros" fills the frame from the image: "reflect", "replicate" or "circular".

    forward: (B, in_channels, H, W) -> (B, out_channels, Y, X).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Pair | str = 0,
        dilation: Pair = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        at_least("groups", groups, 1)
        shape = (out_channels, in_channels // groups, *pair(kernel_size))
        super().__init__((in_channels, out_channels), groups, shape, bias, device=device, dtype=dtype)
        self.kernel_size, self.stride, self.dilation = pair(kernel_size), pair(stride), pair(dilation)
        self.padding = padding if isinstance(padding, str) else pair(padding)
        check_padding(self.padding, self.stride)
        if padding_mode not in ("zeros", "reflect", "replicate", "circular"):
            raise ValueError(f'padding_mode {padding_mode!r}: there are "zeros", "reflect", "replicate" and "circular"')
        self.padding_mode = padding_mode

    def forward(self, input: Tensor) -> Tensor:
        padding = self.padding
        if self.padding_mode != "zeros" and padding != "valid":
            vertical, horizontal = (0, 0) if padding == "same" else padding
            frame = [horizontal, horizontal, vertical, vertical]
            frame = same_padding(self.kernel_size, self.dilation) if padding == "same" else frame
            input, padding = F.pad(input, frame, mode=self.padding_mode), 0
        return conv2d(input, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)


class Conv1d(_Conv):
    """`conv1d` with parameters. Left out: `padding_mode`. forward: (B, in_channels, W) -> (B, out_channels, X)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int],
        stride: int | tuple[int] = 1,
        padding: int | tuple[int] | str = 0,
        dilation: int | tuple[int] = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        at_least("groups", groups, 1)
        shape = (out_channels, in_channels // groups, *single(kernel_size))
        super().__init__((in_channels, out_channels), groups, shape, bias, device=device, dtype=dtype)
        self.kernel_size, self.stride, self.padding, self.dilation = single(kernel_size), stride, padding, dilation
        check_padding(padding, single(stride))

    def forward(self, input: Tensor) -> Tensor:
        return conv1d(input, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class ConvTranspose2d(_Conv):
    """`conv_transpose2d` with parameters. Left out: `padding_mode`, which is zeros here, and `output_size` of the call.

    forward: (B, in_channels, H, W) -> (B, out_channels, Y, X).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Pair = 0,
        output_padding: Pair = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Pair = 1,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        at_least("groups", groups, 1)
        shape = (in_channels, out_channels // groups, *pair(kernel_size))
        super().__init__((in_channels, out_channels), groups, shape, bias, device=device, dtype=dtype)
        self.kernel_size, self.stride, self.padding = pair(kernel_size), pair(stride), pair(padding)
        self.output_padding, self.dilation = pair(output_padding), pair(dilation)

    def forward(self, input: Tensor) -> Tensor:
        options = (self.stride, self.padding, self.output_padding, self.groups, self.dilation)
        return conv_transpose2d(input, self.weight, self.bias, *options)
