"""The searches of dl/mytorch/text/decoding.py on a Transformer: its cache changes nothing, its positions are a limit."""

import pytest
import torch
from torch import nn

from dl.modules.Transformers.Transformer.model import Transformer, build
from dl.mytorch.text.decoding import beam_search, greedy_search
from dl.mytorch.text.testing import BEGIN, END, sources


def talkative(seed: int, vocabulary_size: int = 16, norm_first: bool = False) -> Transformer:
    """Random weights; a strong feed-forward makes for sentences that vary and end."""
    torch.manual_seed(seed)
    model = build("tiny", vocabulary_size=vocabulary_size, dim=32, norm_first=norm_first)
    for block in model.decoder:
        nn.init.normal_(block.feed_forward.fc2.weight, std=2.0)
    return model.eval()


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_cached_and_uncached_searches_give_the_same_tokens(seed: int, norm_first: bool) -> None:
    model = talkative(seed, norm_first=norm_first)
    source = sources()
    for search in (greedy_search, beam_search):
        options = {"bos_id": BEGIN, "eos_id": END, "max_extra_tokens": 6}
        cached, uncached = (search(model, source, **options, cached=cached) for cached in (True, False))
        assert cached == uncached and any(cached)


def test_a_search_keeps_within_the_positions() -> None:
    model = build("tiny", max_length=7).eval()
    model.embedding.weight.data[END] = 0  # no logit: <eos> is never the likeliest
    lengths = [len(tokens) for tokens in greedy_search(model, sources(), bos_id=BEGIN, eos_id=END)]
    assert lengths == [7, 7, 7]
