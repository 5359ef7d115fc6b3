"""Tests of placement.py for one process. Two ranks are in dl/mytorch/test_two_ranks.py, files in test_offloading.py."""

import pytest
import torch
from torch import nn

from dl.mytorch import TrainConfig
from dl.mytorch.large import placement

CPU = torch.device("cpu")


@pytest.mark.parametrize("parallel", ["none", "ddp", "fsdp"])
def test_alone_a_model_is_called_as_it_is_and_gradients_have_their_norm(parallel: str) -> None:
    model, where = nn.BatchNorm1d(2), placement.choose(TrainConfig("unused", "none", parallel=parallel), CPU)
    where.move(model)
    assert where.parallelize(model) is model
    with where.no_sync(model):
        where.after_backward([])
    gradients = [torch.tensor([3.0]), torch.tensor([[4.0]])]
    assert where.norm(gradients) == 5.0
    where.scale(gradients, torch.tensor(0.5))
    assert [gradient.item() for gradient in gradients] == [1.5, 2.0]
    assert where.previews and not where.mapped


def test_the_norm_counts_numbers_that_several_ranks_have_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ranks of one forward pass: each has half of one gradient, 3 and 4, and all of another, 12."""
    halves = [torch.tensor([3.0]), torch.tensor([4.0])]
    monkeypatch.setattr(placement, "world_size", lambda: 2)
    monkeypatch.setattr(placement.sharding, "copies", lambda gradient: 2 if gradient == 12 else 1)
    sums: list[torch.Tensor] = []
    monkeypatch.setattr(placement, "all_reduce_sum", lambda x: sums.append(x) or x)
    monkeypatch.setattr(placement, "data_world_size", lambda: 1)
    where = placement.choose(TrainConfig("unused", "none", parallel="fsdp"), CPU)
    for half in halves:
        where.norm([half, torch.tensor([12.0])])
    assert torch.stack(sums).mean().item() == pytest.approx(169)  # what `all_reduce_sum` makes of both


@pytest.mark.parametrize(
    ("config", "kind"),
    [({}, placement.Placement), ({"parallel": "fsdp"}, placement.Sharded), ({"layerwise": "stream"}, placement.Offloaded)],
)
def test_the_config_chooses(config: dict[str, str], kind: type) -> None:
    assert type(placement.choose(TrainConfig("unused", "none", **config), CPU)) is kind


def test_only_weights_that_are_not_sharded_are_laid_out_channels_last() -> None:
    for parallel, last in (("none", True), ("fsdp", False)):
        model = nn.Conv2d(2, 3, 3)
        placement.choose(TrainConfig("unused", "none", channels_last=True, parallel=parallel), CPU).move(model)
        assert model.weight.is_contiguous(memory_format=torch.channels_last) is last
