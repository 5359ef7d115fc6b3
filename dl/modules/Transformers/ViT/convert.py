"""Pretrained weights for our ViT: torchvision's."""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dl.modules.Transformers.ViT.model import ViT
from dl.mytorch.inverse import inverse
from dl.mytorch.names import substituted
from dl.mytorch.torchvision_compat import import_torchvision

# Their names as regular expressions, and ours. The first is the product of query, key and value, which we have apart.
NAMES = (
    (r"^conv_proj", "patch_embedding"),
    (r"^encoder\.pos_embedding", "position_embedding"),
    (r"^encoder\.layers\.encoder_layer_(\d+)", r"blocks.\1"),
    (r"ln_1", "norm1"),
    (r"ln_2", "norm2"),
    (r"self_attention\.out_proj", "attention.output"),
    (r"self_attention\.in_proj_", "attention.query_key_value."),
    (r"mlp\.0", "feed_forward.fc1"),
    (r"mlp\.3", "feed_forward.fc2"),
    (r"^encoder\.ln", "norm"),
    (r"^heads\.pre_logits", "head.hidden"),
    (r"^heads\.head", "head.output"),
)


def from_torchvision(reference: nn.Module, image_size: int | None = None) -> ViT:
    """Return our copy of a `torchvision.models.vit_b_16` to `vit_h_14`, of any number of classes.

    `image_size`, if not the reference's, is that of the copy: its positions are interpolated (section 3.2).

    Raises `ValueError` for what torchvision's class builds beyond the paper: a convolutional stem, other norms.
    """
    norm = reference.encoder.ln
    if not isinstance(reference.conv_proj, nn.Conv2d) or type(norm) is not nn.LayerNorm or norm.bias is None:
        raise ValueError(
            "a ViT with a convolutional stem or norms other than LayerNorm with scale and shift is no network of this paper"
        )
    model = ViT(
        image_size=image_size or reference.image_size,
        patch_size=reference.patch_size,
        dim=reference.hidden_dim,
        depth=len(reference.encoder.layers),
        num_heads=reference.encoder.layers[0].num_heads,
        hidden_dim=reference.mlp_dim,
        num_classes=reference.heads.head.out_features,
        in_channels=reference.conv_proj.in_channels,
        head_dim=reference.representation_size or 0,
        dropout=reference.dropout,
        attention_dropout=reference.attention_dropout,
        norm_eps=norm.eps,
    )
    weights = _renamed(reference.state_dict())
    weights["position_embedding"] = interpolate_positions(weights["position_embedding"], model.grid)
    model.load_state_dict(weights)
    return model


def interpolate_positions(table: Tensor, grid: int) -> Tensor:
    """Positions (1 + N, C) of a class token and a square of patches, for a square of side `grid`: bicubic, corner to corner."""
    old = round((len(table) - 1) ** 0.5)
    if old == grid:
        return table
    patches = table[1:].unflatten(0, (old, old)).permute(2, 0, 1)[None]  # (N, C) -> (1, C, old, old)
    patches = F.interpolate(patches, size=(grid, grid), mode="bicubic", align_corners=True)
    return torch.cat([table[:1], patches[0].flatten(1).T])  # (1, C, grid, grid) -> (C, grid^2) -> (1 + grid^2, C)


def _renamed(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return their state dict under our names."""
    ours = {}
    for name, weight in weights.items():
        name = substituted(name, NAMES)
        if "query_key_value" in name:
            for part, third in zip(("query", "key", "value"), weight.chunk(3)):  # (3 C, ...) -> 3 times (C, ...)
                ours[name.replace("query_key_value", part)] = third
        elif name in ("class_token", "position_embedding"):
            ours[name] = weight.flatten(0, -2).squeeze(0)  # (1, 1, C) -> (C,), (1, 1 + N, C) -> (1 + N, C)
        else:
            ours[name] = weight
    return ours


def to_torchvision(model: ViT) -> nn.Module:
    """Return a `torchvision.models.VisionTransformer` with the weights of a ViT of ours, the inverse of `from_torchvision`."""
    first = model.blocks[0]
    reference = import_torchvision().models.VisionTransformer(
        image_size=model.image_size,
        patch_size=model.patch_embedding.kernel_size[0],
        num_layers=len(model.blocks),
        num_heads=first.attention.num_heads,
        hidden_dim=model.patch_embedding.out_channels,
        mlp_dim=first.feed_forward.fc1.out_features,
        dropout=model.dropout.p,
        attention_dropout=first.attention.dropout.p,
        num_classes=model.head.output.out_features,
        representation_size=model.head.hidden.out_features if len(model.head) > 1 else None,
        norm_layer=partial(nn.LayerNorm, eps=model.norm.eps),
    )
    channels, patch = model.patch_embedding.in_channels, model.patch_embedding.kernel_size
    reference.conv_proj = nn.Conv2d(channels, model.patch_embedding.out_channels, patch, stride=patch)  # theirs is for colours
    return inverse(from_torchvision, reference, model)
