"""What tensor parallelism finds in a model and refuses, in one process. Ranks are in dl/test_shared_passes.py."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from dl.mytorch import TrainConfig
from dl.mytorch.config import UserError
from dl.mytorch.large import sharding, tensor_parallel
from dl.mytorch.layers import sequential


class Attention(nn.Module):
    """As models name its layers; it is not called here."""

    def __init__(self, heads: int, key_heads: int, opening: str = "query") -> None:
        super().__init__()
        self.head_dim = 2
        self.add_module(opening, nn.Linear(4, 2 * heads))
        self.key, self.value = nn.Linear(4, 2 * key_heads), nn.Linear(4, 2 * key_heads)
        self.query_norm = nn.RMSNorm(2)
        self.output = nn.Linear(2 * heads, 4)


def model_of(attention: nn.Module, hidden: int = 12) -> nn.Module:
    """Two blocks around the same attention, with layers of the table's names outside of them too."""
    blocks = nn.ModuleList()
    for _ in range(2):
        feed_forward = sequential(fc1=nn.Linear(4, hidden), act=nn.GELU(), fc2=nn.Linear(hidden, 4))
        blocks.append(nn.ModuleDict({"norm1": nn.LayerNorm(4), "attention": attention, "feed_forward": feed_forward}))
    head = sequential(fc1=nn.Linear(4, 7), fc2=nn.Linear(7, 4))
    return nn.ModuleDict({"blocks": blocks, "head": head, "output": nn.Linear(4, 3)})


def mesh(ranks: int) -> Any:
    return SimpleNamespace(size=lambda: ranks)


def test_the_branches_are_inside_the_blocks() -> None:
    attention = Attention(6, 3)
    found = tensor_parallel.branches(model_of(attention))
    assert list(found) == ["blocks.0.attention", "blocks.0.feed_forward", "blocks.1.feed_forward"]  # each module once
    assert found["blocks.0.attention"] is attention


@pytest.mark.parametrize(
    ("attention", "hidden", "ranks", "says"),
    [
        (Attention(3, 3), 12, 2, "2 ranks do not divide the 3 query heads of blocks.0.attention"),
        (Attention(4, 2), 12, 4, "4 ranks do not divide the 2 key heads of blocks.0.attention"),
        (Attention(4, 2), 27, 2, "2 ranks do not divide the 27 outputs of blocks.0.feed_forward.fc1"),
        (Attention(4, 2, opening="queries"), 12, 2, "does not know the layer blocks.0.attention.queries of a ModuleDict"),
    ],
    ids=["heads", "heads of keys", "hidden units", "another layer"],
)
def test_what_does_not_divide_or_is_unknown_is_refused(attention: nn.Module, hidden: int, ranks: int, says: str) -> None:
    with pytest.raises(UserError, match=says):
        tensor_parallel.split(model_of(attention, hidden), mesh(ranks))


def test_a_model_without_such_layers_is_refused() -> None:
    blocks = nn.ModuleDict({"blocks": nn.ModuleList([sequential(input=nn.Linear(2, 2), output=nn.Linear(2, 2))])})
    with pytest.raises(UserError, match="tensor parallelism is for transformers"):
        tensor_parallel.split(blocks, mesh(2))


def test_along_the_sequence_all_other_parameters_have_to_be_norms() -> None:
    """Else each rank would have the gradient of its own positions, and copies would drift apart."""
    model = model_of(Attention(4, 2))
    model.blocks[1]["modulation"] = nn.Linear(4, 8)
    with pytest.raises(UserError, match="--sequence: blocks.1.modulation of a ModuleDict is no norm"):
        tensor_parallel.split(model, mesh(2), sequence=True)
    several = nn.ModuleDict({"encoder": model_of(Attention(4, 2)), "decoder": model_of(Attention(4, 2))})
    with pytest.raises(UserError, match="--sequence is for one stack of blocks"):
        tensor_parallel.split(several, mesh(2), sequence=True)


def test_positions_that_do_not_divide_are_refused_before_anything_is_sent() -> None:
    blocks = nn.ModuleList([nn.Identity(), nn.Identity()])
    tensor_parallel._cut_sequence(blocks, mesh(2))
    with pytest.raises(UserError, match="--sequence: 2 ranks do not divide the 15 positions"):
        blocks[0](torch.zeros(1, 15, 4))


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"parallel": "ddp", "tensor_size": 2}, "--tensor-size is for --parallel fsdp"),
        ({"parallel": "tp", "tensor_size": 2}, "with --parallel tp it is the number of ranks"),
        ({"parallel": "fsdp", "shard_size": 2}, "--shard-size is for --parallel hsdp"),
        ({"parallel": "fsdp", "sequence": True}, "--sequence is for --parallel tp, or fsdp with --tensor-size"),
        ({"parallel": "fsdp", "tensor_size": 0}, "numbers of ranks"),
        ({"parallel": "hsdp", "shard_size": -1}, "numbers of ranks"),
    ],
)
def test_flags_without_their_way_are_refused(flags: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        sharding.tensor_size(TrainConfig("unused", "none", **flags))


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"parallel": "fsdp", "tensor_size": 4}, "--tensor-size 4: the 6 ranks do not divide into groups of 4"),
        ({"parallel": "hsdp", "shard_size": 4}, "--shard-size 4: the 6 ranks do not divide into groups of 4"),
    ],
)
def test_ranks_that_do_not_divide_are_refused(flags: dict[str, Any], says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharding, "world_size", lambda: 6)
    with pytest.raises(UserError, match=says):
        sharding.make_mesh(TrainConfig("unused", "none", **flags), "cpu")


def test_a_tensor_in_one_piece_is_on_all_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sharded one is on as many as its mesh has copies of it, times what meshes there are beside."""

    class Placement:
        def __init__(self, replicated: bool) -> None:
            self.is_replicate = lambda: replicated

    monkeypatch.setattr(sharding, "world_size", lambda: 12)
    assert sharding.copies(torch.zeros(2)) == 12
    sizes = [3, 2]
    of = SimpleNamespace(size=lambda dim=None: 6 if dim is None else sizes[dim])
    sharded = SimpleNamespace(placements=[Placement(True), Placement(False)], device_mesh=of)
    copies = sharding.copies(sharded)  # type: ignore[arg-type]
    assert copies == 6


def test_alone_nothing_is_split() -> None:
    for parallel in ("tp", "fsdp", "hsdp"):
        assert sharding.tensor_size(TrainConfig("unused", "none", parallel=parallel)) == 1
