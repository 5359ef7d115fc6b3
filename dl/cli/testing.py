"""What tests of commands share: a run that looks trained."""

import dataclasses
from pathlib import Path

from dl.cli import catalogue
from dl.mytorch.checkpoint import save
from dl.mytorch.files import write_recorded_json


def make_run(folder: Path, recipe: str, **flags: object) -> Path:
    """What a run leaves of itself that matters here, with random weights."""
    train = catalogue.module(recipe, "train")
    config = train.Config(out=str(folder), model="tiny", **flags)
    folder.mkdir()
    write_recorded_json({"recipe": recipe, "config": dataclasses.asdict(config)}, folder / "config.json")
    save(train.build_model(config).state_dict(), folder / "best.pt")
    return folder
