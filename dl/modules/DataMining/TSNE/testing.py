"""What the tests of t-SNE share."""

import torch
from torch import Tensor


def clusters(count: int, groups: int = 3, size: int = 8, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centres = 4 * torch.randn(groups, size, generator=torch.Generator().manual_seed(9))
    labels = torch.arange(count) % groups
    return centres[labels] + torch.randn(count, size, generator=generator), labels
