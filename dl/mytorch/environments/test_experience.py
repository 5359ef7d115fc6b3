"""A loader that counts the steps of what is collected while training."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dl.mytorch import History, TrainConfig, Trainer, checkpoint, seed_everything
from dl.mytorch.data import Batch, Loader, Splits
from dl.mytorch.environments import Experience
from dl.mytorch.files import read_json
from dl.mytorch.optim import constant, sgd
from dl.mytorch.tasks import Regression
from dl.mytorch.testing import assert_resumes_exactly


def test_it_counts_environment_steps_in_whole_batches() -> None:
    loader = Experience(batch_size=256, num_examples=1000)
    assert (len(loader), loader.num_examples, loader.batch_size) == (4, 1024, 256)


def test_a_batch_is_collected_when_it_is_asked_for_and_not_before() -> None:
    loader, collected = Experience(4, 12), []
    loader.collect = lambda: collected.append(len(collected)) or {"x": torch.tensor([len(collected)])}
    batches = loader.batches(epoch=0, start=1)
    assert collected == []
    assert next(batches)["x"] == 1 and collected == [0]
    assert next(batches)["x"] == 2 and next(batches, None) is None


def test_nothing_to_collect_them_is_said() -> None:
    with pytest.raises(ValueError, match="set `collect`"):
        next(Experience(1, 1).batches())


class Walk(Regression):
    """An agent in miniature: where it is, (1, 2), moves by what the model says; that is its data."""

    counted = "environment_steps"

    def __init__(self) -> None:
        self.place = torch.zeros(1, 2)

    def collect(self, model: nn.Module) -> Batch:
        with torch.no_grad():
            self.place = (self.place + model(self.place) + torch.randn(1, 2)).tanh()
        return {"features": self.place.repeat(4, 1), "targets": torch.ones(4, 2)}

    def own_state(self) -> dict[str, Any]:
        return {"place": self.place}

    def load_own_state(self, state: dict[str, Any]) -> None:
        self.place = state["place"]


def walk(config: TrainConfig, data: Splits) -> History:
    seed_everything(config.seed)
    model, task = nn.Linear(2, 2), Walk()
    data.train.collect = lambda: task.collect(model)
    return Trainer(model, task, sgd(0.1), constant(), config).fit(data)


def walk_data() -> Splits:
    held_out = {"features": torch.eye(2), "targets": torch.ones(2, 2)}
    return Splits(Experience(4, 36), Loader(held_out, 2))


def test_what_an_agent_is_in_the_midst_of_resumes_exactly(tmp_path: Path) -> None:
    config = TrainConfig(str(tmp_path), "walk", steps=9, eval_every=2, save_every=4, plots=False, device="cpu")
    assert_resumes_exactly(walk, config, walk_data)
    records = read_json(tmp_path / "whole" / "history.json")
    assert [record["environment_steps"] for record in records] == [8, 16, 24, 32, 36]
    assert torch.is_tensor(checkpoint.load(tmp_path / "whole" / "last.pt")["own"]["place"])
