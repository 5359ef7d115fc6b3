"""Metrics against numbers worked by hand, and the same number however the data is cut."""

import math
import random
from typing import Iterator

import pytest
import torch
from torch import Tensor

from dl.mytorch import metrics
from dl.mytorch.data import Batch
from dl.mytorch.metrics import RMSE, Mean, Metric, Metrics, TopKError, UnexplainedVariance, total
from dl.mytorch.text.metrics import Perplexity

LOGITS = torch.tensor(
    [
        [0.1, 0.9, 0.5, 0.2, 0.3],  # order 1 2 4 3 0
        [4.0, 3.0, 2.0, 1.0, 0.0],  # order 0 1 2 3 4
        [-5.0, -4.0, -3.0, -2.0, -1.0],  # order 4 3 2 1 0
        [0.0, 0.0, 9.0, 1.0, 2.0],  # 2 first, then 4 3
    ]
)
LABELS = torch.tensor([2, 0, 2, 3])  # at places 2, 1, 3, 3


def value(metric: Metric, *batches: Batch) -> float:
    for batch in batches:
        metric.update(batch)
    return metric.compute()


def random_cuts(batch: Batch, cuts: int, rng: random.Random) -> Iterator[Batch]:
    """`batch` in parts of random sizes, of which some are empty."""
    count = len(next(iter(batch.values())))
    places = sorted([0, count, *(rng.randint(0, count) for _ in range(cuts)), rng.randint(0, count)])
    for start, stop in zip(places, places[1:]):
        yield {name: tensor[start:stop] for name, tensor in batch.items()}


@pytest.mark.parametrize(("k", "expected"), [(1, 3 / 4), (2, 2 / 4), (3, 0.0), (5, 0.0)])
def test_top_k_error_is_the_share_of_labels_beyond_place_k(k: int, expected: float) -> None:
    assert value(TopKError(k), {"logits": LOGITS, "labels": LABELS}) == expected


def test_with_k_classes_or_fewer_the_error_is_0() -> None:
    assert value(TopKError(5), {"logits": LOGITS[:, :3], "labels": torch.tensor([0, 1, 2, 0])}) == 0
    assert value(TopKError(5), {"logits": torch.zeros(2, 5), "labels": torch.tensor([0, 4])}) == 0


def test_labels_below_0_are_not_counted() -> None:
    labels = torch.tensor([2, 0, -100, -1])
    assert value(TopKError(1), {"logits": LOGITS, "labels": labels}) == 1 / 2
    assert math.isnan(value(TopKError(1), {"logits": LOGITS, "labels": torch.full((4,), -1)}))


def test_top_k_error_counts_every_position_of_a_sequence() -> None:
    outputs = {"logits": LOGITS.view(2, 2, 5), "labels": LABELS.view(2, 2)}
    assert value(TopKError(1), outputs) == 3 / 4


@pytest.mark.parametrize("k", [1, 2, 5])
def test_nan_logits_count_as_errors(k: int) -> None:
    nan_rows = torch.full((3, 5), math.nan)
    assert value(TopKError(k), {"logits": nan_rows, "labels": torch.tensor([0, 2, 4])}) == 1
    half = torch.cat([nan_rows[:1], LOGITS[1:2]])
    assert value(TopKError(k), {"logits": half, "labels": torch.tensor([0, 0])}) == 1 / 2


@pytest.mark.parametrize("seed", range(5))
def test_any_split_into_batches_gives_the_same_number(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    count = 157
    batch = {
        "logits": torch.randn(count, 7, generator=generator),
        "labels": torch.randint(-1, 7, (count,), generator=generator),
        "predictions": torch.randn(count, 2, generator=generator),
        "targets": torch.randn(count, 2, generator=generator),
    }
    make = {"top1": lambda: TopKError(1), "top5": lambda: TopKError(5), "mean": lambda: Mean("targets")}
    make |= {"rmse": RMSE, "unexplained": UnexplainedVariance}
    rng = random.Random(seed)
    for name, metric in make.items():
        whole = value(metric(), batch)
        for cuts in (1, 5, 30, 300):
            parts = list(random_cuts(batch, cuts, rng))
            assert value(metric(), *parts) == pytest.approx(whole, abs=1e-6), (name, cuts)
            assert value(metric(), *reversed(parts)) == pytest.approx(whole, abs=1e-6), (name, cuts)


def test_batches_too_large_to_wait_are_counted_as_well() -> None:
    large = {"logits": torch.randn(600, 128), "labels": torch.randint(128, (600,))}  # 76,800 logits
    small = {"logits": LOGITS.repeat(1, 26)[:, :128], "labels": LABELS}
    metric, alone = TopKError(5), TopKError(5)
    parts = [small, large, small, large, small]
    for part in parts:
        metric.update(part)
    errors = sum(value(TopKError(5), part) * len(part["labels"]) for part in parts)
    assert metric.compute() == pytest.approx(errors / 1212)
    assert value(alone, large) == pytest.approx(1 - 5 / 128, abs=0.05)  # it guesses


def test_a_weighted_mean_is_the_mean_over_items_not_over_batches() -> None:
    items = torch.tensor([1.0, 2.0, 3.0, 4.0, 100.0])  # batches of 2, the last one short
    metric = Mean("loss", "count")
    for part in items.split(2):
        metric.update({"loss": part.mean(), "count": len(part)})
    assert metric.compute() == pytest.approx(22)  # 110 / 5; the mean of the means 1.5, 3.5, 100 is 35


@pytest.mark.parametrize("as_tensor", [False, True])
def test_a_mean_over_no_items_contributes_nothing(as_tensor: bool) -> None:
    zero, two = (torch.tensor(n) if as_tensor else n for n in (0, 2))
    metric = Mean("loss", "count")
    metric.update({"loss": torch.tensor(math.nan), "count": zero})
    metric.update({"loss": torch.tensor(3.0), "count": two})
    metric.update({"loss": torch.tensor(math.nan), "count": zero})
    assert metric.compute() == 3


def test_nothing_counted_is_nan() -> None:
    for metric in (TopKError(1), Mean("loss"), Mean("loss", "count"), RMSE(), UnexplainedVariance(), Perplexity()):
        assert math.isnan(metric.compute())


def test_total_is_the_mean_times_the_count_and_0_for_none() -> None:
    assert total(torch.tensor(2.5), 4).item() == total(torch.tensor(2.5), torch.tensor(4)).item() == 10
    assert total(torch.tensor(math.nan), 0).item() == total(torch.tensor(math.nan), torch.tensor(0)).item() == 0


def test_total_of_no_items_sends_no_nan_back() -> None:
    for zero in (0, torch.tensor(0)):
        logits = torch.randn(3, 4, requires_grad=True)
        loss = torch.nn.functional.cross_entropy(logits, torch.full((3,), -100))  # every label ignored: 0 / 0
        assert loss.isnan()
        total(loss, zero).backward()
        assert torch.equal(logits.grad, torch.zeros(3, 4))


def test_rmse_is_the_root_of_the_mean_square() -> None:
    outputs = {"predictions": torch.tensor([[1.0, 5.0], [2.0, 2.0]]), "targets": torch.tensor([[1.0, 2.0], [4.0, 8.0]])}
    assert value(RMSE(), outputs) == pytest.approx(3.5)  # differences 0, 3, 2, 6: sqrt(49 / 4)


def test_unexplained_variance_is_the_residual_over_the_total_sum_of_squares() -> None:
    outputs = {"predictions": torch.tensor([[1.0, 5.0], [2.0, 2.0]]), "targets": torch.tensor([[1.0, 2.0], [4.0, 9.0]])}
    assert value(UnexplainedVariance(), outputs) == pytest.approx(62 / 38)  # 0 + 9 + 4 + 49; mean 4: 9 + 4 + 0 + 25


def test_unexplained_variance_of_perfect_predictions_is_0_and_of_the_mean_1() -> None:
    targets = torch.tensor([3.0, 5.0, 10.0])
    assert value(UnexplainedVariance(), {"predictions": targets, "targets": targets}) == 0
    assert value(UnexplainedVariance(), {"predictions": torch.full((3,), 6.0), "targets": targets}) == pytest.approx(1)


def test_unexplained_variance_is_about_the_mean_of_all_batches_not_of_each() -> None:
    targets = torch.tensor([0.0, 2.0, 10.0])  # mean 4, total 16 + 4 + 36; of the batches alone: mean 1, total 2, and 0
    parts = [{"predictions": t + 1, "targets": t} for t in targets.split(2)]
    assert value(UnexplainedVariance(), *parts) == pytest.approx(3 / 56)


def test_unexplained_variance_bears_targets_far_from_0() -> None:
    noise = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    targets = (10_000 + noise.round(decimals=2)).float()  # in float32 the difference of the sums would be noise
    spread = (targets.double() - targets.double().mean()).square().sum().item()
    parts = [{"predictions": t + 0.5, "targets": t} for t in targets.split(64)]
    assert value(UnexplainedVariance(), *parts) == pytest.approx(250 / spread, rel=1e-6)


@pytest.mark.parametrize("constant", [0.0, 0.1, 12345.6])
def test_unexplained_variance_of_targets_that_do_not_differ_is_nan(constant: float) -> None:
    targets = torch.full((101,), constant)
    assert math.isnan(value(UnexplainedVariance(), *({"predictions": t + 1, "targets": t} for t in targets.split(7))))


@pytest.mark.parametrize("asked_after", [1, 3, 64, 65])
def test_sums_asked_for_in_the_middle_change_no_bit(asked_after: int) -> None:
    values = torch.rand(201, dtype=torch.float64, generator=torch.Generator().manual_seed(3))  # every sum is rounded
    undisturbed, asked = Mean("x"), Mean("x")
    for i, x in enumerate(values, start=1):
        for metric in (undisturbed, asked):
            metric.update({"x": x})
        if i % asked_after == 0:
            _ = asked.sums
    assert torch.equal(undisturbed.sums, asked.sums)
    assert undisturbed.compute() == asked.compute()


def test_a_long_epoch_loses_nothing() -> None:
    metric = Mean("loss", "count")
    metric.sums = torch.tensor([2.0**24, 2.0**24], dtype=torch.float64)  # float32 cannot count from here on
    for _ in range(100):
        metric.update({"loss": torch.tensor(1.0), "count": 1})
    assert metric.sums.tolist() == [2**24 + 100] * 2


def test_reset_forgets_also_what_was_not_yet_added_up() -> None:
    metric = Mean("x")
    metric.update({"x": torch.tensor([5.0])})
    metric.reset()
    assert value(metric, {"x": torch.tensor([1.0, 2.0])}) == 1.5


def classified() -> Metrics:
    return Metrics({"top1_error": TopKError(1), "top2_error": TopKError(2)})


def update(metrics: Metrics, part: slice, loss: float) -> None:
    labels = LABELS[part]
    metrics.update(torch.tensor(loss), len(labels), {"logits": LOGITS[part], "labels": labels})


def test_metrics_give_the_mean_loss_and_the_errors_by_name() -> None:
    metrics = classified()
    update(metrics, slice(0, 3), loss=1.0)
    update(metrics, slice(3, 4), loss=5.0)
    assert metrics.compute() == {"loss": 2.0, "top1_error": 0.75, "top2_error": 0.5}


def test_metrics_go_on_from_their_state_to_the_same_bits() -> None:
    whole, first, second = classified(), classified(), classified()
    for each in (whole, first):
        update(each, slice(0, 3), loss=0.1)
    state: dict[str, Tensor] = {name: sums.clone() for name, sums in first.state().items()}
    second.load_state(state)
    for each in (whole, second):
        update(each, slice(3, 4), loss=0.7)
    assert whole.compute() == second.compute()
    assert all(torch.equal(whole.state()[name], second.state()[name]) for name in state)


def test_a_loaded_state_replaces_what_was_counted() -> None:
    metrics, other = classified(), classified()
    update(metrics, slice(0, 3), loss=0.1)
    update(other, slice(3, 4), loss=5.0)
    other.load_state(metrics.state())
    assert other.compute() == metrics.compute()


def test_a_state_with_a_metric_that_is_no_more_shown_is_taken() -> None:
    metrics, other = classified(), classified()
    update(other, slice(0, 3), loss=0.1)
    metrics.load_state(other.state() | {"top9_error": torch.zeros(2, dtype=torch.float64)})
    assert metrics.compute() == other.compute()


def test_a_state_stays_as_it_was_when_counting_goes_on() -> None:
    metrics = classified()
    update(metrics, slice(0, 3), loss=1.0)
    state = metrics.state()
    before = {name: sums.clone() for name, sums in state.items()}
    update(metrics, slice(3, 4), loss=5.0)
    metrics.reset()
    assert all(torch.equal(state[name], before[name]) for name in before)


def test_metrics_keep_no_graph() -> None:
    metrics = Metrics({"mean": Mean("x"), "top1": TopKError(1), "rmse": RMSE(), "unexplained": UnexplainedVariance()})
    x = torch.ones(2, 5, requires_grad=True)
    y = x.exp()
    metrics.update(y.sum(), 2, {"x": y, "logits": y, "labels": torch.tensor([0, 1]), "predictions": y, "targets": x})
    waiting = [logits for logits, _ in metrics.by_name["top1"]._waiting]
    waiting += [value for metric in metrics.by_name.values() for value in metric._pending if isinstance(value, Tensor)]
    assert len(waiting) == 7 and not any(tensor.requires_grad for tensor in waiting)
    assert not any(sums.requires_grad for sums in metrics.state().values())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sums_of_half_precision_are_exact(dtype: torch.dtype) -> None:
    """300^2 is infinite in float16; in bfloat16 5,000 ones sum up to 4,992, and a mean of 1 times 257 is 256."""
    far = {"predictions": torch.tensor([300.0], dtype=dtype), "targets": torch.zeros(1, dtype=dtype)}
    assert value(RMSE(), far) == 300
    assert value(Mean("x"), {"x": torch.ones(5000, dtype=dtype)}) == 1
    assert value(Mean("x"), {"x": torch.full((700,), 100.0, dtype=dtype)}) == 100
    counted = Mean("loss", "count")
    for _ in range(3):
        counted.update({"loss": torch.tensor(300.0, dtype=dtype), "count": 257})
    assert counted.compute() == 300


@pytest.mark.parametrize("metric", [RMSE, UnexplainedVariance])
def test_predictions_and_targets_that_would_broadcast_are_refused(metric: type[Metric]) -> None:
    with pytest.raises(ValueError, match=r"targets has to be of shape \(3, 1\); got \(3,\)"):
        metric().update({"predictions": torch.zeros(3, 1), "targets": torch.zeros(3)})


def test_labels_and_sums_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"labels has to be of shape \(4,\); got \(1,\)"):
        TopKError(1).update({"logits": LOGITS, "labels": LABELS[:1]})
    with pytest.raises(ValueError, match=r"single number; got a tensor \(2,\)"):
        Mean("loss", "count").update({"loss": torch.ones(2), "count": torch.ones(2)})


def test_a_device_without_float64_has_its_sums_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "WITHOUT_FLOAT64", {"cpu"})
    metric = Mean("x")
    for _ in range(130):
        metric.update({"x": torch.full((2**10,), 2.0**14 + 1)})
    assert metric.sums.dtype == torch.float64 and metric.sums.tolist() == [130 * 2**10 * (2**14 + 1), 130 * 2**10]
