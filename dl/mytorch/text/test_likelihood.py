"""Bits per byte, perplexity per word and choices, by numbers worked by hand."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dl.mytorch.config import UserError
from dl.mytorch.data import Vocabulary
from dl.mytorch.text import likelihood
from dl.mytorch.text.likelihood import (
    Likelihood,
    choice_pair,
    continuation_log_probs,
    encode,
    encode_pair,
    likeliest,
    start,
    text_log_probs,
)

TEXT = "na\u00efve \u20ac5"
CHARACTERS = Vocabulary(sorted(set(TEXT + "yes\n")))
WORDS = Vocabulary(["<unk>", "<eos>", "to", "be", "or"])


class Sum(nn.Module):
    """The next token depends on the mean of all that it sees, so that a token too few or too many shows."""

    def __init__(self, max_length: int = 8, vocab_size: int = 7) -> None:
        super().__init__()
        self.max_length, self.longest = max_length, 0
        self.token_embedding = nn.Embedding(vocab_size, vocab_size, dtype=torch.float64)
        nn.init.normal_(self.token_embedding.weight, generator=torch.Generator().manual_seed(0))

    def new_cache(self) -> SimpleNamespace:
        return SimpleNamespace(seen=None)

    def forward(self, tokens: Tensor, padding_mask: None, cache: SimpleNamespace) -> Tensor:
        before = 0 if cache.seen is None else cache.seen.shape[1]
        cache.seen = tokens if cache.seen is None else torch.cat([cache.seen, tokens], 1)
        assert cache.seen.shape[1] <= self.max_length
        self.longest = max(self.longest, tokens.numel())
        sums = self.token_embedding(cache.seen).cumsum(1)
        return (sums / torch.arange(1, sums.shape[1] + 1)[:, None])[:, before:]

    def alone(self, context: list[int], token: int) -> float:
        with torch.no_grad():
            return self.token_embedding.weight[context].mean(0).log_softmax(0)[token].item()


class Uniform(Sum):
    """Finds all tokens equally likely."""

    def forward(self, tokens: Tensor, padding_mask: None, cache: SimpleNamespace) -> Tensor:
        return torch.zeros(*tokens.shape, self.token_embedding.num_embeddings)


def test_twelve_nats_over_eleven_bytes_are_1_57_bits_per_byte() -> None:
    found = Likelihood.of(TEXT, 12.0)
    assert (len(TEXT), found.num_bytes, found.num_words) == (8, 11, 2)
    assert found.bits_per_byte == pytest.approx(1.573849136, abs=1e-9)
    assert found.nats / math.log(2) / len(TEXT) == pytest.approx(2.164, abs=1e-3)  # per character
    assert found.word_perplexity() == pytest.approx(math.exp(6))


def test_a_line_s_end_is_a_word_only_if_that_is_asked_for() -> None:
    found = Likelihood.of(" to  be\n\nor\n", 6.0)
    assert found.word_perplexity() == pytest.approx(math.exp(6 / 3))
    assert found.word_perplexity(lines_count=True) == pytest.approx(math.exp(6 / 6))
    assert Likelihood.of("to", 1e6).word_perplexity() == math.inf


def test_three_rules_choose_three_answers() -> None:
    choices = ["yes", "\u00e9 n\u00e9", "certainly not"]
    assert likeliest([-3.1, -4.0, -12.0], choices) == {"acc": 0, "acc_norm": 2, "acc_bytes": 1}
    assert likeliest([-1.0, -1.0], ["a", "b"]) == {"acc": 0, "acc_norm": 0, "acc_bytes": 0}


def test_the_delimiter_is_scored_and_blanks_of_a_context_go_over() -> None:
    assert choice_pair("To be?", "yes") == ("To be?", " yes")
    assert choice_pair("To be? \n", "yes") == ("To be?", " \n yes")
    assert choice_pair("12+30=", "42", delimiter="") == ("12+30=", "42")
    model = Sum(max_length=100, vocab_size=len(CHARACTERS))
    ids = CHARACTERS.encode("5 yes")
    expected = sum(model.alone(ids[:i], ids[i]) for i in range(1, 5))  # of the blank, too
    (found,) = continuation_log_probs(model, [encode_pair(CHARACTERS, *choice_pair("5", "yes"))])
    assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("length", "stride"), [(8, 8), (8, 3), (8, 1), (100, 50), (3, 1)])
def test_each_token_of_a_long_text_is_predicted_once_after_max_length_minus_stride_others(length: int, stride: int) -> None:
    model = Sum(length)
    ids = torch.randint(7, (30,), generator=torch.Generator().manual_seed(1)).tolist()
    found = text_log_probs(model, ids, stride)
    assert len(found) == 29
    for target in range(1, 30):
        window = 0 if target <= length else -(-(target - length) // stride) * stride
        assert target - window >= min(target, length - stride + 1)
        assert found[target - 1].item() == pytest.approx(model.alone(ids[window:target], ids[target]), abs=1e-12)


def test_few_tokens_are_in_memory_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = torch.randint(7, (30,), generator=torch.Generator().manual_seed(1)).tolist()
    at_once = [text_log_probs(Sum(length), ids, 4) for length in (8, 100)]
    monkeypatch.setattr(likelihood, "AT_ONCE", 5)
    for expected, length in zip(at_once, (8, 100)):
        model = Sum(length)
        torch.testing.assert_close(text_log_probs(model, ids, 4), expected)
        assert model.longest == 5


def test_choices_of_several_lengths_are_scored_as_each_alone_and_of_a_long_context_the_end_counts() -> None:
    model, context = Sum(5), [1, 2, 3, 4, 5, 6]
    pairs = [(context, [0]), (context, [3, 2, 1, 0, 6]), ([2], [1, 1])]
    found = continuation_log_probs(model, pairs)
    for (before, new), score in zip(pairs, found):
        row = [*before, *new][-6:]
        assert score == pytest.approx(
            sum(model.alone(row[:i], row[i]) for i in range(len(row) - len(new), len(row))), abs=1e-12
        )
    with pytest.raises(UserError, match="a choice of 6 tokens is longer than the 5"):
        continuation_log_probs(model, [(context, context)])


def test_characters_and_words_are_encoded_as_their_vocabulary_has_them() -> None:
    assert encode(CHARACTERS, TEXT) == CHARACTERS.encode(TEXT)
    assert WORDS.decode(encode(WORDS, " to  be\n\nor <unk>")) == ["to", "be", "<eos>", "<eos>", "or", "<unk>"]
    assert likelihood.plain(WORDS, " to  be\n\nor") == "to be\n\nor" and likelihood.plain(CHARACTERS, " a  b") == " a  b"
    with pytest.raises(UserError, match="'not' is no token of the model"):  # "<unk>" would be likely for every rare word
        encode(WORDS, "to not be")
    with pytest.raises(UserError, match="'x' is no token"):
        encode(CHARACTERS, "x")


def test_a_text_is_read_after_a_line_s_end() -> None:
    assert start(CHARACTERS) == [CHARACTERS["\n"]] and start(WORDS) == [WORDS["<eos>"]] and start(Vocabulary("ab")) == [0]
    assert encode_pair(CHARACTERS, *choice_pair("", "5")) == ([CHARACTERS["\n"]], CHARACTERS.encode(" 5"))


def test_a_choice_has_the_tokens_that_it_has_in_the_whole_text() -> None:
    pieces: Any = SimpleNamespace(encode=lambda text: [len(part) for part in text.replace("a b", "ab").split()])
    assert encode_pair(pieces, "x", " y") == ([1], [1])
    with pytest.raises(UserError, match="' b' has no token after its context"):
        encode_pair(pieces, "a", " b")


@pytest.mark.parametrize(("tokens", "count"), [(CHARACTERS, 8), (WORDS, 5)])
def test_all_tokens_count_and_the_bytes_of_the_text_divide(tokens: Vocabulary, count: int) -> None:
    text = TEXT if tokens is CHARACTERS else "to be\nor be"
    model = Uniform(4, len(tokens))
    nats = -text_log_probs(model, start(tokens) + encode(tokens, text), 2).sum().item()
    assert nats == pytest.approx(count * math.log(len(tokens)))
    assert Likelihood.of(text, nats).bits_per_byte == pytest.approx(count * math.log2(len(tokens)) / len(text.encode()))
