"""Layers that two models or more share. Each can be used like those of `torch.nn`."""

from dl.mytorch.layers.sequential import sequential

__all__ = ["sequential"]
