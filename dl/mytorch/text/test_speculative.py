"""Speculative decoding writes what the large model writes alone, whatever the small one drafts."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dl.modules.GPT.GPT2 import model as gpt2
from dl.modules.GPT.Llama import model as llama
from dl.modules.GPT.testing import randomized, tiny
from dl.mytorch.config import UserError
from dl.mytorch.text.generation import generate
from dl.mytorch.text.speculative import speculate, verify

PROMPT = torch.tensor([[3, 1, 4]])


def speculated(model: nn.Module, draft: nn.Module, tokens: Tensor = PROMPT, **options: Any) -> Tensor:
    """The prompt with what follows, (1, T + n)."""
    return torch.cat([tokens[0], *speculate(model, draft, tokens, **options)])[None]


@pytest.mark.parametrize("build", [gpt2.build, llama.build])
@pytest.mark.parametrize("num_draft_tokens", [1, 5])
def test_the_greedy_text_is_that_of_the_large_model(build: Any, num_draft_tokens: int) -> None:
    model, draft = tiny(build), randomized(build("tiny", max_length=40, depth=1)).double()
    expected = generate(model, PROMPT, max_new_tokens=30, temperature=0.0)
    assert torch.equal(
        speculated(model, draft, max_new_tokens=30, num_draft_tokens=num_draft_tokens, temperature=0.0), expected
    )
    calls = []
    model.register_forward_pre_hook(lambda module, inputs: calls.append(inputs[0].shape[1]))
    assert torch.equal(speculated(model, model, max_new_tokens=0), PROMPT) and not calls


@pytest.mark.parametrize("lengths", [(12, 64), (12, 5), (5, 12), (1, 4)], ids=str)
def test_a_text_may_outgrow_either_context(lengths: tuple[int, int]) -> None:
    """The large model's context restarts where it does without a draft."""
    model, draft = (tiny(max_length=length) for length in lengths)
    prompt = PROMPT[:, : lengths[0]]
    expected = generate(model, prompt, max_new_tokens=24, temperature=0.0)
    assert torch.equal(speculated(model, draft, prompt, max_new_tokens=24, temperature=0.0), expected)


def test_right_guesses_save_calls_of_the_large_model() -> None:
    model, draft, lengths = tiny(), tiny(), []
    model.register_forward_pre_hook(lambda module, inputs: lengths.append(inputs[0].shape[1]))
    speculated(model, draft, max_new_tokens=20, num_draft_tokens=4, temperature=0.8, seed=0)
    assert lengths == [7, 5, 5, 5]  # the prompt and 4 drafted tokens; then the last token and 4 drafted


def test_tokens_are_distributed_as_the_large_model_has_it() -> None:
    """Exact shares: p = 0.5, 0.3, 0.2, 0 for the first, then 0.1, 0.2, 0.3, 0.4, whatever the draft probabilities are."""
    p = torch.tensor([[0.5, 0.3, 0.2, 0.0], [0.1, 0.2, 0.3, 0.4]], dtype=torch.float64)
    q = torch.tensor([[0.1, 0.1, 0.4, 0.4]], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    guesses = torch.multinomial(q.expand(1000, -1), 1, generator=generator)
    found = [verify(guess, q, p, generator) for guess in guesses]
    first = torch.bincount(torch.stack([tokens[0] for tokens in found]), minlength=4) / 1000
    second = torch.stack([tokens[1] for tokens in found if len(tokens) == 2])
    assert (first - p[0]).abs().max() < 0.05
    assert abs(len(second) / 1000 - 0.4) < 0.05  # 0.1 + 0.1 + 0.2: what p and q have in common
    assert (torch.bincount(second, minlength=4) / len(second) - p[1]).abs().max() < 0.08


class Constant(nn.Module):
    """A model whose next token has the same probabilities everywhere."""

    max_length = 10

    def __init__(self, probabilities: list[float]) -> None:
        super().__init__()
        self.token_embedding, self.scores = nn.Embedding(len(probabilities), 1), torch.tensor(probabilities).log()

    def new_cache(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(length=0)]

    def forward(self, tokens: Tensor, mask: None, cache: list[SimpleNamespace]) -> Tensor:
        cache[0].length += tokens.shape[1]
        return self.scores.expand(*tokens.shape, -1)


def test_the_text_is_distributed_as_that_of_the_large_model_whatever_the_draft() -> None:
    p, q = [0.5, 0.3, 0.1, 0.1], [0.1, 0.1, 0.4, 0.4]
    drawn = [
        speculated(Constant(p), Constant(q), torch.tensor([[3, 1]]), max_new_tokens=2, seed=seed)[0, 2] for seed in range(500)
    ]
    assert (torch.bincount(torch.stack(drawn), minlength=4) / 500 - torch.tensor(p)).abs().max() < 0.08


def test_the_seed_decides_and_top_k_holds() -> None:
    model, draft = tiny(), randomized(gpt2.build("tiny", max_length=40)).double()
    options = {"max_new_tokens": 25, "top_k": 2, "temperature": 1.5}
    first, second, other = (speculated(model, draft, seed=seed, **options) for seed in (1, 1, 2))
    assert torch.equal(first, second) and not torch.equal(first, other)
    with torch.no_grad():
        allowed = model(first)[0].topk(2).indices
    assert all(first[0, t + 1] in allowed[t] for t in range(2, 27))


@pytest.mark.parametrize(
    ("tokens", "options", "message"),
    [
        (PROMPT.expand(2, -1), {}, "one prompt and one drafted token at least; got 2 and 4"),
        (PROMPT, {"num_draft_tokens": 0}, "got 1 and 0"),
        (PROMPT.repeat(1, 22), {}, "a prompt of 66 tokens is longer than the 64"),
        (PROMPT, {"top_p": 0.0}, "top_p has to be above 0"),
    ],
)
def test_what_cannot_be_meant_is_refused(tokens: torch.Tensor, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        speculated(tiny(), tiny(max_length=40), tokens, **{"max_new_tokens": 1, **options})
    with pytest.raises(UserError, match="vocabularies of different sizes"):
        speculated(tiny(), tiny(vocab_size=12), max_new_tokens=1)


def test_a_guess_may_be_refused_where_both_models_are_equal_but_for_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    nearly = 1 - 2.0**-24
    monkeypatch.setattr(torch, "rand", lambda *size, **options: torch.full(size, nearly))
    guessed, checked = torch.tensor([[1.0, 0.0]]), torch.tensor([[nearly, 0.0], [0.0, 1.0]])
    assert verify(torch.tensor([0]), guessed, checked, None).tolist() == [0]
