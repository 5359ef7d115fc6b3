"""Fine-tuning: the classifier and the recipe."""

from pathlib import Path
from typing import Any

import pytest
import torch

from dl import __main__ as front
from dl.cli.runs import Run
from dl.modules.Transformers.BERT import finetune
from dl.modules.Transformers.BERT.classifier import SentenceClassifier
from dl.modules.Transformers.BERT.convert import from_folder
from dl.modules.Transformers.BERT.model import build, sentence_embeddings
from dl.modules.Transformers.BERT.testing import PADDING, TOKENS, VOCABULARY, publish, tiny
from dl.modules.Transformers.BERT.wordpiece import WordPiece
from dl.mytorch import testing
from dl.mytorch.checkpoint import load
from dl.mytorch.command_line import parse
from dl.mytorch.config import UserError
from dl.mytorch.data import Splits, Vocabulary
from dl.mytorch.data.text.sst2 import Review, review_splits
from dl.mytorch.text.tasks import SentenceClassification

TOKENIZER = WordPiece(Vocabulary(VOCABULARY))
ENCODER = {"mlm": False, "nsp": False, "pooler": True}


def reviews(count: int) -> list[Review]:
    """Made-up ones of 3 to 10 words."""
    chance = torch.Generator().manual_seed(count)
    made = []
    for label in torch.randint(2, (count,), generator=chance).tolist():
        films = int(torch.randint(1, 9, (), generator=chance))
        made.append(Review(f"The {'good' if label else 'bad'} {'films ' * films}.", label))
    return made


def splits() -> Splits:
    return review_splits(config(Path()), (reviews(40), reviews(9), reviews(7)), TOKENIZER, length=16)


def config(out: Path, **changes: Any) -> finetune.Config:
    settings = {"weights": str(out / "weights"), "length": 16, "epochs": 2, "batch_size": 8, "precision": "fp32", "lr": 1e-3}
    return finetune.Config(out=str(out), **{**settings, **changes})


# ---- the classifier ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", ["first", "mean", "both"])
def test_classifier_is_pooler_and_output_on_what_sums_the_sentence_up(pooling: str) -> None:
    encoder = tiny(**ENCODER)
    model = SentenceClassifier(encoder, num_classes=3, pooling=pooling).double().eval()
    hidden = encoder(TOKENS, padding_mask=PADDING).hidden
    means = torch.stack([row[~padding].mean(0) for row, padding in zip(hidden, PADDING)])
    summed_up = torch.tanh(encoder.pooler.fc(means if pooling == "mean" else hidden[:, 0]))
    output = model.head
    if pooling == "both":  # never straight from the joined vectors to the output
        summed_up, output = torch.tanh(model.head.hidden(torch.cat([summed_up, means], 1))), model.head.output
    torch.testing.assert_close(model(TOKENS, PADDING), output(summed_up), rtol=0, atol=1e-12)
    torch.testing.assert_close(model(TOKENS[:1]), model(TOKENS[:1], PADDING[:1]), rtol=0, atol=1e-12)
    testing.assert_batch_independent(model, TOKENS, PADDING)
    model = SentenceClassifier(build("tiny", **ENCODER), 3, pooling=pooling)
    testing.assert_gradients_flow(model, {"tokens": TOKENS, "labels": torch.tensor([0, 2, 1])}, SentenceClassification())


def test_sentence_embeddings_are_means_of_length_1_that_know_no_padding() -> None:
    model = tiny(**ENCODER).double().eval()
    vectors = sentence_embeddings(model, TOKENS, PADDING)
    mean = model(TOKENS[1:2, :6]).hidden.mean(1)
    torch.testing.assert_close(vectors[1:2], mean / mean.norm(), rtol=0, atol=1e-12)


def test_encoders_without_pooler_or_with_heads_and_unknown_poolings_are_refused() -> None:
    for options in ({}, {"mlm": False}, {"mlm": False, "nsp": False}):
        with pytest.raises(ValueError, match="needs an encoder with the pooler and without mlm and nsp"):
            SentenceClassifier(build("tiny", **options), 2)
    with pytest.raises(ValueError, match="pooling has to be first, mean or both; got 'max'"):
        SentenceClassifier(build("tiny", **ENCODER), 2, pooling="max")


# ---- the recipe ----------------------------------------------------------------------------------------------------


def test_recipe_starts_from_pretrained_files_and_its_run_opens_and_is_evaluated(
    tmp_path: Path, no_figures: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "weights").mkdir()
    publish(tmp_path / "weights")
    history = finetune.main(config(tmp_path, pooling="mean", lr=1e-9), splits())
    assert history.test.keys() == {"loss", "top1_error"}
    batch, run = next(splits().test.batches()), Run.open(tmp_path)
    predicted = run.model()(batch["tokens"], batch["tokens"] == TOKENIZER.padding).argmax(1)
    assert (predicted != batch["labels"]).double().mean().item() == pytest.approx(history.test["top1_error"])
    monkeypatch.setattr(finetune, "labelled_splits", lambda *_: splits())
    capsys.readouterr()
    assert front.main(["evaluate", str(tmp_path), "--with", "top1_error"]) == 0
    assert capsys.readouterr().out == f"top1 error {history.test['top1_error']:.2%}\n"
    assert Vocabulary.load(tmp_path / "vocabulary-tokens.json") == TOKENIZER.vocabulary
    start, best = from_folder(tmp_path / "weights").state_dict(), load(tmp_path / "best.pt")
    for name in (name for name in start if "_head" not in name):
        torch.testing.assert_close(best[f"encoder.{name}"], start[name], rtol=0, atol=1e-6)
    (tmp_path / "weights" / "config.json").write_text('{"hidden_size": 0}', encoding="utf-8")  # the run has what it needs
    assert torch.equal(Run.open(tmp_path).model().head.weight, best["head.weight"])
    (tmp_path / finetune.ENCODER).unlink()  # a run of before
    with pytest.raises(UserError, match=r"config.json: hidden_size has to be from 1 to 2\^24; got 0"):
        Run.open(tmp_path).model()


def test_a_run_is_not_resumed_from_other_weights(tmp_path: Path, no_figures: None) -> None:
    (tmp_path / "weights").mkdir()
    publish(tmp_path / "weights")
    finetune.main(config(tmp_path, steps=1), splits())
    path = tmp_path / "weights" / "config.json"
    path.write_text(
        path.read_text(encoding="utf-8").replace('"layer_norm_eps": 1e-12', '"layer_norm_eps": 0.1'), encoding="utf-8"
    )
    with pytest.raises(UserError, match="encoder.json is of another network than .*config.json: choose another --out"):
        finetune.main(config(tmp_path, steps=1), splits())


@pytest.mark.parametrize(
    ("vocabulary", "changes", "message"),
    [
        ([*VOCABULARY, "new"], {}, "the vocabulary has 13 tokens, the weights have 12"),
        (VOCABULARY, {"length": 17}, "--length 17 is more than the 16 positions"),
    ],
)
def test_vocabularies_and_lengths_of_other_weights_are_refused(
    tmp_path: Path, vocabulary: list[str], changes: dict[str, int], message: str
) -> None:
    (tmp_path / "weights").mkdir()
    publish(tmp_path / "weights")
    (tmp_path / "weights" / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    with pytest.raises(UserError, match=message):
        finetune.main(config(tmp_path, **changes), splits())


def test_weights_have_to_be_named(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        parse(finetune.Config, [])
    assert "--weights has to be the folder of pretrained weights" in capsys.readouterr().err
