"""Blocks that are trained one by one. ResNet's folder proves its own."""

import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from dl.mytorch import History, Trainer, precision
from dl.mytorch.checkpoint import load
from dl.mytorch.config import UserError
from dl.mytorch.data.split import names_file, read_names
from dl.mytorch.files import read_json
from dl.mytorch.large import layerwise
from dl.mytorch.large.testing import Convolutions, config, data, train
from dl.mytorch.optim import constant, sgd
from dl.mytorch.tasks import Classification
from dl.mytorch.train_step import TrainStep


def test_greedy_freezes_what_is_trained_and_keeps_what_it_puts_out(tmp_path: Path) -> None:
    history = train(config(tmp_path, "greedy", epochs=2), replace(data(), names=tuple("abcdefghij")))
    out = tmp_path / "greedy"
    assert read_names(names_file(out)) == tuple("abcdefghij")
    whole = load(out / "best.pt")
    for place in range(3):
        stage = load(out / f"block{place}" / "best.pt")
        own = {name: tensor for name, tensor in stage.items() if name.startswith("block.")}
        assert own and all(torch.equal(tensor, whole[f"blocks.{place}.{name[6:]}"]) for name, tensor in own.items())
        assert torch.equal(stage["outside.stem.weight"], whole["stem.weight"])
        assert ("head.fc.weight" in stage) == (place == 0)  # blocks 1 and 2 give maps of one shape
    # The last stage saw what was kept of the blocks before it; the whole network gets the same from the images.
    model = Convolutions()
    model.load_state_dict(whole)
    alone = Trainer(model, Classification(), sgd(0.1), constant(), config(tmp_path, "none"))
    assert alone.evaluate(data().val) == pytest.approx(history[2]["val"], abs=1e-6)
    assert alone.evaluate(data().test) == pytest.approx(history.test, abs=1e-6)
    assert [record["epoch"] for record in history] == [1, 2, 3, 3]
    speed = read_json(out / "speed.json")
    assert speed["examples"] == speed["items"] == 3 * 2 * 40 and speed["items_per_second"] == speed["examples_per_second"]
    assert not torch.equal(model.blocks[0].conv.weight, Convolutions().blocks[0].conv.weight)


def test_blocks_take_the_precision_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "native_bf16", lambda device: (True, "natively"))
    trainer = Trainer(
        Convolutions(), Classification(), sgd(0.1), constant(), config(tmp_path, "greedy", precision="auto", steps=1)
    )
    monkeypatch.setattr(precision, "native_bf16", lambda device: (False, "by emulation"))  # on another machine by now
    trainer.fit(data())
    for folder in ("", "block0", "block2"):
        assert read_json(tmp_path / "greedy" / folder / "config.json")["precision"] == "bf16"


def test_the_table_shows_the_network_that_was_tested(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = [{"epoch": i, "step": i, "train": {"loss": 0.5}, "val": {"loss": float(i)}} for i in (1, 2)]
    layerwise._say(History([*blocks, {"epoch": 2, "step": 2, "test": {"loss": 3.0}}]), "loss")
    assert capsys.readouterr().out.split()[-6:] == ["train", "0.5000", "validation", "2.0000", "test", "3.0000"]


@pytest.mark.parametrize("stop_at", [7, 13])
def test_greedy_training_goes_on_where_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int) -> None:
    """Each block has 10 steps: the first stop is in the first block, the second in the next."""
    whole, broken = (config(tmp_path / name, "greedy", epochs=2) for name in ("whole", "broken"))
    train(whole, data())
    steps, step = 0, TrainStep.__call__

    def stopping(self: TrainStep, batches: list) -> None:
        nonlocal steps
        steps += 1
        if steps == stop_at:
            signal.raise_signal(signal.SIGTERM)
        step(self, batches)

    monkeypatch.setattr(TrainStep, "__call__", stopping)
    with pytest.raises(SystemExit):
        train(broken, data())
    train(broken, data())
    assert steps == 30
    for name in ("history.json", "best.pt", "block2/history.json", "block2/best.pt"):
        assert (Path(whole.out) / name).read_bytes() == (Path(broken.out) / name).read_bytes(), name
    train(broken, data())  # a finished run is left alone
    assert steps == 30


def test_models_that_cannot_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a Linear has no before_blocks"):
        Trainer(nn.Linear(2, 2), Classification(), sgd(0.1), constant(), config(tmp_path, "greedy")).fit(data())
