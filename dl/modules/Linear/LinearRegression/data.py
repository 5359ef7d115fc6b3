"""A made-up table whose rule is known, so that every answer can be checked."""

import torch
from torch import Tensor

from dl.mytorch.data import Batch, Loader, Splits


def rule(num_features: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return the weight (num_features, 1) and the bias (1,) that targets are made with, standard normal."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_features, 1, generator=generator), torch.randn(1, generator=generator)


def rows(num_examples: int, num_features: int, noise: float, seed: int = 0, part: int = 0) -> Batch:
    """Standard normal "features" (N, D), and "targets" (N, 1): X w + b + `noise` times standard normal numbers.

    Parts of one seed follow the same rule and share no row.
    """
    weight, bias = rule(num_features, seed)
    generator = torch.Generator().manual_seed(2**32 + 3 * seed + part)
    features = torch.randn(num_examples, num_features, generator=generator)
    errors = noise * torch.randn(num_examples, 1, generator=generator)
    return {"features": features, "targets": features @ weight + bias + errors}


def table(num_examples: int, num_features: int, noise: float, batch_size: int, seed: int = 0) -> Splits:
    """`num_examples` rows to learn from, and as many to validate and to test."""
    train, val, test = (rows(num_examples, num_features, noise, seed, part) for part in range(3))
    return Splits(Loader(train, batch_size, shuffle=True, seed=seed), Loader(val, batch_size), Loader(test, batch_size))
