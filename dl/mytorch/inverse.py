"""The way back of a converter of weights: what it renames, turns and cuts is found by sending numbers through it."""

from contextlib import contextmanager
from typing import Callable, Iterator, TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


@torch.no_grad()
def inverse(convert: Callable[[Network], nn.Module], reference: Network, model: nn.Module) -> Network:
    """Return `reference` with the weights of which `convert` makes those of `model`.

    `convert` may rename tensors, turn their axes, cut and join them, but not compute. Each number of `reference` is replaced by
    its place, so that the copy which `convert` makes says where each number of `model` belongs.

    Raises `ValueError` if `reference` is another network than `model`, or `convert` computes.
    """
    dtype = next(model.parameters()).dtype
    reference = reference.double()
    held = reference.state_dict(keep_vars=True).values()
    tensors = list({id(tensor): tensor for tensor in held if tensor.is_floating_point()}.values())  # a tied one once
    sizes = [tensor.numel() for tensor in tensors]
    values = torch.cat([tensor.flatten() for tensor in tensors])
    for tensor, places in zip(tensors, torch.arange(sum(sizes), dtype=torch.float64).split(sizes)):
        tensor.copy_(places.view_as(tensor))
    with _float64():  # exact up to 2^53; float32 would be up to 2^24
        places = convert(reference).state_dict()
    reached = torch.zeros(sum(sizes), dtype=torch.bool)
    for name, weight in model.state_dict().items():
        if name not in places or places[name].shape != weight.shape:
            raise ValueError(f"{type(reference).__name__} has no {name} of the shape {tuple(weight.shape)}")
        if weight.is_floating_point():
            rows = places[name].flatten().long()
            if not torch.equal(rows.double(), places[name].flatten()):
                raise ValueError(f"{name} is computed by the converter, so that there is no way back")
            values[rows] = weight.detach().double().cpu().flatten()
            reached[rows] = True
    for tensor, part, there in zip(tensors, values.split(sizes), reached.split(sizes)):
        if isinstance(tensor, nn.Parameter) and not there.all():
            raise ValueError(f"{type(reference).__name__} has a weight of the shape {tuple(tensor.shape)} that is not here")
        tensor.copy_(part.view_as(tensor))
    return reference.to(dtype)


@contextmanager
def _float64() -> Iterator[None]:
    """Networks are made in float64 meanwhile."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
