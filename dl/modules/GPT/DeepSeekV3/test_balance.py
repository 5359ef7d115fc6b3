"""The bias that balances experts: its rule, how it is counted, that it is kept."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from dl.modules.GPT.DeepSeekV3 import balance, train
from dl.modules.GPT.DeepSeekV3.balance import BalancingStep
from dl.modules.GPT.DeepSeekV3.model import DeepSeekV3, MixtureOfExperts, build
from dl.modules.GPT.task import BalancedTextModeling
from dl.modules.GPT.testing import BATCH, TOKENS
from dl.mytorch import checkpoint
from dl.mytorch.data import Batch, Loader, Splits, Vocabulary
from dl.mytorch.optim import sgd

VOCABULARY = Vocabulary(map(str, range(11)))
CONFIG = {"data": "unused", "device": "cpu", "precision": "fp32", "plots": False}


def stepper(out: Path, lr: float = 0.0, **changes: Any) -> BalancingStep:
    torch.manual_seed(0)
    config = train.Config(out=str(out), **CONFIG, **changes)
    return BalancingStep(build("tiny", init_std=0.5), BalancedTextModeling(VOCABULARY, weight=0.0), sgd(lr), config)


def mixture(model: DeepSeekV3) -> MixtureOfExperts:
    return model.blocks[1].feed_forward


def halves() -> list[Batch]:
    return [{name: tensor[rows] for name, tensor in BATCH.items()} for rows in (slice(0, 1), slice(1, 3))]


def test_the_bias_moves_by_the_load_alone_and_by_one_speed() -> None:
    layer = mixture(build("tiny", num_experts=4, num_groups=2))
    layer.update_bias(torch.tensor([5, 1, 3, 3]), 0.25)
    assert layer.bias.tolist() == [-0.25, 0.25, 0, 0]
    layer.update_bias(torch.tensor([0, 0, 0, 3]), 0.25)
    assert layer.bias.tolist() == [0, 0.5, 0.25, -0.25]
    assert "bias" not in dict(layer.named_parameters())


def test_a_step_counts_all_its_batches_and_nothing_before(tmp_path: Path) -> None:
    one, two = (stepper(tmp_path, bias_update_speed=0.5) for _ in range(2))
    one([BATCH])
    load = mixture(one.model).load.clone()
    assert load.sum() == 24 * 2
    torch.testing.assert_close(mixture(one.model).bias, 0.5 * torch.sign(load.double().mean() - load).float())
    two.model(TOKENS)  # a forward pass outside of a step
    two(halves())
    assert torch.equal(mixture(two.model).load, load) and torch.equal(mixture(two.model).bias, mixture(one.model).bias)


def test_a_step_counts_the_tokens_of_all_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(balance, "all_reduce_sum", lambda own: own + torch.tensor([0, 0, 0, 0, 1000, 0]))
    step = stepper(tmp_path, bias_update_speed=0.5)
    step([BATCH])
    assert mixture(step.model).bias.tolist() == [0.5, 0.5, 0.5, 0.5, -0.5, 0.5]


def run_rank(rank: int, folder: str) -> None:
    """One of three rows, and the other two."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    step = stepper(Path(folder), bias_update_speed=0.5)
    step([halves()[rank]])
    torch.save(mixture(step.model).bias, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_have_the_bias_of_one_process(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(run_rank, args=(str(tmp_path),), nprocs=2)
    whole = stepper(tmp_path, bias_update_speed=0.5)
    whole([BATCH])
    for rank in range(2):
        assert torch.equal(torch.load(tmp_path / f"{rank}.pt", weights_only=True), mixture(whole.model).bias)


@torch.no_grad()
def test_the_bias_spreads_tokens_over_experts() -> None:
    layer, x = mixture(build("tiny", num_groups=1, groups_per_token=1)), torch.randn(1, 200, 8) + 1
    layer.router.weight.normal_()
    layer.router.weight[0] += 1  # the favourite of most
    loads = []
    for _ in range(60):
        layer.load.zero_()
        layer(x)
        loads.append(layer.load.max().item() / 400)
        layer.update_bias(layer.load, 0.02)
    assert loads[0] > 0.3 and loads[-1] < 0.25


def test_a_checkpoint_has_the_bias(tmp_path: Path) -> None:
    """That a run resumes with it exactly is a standard check."""
    data = Splits(Loader(BATCH, 3), Loader(BATCH, 3), vocabularies={"tokens": VOCABULARY})
    config = train.Config(out=str(tmp_path / "run"), model="tiny", steps=1, context_length=8, bias_update_speed=0.5, **CONFIG)
    train.main(config, data)
    bias = checkpoint.load(tmp_path / "run" / "last.pt")["model"]["blocks.1.feed_forward.bias"]
    assert bias.abs().max() == 0.5
    train.main(dataclasses.replace(config, bias_update_speed=0.0, out=str(tmp_path / "still")), data)
    assert not checkpoint.load(tmp_path / "still" / "last.pt")["model"]["blocks.1.feed_forward.bias"].any()
