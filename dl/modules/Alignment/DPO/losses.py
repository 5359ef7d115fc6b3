"""The losses, as functions of log-probabilities: a number for each of B pairs, (B,), or each answer.

`chosen` and `rejected` are log p of the two answers under the policy, `reference_chosen` and `reference_rejected` under the
reference; for DPO, IPO and KTO summed over an answer's tokens, for ORPO a mean over them, as each paper says.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def margin(chosen: Tensor, rejected: Tensor, reference_chosen: Tensor, reference_rejected: Tensor) -> Tensor:
    """Return how much more than the reference the policy prefers the chosen answer: a difference of log ratios, (B,)."""
    return (chosen - reference_chosen) - (rejected - reference_rejected)


def dpo(chosen: Tensor, rejected: Tensor, reference_chosen: Tensor, reference_rejected: Tensor, beta: float = 0.1) -> Tensor:
    """Return DPO's loss (B,): Rafailov et al. 2023, https://arxiv.org/abs/2305.18290, equation 7."""
    return -F.logsigmoid(beta * margin(chosen, rejected, reference_chosen, reference_rejected))


def ipo(chosen: Tensor, rejected: Tensor, reference_chosen: Tensor, reference_rejected: Tensor, beta: float = 0.1) -> Tensor:
    """Return IPO's loss (B,): Azar et al. 2023, https://arxiv.org/abs/2310.12036, equation 17; `beta` is its tau.

    The margin has a target, 1 / (2 tau), which it does not outgrow.
    """
    return (margin(chosen, rejected, reference_chosen, reference_rejected) - 1 / (2 * beta)).square()


def kto(
    log_probs: Tensor,
    reference: Tensor,
    desirable: Tensor,
    kl: Tensor | float,
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Tensor:
    """Return KTO's loss of single answers (B,): Ethayarajh et al. 2024, https://arxiv.org/abs/2402.01306, equations 7 and 8.

    Args:
        log_probs, reference: log p of each answer, (B,).
        desirable: bool (B,), whether an answer is a good one.
        kl: z0 of equation 7, `mismatched_kl`: a point of reference, through which no gradient flows.
    """
    reward = log_probs - reference - torch.as_tensor(kl).detach()
    weight = torch.where(desirable, desirable_weight, undesirable_weight).to(reward.dtype)
    return weight * (1 - torch.sigmoid(beta * torch.where(desirable, reward, -reward)))


def mismatched_kl(log_ratio_sum: Tensor, count: Tensor | int) -> Tensor:
    """Return KTO's estimate of the KL divergence of policy and reference: the mean log ratio of answers to other prompts.

    `log_ratio_sum` is a sum over `count` of them. No gradient flows through it, and it is 0 at least.
    """
    return (log_ratio_sum.detach() / count).clamp(min=0)


def log_odds(log_probs: Tensor) -> Tensor:
    """Return log p / (1 - p) of log p, the mean over an answer's tokens: finite where p rounds to 1."""
    log_probs = log_probs.clamp(max=-torch.finfo(log_probs.dtype).eps)
    return log_probs - torch.log(-torch.expm1(log_probs))


def orpo(chosen: Tensor, rejected: Tensor, nll: Tensor, beta: float = 0.1) -> Tensor:
    """Return ORPO's loss (B,): Hong et al. 2024, https://arxiv.org/abs/2403.07691, equations 6 and 7; `beta` is its lambda.

    No reference: the negative log-likelihood of the chosen text (B,), a mean over its tokens, keeps the policy where it is.
    `chosen` and `rejected` are means over an answer's tokens.
    """
    return nll - beta * F.logsigmoid(log_odds(chosen) - log_odds(rejected))
