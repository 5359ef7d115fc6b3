"""Swin Transformer.

"Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", Ze Liu, Yutong Lin, Yue Cao, Han Hu, Yixuan Wei,
Zheng Zhang, Stephen Lin, Baining Guo, 2021, https://arxiv.org/abs/2103.14030: section 3 and figure 3, the sizes of section 3.3
("swin_t" to "swin_l") with the stochastic depth that the paper trains them with (appendix A2.1). "small" and "tiny" are ours:
for 28x28 on a CPU, and for tests.

Deviations:
- A map that no whole number of windows covers is padded with zeros to the right and below, and halved to the next larger whole
  number: the paper leaves other sizes open. Padding takes part in attention, as in torchvision.
- Where one window covers an axis of the map, windows are not shifted along it.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dl.mytorch.layers import StochasticDepth, sequential

# B batch, Y X sides of the map, C channels, W side of a window, T = W^2 tokens, n windows, H heads, D width of a head


def windows(x: Tensor, side: int) -> Tensor:
    """Return the windows of a map (B, Y, X, C) whose sides they divide: (B, n, T, C), row by row."""
    x = x.unflatten(1, (-1, side)).unflatten(3, (-1, side))  # (B, Y/W, W, X/W, W, C)
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def joined(x: Tensor, rows: int, side: int) -> Tensor:
    """Return the map (B, Y, X, C) of windows (B, n, T, C), `rows` of them below each other: the inverse of `windows`."""
    x = x.unflatten(1, (rows, -1)).unflatten(3, (side, side))  # (B, Y/W, X/W, W, W, C)
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def regions(length: int, side: int, shift: int) -> Tensor:
    """Return which part of an axis each place of the shifted map comes from, (length,): only the last window mixes two.

    Figure 4: what a cyclic shift brought from the other end of the map is no neighbour of what it lies beside now.
    """
    places = torch.arange(length)
    return (places >= length - side).int() + (places >= length - shift).int() if shift else torch.zeros(length, dtype=torch.int)


class WindowAttention(nn.Module):
    """Multi-head attention inside windows, equation 4: softmax(Q K^T / sqrt(D) + bias) V. forward: (B, Y, X, C) -> the same.

    `relative_positions` has a bias for each head and each of the (2 W - 1)^2 offsets between two tokens of a window.

    Args:
        shift: how far windows are moved to the right and down, with what leaves the map coming back at the other end.
    """

    index: Tensor

    def __init__(self, dim: int, num_heads: int, window_size: int, shift: int) -> None:
        super().__init__()
        self.num_heads, self.window_size, self.shift = num_heads, window_size, shift
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.output = nn.Linear(dim, dim)
        self.weights = nn.Identity()  # a `Probe` on it sees the attention weights (B, n, H, T, T)
        self.relative_positions = nn.Parameter(torch.zeros((2 * window_size - 1) ** 2, num_heads))
        places = torch.arange(window_size**2)
        rows, columns = places // window_size, places % window_size
        down, right = (at[:, None] - at for at in (rows, columns))  # (T, T), from -(W - 1) to W - 1
        index = (down + window_size - 1) * (2 * window_size - 1) + right + window_size - 1
        self.register_buffer("index", index, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        side = self.window_size
        height, width = x.shape[1:3]
        x = F.pad(x, (0, 0, 0, -width % side, 0, -height % side))
        shifts = [self.shift if length > side else 0 for length in x.shape[1:3]]
        y = windows(x.roll([-shift for shift in shifts], dims=(1, 2)), side)  # (B, n, T, C)
        y = self.attend(y, self.mask(*x.shape[1:3], *shifts))
        y = joined(y, x.shape[1] // side, side).roll(shifts, dims=(1, 2))
        return y[:, :height, :width]

    def attend(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return attention in windows (B, n, T, C), but for the pairs of `mask` (n, T, T): (B, n, T, C)."""
        query, key, value = (
            layer(x).unflatten(3, (self.num_heads, -1)).transpose(2, 3)  # (B, n, T, C) -> (B, n, H, T, D)
            for layer in (self.query, self.key, self.value)
        )
        scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5  # (B, n, H, T, T)
        scores = scores + self.relative_positions[self.index].permute(2, 0, 1)  # (T, T, H) -> (H, T, T)
        if mask is not None:
            scores = scores.masked_fill(mask[:, None].to(scores.device), -torch.inf)
        y = self.weights(scores.softmax(-1)) @ value
        return self.output(y.transpose(2, 3).flatten(3))  # (B, n, H, T, D) -> (B, n, T, C)

    def mask(self, height: int, width: int, down: int, right: int) -> Tensor | None:
        """Return which pairs of tokens do not see each other, (n, T, T), in a map shifted by `down` and `right`."""
        if not (down or right):
            return None
        side = self.window_size
        parts = 3 * regions(height, side, down)[:, None] + regions(width, side, right)  # (Y, X)
        part = windows(parts[None, ..., None], side)[0, ..., 0]  # (n, T)
        return part[:, :, None] != part[:, None, :]


class Block(nn.Module):
    """Equation 3: window attention and a feed-forward, each with its norm before it and a shortcut around both.

    In training a branch is dropped with probability `drop`. forward: (B, Y, X, C) -> the same.
    """

    def __init__(self, dim: int, num_heads: int, window_size: int, shift: int, mlp_ratio: float, drop: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attention = WindowAttention(dim, num_heads, window_size, shift)
        self.drop = StochasticDepth(drop)
        self.norm2 = nn.LayerNorm(dim)
        hidden = int(dim * mlp_ratio)
        self.feed_forward = sequential(fc1=nn.Linear(dim, hidden), act=nn.GELU(), fc2=nn.Linear(hidden, dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop(self.attention(self.norm1(x)))
        return x + self.drop(self.feed_forward(self.norm2(x)))


class PatchMerging(nn.Module):
    """Join 2 x 2 neighbours and halve their channels: (B, Y, X, C) -> (B, Y/2, X/2, 2 C), halves rounded up."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        corners = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]  # the order of the authors' code
        return self.reduction(self.norm(torch.cat(corners, dim=-1)))  # (B, Y/2, X/2, 4 C) -> (B, Y/2, X/2, 2 C)


class Swin(nn.Module):
    """Patches, stages of blocks with a merging of patches between them, and a linear layer on the normed mean over the map.

    forward: images (B, in_channels, height, width) -> logits (B, num_classes). Pixels that fill no patch are left out.

    Raises `ValueError` for a width that does not divide into heads, and for depths and heads of different length.

    Args:
        dim: channels of the first stage; each next one has twice as many.
        depths, num_heads: blocks and heads of each stage. Every second block's windows are shifted by half of their side.
        stochastic_depth: the last block's branches are dropped with this probability, the first's never, others in proportion.
    """

    def __init__(
        self,
        dim: int,
        depths: tuple[int, ...],
        num_heads: tuple[int, ...],
        window_size: int = 7,
        patch_size: int = 4,
        mlp_ratio: float = 4.0,
        stochastic_depth: float = 0.0,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if len(depths) != len(num_heads) or any(dim * 2**i % heads for i, heads in enumerate(num_heads)):
            raise ValueError(
                f"each stage needs heads that divide its width; got depths {depths}, heads {num_heads}, width {dim}"
            )
        self.patch_embedding = nn.Conv2d(in_channels, dim, patch_size, stride=patch_size)
        self.patch_norm = nn.LayerNorm(dim)
        last = max(1, sum(depths) - 1)
        self.stages = nn.ModuleList()
        for i, (depth, heads) in enumerate(zip(depths, num_heads)):
            before = sum(depths[:i])
            stage = sequential(merge=PatchMerging(dim * 2 ** (i - 1))) if i else sequential()
            for j in range(depth):
                shift = window_size // 2 if j % 2 else 0
                drop = stochastic_depth * (before + j) / last
                stage.add_module(f"block{j + 1}", Block(dim * 2**i, heads, window_size, shift, mlp_ratio, drop))
            self.stages.append(stage)
        width = dim * 2 ** (len(depths) - 1)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_classes)
        self.init_weights()

    def init_weights(self) -> None:
        """Draw matrices and biases of positions from a normal of std 0.02, as the authors' code; other biases are 0."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, WindowAttention):
                nn.init.trunc_normal_(module.relative_positions, std=0.02)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patch_embedding(images).permute(0, 2, 3, 1)  # (B, in_channels, ...) -> (B, C, Y, X) -> (B, Y, X, C)
        x = self.patch_norm(x)
        for stage in self.stages:
            x = stage(x)  # each but the first: (B, Y, X, C) -> (B, Y/2, X/2, 2 C)
        return self.head(self.norm(x).mean((1, 2)))  # (B, Y, X, C) -> (B, C) -> (B, num_classes)


PRESETS: dict[str, dict[str, Any]] = {
    "swin_t": {"dim": 96, "depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24), "stochastic_depth": 0.2},
    "swin_s": {"dim": 96, "depths": (2, 2, 18, 2), "num_heads": (3, 6, 12, 24), "stochastic_depth": 0.3},
    "swin_b": {"dim": 128, "depths": (2, 2, 18, 2), "num_heads": (4, 8, 16, 32), "stochastic_depth": 0.5},
    "swin_l": {"dim": 192, "depths": (2, 2, 18, 2), "num_heads": (6, 12, 24, 48), "stochastic_depth": 0.5},
    "small": {"dim": 32, "depths": (2, 2), "num_heads": (2, 4), "patch_size": 2, "in_channels": 1, "num_classes": 10},
    "tiny": {
        **{"dim": 8, "depths": (2, 1), "num_heads": (2, 4), "window_size": 4, "patch_size": 4, "mlp_ratio": 2.0},
        **{"stochastic_depth": 0.1, "in_channels": 1, "num_classes": 10},
    },
}


def build(preset: str = "swin_t", **overrides: Any) -> Swin:
    """Return a Swin Transformer by the name of its preset; `overrides` are arguments of `Swin`."""
    return Swin(**{**PRESETS[preset], **overrides})


def example(preset: str) -> tuple[Tensor]:
    """Return an image that the preset takes: zeros (1, C, H, W)."""
    small = "num_classes" in PRESETS[preset]
    return (torch.zeros(1, PRESETS[preset].get("in_channels", 3), *([28, 28] if small else [224, 224])),)
