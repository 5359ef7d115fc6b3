"""torchvision's pretrained weights for our ResNeXt."""

from torch import nn

from dl.modules.CNN.ResNeXt.model import ResNeXt
from dl.mytorch.introspect import check_same_layers


def from_torchvision(reference: nn.Module) -> ResNeXt:
    """Return our copy of a `torchvision.models.resnext50_32x4d` or deeper, of any number of classes: weights and buffers.

    Raises `ValueError` for what torchvision's class builds beyond the paper: ResNet, Wide ResNet, dilation.
    """
    model = from_bottlenecks(reference)
    if model.blocks[0].body.conv2.groups == 1:
        raise ValueError("a ResNet or Wide ResNet is no network of this paper: its blocks have one path")
    return model


def from_bottlenecks(reference: nn.Module) -> ResNeXt:
    """Return our copy of a `torchvision.models.resnet.ResNet` whose blocks are bottlenecks, of any groups and width.

    Raises `ValueError` for basic blocks and for dilation.
    """
    stages = [reference.layer1, reference.layer2, reference.layer3, reference.layer4]
    first = stages[0][0]
    if not hasattr(first, "conv3"):
        raise ValueError("a ResNet of basic blocks is no network of this paper: its blocks are bottlenecks")
    if any(module.dilation != (1, 1) for module in reference.modules() if isinstance(module, nn.Conv2d)):
        raise ValueError("a dilated network is no network of this paper")
    model = ResNeXt(
        depths=tuple(len(stage) for stage in stages),
        cardinality=first.conv2.groups,
        group_width=first.conv2.out_channels // first.conv2.groups,
        num_classes=reference.fc.out_features,
    )
    # Both classes make their layers in the same order, only under other names.
    check_same_layers(model, reference)
    model.load_state_dict(dict(zip(model.state_dict(), reference.state_dict().values(), strict=True)))
    return model
