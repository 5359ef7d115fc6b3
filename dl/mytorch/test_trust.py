"""What a run finds in its folder is what was written there, or it says in a line what is not and what helps."""

import json
import math
import random
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from dl.cli.runs import Run
from dl.mytorch import checkpoint, testing
from dl.mytorch.config import UserError
from dl.mytorch.data import Batch
from dl.mytorch.logger import History, read_history
from dl.mytorch.metrics import Metric
from dl.mytorch.tasks import Classification
from dl.mytorch.testing.training import fit, small_config, stopped_run


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("position", (4, 3, 0), "step 4 is not at batch 0 of epoch 3"),
        ("position", (2**62, 0, 2**62), "is not at batch"),
        ("best", 0.5, "its best loss is not that of its history"),
        ("best", None, "its best loss"),
        (
            "history",
            [{"epoch": 1, "step": 4, "val": {"loss": "low"}}],
            r"history\[0\].val.loss has to be a finite number or null",
        ),
        ("train_sums", {"loss": torch.ones(3)}, "is damaged, or not of this run .ValueError: loss is not of 2 sums"),
        (
            "rng",
            [{"python": (9, (), None), "numpy": [], "torch": torch.zeros(1)}],
            "is damaged, or not of this run .ValueError",
        ),
        ("optimizers", [], "of a run with 0 optimizers, this one has 1"),
        ("ema", {"weight": torch.ones(1)}, "another --ema"),
    ],
)
def test_a_state_that_no_run_has_is_a_line_that_says_what_helps(tmp_path: Path, field: str, value: Any, says: str) -> None:
    config, path = small_config(tmp_path, steps=2, eval_every=1, save_every=1), tmp_path / "last.pt"
    fit(config)
    checkpoint.save(checkpoint.load(path) | {field: value}, path)
    with pytest.raises(UserError, match=f"{path}.*{says}") as refused:
        fit(config)
    assert "\n" not in str(refused.value)
    assert str(refused.value).endswith(
        "rename last-before.pt to last.pt to resume from the save before, or --fresh starts the run over"
    )


def test_the_save_before_stands_in_for_a_damaged_last_one(tmp_path: Path) -> None:
    whole, broken = (small_config(tmp_path / name, steps=4, eval_every=2, save_every=1) for name in ("whole", "broken"))
    fit(whole, dropout=0.5)
    stopped_run(broken, lambda running: running.steps_done == 2 and signal.raise_signal(signal.SIGTERM))
    last = tmp_path / "broken/last.pt"
    last.write_bytes(last.read_bytes()[:-1])
    with pytest.raises(UserError, match="rename last-before.pt to last.pt"):
        fit(broken, dropout=0.5)
    (tmp_path / "broken/last-before.pt").replace(last)
    fit(broken, dropout=0.5)
    testing.assert_same_runs(tmp_path / "whole", tmp_path / "broken")


class Never(Metric):
    """A quantity of which nothing was counted, or one that overflows."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def update(self, outputs: Batch) -> None: ...

    def formula(self, *sums: float) -> float:
        return self.value


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_mean_that_is_no_finite_number_is_null_in_the_history(tmp_path: Path, value: float) -> None:
    class Unmeasured(Classification):
        def metrics(self) -> dict[str, Metric]:
            return super().metrics() | {"never": Never(value)}

    trainer = fit(small_config(tmp_path), Unmeasured())

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    written = json.loads((tmp_path / "history.json").read_text(encoding="utf-8"), parse_constant=refuse)
    assert written == trainer.history and written[0]["val"]["never"] is None is written[-1]["test"]["never"]
    assert "never -" in History(written).line() and "-" in History(written).table()
    assert fit(small_config(tmp_path), Unmeasured()).history == written


def flipped(path: Path, randomness: random.Random) -> bytes:
    """The content of a file, of which one bit is now another."""
    content = path.read_bytes()
    place = randomness.randrange(len(content))
    path.write_bytes(content[:place] + bytes([content[place] ^ (1 << randomness.randrange(8))]) + content[place + 1 :])
    return content


def assert_flips_are_named(out: Path, flips: int) -> None:
    """Bits of a run's files, of which each is refused by the file's name, or every value that is read is the same."""
    randomness = random.Random(flips)
    read = {"last.pt": checkpoint.load, "best.pt": checkpoint.load, "history.json": read_history, "config.json": None}
    read["config.json"] = lambda path: Run.open(path.parent).described
    for name, reader in read.items():
        before = reader(out / name)
        for _ in range(flips):
            content = flipped(out / name, randomness)
            try:
                testing.assert_same_state(reader(out / name), before, name)
            except UserError as error:
                assert name in str(error) and "\n" not in str(error)
            (out / name).write_bytes(content)


def test_flipped_bits_are_named_by_their_file(tmp_path: Path) -> None:
    fit(small_config(tmp_path))
    assert_flips_are_named(tmp_path, 5)


@pytest.mark.slow
def test_200_flipped_bits_of_each_file_are_named(tmp_path: Path) -> None:
    fit(small_config(tmp_path))
    assert_flips_are_named(tmp_path, 200)
