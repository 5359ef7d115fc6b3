"""From logits to text: a language model continues its prompts, token by token.

A model here is called as model(tokens, padding_mask, cache) for logits (B, T, V), and has `max_length`, `token_embedding` and
`new_cache()`: a list of what its blocks keep of a text, be it keys and values of all tokens or a state of one size.

    for token in stream(model, prompt, max_new_tokens=100, temperature=0.8, top_k=50, seed=1): ...
    tokens, padding_mask = left_pad(prompts)
    tokens = generate(model, tokens, max_new_tokens=100, temperature=0, padding_mask=padding_mask)

With the cache a step costs as much as its one new token; without, all tokens are computed again in each step. The tokens
are the same.
"""

from dataclasses import dataclass
from typing import Any, Iterator, Protocol, Sequence

import torch
from torch import Tensor, nn

from dl.mytorch.config import UserError
from dl.mytorch.data.text.vocabulary import END, Vocabulary
from dl.mytorch.text.fused import fused, plain

# B batch, T tokens so far, V vocabulary


class Tokens(Protocol):
    """Characters or words (`Vocabulary`), or word pieces (`BPE`)."""

    def __len__(self) -> int: ...
    def encode(self, text: str) -> list[int]: ...
    def decode(self, ids: Sequence[int]) -> str | list[str]: ...


def separator(tokens: Tokens) -> str:
    """Return what stands between two tokens of a vocabulary: a blank between words, nothing between characters.

    Marks as "<unk>" and "<|end|>" are left aside, which characters have, too.
    """
    plain = (len(token) for token in tokens.tokens if not (token.startswith("<") and token.endswith(">")))
    return " " if max(plain, default=0) > 1 else ""


def split(vocabulary: Vocabulary, text: str) -> list[str]:
    """Return a text cut into the characters or words of a vocabulary; the end of a line of words is "<eos>", if it has that."""
    if not separator(vocabulary):
        return list(text)
    return (text.replace("\n", f" {END} ") if END in vocabulary else text).split()


def to_text(tokens: Tokens, ids: Sequence[int]) -> str:
    """Return the text of ids."""
    decoded = tokens.decode(ids)
    return decoded if isinstance(decoded, str) else separator(tokens).join(decoded)


@dataclass(frozen=True)
class Sampler:
    """How the next token is chosen from logits (B, V).

    Args:
        temperature: the logits are divided by it; 0 takes the likeliest token (greedy), and the next two play no part.
        top_k: only the k likeliest tokens (Fan et al. 2018, https://arxiv.org/abs/1805.04833); 0 = all. Of tokens that
            are as likely as the k-th, all.
        top_p: only the fewest likeliest tokens whose probabilities sum up to p (Holtzman et al. 2019,
            https://arxiv.org/abs/1904.09751); 1 = all.
        repetition_penalty: above 1, tokens that the text has already, prompt included, are less likely: their logits are
            divided by it when positive, else multiplied (Keskar et al. 2019, https://arxiv.org/abs/1909.05858, section 4.1).

    They act in the order repetition, temperature, top k, top p. At the ends of their ranges they act as the formula's limit.
    Raises `ValueError` for a value outside its range.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        for name, holds, rule in (
            ("temperature", 0 <= self.temperature < float("inf"), "0 or more"),
            ("top_k", self.top_k >= 0, "0 or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("repetition_penalty", 1e-3 <= self.repetition_penalty <= 1e3, "from 0.001 to 1,000"),  # logits stay finite
        ):
            if not holds:
                raise UserError(f"{name} has to be {rule}; got {getattr(self, name)!r}")

    def scores(self, logits: Tensor, seen: Tensor | None = None) -> Tensor:
        """What the softmax is taken of, (B, V): -inf for tokens that are out. `seen`, bool (B, V): tokens of the text."""
        if seen is not None and self.repetition_penalty != 1:
            penalized = torch.where(logits > 0, logits / self.repetition_penalty, logits * self.repetition_penalty)
            logits = torch.where(seen, penalized, logits)
        if self.temperature == 0:
            return logits
        if self.temperature >= 0.01:
            logits = logits / self.temperature
        else:  # the quotients may overflow, not their distances from the largest
            below = logits - logits.amax(-1, keepdim=True)
            logits = torch.where(below == 0, below, below / self.temperature)
        if 0 < self.top_k < logits.shape[-1]:
            smallest = logits.topk(self.top_k).values[:, -1:]  # (B, 1)
            logits = logits.masked_fill(logits < smallest, -torch.inf)
        if self.top_p < 1:
            ordered, order = logits.sort(descending=True, stable=True)
            before = ordered.softmax(-1).cumsum(-1).roll(1, -1)  # of the likelier tokens together
            out = before >= self.top_p
            out[:, 0] = False  # the likeliest stays, even if top_p rounds to 0 in the precision of the logits
            logits = logits.masked_fill(out.gather(1, order.argsort(1)), -torch.inf)
        return logits

    def choose(self, logits: Tensor, seen: Tensor | None, generator: torch.Generator | None) -> Tensor:
        """Return the next token of each row, (B,)."""
        scores = self.scores(logits, seen)
        if self.temperature == 0:
            return scores.argmax(-1)
        probabilities = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))  # half's noise may be 0
        noise = torch.empty_like(probabilities).exponential_(generator=generator)
        return (probabilities / noise).argmax(-1)  # the draw of torch.multinomial, without its checks


def left_pad(prompts: Sequence[Sequence[int]], padding: int = 0) -> tuple[Tensor, Tensor]:
    """Prompts of different lengths as tokens (B, T), filled up at the beginning, and their padding mask (B, T).

    Raises `ValueError` when one is empty.
    """
    if not prompts or not all(prompts):
        raise UserError("a prompt has one token at least; got an empty one")
    longest = max(len(prompt) for prompt in prompts)
    rows = [[padding] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    return torch.tensor(rows), torch.arange(longest) < (longest - lengths)[:, None]


def check_prompt(model: nn.Module, tokens: Tensor, padding_mask: Tensor | None, max_new_tokens: int) -> None:
    """Raise `ValueError` when the model cannot continue these prompts."""
    vocab_size, length = model.token_embedding.num_embeddings, tokens.shape[-1]
    if tokens.ndim != 2 or length == 0:
        raise UserError(f"prompts are tokens (B, T), one at least in each row; got {tuple(tokens.shape)}")
    if length > model.max_length:
        raise UserError(f"a prompt of {length} tokens is longer than the {model.max_length} that the model can see")
    wrong = tokens[(tokens < 0) | (tokens >= vocab_size)]
    if len(wrong):
        raise ValueError(f"{int(wrong[0])} is no token of a model that knows {vocab_size}")
    if max_new_tokens < 0:
        raise UserError(f"max_new_tokens has to be 0 or more; got {max_new_tokens}")
    if padding_mask is not None and (padding_mask[:, -1].any() or (padding_mask[:, 1:] & ~padding_mask[:, :-1]).any()):
        raise ValueError("prompts are padded on the left: a row of padding_mask is True, then False, and ends in False")


def _note(seen: Tensor | None, logits: Tensor, tokens: Tensor, padding_mask: Tensor | None) -> Tensor:
    """`seen`, bool (B, V), with the last of the tokens (B, T); begun with all that are not padding where it is None."""
    if seen is not None:
        return seen.scatter(1, tokens[:, -1:], True)
    seen = torch.zeros_like(logits, dtype=torch.bool)
    if padding_mask is None:
        return seen.scatter(1, tokens, True)
    rows = torch.arange(len(tokens), device=tokens.device)[:, None].expand_as(tokens)
    seen[rows[~padding_mask], tokens[~padding_mask]] = True
    return seen


def _lengths(tokens: Tensor, padding_mask: Tensor | None) -> Tensor:
    """Return the tokens (B,) of each row that are not padding."""
    columns = torch.full_like(tokens[:, 0], tokens.shape[1])
    return columns if padding_mask is None else columns - padding_mask.sum(1)


def _left_of(lengths: Tensor, columns: int) -> Tensor:
    """Return the padding mask (B, T) of texts of these lengths (B,), in T columns."""
    return torch.arange(columns, device=lengths.device) < columns - lengths[:, None]


def _generators(seed: int | Sequence[int] | None, device: torch.device) -> Sequence[torch.Generator | None]:
    """One for all rows, or one for each."""
    seeds = [seed] if isinstance(seed, int) else seed or []
    return [torch.Generator(device).manual_seed(each) for each in seeds] or [None]


def _choose(sampler: Sampler, logits: Tensor, seen: Tensor | None, generators: Sequence[torch.Generator | None]) -> Tensor:
    """`sampler.choose`, (B,), with what `_generators` gives."""
    rows = len(logits) // len(generators)  # that draw from one generator
    seen_by_part = [None] * len(generators) if seen is None else seen.split(rows)
    return torch.cat([sampler.choose(*part) for part in zip(logits.split(rows), seen_by_part, generators)])


@torch.inference_mode()
def stream(
    model: nn.Module,
    tokens: Tensor,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int | Sequence[int] | None = None,
    *,
    repetition_penalty: float = 1.0,
    stop: Sequence[int] = (),
    padding_mask: Tensor | None = None,
    cached: bool = True,
) -> Iterator[Tensor]:
    """Yield the next tokens of each row, (B,) for each step, as they come. The model is put into evaluation mode.
    When the text of a row, without its padding, outgrows the model's `max_length`, its last half is the row's new context.

    Args:
        tokens: (B, T), the prompts; padding_mask (B, T) of `left_pad` when they differ in length.
        temperature, top_k, top_p, repetition_penalty: see `Sampler`.
        stop: tokens that end a row, which then repeats the one it ended with; when all rows have ended, so does this.
        seed: of the draws; default: torch's generator as it is. One for each row: what it would draw alone.

    Raises `ValueError` for invalid options, see `Sampler`, and prompts, see `check_prompt`.
    """
    sampler = Sampler(temperature, top_k, top_p, repetition_penalty)
    check_prompt(model, tokens, padding_mask, max_new_tokens)
    model.eval()
    generators = _generators(seed, tokens.device)
    ends, done = tokens.new_tensor(list(stop)), torch.zeros_like(tokens[:, 0], dtype=torch.bool)
    lengths = _lengths(tokens, padding_mask)  # (B,) of each row's context
    first, seen, new = 0, None, tokens  # the first column in the context, tokens of the text, those to compute
    longest = min(model.max_length, tokens.shape[1] + max_new_tokens)
    step, cache = (fused(model, longest), model.new_cache()) if cached else (plain(model), None)
    for _ in range(max_new_tokens):
        if tokens.shape[1] - first > model.max_length:
            lengths = lengths.where(lengths <= model.max_length, max(1, model.max_length // 2))
            first = tokens.shape[1] - int(lengths.max())
            cache, new = model.new_cache() if cached else None, tokens[:, first:]
        mask = None if padding_mask is None else _left_of(lengths, tokens.shape[1] - first)
        logits = step(new if cached else tokens[:, first:], mask, cache)  # (B, V)
        seen = _note(seen, logits, tokens, padding_mask) if repetition_penalty != 1 else None
        token = _choose(sampler, logits, seen, generators)
        if stop:
            token = torch.where(done, tokens[:, -1], token)
            done |= torch.isin(token, ends)
        yield token
        if stop and done.all():
            return
        new = token[:, None]
        tokens, lengths = torch.cat([tokens, new], dim=1), lengths + 1  # (B, T) -> (B, T + 1)


def generate(
    model: nn.Module,
    tokens: Tensor,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int | Sequence[int] | None = None,
    **options: Any,
) -> Tensor:
    """Return the prompts with what follows: tokens (B, T) -> (B, T + n), n at most `max_new_tokens`. Options as of `stream`."""
    new = stream(model, tokens, max_new_tokens, temperature, top_k, top_p, seed, **options)
    return torch.cat([tokens, *(token[:, None] for token in new)], dim=1)
