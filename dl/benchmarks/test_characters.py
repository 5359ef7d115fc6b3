"""The setting is the same for all networks; rates are tuned as the table says."""

from pathlib import Path
from typing import Any, Sequence

import pytest

from dl.benchmarks import characters
from dl.benchmarks.characters import NETWORKS, RATES, Network, best_rate, table, tune
from dl.cli import catalogue
from dl.mytorch.command_line import parse
from dl.mytorch.config import UserError
from dl.mytorch.introspect import count_parameters, without_values

SETTING = {
    **{"data": "shakespeare", "steps": 2000, "batch_size": 12, "dropout": 0.0, "lr": 0.003, "seed": 1, "eval_every": 250},
    **{"weight_decay": 0.1, "warmup": 100, "min_lr_ratio": 0.1, "beta2": 0.99, "grad_clip": 1.0, "ema": 0.0},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_all_networks_are_trained_in_the_same_setting_and_have_the_same_size(name: str, tmp_path: Path) -> None:
    network = NETWORKS[name]
    (trial,) = characters.trials(network, ["0.003"], [1], tmp_path)
    module = catalogue.module(network.recipe, "train")
    config = parse(module.Config, trial.flags)
    assert {field: getattr(config, field) for field in SETTING} == SETTING
    assert getattr(config, "context_length", None) or config.bptt_length == characters.CONTEXT
    assert Path(config.out) == tmp_path / "lr=0.003-seed=1"
    with without_values():
        count = count_parameters(module.build_model(config, {"tokens": range(65)}))
    assert 0.72e6 < count < (1.3e6 if name in ("qwen3_experts", "deepseekv3") else 0.83e6)


def trained(losses: dict[str, float], asked: list[tuple[Any, ...]]) -> Any:
    def train(network: Network, rates: Sequence[str], seeds: Sequence[int], out: Path, jobs: int) -> list[dict[str, Any]]:
        asked.append((*rates, *seeds))
        figures = {"tokens_per_second": 1000.0, "seconds": 9.0, "commit": "abc"}
        return [{"lr": rate, "seed": seed, "loss": losses[rate] + seed / 10, **figures} for rate in rates for seed in seeds]

    return train


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ((9, 4, 3, 2, 5, 9), [(*RATES, 0), ("0.003", 1, 2)]),
        ((9, 4, 3, 2, 1, 5), [(*RATES, 0), ("0.008", 0), ("0.005", 1, 2)]),  # the further one was worse
        ((9, 4, 3, 2, 1, 0.5), [(*RATES, 0), ("0.008", 0), ("0.008", 1, 2)]),
        ((1, 2, 3, 4, 5, 6), [(*RATES, 0), ("0.0005", 0), ("0.0005", 1, 2)]),
    ],
)
def test_a_rate_further_is_tried_if_the_best_is_at_an_end_and_seeds_at_the_best(
    losses: Sequence[float], expected: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Any, ...]] = []
    rates = (characters.LOWER, *RATES, characters.HIGHER)
    monkeypatch.setattr(characters, "train", trained(dict(zip(rates, losses)), asked))
    found = tune(NETWORKS["gpt2"], Path("unused"))
    assert asked == expected and len(found) == sum(len(each) - 1 for each in (expected[0], *expected[1:-1])) + 2


def test_a_row_has_mean_and_spread_at_the_best_rate_and_the_lowest_loss_is_first() -> None:
    make = trained({"0.001": 1.9, "0.002": 1.8}, [])
    trainings = [*make(None, ["0.001", "0.002"], [0], None, 1), *make(None, ["0.002"], [1, 2], None, 1)]
    record = {"network": "A", "parameters": 800_000, "flops": 64 * 1_500_000, "trainings": trainings}
    other = {**record, "network": "B", "trainings": make(None, ["0.002"], [0], None, 1)}
    lines = table([record, other]).splitlines()
    assert lines[2] == "| B | 800,000 | 1.50 | 0.002 | 1.800 | 1 | 1,000 | 0.002: 1.800 |"
    assert lines[3] == "| A | 800,000 | 1.50 | 0.002 | 1.900 \u00b1 0.100 | 3 | 1,000 | 0.001: 1.900, 0.002: 1.800 |"
    assert best_rate([{"lr": "0.001", "seed": 0, "loss": float("inf")}, *trainings]) == "0.002"
    with pytest.raises(UserError, match="no training was finished"):
        best_rate([])


@pytest.mark.slow
def test_the_command_trains_by_sweeps_and_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ("--model=tiny", "--steps=2", "--eval-every=1", "--data=shakespeare-sample", "--batch-size=2")
    monkeypatch.setitem(NETWORKS, "gpt2", Network("tiny", "GPT/GPT2", flags))
    monkeypatch.setattr(characters, "RATES", ("0.001", "0.002"))
    monkeypatch.setattr(characters, "SEEDS", (0,))
    out = tmp_path / "record.json"
    assert characters.main(["gpt2", "--runs", str(tmp_path / "runs"), "--out", str(out)]) == 0
    assert characters.main(["gpt2", "--runs", str(tmp_path / "runs"), "--out", str(out)]) == 0  # all is finished
    monkeypatch.setattr(characters, "FOLDER", tmp_path)
    ((_, _, shown),) = characters.tables()
    assert shown.count("\n") == 2 and "| tiny |" in shown
