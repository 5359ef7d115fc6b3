"""Runs side by side: what differs, figures and curves, of folders as trainings leave them."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from dl.cli import catalogue, compare
from dl.cli.testing import make_finished_run
from dl.mytorch.config import UserError
from dl.mytorch.events import Events


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Three runs of LeNet: two rates, two seeds, one without a test."""
    (tmp_path / "runs").mkdir()
    make_finished_run(tmp_path / "runs" / "slow", 0.2, lr=0.1)
    make_finished_run(tmp_path / "runs" / "fast", 0.1, lr=0.5, plots=False)
    make_finished_run(tmp_path / "runs" / "untested", finished=False, lr=0.5, seed=1)
    return tmp_path / "runs"


def test_the_table_has_what_differs_figures_and_rates(runs: Path) -> None:
    headings, *rows = compare.table(compare.read([runs]))
    assert headings[:4] == ["run", "seed", "lr", "test top-1 error"]  # errors first; --out and --plots are no difference
    by_name = {row[0]: dict(zip(headings, row)) for row in rows}
    assert [by_name[name]["lr"] for name in ("slow", "fast", "untested")] == ["0.1", "0.5", "0.5"]
    assert by_name["fast"]["test top-1 error"] == "10.00 %" and by_name["untested"]["test top-1 error"] == ""
    assert by_name["slow"]["validation loss"] == "0.0000 *" and by_name["slow"]["epoch"] == "2"
    assert (by_name["slow"]["time"], by_name["slow"]["examples/s"]) == ("60 s", "0")


def test_of_settings_that_a_recipe_makes_of_its_flags_the_flags_are_shown(runs: Path) -> None:
    for name in ("slow", "fast"):
        described = json.loads((runs / name / "config.json").read_text(encoding="utf-8")) | {"optimizer": f"sgd({name})"}
        (runs / name / "config.json").write_text(json.dumps(described), encoding="utf-8")
    assert compare.differing(compare.read([runs / "slow", runs / "fast"])) == ["lr"]
    described["config"]["lr"] = 0.1
    (runs / "fast" / "config.json").write_text(json.dumps(described), encoding="utf-8")
    assert compare.differing(compare.read([runs / "slow", runs / "fast"])) == ["optimizer"]


def test_less_than_two_runs_are_one_line(runs: Path, tmp_path: Path) -> None:
    for given in ([runs / "slow"], [runs / "slow", runs / "slow"], [tmp_path / "nothing"]):
        with pytest.raises(UserError, match="of two or more runs with an evaluation"):
            compare.read(given)


def test_one_figure_has_the_curves_of_all_runs(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drawn = compare.curves(compare.read([runs]))
    (axes,) = drawn.axes
    assert axes.get_title() == "loss" and len(axes.lines) == 6
    assert [text.get_text() for text in drawn.legends[0].get_texts()] == ["fast", "slow", "untested"]


def test_a_run_without_the_first_quantity_is_in_the_legend(runs: Path) -> None:
    given = compare.read([runs])
    for record in (record for record in given[0].history if "val" in record):
        record["val"]["top1_error"], record["val"]["loss"] = 0.5, None
    assert [text.get_text() for text in compare.curves(given).legends[0].get_texts()][-1] == given[0].name


def test_runs_on_two_drives_keep_their_paths(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(paths: list[Path]) -> str:
        raise ValueError("Paths don't have the same drive")

    monkeypatch.setattr(compare.os.path, "commonpath", refuse)
    assert {run.name for run in compare.read([runs])} == {(runs / name).as_posix() for name in ("slow", "fast", "untested")}


def test_an_odd_preset_breaks_no_other_run() -> None:
    described = {"recipe": "CNN/ResNet", "config": {"model": ["small"]}}
    assert catalogue.current(described) == described


def test_tensorboard_gets_each_run_under_its_name_with_the_flags_that_differ(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables: list[tuple[dict[str, Any], dict[str, float]]] = []
    monkeypatch.setattr(Events, "add_hparams", lambda events, flags, found: tables.append((flags, found)))
    compare.write_events(compare.read([runs]), tmp_path / "new")
    assert sorted(path.parent.relative_to(tmp_path / "new").as_posix() for path in tmp_path.glob("new/*/*/events*")) == [
        f"{name}/{part}" for name in ("fast", "slow", "untested") for part in ("train", "val")
    ]
    assert tables[0] == ({"seed": 0, "lr": 0.5}, {"validation_loss": 0.0, "test_loss": 0.25, "test_top1_error": 0.1})
    assert tables[2] == ({"seed": 1, "lr": 0.5}, {"validation_loss": 0.0})
    with pytest.raises(UserError, match="is not empty"):
        compare.write_events(compare.read([runs]), tmp_path / "new")


def test_the_command_writes_the_figure(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compare.main(argparse.Namespace(runs=[runs], figure=tmp_path / "compare.png", tensorboard=None))
    assert (tmp_path / "compare.png").read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "compare.png")
