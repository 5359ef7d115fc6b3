"""Runs that differ in one value are told apart, and what differs is named."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from dl.mytorch import checkpoint
from dl.mytorch.testing import assert_same_runs


def write_run(folder: Path, history: Any = (1, 2), best: float = 0.5, last: Any = None) -> Path:
    folder.mkdir()
    (folder / "history.json").write_text(json.dumps(history), encoding="utf-8")
    checkpoint.save({"w": torch.tensor(best)}, folder / "best.pt")
    checkpoint.save(last or {"a": [torch.ones(2), {"b": (1, "x")}]}, folder / "last.pt")
    return folder


def test_equal_runs_are_the_same(tmp_path: Path) -> None:
    assert_same_runs(write_run(tmp_path / "a"), write_run(tmp_path / "b"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"history": [1, 3]}, "history.json differs"),
        ({"best": 0.25}, "best.pt differs"),
        ({"last": {"a": [torch.tensor([1.0, 1.0000001]), {"b": (1, "x")}]}}, r"last.pt\['a'\]\[0\] differs"),
        ({"last": {"a": [torch.ones(2).double(), {"b": (1, "x")}]}}, r"last.pt\['a'\]\[0\] differs"),
        ({"last": {"a": [torch.ones(2), {"b": (1, "y")}]}}, r"last.pt\['a'\]\[1\]\['b'\]\[1\]: 'x' and 'y'"),
        ({"last": {"a": [torch.ones(2), {"c": (1, "x")}]}}, r"last.pt\['a'\]\[1\] has other keys"),
        ({"last": {"a": [torch.ones(2)]}}, r"last.pt\['a'\] has another length"),
    ],
    ids=["history", "best", "bits", "dtype", "value", "key", "length"],
)
def test_runs_that_differ_are_told_apart(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=says):
        assert_same_runs(write_run(tmp_path / "a"), write_run(tmp_path / "b", **change))
