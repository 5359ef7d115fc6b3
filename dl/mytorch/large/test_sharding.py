"""Activations that are computed twice; shards on a single rank. Two ranks are in test_processes.py."""

import pytest
import torch
from torch import Tensor, nn

from dl.mytorch.config import UserError
from dl.mytorch.large import sharding


class Blocks(nn.Module):
    """A residual network that counts the passes through its blocks."""

    def __init__(self, norm: type[nn.Module] = nn.LayerNorm) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            [nn.ModuleDict({"norm": norm(6), "fc": nn.Linear(6, 6), "drop": nn.Dropout(0.3)}) for _ in range(3)]
        )
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
    sharding.checkpoint_activations(recomputed)
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


def test_running_statistics_move_once_though_blocks_are_computed_twice() -> None:
    plain = Blocks(nn.BatchNorm1d)
    recomputed = Blocks(nn.BatchNorm1d)
    recomputed.load_state_dict(plain.state_dict())
    buffers = dict(recomputed.named_buffers())
    sharding.checkpoint_activations(recomputed)
    x = torch.randn(4, 6)
    for model in (plain, recomputed):
        torch.manual_seed(1)
        model(x).square().sum().backward()
        torch.manual_seed(2)
        model(x)
    for own, other in zip(recomputed.parameters(), plain.parameters(), strict=True):
        assert torch.equal(own.grad, other.grad)
    for name, other in plain.named_buffers():
        assert torch.equal(buffers[name], other) and buffers[name] is dict(recomputed.named_buffers())[name]
    assert recomputed.blocks[0]["norm"].num_batches_tracked == 2


class Level(nn.Module):
    """Holds blocks that its owner calls, as in a U-Net: it has no forward."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])


def test_blocks_are_members_of_lists_that_are_called() -> None:
    nested = nn.Sequential()
    nested.inner = nn.ModuleList([nn.Linear(2, 2)])
    levels = nn.ModuleList([Level(), Level()])
    model = nn.ModuleDict({"stem": nn.Linear(2, 2), "levels": levels, "stages": nn.ModuleList([nested])})
    called = [*levels[0].blocks, *levels[1].blocks]
    assert sharding.outermost_blocks(model) == [*called, nested]
    assert set(sharding.blocks(model)) == {*called, nested, nested.inner[0]}
    assert sharding.blocks(model).index(nested.inner[0]) < sharding.blocks(model).index(nested)


def test_models_without_blocks_are_refused() -> None:
    with pytest.raises(UserError, match="--checkpoint-activations is for models with blocks"):
        sharding.checkpoint_activations(nn.Linear(2, 2))


def test_what_is_in_one_piece_is_left_alone() -> None:
    model = nn.Linear(2, 3)
    with sharding.gathered(model):
        assert not sharding.is_sharded(model)
