"""The table of what features learnt without labels are worth."""

from pathlib import Path
from typing import Any

import pytest
import torch

from dl.cli import probing
from dl.modules.SelfSupervised import compare
from dl.mytorch.config import UserError


def record(recipe: str, error: float, random: float = 0.7, data: str = "cifar10") -> dict[str, Any]:
    errors = {
        prefix + name: value
        for prefix, value in (("", error), (compare.RANDOM, random), (compare.PIXELS, 0.6))
        for name in compare.COLUMNS
    }
    about = {"recipe": recipe, "command": "python", "config": {"data": data}, "commit": "abc1234", "versions": {}, "seed": 0}
    return {**about, "errors": errors, "training_seconds": 60.0}


FOUND = [record("SelfSupervised/SimCLR", 0.4), record("SelfSupervised/MAE", 0.65, 0.8), record("CNN/ResNet", 0.2)]


def test_rows_are_the_runs_each_kind_of_random_weights_and_the_pixels_once_the_best_first() -> None:
    assert [row[0] for row in compare.rows(FOUND)] == [
        *("ResNet, supervised", "SimCLR", "pixels", "MAE", "random SimCLR", "random MAE")
    ]
    lines = compare.table(FOUND).splitlines()
    assert lines[0] == ("| features | training | 20 nearest | 200 nearest | linear, all labels | linear, 10 % | linear, 1 % |")
    assert lines[3] == "| SimCLR | 60 s | 40.0 | 40.0 | 40.0 | 40.0 | 40.0 |"


def test_the_pixels_are_measured_once() -> None:
    without = {name: error for name, error in FOUND[1]["errors"].items() if not name.startswith(compare.PIXELS)}
    assert compare.rows([FOUND[0], {**FOUND[1], "errors": without}]) == compare.rows(FOUND[:2])


def test_errors_on_different_images_are_not_compared() -> None:
    with pytest.raises(UserError, match="runs on cifar10 and fashion_mnist"):
        compare.rows([*FOUND, record("SelfSupervised/DINO", 0.5, data="fashion_mnist")])


def test_runs_are_recorded_beside_those_of_other_recipes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_figures: None, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "README.md").write_text("<!-- results -->\n<!-- /results -->\n", encoding="utf-8")
    monkeypatch.setattr(compare, "HERE", tmp_path)
    monkeypatch.setattr(compare.results.catalogue, "ROOT", tmp_path)
    known = {each["config"]["data"] + each["recipe"]: each for each in FOUND}
    monkeypatch.setattr(compare, "measure", lambda path, pixels: known["cifar10" + str(path)])
    for recipe in ("SelfSupervised/SimCLR", "CNN/ResNet", "SelfSupervised/SimCLR"):
        assert compare.main(["--record", recipe]) == 0
    assert [each["recipe"] for each in compare.recorded()] == ["CNN/ResNet", "SelfSupervised/SimCLR"]
    assert "| SimCLR | 60 s |" in (tmp_path / "README.md").read_text(encoding="utf-8")
    assert compare.main(["SelfSupervised/MAE"]) == 0
    assert "random MAE" in capsys.readouterr().out and len(compare.recorded()) == 2


def test_the_columns_are_what_the_probes_are_called() -> None:
    examples = (torch.randn(40, 3), torch.arange(40) % 2)
    found = dict(probing._errors(examples, examples, probing.PROBES, compare.SHARES, 0))
    assert found.keys() == compare.COLUMNS.keys()
