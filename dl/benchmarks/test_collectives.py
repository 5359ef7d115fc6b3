"""What ranks hold and send, beside the formulas: those by hand for round numbers, and what was counted."""

import pytest

from dl.benchmarks import collectives
from dl.benchmarks.common import RESULTS
from dl.benchmarks.scale_formulas import Sizes, Way, held, kept, sent
from dl.mytorch.files import read_json

SIZES = Sizes(dim=100, depth=10, vocabulary=0, parameters=1_250_000, tokens=1000)  # 120,000 in a block, 50,000 outside
WAYS = [(ranks, name) for ranks, ways in collectives.WAYS.items() for name in ways]


def test_formulas_by_hand() -> None:
    unit = 1000 * 100 * 4
    assert held(Way(copies=3), SIZES) == 16 * 1_250_000
    assert held(Way(tensor=4), SIZES) == 16 * (300_000 + 50_000)
    assert held(Way(copies=2, shards=5, tensor=4), SIZES) == 16 * 70_000
    assert sent(Way(copies=2, shards=2), SIZES) == 12 * 1_250_000 / 2 + 8 * 625_000 / 2
    assert sent(Way(tensor=4), SIZES) == 8 * 10 * unit * 3 / 4
    assert sent(Way(tensor=4, sequence=True), SIZES) == 82 * unit * 3 / 4
    assert sent(Way(shards=2, tensor=2), SIZES) == 12 * (600_000 + 50_000) / 2 + 80 * unit / 2 / 2
    assert [kept(Way(tensor=t)) for t in (1, 2, 4)] == [16, 10, 7]
    assert [kept(Way(tensor=t, sequence=True)) for t in (2, 4)] == [9, 5.5]


def test_a_hundred_weights_on_four_ranks() -> None:
    sizes = Sizes(dim=0, depth=0, vocabulary=0, parameters=100, tokens=0)
    assert sent(Way(shards=4), sizes) == 900
    assert sent(Way(copies=2, shards=2), sizes) == 800


def within(rows: list[dict], tolerance: float) -> None:
    for row in rows:
        for quantity in ("held", "sent", *(["kept"] if "kept" in row else [])):
            assert row[quantity] == pytest.approx(row[f"expected_{quantity}"], rel=tolerance), row


def test_what_was_recorded_is_within_a_twentieth_of_the_formulas() -> None:
    rows = read_json(RESULTS / "collectives.json", {"rows": [object]})["rows"]
    assert [(row["ranks"], row["way"]) for row in rows] == WAYS
    within(rows, 0.05)


@pytest.mark.slow
def test_two_ranks_are_counted_within_a_twentieth_of_the_formulas() -> None:
    rows = collectives.count(2)
    assert [row["way"] for row in rows] == list(collectives.WAYS[2])
    within(rows, 0.05)
