import json
from pathlib import Path

import pytest

from dl.benchmarks import agents


def test_a_training_is_recorded_by_when_it_reached_the_bar_and_how_it_ended() -> None:
    found = agents.row([(2560, 1.0, 20.0), (5120, 2.0, 480.0), (7680, 3.0, 300.0)], 475)
    assert (found["steps_to_475"], found["seconds_to_475"], found["seconds"], found["last"]) == (5120, 2.0, 3.0, 300.0)
    assert agents.row([(2560, 1.0, 474.9)], 475)["steps_to_475"] is None


def test_the_table_shows_every_seed_and_a_median_in_which_never_is_the_longest() -> None:
    of = [(10_000, 5.0, 40.0, 500.0), (None, None, 41.0, 18.8), (20_000, 7.0, 42.0, 500.0)]
    names = ("steps_to_475", "seconds_to_475", "seconds", "last")
    trainings = [{"seed": seed, **dict(zip(names, values))} for seed, values in enumerate(of)]
    lines = agents.table({"ours": trainings}, 475).splitlines()
    assert lines[3] == "| 1 | never | never | 41.0 | 18.8 |"
    assert lines[5] == "| median | 20,000 | 7.0 | 41.0 | 500 |"


def test_seeds_may_be_trained_by_several_processes(tmp_path: Path) -> None:
    path, measured = tmp_path / "agents.json", {"env_steps": 100}
    for name, seed, last in (("their", 1, 5.0), ("ours", 3, 4.0), ("ours", 0, 2.0), ("ours", 3, 6.0)):
        kept = agents.keep(path, "PPO", measured, name, {"seed": seed, "last": last})
    expected = {"ours": [{"seed": 0, "last": 2.0}, {"seed": 3, "last": 6.0}], "their": [{"seed": 1, "last": 5.0}]}
    assert kept == expected == json.loads(path.read_text(encoding="utf-8"))["PPO"]["trainings"]
    assert list(agents.keep(path, "PPO", {"env_steps": 200}, "ours", {"seed": 0, "last": 1.0})) == ["ours"]


@pytest.mark.parity
def test_the_benchmark_trains_both(tmp_path: Path) -> None:
    pytest.importorskip("stable_baselines3")
    assert agents.main(["PPO", "--env-steps", "2560", "--seeds", "1", "--out", str(tmp_path / "agents.json")]) == 0
    record = json.loads((tmp_path / "agents.json").read_text(encoding="utf-8"))["PPO"]
    assert {name: len(of) for name, of in record["trainings"].items()} == {"ours": 1, "stable-baselines3": 1}
    assert all(of[0]["evaluations"][-1][0] == 2560 and of[0]["seconds"] > 0 for of in record["trainings"].values())
