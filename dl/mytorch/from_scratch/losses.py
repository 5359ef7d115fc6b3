"""Losses, under the names and with the arguments of `torch.nn.functional` where it has them.

`reduction` is "mean", "sum" or "none", as in torch.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from dl.mytorch.from_scratch.checks import floating, same_shape

NEVER = -1e30  # for log 0, which has no gradient

# B batch, K classes, C width of an embedding, T steps of the input, S symbols of the target


def _reduced(loss: Tensor, reduction: str, count: Tensor | None = None) -> Tensor:
    """Mean over `count` (default: the elements), sum, or each by itself. Raises `ValueError` for another word."""
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f'reduction {reduction!r}: there are "mean", "sum" and "none"')
    if reduction == "none":
        return loss
    if reduction == "sum":
        return loss.sum()
    return loss.mean() if count is None else loss.sum() / count  # a sum of many could overflow in half precision


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """-log softmax(input)[target], of logits (B, K, ...) and true classes (B, ...), or of probabilities (B, K, ...).

    Args:
        weight: (K,), what the error of a class counts; the mean is one over these weights.
        ignore_index: a target that counts for nothing; where all do, the mean is NaN, as torch's.
        label_smoothing: share of the target that is spread evenly over all classes (Szegedy et al. 2015,
            https://arxiv.org/abs/1512.00567, section 7).

    Raises `ValueError` for targets or weights of another shape, and for a `label_smoothing` outside [0, 1]; `TypeError` for
    targets that are neither probabilities nor int64 or uint8.
    """
    same_shape("targets", target, input.shape if target.is_floating_point() else (len(input), *input.shape[2:]))
    same_shape("weight", weight, (input.shape[1],))
    if not target.is_floating_point() and target.dtype not in (torch.int64, torch.uint8):
        raise TypeError(f"true classes are int64 or uint8, not {target.dtype}")
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing has to be between 0 and 1; got {label_smoothing}")
    floating(input)
    surprise = torch.logsumexp(input, 1, keepdim=True) - input  # (B, K, ...): -log of the probabilities
    if weight is not None:
        surprise = surprise * weight.view(1, -1, *[1] * (input.ndim - 2))
    if target.is_floating_point():
        loss = (surprise * target).sum(1)  # (B, K, ...) -> (B, ...)
        count = None
    else:
        ignored = target == ignore_index
        chosen = target.masked_fill(ignored, 0).long()
        loss = surprise.gather(1, chosen.unsqueeze(1)).squeeze(1).masked_fill(ignored, 0.0)  # (B, K, ...) -> (B, ...)
        count = (~ignored if weight is None else weight[chosen].masked_fill(ignored, 0.0)).sum()
    if label_smoothing:
        spread = surprise.mean(1)
        spread = spread if target.is_floating_point() else spread.masked_fill(ignored, 0.0)
        loss = (1 - label_smoothing) * loss + label_smoothing * spread
    return _reduced(loss, reduction, count)


def mse_loss(input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """(input - target)^2, of one shape: else `ValueError`."""
    same_shape("targets", target, input.shape)
    return _reduced((input - target).square(), reduction)


def huber_loss(input: Tensor, target: Tensor, reduction: str = "mean", delta: float = 1.0) -> Tensor:
    """Half the square of an error up to `delta`, above it the straight line that continues it: Huber 1964.

    Raises `ValueError` when the shapes differ, or for a `delta` of 0 or below.
    """
    same_shape("targets", target, input.shape)
    if delta <= 0:
        raise ValueError(f"delta has to be above 0; got {delta}")
    error = (input - target).abs()
    return _reduced(torch.where(error <= delta, error.square() / 2, delta * (error - delta / 2)), reduction)


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """-t log sigmoid(x) - (1 - t) log sigmoid(-x), from logits and targets in [0, 1] of one shape.

    `weight` counts an element; `pos_weight` the first term. Raises `ValueError` when the shapes differ.
    """
    same_shape("targets", target, input.shape)
    below = (-input.abs()).exp().log1p()  # log(1 + e^-|x|), which cannot overflow
    positives = target if pos_weight is None else target * pos_weight
    zero = input.new_zeros(())  # where the two are equal, `maximum` has the gradient 1/2, as the curve has at 0
    loss = positives * (below + torch.maximum(-input, zero)) + (1 - target) * (below + torch.maximum(input, zero))
    return _reduced(loss if weight is None else loss * weight, reduction)


def kl_div(input: Tensor, target: Tensor, reduction: str = "mean", log_target: bool = False) -> Tensor:
    """Divergence target (log target - input) of log-probabilities `input` from probabilities, or their logarithms.

    "batchmean" is the divergence itself, a mean over the examples; torch's "mean" is one over elements.
    """
    if log_target:
        loss = target.exp() * (target - input)
    else:
        loss = torch.xlogy(target, target) - target * input  # 0 log 0 is 0
    return loss.sum() / len(input) if reduction == "batchmean" else _reduced(loss, reduction)


def triplet_margin_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    margin: float = 1.0,
    p: float = 2.0,
    eps: float = 1e-6,
    swap: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """max(0, d(anchor, positive) - d(anchor, negative) + margin): Schroff et al. 2015, https://arxiv.org/abs/1503.03832.

    Embeddings (B, C) each; d is the p-norm of the difference plus `eps`. `swap` takes the negative's distance to the
    positive where that is smaller. Raises `ValueError` for different numbers of dimensions, or a margin of 0 or below.
    """
    if not anchor.ndim == positive.ndim == negative.ndim:
        raise ValueError(f"embeddings of {anchor.ndim}, {positive.ndim} and {negative.ndim} dimensions")
    if margin <= 0:
        raise ValueError(f"margin has to be above 0; got {margin}")

    def distance(a: Tensor, b: Tensor) -> Tensor:
        return torch.linalg.vector_norm(a - b + eps, p, dim=-1)

    apart = distance(anchor, negative)
    if swap:
        apart = torch.minimum(apart, distance(positive, negative))
    return _reduced((distance(anchor, positive) - apart + margin).clamp_min(0), reduction)


def nt_xent(first: Tensor, second: Tensor, temperature: float = 0.5) -> Tensor:
    """Contrastive loss of SimCLR: Chen et al. 2020, https://arxiv.org/abs/2002.05709, equation 1; mean over all 2B views.

    first and second (B, C) are embeddings of two views of the same B examples. Each view has to tell its partner, by the
    cosine, from the 2B - 2 views of the others. An embedding of zeros is as far from all.
    """
    views = torch.cat([first, second])  # (2B, C)
    views = views / torch.linalg.vector_norm(views, dim=1, keepdim=True).clamp_min(torch.finfo(views.dtype).eps)
    similarity = views @ views.T / temperature  # (2B, 2B)
    itself = torch.eye(len(views), dtype=torch.bool, device=views.device)
    partner = torch.arange(len(views), device=views.device).roll(len(first))
    return cross_entropy(similarity.masked_fill(itself, -torch.inf), partner)


def ctc_loss(
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> Tensor:
    """-log of the probability that a path reads as the target: Graves et al. 2006, https://doi.org/10.1145/1143844.1143891.

    A path has a symbol or the blank at each step; it is read by joining repetitions, then dropping blanks.

    Args:
        log_probs: (T, B, K), logarithms of probabilities.
        targets: (B, S), filled up with anything, or all joined, (sum of target_lengths,).
        input_lengths: (B,), steps of each; of none, a path reads as the empty target alone.
        reduction: "mean" divides each loss by the length of its target first.
        zero_infinity: a target that is too long for any path to read counts 0, not infinity.
    """
    device = log_probs.device
    lengths = torch.as_tensor(target_lengths, device=device)
    if targets.ndim == 1:
        targets = pad_sequence(targets.split(lengths.tolist()), batch_first=True)
    targets = targets.masked_fill(torch.arange(targets.shape[1], device=device) >= lengths[:, None], blank)
    steps = torch.as_tensor(input_lengths, device=device)
    same_shape("target_lengths", lengths, log_probs.shape[1:2])
    same_shape("input_lengths", steps, log_probs.shape[1:2])
    if (torch.stack([steps, lengths]) < 0).any():
        raise ValueError("lengths have to be 0 or more")
    final = _log_beginnings(log_probs, targets, blank)[steps, torch.arange(len(steps), device=device)]  # (B, 2S + 1)
    in_blank = final.gather(1, 2 * lengths[:, None])  # paths that end with the blank after the last symbol
    in_symbol = final.gather(1, (2 * lengths[:, None] - 1).clamp_min(0)).masked_fill(lengths[:, None] == 0, NEVER)
    likelihood = torch.logaddexp(in_blank, in_symbol).squeeze(1)
    loss = torch.where(likelihood < NEVER / 2, 0.0 if zero_infinity else math.inf, -likelihood)
    return _reduced(loss / lengths.clamp_min(1) if reduction == "mean" else loss, reduction)


def _log_beginnings(log_probs: Tensor, targets: Tensor, blank: int) -> Tensor:
    """Equations 6 and 7 in logarithms: (T + 1, B, 2S + 1), of all beginnings of paths that after t steps stand at a place.

    Places are those of the target with a blank before, between and after its symbols. Before the first step, all stand
    at the first blank: from there they come to it, or to the first symbol.
    """
    steps, batch, _ = log_probs.shape
    places = targets.new_full((batch, 2 * targets.shape[1] + 1), blank)
    places[:, 1::2] = targets  # (B, S) -> (B, 2S + 1)
    may_skip = (places != blank) & (places != F.pad(places, (2, 0), value=blank)[:, :-2])  # the blank between two that differ
    emitted = log_probs.gather(2, places.expand(steps, -1, -1))  # (T, B, K) -> (T, B, 2S + 1)
    start = emitted.new_full(places.shape, NEVER)
    start[:, 0] = 0.0
    alphas = [start]
    for now in emitted:
        stayed = alphas[-1]
        moved = F.pad(stayed, (1, 0), value=NEVER)[:, :-1]
        skipped = F.pad(stayed, (2, 0), value=NEVER)[:, :-2].masked_fill(~may_skip, NEVER)
        alphas.append(torch.stack([stayed, moved, skipped]).logsumexp(0) + now)
    return torch.stack(alphas)
