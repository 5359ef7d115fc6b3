"""How much labels say about features: the k-nearest-neighbour and the linear probe of encoders trained without labels.

Both only read features: an encoder in evaluation mode is as it was afterwards.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

# Q queries, N examples with labels, D features

DECAYS = (1e-4, 1e-3, 1e-2, 1e-1)  # of the linear probe: half of the squared weights counts so much


def knn_classes(queries: Tensor, bank: Tensor, labels: Tensor, k: int = 20) -> Tensor:
    """Return a class for each of `queries` (Q, D) by the k nearest in `bank` (N, D), whose classes are `labels` (N,)."""
    cosines, rows = nearest(queries, bank, k)
    return vote(cosines, labels[rows])


def nearest(queries: Tensor, bank: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k largest cosines of each of `queries` (Q, D) with `bank` (N, D), largest first, and their rows, (Q, k)."""
    bank, k = F.normalize(bank, dim=1).T, min(k, len(bank))
    parts = [(F.normalize(part, dim=1) @ bank).topk(k) for part in queries.split(256)]
    cosines, rows = (torch.cat(part) for part in zip(*parts))
    return cosines, rows


def vote(cosines: Tensor, labels: Tensor, temperature: float = 0.1) -> Tensor:
    """Return the class (Q,) for which neighbours with `cosines` (Q, k) and `labels` (Q, k) vote; of equal sums the lowest.

    Wu et al. 2018, https://arxiv.org/abs/1805.01978, section 3.4: each votes with weight exp(cosine / temperature).
    """
    votes = cosines.new_zeros(len(cosines), int(labels.max()) + 1)
    return votes.scatter_add_(1, labels, (cosines / temperature).exp()).argmax(1)


def linear_classes(queries: Tensor, features: Tensor, labels: Tensor, seed: int = 0) -> Tensor:
    """Return a class for each of `queries` (Q, D) by logistic regression on `features` (N, D) with `labels` (N,).

    Features are standardised by the mean and deviation of those with labels. A fifth of these, drawn by `seed`, chooses the
    decay of the weights from DECAYS; the regression is then fitted to all. SimCLR, appendix B.8, does so with 45 decays.
    """
    mean, std = features.mean(0), features.std(0).clamp(min=1e-6)
    features, queries = (features - mean) / std, (queries - mean) / std
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).to(labels.device)
    held_out, rest = order[: len(order) // 5], order[len(order) // 5 :]
    num_classes = int(labels.max()) + 1

    def errors(decay: float) -> int:
        head = fit_linear(features[rest], labels[rest], num_classes, decay)
        return int((_logits(head, features[held_out]).argmax(1) != labels[held_out]).sum())

    head = fit_linear(features, labels, num_classes, min(DECAYS, key=errors))
    return _logits(head, queries).argmax(1)


@torch.enable_grad()
def fit_linear(features: Tensor, labels: Tensor, num_classes: int, decay: float, steps: int = 60) -> Tensor:
    """Return weights (D + 1, num_classes), the last row the bias, of least mean cross-entropy + decay / 2 |weights|^2.

    By L-BFGS from zero, at most `steps` iterations. The bias does not decay.
    """
    head = features.new_zeros(features.shape[1] + 1, num_classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([head], max_iter=steps, history_size=10, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(_logits(head, features), labels) + decay / 2 * head[:-1].square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return head.detach()


def _logits(head: Tensor, features: Tensor) -> Tensor:
    return torch.addmm(head[-1], features, head[:-1])


def share_of_each_class(labels: Tensor, share: float, seed: int = 0) -> Tensor:
    """Return the rows (n,) of a `share` of the examples of each class, at least one, drawn by `seed`."""
    rows = []
    generator = torch.Generator().manual_seed(seed)
    for label in labels.unique().tolist():
        own = (labels.cpu() == label).nonzero().flatten()
        rows.append(own[torch.randperm(len(own), generator=generator)[: max(1, round(share * len(own)))]])
    return torch.cat(rows).to(labels.device)
