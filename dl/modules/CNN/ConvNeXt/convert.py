"""Pretrained weights for our ConvNeXt: torchvision's for ImageNet."""

import re

from torch import nn

from dl.modules.CNN.ConvNeXt.model import ConvNeXt
from dl.mytorch.introspect import check_same_layers
from dl.mytorch.names import substituted

# The classes that a torchvision ConvNeXt is made of.
PARTS = {"ConvNeXt", "CNBlock", "Conv2dNormActivation", "LayerNorm2d", "StochasticDepth", "Permute", "Sequential"}
PARTS |= {"Conv2d", "LayerNorm", "GELU", "AdaptiveAvgPool2d", "Flatten", "Linear"}

# Their names as regular expressions, and ours; the stages are left to `_renamed`.
NAMES = (
    *((r"^classifier\.0", "norm"), (r"^classifier\.2", "head"), (r"layer_scale$", "layer_scale.weight")),
    *((r"^features\.0\.0", "stem.conv"), (r"^features\.0\.1", "stem.norm")),
    *((r"block\.0", "depthwise"), (r"block\.2", "norm"), (r"block\.3", "expand"), (r"block\.5", "project")),
)


def from_torchvision(reference: nn.Module) -> ConvNeXt:
    """Return our copy of a `torchvision.models.convnext_tiny` to `convnext_large`, of any number of classes, with its weights.

    Raises `ValueError` for a network of other parts: other blocks or norms.
    """
    foreign = {type(module).__name__ for module in reference.modules()} - PARTS
    if foreign or any(norm.eps != 1e-6 for norm in reference.modules() if isinstance(norm, nn.LayerNorm)):
        raise ValueError(f"no network of this paper: {', '.join(sorted(foreign)) or 'its layer norms are set otherwise'}")
    stages = reference.features[1::2]  # between them [0] the stem, [2] and so on what halves the map
    model = ConvNeXt(
        depths=tuple(len(stage) for stage in stages),
        widths=tuple(stage[0].block[0].out_channels for stage in stages),
        stochastic_depth=round(stages[-1][-1].stochastic_depth.p, 9),  # computed there, with rounding
        num_classes=reference.classifier[2].out_features,
    )
    weights = {_renamed(name): weight for name, weight in reference.state_dict().items()}
    # Theirs are (C, 1, 1), for maps with the channels first.
    check_same_layers(model, reference)
    model.load_state_dict({name: w.flatten() if "layer_scale" in name else w for name, w in weights.items()})
    return model


def _renamed(name: str) -> str:
    """Return our name of torchvision's "features.1.0.block.3.weight" and so on."""
    name = substituted(name, NAMES)
    place = re.match(r"features\.(\d+)\.(\d+)", name)
    if not place:
        return name
    stage, layer = int(place[1]) // 2, int(place[2])
    if int(place[1]) % 2 == 1:
        return f"stages.{stage}.blocks.{layer}{name[place.end() :]}"
    return f"stages.{stage}.downsample.{('norm', 'conv')[layer]}{name[place.end() :]}"
