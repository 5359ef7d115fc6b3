"""The linear layer."""

import math

import torch
from torch import Tensor, nn

from dl.mytorch.from_scratch.layers.initializers import kaiming_uniform_


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """y = x W^T + b: input (..., in), weight (out, in), bias (out,) -> (..., out).

    Raises `TypeError` when weight and bias differ in type, which a sum would hide.
    """
    if bias is not None and bias.dtype != weight.dtype:
        raise TypeError(f"a bias of {bias.dtype} for weights of {weight.dtype}")
    output = input @ weight.t()  # (..., in) -> (..., out)
    return output if bias is None else output + bias


class Linear(nn.Module):
    """`linear` with parameters; both start uniform in +-1 / sqrt(in_features).

    forward: (..., in_features) -> (..., out_features).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight = nn.Parameter(torch.empty(out_features, in_features, device=device, dtype=dtype))
        self.register_parameter("bias", nn.Parameter(torch.empty(out_features, device=device, dtype=dtype)) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        kaiming_uniform_(self.weight, a=math.sqrt(5))  # gain 1 / sqrt(3), so the bound is 1 / sqrt(fan_in)
        if self.bias is not None:
            bound = 1 / math.sqrt(self.in_features) if self.in_features else 0.0
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)
