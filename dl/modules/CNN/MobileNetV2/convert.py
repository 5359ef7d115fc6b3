"""Pretrained weights for our MobileNetV2: torchvision's for ImageNet."""

from torch import nn

from dl.modules.CNN.MobileNetV2.model import MobileNetV2
from dl.mytorch.introspect import check_same_layers

# The classes that a torchvision MobileNetV2 is made of.
PARTS = {"MobileNetV2", "InvertedResidual", "Conv2dNormActivation", "Sequential"}
PARTS |= {"Conv2d", "BatchNorm2d", "ReLU6", "Dropout", "Linear"}


def from_torchvision(reference: nn.Module) -> MobileNetV2:
    """Return our copy of a `torchvision.models.mobilenet_v2` of any width, stages and number of classes: weights and buffers.

    Raises `ValueError` for a network of other parts: MobileNetV3, other blocks or norms.
    """
    foreign = {type(module).__name__ for module in reference.modules()} - PARTS
    norms = [module for module in reference.modules() if isinstance(module, nn.BatchNorm2d)]
    if foreign or any((norm.eps, norm.momentum) != (1e-5, 0.1) for norm in norms):
        raise ValueError(f"no network of this paper: {', '.join(sorted(foreign)) or 'its batch norms are set otherwise'}")
    first, *blocks, last = reference.features
    model = MobileNetV2(
        stages=tuple(_stage(block.conv) for block in blocks),
        stem_channels=first[0].out_channels,
        last_channels=last[0].out_channels,
        dropout=reference.classifier[0].p,
        num_classes=reference.classifier[1].out_features,
    )
    # Both list their layers in the order in which they run.
    check_same_layers(model, reference)
    model.load_state_dict(dict(zip(model.state_dict(), reference.state_dict().values(), strict=True)))
    return model


def _stage(body: nn.Sequential) -> tuple[int, int, int, int]:
    """(expansion, channels, 1 block, stride) of an inverted residual: [expand,] depthwise, project, norm."""
    *expand, depthwise, project, _ = body
    expansion = depthwise[0].in_channels // expand[0][0].in_channels if expand else 1
    return expansion, int(project.out_channels), 1, depthwise[0].stride[0]
