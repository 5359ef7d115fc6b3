"""DDPM's U-Net.

"Denoising Diffusion Probabilistic Models", Jonathan Ho, Ajay Jain, Pieter Abbeel, 2020,
https://arxiv.org/abs/2006.11239, appendix B: the network that predicts the noise in an image. Group norms, self-attention
at chosen resolutions, the time step as a sinusoidal embedding in every residual block.

"cifar10" is the paper's, with its 35.7 million parameters. "small" is ours, for 28x28 on a CPU, and "tiny", for tests.

Options beyond the paper:
- num_classes: a label conditions the network through an embedding that is added to the time's. One row more stands for
  "no label", which classifier-free guidance needs (Ho & Salimans 2022, https://arxiv.org/abs/2207.12598).
- patch: squares of patch x patch pixels are the channels of one position of a smaller map, for training on a CPU
  (Hoogeboom et al. 2023, https://arxiv.org/abs/2301.11093, section 3.2).

Deviations: none for "cifar10".
"""

from typing import Any, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dl.mytorch.layers import fused_attention, sequential, time_frequencies

# B batch, C channels, X side of a feature map, H heads, D width of a head, E width of the embedding of time and label


class ResidualBlock(nn.Module):
    """x + conv(norm(conv(norm(x)) + time)), with SiLU after each norm. (B, in_channels, X, X) -> (B, out_channels, X, X)."""

    def __init__(self, in_channels: int, out_channels: int, embedding: int, groups: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, in_channels, eps=1e-6)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.time = nn.Linear(embedding, out_channels)
        self.norm2 = nn.GroupNorm(groups, out_channels, eps=1e-6)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.act = nn.SiLU()
        self.shortcut = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        y = self.conv1(self.act(self.norm1(x)))
        y = y + self.time(embedding)[:, :, None, None]  # (B, E) -> (B, C, 1, 1)
        y = self.conv2(self.dropout(self.act(self.norm2(y))))
        return self.shortcut(x) + y


class AttentionBlock(nn.Module):
    """x + attention(norm(x)), where each position of a map attends to all, in H heads. (B, C, X, X) -> the same."""

    def __init__(self, channels: int, heads: int, groups: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)
        self.weights = nn.Identity()  # a `Probe` on it sees the attention weights (B, H, X X, X X)
        self.output = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        positions = self.norm(x).flatten(2).transpose(1, 2)  # (B, C, X, X) -> (B, X X, C)
        query, key, value = (
            layer(positions).unflatten(2, (self.heads, -1)).transpose(1, 2)  # (B, X X, C) -> (B, X X, H, D) -> (B, H, X X, D)
            for layer in (self.query, self.key, self.value)
        )
        y = fused_attention(query, key, value, weights=self.weights)
        y = self.output(y.transpose(1, 2).flatten(2))  # (B, H, X X, D) -> (B, X X, H, D) -> (B, X X, C)
        return x + y.transpose(1, 2).unflatten(2, x.shape[2:])  # (B, X X, C) -> (B, C, X X) -> (B, C, X, X)


class Block(nn.Module):
    """A residual block, and attention after it where the resolution asks for it."""

    def __init__(self, in_channels: int, out_channels: int, embedding: int, groups: int, dropout: float, heads: int) -> None:
        super().__init__()
        self.residual = ResidualBlock(in_channels, out_channels, embedding, groups, dropout)
        self.attention = AttentionBlock(out_channels, heads, groups) if heads else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.attention(self.residual(x, embedding))


class Downsample(nn.Module):
    """(B, C, X, X) -> (B, C, X/2, X/2) by a convolution. Its padding is right and below, as TensorFlow's "SAME" for even X."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """(B, C, X, X) -> (B, C, 2X, 2X): each value four times, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0))


class Level(nn.Module):
    """The blocks of one resolution, on the way down or up, and the change to the next."""

    def __init__(self, blocks: Sequence[nn.Module], resample: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.resample = resample


class UNet(nn.Module):
    """Appendix B: down through the resolutions, up again, with every output of the way down joined to the way up.

    Args:
        widths: channels at each resolution, which halves from one to the next.
        depth: blocks for each resolution on the way down; one more on the way up.
        attention: which resolutions have attention, 0 for the first. The middle always has it.
        head_dim: width of an attention head; 0 = one head, as in the paper.
        groups: of the group norms; a divisor of each width.
        num_classes: labels that condition it; 0 = none.
        patch: side of the squares of pixels that become channels; 1 = none.
        out_channels: of the prediction; 0 = as many as the images have.

    Raises `ValueError` for widths that do not divide into groups.
    """

    RENAMED = ((r"\.attention\.attention\.", ".attention."),)  # names of earlier versions as regular expressions, and today's

    def __init__(
        self,
        widths: Sequence[int],
        depth: int = 2,
        attention: Sequence[int] = (1,),
        in_channels: int = 3,
        out_channels: int = 0,
        num_classes: int = 0,
        dropout: float = 0.0,
        groups: int = 32,
        head_dim: int = 0,
        patch: int = 1,
    ) -> None:
        super().__init__()
        if any(width % groups or width % (head_dim or 1) for width in widths) or widths[0] < 4 or widths[0] % 2:
            raise ValueError(f"widths {tuple(widths)}: even, 4 or more, multiples of groups {groups} and head_dim {head_dim}")
        self.patch, self.num_classes, self.in_channels = patch, num_classes, in_channels
        self.halvings = len(widths) - 1
        embedding = 4 * widths[0]

        def block(into: int, out: int, attend: bool) -> Block:
            heads = (out // head_dim if head_dim else 1) if attend else 0
            return Block(into, out, embedding, groups, dropout, heads)

        self.time = sequential(fc1=nn.Linear(widths[0], embedding), act=nn.SiLU(), fc2=nn.Linear(embedding, embedding))
        self.label = nn.Embedding(num_classes + 1, embedding) if num_classes else None
        self.act = nn.SiLU()
        self.stem = nn.Conv2d(in_channels * patch**2, widths[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        channels, skips = widths[0], [widths[0]]
        for level, width in enumerate(widths):
            blocks = [block(channels if i == 0 else width, width, level in attention) for i in range(depth)]
            last = level == self.halvings
            self.down.append(Level(blocks, nn.Identity() if last else Downsample(width)))
            channels = width
            skips += [width] * (depth if last else depth + 1)
        self.middle = nn.ModuleList([block(channels, channels, True), block(channels, channels, False)])
        for level, width in reversed(list(enumerate(widths))):
            blocks = []
            for _ in range(depth + 1):
                blocks.append(block(channels + skips.pop(), width, level in attention))
                channels = width
            self.up.append(Level(blocks, Upsample(width) if level else nn.Identity()))
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.head = nn.Conv2d(channels, (out_channels or in_channels) * patch**2, 3, padding=1)
        self.init_weights()

    def init_weights(self) -> None:
        """Draw the weights uniform with variance 2 / (fan-in + fan-out), as https://github.com/hojonathanho/diffusion.

        What ends a residual branch, and the head, starts 100,000 times smaller: nearly at 0. Biases start at 0. The
        embedding of labels starts as torch's do, normal with std 1: smaller ones are long without effect.
        """
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, ResidualBlock):
                nn.init.xavier_uniform_(module.conv2.weight, gain=1e-5)
            elif isinstance(module, AttentionBlock):
                nn.init.xavier_uniform_(module.output.weight, gain=1e-5)
        nn.init.xavier_uniform_(self.head.weight, gain=1e-5)

    def forward(self, images: Tensor, times: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        """Noisy images (B, in_channels, H, W) at time steps (B,), by default all 0 -> the prediction (B, out_channels, H, W).

        Labels (B,) of a network with num_classes = K are from 0 to K, where K is "no label", which is the default. Raises
        `ValueError` as `check_sides`, and for labels of a network that takes none.
        """
        self.check_sides(*images.shape[2:])
        embedding = self.embed(images.new_zeros(len(images)) if times is None else times, labels)  # (B, E)
        x = self.stem(F.pixel_unshuffle(images, self.patch))  # (B, in_channels, H, W) -> (B, C, H/patch, W/patch)
        skips = [x]
        for level in self.down:
            for block in level.blocks:
                x = block(x, embedding)
                skips.append(x)
            if level is not self.down[-1]:
                x = level.resample(x)  # (B, C, X, X) -> (B, C, X/2, X/2)
                skips.append(x)
        for block in self.middle:
            x = block(x, embedding)
        for level in self.up:
            for block in level.blocks:
                x = block(torch.cat([x, skips.pop()], dim=1), embedding)
            x = level.resample(x)  # (B, C, X, X) -> (B, C, 2X, 2X)
        return F.pixel_shuffle(self.head(self.act(self.norm(x))), self.patch)  # (B, out_channels, H, W)

    def check_sides(self, height: int, width: int) -> None:
        """Raise `ValueError` for sides that cannot be halved often enough."""
        divisor = self.patch * 2**self.halvings
        if height % divisor or width % divisor:
            raise ValueError(f"images of {height} x {width}: both sides have to be multiples of {divisor}")

    def embed(self, times: Tensor, labels: Tensor | None) -> Tensor:
        """Times (B,) and labels (B,) or None -> (B, E), as the blocks take it."""
        if labels is not None and self.label is None:
            raise ValueError("this network was made without labels (num_classes 0), so it takes none")
        width = self.time.fc1.in_features
        embedding = self.time(time_frequencies(times, width).to(self.time.fc1.weight.dtype))
        if self.label is not None:
            if labels is None:
                labels = torch.full_like(times, self.num_classes, dtype=torch.int64)
            embedding = embedding + self.label(labels)
        return self.act(embedding)


PRESETS: dict[str, dict[str, Any]] = {
    "cifar10": {"widths": (128, 256, 256, 256), "attention": (1,), "dropout": 0.1},
    "small": {"widths": (48, 96), "depth": 1, "attention": (1,), "in_channels": 1, "groups": 8, "patch": 2},
    "tiny": {"widths": (8, 16), "depth": 1, "attention": (1,), "in_channels": 1, "groups": 4},
}


def build(preset: str = "cifar10", **overrides: Any) -> UNet:
    """Return a U-Net by the name of its preset; `overrides` are arguments of `UNet`."""
    return UNet(**{**PRESETS[preset], **overrides})


def example(preset: str) -> tuple[Tensor]:
    """Return an image that the preset takes: zeros (1, C, H, W)."""
    return (torch.zeros(1, 1, 28, 28) if PRESETS[preset].get("in_channels") == 1 else torch.zeros(1, 3, 32, 32),)
