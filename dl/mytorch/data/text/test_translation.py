"""Pairs of sentences: read strictly, split without leaks, in batches that hardly hold padding."""

import gzip
import re
from pathlib import Path

import pytest
import torch

from dl.mytorch import TrainConfig
from dl.mytorch.config import UserError
from dl.mytorch.data import Batch, Loader, Vocabulary, sources, translation
from dl.mytorch.data.text.translation import (
    SOURCES,
    PairSplits,
    book_pairs,
    read_aligned,
    read_pairs,
    sentence_pairs,
    split_pairs,
    token_splits,
    tokenize,
)

PAIRS = [
    ("A dog!", "Un chien\u202f!"),
    ("A cat.", "Un chat."),
    ("Go, dog.", "Va, chien."),
    ("A dog!", "Le chien !"),
    ("Go.", "Va\xa0!"),
]


def config(**changes: object) -> TrainConfig:
    return TrainConfig(**({"out": "unused", "data": "fra-eng-sample", "batch_size": 16} | changes))


def decoded(batch: Batch, name: str, vocabulary: Vocabulary) -> list[str]:
    return [" ".join(vocabulary.decode(row)) for row in batch[name]]


@pytest.mark.parametrize(
    ("sentence", "tokens"),
    [
        ("Go.", "go ."),
        ("Va\u202f!", "va !"),
        ("Qui\xa0?", "qui ?"),
        ("He's calm,  or not?!", "he's calm , or not ? !"),
        ("Well... 3.5 km", "well . . . 3 .5 km"),  # as the book has it
        ("\u00c9l\u00e8ve -- here", "\u00e9l\u00e8ve -- here"),
    ],
)
def test_sentences_are_cut_as_in_the_book(sentence: str, tokens: str) -> None:
    assert tokenize(sentence) == tokens.split(" ")


def test_pairs_are_read_from_lines_with_a_tab_further_columns_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Go.\tVa !\nHi.\tSalut !\tCC-BY 2.0 (France)\n", encoding="utf-8")
    assert read_pairs(tmp_path / "a.txt") == [("Go.", "Va !"), ("Hi.", "Salut !")]


@pytest.mark.parametrize("line", ["no tab", "only a source\t", "\tonly a target", "", "  \t "])
def test_a_line_that_is_no_pair_is_refused_by_its_number(line: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(f"Go.\tVa !\n{line}\nHi.\tSalut !\n", encoding="utf-8")
    with pytest.raises(UserError, match=rf"a.txt, line 2: {re.escape(repr(line))} is not a sentence, a tab"):
        read_pairs(tmp_path / "a.txt")


def test_own_pairs_are_a_csv_or_lines_with_tabs_with_or_without_a_heading(tmp_path: Path) -> None:
    rows = [("A dog, a cat.", 'Un "chien".'), ("Two\nlines.", "Deux\nlignes."), ("Go.", "Va !"), ("Hi.", "Salut !")]
    (tmp_path / "a.csv").write_text(
        'source,target,by\n"A dog, a cat.","Un ""chien"".",me\n"Two\nlines.","Deux\nlignes."\nGo.,Va !\r\nHi.,Salut !',
        encoding="utf-8",
    )
    assert read_pairs(tmp_path / "a.csv") == rows
    (tmp_path / "a.tsv").write_text('Source\tTarget\n"Go\t"Va\nHi\tSalut\nNo\tNon\n', encoding="utf-8")
    assert read_pairs(tmp_path / "a.tsv") == [('"Go', '"Va'), ("Hi", "Salut"), ("No", "Non")]  # a quote is a sign there
    found = sentence_pairs(f"pairs:{tmp_path / 'a.csv'}", seed=1)
    assert sorted(pair for part in found for pair in part) == sorted(rows) and all(found)


@pytest.mark.parametrize(
    ("text", "wrong"), [("a,b\nc\n", "line 2: 'c' is not a sentence, a comma"), ('a,b\n"c,d\n', "line 2: unexpected")]
)
def test_a_csv_that_is_none_is_refused_by_its_line(text: str, wrong: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=f"a.csv, {wrong}"):
        read_pairs(tmp_path / "a.csv")


def test_files_of_different_lengths_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.de").write_text("eins\nzwei\n", encoding="utf-8")
    (tmp_path / "a.en").write_text("one\n", encoding="utf-8")
    with pytest.raises(UserError, match="a.de has 2 lines, .*a.en has 1"):
        read_aligned(tmp_path / "a.de", tmp_path / "a.en")
    (tmp_path / "a.en").write_text("one\n \n", encoding="utf-8")
    with pytest.raises(UserError, match="line 2 of .*a.de or of .*a.en is empty"):
        read_aligned(tmp_path / "a.de", tmp_path / "a.en")


def test_another_name_and_a_missing_file_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="--data latin: .* fra-eng, fra-eng-sample, multi30k"):
        translation(config(data="latin"))
    monkeypatch.setattr(sources, "DATA", tmp_path)
    with pytest.raises(UserError, match="fra.txt does not exist. What helps: git checkout"):
        translation(config())


def test_multi30k_is_german_to_english_in_its_published_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "multi30k").mkdir()
    for name in SOURCES["multi30k"].files:
        (tmp_path / "multi30k" / name).write_bytes(gzip.compress(f"one of {name}\ntwo\n".encode()))
    monkeypatch.setattr(sources, "DATA", tmp_path)
    data = sentence_pairs("multi30k")
    assert data.train == [("one of train.de.gz", "one of train.en.gz"), ("two", "two")]
    assert [part[0][1] for part in data[1:]] == ["one of val.en.gz", "one of test_2016_flickr.en.gz"]


def test_no_source_sentence_is_in_two_parts_and_no_pair_is_lost() -> None:
    pairs = [(f"source {i % 70}", f"target {i}") for i in range(100)]
    parts = split_pairs(pairs)
    sources = [{source for source, _ in part} for part in parts]
    assert sorted(sum(parts, [])) == sorted(pairs)
    assert not sources[0] & sources[1] and not sources[0] & sources[2] and not sources[1] & sources[2]
    assert [len(part) for part in sources] == [64, 3, 3]


def test_the_book_trains_on_the_first_pairs_and_tests_with_four_sentences() -> None:
    pairs = [(f"source {i}", f"target {i}") for i in range(700)]
    train, val, test = book_pairs(pairs)
    assert train == pairs[:600] and val == pairs[600:640]
    assert [" ".join(tokenize(source)) for source, _ in test] == ["go .", "i lost .", "he's calm .", "i'm home ."]
    assert [" ".join(tokenize(target)) for _, target in test] == [
        "va !",
        "j'ai perdu .",
        "il est calme .",
        "je suis chez moi .",
    ]


def test_files_of_too_few_pairs_are_refused_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "DATA", tmp_path)
    (tmp_path / "fra-eng").mkdir()
    path = tmp_path / "fra-eng" / "fra.txt"
    for content, message in (
        ("Go.\tVa !\n", "1 different source sentences are too few to train, to validate and to test: 3 at least"),
        ("Go.\tVa !\nHi.\tSalut !\nHi.\tBonjour !\n", "2 different source sentences are too few"),
        ("Go.\tVa !\n\n", "fra.txt, line 2: '' is not a sentence, a tab"),
        ("", "fra.txt is empty"),
    ):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(UserError, match=message):
            translation(config(data="fra-eng"))
    path.write_text("Go.\tVa !\nHi.\tSalut !\nRun.\tCours !\n", encoding="utf-8")
    assert [part.num_examples for part in translation(config(data="fra-eng"), min_count=1)] == [1, 1, 1]
    with pytest.raises(UserError, match="3 pairs are too few for the book's split"):
        translation(config(data="fra-eng-d2l"))


def test_the_split_is_the_seed_s() -> None:
    pairs = [(str(i), str(i)) for i in range(100)]
    assert split_pairs(pairs, 1) == split_pairs(pairs, 1) != split_pairs(pairs, 2)


def test_batches_hold_words_between_begin_and_end_then_padding() -> None:
    data = token_splits(config(), PairSplits(PAIRS, PAIRS[:1], PAIRS[:1]), min_count=1)
    source, target = data.vocabularies["source"], data.vocabularies["target"]
    (batch,) = data.train.batches()
    rows = dict(zip(decoded(batch, "source", source), decoded(batch, "target", target)))
    assert rows["go . <eos> <pad> <pad>"] == "<bos> va ! <eos> <pad> <pad>"
    assert rows["go , dog . <eos>"] == "<bos> va , chien . <eos>"
    assert source.tokens[:4] == target.tokens[:4] == ("<pad>", "<unk>", "<bos>", "<eos>")
    assert batch["source"].dtype == torch.int64


def test_the_vocabularies_are_of_the_training_pairs() -> None:
    data = token_splits(config(), PairSplits(PAIRS[:2], PAIRS[2:3], PAIRS[4:]), min_count=1)
    source, target = data.vocabularies["source"], data.vocabularies["target"]
    assert sorted(source.tokens[4:]) == ["!", ".", "a", "cat", "dog"] and "va" not in target
    (batch,) = data.val.batches()
    assert decoded(batch, "source", source) == ["<unk> <unk> dog . <eos>"]
    assert decoded(batch, "target", target) == ["<bos> <unk> <unk> chien . <eos>"]


def test_rare_words_are_unknown_and_a_shared_vocabulary_counts_both_sides() -> None:
    pairs = PairSplits([("a b", "b c"), ("a", "c d")], PAIRS, PAIRS)
    apart, together = (token_splits(config(), pairs, min_count=2, shared=shared).vocabularies for shared in (False, True))
    assert apart["source"].tokens[4:] == ("a",) and apart["target"].tokens[4:] == ("c",)
    assert together["source"] == together["target"] and together["source"].tokens[4:] == ("a", "b", "c")


@pytest.fixture(scope="module")
def sample() -> tuple[PairSplits, Loader]:
    pairs = sentence_pairs("fra-eng-sample")
    return pairs, token_splits(config(), pairs).train


def test_the_bundled_sample_holds_the_sentences_of_the_book(sample: tuple[PairSplits, Loader]) -> None:
    pairs = [pair for part in sample[0] for pair in part]
    assert len(pairs) == 1024 and [len(part) for part in sample[0]] == [len(p) for p in sentence_pairs("fra-eng-sample")]
    for english in ("Go.", "I lost.", "I'm home."):  # the fourth, "He's calm.", is for the model to find out
        assert any(source == english for source, _ in pairs)
    assert [pair[0] for pair in read_pairs(sources.DATA / "fra-eng-sample" / "fra.txt")[:2]] == ["Go.", "Hi."]


def test_sentences_of_a_length_share_a_batch(sample: tuple[PairSplits, Loader]) -> None:
    def padding(loader: Loader) -> float:
        tensors = [tensor for batch in loader.batches() for tensor in batch.values()]
        return sum((tensor == 0).sum().item() for tensor in tensors) / sum(tensor.numel() for tensor in tensors)

    by_length = sample[1]
    by_chance = Loader(by_length.dataset, 16, shuffle=True, collate=by_length.collate)
    assert padding(by_chance) > 0.45 and padding(by_length) < 0.09


@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_validation_and_test_come_longest_first_and_complete_in_every_epoch(epoch: int) -> None:
    data = token_splits(config(batch_size=2), PairSplits(PAIRS, PAIRS, PAIRS), min_count=1)
    for loader in (data.val, data.test):
        assert [(batch["source"] != 0).sum(1).tolist() for batch in loader.batches(epoch)] == [[5, 4], [4, 4], [3]]
        words = [row for batch in loader.batches(epoch) for row in decoded(batch, "source", data.vocabularies["source"])]
        assert [row.split()[1] for row in words] == [",", "dog", "cat", "dog", "."]  # equals in their order
