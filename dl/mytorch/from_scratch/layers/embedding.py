"""The table of vectors that stand for tokens."""

import torch
from torch import Tensor, nn


def embedding(input: Tensor, weight: Tensor, padding_idx: int | None = None) -> Tensor:
    """Rows of `weight` (V, C) by number: input (...) of integers from 0 -> (..., C). The row `padding_idx` gets no gradient.

    Raises `IndexError` for a number that no row has, `ValueError` for such a `padding_idx`.
    """
    rows = weight.index_select(0, input.flatten()).view(*input.shape, weight.shape[1])  # weight[input] would take -1
    if padding_idx is None:
        return rows
    padding = (input == _row(padding_idx, len(weight)))[..., None]
    return torch.where(padding, rows.detach(), rows)


def _row(index: int, rows: int) -> int:
    """Return the row from 0 that `index` names; -1 is the last one. Raise `ValueError` if there is no such row."""
    if not -rows <= index < rows:
        raise ValueError(f"padding_idx {index} is no row of a table of {rows}")
    return index % rows


class Embedding(nn.Module):
    """`embedding` with parameters, which start normal; the row `padding_idx` starts at 0 and stays there.

    Left out: `max_norm`, `scale_grad_by_freq` and `sparse`.

    forward: tokens (...) -> (..., embedding_dim).
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.padding_idx = None if padding_idx is None else _row(padding_idx, num_embeddings)
        self.weight = nn.Parameter(torch.empty(num_embeddings, embedding_dim, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight)
        if self.padding_idx is not None:
            nn.init.zeros_(self.weight[self.padding_idx])

    def forward(self, input: Tensor) -> Tensor:
        return embedding(input, self.weight, self.padding_idx)
