"""Latent diffusion: diffusion in the latent space of an autoencoder, conditioned by cross-attention.

"High-Resolution Image Synthesis with Latent Diffusion Models", Robin Rombach, Andreas Blattmann, Dominik Lorenz, Patrick Esser,
Bjoern Ommer, 2021, https://arxiv.org/abs/2112.10752.

An autoencoder (autoencoder.py), trained first and then frozen, makes of an image a small map of latents, from which most of the
pixels' detail is gone. A U-Net (unet.py) learns to denoise such maps, which is far cheaper than to denoise images; in each of
its transformer blocks it attends to the tokens of a condition: a class, or the characters of a text. What it draws the decoder
turns into an image.

"text_to_image" has the paper's autoencoder and U-Net (appendix E, table 15), "small" is ours for 28x28 on a CPU, and "tiny" for
tests.

Deviations:
- The first stage is trained without the perceptual and the adversarial loss, which need a trained VGG and a discriminator:
  absolute error and KL alone (task.py).
- Texts are read by their bytes, where the paper has BERT's vocabulary.
- A text starts with a token of its own, so that the empty text, which stands for "no condition", has one token to attend to.
"""

from typing import Any, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from dl.modules.Diffusion.LatentDiffusion.autoencoder import AUTOENCODERS, Autoencoder, Posterior
from dl.modules.Diffusion.LatentDiffusion.unet import Attention, UNet
from dl.mytorch.layers import sequential

# B batch, Z channels of the latents, Y their side, S tokens of a condition, E their width

PADDING, START = 0, 257  # tokens beside those of the bytes, 1 to 256


def text_tokens(texts: Sequence[str]) -> Tensor:
    """Return the tokens (N, S) of texts: a start, then the bytes in UTF-8 of the text in lower case, padded."""
    return pad_sequence([torch.tensor([START, *(byte + 1 for byte in text.lower().encode())]) for text in texts], True)


class TextBlock(nn.Module):
    """Self-attention and feed-forward, each after a norm and around a shortcut. (B, S, E) -> the same."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attention = Attention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim)
        self.feed_forward = sequential(fc1=nn.Linear(dim, 4 * dim), act=nn.GELU(), fc2=nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor, padding_mask: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x), padding_mask=padding_mask)
        return x + self.feed_forward(self.norm2(x))


class TextEncoder(nn.Module):
    """An unmasked transformer, tau of section 3.3: at most `max_length` tokens (B, S) -> (B, S, E), and the padding (B, S)."""

    def __init__(self, dim: int, depth: int, num_heads: int, max_length: int) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(START + 1, dim)
        self.position_embedding = nn.Embedding(max_length, dim)
        self.blocks = nn.ModuleList(TextBlock(dim, num_heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        for embedding in (self.token_embedding, self.position_embedding):
            nn.init.normal_(embedding.weight, std=0.02)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        padding_mask = tokens == PADDING
        x = self.token_embedding(tokens) + self.position_embedding(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.blocks:
            x = block(x, padding_mask)
        return self.norm(x), padding_mask


class LatentDiffusion(nn.Module):
    """A U-Net on the latents of a trained `autoencoder`, which is frozen, with what reads the condition.

    Args:
        image_size: side of the images in pixels.
        num_classes: labels that condition it; 0 = none. One row more stands for "no label".
        texts: what each label says, read by a text encoder; () = each label has an embedding, a context of one token.
        text_depth, text_heads, text_length: of the text encoder: blocks, heads, and tokens of the longest text.

    `scale`, 1 / std of the latents, is set before training by `set_scale` and kept with the weights. Others are those of
    `UNet`. Raises `ValueError` for images that the autoencoder cannot halve, and for other than `num_classes` texts.
    """

    def __init__(
        self,
        autoencoder: Autoencoder,
        image_size: int,
        num_classes: int = 0,
        texts: Sequence[str] = (),
        context_dim: int = 64,
        text_depth: int = 2,
        text_heads: int = 4,
        text_length: int = 64,
        **options: Any,
    ) -> None:
        super().__init__()
        self.autoencoder = autoencoder.requires_grad_(False)
        side = autoencoder.side(image_size)
        self.latent_shape = (autoencoder.latent_channels, side, side)
        self.register_buffer("scale", torch.ones(()))
        channels = autoencoder.latent_channels
        self.unet = UNet(in_channels=channels, out_channels=channels, context_dim=context_dim, **options)
        self.num_classes = num_classes
        if texts:
            if len(texts) != num_classes:
                raise ValueError(f"{len(texts)} texts for {num_classes} classes")
            self.condition = TextEncoder(context_dim, text_depth, text_heads, text_length)
            self.set_texts(texts)
        else:
            self.condition = nn.Embedding(num_classes + 1, context_dim)

    def set_texts(self, texts: Sequence[str]) -> None:
        """Let the labels 0, 1, ... stand for these texts, and `num_classes`, which is their number, for the empty one.

        Raises `ValueError` for a text that is longer than the encoder reads.
        """
        tokens, most = text_tokens([*texts, ""]), self.condition.position_embedding.num_embeddings
        if tokens.shape[1] > most:
            raise ValueError(f"a text of {tokens.shape[1] - 1} bytes: {most - 1} are the most that this network reads")
        self.register_buffer("tokens", tokens.to(self.scale.device), persistent=False)
        self.num_classes = len(texts)

    def set_scale(self, std: float) -> None:
        """Set `scale` to 1 / std of the autoencoder's latents: appendix G."""
        self.scale.fill_(1 / std)

    @torch.no_grad()
    def encode(self, posterior: Posterior) -> Tensor:
        """Draw latents (B, Z, Y, Y) of images and scale them, as `forward` takes them: their std is about 1."""
        return posterior.sample() * self.scale

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents (B, Z, Y, Y) -> images (B, C, X, X), about in [-1, 1]."""
        return self.autoencoder.decode(latents / self.scale)

    def forward(self, latents: Tensor, times: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        """Noisy scaled latents (B, Z, Y, Y) at times (B,), by default all 0 -> the prediction (B, Z, Y, Y).

        Labels (B,) are from 0 to num_classes, which is "no label" and the default.
        """
        times = latents.new_zeros(len(latents)) if times is None else times
        if labels is None:
            labels = torch.full((len(latents),), self.num_classes, device=latents.device)
        return self.unet(latents, times, *self.context(labels))

    def context(self, labels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Labels (B,) -> tokens (B, S, E), and where they are padding (B, S). Each text is read once, however often it is."""
        if isinstance(self.condition, nn.Embedding):
            return self.condition(labels)[:, None], None
        labels, places = labels.unique(return_inverse=True)
        tokens, padding_mask = self.condition(self.tokens[labels])
        return tokens[places], padding_mask[places]


PRESETS: dict[str, dict[str, Any]] = {
    "small": {"image_size": 28, "widths": (48, 96), "depth": 1, "attention": (1,), "num_heads": 4, "groups": 8},
    "text_to_image": {
        **{"autoencoder": "kl_f8", "image_size": 256, "widths": (320, 640, 1280, 1280), "context_dim": 1280},
        **{"text_depth": 32, "text_heads": 8, "text_length": 77},
    },
    "tiny": {
        **{"autoencoder": "tiny", "image_size": 28, "widths": (4, 8), "depth": 1, "attention": (1,), "num_heads": 2},
        **{"groups": 2, "context_dim": 6, "text_depth": 1, "text_heads": 2},
    },
}


def build(preset: str = "small", **overrides: Any) -> LatentDiffusion:
    """Return a latent diffusion model by the name of its preset; `overrides` are arguments of `LatentDiffusion`."""
    options = {"autoencoder": "small", **PRESETS[preset], **overrides}
    if isinstance(options["autoencoder"], str):
        options["autoencoder"] = Autoencoder(**AUTOENCODERS[options["autoencoder"]])
    return LatentDiffusion(**options)


def example(preset: str) -> tuple[Tensor]:
    """Return latents that the preset takes: zeros (1, Z, Y, Y)."""
    autoencoder = AUTOENCODERS[PRESETS[preset].get("autoencoder", "small")]
    side = PRESETS[preset]["image_size"] // 2 ** (len(autoencoder["widths"]) - 1)
    return (torch.zeros(1, autoencoder.get("latent_channels", 4), side, side),)
