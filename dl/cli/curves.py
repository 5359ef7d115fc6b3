"""The curve of a run, which its record keeps: some points of what it was trained by and judged by."""

import json
import re
from typing import Any

from dl.cli.listing import first_metric
from dl.mytorch.logger import History

POINTS = 100  # at most
CURVE = {str: [(float, None)], "step": [int]}


def points(history: History) -> dict[str, list[Any]]:
    """Return {"step": [...], "train loss": [...], "val top1_error": [...]}: loss and first metric of each evaluation.

    Of more than `POINTS` evaluations some are taken, evenly, with the first, the best and the last. {} without any.
    """
    found = [each for each in history if "val" in each]
    if not found:
        return {}
    even = {round(i * (len(found) - 1) / (POINTS - 2)) for i in range(POINTS - 1)}
    best = next((i for i, each in enumerate(found) if each is history.best()), 0)
    taken = [each for i, each in enumerate(found) if len(found) <= POINTS or i in even | {best}]
    curve = {"step": [each["step"] for each in taken]}
    for split in ("train", "val"):
        names = list(found[-1].get(split, {}))
        for name in dict.fromkeys(["loss", first_metric(names)] if "loss" in names else [first_metric(names)]):
            if name:
                curve[f"{split} {name}"] = [_short(each.get(split, {}).get(name)) for each in taken]
    return curve


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def as_json(record: dict[str, Any]) -> bytes:
    """Return a record as indented JSON, in which a list of numbers takes a line. Raises `ValueError` for NaN and infinity."""
    text = json.dumps(record, indent=1, allow_nan=False) + "\n"
    lists = re.compile(r"\[(?:\s+(?:[-+.\deE]+|null),?)+\s+\]")
    return lists.sub(lambda match: " ".join(match[0].split()).replace("[ ", "[").replace(" ]", "]"), text).encode()
