"""Sentence pairs and masks: by hand, and by their frequencies."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from dl.modules.Transformers.BERT import data, train
from dl.modules.Transformers.BERT.data import CLS, MASK, RESERVED, SEP, Paragraph, Sentences, draw, join, mask, pair_splits
from dl.modules.Transformers.BERT.testing import paragraphs
from dl.mytorch import TrainConfig, testing
from dl.mytorch.config import UserError
from dl.mytorch.data import Batch, Loader, Vocabulary
from dl.mytorch.data.sequences import IGNORED
from dl.mytorch.data.text.vocabulary import PADDING, UNKNOWN

CONFIG = TrainConfig(out="unused", data="made up", batch_size=8)


def vocabulary_of(text: list[Paragraph]) -> Vocabulary:
    return Vocabulary.build((word for paragraph in text for sentence in paragraph for word in sentence), RESERVED)


def words_of(row: Tensor, vocabulary: Vocabulary) -> str:
    return " ".join(vocabulary.decode(row))


# ---- pairs ---------------------------------------------------------------------------------------------------------


TEXT = [["a b c d".split(), "e f".split(), ["g"]], ["h i j k l m n".split(), "o p q r s t".split()]]
LETTERS = vocabulary_of(TEXT)


def test_pairs_are_framed_and_filled_up_as_in_figure_2() -> None:
    text = Sentences.of(TEXT, LETTERS, length=12)
    assert text.followed.tolist() == [0, 1, 3] and text.lengths.tolist() == [4, 2, 1, 7, 6]
    tokens, segments = join(text, torch.tensor([0, 1, 2]), torch.tensor([1, 2, 0]), LETTERS, 12)
    assert [words_of(row, LETTERS) for row in tokens] == [
        "<cls> a b c d <sep> e f <sep> <pad> <pad> <pad>",
        "<cls> e f <sep> g <sep> <pad> <pad> <pad> <pad> <pad> <pad>",
        "<cls> g <sep> a b c d <sep> <pad> <pad> <pad> <pad>",
    ]
    assert segments.tolist() == [[0] * 6 + [1] * 3 + [0] * 3, [0] * 4 + [1] * 2 + [0] * 6, [0] * 3 + [1] * 5 + [0] * 4]


@pytest.mark.parametrize(
    ("length", "first", "second", "expected"),
    [
        (12, 3, 4, "<cls> h i j k l <sep> o p q r <sep>"),  # both are long
        (12, 3, 1, "<cls> h i j k l m n <sep> e f <sep>"),  # fits just so
        (11, 3, 1, "<cls> h i j k l m <sep> e f <sep>"),  # the longer one is cut, first or second
        (11, 1, 3, "<cls> e f <sep> h i j k l m <sep>"),
        (8, 0, 4, "<cls> a b c <sep> o p <sep>"),
        (5, 3, 3, "<cls> h <sep> h <sep>"),
    ],
)
def test_what_does_not_fit_is_cut_off_the_longer_sentence(length: int, first: int, second: int, expected: str) -> None:
    text = Sentences.of(TEXT, LETTERS, length)
    tokens, segments = join(text, torch.tensor([first]), torch.tensor([second]), LETTERS, length)
    assert words_of(tokens[0], LETTERS) == expected
    assert segments[0].tolist() == [0] * (expected.split().index("<sep>") + 1) + [1] * (
        length - expected.split().index("<sep>") - 1
    )


def test_half_of_the_second_sentences_are_the_next_ones_and_labels_say_which(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = []

    def noted(text: Sentences, first: Tensor, second: Tensor, *rest: object) -> tuple[Tensor, Tensor]:
        pairs.append((first, second))
        return join(text, first, second, *rest)

    monkeypatch.setattr(data, "join", noted)
    text = Sentences.of(paragraphs(count=300), vocabulary_of(paragraphs(count=300)), 16)
    first = text.followed.repeat(10)
    batch = draw({"first": first}, torch.Generator().manual_seed(0), text, vocabulary_of(paragraphs(count=300)), 16)
    ((_, second),) = pairs
    labels = batch["labels"]
    assert labels.float().mean().item() == pytest.approx(0.5, abs=0.02)
    assert (second == first + 1)[labels == 0].all()
    others = second[labels == 1]
    assert (others == first[labels == 1] + 1).float().mean() < 0.01
    assert len(others.unique()) > 0.95 * len(text.ids)  # any sentence of the text, the last of a paragraph too
    assert (others.float().mean() / len(text.ids)).item() == pytest.approx(0.5, abs=0.02)


def test_spans_are_whole_sentences_of_half_a_row_and_get_their_full_stops_back() -> None:
    text = ["a b".split(), "c d .".split(), ["e"], "f g h i".split(), ["j"]]
    assert [" ".join(span) for span in data.merged(text, 6)] == ["a b . c d .", "e . f g h i ."]
    assert [" ".join(span) for span in data.merged(text, 2)] == ["a b .", "c d .", "e .", "f g h i .", "j ."]
    assert data.merged(text, 99) == []


# ---- masks ---------------------------------------------------------------------------------------------------------


MANY = Vocabulary([*RESERVED, *(f"w{i}" for i in range(1000))])


def rows(count: int, length: int, seed: int = 0) -> Tensor:
    """Pairs of random words, of 5 to `length` tokens."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(len(RESERVED), len(MANY), (count, length), generator=generator)
    ends = torch.randint(4, length, (count, 1), generator=generator)
    places = torch.arange(length)
    tokens[(places == ends) | (places == ends // 2)] = MANY[SEP]
    tokens[:, 0] = MANY[CLS]
    return tokens.masked_fill(places > ends, MANY[PADDING])


def test_masks_follow_the_80_10_10_rule() -> None:
    tokens = rows(4000, 64)
    masked = mask(tokens, torch.Generator().manual_seed(0), MANY)
    chosen = masked["targets"] != IGNORED
    old, new = (x.gather(1, masked["positions"])[chosen] for x in (tokens, masked["tokens"]))
    assert torch.equal(old, masked["targets"][chosen])
    is_mask, same = new == MANY[MASK], new == old
    other = new[~is_mask & ~same]
    for share, expected in [(is_mask, 0.8), (same, 0.1), (~is_mask & ~same, 0.1)]:
        assert share.double().mean().item() == pytest.approx(expected, abs=0.01)
    assert other.min() >= len(RESERVED) and len(other.unique()) > 700  # random words, no reserved tokens
    lengths = (tokens != MANY[PADDING]).sum(1)
    assert chosen.sum(1).tolist() == [max(1, round(0.15 * n)) for n in lengths.tolist()]
    assert chosen.sum().item() / lengths.sum().item() == pytest.approx(0.15, abs=0.01)


def test_only_words_are_masked_and_all_else_stays() -> None:
    tokens = rows(500, 16)
    masked = mask(tokens, torch.Generator().manual_seed(0), MANY)
    targets = torch.full_like(tokens, IGNORED).scatter(1, masked["positions"], masked["targets"])
    assert not torch.isin(targets, torch.tensor([MANY[token] for token in (PADDING, CLS, SEP)])).any()
    assert torch.equal(masked["tokens"][targets == IGNORED], tokens[targets == IGNORED])
    assert all(len(set(places)) == len(places) for places in masked["positions"].tolist())


def test_every_place_is_masked_equally_often() -> None:
    tokens = rows(1, 12).expand(20_000, -1).clone()
    tokens[:] = torch.tensor([MANY[CLS], *range(10, 14), MANY[SEP], *range(20, 25), MANY[SEP]])
    masked = mask(tokens, torch.Generator().manual_seed(0), MANY)
    places = masked["positions"][masked["targets"] != IGNORED].bincount(minlength=12) / len(tokens)
    for place, share in enumerate(places.tolist()):
        assert share == (0 if place in (0, 5, 11) else pytest.approx(2 / 9, abs=0.015))


# ---- splits --------------------------------------------------------------------------------------------------------


def epoch(loader: Loader, number: int) -> list[Batch]:
    return list(loader.batches(number))


def test_each_epoch_draws_other_pairs_and_masks_and_each_again_the_same() -> None:
    made = pair_splits([paragraphs(i) for i in range(3)], CONFIG, length=16)
    again = pair_splits([paragraphs(i) for i in range(3)], CONFIG, length=16)
    testing.assert_same_state(epoch(made.train, 1), epoch(again.train, 1), "epoch 1")
    with pytest.raises(AssertionError):
        testing.assert_same_state(epoch(made.train, 0), epoch(made.train, 1), "epochs")
    assert len({len(batch["tokens"]) for batch in epoch(made.train, 0)}) == 2  # the last is short


def test_validation_and_test_are_fixed_whatever_the_seed() -> None:
    made, other = (
        pair_splits([paragraphs(i) for i in range(3)], TrainConfig("unused", "made up", seed=seed), length=16)
        for seed in (0, 7)
    )
    for split in ("val", "test"):
        loader = getattr(made, split)
        testing.assert_same_state(epoch(loader, 0), epoch(loader, 3), split)
        testing.assert_same_state(epoch(loader, 0), epoch(getattr(other, split), 0), split)
    with pytest.raises(AssertionError):
        testing.assert_same_state(epoch(made.train, 0), epoch(other.train, 0), "train")


def test_the_vocabulary_is_that_of_the_training_text() -> None:
    unseen = [[["w00", "elsewhere"], ["w01", "w02"]]]
    made = pair_splits([paragraphs(), unseen, paragraphs(1)], CONFIG, length=16)
    vocabulary = made.vocabularies["tokens"]
    assert vocabulary.tokens[:5] == (PADDING, UNKNOWN, CLS, SEP, MASK) and vocabulary[PADDING] == 0
    assert sorted(vocabulary.tokens[5:]) == [f"w{i:02}" for i in range(20)]
    (batch,) = epoch(made.val, 0)
    tokens, positions, targets = (batch[name] for name in ("tokens", "positions", "targets"))
    original = tokens.scatter(1, positions, torch.where(targets == IGNORED, tokens.gather(1, positions), targets))
    assert words_of(original[0], vocabulary).startswith("<cls> w00 <unk> <sep>")


def test_empty_sentences_are_left_out_and_text_without_pairs_is_refused() -> None:
    with_empty = [[[], ["a", "b"], [], ["c"]], [["d"], []]]
    made = pair_splits([with_empty] * 3, CONFIG, length=8)
    assert made.train.num_examples == 1 and made.vocabularies["tokens"].tokens[5:] == ("a", "b", "c", "d")
    with pytest.raises(UserError, match="without a paragraph of two sentences"):
        pair_splits([paragraphs(), [[["a", "b"]]], paragraphs()], CONFIG)


def test_spans_of_wikitext_reach_over_paragraphs_but_not_over_articles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dl.mytorch.data.sources.DATA", tmp_path)
    (tmp_path / "wikitext-2").mkdir()
    text = " \n = One = \n \n A b . C d . \n = = Part = = \n E f . \n \n = Two = \n \n G h . I j . \n"
    for split in ("train", "valid", "test"):
        (tmp_path / "wikitext-2" / f"wiki.{split}.tokens").write_text(text, encoding="utf-8")
    for spans, pairs in ((False, 2), (True, 3)):  # of spans two in One, one in Two
        made = data.wikitext2_pairs(train.Config(), length=9, min_count=1, spans=spans)
        assert [loader.num_examples for loader in made] == [pairs] * 3
        assert sorted(made.vocabularies["tokens"].tokens[5:]) == [".", *"abcdefghij"]


def test_another_data_set_is_refused() -> None:
    with pytest.raises(UserError, match="--data made up"):
        data.wikitext2_pairs(CONFIG)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "wiki.train.tokens is empty"),
        (b" = A = \n\n one . two \xff . \n", r"wiki.train.tokens is not UTF-8: byte 20 \(line 3\) is 0xff"),
        (b" \n = A = \n \n one sentence alone \n", "without a paragraph of two sentences"),
        (b" \n = A = \n \n one . two . \n", "every word of the training text is <unk>: none is there 5 times"),
    ],
)
def test_damaged_texts_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, message: str) -> None:
    monkeypatch.setattr("dl.mytorch.data.sources.DATA", tmp_path)
    (tmp_path / "wikitext-2").mkdir()
    for split in ("train", "valid", "test"):
        text = content if split == "train" else b" \n = A = \n \n one . two . \n"
        (tmp_path / "wikitext-2" / f"wiki.{split}.tokens").write_bytes(text)
    with pytest.raises(UserError, match=message):
        data.wikitext2_pairs(train.Config())
