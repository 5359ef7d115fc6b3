"""NT-Xent, the normalised temperature-scaled cross-entropy: which of all other views is the second view of the same image?"""

import torch
from torch import Tensor
from torch.nn import functional as F

from dl.mytorch.gathering import gather_with_gradient

# n images of this rank, N of all ranks, D length of an embedding


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Equation 1 of the paper and algorithm 1: mean over the 2n views of this rank, each compared with the 2N - 1 others.

    `first`, `second` (n, D) are the embeddings of two views of each image, of any length. The mean of the ranks' losses,
    weighted by n, is the loss of one process with all images, and so is its gradient.
    """
    pairs = torch.stack([first, second], dim=1)  # (n, 2, D)
    pairs = F.normalize(pairs.to(torch.promote_types(pairs.dtype, torch.float32)), dim=-1)
    gathered, start = gather_with_gradient(pairs)  # (N, 2, D)
    own, everyone = pairs.flatten(0, 1), gathered.flatten(0, 1)  # (2n, D), (2N, D): views 2i and 2i + 1 are of image i
    itself = 2 * start + torch.arange(len(own), device=own.device)
    similarities = own @ everyone.T / temperature  # (2n, 2N)
    similarities = similarities.scatter(1, itself[:, None], -torch.inf)
    return F.cross_entropy(similarities, itself ^ 1)
