"""Generation by its laws: with and without cache, alone and in a batch, and each option against its definition."""

from itertools import islice
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from dl.modules.GPT.GPT2 import model as gpt2
from dl.modules.GPT.Llama import model as llama
from dl.modules.GPT.testing import randomized, tiny
from dl.mytorch.text.generation import Sampler, generate, left_pad, stream
from dl.mytorch.torchvision_compat import import_torchvision

PROMPTS = [[3, 1, 4, 1, 5], [9], [2, 6, 5]]
LOGITS = torch.tensor([[2.0, -1.0, 0.5, 1.0, -3.0]], dtype=torch.float64)


def padded(prompts: list[list[int]], padding: int = 0) -> dict[str, Tensor]:
    return dict(zip(("tokens", "padding_mask"), left_pad(prompts, padding)))


# ---- cache ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [gpt2.build, llama.build])
@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.0},
        {"temperature": 0.7},
        {"top_k": 3},
        {"top_p": 0.6},
        {"repetition_penalty": 1.3},
        {"temperature": 0.0, "repetition_penalty": 1.3},
        {"temperature": 1.4, "top_k": 6, "top_p": 0.8, "repetition_penalty": 1.1, "stop": [2, 7]},
    ],
    ids=str,
)
def test_cached_and_uncached_tokens_are_the_same(build: Any, options: dict[str, Any]) -> None:
    """For prompts of different lengths, beyond the model's context."""
    model = tiny(build, max_length=12)
    options = {**options, "max_new_tokens": 20, "seed": 3}
    runs = [generate(model, **padded(PROMPTS), cached=cached, **options) for cached in (True, False)]
    assert torch.equal(*runs)
    assert len(runs[0][:, 5:].unique()) > 1  # not one token all along


@pytest.mark.parametrize("build", [gpt2.build, llama.build])
@pytest.mark.parametrize("max_length", [64, 6])  # all of the text, or each row's context is cut when that row outgrows it
def test_a_row_in_a_padded_batch_is_the_row_alone(build: Any, max_length: int) -> None:
    model = tiny(build, max_length=max_length)
    options = {"max_new_tokens": 12, "temperature": 0.0, "repetition_penalty": 1.2}
    together = generate(model, **padded(PROMPTS, padding=7), **options)  # 7: no prompt has it
    for row, prompt in zip(together, PROMPTS):
        assert row[5 - len(prompt) :].tolist() == generate(model, torch.tensor([prompt]), **options)[0].tolist()


def test_rows_with_a_seed_each_draw_what_they_would_alone() -> None:
    model, options = tiny(), {"max_new_tokens": 12, "temperature": 1.5}
    together = generate(model, **padded(PROMPTS), seed=[4, 5, 4], **options)
    for row, prompt, seed in zip(together, PROMPTS, (4, 5, 4)):
        assert row[5 - len(prompt) :].tolist() == generate(model, torch.tensor([prompt]), seed=seed, **options)[0].tolist()


def test_padding_is_no_token_of_the_text() -> None:
    """Counted as one, the token that comes next would be penalized, and another come."""
    model, options = tiny(), {"max_new_tokens": 1, "temperature": 0.0, "repetition_penalty": 50.0}
    for prompt in range(11):
        alone = generate(model, torch.tensor([[prompt]]), **options)[0, 1].item()
        assert generate(model, **padded([[prompt], [3, 1, 4]], padding=alone), **options)[0, -1] == alone


def test_padding_is_no_token_of_the_text_in_a_new_context_either() -> None:
    """The context of 8 is full at once, and the first row still has padding in its last half: any token may fill it up."""
    model, texts = tiny(max_length=8), set()
    for padding in range(11):
        prompts = padded([[5], list(range(8))], padding)
        text = generate(model, **prompts, max_new_tokens=9, temperature=0.0, repetition_penalty=50.0)
        texts.add(tuple(text[0, 8:].tolist()))
    assert len(texts) == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the compiler's own
def test_a_compiled_model_writes_the_same_tokens_with_one_program_for_all_lengths() -> None:
    model, prompt = tiny(), torch.tensor([[3, 1], [2, 6]])
    expected = generate(model, prompt, max_new_tokens=30, temperature=0.0)
    model.compile(dynamic=True)
    assert torch.equal(generate(model, prompt, max_new_tokens=30, temperature=0.0), expected)
    with torch.compiler.set_stance("fail_on_recompile"):
        assert torch.equal(generate(model, prompt, max_new_tokens=30, temperature=0.0), expected)


def test_each_step_of_the_cache_computes_one_position(monkeypatch: pytest.MonkeyPatch) -> None:
    model, lengths = tiny(max_length=12), []
    model.register_forward_pre_hook(lambda module, inputs: lengths.append(inputs[0].shape[1]))
    generate(model, torch.tensor([PROMPTS[0]]), max_new_tokens=10)
    assert lengths == [5, 1, 1, 1, 1, 1, 1, 1, 6, 1]  # 12 are full: the last half is the new context
    lengths.clear()
    generate(model, torch.tensor([PROMPTS[0]]), max_new_tokens=10, cached=False)
    assert lengths == [5, 6, 7, 8, 9, 10, 11, 12, 6, 7]


# ---- the choice ----------------------------------------------------------------------------------------------------


def test_temperature_zero_is_the_likeliest_token_and_a_low_one_nearly_is() -> None:
    assert Sampler(temperature=0).choose(LOGITS, None, None).tolist() == [0]
    assert Sampler(temperature=0.01).scores(LOGITS).softmax(-1)[0, 0] > 0.999999
    assert torch.equal(Sampler().scores(LOGITS), LOGITS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("options", [*({"temperature": t} for t in (1e-5, 1e-38, 1e-46, 5e-324)), {"top_p": 1e-300}], ids=str)
def test_the_least_temperature_and_top_p_leave_the_likeliest_token(options: dict[str, float], dtype: torch.dtype) -> None:
    """Numbers that are 0 in the precision of the logits, or divide them to infinity."""
    logits = torch.tensor([[1.0, 5.0, 4.9, -2.0], [-60000.0, -3e4, -3.1e4, 0.0]]).to(dtype)
    assert Sampler(**options).choose(logits, None, None).tolist() == [1, 3]
    shared = Sampler(**options).scores(torch.tensor([[3.0, 1.0, 3.0]], dtype=dtype)).softmax(-1)
    assert shared.tolist() == [[0.5, 0.0, 0.5]] or options == {"top_p": 1e-300}


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"top_k": 2}, [0, 3]),
        ({"top_k": 9}, [0, 1, 2, 3, 4]),
        ({"top_p": 0.05}, [0]),  # probabilities 0.60, 0.03, 0.13, 0.22, 0.004
        ({"top_p": 0.61}, [0, 3]),
        ({"top_p": 0.9}, [0, 2, 3]),
        ({"top_k": 2, "top_p": 0.9}, [0, 3]),
        ({"temperature": 5.0, "top_p": 0.61}, [0, 2, 3]),  # 0.29, 0.16, 0.22, 0.24, 0.11
    ],
)
def test_which_tokens_are_left(options: dict[str, Any], kept: list[int]) -> None:
    scores = Sampler(**options).scores(LOGITS)
    assert scores.isfinite().nonzero()[:, 1].tolist() == kept
    assert torch.equal(scores[0, kept], LOGITS[0, kept] / options.get("temperature", 1.0))


def test_tokens_of_the_text_are_penalized_once_whichever_sign_their_logits_have() -> None:
    seen = torch.tensor([[True, True, False, False, False]])
    assert Sampler(repetition_penalty=2.0).scores(LOGITS, seen).tolist() == [[1.0, -2.0, 0.5, 1.0, -3.0]]


def test_draws_follow_the_probabilities_and_the_seed() -> None:
    sampler = Sampler(top_k=3)
    logits = LOGITS.expand(20_000, -1)
    first, second, other = (sampler.choose(logits, None, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, second) and not torch.equal(first, other)
    shares = torch.bincount(first, minlength=5) / len(first)
    assert (shares - sampler.scores(LOGITS).softmax(-1)[0]).abs().max() < 0.01


def test_a_stop_token_ends_its_row_and_the_last_one_all() -> None:
    model = tiny()
    free = generate(model, **padded(PROMPTS), max_new_tokens=30, seed=0)[:, 5:].tolist()
    stop = [4, 8]
    ended = generate(model, **padded(PROMPTS), max_new_tokens=30, seed=0, stop=stop)[:, 5:].tolist()
    ends = [next((i for i, token in enumerate(row) if token in stop), 29) for row in free]
    assert len(set(ends)) == 3 and max(ends) < 29
    for row, stopped, end in zip(free, ended, ends):
        assert stopped == row[: end + 1] + [row[end]] * (max(ends) - end)


def test_tokens_come_one_by_one() -> None:
    model, calls = tiny(), []
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    tokens = stream(model, torch.tensor([[1, 2]]), max_new_tokens=50, seed=4)
    first = [token.item() for token in islice(tokens, 3)]
    assert len(calls) == 3
    assert first == generate(model, torch.tensor([[1, 2]]), max_new_tokens=3, seed=4)[0, 2:].tolist()


def test_generation_leaves_no_trace() -> None:
    """Neither in the global generator, when there is a seed, nor in the prompt; dropout is off."""
    model = tiny(dropout=0.5)
    model.train()
    prompt, state = torch.tensor([[1, 2]]), torch.get_rng_state()
    runs = [generate(model, prompt, max_new_tokens=5, seed=1) for _ in range(2)]
    assert torch.equal(*runs) and torch.equal(torch.get_rng_state(), state) and prompt.tolist() == [[1, 2]]


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        ([[0] * 65], {}, "a prompt of 65 tokens is longer than the 64"),
        ([[1, 11]], {}, "11 is no token of a model that knows 11"),
        ([[1, -1]], {}, "-1 is no token"),
        ([[]], {}, "one at least"),
        ([[1]], {"top_p": 0.0}, "top_p has to be above 0 and at most 1; got 0.0"),
        ([[1]], {"top_p": 1.5}, "top_p has to be above 0"),
        ([[1]], {"top_k": -1}, "top_k has to be 0 or more"),
        ([[1]], {"temperature": -0.1}, "temperature has to be 0 or more"),
        ([[1]], {"temperature": float("nan")}, "temperature has to be 0 or more"),
        ([[1]], {"repetition_penalty": 1e-300}, "repetition_penalty has to be from 0.001 to 1,000"),
        ([[1]], {"repetition_penalty": 1e300}, "repetition_penalty has to be from 0.001 to 1,000"),
        ([[1]], {"max_new_tokens": -1}, "max_new_tokens has to be 0 or more"),
        ([[1, 2]], {"padding_mask": torch.tensor([[False, True]])}, "padded on the left"),
        ([[1, 2, 3]], {"padding_mask": torch.tensor([[False, True, False]])}, "padded on the left"),
    ],
)
def test_what_cannot_be_meant_is_refused(prompt: list[list[int]], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate(tiny(), torch.tensor(prompt, dtype=torch.int64), **{"max_new_tokens": 1, **options})


def test_empty_prompts_cannot_be_padded() -> None:
    with pytest.raises(ValueError, match="one token at least"):
        left_pad([[1], []])
    tokens, mask = left_pad([[1], [2, 3]], padding=9)
    assert tokens.tolist() == [[9, 1], [2, 3]] and mask.tolist() == [[True, False], [False, False]]


# ---- transformers --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def transformers() -> ModuleType:
    import_torchvision()  # which transformers imports if it is there
    return pytest.importorskip("transformers")


@pytest.mark.parity
@pytest.mark.parametrize(
    "options", [{"temperature": 0.7}, {"top_k": 4}, {"top_p": 0.7}, {"temperature": 1.5, "top_k": 30, "top_p": 0.9}], ids=str
)
def test_probabilities_are_those_of_transformers(transformers: ModuleType, options: dict[str, Any]) -> None:
    logits = torch.randn(50, 40, dtype=torch.float64) * 2
    kinds = transformers.generation.logits_process
    warpers = {"temperature": kinds.TemperatureLogitsWarper, "top_k": kinds.TopKLogitsWarper, "top_p": kinds.TopPLogitsWarper}
    text = torch.randint(40, (50, 7))
    expected = kinds.RepetitionPenaltyLogitsProcessor(1.3)(text, logits)
    for name, value in options.items():
        expected = warpers[name](value)(text, expected)
    seen = torch.zeros_like(logits, dtype=torch.bool).scatter(1, text, True)
    ours = Sampler(repetition_penalty=1.3, **options).scores(logits, seen)
    assert (ours.softmax(-1) - expected.softmax(-1)).abs().max() <= 1e-12


@pytest.mark.parity
@pytest.mark.parametrize("penalty", [1.0, 1.2])
def test_greedy_text_of_a_padded_batch_is_that_of_transformers(transformers: ModuleType, penalty: float) -> None:
    from dl.modules.GPT.GPT2.convert import from_transformers

    sizes = {"vocab_size": 23, "n_embd": 12, "n_layer": 2, "n_head": 3, "n_positions": 40}
    config = transformers.GPT2Config(**sizes, bos_token_id=None, eos_token_id=None, pad_token_id=0)
    reference = randomized(transformers.GPT2LMHeadModel(config)).double().eval()
    # Padding counts as text in transformers' penalty, so it is a token that all prompts have.
    tokens, padding = left_pad([[0, 5, 6, 7], [9, 0], [0]], padding=0)
    expected: Tensor = reference.generate(
        tokens, attention_mask=(~padding).long(), max_new_tokens=20, do_sample=False, repetition_penalty=penalty
    )
    ours = generate(
        from_transformers(reference).double(), tokens, 20, temperature=0.0, padding_mask=padding, repetition_penalty=penalty
    )
    assert torch.equal(ours, expected)
