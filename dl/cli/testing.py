"""What tests of commands share: a run that looks trained."""

import dataclasses
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any, Iterator

import pytest
import torch

from dl.cli import catalogue, results
from dl.mytorch.checkpoint import save
from dl.mytorch.data import Vocabulary
from dl.mytorch.files import write_recorded_json

README = "# Title\n\n<!-- {0} -->\nold\n<!-- /{0} -->\n\nThe end, without a newline"


def make_run(folder: Path, recipe: str, **flags: object) -> Path:
    """Return what a run leaves of itself that matters here, with random weights."""
    train = catalogue.module(recipe, "train")
    config = train.Config(out=str(folder), model="tiny", **flags)
    folder.mkdir()
    write_recorded_json({"recipe": recipe, "config": dataclasses.asdict(config)}, folder / "config.json")
    save(train.build_model(config).state_dict(), folder / "best.pt")
    return folder


def write_run(folder: Path, recipe: str = "CNN/LeNet", finished: bool = True, **values: Any) -> Path:
    """Return the folder of a run of a tiny network, with `values` in its config.json."""
    train = catalogue.module(recipe, "train")
    vocabularies = {"tokens": Vocabulary("abc")} if recipe.startswith(("GPT", "RNN", "StateSpace", "Alignment")) else {}
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


def make_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a project with LeNet alone and its three READMEs."""
    folder = tmp_path / "dl" / "modules" / "CNN" / "LeNet"
    folder.mkdir(parents=True)
    shutil.copy(catalogue.MODULES / "CNN" / "LeNet" / "model.py", folder)
    (folder / "README.md").write_text(README.format("results"), encoding="utf-8")
    for name in ("README.md", "README.zh-CN.md"):
        (tmp_path / name).write_text(README.format("models: basics"), encoding="utf-8")
    monkeypatch.setattr(catalogue, "ROOT", tmp_path)
    monkeypatch.setattr(catalogue, "MODULES", tmp_path / "dl" / "modules")
    monkeypatch.setattr(results, "OTHERS", ())
    return tmp_path


def make_finished_run(folder: Path, error: float = 0.1, finished: bool = True, recipe: str = "CNN/LeNet", **flags: Any) -> Path:
    """Return a run's folder as the trainer leaves it."""
    folder.mkdir()
    config = catalogue.module("CNN/LeNet", "train").Config(out=str(folder), **flags)
    command = f"python -m dl.modules.CNN.LeNet.train --out {folder} --seed={config.seed} --fresh"
    described = {
        **{"recipe": recipe, "command": command, "config": dataclasses.asdict(config)},
        **{"optimizer": "sgd(lr=0.1, momentum=0.9)", "schedule": "warmup_cosine(warmup=0.05)"},
        **{"commit": "abc1234", "versions": {"python": "3.11.7", "torch": "2.13.0"}, "ranks": 1},
        **{"processor": "abacus", "capability": "beads", "threads": 1, "precision": "fp32"},
    }
    history: list[dict[str, Any]] = [
        {"epoch": epoch, "step": 10 * epoch, "lr": 0.1, "train": {"loss": 1 / epoch}, "val": {"loss": abs(epoch - 2.0)}}
        for epoch in (1, 2, 3)
    ]
    if finished:
        history.append({"epoch": 2, "step": 20, "test": {"loss": 0.25, "top1_error": error}})
    speed = {"device": "abacus CPU", "seconds": 70.0, "training_seconds": 60.0, "examples": 9, "peak_memory_bytes": 1000}
    speed |= {"examples_per_second": 0.2, "unit": "token", "items": 120, "items_per_second": 2.0}
    for name, content in (("config", described), ("history", history), ("speed", speed)):
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    (folder / "best.pt").write_bytes(b"weights")
    return folder


# ---- what READMEs document ------------------------------------------------------------------------------------------

READMES = sorted(
    [
        *catalogue.ROOT.glob("*.md"),
        *(path for folder in (".github", "docs", "dl") for path in catalogue.ROOT.glob(f"{folder}/**/*.md")),
    ]
)
PROGRAMS = (
    "python",
    "python3",
    "py",
    "pip",
    "pytest",
    "make",
    "torchrun",
    "tensorboard",
    "git",
    "cd",
    "cp",
    "for",
    "do",
    "done",
)


def fenced(text: str) -> Iterator[tuple[str, str]]:
    """Yield language and content of each fenced block of Markdown."""
    for block in re.finditer(r"^( *)```(\w*)\n(.*?)^\1```$", text, re.MULTILINE | re.DOTALL):
        yield block[2], block[3]


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words of each command in the fenced blocks of Markdown that hold commands; other blocks show output.

    A block holds commands if one of its lines runs a program of `PROGRAMS`, or a module of ours by any other.
    Comments are cut off, lines that end in a backslash are joined, the variables of a loop have a value.
    """
    for language, block in fenced(text):
        lines = [line for line in block.replace("\\\n", " ").splitlines() if line.strip() and not line.lstrip().startswith("#")]
        if language in ("", "sh", "bash") and any(line.split()[0] in PROGRAMS or " -m dl" in line for line in lines):
            for part in (part for line in lines for part in re.split(r" && | *; *", re.sub(r"\s#.*", "", line))):
                yield shlex.split(part.replace("\\", "/").replace("$seed", "0").replace("$pair", "2,6"))
