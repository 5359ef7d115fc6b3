"""The losses of CLIP and of SigLIP, exact over ranks: each rank's pairs are compared with the texts and images of all."""

import torch
from torch import Tensor
from torch.nn import functional as F

from dl.modules.Multimodal.CLIP.model import Embedded
from dl.mytorch.gathering import gather_with_gradient


def clip_loss(pairs: Embedded) -> Tensor:
    """Return the mean of two cross-entropies: of each image's own text among all, and of each text's own image (figure 3)."""
    texts, start = gather_with_gradient(pairs.text)
    images, _ = gather_with_gradient(pairs.image)
    own = start + torch.arange(len(pairs.image), device=texts.device)
    to_text, to_image = pairs.scale * pairs.image @ texts.T, pairs.scale * pairs.text @ images.T  # (b, B) each
    return (F.cross_entropy(to_text, own) + F.cross_entropy(to_image, own)) / 2


def siglip_loss(pairs: Embedded) -> Tensor:
    """Return Zhai et al.'s algorithm 1: the log-loss of every pair by itself, summed over texts, the mean over images."""
    texts, start = gather_with_gradient(pairs.text)
    scores = pairs.scale * pairs.image @ texts.T + pairs.bias  # (b, B)
    signs = torch.full_like(scores, -1.0)
    signs[torch.arange(len(scores)), start + torch.arange(len(scores))] = 1.0
    return -F.logsigmoid(signs * scores).sum(1).mean()
