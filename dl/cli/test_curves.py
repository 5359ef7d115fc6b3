"""The curve in a record: which points, and how they are written."""

import json

from dl.cli import curves
from dl.mytorch.files import check
from dl.mytorch.logger import History


def history(length: int, best: int = 0) -> History:
    found = [
        {
            **{"epoch": i, "step": 10 * i, "lr": 0.1, "train": {"loss": 2.0, "top1_error": 0.5, "top5_error": 0.1}},
            "val": {"loss": 0.123456 if i == best else 1.0 + i, "top1_error": None if i == 1 else 0.25},
        }
        for i in range(length)
    ]
    return History([*found, {"epoch": 9, "step": 90, "test": {"loss": 1.0}}])


def test_loss_and_first_metric_are_kept_at_every_evaluation() -> None:
    curve = curves.points(history(3))
    assert curve == {
        **{"step": [0, 10, 20], "train loss": [2.0] * 3, "train top1_error": [0.5] * 3},
        **{"val loss": [0.1235, 2.0, 3.0], "val top1_error": [0.25, None, 0.25]},
    }
    assert check(curve, curves.CURVE, "curve") is curve
    assert curves.points(History()) == {}


def test_long_histories_are_thinned_evenly_and_keep_the_first_the_best_and_the_last() -> None:
    for length in (curves.POINTS, curves.POINTS + 1, 1234):
        steps = curves.points(history(length, best=57))["step"]
        assert length // 20 < len(steps) <= curves.POINTS and steps == sorted(set(steps))
        assert {0, 570, 10 * (length - 1)} <= set(steps)
        assert max(b - a for a, b in zip(steps, steps[1:])) <= 20 * max(1, length // curves.POINTS)


def test_agents_have_curves_of_what_they_reach() -> None:
    agent = History([{"epoch": 1, "step": 5, "train": {"loss": 1.0}, "val": {"negative_return": -20.5}}])
    assert curves.points(agent) == {"step": [5], "train loss": [1.0], "val negative_return": [-20.5]}


def test_a_list_of_numbers_takes_a_line() -> None:
    record = {"a": [1, 2.5, None, -1e-07], "b": ["x", "y"], "c": {"d": []}, "text": "[\n 1\n]"}
    text = curves.as_json(record).decode()
    assert json.loads(text) == record and '"a": [1, 2.5, null, -1e-07],' in text and '"x",\n' in text
