"""Advantages inside a group of answers, and the losses of three papers on their log-probabilities."""

from typing import Literal, get_args

import torch
from torch import Tensor

# P prompts, G answers to each, N answers of a batch, A tokens of an answer

Loss = Literal["grpo", "dr_grpo", "rloo"]
LOSSES = get_args(Loss)


def advantages(rewards: Tensor, loss: Loss) -> Tensor:
    """Return how much better each answer is than its group: rewards (P, G) -> (P, G). Those of equal rewards are 0.

    "grpo": in standard deviations of the group (https://arxiv.org/abs/2402.03300, section 4.1.2), to whose estimate 1e-4 is
    added; "dr_grpo": reward minus mean (https://arxiv.org/abs/2503.20783, section 3.2); "rloo": reward minus the mean of the
    others (https://arxiv.org/abs/2402.14740, equation 8).
    """
    centred = rewards - rewards.mean(-1, keepdim=True)
    if loss == "grpo":
        return centred / (rewards.std(-1, keepdim=True) + 1e-4)
    return centred * (rewards.shape[-1] / (rewards.shape[-1] - 1) if loss == "rloo" else 1)


def kl_divergence(log_probs: Tensor, reference: Tensor) -> Tensor:
    """Return an estimate of KL(policy || reference) for each token, never below 0: equation 4 of DeepSeekMath."""
    difference = reference - log_probs
    return difference.exp() - difference - 1


def losses(
    loss: Loss,
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    clip: float = 0.2,
    kl: Tensor | None = None,
) -> Tensor:
    """Return the loss of each answer, (N,), whose mean over answers is the loss of a batch.

    A token's reward is its advantage times the ratio of its probability to that when it was drawn; moving the ratio further
    than `clip` from 1 brings no more. "grpo": mean over the tokens of the answer; "dr_grpo": their sum over the length A that
    all answers may have, so that a long wrong answer is no better than a short one; "rloo": one ratio, of the whole answer.

    Args:
        log_probs, old_log_probs: (N, A), at the temperature of the draw; advantages (N,).
        mask: bool (N, A), False after the end mark.
        kl: (N, A), added to each token's loss, weighted already.
    """
    weights = mask.to(log_probs.dtype)
    moved = (log_probs - old_log_probs) * weights
    ratios = (moved.sum(-1, keepdim=True) if loss == "rloo" else moved).exp()  # (N, 1) or (N, A)
    rewards = torch.minimum(ratios * advantages[:, None], ratios.clamp(1 - clip, 1 + clip) * advantages[:, None])
    if loss == "rloo":
        return (weights * kl).sum(-1) - rewards[:, 0] if kl is not None else -rewards[:, 0]
    by_token = weights * (kl - rewards if kl is not None else -rewards)
    return by_token.sum(-1) / (weights.sum(-1).clamp(min=1) if loss == "grpo" else mask.shape[1])
