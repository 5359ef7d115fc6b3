"""torchvision's pretrained weights for our Wide ResNet."""

from torch import nn

from dl.modules.CNN.ResNeXt.convert import from_bottlenecks
from dl.modules.CNN.ResNeXt.model import ResNeXt


def from_torchvision(reference: nn.Module) -> ResNeXt:
    """Our copy of a `torchvision.models.wide_resnet50_2` or `wide_resnet101_2`, of any number of classes: weights and buffers.

    Raises `ValueError` for what torchvision's class builds beyond the paper: ResNet, ResNeXt, dilation.
    """
    model = from_bottlenecks(reference)
    inner = model.blocks[0].body.conv2
    if inner.groups > 1 or inner.out_channels <= 64:
        raise ValueError("a ResNet or ResNeXt is no network of this paper: its bottlenecks are no wider inside, or grouped")
    return model
