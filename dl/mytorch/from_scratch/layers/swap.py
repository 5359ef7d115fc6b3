"""torch.nn with the layers of this package in it, to build any model from these."""

from contextlib import contextmanager
from types import ModuleType
from typing import Any, Iterator

from torch import nn
from torch.nn import functional as F

from dl.mytorch.from_scratch.layers import (
    activations,
    conv,
    dropout,
    embedding,
    initializers,
    linear,
    normalization,
    pooling,
    recurrent,
)
from dl.mytorch.from_scratch.layers.attention import scaled_dot_product_attention

FAMILIES = [activations, conv, dropout, embedding, initializers, linear, normalization, pooling, recurrent]


def ours() -> Iterator[tuple[ModuleType, str, Any]]:
    """Yield what is written here under a name of `torch.nn`, of its `functional` or of its `init`: where, the name, ours."""
    for home in (nn, F, nn.init):
        for family in FAMILIES:
            for name, thing in vars(family).items():
                if getattr(thing, "__module__", "") == family.__name__ and hasattr(home, name):
                    yield home, name, thing
    yield F, "scaled_dot_product_attention", scaled_dot_product_attention


@contextmanager
def from_scratch() -> Iterator[None]:
    """Inside, `torch.nn`, its `functional` and its `init` have our layers, functions and initializers under their names.

        with from_scratch():
            model = build("resnet18")  # nn.Conv2d is ours when model.py asks for it
            logits = model(images)  # and so is F.conv2d

    The model keeps its layers afterwards; functions that its `forward` calls are then torch's again. What holds layers or
    computes nothing (`Module`, `Sequential`, `Identity`, `Flatten` ...) is torch's always, and so is a class that a file
    took from torch.nn when it was imported, say as a default argument; but its layers call the functions above.
    """
    replaced = [(home, name, getattr(home, name)) for home, name, _ in ours()]
    try:
        for home, name, thing in ours():
            setattr(home, name, thing)
        yield
    finally:
        for home, name, theirs in replaced:
            setattr(home, name, theirs)
