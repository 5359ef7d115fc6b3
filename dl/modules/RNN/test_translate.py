"""The command that translates: words of the best weights, figures of what was attended to, BLEU of the test."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from dl.cli.runs import Run
from dl.modules.RNN import translate
from dl.modules.RNN.BahdanauAttention import train as attention_train
from dl.modules.RNN.Seq2Seq import train as seq2seq_train
from dl.modules.RNN.testing import splits
from dl.mytorch import plot
from dl.mytorch.files import read_json, write_recorded_json
from dl.mytorch.text.metrics import BLEU
from dl.mytorch.text.translation import Translation


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of two steps of each recipe."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plot, "curves", lambda history: plot.figure(1, 1))
        patch.setattr(plot, "word_attention", lambda *given, **options: plot.figure(1, 1))
        for name, train in (("attention", attention_train), ("plain", seq2seq_train)):
            found[name] = tmp_path_factory.mktemp(name)
            config = train.Config(out=str(found[name]), model="tiny", steps=2, batch_size=36, lr=0.1)
            train.main(config, splits(config))
    return found


@pytest.mark.parametrize("name", ["attention", "plain"])
def test_sentences_are_translated_by_the_best_weights(
    runs: dict[str, Path], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    translator = translate.RecurrentTranslator(Run.open(runs[name]))
    ids = torch.tensor([translator.task.source.encode("a b <unk> <eos>".split())])
    expected = " ".join(translator.task.target.decode(translator.task.translate(translator.model, ids)[0]))
    assert translate.main([str(runs[name]), "A b Z"]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"A b Z -> {expected}\n" and captured.err == "not in the vocabulary, read as <unk>: z\n"


def test_the_figure_shows_what_each_word_attended_to(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(plot, "word_attention", lambda *given: drawn.extend(given) or plot.figure(1, 1))
    monkeypatch.setattr(translate.RecurrentTranslator, "__call__", lambda translator, sentence: ["b", "c"])
    assert translate.main([str(runs["attention"]), "A b a", "--figure", str(tmp_path / "figure.png")]) == 0
    weights, rows, columns, across = drawn
    assert (rows, columns, across) == (["b", "c", "<eos>"], ["a", "b", "a", "<eos>"], 1)
    assert weights["attention"].shape == (3, 4) and (tmp_path / "figure.png").exists()
    assert translate.main([str(runs["plain"]), "A b a", "--figure", str(tmp_path / "none.png")]) == 1
    assert "a network without attention looks at nothing" in capsys.readouterr().err


def test_bleu_is_that_of_the_test_sentences_of_the_run(
    runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = translate.RecurrentTranslator(Run.open(runs["plain"])).task.target.encode("abcde")
    monkeypatch.setattr(translate, "translation", lambda config, min_count: splits(config))
    monkeypatch.setattr(Translation, "translate", lambda task, model, source: [said] * len(source))
    assert translate.main([str(runs["plain"]), "--test"]) == 0
    expected = BLEU()
    (batch,) = splits(translate.RecurrentTranslator(Run.open(runs["plain"])).config).test.batches()
    references = [[[i for i in row if i > 3]] for row in batch["target"].tolist()]
    expected.update({"hypotheses": [said] * len(references), "references": references})
    assert capsys.readouterr().out == f"BLEU of the test sentences: {100 * expected.compute():.2f}\n"


def test_runs_of_other_recipes_are_refused(runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shutil.copytree(runs["plain"], tmp_path / "other")
    write_recorded_json(read_json(folder / "config.json") | {"recipe": "RNN/LSTM"}, folder / "config.json")
    assert translate.main([str(folder), "a"]) == 1
    assert "is a run of RNN/LSTM, not of RNN/Seq2Seq, RNN/BahdanauAttention" in capsys.readouterr().err
