"""Pretrained weights for our ResNet: torchvision's for ImageNet, akamaster's for CIFAR-10."""

import re
from collections import Counter

from torch import Tensor, nn

from dl.modules.CNN.ResNet.model import ResNet
from dl.mytorch.introspect import check_same_layers
from dl.mytorch.inverse import inverse
from dl.mytorch.names import substituted
from dl.mytorch.torchvision_compat import import_torchvision

# Their names as regular expressions, and ours; a block's number is made by `renamed`.
NAMES = (
    (r"^conv1", "stem.conv"),
    (r"^bn1", "stem.norm"),
    (r"^(fc|linear)", "head"),
    (r"^(blocks\.\d+)\.conv(\d)", r"\1.body.conv\2"),
    (r"^(blocks\.\d+)\.bn(\d)", r"\1.body.norm\2"),
    (r"downsample\.0", "shortcut.conv"),
    (r"downsample\.1", "shortcut.norm"),
)


def from_torchvision(reference: nn.Module) -> ResNet:
    """Return our copy of a `torchvision.models.resnet18` to `resnet152`, of any number of classes: weights and buffers.

    Raises `ValueError` for what torchvision's class builds beyond the paper: ResNeXt, Wide ResNet, dilation.
    """
    stages = [reference.layer1, reference.layer2, reference.layer3, reference.layer4]
    first = stages[0][0]
    plain = all(m.groups == 1 and m.dilation == (1, 1) for m in reference.modules() if isinstance(m, nn.Conv2d))
    if not plain or first.conv1.out_channels != reference.conv1.out_channels:
        raise ValueError("a ResNeXt, Wide ResNet or dilated ResNet is no network of this paper: its blocks are others")
    depths = tuple(len(stage) for stage in stages)
    kind = "bottleneck" if hasattr(first, "conv3") else "basic"
    model = ResNet(depths, kind, num_classes=reference.fc.out_features)
    check_same_layers(model, reference)
    model.load_state_dict(renamed(reference.state_dict(), depths))
    return model


def from_akamaster(weights: dict[str, Tensor]) -> ResNet:
    """A network for CIFAR-10 with shortcut A, from a state dict of https://github.com/akamaster/pytorch_resnet_cifar10."""
    weights = {name.removeprefix("module."): weight for name, weight in weights.items()}
    depths = tuple(len({name.split(".")[1] for name in weights if name.startswith(f"layer{i}.")}) for i in (1, 2, 3))
    model = ResNet(depths, width=16, num_classes=len(weights["linear.bias"]), stem="small", shortcut="A")
    model.load_state_dict(renamed(weights, depths))
    return model


def renamed(weights: dict[str, Tensor], depths: tuple[int, ...]) -> dict[str, Tensor]:
    """Return their state dict under our names. They count blocks within each of layer1, layer2 ..., we through all stages."""
    ours = {}
    for name, weight in weights.items():
        place = re.match(r"layer(\d+)\.(\d+)", name)
        if place:
            number = sum(depths[: int(place[1]) - 1]) + int(place[2])
            name = f"blocks.{number}{name[place.end() :]}"
        name = substituted(name, NAMES)
        ours[name] = weight
    return ours


def to_torchvision(model: ResNet) -> nn.Module:
    """Return a `torchvision.models.ResNet` with the weights of a ResNet of ours, the inverse of `from_torchvision`.

    Raises `ValueError` for what torchvision has no class for: another stem, shortcut or width, squeeze and excitation.
    """
    models, bodies = import_torchvision().models, [block.body for block in model.blocks]
    depths = list(Counter(body.conv1.out_channels for body in bodies).values())
    kind = models.resnet.Bottleneck if hasattr(bodies[0], "conv3") else models.resnet.BasicBlock
    if len(depths) != 4:
        raise ValueError(f"torchvision's networks have 4 stages, this one {len(depths)}")
    reference = models.ResNet(kind, depths, num_classes=model.head.out_features)
    check_same_layers(model, reference)
    return inverse(from_torchvision, reference, model)
