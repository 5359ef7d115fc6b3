"""The formulas of memory and communication, worked out by hand for round numbers, and the plan made of them."""

import json
from pathlib import Path

import pytest

from dl.benchmarks import scale_formulas
from dl.benchmarks.scale_formulas import Sizes, communication, memory, plan

SIZES = Sizes(dim=100, depth=10, vocabulary=0, parameters=1_250_000, tokens=1000)  # 120,000 in a block, 50,000 outside


def test_formulas_by_hand() -> None:
    unit = 1000 * 100 * 4
    assert memory("one", SIZES, 1) == 12 * 1_250_000 + (10 * 16 + 5) * unit
    assert memory("recomputed", SIZES, 1) == 12 * 1_250_000 + max((10 + 16 + 5) * unit, 4 * 1_250_000 + 21 * unit)
    assert memory("streamed", SIZES, 1) == 12 * 50_000 + 8 * 120_000 + 31 * unit
    assert memory("fsdp", SIZES, 2) == 12 * 625_000 + 4 * (50_000 + 240_000) + 165 * unit / 2
    assert communication("ddp", SIZES, 4) == 2 * 4 * 1_250_000 * 3 / 4
    assert communication("fsdp", SIZES, 4) == 3 * 4 * 1_250_000 * 3 / 4
    assert communication("one", SIZES, 1) == 0


def test_what_was_measured_is_within_a_tenth_of_the_formula() -> None:
    rows = json.loads((Path(__file__).parent / "results" / "scale-depths.json").read_text(encoding="utf-8"))["rows"]
    assert len({(row["mode"], row["depth"]) for row in rows}) == 6
    for row in rows:
        sizes = Sizes(384, row["depth"], 65, row["parameters"], 4096)
        assert row["bytes"] == pytest.approx(memory(row["mode"], sizes, 1), rel=0.1), row["mode"]


def test_the_plan_says_what_does_not_fit() -> None:
    rows = [row for row in plan().splitlines() if "llama_7b" in row]
    assert len(rows) == 6 and ["does not fit" in row for row in rows] == [True, False, False] * 2
    assert plan() in (Path(scale_formulas.__file__).parents[1] / "mytorch" / "large" / "SCALING.md").read_text(encoding="utf-8")
