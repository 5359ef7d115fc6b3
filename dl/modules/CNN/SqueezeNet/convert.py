"""torchvision's pretrained weights for our SqueezeNet."""

from torch import nn

from dl.modules.CNN.SqueezeNet.model import SqueezeNet, build
from dl.mytorch.introspect import check_same_layers


def from_torchvision(reference: nn.Module) -> SqueezeNet:
    """Our copy of a `torchvision.models.squeezenet1_0` or `squeezenet1_1`, of any number of classes and dropout: weights.

    Raises `ValueError` for another network.
    """
    if type(reference).__name__ != "SqueezeNet" or not hasattr(reference, "features"):
        raise ValueError(f"{type(reference).__name__} is no SqueezeNet of torchvision")
    preset = "squeezenet1_0" if reference.features[0].kernel_size == (7, 7) else "squeezenet1_1"
    model = build(preset, num_classes=reference.classifier[1].out_channels, dropout=reference.classifier[0].p)
    # Both state dicts are in the order of the forward pass, so the tensors of equal place belong together.
    check_same_layers(model, reference)
    model.load_state_dict(dict(zip(model.state_dict(), reference.state_dict().values(), strict=True)))
    return model
