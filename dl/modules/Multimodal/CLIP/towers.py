"""Both towers of a run as search takes them: images of any size, and texts, as directions in one space."""

from typing import Sequence

import torch
from torch import Tensor

from dl.cli.runs import Run
from dl.modules.Multimodal.CLIP.model import CLIP, example
from dl.modules.Multimodal.CLIP.tokens import padded, tokenizer
from dl.mytorch.data import centre_square
from dl.mytorch.data.augment import signed


class Towers:
    """A trained CLIP. Raises `UserError` for a network whose texts need a vocabulary that is not here."""

    def __init__(self, run: Run) -> None:
        self.model: CLIP = run.model()  # type: ignore[assignment]
        self.size = example(run.config.model)[0].shape[-1]
        self.tokenize = tokenizer(self.model.text)

    @torch.no_grad()
    def images(self, images: Sequence[Tensor]) -> Tensor:
        """Images (3, H, W) of bytes -> unit vectors (N, E)."""
        squares = torch.stack([centre_square(image, self.size) for image in images])
        return self.model.encode_images(signed({"images": squares}, torch.Generator())["images"])

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Texts -> unit vectors (N, E), near those of images that they name."""
        return self.model.encode_texts(padded([self.tokenize(text) for text in texts]))
