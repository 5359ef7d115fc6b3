"""What tests of commands share: a run that looks trained."""

import dataclasses
from pathlib import Path
from typing import Any

import torch

from dl.cli import catalogue
from dl.mytorch.checkpoint import save
from dl.mytorch.data import Vocabulary
from dl.mytorch.files import write_recorded_json


def make_run(folder: Path, recipe: str, **flags: object) -> Path:
    """What a run leaves of itself that matters here, with random weights."""
    train = catalogue.module(recipe, "train")
    config = train.Config(out=str(folder), model="tiny", **flags)
    folder.mkdir()
    write_recorded_json({"recipe": recipe, "config": dataclasses.asdict(config)}, folder / "config.json")
    save(train.build_model(config).state_dict(), folder / "best.pt")
    return folder


def write_run(folder: Path, recipe: str = "CNN/LeNet", finished: bool = True, **values: Any) -> Path:
    """The folder of a run of a tiny network, with `values` in its config.json."""
    train = catalogue.module(recipe, "train")
    vocabularies = {"tokens": Vocabulary("abc")} if recipe.startswith(("GPT", "RNN")) else {}
    folder.mkdir(parents=True)
    for name, vocabulary in vocabularies.items():
        vocabulary.save(folder / f"vocabulary-{name}.json")
    config = train.Config(model="tiny", out="elsewhere")
    described = {"recipe": recipe, "config": dataclasses.asdict(config) | values, "precision": "fp32"}
    write_recorded_json(described, folder / "config.json")
    torch.manual_seed(0)
    save(train.build_model(config, *([vocabularies] if vocabularies else [])).state_dict(), folder / "best.pt")
    means = {"loss": 0.5}
    history: list[dict[str, Any]] = [{"epoch": 1, "step": 2, "lr": 0.1, "train": means, "val": means}]
    write_recorded_json(history + finished * [{"epoch": 1, "step": 2, "test": means}], folder / "history.json")
    return folder
