"""An invalid value is refused in one line that names the flag, wherever a config is made."""

import dataclasses
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from dl.cli.runs import restore
from dl.mytorch.config import TrainConfig, UserError, flag, user_path
from dl.mytorch.distributed import seed_everything


@dataclass(frozen=True)
class Config(TrainConfig):
    """What a recipe declares."""

    out: str = "runs/Test/Config"
    data: str = "numbers"
    act: Literal["relu", "tanh"] = flag("relu", "what follows each layer")


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ({"lr": float("nan")}, "--lr"),
        ({"epochs": 0}, "--epochs"),
        ({"ema": 1.0}, "--ema"),
        ({"precision": "fp8"}, "--precision"),
        ({"batch_size": 0}, "--batch-size"),
        ({"out": ""}, "--out"),
        ({"epochs": 1.5}, "--epochs has to be an integer; got 1.5"),
        ({"epochs": True}, "--epochs has to be an integer"),
        ({"lr": "0.1"}, "--lr has to be a number; got '0.1'"),
        ({"compile": 1}, "--compile has to be true or false"),
        ({"data": None}, "--data has to be a text"),
    ],
)
def test_a_config_made_in_python_is_checked_too(values: dict[str, Any], names: str) -> None:
    with pytest.raises(UserError, match=names):
        Config(**values)


def test_the_largest_seed_is_one_for_every_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    for rank in range(3):
        seed_everything(Config(seed=2**32 - 1).seed + rank)
        drawn.append((random.random(), np.random.rand(), torch.rand(()).item()))
    assert all(len(set(numbers)) == 3 for numbers in zip(*drawn))


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().lr = 1.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "value"),
    [("epochs", value) for value in ("3", 3.0, True, None, [])]
    + [("lr", value) for value in ("1", True, None, -1.0, float("nan"))]
    + [("fresh", 1), ("data", 3), ("act", "sin"), ("act", ["relu"]), ("seed", 2**32)],
    ids=str,
)
def test_a_config_that_was_altered_is_refused_with_the_field(name: str, value: object) -> None:
    with pytest.raises(UserError, match=f"^runs/x/config.json: (--)?{name} "):
        restore(Config, {name: value}, "runs/x/config.json")


def test_a_config_is_restored_without_fields_that_there_are_no_more() -> None:
    asked = Config(lr=0.5, epochs=2, fresh=True, act="tanh")
    assert restore(Config, dataclasses.asdict(asked) | {"gone": 1}, "config.json") == asked
    assert restore(Config, {"lr": 1}, "config.json").lr == 1  # JSON has no other whole numbers


def test_a_tilde_in_data_is_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("USERPROFILE", "/home/somebody")  # on Windows
    config = TrainConfig("x", "folder:~/texts")
    assert config.data_path("folder:") == Path("/home/somebody/texts") and config.data_path("tar:") is None
    assert user_path("~/run") == Path("/home/somebody/run")
    assert user_path("~nobody at all.png") == Path("~nobody at all.png")


def test_text_that_is_not_utf_8_is_refused_by_its_flag() -> None:
    """Such are names of old file systems; at the end of a run, its log could not hold them."""
    for values in ({"out": "caf\udce9", "data": "x"}, {"out": "x", "data": "folder:caf\udce9"}):
        with pytest.raises(ValueError, match=r"--(out|data) has to be text in UTF-8; got '.*caf.udce9'"):
            TrainConfig(**values)


@pytest.mark.parametrize(("name", "value"), [("epochs", 12), ("dropout", 0.5), ("width", flag(3, "units"))])
def test_a_default_without_its_type_is_refused_as_it_would_be_no_flag(name: str, value: Any) -> None:
    """Python would leave `epochs` at the default of `TrainConfig`, silently."""
    with pytest.raises(UserError, match=f"^Config.{name} needs its type, as in `{name}: int = 1`"):
        type("Config", (TrainConfig,), {name: value})
