"""translate: a run's words for new sentences, a figure of what it attended to, and every kind of folder and sentence."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from dl.cli.runs import Run
from dl.modules.Transformers.Transformer import train, translate
from dl.modules.Transformers.Transformer.model import build
from dl.modules.Transformers.Transformer.testing import splits
from dl.mytorch import load_weights, plot
from dl.mytorch.checkpoint import load, save
from dl.mytorch.data import Vocabulary
from dl.mytorch.files import read_json
from dl.mytorch.testing.runs import forget
from dl.mytorch.text.decoding import beam_search, greedy_search
from dl.mytorch.text.metrics import BLEU
from dl.mytorch.text.testing import BEGIN, END
from dl.mytorch.text.translation import Translation

SENTENCES = ("A b.", "f  e d c b G")  # of which the source's vocabulary lacks "." and "g", and the target's "."


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one step, with a vocabulary for each language; its network is made to say sentences that vary."""
    out = tmp_path_factory.mktemp("run")
    config = train.Config(out=str(out), model="tiny", steps=1, shared=False, lr=3.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plot, "curves", lambda history: plot.figure(1, 1))
        train.main(config, splits(config, shared=False))
    weights = load(out / "best.pt")
    torch.manual_seed(4)
    for name in weights:
        if "decoder" in name and "fc2.weight" in name:
            weights[name].normal_(std=3.0)
    save(weights, out / "best.pt")
    return out


def test_sentences_are_translated_by_the_best_weights_and_the_search_that_is_asked_for(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = (Vocabulary.load(run / f"vocabulary-{name}.json") for name in ("source", "target"))
    model = load_weights(build("tiny", vocabulary_size=len(target), source_vocabulary_size=len(source)), run / "best.pt").eval()
    rows = [torch.tensor([[*source.encode(words.split()), END]]) for words in ("a b .", "f e d c b g")]
    searches = {"1": greedy_search, "3": lambda *args, **options: beam_search(*args, **options, num_beams=3)}
    found = {}
    for beams, search in searches.items():
        expected = [" ".join(target.decode(search(model, row, bos_id=BEGIN, eos_id=END)[0])) for row in rows]
        assert translate.main([str(run), "--num-beams", beams, *SENTENCES]) == 0
        captured = capsys.readouterr()
        assert captured.out.splitlines() == [f"{sentence} -> {words}" for sentence, words in zip(SENTENCES, expected)]
        assert captured.err == "".join(f"not in the vocabulary, read as <unk>: {word}\n" for word in ".g")
        found[beams] = expected
    assert found["1"] != found["3"]


def test_signs_are_no_words_of_a_sentence(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As one of padding, say, nothing would attend to it."""
    translator = translate.Translator(Run.open(run))
    assert torch.equal(translator.encode("<pad> a <bos> <eos>"), translator.encode("x a x x"))
    assert translate.main([str(run), "<pad>"]) == 0
    assert capsys.readouterr().err == "not in the vocabulary, read as <unk>: <pad>\n"


def test_the_figure_shows_what_each_word_attended_to(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn: list[Any] = []
    word_attention = plot.word_attention
    monkeypatch.setattr(plot, "word_attention", lambda *given: drawn.extend(given) or word_attention(*given))
    monkeypatch.setattr(translate.Translator, "__call__", lambda translator, sentence: ["b", "c"])
    assert translate.main([str(run), "A b.", "--figure", str(tmp_path / "figure.png")]) == 0
    weights, rows, columns, _ = drawn
    assert (rows, columns) == (["b", "c", "<eos>"], ["a", "b", ".", "<eos>"]) and list(weights) == ["mean", "head 1", "head 2"]
    torch.testing.assert_close(weights["mean"], (weights["head 1"] + weights["head 2"]) / 2)
    torch.testing.assert_close(weights["head 1"].sum(1), torch.ones(3))
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert translate.main([str(run), "A b.", "--figure", str(tmp_path / "figure.foo")]) == 1
    assert "Format 'foo' is not supported" in capsys.readouterr().err


def test_bleu_is_that_of_the_test_sentences_of_the_run(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = Vocabulary.load(run / "vocabulary-target.json").encode("abcde")
    monkeypatch.setattr(translate, "translation", lambda config, min_count, shared: splits(config, shared))
    monkeypatch.setattr(Translation, "translate", lambda task, model, source: [said] * len(source))
    assert translate.main([str(run), "--test"]) == 0
    (batch,) = splits(train.Config(), shared=False).test.batches()
    expected = BLEU()
    references = [[[i for i in row if i > END]] for row in batch["target"].tolist()]
    expected.update({"hypotheses": [said] * len(references), "references": references})
    assert capsys.readouterr().out == f"BLEU of the test sentences: {100 * expected.compute():.2f}\n" and expected.compute() > 0
    monkeypatch.setattr(translate, "translation", lambda config, *_: splits(config))
    assert "vocabulary-source.json is another vocabulary: 10 tokens there, 11 here" in refused(capsys, run, "--test")


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """The one line with which `translate` ends."""
    assert translate.main([str(argument) for argument in arguments]) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("error: ") and captured.err.count("\n") == 1
    return captured.err


def test_sentences_that_cannot_be_translated_are_refused_in_one_line(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "a sentence without words" in refused(capsys, run, " \t")
    assert "'a a a a a'... has 512 words; the network has 511 places" in refused(capsys, run, "a " * 512)
    assert translate.Translator(Run.open(run)).encode("a " * 511).shape == (1, 512)
    assert "'a\\udcff' is not UTF-8" in refused(capsys, run, b"a\xff".decode(errors="surrogateescape"))
    for arguments in ([], ["--figure", "a.png", "--test"], ["a", "--num-beams", "0"], ["a", "--num-beams", "1000000000"]):
        with pytest.raises(SystemExit):
            translate.main([str(run), *arguments])
        assert capsys.readouterr().err.count("\n") == 1


def test_folders_that_hold_no_whole_run_are_refused_in_one_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def damaged(name: str, content: bytes, recorded: bool = False) -> str:
        folder = shutil.copytree(run, tmp_path / str(len(list(tmp_path.iterdir()))))
        (folder / name).write_bytes(content)
        if not recorded:
            forget(folder / name)
        return refused(capsys, folder, "a")

    assert "no best.pt; `python -m dl.modules.Transformers.Transformer.train` makes one" in refused(capsys, tmp_path, "a")
    assert f"{run / 'best.pt'} is a file; the folder of a run is asked for, say {run}" in refused(capsys, run / "best.pt", "a")
    assert "vocabulary-source.json is damaged" in damaged("vocabulary-source.json", b'["\xff"]')
    assert "vocabulary-target.json is damaged" in damaged("vocabulary-target.json", b"")
    assert "best.pt is damaged" in damaged("best.pt", (run / "best.pt").read_bytes()[:3000])
    other = (run / "vocabulary-target.json").read_bytes()  # of another checkpoint, by its size
    assert "vocabulary-source.json was changed since it was written" in damaged("vocabulary-source.json", other, recorded=True)
    assert "it has source_embedding.weight of shape (10, 8), the model's is (11, 8)" in damaged("vocabulary-source.json", other)
    described = read_json(run / "config.json") | {"recipe": "CNN/LeNet"}
    assert "is a run of CNN/LeNet, not of" in damaged("config.json", json.dumps(described).encode())
