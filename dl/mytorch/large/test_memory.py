import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from dl.mytorch.config import TrainConfig, UserError
from dl.mytorch.large import memory
from dl.mytorch.large.memory import Need, check, copies, needed

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda p: torch.optim.SGD(p, lr=0.1), 0),
        (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), 1),
        (lambda p: torch.optim.AdamW(p, lr=0.1, fused=True), 2),
        (lambda p: torch.optim.AdamW(p, lr=0.1, amsgrad=True), 3),
    ],
)
def test_copies_are_those_that_an_optimizer_keeps_after_a_step(make, expected: int) -> None:
    layer = nn.Linear(3, 4, bias=False)
    optimizer = make(layer.parameters())
    assert copies(optimizer, optimizer.param_groups[0]) == expected
    assert not optimizer.state and layer.weight.grad is None  # of the layer itself nothing has changed


def test_what_is_needed_counts_each_tensor_once() -> None:
    layer = nn.Linear(10, 10, bias=False)
    model = nn.Sequential(layer, layer, nn.Linear(10, 1).requires_grad_(False), nn.BatchNorm1d(1, affine=False))
    frozen, buffers = 11 * 4, 4 + 4 + 8
    adam = torch.optim.Adam([p for p in model.parameters() if p.requires_grad])
    assert needed([model], [adam]) == Need(weights=400 + frozen + buffers, gradients=400, optimizer=800)
    average = nn.Linear(10, 10, bias=False)
    assert needed([layer, average], [torch.optim.SGD(layer.parameters())]) == Need(800, 400, 0)


def test_more_than_the_machine_has_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "total_memory", lambda: 16 * 10**9)
    check(Need(4 * 10**9, 4 * 10**9, 8 * 10**9), CPU)
    with pytest.raises(
        UserError, match="weights 5 GB, gradients 4 GB, optimizer 8 GB: 17 GB in all.*16 GB here.*--layerwise stream"
    ):
        check(Need(5 * 10**9, 4 * 10**9, 8 * 10**9), CPU)


class Blocks(nn.Module):
    """10 blocks of 40 kB each."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(100, 100, bias=False) for _ in range(10))


def build_model(config: TrainConfig) -> nn.Module:
    """As a recipe has it: `check_before_building` finds it beside `main`."""
    return Blocks()


def main(config: TrainConfig) -> None:
    raise NotImplementedError


def test_a_network_too_large_is_refused_before_it_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ordinary = TrainConfig(out=str(tmp_path / "run"), data="")
    streamed = TrainConfig(out=str(tmp_path / "run"), data="", layerwise="stream")
    monkeypatch.setattr(memory, "total_memory", lambda: 700_000)
    with pytest.raises(UserError, match="weights 400 kB, gradients 400 kB.*there are 700 kB here"):
        memory.check_before_building(main, ordinary)
    memory.check_before_building(main, streamed)  # a block and its gradients are 80 kB
    monkeypatch.setattr(memory, "total_memory", lambda: 70_000)
    with pytest.raises(UserError, match="weights 40 kB, gradients 40 kB"):
        memory.check_before_building(main, streamed)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=500_000))
    with pytest.raises(UserError, match=r"800 kB in all.*has 500 kB free: choose an --out with more"):
        memory.check_before_building(main, streamed)
    monkeypatch.setattr(sys.modules[__name__], "build_model", lambda config: 1 / 0)
    memory.check_before_building(main, ordinary)  # what is wrong with it, the recipe says


def test_the_memory_of_the_machine_is_at_most_what_the_container_may_have() -> None:
    assert 2**28 < memory.total_memory() < 2**50
