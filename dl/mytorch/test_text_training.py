"""Training on text as mathematics: rows with different numbers of targets, batches by length, one vocabulary a run."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dl.mytorch import History, TrainConfig, Trainer, checkpoint, testing
from dl.mytorch.config import UserError
from dl.mytorch.data import Splits, Vocabulary
from dl.mytorch.data.sequences import IGNORED
from dl.mytorch.data.text.translation import PairSplits, token_splits
from dl.mytorch.files import read_json
from dl.mytorch.optim import constant, sgd
from dl.mytorch.testing.processes import finish, start
from dl.mytorch.text.tasks import LanguageModeling, Seq2Seq

WORDS = "a b c d e f g".split()
TARGETS = torch.tensor([[1, 2, 0, 3, 1], [2, IGNORED, 1, IGNORED, IGNORED], [IGNORED] * 5, [3, 3, 3, 3, IGNORED]])


class Translator(nn.Module):
    """Each next word from the last one and the mean of the source, with dropout."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        words = len(WORDS) + 4
        self.embedding = nn.Embedding(words, 6)
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(6, words)

    def forward(self, source: Tensor, target: Tensor, source_padding_mask: Tensor) -> Tensor:
        words = self.embedding(source).masked_fill(source_padding_mask.unsqueeze(-1), 0).sum(1, keepdim=True)
        return self.head(self.drop(self.embedding(target)) + words / (~source_padding_mask).sum(1).view(-1, 1, 1))


def splits(batch_size: int = 8) -> Splits:
    """50 + 9 + 7 pairs of 1 to 12 words; the last training batch of 8 has 2."""
    lengths = torch.randint(1, 13, (66, 2), generator=torch.Generator().manual_seed(0)).tolist()
    pairs = [tuple(" ".join(WORDS[(i + k) % 7] for k in range(n)) for n in both) for i, both in enumerate(lengths)]
    config = TrainConfig(out="unused", data="made up", batch_size=batch_size)
    return token_splits(config, PairSplits(pairs[:50], pairs[50:59], pairs[59:]))


def config(out: Path, **changes: Any) -> TrainConfig:
    return TrainConfig(
        **({"out": str(out), "data": "made up", "epochs": 3, "batch_size": 8, "lr": 0.05, "plots": False} | changes)
    )


def main(config: TrainConfig, data: Splits, dropout: float = 0.3) -> History:
    torch.manual_seed(config.seed)
    trainer = Trainer(Translator(dropout), Seq2Seq(label_smoothing=0.1), sgd(config.lr, momentum=0.9), constant(), config)
    return trainer.fit(data)


class Table(nn.Module):
    """Logits by token: the smallest language model."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.weight[tokens]


@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_rows_with_different_counts_weigh_by_their_targets(tmp_path: Path, label_smoothing: float) -> None:
    """5, 2, 0 and 4 of them."""
    tokens = torch.tensor([[0, 1, 2, 0, 3]] * 4)
    reference = Table()
    counted = TARGETS != IGNORED
    F.cross_entropy(reference(tokens)[counted], TARGETS[counted], label_smoothing=label_smoothing).backward()
    expected = reference.weight.detach() - 0.5 * reference.weight.grad
    for rows in ([0, 1, 2, 3], [0, 1, 3], [0, 3]):  # after which row the step is cut into forwards
        model = Table()
        task = LanguageModeling(label_smoothing)
        trainer = Trainer(model, task, sgd(0.5), constant(), config(tmp_path, accumulate=len(rows)))
        cuts = list(zip(rows, [*rows[1:], 4]))
        trainer.step([{"tokens": tokens[a:b], "targets": TARGETS[a:b]} for a, b in cuts])
        assert (model.weight - expected).abs().max() <= 1e-12
        assert trainer.step.train_metrics.by_name["loss"].sums[1] == 11


def test_batches_by_length_resume_to_the_same_bytes(tmp_path: Path) -> None:
    testing.assert_resumes_exactly(main, config(tmp_path), splits)


def test_validation_is_the_same_for_any_batch_size(tmp_path: Path) -> None:
    main(config(tmp_path), splits())
    trainer = Trainer(Translator(), Seq2Seq(), sgd(0.1), constant(), config(tmp_path))
    checkpoint.load_weights(trainer.model, tmp_path / "best.pt")
    first, second = (trainer.evaluate(splits(size).val) for size in (2, 8))
    assert first == pytest.approx(second, rel=1e-6) and first["perplexity"] < 11


def test_a_run_keeps_its_vocabularies_and_refuses_others(tmp_path: Path) -> None:
    data = splits()
    main(config(tmp_path, epochs=1), data)
    for name, vocabulary in data.vocabularies.items():
        assert Vocabulary.load(tmp_path / f"vocabulary-{name}.json") == vocabulary
    *others, last_but_one, last = data.vocabularies["target"].tokens
    swapped = Vocabulary([*others, last, last_but_one])
    other = Splits(*data, vocabularies={**data.vocabularies, "target": swapped})
    with pytest.raises(UserError, match="vocabulary-target.json is another vocabulary: 11 tokens there, 11 here; id 9 is"):
        main(config(tmp_path, epochs=1), other)
    main(config(tmp_path, epochs=1, fresh=True), other)
    assert Vocabulary.load(tmp_path / "vocabulary-target.json") == swapped


RECIPE = """
from dl.mytorch import TrainConfig, launch
from dl.mytorch.test_text_training import main, splits

launch(lambda config: main(config, splits(), dropout=0.0), TrainConfig)
"""


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 3])
def test_two_ranks_equal_one_process_although_their_rows_differ(tmp_path: Path, accumulate: int) -> None:
    recipe = tmp_path / "train.py"
    recipe.write_text(RECIPE, encoding="utf-8")
    flags = ["--data", "made up", "--epochs", "3", "--accumulate", str(accumulate)]
    finish(start(recipe, "--out", str(tmp_path / "one"), *flags))
    finish(start(recipe, "--out", str(tmp_path / "two"), "--parallel", "ddp", *flags, ranks=2))
    one, two = (checkpoint.load(tmp_path / name / "last.pt") for name in ("one", "two"))
    for name, weights in one["model"].items():
        assert (weights - two["model"][name]).abs().max() <= 1e-6, name
    for left, right in zip(*(read_json(tmp_path / name / "history.json") for name in ("one", "two")), strict=True):
        for split in left.keys() & {"train", "val", "test"}:
            assert right[split] == pytest.approx(left[split], abs=1e-5)
