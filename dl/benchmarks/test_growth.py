"""How cost grows: each series can be measured and drawn, and the laws are those of the arithmetic."""

from dl.benchmarks import growth
from dl.benchmarks.common import RESULTS
from dl.mytorch.files import read_json

POINTS = {"series": {str: [{"value": int, "seconds": float, "bytes": int}]}}


def test_the_law_of_attention_is_linear_in_short_texts_and_quadratic_in_long_ones() -> None:
    assert growth.attended(1) == 12 * 128**2 + 128
    assert growth.attended(2) / growth.attended(1) < 2.01
    assert growth.attended(200_000) / growth.attended(100_000) > 3.9


def test_each_series_has_a_step_at_its_smallest_value() -> None:
    for name, series in growth.SERIES.items():
        series.prepare(series.values[0])()
        assert list(series.values) == sorted(series.values), name


def test_what_was_recorded_has_all_series_and_can_be_drawn() -> None:
    found = read_json(RESULTS / "growth.json", POINTS)["series"]
    assert {name: [row["value"] for row in rows] for name, rows in found.items()} == {
        name: list(series.values) for name, series in growth.SERIES.items()
    }
    for family in {series.family for series in growth.SERIES.values()}:
        assert len(growth.draw(family, found).axes) == 2 * sum(of.family == family for of in growth.SERIES.values())
        assert (RESULTS / f"growth-{family}.png").exists()
