"""The table of ratios to peers, of figures by hand."""

import json
from pathlib import Path

import pytest

from dl.benchmarks import peers


def test_a_ratio_is_above_1_when_ours_is_faster() -> None:
    record = {"a": {"ours": [30.0, 10.0, 20.0], "peer": [10.0, 10.0, 10.0]}}
    assert peers.rates("a", peer="peer")(record) == 2.0
    assert peers.seconds("a", peer="peer")(record) == 0.5


def test_trainings_of_agents_are_compared_seed_by_seed() -> None:
    runs = {"ours": [{"seconds": 2.0}, {"seconds": 4.0}], "stable-baselines3": [{"seconds": 6.0}, {"seconds": 4.0}]}
    assert peers.trainings("PPO")({"PPO": {"trainings": runs}}) == 2.0


def test_each_row_has_its_machine_and_its_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    about = {"device": "x86_64 CPU, 2 threads", "maps": {"ours": {"seconds": 2}, "openTSNE": {"seconds": 3}}}
    newer = about | {"processor": "AMD EPYC", "capability": "AVX2", "threads": 1}
    for name, record in (("map", newer), ("map-avx512", about), ("of_each", {"PPO": newer})):
        (tmp_path / f"{name}.json").write_text(json.dumps(record), encoding="utf-8")
    monkeypatch.setattr(peers, "RESULTS", tmp_path)
    rows = [("map", "openTSNE", "map", peers.maps), ("agent", "a peer", "of_each", lambda record: 0.987)]
    monkeypatch.setattr(peers, "BESIDE", rows)
    assert peers.table().splitlines()[2:] == [
        "| map | openTSNE | 1.50 | AMD EPYC, AVX2, 1 thread | [map](results/map.json) |",
        "| map | openTSNE | 1.50 | x86_64 CPU with avx512_bf16, 2 threads | [map-avx512](results/map-avx512.json) |",
        "| agent | a peer | 0.99 | AMD EPYC, AVX2, 1 thread | [of_each](results/of_each.json) |",
    ]
