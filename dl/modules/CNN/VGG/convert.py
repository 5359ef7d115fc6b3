"""torchvision's pretrained weights for our VGG."""

from torch import nn

from dl.modules.CNN.VGG.model import VGG
from dl.mytorch.introspect import check_same_layers


def from_torchvision(reference: nn.Module) -> VGG:
    """Our copy of a `torchvision.models.vgg11` to `vgg19_bn`, of any number of classes and any width: weights and buffers.

    Raises `ValueError` for another network.
    """
    convs, linears = ([m for m in reference.modules() if isinstance(m, kind)] for kind in (nn.Conv2d, nn.Linear))
    if any(conv.kernel_size != (3, 3) or conv.groups != 1 for conv in convs) or len(linears) != 3:
        raise ValueError("no VGG of torchvision: it has convolutions of 3x3 and three linear layers")
    depths = [0]
    for layer in reference.features:
        if isinstance(layer, nn.Conv2d):
            depths[-1] += 1
        elif isinstance(layer, nn.MaxPool2d):
            depths.append(0)
    model = VGG(
        depths=tuple(depths[:-1]),
        width=convs[0].out_channels,
        batch_norm=any(isinstance(layer, nn.BatchNorm2d) for layer in reference.features),
        num_classes=linears[2].out_features,
        in_channels=convs[0].in_channels,
        hidden=linears[0].out_features,
        dropout=reference.classifier[2].p,
    )
    own, weights = model.state_dict(), reference.state_dict().values()  # both from the first layer to the last
    if [weight.shape for weight in own.values()] != [weight.shape for weight in weights]:
        raise ValueError("no VGG of this paper: its blocks have 1, 2, 4, 8, 8 times the channels of the first")
    check_same_layers(model, reference)
    model.load_state_dict(dict(zip(own, weights)))
    return model
