"""COCO's "segmentation" of an object as a mask: polygons, or the lengths of runs of pixels."""

from typing import Any, Sequence

import numpy as np
import torch
from torch import Tensor


def is_outline(value: Any) -> bool:
    """Return whether this is a list of polygons or a dict of runs. Which numbers are in there is seen when it is read."""
    return bool(value) and (
        isinstance(value, dict) or isinstance(value, list) and all(isinstance(each, list) for each in value)
    )


def outlines(segmentations: Sequence[Any], height: int, width: int) -> Tensor:
    """Return masks (n, height, width) of bools. Raises `ValueError` for what is no outline, or one of another size."""
    masks = [_runs(each, height, width) if isinstance(each, dict) else _polygons(each, height, width) for each in segmentations]
    return torch.from_numpy(np.stack(masks)) if masks else torch.zeros(0, height, width, dtype=torch.bool)


def polygon(corners: Sequence[float], height: int, width: int) -> np.ndarray:
    """Return the pixels (height, width) whose centre is inside of a polygon x, y, x, y ...: bools.

    From each edge on, along a row, inside and outside change places.
    """
    points = np.asarray(corners, dtype=float)
    if points.ndim != 1 or len(points) % 2 or len(points) < 6 or not np.isfinite(points).all():
        raise ValueError("a polygon has three corners at least, two numbers each")
    (x0, y0), (x1, y1) = points.reshape(-1, 2).T, np.roll(points.reshape(-1, 2), -1, axis=0).T
    centres = np.arange(height) + 0.5
    edge, row = np.nonzero((y0[:, None] <= centres) != (y1[:, None] <= centres))
    x = x0[edge] + (centres[row] - y0[edge]) / (y1[edge] - y0[edge]) * (x1[edge] - x0[edge])
    changes = np.zeros((height, width + 1), dtype=int)
    np.add.at(changes, (row, np.ceil(x - 0.5).clip(0, width).astype(int)), 1)
    return changes.cumsum(axis=1)[:, :width] % 2 == 1


def _polygons(value: Any, height: int, width: int) -> np.ndarray:
    if not is_outline(value):
        raise ValueError("an outline is a list of polygons")
    try:
        return np.logical_or.reduce([polygon(corners, height, width) for corners in value])
    except TypeError:
        raise ValueError("a polygon is a list of numbers") from None


def _runs(value: dict[str, Any], height: int, width: int) -> np.ndarray:
    """Runs of 0 and 1 in turn, down the columns, from the first on."""
    if value.get("size") != [height, width]:
        raise ValueError(f"a mask has the size {value.get('size')}, its image {[height, width]}")
    counts = value.get("counts")
    counts = unpacked(counts) if isinstance(counts, str) else counts
    if not isinstance(counts, list) or any(type(count) is not int or count < 0 for count in counts):
        raise ValueError("the lengths of runs have to be integers")
    if sum(counts) != height * width:
        raise ValueError(f"runs of {sum(counts)} pixels do not fill an image of {height * width}")
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(width, height).T


def unpacked(text: str) -> list[int]:
    """Return the lengths in a string of pycocotools: digits of base 32, the lowest first, from the fourth on as differences."""
    numbers, value, digits = [], 0, 0
    for letter in text:
        digit = ord(letter) - 48
        if not 0 <= digit < 64 or digits > 8:
            raise ValueError("the string of runs is damaged")
        value |= (digit & 31) << 5 * digits
        digits += 1
        if not digit & 32:  # the last one, with the sign
            numbers.append(value - (1 << 5 * digits) if digit & 16 else value)
            value = digits = 0
    for i in range(3, len(numbers)):
        numbers[i] += numbers[i - 2]
    return numbers
