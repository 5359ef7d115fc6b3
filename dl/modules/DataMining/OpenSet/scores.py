"""Eight out-of-distribution scores, one per paper. Higher means less familiar.

Four read the logits alone, and are functions: `msp`, `max_logit`, `energy`, `entropy`. Four are fitted to the features or
logits of training images, and are classes whose objects are called: `Mahalanobis` (in ../), `KNN`, `ViM`, `OpenMax`.
`fit_all` makes all eight for a network. The fitted ones compute in float64: on the CPU if the device has none (MPS).
"""

import math
from typing import Callable, NamedTuple

import torch
from torch import Tensor

from dl.modules.DataMining.mahalanobis import Mahalanobis, double
from dl.modules.DataMining.neighbours import Exact
from dl.mytorch.config import UserError
from dl.mytorch.float64 import with_float64

# N images, C classes, D features

Score = Callable[[Tensor, Tensor], Tensor]  # features (N, D), logits (N, C) -> (N,)


class TrainingStatistics(NamedTuple):
    """What a network makes of its training images, and its last layer: logits = features @ weight.T + bias."""

    features: Tensor  # (N, D)
    logits: Tensor  # (N, C)
    labels: Tensor  # (N,)
    weight: Tensor  # (C, D)
    bias: Tensor  # (C,)


def msp(logits: Tensor) -> Tensor:
    """Return 1 - the maximum softmax probability. Hendrycks & Gimpel 2017, https://arxiv.org/abs/1610.02136. (N, C) -> (N,)."""
    return 1 - logits.softmax(-1).amax(-1)


def max_logit(logits: Tensor) -> Tensor:
    """Return the largest logit, negated. Hendrycks et al. 2022, https://arxiv.org/abs/1911.11132. (N, C) -> (N,)."""
    return -logits.amax(-1)


def energy(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Return -T log sum_i exp(logit_i / T). Liu et al. 2020, https://arxiv.org/abs/2010.03759, equation 4. (N, C) -> (N,)."""
    return -temperature * (logits / temperature).logsumexp(-1)


def entropy(logits: Tensor) -> Tensor:
    """Return the entropy of the predicted distribution, in nats.

    Lakshminarayanan et al. 2017, https://arxiv.org/abs/1612.01474,
    section 3.5, of one network. (N, C) -> (N,)."""
    log_p = logits.log_softmax(-1)
    return -torch.where(log_p.isneginf(), 0, log_p.exp() * log_p).sum(-1)  # the limit of p log p is 0


class KNN:
    """Distance to the k-th nearest training image, of features brought to length 1.

    Sun et al. 2022, https://arxiv.org/abs/2204.06507, section 3. The paper's k is 50 for 50,000 training images. Of fewer
    than k it is the farthest. Raises `UserError` for features that are not finite.
    """

    def __init__(self, features: Tensor, k: int = 50) -> None:
        self.k = k
        self.exact = Exact(_directions(features))

    def __call__(self, features: Tensor) -> Tensor:
        return self.exact.search(_directions(features), self.k, "l2")[0][:, -1]


def _directions(features: Tensor) -> Tensor:
    """Return features (N, D) of length 1 in float32, whatever their scale; 0 stays 0."""
    features = double(features)
    largest = features.abs().amax(-1, keepdim=True)
    scale = torch.where(largest > 0, largest / largest.frexp().mantissa, 1.0)  # a power of two: no digit changes
    return torch.nn.functional.normalize((features / scale).float())


class ViM:
    """Probability of a virtual class beside the others, whose logit grows with what the training features do not span.

    Wang et al. 2022, https://arxiv.org/abs/2203.10807, section 4: features are taken from the origin -pinv(W) b; their
    residual is their part outside of the `dim` principal directions of the training features (equation 4), scaled by
    alpha, which makes its mean that of the largest logits in training (equation 6). If the training features have no
    residual but for rounding, as when half of them are always 0, there is nothing to scale, and alpha is 0.

    `dim`: default D / 2. Raises `ValueError` when it is not below D, and `UserError` for features that are not finite.
    """

    def __init__(self, known: TrainingStatistics, dim: int = 0) -> None:
        size = known.features.shape[1]
        dim = dim or size // 2
        if not 0 < dim < size:
            raise ValueError(f"dim {dim} has to be above 0 and below the {size} features")
        features, logits, _, weight, bias = map(double, known)
        self.origin = -torch.linalg.pinv(weight) @ bias  # (D,)
        moved = features - self.origin
        directions = torch.linalg.eigh(moved.T @ moved).eigenvectors  # (D, D), rising eigenvalues
        self.residual_space = directions[:, : size - dim]  # R, (D, D - dim)
        lengths = (moved @ self.residual_space).norm(dim=-1)
        rounding = 1e-6 * moved.norm(dim=-1).mean()  # of features in float32
        self.alpha = torch.where(lengths.mean() > rounding, logits.amax(-1).mean() / lengths.mean(), 0.0)

    def __call__(self, features: Tensor, logits: Tensor) -> Tensor:
        virtual = self.alpha * ((double(features) - self.origin) @ self.residual_space).norm(dim=-1)
        # The virtual class's log-odds order images as its probability does, and do not all round to 0 or 1.
        return virtual - double(logits).logsumexp(-1)


class OpenMax:
    """Probability of "unknown" after the logits of the likeliest classes are lowered by how far off the image is.

    Bendale & Boult 2016, https://arxiv.org/abs/1511.06233. Algorithm 1: for each class the mean logits of the training
    images that are rightly classified, and a Weibull distribution of the `tail` largest Euclidean distances to it, moved
    to begin 1 below the least of these, as libMR does. Algorithm 2: of the `alpha` largest logits, the i-th (from 0) loses
    the share (alpha - i) / alpha * F(distance) to the class "unknown". Raises `UserError` for a class without any.
    """

    def __init__(self, logits: Tensor, labels: Tensor, tail: int = 20, alpha: int = 3) -> None:
        logits, labels = double(logits), with_float64(labels)
        right = logits.argmax(-1) == labels
        if missing := set(range(logits.shape[1])) - set(labels[right].tolist()):
            cause = f"no training image of class {min(missing)} is rightly classified"
            raise UserError(f"{cause}, and OpenMax needs some of each: train longer")
        self.alpha = min(alpha, logits.shape[1])
        self.means = torch.stack([logits[right & (labels == c)].mean(0) for c in range(logits.shape[1])])  # (C, C)
        fits = []
        for label, mean in enumerate(self.means):
            distances = (logits[right & (labels == label)] - mean).norm(dim=-1)
            far = distances.topk(min(tail, len(distances))).values
            fits.append((far.amin().item() - 1, *fit_weibull(far - far.amin() + 1)))
        self.start, self.shape, self.scale = torch.tensor(fits, dtype=torch.float64, device=logits.device).T  # (C,) each

    def __call__(self, logits: Tensor) -> Tensor:
        logits = double(logits)
        distances = (logits[:, None] - self.means).norm(dim=-1)  # (N, C)
        outside = 1 - (-(((distances - self.start).clamp_min(0) / self.scale) ** self.shape)).exp()  # Weibull's F
        order = logits.argsort(-1, descending=True)[:, : self.alpha]
        weights = torch.arange(self.alpha, 0, -1, dtype=logits.dtype, device=logits.device) / self.alpha
        lost = torch.zeros_like(logits).scatter(1, order, weights.expand_as(order)) * outside
        moved = torch.cat([logits * (1 - lost), (logits * lost).sum(-1, keepdim=True)], -1)  # (N, C + 1)
        return moved.softmax(-1)[:, -1]


def fit_weibull(values: Tensor) -> tuple[float, float]:
    """Return the shape and scale of the Weibull distribution of the greatest likelihood for values (N,) above 0.

    The shape k solves sum(x^k log x) / sum(x^k) - 1 / k = mean(log x), whose left side rises with k: by bisection. The
    scale is mean(x^k)^(1/k). Raises `ValueError` for values that are not above 0; equal ones get a shape of 1,000.
    """
    if not len(values) or not (values > 0).all():
        raise ValueError("a Weibull distribution is fitted to values above 0, one at least")
    logs = with_float64(values).double().log()
    low, high = 1e-3, 1e3
    for _ in range(60):
        shape = (low * high) ** 0.5
        weights = (shape * logs).softmax(0)  # x^k / sum(x^k), without overflow
        if (weights * logs).sum() - 1 / shape < logs.mean():
            low = shape
        else:
            high = shape
    return shape, (((shape * logs).logsumexp(0) - math.log(len(logs))) / shape).exp().item()


def fit_all(known: TrainingStatistics) -> dict[str, Score]:
    """Return all eight scores by name."""
    mahalanobis, knn = Mahalanobis(known.features, known.labels), KNN(known.features)
    vim, openmax = ViM(known), OpenMax(known.logits, known.labels)
    return {
        "MSP": lambda features, logits: msp(logits),
        "MaxLogit": lambda features, logits: max_logit(logits),
        "energy": lambda features, logits: energy(logits),
        "entropy": lambda features, logits: entropy(logits),
        "Mahalanobis": lambda features, logits: mahalanobis(features),
        "kNN": lambda features, logits: knn(features),
        "ViM": vim,
        "OpenMax": lambda features, logits: openmax(logits),
    }
