"""Activations that are computed twice; shards on a single rank. Two ranks are in test_processes.py."""

import copy

import pytest
import torch
from torch import Tensor, nn

from dl.mytorch import sharding
from dl.mytorch.config import UserError


class Blocks(nn.Module):
    """A residual network that counts the passes through its blocks."""

    def __init__(self, norm: type[nn.Module] = nn.LayerNorm) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.ModuleDict({"norm": norm(6), "fc": nn.Linear(6, 6), "drop": nn.Dropout(0.3)}) for _ in range(3)])
        self.passes = 0
        for block in self.blocks:
            block.forward = lambda x, block=block: self._pass(block, x)

    def _pass(self, block: nn.ModuleDict, x: Tensor) -> Tensor:
        self.passes += 1
        return x + block["drop"](block["fc"](block["norm"](x)).tanh())

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def test_recomputed_blocks_give_the_same_gradients_dropout_included() -> None:
    plain = Blocks()
    recomputed = Blocks()
    recomputed.load_state_dict(plain.state_dict())
    sharding.recompute_activations(recomputed)
    x = torch.randn(4, 6)
    for model in (plain, recomputed):
        torch.manual_seed(1)
        model(x).square().sum().backward()
    for own, other in zip(recomputed.parameters(), plain.parameters(), strict=True):
        assert torch.equal(own.grad, other.grad)
    assert (plain.passes, recomputed.passes) == (3, 6)
    with torch.no_grad():
        recomputed(x)
    assert recomputed.passes == 9
    assert recomputed.state_dict().keys() == plain.state_dict().keys()


def test_blocks_with_batch_norms_and_models_without_blocks_are_refused() -> None:
    with pytest.raises(UserError, match="--checkpoint-activations is for blocks without batch norms, whose running statistics"):
        sharding.recompute_activations(Blocks(nn.BatchNorm1d))
    with pytest.raises(UserError, match="and this model has none"):
        sharding.recompute_activations(nn.Linear(2, 2))


def test_what_is_in_one_piece_is_left_alone() -> None:
    model = nn.Linear(2, 3)
    state = {"weights": model.state_dict(), "rest": [1, (2, 3), None]}
    assert sharding.whole(copy.copy(state)) == state
    assert sharding.local(model.weight) is model.weight and sharding.like(model.weight, 5) == 5
    with sharding.gathered(model):
        assert not sharding.is_sharded(model)
