from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dl.cli import records
from dl.mytorch import introspect, rates
from dl.mytorch.metrics import Mean, Metrics
from dl.mytorch.rates import Rates


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    now = SimpleNamespace(value=100.0)
    monkeypatch.setattr(rates.time, "perf_counter", lambda: now.value)
    monkeypatch.setattr(introspect, "peak_flops", lambda device, dtype, seconds: 1e6)
    monkeypatch.setattr(rates, "peak_memory", lambda device: 400_000_000)
    return now


def made(folder: Path, plots: bool = True, unit: str = "example") -> Rates:
    config = SimpleNamespace(plots=plots, profile=0)
    step = SimpleNamespace(precision=SimpleNamespace(taken="fp32"))
    about = {"config": config, "out": folder, "step": step, "device": torch.device("cpu"), "task": SimpleNamespace(unit=unit)}
    (folder / "summary.txt").write_text("total 5 1,000\n", encoding="utf-8")
    return Rates(SimpleNamespace(done_before=50, **about))


def test_a_rate_is_that_since_the_last_point_without_the_evaluations(tmp_path: Path, clock: SimpleNamespace) -> None:
    measured = made(tmp_path)
    clock.value += 10
    first = measured.point(200, 250, 0.0)  # 200 examples in 10 s, each of 3 x 1,000 FLOPs
    assert first == {"rate/examples_per_second": 20.0, "rate/memory_gb": 0.4, "rate/share_of_peak": pytest.approx(0.06)}
    clock.value += 7
    measured.restart(290, 5.0)  # 40 examples, and an evaluation of 5 s
    clock.value += 3
    second = measured.point(90, 380, 5.0)
    assert second["rate/examples_per_second"] == pytest.approx(30.0)
    assert second["rate/share_of_peak"] == pytest.approx(0.09)


def test_texts_are_counted_in_tokens_and_shown_as_people_read_them(tmp_path: Path, clock: SimpleNamespace) -> None:
    measured = made(tmp_path, unit="token")
    clock.value += 1
    values = measured.point(2560.0, 60, 0.0)
    assert measured.shown({"step/loss": 1.0, **values}) == "2,560 tokens/s, 3 % of the peak, 0.4 GB"


def test_nodes_of_one_graph_have_no_share_as_they_share_a_pass(tmp_path: Path, clock: SimpleNamespace) -> None:
    measured = made(tmp_path, unit="node")
    clock.value += 1
    assert measured.point(140, 190, 0.0) == {"rate/nodes_per_second": 140.0, "rate/memory_gb": 0.4}
    assert records.share_of_peak(tmp_path, {"ranks": 1}, {"unit": "node"}) is None


def test_without_plots_nothing_is_measured_for_the_share(tmp_path: Path, clock: SimpleNamespace) -> None:
    measured = made(tmp_path, plots=False)
    clock.value += 1
    assert list(measured.point(1.0, 51, 0.0)) == ["rate/examples_per_second", "rate/memory_gb"]


def test_items_are_all_that_the_losses_were_means_over(tmp_path: Path, clock: SimpleNamespace) -> None:
    measured, metrics = made(tmp_path, unit="token"), Metrics({"loss": Mean("loss", "count")})
    for counts in ((30, 20), (10,)):  # two evaluations
        for count in counts:
            metrics.by_name["loss"].update({"loss": torch.tensor(1.5), "count": torch.tensor(count)})
        measured.count(metrics)
        metrics.reset()
    assert measured.items == 60
