"""The recipe that leaves classes out, and the measures of its runs."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from dl import results
from dl.modules.DataMining.OpenSet import evaluate, scores, train
from dl.mytorch import testing
from dl.mytorch.data import Batch, Loader, Splits, synthetic


def pictures(count: int, seed: int) -> Batch:
    """Of ten classes, as bytes."""
    data = synthetic.images(count, seed=seed)
    return {"images": (data["images"] * 30 + 128).clamp(0, 255).byte(), "labels": data["labels"]}


def splits(_: object = None) -> Splits:
    def float_of(batch: Batch, __: torch.Generator) -> Batch:
        return {**batch, "images": batch["images"].float() / 100}

    sets = [pictures(count, seed) for seed, count in enumerate((60, 40, 60))]
    return Splits(*(Loader(data, 16, shuffle=i == 0, augment=float_of) for i, data in enumerate(sets)))


def config(out: Path, **flags: object) -> train.Config:
    same = {"precision": "fp32", "channels_last": False, "lr": 0.05}
    return train.Config(out=str(out), data="fashion_mnist-sample", model="tiny", epochs=1, batch_size=16, **same, **flags)


def test_only_the_known_classes_are_learnt_under_new_numbers(tmp_path: Path) -> None:
    asked = config(tmp_path, held_out="0,2")
    assert train.known_classes(asked) == [1, 3, 4, 5, 6, 7, 8, 9]
    assert train.network(asked).head.out_features == 8
    batch = train.only({"images": torch.arange(5.0), "labels": torch.tensor([3, 0, 1, 9, 2])}, [1, 3, 9])
    assert batch["images"].tolist() == [0, 2, 3] and batch["labels"].tolist() == [1, 0, 2]
    known = train.known_only(splits(), [1, 3])
    assert [set(part.dataset["labels"].tolist()) for part in known] == [{0, 1}] * 3
    assert known.train.shuffle and not known.test.shuffle


@pytest.mark.parametrize("wrong", ["10", "1,1", "x", "0,1,2,3,4,5,6,7,8"])
def test_classes_that_cannot_be_held_out_are_refused(tmp_path: Path, wrong: str) -> None:
    with pytest.raises(ValueError, match="--held-out has to be numbers below 10"):
        config(tmp_path, held_out=wrong)


def test_recipe_resumes_exactly(tmp_path: Path, no_pictures: None) -> None:
    testing.assert_resumes_exactly(train.main, config(tmp_path, held_out="2"), splits)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to record into, and the small pictures in place of the real ones."""
    (tmp_path / "README.md").write_text("<!-- results -->\n<!-- /results -->\n")
    monkeypatch.setattr(evaluate, "HERE", tmp_path)
    monkeypatch.setattr(results.catalogue, "ROOT", tmp_path)
    monkeypatch.setattr(evaluate, "image_splits", splits)
    monkeypatch.setattr(evaluate, "load", lambda name: (pictures(9, 7), pictures(30, 8)))
    monkeypatch.setattr(evaluate, "OTHERS", 25)
    return tmp_path


@pytest.mark.parametrize(("held_out", "unknown"), [("2,3", ["held out"]), ("", ["MNIST", "noise", "inverted"])])
def test_a_run_is_measured_recorded_and_in_the_table(
    here: Path, held_out: str, unknown: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = config(here / "run", held_out=held_out, seed=4)
    (here / "run").mkdir()
    described = {"recipe": "DataMining/OpenSet", "config": dataclasses.asdict(asked)}
    described |= {"command": "", "commit": "", "versions": {}}
    (here / "run" / "config.json").write_text(json.dumps(described))
    torch.save(train.network(asked).state_dict(), here / "run" / "best.pt")
    two = {"MSP": lambda features, logits: scores.msp(logits), "length": lambda features, logits: -features.norm(dim=1)}
    monkeypatch.setattr(evaluate, "fit_all", lambda known: two)
    assert evaluate.main([str(here / "run")]) == 0
    (path,) = (here / "results").glob("*.json")
    record = json.loads(path.read_text())
    assert path.name == ("2_3-seed4.json" if held_out else "all-seed4.json")
    assert [row["unknown"] for row in record["rows"]] == [name for name in unknown for _ in two]
    for row in record["rows"]:
        assert all(0 <= row[name] <= 1 for name in ("auroc", "aupr_in", "aupr_out", "fpr95", "accepted", "rejected"))
        assert row["accepted_conformal"] >= row["accepted"] > 0.5
    lines = (here / "README.md").read_text().splitlines()
    assert sum(line.startswith("| ") for line in lines) == len(evaluate.MEASURES) * (2 + len(two))


def test_a_folder_without_a_run_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main([str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith(f"error: {tmp_path} holds no run of DataMining/OpenSet")


def test_the_readme_shows_what_is_recorded() -> None:
    assert evaluate.table(evaluate.recorded()) in (evaluate.HERE / "README.md").read_text()
