"""DETR.

"End-to-End Object Detection with Transformers", Nicolas Carion, Francisco Massa, Gabriel Synnaeve, Nicolas Usunier, Alexander
Kirillov, Sergey Zagoruyko, 2020, https://arxiv.org/abs/2005.12872: the network of figures 2 and 10.

A convolutional network makes a map of the image, an encoder lets its places look at each other, and a decoder turns a fixed
number of learned queries into as many predictions: a class, or "no object", and a box. Each box of an image is assigned to one
query, see matching.py, so that no box is found twice and nothing has to be suppressed.

"detr" is the paper's network, with ResNet-50 and the 91 numbers of COCO's classes. "small" is ours, for scenes of some 96
pixels on a CPU: a map at 1/16 of the image's size, three blocks each. "tiny" is for tests.

Deviations:
- Dropout of 0.1 is that of appendix A.4, after attention and feed-forward; the paper's code also has it inside both.
- "small" has live batch norms, because it starts without pretrained weights.
- Losses are divided by the boxes (and classes by the weights) of the batch that a process sees, the paper's by the mean over
  processes.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from dl.modules.Detection.backbone import ResNetFeatures
from dl.modules.Detection.DETR.matching import set_losses
from dl.mytorch.layers import fused_attention, sequential
from dl.mytorch.layers.boxes import Detections, clip, shorter_sides, to_centres, to_corners

# B batch, C width, H heads, D width of a head, h and w sides of the map, S = h w places, Q queries, L blocks of the decoder,
# N boxes of an image with its padding rows, K classes without "no object"


def sine_positions(inside: Tensor, dim: int, dtype: torch.dtype) -> Tensor:
    """Return sines and cosines of the places of an axis, counted from 1 up to 2 pi at the image's end: (B, length, dim).

    inside: bool (B, length), the places that belong to the image. dim has to be even. Appendix A.4; as in Vaswani et al.
    2017, the lengths of the waves grow from 2 pi to 10000 times that.
    """
    ends = inside.sum(1, keepdim=True, dtype=dtype)  # (B, 1)
    places = torch.arange(1, inside.shape[1] + 1, dtype=dtype, device=inside.device)
    angle = places / (ends + 1e-6) * 2 * math.pi  # (B, length)
    wave = 10000 ** (torch.arange(0, dim, 2, dtype=dtype, device=inside.device) / dim)  # (dim / 2,)
    angle = angle[..., None] / wave
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(2)  # (B, length, dim / 2, 2) -> (B, length, dim)


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017, section 3.2.2). Positions are in queries and keys, but not in the values."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.weights = nn.Identity()  # a `Probe` on it sees the attention weights (B, H, T, S)
        self.output = nn.Linear(dim, dim)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """query (B, T, C), key and value (B, S, C), padding_mask bool (B, S) -> (B, T, C)."""
        inputs = (self.query(query), self.key(key), self.value(value))
        heads = (x.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for x in inputs)  # (B, T, C) -> (B, H, T, D)
        y = fused_attention(*heads, padding_mask, weights=self.weights)
        return self.output(y.transpose(1, 2).flatten(2))  # (B, H, T, D) -> (B, T, H, D) -> (B, T, C)


def feed_forward(dim: int, hidden_dim: int) -> nn.Sequential:
    """Return two linear layers, on each place or query by itself: (B, T, C) -> (B, T, hidden_dim) -> (B, T, C)."""
    return sequential(fc1=nn.Linear(dim, hidden_dim), act=nn.ReLU(), fc2=nn.Linear(hidden_dim, dim))


class EncoderBlock(nn.Module):
    """Figure 10, left: the places of the map look at each other."""

    def __init__(self, dim: int, num_heads: int, hidden_dim: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(dim, num_heads)
        self.norm1 = nn.LayerNorm(dim)
        self.feed_forward = feed_forward(dim, hidden_dim)
        self.norm2 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, positions: Tensor, padding_mask: Tensor) -> Tensor:
        """x and positions (B, S, C), padding_mask bool (B, S) -> (B, S, C)."""
        placed = x + positions
        x = self.norm1(x + self.dropout(self.attention(placed, placed, x, padding_mask)))
        return self.norm2(x + self.dropout(self.feed_forward(x)))


class DecoderBlock(nn.Module):
    """Figure 10, right: the queries look at each other, then at the map."""

    def __init__(self, dim: int, num_heads: int, hidden_dim: int, dropout: float) -> None:
        super().__init__()
        self.self_attention = Attention(dim, num_heads)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attention = Attention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim)
        self.feed_forward = feed_forward(dim, hidden_dim)
        self.norm3 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, queries: Tensor, memory: Tensor, positions: Tensor, padding_mask: Tensor) -> Tensor:
        """x (B, Q, C), its positions queries (Q, C); memory and positions (B, S, C), padding_mask bool (B, S) -> (B, Q, C)."""
        placed = x + queries
        x = self.norm1(x + self.dropout(self.self_attention(placed, placed, x)))
        x = self.norm2(x + self.dropout(self.cross_attention(x + queries, memory + positions, memory, padding_mask)))
        return self.norm3(x + self.dropout(self.feed_forward(x)))


class DETR(nn.Module):
    """forward: a batch of images with boxes -> the losses, see `forward`; `detect` gives what is in images.

    Args:
        num_classes: K; labels are from 0 to K - 1.
        backbone: arguments of `ResNetFeatures`; its last map is read.
        dim: C, a multiple of 4 and of num_heads.
        depths: blocks of the encoder, and of the decoder.
        num_queries: most objects that an image can have.
    """

    def __init__(
        self,
        num_classes: int,
        backbone: dict[str, Any],
        in_channels: int = 3,
        dim: int = 256,
        num_heads: int = 8,
        depths: tuple[int, int] = (6, 6),
        hidden_dim: int = 2048,
        num_queries: int = 100,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if dim % 4 or dim % num_heads:
            raise ValueError(f"dim {dim} has to be a multiple of 4 and of num_heads {num_heads}")
        self.dim, self.num_classes = dim, num_classes
        self.backbone = ResNetFeatures(in_channels=in_channels, **backbone)
        self.projection = nn.Conv2d(self.backbone.channels[-1], dim, 1)
        sizes = (dim, num_heads, hidden_dim, dropout)
        self.encoder = nn.ModuleList(EncoderBlock(*sizes) for _ in range(depths[0]))
        self.queries = nn.Parameter(torch.empty(num_queries, dim))
        self.decoder = nn.ModuleList(DecoderBlock(*sizes) for _ in range(depths[1]))
        self.norm = nn.LayerNorm(dim)
        self.class_head = nn.Linear(dim, num_classes + 1)
        self.box_head = sequential(
            fc1=nn.Linear(dim, dim), act1=nn.ReLU(), fc2=nn.Linear(dim, dim), act2=nn.ReLU(), fc3=nn.Linear(dim, 4)
        )
        self.init_weights()

    def init_weights(self) -> None:
        """Draw the weights as the paper's code does, https://github.com/facebookresearch/detr.

        - linear layers of encoder and decoder: Xavier uniform; query, key and value as one matrix of 3 C rows; biases of
          attention 0
        - queries: normal, std 1
        - the rest as torch's layers, the backbone as ResNet's
        """
        for block in (*self.encoder, *self.decoder):
            for name, layer in block.named_modules():
                if isinstance(layer, nn.Linear):
                    joint = name.endswith(("query", "key", "value"))
                    nn.init.xavier_uniform_(layer.weight, gain=math.sqrt(1 / 2) if joint else 1.0)
                    if "attention" in name:
                        nn.init.zeros_(layer.bias)
        nn.init.normal_(self.queries)

    def forward(self, images: Tensor, sizes: Tensor, boxes: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return the losses by name; their sum is to be minimised. Section 3.1.

        "auxiliary" is that of all blocks of the decoder but the last, each with its own matching.

        Args:
            images: (B, channels, H, W), normalised, then padded with 0 to the right and below.
            sizes: (B, 2), height and width of each image without the padding.
            boxes: (B, N, 4), corners in pixels.
            labels: (B, N), -1 for padding rows.

        Raises `ValueError` for a box without area or of a class that the network does not have.
        """
        check_targets(boxes, labels, self.num_classes)
        logits, found = self.predict(images, sizes)
        targets = to_centres(boxes.to(found.dtype)) / scale_of(sizes)[:, None]
        *auxiliary, last = (set_losses(*of_block, targets, labels) for of_block in zip(logits, found))
        if auxiliary:
            last["auxiliary"] = torch.stack([loss for losses in auxiliary for loss in losses.values()]).sum()
        return last

    @torch.no_grad()
    def detect(self, images: Tensor, sizes: Tensor) -> list[Detections]:
        """Return Q boxes of each image, the surest first, with the class, other than "no object", that is most probable.

        Images are padded to those beside them in the batch, and what is in them changes a little with it: convolutions see
        that an image ends.
        """
        logits, boxes = (outputs[-1] for outputs in self.predict(images, sizes))
        scores, labels = logits.softmax(-1)[..., :-1].max(-1)  # (B, Q)
        boxes = to_corners(boxes) * scale_of(sizes)[:, None]
        found = []
        for (height, width), *of_image in zip(sizes, boxes, labels, scores):
            order = of_image[-1].argsort(descending=True, stable=True)
            corners, classes, probabilities = (x[order] for x in of_image)
            found.append(Detections(clip(corners, height, width), classes, probabilities))
        return found

    def predict(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits (L, B, Q, K + 1) and the boxes (L, B, Q, 4) after each block of the decoder.

        Boxes are centre x, centre y, width, height as parts of the image without its padding.
        """
        x = self.projection(self.backbone(images)[-1])  # (B, channels, H, W) -> (B, C, h, w)
        dtype = torch.promote_types(x.dtype, torch.float32)
        rows, columns = (
            # A place belongs to the image if its first pixel does.
            torch.arange(side, device=x.device) * full // side < size[:, None]
            for side, full, size in zip(x.shape[-2:], images.shape[-2:], sizes.unbind(1))
        )
        padding_mask = ~(rows[:, :, None] & columns[:, None, :]).flatten(1)  # (B, S)
        vertical, horizontal = (sine_positions(inside, self.dim // 2, dtype) for inside in (rows, columns))
        shape = (-1, len(rows[0]), len(columns[0]), -1)
        positions = torch.cat([vertical[:, :, None].expand(shape), horizontal[:, None].expand(shape)], dim=-1).flatten(1, 2)
        memory = x.flatten(2).transpose(1, 2)  # (B, C, h, w) -> (B, S, C)
        for block in self.encoder:
            memory = block(memory, positions, padding_mask)
        x = torch.zeros_like(self.queries).expand(len(images), -1, -1)  # (B, Q, C)
        outputs = []
        for block in self.decoder:
            x = block(x, self.queries, memory, positions, padding_mask)
            outputs.append(self.norm(x))
        y = torch.stack(outputs)  # (L, B, Q, C)
        return self.class_head(y).to(dtype), self.box_head(y).to(dtype).sigmoid()


def scale_of(sizes: Tensor) -> Tensor:
    """Return width, height, width, height of images: sizes (B, 2) -> (B, 4)."""
    return sizes.flip(-1).repeat(1, 2)


def check_targets(boxes: Tensor, labels: Tensor, num_classes: int) -> None:
    """Raise `ValueError` for boxes (B, N, 4) without area and for labels (B, N) that are no class; -1 is a padding row."""
    empty = (labels >= 0) & ~(shorter_sides(boxes) > 0)
    if empty.any():
        raise ValueError(f"a box has x0 < x1 and y0 < y1; got {boxes[empty][0].tolist()}")
    if labels.max() >= num_classes:  # the last logit is that of "no object"
        raise ValueError(f"labels are from 0 to {num_classes - 1} for {num_classes} classes; got {int(labels.max())}")


PRESETS: dict[str, dict[str, Any]] = {
    "small": {
        "backbone": {"preset": "resnet18", "depths": (1, 1, 1), "width": 32, "stages": (3,)},
        "num_classes": 10,
        "dim": 128,
        "num_heads": 4,
        "depths": (3, 3),
        "hidden_dim": 256,
        "num_queries": 25,
        "dropout": 0.0,
    },
    "detr": {"backbone": {"preset": "resnet50", "stages": (4,), "frozen": True}, "num_classes": 91},
    "tiny": {
        "backbone": {"preset": "resnet18", "stem": "pool", "depths": (1, 1, 1), "width": 8, "stages": (3,)},
        "num_classes": 2,
        "dim": 16,
        "num_heads": 2,
        "depths": (1, 2),
        "hidden_dim": 32,
        "num_queries": 6,
        "dropout": 0.0,
    },
}


def build(preset: str = "small", **overrides: Any) -> DETR:
    """Return a DETR by the name of its preset; `overrides` are arguments of `DETR`."""
    return DETR(**{**PRESETS[preset], **overrides})


def example(preset: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return an image that the preset takes, zeros, its size, and a padding row in place of a box."""
    side = 224 if preset == "detr" else 64
    images, sizes = torch.zeros(1, 3, side, side), torch.tensor([[side, side]])
    return images, sizes, torch.zeros(1, 1, 4), torch.full((1, 1), -1)
