"""torchvision's pretrained weights for our DenseNet."""

from torch import nn

from dl.modules.CNN.DenseNet.model import DenseNet
from dl.mytorch.introspect import check_same_layers


def from_torchvision(reference: nn.Module) -> DenseNet:
    """Our copy of a `torchvision.models.densenet121` to `densenet201`, or of another size of their class: weights and buffers.

    Their dropout is kept, and its place. Their `memory_efficient` is not: it changes no value.
    Raises `ValueError` for what is no DenseNet of torchvision.
    """
    features = getattr(reference, "features", None)
    if not hasattr(features, "denseblock1"):
        raise ValueError(f"{type(reference).__name__} is no DenseNet of torchvision")
    blocks = [module for name, module in features.named_children() if name.startswith("denseblock")]
    first = blocks[0].denselayer1
    growth = first.conv2.out_channels
    model = DenseNet(
        depths=tuple(len(block) for block in blocks),
        growth=growth,
        stem_channels=features.conv0.out_channels,
        bottleneck=first.conv1.out_channels // growth,
        dropout=first.drop_rate,
        dropout_at="layer",
        num_classes=reference.classifier.out_features,
    )
    # Both state dicts are in the order of the forward pass, so the tensors of equal place belong together.
    check_same_layers(model, reference)
    model.load_state_dict(dict(zip(model.state_dict(), reference.state_dict().values(), strict=True)))
    return model
