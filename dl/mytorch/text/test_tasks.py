"""Losses of tokens by hand."""

import math

import pytest
import torch
from torch import Tensor, nn

from dl.mytorch.data.sequences import IGNORED
from dl.mytorch.metrics import Metrics
from dl.mytorch.text.tasks import LanguageModeling, SentenceClassification, Seq2Seq


class Counted(nn.Module):
    """A language model whose logits are those that a test wants, whatever the tokens; it remembers what it was asked."""

    def __init__(self, logits: list) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits).log())

    def forward(self, *asked: Tensor) -> Tensor:
        self.asked = asked
        return self.logits


# Probabilities 1/8 2/8 5/8 and 6/8 1/8 1/8 for the two places of the first row, 2/4 1/4 1/4 and 0.1 0.2 0.7 for the second's.
ODDS = [[[1.0, 2.0, 5.0], [6.0, 1.0, 1.0]], [[2.0, 1.0, 1.0], [1.0, 2.0, 7.0]]]
TEXT = {"tokens": torch.tensor([[0, 1], [2, 0]]), "targets": torch.tensor([[2, 1], [0, IGNORED]])}  # given 5/8, 1/8 and 2/4


def test_language_modeling_is_the_mean_over_the_targets_that_count() -> None:
    output = LanguageModeling().step(Counted(ODDS), TEXT)
    assert output.loss.item() == pytest.approx((math.log(8 / 5) + math.log(8) + math.log(2)) / 3)
    assert output.count == 3 and output.loss.requires_grad
    assert not any(tensor.requires_grad for tensor in output.outputs.values())


def test_language_modeling_records_perplexity_and_error_per_token() -> None:
    task = LanguageModeling()
    metrics = Metrics(task.metrics())
    for row in (slice(0, 1), slice(1, 2)):  # two targets and one: a mean of means would be another number
        part = {name: tensor[row] for name, tensor in TEXT.items()}
        metrics.update(*task.eval_step(Counted(ODDS[row]), part))
    loss = math.log(8 / 5 * 8 * 2) / 3
    assert metrics.compute() == pytest.approx({"loss": loss, "perplexity": math.exp(loss), "top1_error": 1 / 3})


def test_label_smoothing_of_tokens_acts_on_the_training_loss_alone() -> None:
    task = LanguageModeling(label_smoothing=0.3)
    output = task.step(Counted(ODDS), TEXT)
    first = -(0.1 * math.log(1 / 8) + 0.1 * math.log(2 / 8) + 0.8 * math.log(5 / 8))
    second = -(0.1 * math.log(6 / 8) + 0.8 * math.log(1 / 8) + 0.1 * math.log(1 / 8))
    third = -(0.8 * math.log(2 / 4) + 0.2 * math.log(1 / 4))
    plain = math.log(8 / 5 * 8 * 2) / 3
    assert output.loss.item() == pytest.approx((first + second + third) / 3)
    assert output.outputs["loss"].item() == pytest.approx(plain) and not output.outputs["loss"].requires_grad
    assert task.eval_step(Counted(ODDS), TEXT).loss.item() == pytest.approx(plain)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("rows", [slice(0, 0), slice(1, 2)])
def test_a_batch_without_targets_has_loss_0_and_no_gradient(label_smoothing: float, rows: slice) -> None:
    model = Counted(ODDS[rows] if ODDS[rows] else torch.ones(0, 2, 3).tolist())
    model.logits = nn.Parameter(torch.zeros(rows.stop - rows.start, 2, 3))
    batch = {"tokens": TEXT["tokens"][rows], "targets": torch.full_like(TEXT["targets"][rows], IGNORED)}
    output = LanguageModeling(label_smoothing).step(model, batch)
    output.loss.backward()
    assert output.loss.item() == 0 and output.count == 0 and not model.logits.grad.any()


def test_seq2seq_gives_the_true_words_before_and_asks_for_the_next_ones() -> None:
    batch = {"source": torch.tensor([[1, 2, 0], [2, 2, 1]]), "target": torch.tensor([[1, 2, 1], [2, 0, 0]])}
    model = Counted(ODDS)  # the targets 2, 1 of the first row are given 5/8 and 1/8; the second row has none
    output = Seq2Seq().step(model, batch)
    source, before, mask = model.asked
    assert before.tolist() == [[1, 2], [2, 0]] and torch.equal(source, batch["source"])
    assert mask.tolist() == [[False, False, True], [False, False, False]]
    assert output.count == 2 and output.outputs["labels"].tolist() == [[2, 1], [IGNORED, IGNORED]]
    assert output.loss.item() == pytest.approx((math.log(8 / 5) + math.log(8)) / 2)


def test_seq2seq_padding_may_have_another_id() -> None:
    batch = {"source": torch.tensor([[0, 2]]), "target": torch.tensor([[1, 0, 2]])}
    model = Counted(ODDS[:1])
    output = Seq2Seq(padding=2).step(model, batch)
    assert (
        model.asked[2].tolist() == [[False, True]] and output.count == 1 and output.outputs["labels"].tolist() == [[0, IGNORED]]
    )


def test_a_rank_without_a_sentence_counts_for_nothing() -> None:
    weight = torch.ones(2, requires_grad=True)

    def model(tokens: Tensor, padding_mask: Tensor) -> Tensor:
        return (~padding_mask).sum(1, keepdim=True) * weight

    tokens, labels = torch.tensor([[4, 5, 0], [4, 0, 0]]), torch.tensor([1, 0])
    output = SentenceClassification().step(model, {"tokens": tokens, "labels": labels})
    assert output.count == 2 and output.loss.item() == pytest.approx(math.log(2))
    assert output.outputs["logits"].tolist() == [[2, 2], [1, 1]]
    output = SentenceClassification().step(model, {"tokens": tokens[:0], "labels": labels[:0]})
    assert output.loss == 0 and output.count == 0
