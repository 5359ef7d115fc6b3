"""Features of inputs: the output of a layer of a trained network."""

import torch
from torch import Tensor, nn

from dl.mytorch import Probe


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
