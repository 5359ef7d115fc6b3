"""Blocks that visit the device one by one. The models' folders prove theirs."""

from pathlib import Path

import pytest
import torch
from torch import nn

from dl.mytorch import Trainer, mapped, testing
from dl.mytorch.config import UserError
from dl.mytorch.data import synthetic
from dl.mytorch.large.offloading import Offloader
from dl.mytorch.large.testing import Convolutions, config, data, train
from dl.mytorch.optim import adamw, constant, sgd
from dl.mytorch.tasks import Classification


def test_streamed_blocks_train_as_ordinary_ones(tmp_path: Path) -> None:
    batch = synthetic.images(6, seed=0)
    testing.assert_streams_exactly(Convolutions(), batch, tmp_path)
    frozen = Convolutions()
    frozen.blocks[1].requires_grad_(False)
    testing.assert_streams_exactly(frozen, batch, tmp_path)
    tied = Convolutions()
    tied.blocks[2].conv.bias = tied.blocks[1].conv.bias
    testing.assert_streams_exactly(tied, batch, tmp_path)
    assert not any(tmp_path.iterdir())  # files have no names


def test_a_streamed_run_resumes_exactly(tmp_path: Path) -> None:
    testing.assert_resumes_exactly(train, config(tmp_path, "stream", epochs=3, save_every=1, precision="bf16"), data)


def test_one_block_at_a_time_is_away_from_home(tmp_path: Path) -> None:
    model = Convolutions()
    offloader = Offloader(model, torch.device("cpu"), tmp_path)
    away = []
    weights = [block.conv.weight for block in model.blocks]
    for block in model.blocks:
        block.conv.register_forward_hook(lambda *_: away.append([not mapped.is_mapped(w.data) for w in weights]))
    model(torch.randn(2, 1, 28, 28)).sum().backward()
    offloader.flush()
    assert away == [[i == j for j in range(3)] for i in (0, 1, 2, 2, 1, 0)]
    optimizer = adamw(0.1)(model)
    offloader.update(optimizer)
    for block in model.blocks:
        kept = [block.conv.weight.data, *(optimizer.state[block.conv.weight][name] for name in ("exp_avg", "exp_avg_sq"))]
        assert all(mapped.is_mapped(tensor) for tensor in kept)
        assert block.conv.weight.grad is None and optimizer.state[block.conv.weight]["step"] == 1


def test_models_without_blocks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="stream is for models with blocks"):
        Trainer(nn.Linear(2, 2), Classification(), sgd(0.1), constant(), config(tmp_path, "stream"))
    with pytest.raises(ValueError, match="--layerwise is for one process"):
        config(tmp_path, "stream", ema=0.9)
