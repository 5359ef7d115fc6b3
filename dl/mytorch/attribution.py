"""Why a classifier decided as it did: the parts of an image that speak for a class, and the least change that misleads it."""

from typing import Any, Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def grad_cam(model: nn.Module, images: Tensor, classes: Tensor, layer: str = "") -> tuple[str, Tensor]:
    """Return what speaks for each image's class in a layer's output, and the layer's name: images (B, C, H, W) -> (B, h, w).

    Selvaraju et al. 2017, equations 1 and 2, https://arxiv.org/abs/1610.02391: the layer's channels, each weighted by the mean
    over the map of the gradient of the class's logit, summed; what is below 0 speaks for others and becomes 0.

    Args:
        classes: (B,) long.
        layer: a name of `model.named_modules()`. Default: the last layer with a map on which the logit depends: of a
            convolutional network what comes before it is flattened or averaged, of a ViT the values of its last attention.

    Maps are (B, C, h, w); (B, h, w, C) where only that is square; or tokens (B, h h, C), also after a class token. Raises
    `ValueError` for a layer that has none, and when no layer has.
    """
    outputs: dict[str, Tensor] = {}

    def keeper(name: str) -> Callable[..., Any]:
        def keep(module: nn.Module, inputs: Any, output: Any) -> Any:
            if isinstance(output, Tensor) and output.requires_grad:
                outputs.pop(name, None)  # the last call counts, and the order is that of the last calls
                outputs[name] = output
                return output.clone()  # what the next layer changes in place is the copy
            return None

        return keep

    layers = {name: module for name, module in model.named_modules() if name and (not layer or name == layer)}
    hooks = [module.register_forward_hook(keeper(name)) for name, module in layers.items()]
    try:
        with torch.enable_grad():  # an input with a gradient: so has every layer's output, of a frozen network too
            logits = model(images.detach().requires_grad_())
            gradients = torch.autograd.grad(_of_classes(logits, classes), list(outputs.values()), allow_unused=True)
    finally:
        for hook in hooks:
            hook.remove()
    for (name, output), gradient in reversed(list(zip(outputs.items(), gradients))):
        if gradient is None or (channels := _as_map(output)) is None:
            continue
        slope = _as_map(gradient)
        if layer or slope.any():  # a transformer's last layer may have gradients at its class token alone
            return name, (channels * slope.mean((2, 3), keepdim=True)).sum(1).relu().detach()
    raise ValueError(f"layer {layer!r} gives no map that the logits depend on" if layer else "no layer gives such a map")


def _of_classes(logits: Tensor, classes: Tensor) -> Tensor:
    return logits.gather(1, classes[:, None]).sum()


def _as_map(output: Tensor) -> Tensor | None:
    """Return a layer's output as maps (B, C, h, w) of several places, or None where it has none."""
    if output.ndim == 3:
        side = int(output.shape[1] ** 0.5)
        output = output[:, output.shape[1] - side**2 :]
        if output.shape[1] != side**2 or len(output[0]) != side**2:
            return None
        output = output.unflatten(1, (side, side)) if side > 1 else output
    if output.ndim == 4 and output.shape[1] == output.shape[2] != output.shape[3]:
        output = output.permute(0, 3, 1, 2)
    return output if output.ndim == 4 and output.shape[-1] > 1 and output.shape[-2] > 1 else None


def fgsm(
    model: nn.Module, images: Tensor, classes: Tensor, step: float | Tensor, low: float | Tensor, high: float | Tensor
) -> Tensor:
    """Return images (B, C, H, W) changed by `step` in each pixel, each the way that makes the loss of its class rise.

    The fast gradient sign method: Goodfellow et al. 2015, section 4, https://arxiv.org/abs/1412.6572. The result stays between
    `low` and `high`; these and `step` are numbers or (C, 1, 1), in the units of the network's input.
    """
    images = images.detach().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(images), classes, reduction="sum"), images)
    changed = images.detach() + step * gradient.sign()
    low, high = (torch.as_tensor(end, dtype=images.dtype, device=images.device) for end in (low, high))
    return changed.maximum(low).minimum(high)
