"""torchvision's weights for our GoogLeNet."""

from torch import nn

from dl.modules.CNN.GoogLeNet.model import TorchvisionGoogLeNet
from dl.mytorch.introspect import check_same_layers
from dl.mytorch.names import substituted

# Their names as regular expressions, and ours, in the order in which they are applied.
NAMES = (
    (r"^(conv\d)", r"stem.\1"),
    (r"^inception(\d\w)", r"body.\1"),
    (r"branch2\.0", "branch3.reduce"),  # they count the branches, we name them by their kernel
    (r"branch2\.1", "branch3.conv"),
    (r"branch3\.0", "branch5.reduce"),
    (r"branch3\.1", "branch5.conv"),
    (r"branch4\.1", "branch_pool.project"),
    (r"^aux1", "aux.4a"),
    (r"^aux2", "aux.4d"),
    (r"^fc\.", "head."),
    (r"\.bn\.", ".norm."),
)


def from_torchvision(reference: nn.Module) -> TorchvisionGoogLeNet:
    """Return our copy of a `torchvision.models.googlenet` of any number of classes: weights, buffers, rates of dropout.

    Raises `ValueError` for another network, and for a GoogLeNet that was given other blocks.
    """
    if type(reference).__name__ != "GoogLeNet":
        raise ValueError(f"a {type(reference).__name__} is no GoogLeNet of torchvision")
    aux = reference.aux1 is not None
    model = TorchvisionGoogLeNet(
        width=reference.conv1.conv.out_channels / 64,
        aux=aux,
        num_classes=reference.fc.out_features,
        dropout=reference.dropout.p,
        dropout_aux=reference.aux1.dropout.p if aux else 0.7,
        transform_input=reference.transform_input,
    )
    weights = {_renamed(name): weight for name, weight in reference.state_dict().items()}
    own = model.state_dict()
    if weights.keys() != own.keys() or any(weights[name].shape != own[name].shape for name in own):
        raise ValueError("this GoogLeNet was given blocks that are not torchvision's own")
    check_same_layers(model, reference)
    model.load_state_dict(weights)
    return model


def _renamed(name: str) -> str:
    return substituted(name, NAMES)
