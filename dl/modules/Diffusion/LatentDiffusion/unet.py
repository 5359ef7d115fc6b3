"""The network of the second stage: a U-Net whose positions attend to a condition.

Rombach et al. 2021, https://arxiv.org/abs/2112.10752, section 3.3 and appendix E.2.1: where a U-Net for images has
self-attention, this one has a transformer block with cross-attention to the condition's tokens.
"""

from typing import Sequence

import torch
from torch import Tensor, nn

from dl.modules.Diffusion.LatentDiffusion.autoencoder import Level, ResidualBlock, Upsample
from dl.mytorch.layers import fused_attention, sequential, time_frequencies

# B batch, C channels, X side of a map, N = X X positions, S tokens of the condition, H heads, D width of a head,
# E width of the time's embedding


class Attention(nn.Module):
    """From x (B, N, C) to `context` (B, S, context_dim), by default x itself, in H heads of width D = C / H: (B, N, C).

    Queries, keys and values have no bias. `padding_mask` (B, S) is True at tokens of the context that are not to be seen.
    """

    def __init__(self, dim: int, num_heads: int, context_dim: int = 0) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(dim, dim, bias=False)
        self.key = nn.Linear(context_dim or dim, dim, bias=False)
        self.value = nn.Linear(context_dim or dim, dim, bias=False)
        self.weights = nn.Identity()  # a `Probe` on it sees the attention weights (B, H, N, S)
        self.output = nn.Linear(dim, dim)

    def forward(self, x: Tensor, context: Tensor | None = None, padding_mask: Tensor | None = None) -> Tensor:
        context = x if context is None else context
        query, key, value = (
            layer(tokens).unflatten(2, (self.num_heads, -1)).transpose(1, 2)  # -> (B, N or S, H, D) -> (B, H, N or S, D)
            for layer, tokens in ((self.query, x), (self.key, context), (self.value, context))
        )
        y = fused_attention(query, key, value, padding_mask, weights=self.weights)
        return self.output(y.transpose(1, 2).flatten(2))  # (B, H, N, D) -> (B, N, H, D) -> (B, N, C)


class GEGLU(nn.Module):
    """fc2(a * GELU(b)), where fc1 gives a and b (Shazeer 2020, https://arxiv.org/abs/2002.05202). (B, N, C) -> the same."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 8 * dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.fc1(x).chunk(2, dim=-1)  # (B, N, 8C) -> 2 x (B, N, 4C)
        return self.fc2(value * self.act(gate))


class SpatialTransformer(nn.Module):
    """x + a transformer block on the positions of a map: self-attention, cross-attention, feed-forward. (B, C, X, X)."""

    def __init__(self, channels: int, num_heads: int, context_dim: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.input = nn.Conv2d(channels, channels, 1)
        self.norm1 = nn.LayerNorm(channels)
        self.self_attention = Attention(channels, num_heads)
        self.norm2 = nn.LayerNorm(channels)
        self.cross_attention = Attention(channels, num_heads, context_dim)
        self.norm3 = nn.LayerNorm(channels)
        self.feed_forward = GEGLU(channels)
        self.output = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, context: Tensor, padding_mask: Tensor | None) -> Tensor:
        y = self.input(self.norm(x)).flatten(2).transpose(1, 2)  # (B, C, X, X) -> (B, N, C)
        y = y + self.self_attention(self.norm1(y))
        y = y + self.cross_attention(self.norm2(y), context, padding_mask)
        y = y + self.feed_forward(self.norm3(y))
        return x + self.output(y.transpose(1, 2).unflatten(2, x.shape[2:]))  # (B, N, C) -> (B, C, X, X)


class Block(nn.Module):
    """A residual block, and a transformer after it where the resolution asks for it."""

    def __init__(self, in_channels: int, out_channels: int, groups: int, embedding: int, heads: int, context_dim: int) -> None:
        super().__init__()
        self.residual = ResidualBlock(in_channels, out_channels, groups, 1e-5, embedding)
        self.attention = SpatialTransformer(out_channels, heads, context_dim, groups) if heads else None

    def forward(self, x: Tensor, embedding: Tensor, context: Tensor, padding_mask: Tensor | None) -> Tensor:
        x = self.residual(x, embedding)
        return x if self.attention is None else self.attention(x, context, padding_mask)


class UNet(nn.Module):
    """Down through the resolutions, up again, with every output of the way down joined to the way up.

    Args:
        widths: channels at each resolution, which halves from one to the next; odd sides are rounded up.
        depth: blocks for each resolution on the way down; one more on the way up.
        attention: which resolutions have transformers, 0 for the first. The middle always has one.
        num_heads: of each attention, whatever its width.
        context_dim: width of the condition's tokens.
        groups: of the group norms; a divisor of each width.

    Raises `ValueError` for widths that do not divide into groups or heads.
    """

    def __init__(
        self,
        widths: Sequence[int],
        depth: int = 2,
        attention: Sequence[int] = (0, 1, 2),
        num_heads: int = 8,
        context_dim: int = 768,
        in_channels: int = 4,
        out_channels: int = 4,
        groups: int = 32,
    ) -> None:
        super().__init__()
        if any(width % groups or width % num_heads for width in widths) or widths[0] % 2:
            raise ValueError(f"widths {tuple(widths)}: even, and multiples of groups {groups} and num_heads {num_heads}")
        embedding, lowest = 4 * widths[0], len(widths) - 1

        def block(into: int, out: int, attend: bool) -> Block:
            return Block(into, out, groups, embedding, num_heads if attend else 0, context_dim)

        self.time = sequential(fc1=nn.Linear(widths[0], embedding), act=nn.SiLU(), fc2=nn.Linear(embedding, embedding))
        self.act = nn.SiLU()
        self.stem = nn.Conv2d(in_channels, widths[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        channels, skips = widths[0], [widths[0]]
        for level, width in enumerate(widths):
            blocks = [block(channels if i == 0 else width, width, level in attention) for i in range(depth)]
            halve = nn.Identity() if level == lowest else nn.Conv2d(width, width, 3, stride=2, padding=1)
            self.down.append(Level(blocks, halve))
            channels = width
            skips += [width] * (depth if level == lowest else depth + 1)
        self.middle = nn.ModuleList([block(channels, channels, True), block(channels, channels, False)])
        for level, width in reversed(list(enumerate(widths))):
            blocks = []
            for _ in range(depth + 1):
                blocks.append(block(channels + skips.pop(), width, level in attention))
                channels = width
            self.up.append(Level(blocks, Upsample(width) if level else nn.Identity()))
        self.norm = nn.GroupNorm(groups, channels, eps=1e-5)
        self.head = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.init_weights()

    def init_weights(self) -> None:
        """Start what ends a residual branch, and the head, at 0, as https://github.com/CompVis/latent-diffusion does."""
        for module in self.modules():
            if isinstance(module, ResidualBlock):
                ends = module.conv2
            elif isinstance(module, SpatialTransformer):
                ends = module.output
            else:
                continue
            nn.init.zeros_(ends.weight)
            nn.init.zeros_(ends.bias)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, latents: Tensor, times: Tensor, context: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Noisy latents (B, in_channels, X, X) at times (B,), and tokens of a condition (B, S, context_dim) -> the prediction.

        `padding_mask` (B, S) is True at tokens that are not to be seen.
        """
        width = self.time.fc1.in_features
        waves = time_frequencies(times, width, shift=0).roll(width // 2, 1)  # cosines first
        embedding = self.act(self.time(waves.to(self.time.fc1.weight.dtype)))  # (B, E)
        x = self.stem(latents)
        skips = [x]
        for level in self.down:
            for block in level.blocks:
                x = block(x, embedding, context, padding_mask)
                skips.append(x)
            if level is not self.down[-1]:
                x = level.resample(x)  # (B, C, X, X) -> (B, C, X/2, X/2)
                skips.append(x)
        for block in self.middle:
            x = block(x, embedding, context, padding_mask)
        for level in self.up:
            for block in level.blocks:
                x = block(torch.cat([x, skips.pop()], dim=1), embedding, context, padding_mask)
            if level is not self.up[-1]:
                x = level.resample(x, skips[-1].shape[2:])  # (B, C, X, X) -> (B, C, 2X, 2X)
        return self.head(self.act(self.norm(x)))
