"""Fine-tuning with few weights, which are merged back afterwards.

"LoRA: Low-Rank Adaptation of Large Language Models", Edward J. Hu et al., 2021, https://arxiv.org/abs/2106.09685.

    python -m dl.modules.GPT.GPT2.train --init-from runs/GPT/GPT2 --lora-rank 8 --data folder:data/mine --out runs/GPT/tuned

    adapt(model, rank=8)              # only the new weights are trained from here on
    ...
    merge(model)                      # a model of the old form, with the names it had
"""

import math
from typing import Sequence

import torch
from torch import Tensor, nn

from dl.mytorch.config import UserError

ATTENTION = ("query", "value")  # section 5.1: what the paper adapts


class LoRALinear(nn.Module):
    """W x + (alpha / rank) B A x, equation 3: W stays as it is, A (rank, in) and B (out, rank) are learnt.

    B begins at zero (section 4.1), so at first nothing changes; A is drawn as `nn.Linear` draws its weights.

    Args:
        dropout: of x on its way to A, in training.

    Raises `UserError` for a rank that is not lower than the layer's.
    """

    def __init__(self, linear: nn.Linear, rank: int, alpha: float, dropout: float = 0.0) -> None:
        super().__init__()
        most = min(linear.in_features, linear.out_features)
        if not 1 <= rank < most:
            raise UserError(f"LoRA's rank has to be at least 1 and below {most}, that of the layer itself; got {rank}")
        self.linear = linear.requires_grad_(False)
        self.down = nn.Parameter(linear.weight.new_empty(rank, linear.in_features))
        self.up = nn.Parameter(linear.weight.new_zeros(linear.out_features, rank))
        self.scale = alpha / rank
        self.dropout = nn.Dropout(dropout)
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in) -> (..., out)."""
        return self.linear(x) + self.scale * (self.dropout(x) @ self.down.T @ self.up.T)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """Return the linear layer that computes the same. It can be trained again."""
        self.linear.weight += self.scale * self.up @ self.down
        return self.linear.requires_grad_(True)


def adapt(
    model: nn.Module, rank: int = 8, alpha: float = 16.0, dropout: float = 0.0, layers: Sequence[str] = ATTENTION
) -> nn.Module:
    """Put a `LoRALinear` around each linear layer that has one of these names, and freeze all else; gives `model`.

    Raises `ValueError` when no layer has such a name.
    """
    model.requires_grad_(False)
    found = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and name.split(".")[-1] in layers]
    if not found:
        raise ValueError(f"the model has no linear layer named {' or '.join(layers)}")
    for name in found:
        model.set_submodule(name, LoRALinear(model.get_submodule(name), rank, alpha, dropout))
    return model


def merge(model: nn.Module) -> nn.Module:
    """Merge each `LoRALinear` into one linear layer, and make all weights trainable; return `model`."""
    for name in [name for name, module in model.named_modules() if isinstance(module, LoRALinear)]:
        model.set_submodule(name, model.get_submodule(name).merged())
    return model.requires_grad_(True)
