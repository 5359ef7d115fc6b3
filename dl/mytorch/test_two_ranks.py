"""Two processes compute together what one computes alone: sums, metrics, shards of batches, gradients. Slow tier."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import Tensor, nn

from dl.mytorch import TrainConfig, Trainer, distributed
from dl.mytorch.data import Batch, Loader, Splits
from dl.mytorch.distributed import all_reduce_sum
from dl.mytorch.gathering import all_gather, gather_with_gradient
from dl.mytorch.large import placement
from dl.mytorch.metrics import RMSE, Metrics, TopKError
from dl.mytorch.optim import constant, sgd
from dl.mytorch.tasks import Regression, StepOutput
from dl.mytorch.text.metrics import BLEU, Perplexity

pytestmark = pytest.mark.slow

BATCH_SIZES = (1, 4, 11)  # of 23 examples: the last batches have 1, 3 and 1, so that rank 1 gets some empty ones


def examples() -> Batch:
    generator = torch.Generator().manual_seed(0)
    return {
        "x": torch.arange(23),
        "logits": torch.randn(23, 7, generator=generator),
        "labels": torch.randint(-1, 7, (23,), generator=generator),
        "predictions": torch.randn(23, 2, generator=generator),
        "targets": torch.randn(23, 2, generator=generator),
        "losses": torch.rand(23, generator=generator),
    }


def batches(batch_size: int, indexed: bool = False) -> list[Batch]:
    data = torch.utils.data.TensorDataset(examples()["x"]) if indexed else examples()
    collate = (lambda group: {"x": torch.stack([x for (x,) in group])}) if indexed else None
    return list(Loader(data, batch_size, shuffle=True, seed=3, collate=collate).batches(epoch=1))


def new_metrics() -> Metrics:
    return Metrics({"top1": TopKError(1), "top5": TopKError(5), "rmse": RMSE()})


def counted(metrics: Metrics, parts: list[Batch]) -> Metrics:
    for part in parts:
        metrics.update(part["losses"].mean(), len(part["losses"]), part)  # of an empty part: NaN over 0 items
    return metrics


def perplexity(parts: list[Batch]) -> float:
    metric = Perplexity()
    for part in parts:
        metric.update({"loss": part["losses"].mean(), "count": torch.tensor(len(part["losses"]))})
    return metric.compute()


def bleu(rows: slice) -> float:
    """Of the part of five sentences that a rank has."""
    hypotheses = [sentence.split() for sentence in ("a b c d", "a c b", "b c d e f", "d", "a b c d e")]
    references = [[sentence.split()] for sentence in ("a b c d e", "a b", "b c d e", "d e", "a b c e d")]
    metric = BLEU()
    metric.update({"hypotheses": hypotheses[rows], "references": references[rows]})
    return metric.compute()


def resumed(parts: list[Batch]) -> dict[str, float]:
    """Metrics that were saved half-way, and loaded into new ones on all ranks."""
    second = new_metrics()
    second.load_state(counted(new_metrics(), parts[:3]).state())
    return counted(second, parts[3:]).compute()


def gradients(model: nn.Module, network: nn.Module, x: Tensor) -> list[Tensor]:
    model.zero_grad()
    network(x).square().sum().backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


def parallel_facts(rank: int) -> dict[str, Any]:
    torch.manual_seed(rank)  # other weights on each rank, which DistributedDataParallel makes equal
    model = nn.Linear(3, 2)
    cpu, config = torch.device("cpu"), TrainConfig("unused", "none", parallel="ddp")
    where = placement.choose(config, cpu)
    network = where.parallelize(model)
    x = inputs()[rank]
    with where.no_sync(network):
        alone = gradients(model, network, x)
    return {
        "weights": model.state_dict(),
        "unsynced": alone,
        "synced": gradients(model, network, x),
        "none": placement.choose(replace(config, parallel="none"), cpu).parallelize(model) is model,
    }


class Asking(Regression):
    """A task whose step asks the other ranks for something, as a contrastive loss does."""

    def step(self, model: nn.Module, batch: Batch) -> StepOutput:
        all_reduce_sum(batch["targets"].sum())
        return super().step(model, batch)


def train_asking(folder: Path) -> list[dict[str, Any]]:
    """A training of two steps, in which the summary is made, too."""
    part = {"features": torch.ones(4, 3), "targets": torch.ones(4, 2)}
    config = TrainConfig(str(folder / "run"), "none", parallel="ddp", plots=False, device="cpu")
    trainer = Trainer(nn.Linear(3, 2), Asking(), sgd(0.1), constant(), config)
    return list(trainer.fit(Splits(Loader(part, 2), Loader(part, 2))))


def gathered_gradients(rank: int) -> tuple[Tensor, int, Tensor]:
    """Rows of all ranks, the place of this rank's first, and the gradient of a sum over ranks to the rows of this one.

    Rank r has 3 - 2 r rows, and its loss is (r + 1) times the product of all rows with its own.
    """
    rows = torch.arange(6.0).view(3, 2)[rank * 2 :] if rank else torch.arange(6.0).view(3, 2) + 1
    rows.requires_grad_()
    everyone, start = gather_with_gradient(rows)
    ((rank + 1) * everyone.sum() * rows.detach().sum()).backward()
    return everyone.detach(), start, rows.grad


def inputs() -> Tensor:
    return torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(4))


def facts(rank: int, folder: Path) -> dict[str, Any]:
    """All that a rank finds out."""
    norm = nn.BatchNorm1d(2)
    norm.running_mean += rank + 1
    norm.num_batches_tracked += 5 * (rank + 1)
    distributed.broadcast_buffers(norm)
    x = torch.tensor([1.0, 10.0], requires_grad=True) * (rank + 1)
    rows = torch.arange(6.0).view(3, 2) + 10 * rank
    distributed.barrier()
    return {
        "place": (distributed.rank(), distributed.world_size(), distributed.is_main()),
        "sum": all_reduce_sum(x).detach(),
        "summed": x.detach(),
        "sum of integers": all_reduce_sum(torch.tensor(2**40 + rank)),
        "gathered": all_gather(rows[: 3 - 2 * rank]),
        "gathered, one empty": all_gather(rows[: 2 * rank]),
        "gathered integers": all_gather(torch.full((rank + 1,), rank)),
        "gathered truths": all_gather(torch.tensor([True, False])[: rank + 1]),
        "gathered with gradient": gathered_gradients(rank),
        "objects": distributed.gather_objects({"rank": rank, "list": [rank] * rank}),
        "buffers": dict(norm.named_buffers()),
        "shards": {(size, kind): [b["x"] for b in batches(size, kind)] for size in BATCH_SIZES for kind in (False, True)},
        "metrics": {size: counted(new_metrics(), batches(size)).compute() for size in BATCH_SIZES},
        "perplexity": {size: perplexity(batches(size)) for size in BATCH_SIZES},
        "bleu": bleu(slice(rank, None, 2)),
        "bleu of rank 1 alone": bleu(slice(0, 5 * rank)),
        "resumed": resumed(batches(4)),
        "parallel": parallel_facts(rank),
        "trained": train_asking(folder),
    }


def run_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.save(facts(rank, Path(folder)), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The facts of rank 0 and of rank 1."""
    folder: Path = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(run_rank, args=(str(folder),), nprocs=2)
    assert (folder / "run" / "summary.txt").exists()
    assert sorted(os.listdir(folder))[:2] == ["0.pt", "1.pt"]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


Ranks = list[dict[str, Any]]


def test_each_rank_knows_its_place(ranks: Ranks) -> None:
    assert [rank["place"] for rank in ranks] == [(0, 2, True), (1, 2, False)]


def test_sums_are_over_all_ranks_on_each_of_them_and_leave_the_summands(ranks: Ranks) -> None:
    for i, rank in enumerate(ranks):
        assert rank["sum"].tolist() == [3, 30]
        assert rank["summed"].tolist() == [1 + i, 10 + 10 * i]
        assert rank["sum of integers"].item() == 2**41 + 1


def test_parts_of_different_lengths_are_joined_in_the_order_of_ranks(ranks: Ranks) -> None:
    for rank in ranks:
        assert rank["gathered"].tolist() == [[0, 1], [2, 3], [4, 5], [10, 11]]
        assert rank["gathered, one empty"].tolist() == [[10, 11], [12, 13]]
        assert rank["gathered integers"].tolist() == [0, 1, 1] and rank["gathered integers"].dtype == torch.int64
        assert rank["gathered truths"].tolist() == [True, True, False]


def test_the_gradient_of_gathered_rows_is_that_of_the_losses_of_all_ranks(ranks: Ranks) -> None:
    rows = [[1, 2], [3, 4], [5, 6], [4, 5]]  # rank 0 has three with the sum 21, rank 1 one with the sum 9
    for i, rank in enumerate(ranks):
        everyone, start, gradient = rank["gathered with gradient"]
        assert everyone.tolist() == rows and start == 3 * i
        assert gradient.tolist() == [[21 + 2 * 9] * 2] * (3 - 2 * i)


def test_objects_are_gathered_in_the_order_of_ranks(ranks: Ranks) -> None:
    for rank in ranks:
        assert rank["objects"] == [{"rank": 0, "list": []}, {"rank": 1, "list": [1]}]


def test_buffers_are_those_of_rank_0(ranks: Ranks) -> None:
    for rank in ranks:
        assert rank["buffers"]["running_mean"].tolist() == [1, 1]
        assert rank["buffers"]["num_batches_tracked"].item() == 5


@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize("batch_size", BATCH_SIZES)
def test_shards_partition_every_batch(ranks: Ranks, batch_size: int, indexed: bool) -> None:
    whole = [batch["x"].tolist() for batch in batches(batch_size)]
    shards = [[part.tolist() for part in rank["shards"][batch_size, indexed]] for rank in ranks]
    assert len(shards[0]) == len(shards[1]) == len(whole)
    for batch, first, second in zip(whole, *shards):
        assert (batch[::2], batch[1::2]) == (first, second)
    assert shards[1][-1] == [] or batch_size == 4


@pytest.mark.parametrize("batch_size", BATCH_SIZES)
def test_metrics_equal_those_of_one_process(ranks: Ranks, batch_size: int) -> None:
    alone = counted(new_metrics(), batches(23)).compute()
    for rank in ranks:
        assert rank["metrics"][batch_size] == pytest.approx(alone, rel=1e-6)
        assert rank["perplexity"][batch_size] == pytest.approx(perplexity(batches(23)), rel=1e-6)
    assert ranks[0]["metrics"] == ranks[1]["metrics"]


def test_bleu_is_that_of_the_whole_corpus_however_it_is_spread(ranks: Ranks) -> None:
    alone = bleu(slice(None))
    assert 0 < alone < 1
    for rank in ranks:
        assert rank["bleu"] == pytest.approx(alone, rel=1e-12)
        assert rank["bleu of rank 1 alone"] == pytest.approx(alone, rel=1e-12)


def test_metrics_saved_half_way_go_on_to_the_same_numbers(ranks: Ranks) -> None:
    for rank in ranks:
        assert rank["resumed"] == pytest.approx(rank["metrics"][4], rel=1e-12)


def test_parallel_training_starts_from_one_model_and_averages_its_gradients(ranks: Ranks) -> None:
    model = nn.Linear(3, 2)
    model.load_state_dict(ranks[0]["parallel"]["weights"])
    own = [gradients(model, model, x) for x in inputs()]
    for i, rank in enumerate(ranks):
        result = rank["parallel"]
        assert all(torch.equal(result["weights"][name], tensor) for name, tensor in model.state_dict().items())
        for gradient, expected in zip(result["unsynced"], own[i]):
            torch.testing.assert_close(gradient, expected)
        for gradient, first, second in zip(result["synced"], *own):
            torch.testing.assert_close(gradient, (first + second) / 2)
        assert result["none"]


def test_a_step_may_ask_the_other_ranks_for_something_in_the_summary_too(ranks: Ranks) -> None:
    assert ranks[0]["trained"] == ranks[1]["trained"] and ranks[0]["trained"][-1]["step"] == 2
