"""torchvision's pretrained weights for our AlexNet."""

from torch import nn

from dl.modules.CNN.AlexNet.model import TorchvisionAlexNet
from dl.mytorch.introspect import check_same_layers


def from_torchvision(reference: nn.Module) -> TorchvisionAlexNet:
    """Return our copy of a `torchvision.models.alexnet`, of any number of classes and any width: weights and dropout.

    Raises `ValueError` for another network.
    """
    convs, linears = ([m for m in reference.modules() if isinstance(m, kind)] for kind in (nn.Conv2d, nn.Linear))
    if [conv.kernel_size for conv in convs] != [(k, k) for k in (11, 5, 3, 3, 3)] or len(linears) != 3:
        raise ValueError("no AlexNet of torchvision: it has five convolutions, of 11, 5, 3, 3 and 3, and three linear layers")
    model = TorchvisionAlexNet(
        widths=tuple(conv.out_channels for conv in convs),
        hidden=linears[0].out_features,
        num_classes=linears[2].out_features,
        in_channels=convs[0].in_channels,
        dropout=reference.classifier[0].p,
    )
    # Both list their layers from the first to the last.
    check_same_layers(model, reference)
    model.load_state_dict(dict(zip(model.state_dict(), reference.state_dict().values(), strict=True)))
    return model
