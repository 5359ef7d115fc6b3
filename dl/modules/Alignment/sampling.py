"""Answers of a language model to prompts, each drawn with noise of its own, and their log-probabilities.

An answer has a fixed number of tokens, so nothing is padded. What follows its first end mark is end marks: causal attention
lets nothing before see them, and `until_end` is False there.
"""

import numpy as np
import torch
from torch import Tensor, nn

from dl.modules.Alignment.sums import END
from dl.mytorch.float64 import with_float64

# P prompts, S tokens of a prompt, G answers to each, A tokens of an answer, V vocabulary


def uniform(*counters: int | Tensor) -> Tensor:
    """Return numbers in [0, 1), float64, that depend on integers alone, which broadcast: noise that can be made again.

    Steele, Lea & Flood 2014, https://doi.org/10.1145/2714064.2660195: the output of SplitMix64, which for each counter is
    the next one's state.
    """
    state = np.zeros(1, dtype=np.uint64)
    with np.errstate(over="ignore"):  # modulo 2^64 is meant
        for counter in counters:
            state = state + np.asarray(counter, dtype=np.int64).astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
    return torch.from_numpy((state >> np.uint64(11)) * 2.0**-53)


def noise(seed: int, step: int, prompts: int, samples: int, tokens: int) -> Tensor:
    """Return the noise (P, G, A) of a step's answers; that of one depends on (seed, step, prompt, sample) alone."""
    places = (torch.arange(prompts)[:, None, None], torch.arange(samples)[:, None], torch.arange(tokens))
    return uniform(seed, step, *places)


@torch.no_grad()
def sample(model: nn.Module, prompts: Tensor, noise: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Return answers (P, G, A) to prompts (P, S), and the log-probabilities (P, G, A) that their tokens were drawn with.

    A prompt is computed once for its G answers. `noise` (P, G, A) chooses tokens by the inverse of their distribution
    function; at temperature 0 the likeliest are taken.
    """
    count, samples, length = noise.shape
    cache = model.new_cache()
    logits = model(prompts, None, cache)[:, -1].repeat_interleave(samples, dim=0)  # (P G, V)
    for layer in cache:
        layer.select(torch.arange(count, device=prompts.device).repeat_interleave(samples))
    ended = torch.zeros(count * samples, dtype=torch.bool, device=prompts.device)
    answers, log_probs = [], []
    for t in range(length):
        scores = (logits / temperature if temperature else logits).log_softmax(-1)
        token = _draw(scores, noise[..., t].flatten()) if temperature else scores.argmax(-1)
        token = token.masked_fill(ended, END)
        answers.append(token)
        log_probs.append(scores.gather(1, token[:, None])[:, 0])
        ended |= token == END
        if t + 1 < length:
            logits = model(token[:, None], None, cache)[:, -1]
    return tuple(torch.stack(part, dim=-1).view(count, samples, length) for part in (answers, log_probs))


def _draw(scores: Tensor, noise: Tensor) -> Tensor:
    """Return a token for each row of log-probabilities (N, V), by noise (N,)."""
    below = with_float64(scores).double().exp().cumsum(-1)
    place = noise.to(below.device)[:, None] * below[:, -1:]
    return (below <= place).sum(-1).clamp(max=scores.shape[-1] - 1).to(scores.device)


def until_end(answers: Tensor) -> Tensor:
    """answers (..., A) -> bool (..., A): True up to the first end mark, which counts."""
    ends = (answers == END).long()
    return ends.cumsum(-1) - ends == 0


def answer_log_probs(model: nn.Module, prompts: Tensor, answers: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the log-probabilities (N, A) of each token of answers (N, A) to prompts (N, S), as `sample` draws them."""
    logits = model(torch.cat([prompts, answers[:, :-1]], dim=1))[:, prompts.shape[1] - 1 :]  # (N, A, V)
    return (logits / temperature).log_softmax(-1).gather(2, answers[..., None])[..., 0]
