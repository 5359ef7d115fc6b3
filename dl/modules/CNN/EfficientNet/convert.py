"""Pretrained weights for our EfficientNet: torchvision's for ImageNet."""

from torch import nn

from dl.modules.CNN.EfficientNet.model import EfficientNet
from dl.mytorch.introspect import check_same_layers

# The classes that a torchvision EfficientNet is made of.
PARTS = {"EfficientNet", "MBConv", "Conv2dNormActivation", "SqueezeExcitation", "StochasticDepth", "Sequential", "Conv2d"}
PARTS |= {"BatchNorm2d", "SiLU", "Sigmoid", "AdaptiveAvgPool2d", "Dropout", "Linear"}


def from_torchvision(reference: nn.Module) -> EfficientNet:
    """Our copy of a `torchvision.models.efficientnet_b0` to `efficientnet_b7`, of any number of classes: weights and buffers.

    Raises `ValueError` for a network of other parts: EfficientNetV2, other norms.
    """
    foreign = {type(module).__name__ for module in reference.modules()} - PARTS
    if foreign:
        raise ValueError(f"no network of this paper: {', '.join(sorted(foreign))} is none of its parts")
    first, *stages, last = reference.features
    blocks = [block for stage in stages for block in stage]
    # Theirs grows from 0 to p (n - 1) / n at the last block; rounded, to find the p that it was made from.
    stochastic_depth = blocks[-1].stochastic_depth.p * len(blocks) / max(1, len(blocks) - 1)
    model = EfficientNet(
        stages=tuple(_stage(block.block) for block in blocks),
        stem_channels=first[0].out_channels,
        last_channels=last[0].out_channels,
        dropout=reference.classifier[0].p,
        stochastic_depth=round(stochastic_depth, 9),
        norm_eps=first[1].eps,
        norm_momentum=first[1].momentum,
        num_classes=reference.classifier[1].out_features,
    )
    # Both list their layers in the order in which they run.
    check_same_layers(model, reference)
    model.load_state_dict(dict(zip(model.state_dict(), reference.state_dict().values(), strict=True)))
    return model


def _stage(body: nn.Sequential) -> tuple[int, int, int, int, int]:
    """(expansion, kernel size, stride, channels, 1 block) of an MBConv: [expand,] depthwise, gates, project."""
    *expand, depthwise, _, project = body
    expansion = depthwise[0].in_channels // expand[0][0].in_channels if expand else 1
    return expansion, depthwise[0].kernel_size[0], depthwise[0].stride[0], project[0].out_channels, 1
