"""Features of inputs: the output of a layer of a trained network, of single batches and of a data set."""

from typing import Callable

import torch
from torch import Tensor, nn

from dl.mytorch.data.loader import Loader
from dl.mytorch.gathering import all_gather
from dl.mytorch.introspect import Probe


@torch.no_grad()
def features_and_logits(model: nn.Module, inputs: Tensor, layer: str = "") -> tuple[Tensor, Tensor]:
    """Return features (B, D) of inputs (B, ...) at the output of `layer`, and the output of the network.

    The default layer is what the classifier reads: the input of the last linear layer or convolution that runs. Maps
    (B, D, H, W) and tokens (B, T, D) become their mean. Raises `KeyError`, with near names, for a layer that is not there.
    """
    if layer:
        with Probe(model, layer) as probe:
            logits = model(inputs)
        found = probe[layer]
    else:
        kept: list[Tensor] = []

        def keep(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            kept[:] = args[:1]

        layers = [module for module in model.modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
        hooks = [module.register_forward_pre_hook(keep) for module in layers]
        try:
            logits = model(inputs)
        finally:
            for hook in hooks:
                hook.remove()
        (found,) = kept
    if found.ndim == 4:
        found = found.mean((2, 3))
    elif found.ndim == 3:
        found = found.mean(1)
    return found.float(), logits


def represent(model: nn.Module, images: Tensor) -> Tensor:
    """Return features (B, D) of images: what an encoder's `represent` gives, else the input of a classifier's last layer."""
    return model.represent(images) if hasattr(model, "represent") else features_and_logits(model, images)[0]


@torch.no_grad()
def encode(
    features: Callable[[Tensor], Tensor], loader: Loader, device: torch.device, channels_last: bool = False
) -> tuple[Tensor, Tensor]:
    """Return `features` (N, D) of all images of `loader` and their labels (N,), on all ranks, each of which computes a part."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    found, labels = [], []
    for batch in loader.batches():
        found.append(features(batch["images"].to(device).contiguous(memory_format=layout)).float())
        labels.append(batch["labels"].to(device))
    return all_gather(torch.cat(found)), all_gather(torch.cat(labels))
