"""Pretrained weights for our Swin Transformer: torchvision's for ImageNet."""

import re

from torch import Tensor, nn

from dl.modules.Transformers.Swin.model import Swin
from dl.mytorch.inverse import inverse
from dl.mytorch.names import substituted
from dl.mytorch.torchvision_compat import import_torchvision

# The classes that a torchvision Swin of this paper is made of.
PARTS = {
    "SwinTransformer",
    "SwinTransformerBlock",
    "ShiftedWindowAttention",
    "PatchMerging",
    "MLP",
    "StochasticDepth",
    "Permute",
}
PARTS |= {"Sequential", "Conv2d", "LayerNorm", "Linear", "GELU", "Dropout", "AdaptiveAvgPool2d", "Flatten"}

# Their names as regular expressions, and ours; stages are left to `_renamed`.
NAMES = (
    *((r"^features\.0\.0", "patch_embedding"), (r"^features\.0\.2", "patch_norm")),
    *((r"attn\.proj", "attention.output"), (r"attn\.qkv", "attention.query_key_value")),
    *((r"attn\.relative_position_bias_table", "attention.relative_positions"),),
    *((r"mlp\.0", "feed_forward.fc1"), (r"mlp\.3", "feed_forward.fc2")),
)


def from_torchvision(reference: nn.Module) -> Swin:
    """Return our copy of a `torchvision.models.swin_t`, `swin_s` or `swin_b`, of any number of classes, with its weights.

    Raises `ValueError` for a network of other parts, such as version 2, for windows that are no squares, and for dropout.
    """
    if foreign := {type(module).__name__ for module in reference.modules()} - PARTS:
        raise ValueError(f"no network of this paper: {', '.join(sorted(foreign))}")
    stages = reference.features[1::2]  # between them [0] the patches, [2] and so on what merges them
    first, patches = stages[0][0], reference.features[0][0]
    for sides in (first.attn.window_size, patches.kernel_size):
        if len(set(sides)) > 1:
            raise ValueError(f"windows and patches have to be squares; got {tuple(sides)}")
    if first.attn.dropout or first.attn.attention_dropout:
        raise ValueError("a Swin with dropout is no network of this paper")
    model = Swin(
        dim=patches.out_channels,
        depths=tuple(len(stage) for stage in stages),
        num_heads=tuple(stage[0].attn.num_heads for stage in stages),
        window_size=first.attn.window_size[0],
        patch_size=patches.kernel_size[0],
        mlp_ratio=first.mlp[0].out_features / patches.out_channels,
        stochastic_depth=round(stages[-1][-1].stochastic_depth.p, 9),  # computed there, with rounding
        num_classes=reference.head.out_features,
        in_channels=patches.in_channels,
    )
    ours: dict[str, Tensor] = {}
    for name, weight in reference.state_dict().items():
        name = _renamed(name)
        if "query_key_value" in name:
            for part, third in zip(("query", "key", "value"), weight.chunk(3)):  # (3 C, ...) -> 3 times (C, ...)
                ours[name.replace("query_key_value", part)] = third
        elif not name.endswith("relative_position_index"):
            ours[name] = weight
    model.load_state_dict(ours)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = first.norm1.eps  # 1e-5
    return model


def _renamed(name: str) -> str:
    """Return our name of torchvision's "features.1.0.attn.qkv.weight" and so on."""
    name = substituted(name, NAMES)
    place = re.match(r"features\.(\d+)\.(?:(\d+)\.)?", name)
    if not place:
        return name
    number = int(place[1])
    if number % 2 == 0:
        return f"stages.{number // 2}.merge.{name[place.end() :]}"
    return f"stages.{number // 2}.block{int(place[2]) + 1}.{name[place.end() :]}"


def to_torchvision(model: Swin) -> nn.Module:
    """Return a `torchvision.models.SwinTransformer` with the weights of a Swin of ours, the inverse of `from_torchvision`."""
    stages = [[module for module in stage.children() if hasattr(module, "attention")] for stage in model.stages]
    first, patches = stages[0][0], model.patch_embedding
    window = first.attention.window_size
    reference = import_torchvision().models.SwinTransformer(
        patch_size=list(patches.kernel_size),
        embed_dim=patches.out_channels,
        depths=[len(stage) for stage in stages],
        num_heads=[stage[0].attention.num_heads for stage in stages],
        window_size=[window, window],
        mlp_ratio=first.feed_forward.fc1.out_features / patches.out_channels,
        num_classes=model.head.out_features,
    )
    reference.features[0][0] = nn.Conv2d(patches.in_channels, patches.out_channels, patches.kernel_size, patches.stride)
    return inverse(from_torchvision, reference, model)
