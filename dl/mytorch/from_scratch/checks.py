"""Checks that layers and losses share, so that what torch's refuse ours refuse too, instead of computing something else."""

from torch import Tensor


def floating(input: Tensor) -> Tensor:
    """Return `input`. Raise `TypeError` unless it holds floating-point numbers."""
    if not input.is_floating_point():
        raise TypeError(f"floating-point numbers are needed, not {input.dtype}")
    return input


def same_shape(what: str, tensor: Tensor | None, shape: tuple[int, ...]) -> None:
    """Raise `ValueError` for a tensor of another shape, even one that would broadcast."""
    if tensor is not None and tensor.shape != shape:
        raise ValueError(f"{what} has to be of shape {tuple(shape)}; got {tuple(tensor.shape)}")


def at_least(what: str, value: int | tuple[int, ...], smallest: int) -> None:
    """Raise `ValueError` for a number, or one of several, below `smallest`."""
    if min(value if isinstance(value, tuple) else (value,)) < smallest:
        raise ValueError(f"{what} has to be at least {smallest}; got {value}")


def probability(p: float) -> None:
    """Raise `ValueError` unless 0 <= p <= 1; True and False are no numbers here."""
    if isinstance(p, bool) or not 0 <= p <= 1:
        raise ValueError(f"a probability to drop is between 0 and 1; got {p}")
