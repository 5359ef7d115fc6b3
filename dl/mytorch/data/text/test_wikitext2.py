"""Articles, paragraphs and sentences of WikiText-2, from a file of its layout; its published counts where it is at hand."""

from pathlib import Path

import pytest
import torch

from dl.mytorch import TrainConfig
from dl.mytorch.config import UserError
from dl.mytorch.data import sources, wikitext2
from dl.mytorch.data.sequences import IGNORED
from dl.mytorch.data.text.wikitext2 import documents, lines, sentences, text, words

TRAIN = """
 = First <unk> =

 One two . Three four .
 The end .

 = = A part = =

 = = = A part of it = = =

 Five . Six
 = Played , W =

 = Second =

 Seven .

""".replace("\n", " \n")  # a space ends each line of the published files


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three small files in the place of the real ones."""
    folder = tmp_path / "wikitext-2"
    folder.mkdir()
    texts = {"train": TRAIN, "valid": " \n = V = \n \n One new . \n", "test": " \n = T = \n \n Seven <unk> . \n"}
    for split, content in texts.items():
        (folder / f"wiki.{split}.tokens").write_text(content, encoding="utf-8")
    monkeypatch.setattr(sources, "DATA", tmp_path)
    return folder


def config() -> TrainConfig:
    return TrainConfig(out="unused", data="wikitext2", batch_size=4)


def test_articles_hold_paragraphs_without_titles_and_headings(small: Path) -> None:
    # " = Played , W = " has the looks of a title, but no blank lines around it: a table's legend.
    expected = [["One two . Three four .", "The end .", "Five . Six", "= Played , W ="], ["Seven ."]]
    assert documents(lines("train")) == expected


def test_text_before_the_first_title_is_an_article_too() -> None:
    assert documents([" a ", " = T = "]) == [["a", "= T ="]]
    assert documents(["", " "]) == []


def test_sentences_are_cut_as_in_the_book() -> None:
    assert sentences(" One two . Three four . ") == ["One two", "Three four ."]
    assert sentences("The end .") == ["The end ."] and sentences("3 . 5 . 7") == ["3", "5", "7"]


def test_each_line_ends_with_a_token_of_its_own(small: Path) -> None:
    assert words("valid") == "<eos> = V = <eos> <eos> One new . <eos>".split()


def test_the_text_has_one_blank_for_each_word(small: Path) -> None:
    assert text("valid") == "\n = V =\n\n One new .\n"
    for split in ("train", "valid", "test"):
        assert len([blank for blank in text(split) if blank in " \n"]) == len(words(split))


def test_one_vocabulary_is_shared_by_all_splits(small: Path) -> None:
    data = wikitext2(config(), length=5)
    vocabulary = data.vocabularies["tokens"]
    assert set(vocabulary.tokens) == set(words("train"))
    decoded = []
    for loader in (data.val, data.test):
        targets = torch.cat([batch["targets"].flatten() for batch in loader.batches()])
        decoded.append(" ".join(vocabulary.decode(targets[targets != IGNORED])))
    assert decoded == ["= <unk> = <eos> <eos> One <unk> . <eos>", "= <unk> = <eos> <eos> Seven <unk> . <eos>"]


def test_training_blocks_are_shuffled_and_each_comes_once(small: Path) -> None:
    data = wikitext2(config(), length=3)
    rows = torch.cat([batch["tokens"] for batch in data.train.batches()])
    expected = data.train.dataset["tokens"]
    assert not torch.equal(rows, expected) and sorted(rows.tolist()) == sorted(expected.tolist())


def test_another_name_and_a_missing_file_are_refused(small: Path) -> None:
    with pytest.raises(UserError, match="--data ptb: "):
        wikitext2(TrainConfig(out="unused", data="ptb"))
    (small / "wiki.test.tokens").unlink()
    with pytest.raises(UserError, match="wiki.test.tokens does not exist.*load_dataset"):
        wikitext2(config())


@pytest.mark.slow
def test_published_counts_hold() -> None:
    if not (sources.DATA / "wikitext-2" / "wiki.train.tokens").exists():
        pytest.skip("WikiText-2 is not in data/wikitext-2")
    streams = {split: words(split) for split in ("train", "valid", "test")}
    assert {split: len(stream) for split, stream in streams.items()} == {"train": 2_088_628, "valid": 217_646, "test": 245_569}
    assert len(set(streams["train"])) == 33_278 and set(streams["valid"]) | set(streams["test"]) <= set(streams["train"])
    assert [len(documents(lines(split))) for split in streams] == [600, 60, 60]
