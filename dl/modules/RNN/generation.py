"""A recurrent language model as `dl.mytorch.text.generation` calls one."""

from types import SimpleNamespace

from torch import Tensor, nn


class Recurrent(nn.Module):
    """The language model `model`, whose state is its cache: it reads the prompt once, then one token at a time.

    forward: tokens (B, T), no padding mask, a cache of `new_cache` -> logits (B, T, V).
    """

    max_length = 2**31 - 1  # there are no positions that could run out

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.token_embedding = model.embedding

    def new_cache(self) -> SimpleNamespace:
        return SimpleNamespace(state=None)

    def forward(self, tokens: Tensor, padding_mask: None, cache: SimpleNamespace) -> Tensor:
        output = self.model(tokens, cache.state)
        cache.state = output.state
        return output.scores
