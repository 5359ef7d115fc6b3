"""Greedy and beam search against plain ones, with a cache and without, on a small model that remembers all its words."""

import itertools
import math
import re
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dl.mytorch.text.decoding import beam_search, greedy_search
from dl.mytorch.text.testing import BEGIN, END, LENGTHS, Summing, sources, talkative

IDS = {"bos_id": BEGIN, "eos_id": END}


def plain_beam_search(model: Summing, source: Tensor, max_new_tokens: int, num_beams: int, length_penalty: float) -> list[int]:
    """The same search for one source (S,), with lists of (tokens, log-probability)."""

    def score(hypothesis: tuple[list[int], float]) -> float:
        return hypothesis[1] / ((5 + len(hypothesis[0])) / 6) ** length_penalty

    def ended(tokens: list[int]) -> bool:
        return tokens[-1:] == [END] or len(tokens) == max_new_tokens

    beam: list[tuple[list[int], float]] = [([], 0.0)]
    while not all(ended(tokens) for tokens, _ in beam):
        following = [hypothesis for hypothesis in beam if ended(hypothesis[0])]
        for tokens, before in (hypothesis for hypothesis in beam if not ended(hypothesis[0])):
            step = model(source[None], torch.tensor([[BEGIN, *tokens]]))[0, -1].log_softmax(-1)
            following += [([*tokens, i], before + more) for i, more in enumerate(step.tolist())]
        beam = sorted(following, key=score, reverse=True)[:num_beams]
    tokens = beam[0][0]
    return tokens[:-1] if tokens[-1] == END else tokens


@pytest.mark.parametrize("seed", range(3))
def test_cached_and_uncached_searches_give_the_same_tokens(seed: int) -> None:
    model = talkative(seed)
    source = sources()
    for search in (greedy_search, beam_search):
        cached, uncached = (search(model, source, **IDS, max_extra_tokens=6, cached=cached) for cached in (True, False))
        assert cached == uncached and any(cached)


@pytest.mark.parametrize("seed", range(4))
def test_one_beam_is_greedy_search(seed: int) -> None:
    model, source = talkative(seed), sources()
    options = IDS | {"max_extra_tokens": 6}
    assert beam_search(model, source, num_beams=1, **options) == greedy_search(model, source, **options)


@torch.no_grad()
def test_greedy_search_takes_the_likeliest_token_until_the_end_or_the_limit() -> None:
    endings = []
    for seed in range(4):
        model, source = talkative(seed), sources()
        for row, length, tokens in zip(source, LENGTHS, greedy_search(model, source, **IDS, max_extra_tokens=5)):
            logits = model(row[None, :length], torch.tensor([[BEGIN, *tokens]]))[0]
            expected = logits.argmax(-1).tolist()
            ends = len(tokens) < length + 5
            assert expected[: len(tokens)] == tokens and END not in tokens
            assert expected[-1] == END if ends else len(tokens) == length + 5
            endings.append(ends)
    assert set(endings) == {True, False}


@torch.no_grad()
@pytest.mark.parametrize(("num_beams", "length_penalty"), [(2, 0.6), (3, 0.0), (3, 3.0)])
def test_beam_search_is_the_one_written_with_lists(num_beams: int, length_penalty: float) -> None:
    for seed in range(2):
        model, source = talkative(seed, vocabulary_size=7), sources(7)
        options = IDS | {"max_extra_tokens": 2, "num_beams": num_beams, "length_penalty": length_penalty}
        found = beam_search(model, source, **options)
        for row, length, tokens in zip(source, LENGTHS, found):
            assert tokens == plain_beam_search(model, row[:length], length + 2, num_beams, length_penalty)


class Scripted(Summing):
    """Ends at once with probability 0.2, else says 4; then 6 with probability `second` and ends, else 5 and anything."""

    def __init__(self, second: float) -> None:
        super().__init__(7)
        self.steps = {(): {END: 0.2, 4: 0.8}, (4,): {5: 1 - second, 6: second}, (4, 6): {END: 1.0}}

    def decode(self, target: Tensor, *_: Any) -> Tensor:
        logits = torch.zeros(len(target), 1, 7)
        for row, words in zip(logits[:, 0], target[:, 1:].tolist()):
            if tuple(words) in self.steps:
                row.fill_(-1e4)
                for token, probability in self.steps[tuple(words)].items():
                    row[token] = math.log(probability)
        return logits


@pytest.mark.parametrize(("second", "kept"), [(0.186, []), (0.195, [4, 6])])
def test_the_length_penalty_of_gnmt_chooses_what_a_beam_keeps(second: float, kept: list[int]) -> None:
    """The empty sentence stays in the beam if log 0.2 > log(0.8 second) / (7 / 6): 0.845 and 0.866 beside 6 / 7 = 0.857."""
    options = IDS | {"max_extra_tokens": 3, "num_beams": 2, "length_penalty": 1.0, "cached": False}
    assert beam_search(Scripted(second), torch.tensor([[1]]), **options) == [kept]


@torch.no_grad()
def test_a_beam_that_holds_everything_finds_the_best_of_all_sentences() -> None:
    model, source = talkative(3, vocabulary_size=5), torch.tensor([1, 4])
    rest = [i for i in range(5) if i != END]
    sentences = [(*words, END) for n in range(3) for words in itertools.product(rest, repeat=n)]
    sentences += itertools.product(rest, repeat=3)  # those that the limit cuts off
    padded = torch.tensor([[*tokens, *[END] * (3 - len(tokens))] for tokens in sentences])
    inputs = F.pad(padded[:, :-1], (1, 0), value=BEGIN)
    steps = model(source.expand(len(sentences), 2), inputs).log_softmax(-1).gather(-1, padded[..., None])[..., 0]
    scores = {tokens: row[: len(tokens)].sum().item() for tokens, row in zip(sentences, steps)}
    assert sum(math.exp(score) for score in scores.values()) == pytest.approx(1)  # there are no others
    found = set()
    for length_penalty in (0.0, 0.6, 3.0):
        best = max(sentences, key=lambda tokens: scores[tokens] / ((5 + len(tokens)) / 6) ** length_penalty)
        options = {"max_extra_tokens": 1, "num_beams": 5**3, "length_penalty": length_penalty}
        (tokens,) = beam_search(model, source[None], **IDS, **options)
        assert tokens == [i for i in best if i != END]
        found.add(best)
    assert len(found) > 1  # the penalty matters


@pytest.mark.parametrize("search", [greedy_search, beam_search])
def test_a_translation_does_not_depend_on_the_others(search: Any) -> None:
    model, source = talkative(2), sources()
    search = partial(search, model, **IDS, max_extra_tokens=4)
    assert search(source) == [search(row[None, :length])[0] for row, length in zip(source, LENGTHS)]
    assert search(source[:0]) == []


def test_a_search_keeps_within_the_positions_and_refuses_no_beam() -> None:
    model = Summing(16).eval()
    model.max_length = 7
    model.output.bias.data[END] = -1e3  # <eos> is never the likeliest
    lengths = [len(tokens) for tokens in greedy_search(model, sources(), **IDS)]
    assert lengths == [7, 7, 7]
    penalties = (-1.0, 1e30, math.inf, math.nan)
    for name, values in {"num_beams": (0, 10**18), "length_penalty": penalties, "max_extra_tokens": (-9,)}.items():
        for value in values:
            with pytest.raises(ValueError, match=re.escape(f"got {value}")):
                beam_search(model, sources(), **IDS, **{name: value})
    with pytest.raises(ValueError, match="max_extra_tokens has to be 0 or more; got -9"):
        greedy_search(model, sources(), **IDS, max_extra_tokens=-9)
    assert greedy_search(model, sources(), **IDS, max_extra_tokens=10**30)  # only the positions limit it
