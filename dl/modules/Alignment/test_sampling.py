"""Noise by hand, draws by it, and their log-probabilities."""

import pytest
import torch

from dl.modules.Alignment.sampling import answer_log_probs, noise, sample, uniform, until_end
from dl.modules.Alignment.SFT.model import build
from dl.modules.Alignment.sums import END, Sums
from dl.modules.GPT.GPT2.model import GPT2
from dl.mytorch.text.generation import generate


@pytest.fixture
def model() -> GPT2:
    torch.manual_seed(0)
    model = build("tiny").double().eval()
    for parameter in model.parameters():
        parameter.data += 0.5 * torch.randn_like(parameter)
    return model


PROMPTS = Sums(2).prompts(torch.tensor([[7, 35], [61, 0], [99, 4]]))


def test_noise_is_splitmix64() -> None:
    """Its first outputs for the states 0 and 1234567, of the reference implementation."""
    expected = torch.tensor([0xE220A8397B1DCDAF >> 11, 6457827717110365317 >> 11]).double() * 2.0**-53
    assert torch.equal(uniform(torch.tensor([0, 1234567])), expected)


def test_noise_of_a_sample_depends_on_seed_step_prompt_and_sample_alone() -> None:
    found = noise(3, 5, prompts=4, samples=6, tokens=3)
    assert torch.equal(found[:2, :3, :2], noise(3, 5, prompts=2, samples=3, tokens=2))
    others = [noise(4, 5, 4, 6, 3), noise(3, 6, 4, 6, 3)]
    assert len(torch.cat([found, *others]).flatten().unique()) == 3 * found.numel()


def test_noise_is_even() -> None:
    found = noise(0, 1, prompts=50, samples=40, tokens=10).flatten()
    counts = torch.histc(found, 20, 0, 1)
    assert ((counts - 1000) ** 2 / 1000).sum() < 45  # chi squared of 19 degrees of freedom: 0.999 below 43.8
    pairs = torch.stack([found[:-1], found[1:]])
    assert abs(torch.corrcoef(pairs)[0, 1]) < 0.03


def test_a_draw_is_the_inverse_of_the_distribution_function(model: GPT2) -> None:
    """With noise from all over [0, 1), tokens come as often as they are likely."""
    places = ((torch.arange(4096) + 0.5) / 4096).view(1, -1, 1)
    answers, log_probs = sample(model, PROMPTS[:1], places, temperature=0.7)
    probabilities = (model(PROMPTS[:1])[0, -1] / 0.7).softmax(-1)
    found = torch.bincount(answers.flatten(), minlength=13) / 4096
    torch.testing.assert_close(found.double(), probabilities.detach(), rtol=0, atol=3e-4)
    torch.testing.assert_close(log_probs.flatten(), probabilities.log()[answers.flatten()].detach(), rtol=0, atol=1e-12)


def test_log_probs_of_an_answer_are_those_it_was_drawn_with_at_any_temperature(model: GPT2) -> None:
    """With the cache and without it; each token's, not that of its neighbour; the temperature is inside."""
    for temperature in (0.5, 1.0, 2.0):
        answers, drawn = sample(model, PROMPTS, noise(0, 0, 3, 5, 4), temperature)
        found = answer_log_probs(model, PROMPTS.repeat_interleave(5, 0), answers.flatten(0, 1), temperature)
        torch.testing.assert_close(found.view_as(drawn), drawn, rtol=0, atol=1e-12)


def test_the_likeliest_answer_is_that_of_generate(model: GPT2) -> None:
    answers, _ = sample(model, PROMPTS, torch.zeros(3, 1, 4), temperature=0.0)
    expected = generate(model, PROMPTS, max_new_tokens=4, temperature=0, stop=(END,))[:, PROMPTS.shape[1] :]
    assert torch.equal(answers[:, 0, : expected.shape[1]], expected)


def test_an_answer_of_one_prompt_does_not_depend_on_the_others(model: GPT2) -> None:
    places = noise(0, 0, 3, 5, 4)
    together, _ = sample(model, PROMPTS, places)
    alone, _ = sample(model, PROMPTS[1:2], places[1:2])
    assert torch.equal(together[1:2], alone)


def test_what_follows_the_first_end_mark_does_not_count() -> None:
    answers = torch.tensor([[1, END, 5, END], [END, END, END, END], [1, 2, 3, 4], [1, 2, 3, END]])
    expected = [[True, True, False, False], [True, False, False, False], [True] * 4, [True] * 4]
    assert until_end(answers).tolist() == expected
