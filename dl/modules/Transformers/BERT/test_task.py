"""The losses of BERT's pre-training by hand, and their weights however a step is cut."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dl.modules.Transformers.BERT.model import BERTOutput
from dl.modules.Transformers.BERT.task import PreTraining, summed_cross_entropy
from dl.mytorch import TrainConfig, Trainer, checkpoint
from dl.mytorch.data import Batch
from dl.mytorch.data.sequences import IGNORED
from dl.mytorch.files import read_json
from dl.mytorch.metrics import Metrics
from dl.mytorch.optim import constant, sgd
from dl.mytorch.testing.processes import finish, start

BATCH: Batch = {
    "tokens": torch.tensor([[2, 5, 4, 3, 6, 3, 0], [2, 4, 3, 7, 6, 5, 3], [2, 5, 3, 4, 3, 0, 0], [2, 6, 3, 7, 3, 0, 0]]),
    "segments": torch.tensor([[0, 0, 0, 0, 1, 1, 0], [0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 1, 1, 0, 0], [0, 0, 0, 1, 1, 0, 0]]),
    "positions": torch.tensor([[2, 4, 1], [1, 3, 5], [3, 0, 0], [1, 3, 0]]),
    "targets": torch.tensor([[6, 5, IGNORED], [5, 6, 7], [7, IGNORED, IGNORED], [IGNORED] * 3]),
    "labels": torch.tensor([0, 1, 1, 0]),
}


class Fixed(nn.Module):
    """Whatever the input, these logits."""

    def __init__(self, mlm: Tensor, nsp: Tensor) -> None:
        super().__init__()
        self.mlm, self.nsp = mlm, nsp

    def forward(self, tokens: Tensor, segments: Tensor, padding_mask: Tensor, positions: Tensor | None) -> BERTOutput:
        assert torch.equal(padding_mask, tokens == 0)
        return BERTOutput(None if positions is None else self.mlm, self.nsp, self.mlm, self.nsp)


def hand_worked() -> tuple[Batch, Fixed]:
    """Two pairs, of two masked tokens and of one; the probability of the right answer is known for each."""
    mlm = torch.tensor([[[0.7, 0.1, 0.2], [0.5, 0.3, 0.2]], [[0.1, 0.8, 0.1], [0.25, 0.25, 0.5]]]).log()
    nsp = torch.tensor([[0.9, 0.1], [0.6, 0.4]]).log()
    empty = torch.zeros(2, 4, dtype=torch.int64)
    batch = {
        "tokens": torch.tensor([[2, 5, 6, 3], [2, 5, 3, 0]]),
        "segments": empty,
        "positions": torch.tensor([[1, 2], [1, 0]]),
        "targets": torch.tensor([[0, 1], [1, IGNORED]]),
        "labels": torch.tensor([0, 1]),
    }
    return batch, Fixed(mlm, nsp)


MLM = -(math.log(0.7) + math.log(0.3) + math.log(0.8)) / 3
NSP = -(math.log(0.9) + math.log(0.4)) / 2


@pytest.mark.parametrize(
    ("objectives", "loss", "count", "expected"),
    [
        ({"nsp": False}, MLM, 3, {"mlm_loss": MLM, "mlm_top1_error": 1 / 3, "mlm_top5_error": 0.0}),
        ({"mlm": False}, NSP, 2, {"nsp_loss": NSP, "nsp_error": 0.5}),
        (
            {},  # the first pair has two of the three masked tokens
            MLM - (2 * math.log(0.9) + math.log(0.4)) / 3,
            3,
            {"mlm_loss": MLM, "mlm_top1_error": 1 / 3, "mlm_top5_error": 0.0, "nsp_loss": NSP, "nsp_error": 0.5},
        ),
    ],
)
def test_losses_and_errors_are_those_worked_out_by_hand(
    objectives: dict[str, bool], loss: float, count: int, expected: dict[str, float]
) -> None:
    batch, model = hand_worked()
    task = PreTraining(**objectives)
    output = task.step(model, batch)
    assert output.loss.item() == pytest.approx(loss, rel=1e-6) and int(output.count) == count
    metrics = Metrics(task.metrics())
    metrics.update(*output)
    assert metrics.compute() == pytest.approx({"loss": loss, **expected}, rel=1e-6)


def test_the_loss_in_pieces_is_the_loss_of_all() -> None:
    logits = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([0, 4, IGNORED, 2, 2, IGNORED, 1])
    expected = nn.functional.cross_entropy(logits, targets, reduction="sum")
    (gradient,) = torch.autograd.grad(expected, logits)
    for rows in (1, 2, 3, 64):
        loss = summed_cross_entropy(logits, targets, rows)
        torch.testing.assert_close((loss, *torch.autograd.grad(loss, logits)), (expected, gradient), rtol=0, atol=1e-12)


def test_places_without_a_target_count_for_nothing() -> None:
    batch, model = hand_worked()
    before = PreTraining().step(model, batch)
    model.mlm[1, 1] = torch.tensor([50.0, -50.0, 0.0])
    assert PreTraining().step(model, batch).loss == before.loss


def test_a_batch_without_masked_tokens_or_rows_is_worth_nothing() -> None:
    batch, model = hand_worked()
    batch["targets"] = torch.full_like(batch["targets"], IGNORED)
    output = PreTraining().step(model, batch)
    assert output.loss == 0 and output.count == 0
    none = {name: tensor[:0] for name, tensor in batch.items()}
    output = PreTraining().step(Fixed(model.mlm[:0], model.nsp[:0]), none)
    assert output.loss == 0 and output.count == 0


def test_something_has_to_be_learnt() -> None:
    with pytest.raises(ValueError, match="both objectives off"):
        PreTraining(mlm=False, nsp=False)


class Small(nn.Module):
    """The smallest model with both heads, in float64."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.embedding = nn.Parameter(torch.randn(8, 4, dtype=torch.float64, generator=generator))
        self.nsp = nn.Parameter(torch.randn(4, 2, dtype=torch.float64, generator=generator))

    def forward(self, tokens: Tensor, segments: Tensor, padding_mask: Tensor, positions: Tensor | None) -> BERTOutput:
        x = self.embedding[tokens]  # (B, T, D)
        pooled = (x * (1 + segments).unsqueeze(-1)).masked_fill(padding_mask.unsqueeze(-1), 0).mean(1).tanh()
        mlm = None
        if positions is not None:
            mlm = (x.gather(1, positions.unsqueeze(-1).expand(-1, -1, 4)) + pooled[:, None]) @ self.embedding.T
        return BERTOutput(mlm, pooled @ self.nsp, x, pooled)


@pytest.mark.parametrize("objectives", [{}, {"mlm": False}, {"nsp": False}])
@pytest.mark.parametrize("cuts", [[0, 1], [0, 2, 3], [0, 1, 2, 3]])
def test_a_step_is_the_same_however_it_is_cut_into_forwards(
    tmp_path: Path, objectives: dict[str, bool], cuts: list[int]
) -> None:
    """The rows have 2, 3, 1 and 0 masked tokens."""
    models = []
    for starts in ([0], cuts):
        config = TrainConfig(str(tmp_path), "made up", accumulate=len(starts))
        trainer = Trainer(Small(), PreTraining(**objectives), sgd(0.5), constant(), config)
        places = list(zip(starts, [*starts[1:], 4]))
        trainer.step([{name: tensor[a:b] for name, tensor in BATCH.items()} for a, b in places])
        models.append((trainer.model, trainer.step.train_metrics.compute()))
    (whole, expected), (cut, metrics) = models
    before = dict(Small().named_parameters())
    for (name, weight), other in zip(whole.named_parameters(), cut.parameters()):
        assert (weight - other).abs().max() <= 1e-12, name
        assert objectives.get("nsp", True) or name != "nsp" or torch.equal(weight, before[name])
        assert name == "nsp" or not torch.equal(weight, before[name])
    assert metrics == pytest.approx(expected, rel=1e-12)


RECIPE = """
import dataclasses

from dl.modules.Transformers.BERT.data import pair_splits
from dl.modules.Transformers.BERT.model import build
from dl.modules.Transformers.BERT.task import PreTraining
from dl.modules.Transformers.BERT.testing import paragraphs
from dl.mytorch import TrainConfig, Trainer, launch, seed_everything
from dl.mytorch.data import Loader
from dl.mytorch.optim import constant, sgd


def main(config):
    seed_everything(config.seed)
    drawn = pair_splits([paragraphs(i) for i in range(3)], config, length=24)
    pairs = drawn.val.dataset  # drawn once and for all: of the training text each rank draws pairs of its own
    data = dataclasses.replace(drawn, train=Loader(pairs, config.batch_size))
    model = build("tiny", vocab_size=len(drawn.vocabularies["tokens"]), dropout=0.0)
    trainer = Trainer(model, PreTraining(), sgd(config.lr, momentum=0.9), constant(), config)
    return trainer.fit(data)


launch(main, TrainConfig)
"""


@pytest.mark.slow
def test_two_ranks_equal_one_process_although_their_rows_have_different_numbers_of_masks(tmp_path: Path) -> None:
    recipe = tmp_path / "train.py"
    recipe.write_text(RECIPE, encoding="utf-8")
    flags = "--data pairs --epochs 2 --accumulate 2 --batch-size 5 --lr 0.05".split()
    finish(start(recipe, "--out", str(tmp_path / "one"), *flags))
    finish(start(recipe, "--out", str(tmp_path / "two"), "--parallel", "ddp", *flags, ranks=2))
    one, two = (checkpoint.load(tmp_path / name / "last.pt") for name in ("one", "two"))
    for name, weights in one["model"].items():
        assert (weights - two["model"][name]).abs().max() <= 1e-6, name
    for left, right in zip(*(read_json(tmp_path / name / "history.json") for name in ("one", "two")), strict=True):
        for split in left.keys() & {"train", "val", "test"}:
            assert right[split] == pytest.approx(left[split], abs=1e-5)
