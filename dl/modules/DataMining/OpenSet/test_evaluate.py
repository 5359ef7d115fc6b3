"""The recipe that leaves classes out, and the measures of its runs."""

import dataclasses
import json
import os
import sys
from pathlib import Path

import pytest
import torch

from dl.cli import results
from dl.modules.CNN.ResNet.model import build
from dl.modules.DataMining.OpenSet import evaluate, scores, train
from dl.mytorch import testing
from dl.mytorch.config import UserError
from dl.mytorch.data import Batch, Loader, Splits, synthetic
from dl.mytorch.introspect import without_values


def images(count: int, seed: int) -> Batch:
    """Of ten classes, as bytes."""
    data = synthetic.images(count, seed=seed)
    return {"images": (data["images"] * 30 + 128).clamp(0, 255).byte(), "labels": data["labels"]}


def splits(_: object = None) -> Splits:
    def float_of(batch: Batch, __: torch.Generator) -> Batch:
        return {**batch, "images": batch["images"].float() / 100}

    sets = [images(count, seed) for seed, count in enumerate((60, 40, 60))]
    return Splits(*(Loader(data, 16, shuffle=i == 0, transform=float_of) for i, data in enumerate(sets)))


def config(out: Path, **flags: object) -> train.Config:
    same = {"precision": "fp32", "channels_last": False, "lr": 0.05}
    return train.Config(out=str(out), data="fashion_mnist-sample", model="tiny", epochs=1, batch_size=16, **same, **flags)


def test_only_the_known_classes_are_learnt_under_new_numbers(tmp_path: Path) -> None:
    asked = config(tmp_path, held_out="0,2")
    assert train.known_classes(asked) == [1, 3, 4, 5, 6, 7, 8, 9]
    assert train.build_model(asked).head.out_features == 8
    batch = train.only({"images": torch.arange(5.0), "labels": torch.tensor([3, 0, 1, 9, 2])}, [1, 3, 9])
    assert batch["images"].tolist() == [0, 2, 3] and batch["labels"].tolist() == [1, 0, 2]
    known = train.known_only(splits(), [1, 3])
    assert [set(part.dataset["labels"].tolist()) for part in known] == [{0, 1}] * 3
    assert known.train.shuffle and not known.test.shuffle


@pytest.mark.parametrize("wrong", ["10", "1,1", "x", "0,1,2,3,4,5,6,7,8"])
def test_classes_that_cannot_be_held_out_are_refused(tmp_path: Path, wrong: str) -> None:
    with pytest.raises(ValueError, match="--held-out has to be numbers below 10"):
        config(tmp_path, held_out=wrong)


def test_data_that_is_not_in_memory_is_refused(tmp_path: Path) -> None:
    for name in ("cats", "dogs"):
        (tmp_path / name).mkdir()
    with pytest.raises(UserError, match="sets that fit into memory only: fashion_mnist, "):
        train.Config(out=str(tmp_path), data=f"folder:{tmp_path}")


def test_networks_for_imagenet_get_a_small_stem_and_the_default_is_what_it_was() -> None:
    with without_values():
        large = train.build_model(train.Config(model="resnet18", held_out="0"))
    assert large.stem.conv.kernel_size == (3, 3) and large.head.out_features == 9
    torch.manual_seed(0)
    own = train.build_model(train.Config(held_out="2,6")).state_dict()
    torch.manual_seed(0)
    before = build("small", in_channels=1, num_classes=8).state_dict()
    assert own.keys() == before.keys() and all(torch.equal(own[name], before[name]) for name in own)


def test_recipe_resumes_exactly(tmp_path: Path, no_figures: None) -> None:
    testing.assert_resumes_exactly(train.main, config(tmp_path, held_out="2"), splits)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to record into, and the small images in place of the real ones."""
    (tmp_path / "README.md").write_text("<!-- results -->\n<!-- /results -->\n", encoding="utf-8")
    monkeypatch.setattr(evaluate, "HERE", tmp_path)
    monkeypatch.setattr(results.catalogue, "ROOT", tmp_path)
    monkeypatch.setattr(evaluate, "image_splits", splits)
    monkeypatch.setattr(evaluate, "load", lambda name: (images(9, 7), images(30, 8)))
    monkeypatch.setattr(evaluate, "OTHERS", 25)
    return tmp_path


TWO = {"MSP": lambda features, logits: scores.msp(logits), "length": lambda features, logits: -features.norm(dim=1)}


def make_run(asked: train.Config) -> Path:
    """What a run leaves of itself that matters here, with random weights."""
    run = Path(asked.out)
    run.mkdir()
    described = {"recipe": "DataMining/OpenSet", "config": dataclasses.asdict(asked)}
    described |= {"command": "", "commit": "", "versions": {}}
    (run / "config.json").write_text(json.dumps(described), encoding="utf-8")
    torch.save(train.build_model(asked).state_dict(), run / "best.pt")
    return run


@pytest.mark.parametrize(("held_out", "unknown"), [("2,3", ["held out"]), ("", ["MNIST", "noise", "inverted"])])
def test_a_run_is_measured_recorded_and_in_the_table(
    here: Path, held_out: str, unknown: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(config(here / "run", held_out=held_out, seed=4))
    monkeypatch.setattr(evaluate, "fit_all", lambda known: TWO)
    assert evaluate.main([str(run), "--record"]) == 0
    (path,) = (here / "results").glob("*.json")
    record = json.loads(path.read_text(encoding="utf-8"))
    assert path.name == ("2_3-seed4.json" if held_out else "all-seed4.json")
    assert [row["unknown"] for row in record["rows"]] == [name for name in unknown for _ in TWO]
    for row in record["rows"]:
        assert all(0 <= row[name] <= 1 for name in ("auroc", "aupr_in", "aupr_out", "fpr95", "accepted", "rejected"))
        assert row["accepted_conformal"] >= row["accepted"] > 0.5
    lines = (here / "README.md").read_text(encoding="utf-8").splitlines()
    assert sum(line.startswith("| ") for line in lines) == len(evaluate.MEASURES) * (2 + len(TWO))


def test_nothing_is_recorded_unasked_and_what_was_trained_otherwise_is_never(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(evaluate, "fit_all", lambda known: TWO)
    runs = [make_run(config(here / f"run{i}", seed=i)) for i in range(2)]
    runs.append(make_run(dataclasses.replace(config(here / "run2"), model="small")))
    before = (here / "README.md").read_text(encoding="utf-8")
    assert evaluate.main([str(runs[0])]) == 0
    assert "| length |" in capsys.readouterr().out
    assert not (here / "results").exists() and (here / "README.md").read_text(encoding="utf-8") == before
    assert evaluate.main([*map(str, runs[:2]), "--record"]) == 0  # they differ in their seeds
    recorded, shown = evaluate.recorded(), (here / "README.md").read_text(encoding="utf-8")
    capsys.readouterr()
    for words in (["--record", str(runs[2])], [str(runs[0]), str(runs[2])]):
        assert evaluate.main(words) == 1
        error = capsys.readouterr().err
        assert "run2 was trained otherwise than" in error and "(model small, not tiny)" in error and error.count("\n") == 1
    assert len(recorded) == 2 and evaluate.recorded() == recorded and (here / "README.md").read_text(encoding="utf-8") == shown


def test_runs_of_which_auto_took_another_precision_are_not_trained_alike() -> None:
    auto = dataclasses.asdict(train.Config(precision="auto"))
    one, other = ({"recipe": "DataMining/OpenSet", "config": auto, "precision": taken} for taken in ("bf16", "fp32"))
    evaluate.check_alike([one, one])
    with pytest.raises(UserError, match="precision fp32, not bf16"):
        evaluate.check_alike([one, other])


def test_a_run_too_poor_to_measure_is_one_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(config(here / "run"))
    assert evaluate.main([str(run)]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {run}: no training image of class ") and error.endswith(": train longer\n")


def test_who_has_read_enough_gets_no_error(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`evaluate | head`, whose end of the pipe is closed."""
    end, start = os.pipe()
    os.close(end)
    with open(start, "w", buffering=1, encoding="utf-8") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert evaluate.main([]) == 0
    assert capsys.readouterr().err == ""


def test_a_folder_without_a_run_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main([str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith(f"error: {tmp_path} holds no trained network")


def test_the_readme_shows_what_is_recorded_of_runs_trained_alike() -> None:
    assert evaluate.table(evaluate.recorded()) in (evaluate.HERE / "README.md").read_text(encoding="utf-8")
    evaluate.check_alike(evaluate.recorded())
