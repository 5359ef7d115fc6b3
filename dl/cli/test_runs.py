"""A trained run is opened as an object, whatever version wrote it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import dl
from dl.cli import folders
from dl.cli.catalogue import UnknownName
from dl.cli.runs import Run, load_best
from dl.cli.testing import write_run
from dl.mytorch.checkpoint import save
from dl.mytorch.config import UserError
from dl.mytorch.files import write_recorded_json


def test_a_run_is_its_config_network_names_and_history(tmp_path: Path) -> None:
    run = dl.Run.open(write_run(tmp_path / "run"))
    assert (run.recipe, run.path, run.config.model, run.config.out) == (
        "CNN/LeNet",
        tmp_path / "run",
        "tiny",
        str(tmp_path / "run"),
    )
    model = run.model()
    assert torch.equal(model.state_dict()["c1.weight"], torch.load(tmp_path / "run" / "best.pt")["c1.weight"])
    assert not model.training and model is not run.model()
    assert len(run.names) == 10 and run.vocabularies == {} and run.history.test == {"loss": 0.5}
    with pytest.raises(UserError, match="speed.json"):
        _ = run.speed


@pytest.mark.parametrize("recipe", ["RNN/GRU", "GPT/GPT2", "RNN/TextCNN"])
def test_a_run_on_text_has_its_vocabularies(tmp_path: Path, recipe: str) -> None:
    run = Run.open(write_run(tmp_path / "run", recipe))
    assert run.vocabularies["tokens"].tokens == ("a", "b", "c") and run.names == ()
    assert run.model()(torch.tensor([[0, 1, 2]])) is not None
    (run.path / "vocabulary-tokens.json").unlink()
    with pytest.raises(UserError, match="run lacks its vocabulary"):
        Run.open(run.path).model()


def test_flags_of_earlier_versions_are_understood_and_told_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_run(tmp_path / "run", "RNN/GRU", length=7, swing=3)
    described = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    del described["config"]["bptt_length"]
    write_recorded_json(described, folder / "config.json")
    run = Run.open(folder)
    assert run.config.bptt_length == 7 and run.config is run.config
    line = f"note: {folder / 'config.json'} is of an earlier version: --length is --bptt-length now, --swing is no more\n"
    assert capsys.readouterr().err == line


def test_the_newest_finished_run_of_a_model_is_its_latest(tmp_path: Path) -> None:
    for number, (name, finished, recipe) in enumerate(
        [("old", True, "CNN/LeNet"), ("deep/new", True, "CNN/LeNet"), ("open", False, "CNN/LeNet"), ("other", True, "MLP/MLP")]
    ):
        folder = write_run(tmp_path / name, recipe, finished)
        for path in folder.iterdir():
            os.utime(path, (1e9 + number, 1e9 + number))
    (tmp_path / "config.json").write_text("[]", encoding="utf-8")  # another program's
    assert Run.latest("lenet", tmp_path).path == tmp_path / "deep" / "new"
    with pytest.raises(UserError, match="no finished run of CNN/ResNet below"):
        Run.latest("CNN/ResNet", tmp_path)
    with pytest.raises(UnknownName):
        Run.latest("CNN/ResNit", tmp_path)
    assert [run.path.name for run in folders.found(tmp_path)] == ["new", "old", "open", "other"]


@pytest.mark.slow
def test_importing_dl_imports_no_torch() -> None:
    subprocess.run([sys.executable, "-c", "import sys, dl; sys.exit('torch' in sys.modules)"], check=True)


def test_a_network_that_is_larger_than_its_weights_is_refused_before_it_takes_memory(tmp_path: Path) -> None:
    model = nn.Linear(10, 20)
    save(model.state_dict(), tmp_path / "best.pt")
    assert torch.equal(load_best(lambda: nn.Linear(10, 20), tmp_path).weight, model.weight)
    with pytest.raises(UserError, match="config.json is of a network of 400,000,000,400,000,000 bytes, best.pt has"):
        load_best(lambda: nn.Linear(10**9, 10**8), tmp_path)
    with pytest.raises(UserError, match="belongs to another model"):
        load_best(lambda: nn.Linear(10, 21), tmp_path)
