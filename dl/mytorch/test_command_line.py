"""Every field is a flag with help; an invalid value is refused, in a line that names the flag."""

import dataclasses
import re
from dataclasses import dataclass
from typing import Literal

import pytest

from dl.cli.runs import restore
from dl.mytorch.command_line import parse
from dl.mytorch.config import TrainConfig, UserError, current_names, flag


@dataclass(frozen=True)
class Config(TrainConfig):
    """What a recipe declares."""

    out: str = "runs/Test/Config"
    data: str = "numbers"
    lr: float = 0.25
    act: Literal["relu", "tanh"] = flag("relu", "what follows each layer, in 100% of cases")
    mlm: bool = flag(True, "whether to predict masked words")
    width: int = flag(0, "of the layers")
    decay: float = flag(0.0, "of something")


WORDS = {
    "out": ("elsewhere", "elsewhere"),
    "data": ("letters", "letters"),
    "seed": ("7", 7),
    "epochs": ("3", 3),
    "steps": ("9", 9),
    "batch_size": ("64", 64),
    "accumulate": ("2", 2),
    "lr": ("1e-4", 1e-4),
    "weight_decay": ("0.5", 0.5),
    "grad_clip": ("1", 1.0),
    "ema": ("0.99", 0.99),
    "precision": ("bf16", "bf16"),
    "deterministic": (None, True),
    "parallel": ("ddp", "ddp"),
    "shard_size": ("2", 2),
    "tensor_size": ("2", 2),
    "sequence": (None, True),
    "checkpoint_activations": (None, True),
    "layerwise": ("stream", "stream"),
    "compile": (None, True),
    "channels_last": (None, True),
    "num_workers": ("2", 2),
    "device": ("cpu", "cpu"),
    "log_every": ("5", 5),
    "eval_every": ("6", 6),
    "save_every": ("8", 8),
    "profile": ("20", 20),
    "fresh": (None, True),
    "act": ("tanh", "tanh"),
    "width": ("-3", -3),
    "decay": ("-0.5", -0.5),
}


def refusal(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Why `argv` is refused: in one line, with status 2."""
    with pytest.raises(SystemExit) as stopped:
        parse(Config, argv)
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix("error: ").removesuffix(" (--help explains the flags)")


def test_without_words_every_field_has_its_default() -> None:
    assert parse(Config, []) == Config()


@pytest.mark.parametrize("name", WORDS)
def test_a_field_is_a_flag_that_sets_it_and_nothing_else(name: str) -> None:
    word, value = WORDS[name]
    words = ["--" + name.replace("_", "-")] + ([] if word is None else [word])
    parsed = parse(Config, words)
    assert parsed == dataclasses.replace(Config(), **{name: value})
    assert type(getattr(parsed, name)) is type(value)


def test_no_field_is_left_out_of_the_flags_above() -> None:
    assert {field.name for field in dataclasses.fields(Config)} == {*WORDS, "mlm", "plots"}  # which are on unless turned off


def test_a_flag_that_is_on_is_turned_off_by_no() -> None:
    assert parse(Config, []).mlm
    assert not parse(Config, ["--no-mlm"]).mlm
    assert parse(Config, ["--no-mlm", "--mlm"]).mlm


def test_the_process_s_own_words_are_parsed_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["train.py", "--epochs", "4"])
    assert parse(Config).epochs == 4


def test_help_gives_each_flag_its_sentence_and_default(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as stopped:
        parse(Config, ["--help-all"])
    assert stopped.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "What a recipe declares." in text
    for field in dataclasses.fields(Config):
        name = "--" + field.name.replace("_", "-")
        assert re.search(rf"{name}( |,)[^-].*?\(default: {re.escape(str(field.default))}\)", text), name
    assert "--lr FLOAT peak learning rate (default: 0.25)" in text  # the sentence is the base's, the default the recipe's
    assert "--out STR folder of this run; a run found there is resumed (default: runs/Test/Config)" in text
    assert "{relu,tanh} what follows each layer, in 100% of cases (default: relu)" in text
    assert "--mlm, --no-mlm whether to predict masked words (default: True)" in text


def test_help_is_short_and_help_all_shows_the_rest(capsys: pytest.CaptureFixture[str]) -> None:
    shown = {}
    for words in ("--help", "-h", "--help-all"):
        with pytest.raises(SystemExit) as stopped:
            parse(Config, [words])
        assert stopped.value.code == 0
        shown[words] = set(re.findall(r"^ +(?:-h, )?(--[a-z-]+)", capsys.readouterr().out, re.MULTILINE))
    every = {"--" + field.name.replace("_", "-") for field in dataclasses.fields(Config)} | {"--help", "--help-all"}
    assert shown["--help-all"] == every
    assert shown["-h"] == shown["--help"] < every
    assert {"--help-all", "--out", "--data", "--epochs", "--lr", "--act", "--mlm"} <= shown["--help"]
    assert not {"--log-every", "--layerwise", "--parallel"} & shown["--help"]


@pytest.mark.parametrize(
    ("argv", "names"),
    [
        (["--bogus", "1"], "--bogus"),
        (["--batch", "3"], "--batch"),  # an abbreviation would change its meaning when a flag is added
        (["--batch_size", "3"], "--batch_size"),
        (["stray"], "stray"),
        (["--epochs", "many"], "--epochs"),
        (["--epochs", "1.5"], "--epochs"),
        (["--epochs"], "--epochs"),
        (["--epochs", "-1"], "--epochs"),
        (["--epochs", "0"], "--epochs"),
        (["--batch-size", "0"], "--batch-size"),
        (["--accumulate", "0"], "--accumulate"),
        (["--log-every", "0"], "--log-every"),
        (["--seed", "-1"], "--seed"),
        (["--seed", str(2**32)], "--seed"),
        (["--steps", "-2"], "--steps"),
        (["--lr", "nan"], "--lr"),
        (["--lr", "inf"], "--lr"),
        (["--lr", "0"], "--lr"),
        (["--lr", "-0.1"], "--lr"),
        (["--weight-decay", "-1"], "--weight-decay"),
        (["--clip", "nan"], "--grad-clip"),
        (["--ema", "1"], "--ema"),
        (["--ema", "-0.1"], "--ema"),
        (["--precision", "fp8"], "--precision"),
        (["--parallel", "magic"], "--parallel"),
        (["--act", "sine"], "--act"),
        (["--num-workers", "-1"], "--num-workers"),
        (["--out", ""], "--out"),
        (["--out", "  "], "--out"),
        (["--compile", "yes"], "yes"),
        (["--accumulate", str(10**30)], "--accumulate has to be below 2^31"),
        (["--epochs", str(2**63)], "--epochs has to be below 2^31"),
        (["--width", str(-(2**63))], "--width has to be below 2^31"),
        (["--lr", "1e308"], "--lr has to be at most 1e30"),
        (["--decay=-1e308"], "--decay has to be at most 1e30"),
        (["--num-workers", "300"], "--num-workers has to be at most 256"),
        (["--epoch", "3"], "no such flag: --epoch 3; did you mean --epochs?"),
        (["--batch_size=3"], "did you mean --batch-size?"),
        (["--widht", "3"], "did you mean --width?"),
    ],
)
def test_bad_words_end_with_status_2_and_a_line_that_names_them(
    argv: list[str], names: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert names in refusal(argv, capsys)


def test_a_choice_that_does_not_exist_is_answered_with_those_that_do(capsys: pytest.CaptureFixture[str]) -> None:
    line = refusal(["--precision", "fp8"], capsys)
    assert "fp32" in line and "bf16" in line


def test_choices_of_a_flag_are_all_that_it_takes_and_a_recipe_may_change_its_default(
    capsys: pytest.CaptureFixture[str],
) -> None:
    @dataclass(frozen=True)
    class Sized(Config):
        model: str = flag("small", "preset of the network", choices={"small": {}, "wide": {}})

    @dataclass(frozen=True)
    class Wide(Sized):
        model: str = "wide"

    assert parse(Wide, []).model == "wide" and parse(Wide, ["--model", "small"]).model == "small"
    with pytest.raises(ValueError, match="--model has to be one of small, wide; got 'large'"):
        Wide(model="large")
    with pytest.raises(SystemExit):
        parse(Wide, ["--model", "large"])
    line = capsys.readouterr().err
    assert "--model" in line and "small" in line and "wide" in line


def test_a_field_without_default_has_to_be_given(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse(TrainConfig, ["--out", "here"])
    assert stopped.value.code == 2
    assert "--data" in capsys.readouterr().err.splitlines()[-1]
    assert parse(TrainConfig, ["--out", "here", "--data", "numbers"]) == TrainConfig("here", "numbers")


def test_a_recipe_s_own_check_is_a_line_too(capsys: pytest.CaptureFixture[str]) -> None:
    @dataclass(frozen=True)
    class Picky(Config):
        def __post_init__(self) -> None:
            super().__post_init__()
            if self.data != "numbers":
                raise UserError("--data has to be numbers")

    with pytest.raises(SystemExit) as stopped:
        parse(Picky, ["--data", "letters"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "error: --data has to be numbers (--help explains the flags)\n"


def test_an_earlier_name_of_a_flag_is_understood_and_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    @dataclass(frozen=True)
    class Recurrent(Config):
        bptt_length: int = flag(64, "tokens", alias="length")
        sparse: bool = flag(False, "whether", alias="thin")
        grad_clip: float = 1.0  # a recipe changes the default, the alias stays

    words = ["--length", "7", "--no-thin", "--clip", "0.5"]
    asked = Recurrent(bptt_length=7, grad_clip=0.5)
    assert parse(Recurrent, words) == parse(Recurrent, ["--bptt-length", "7", "--grad-clip=0.5"]) == asked
    assert parse(Recurrent, []).grad_clip == 1 and parse(Recurrent, ["--thin"]).sparse
    assert restore(Recurrent, {"length": 7, "clip": 0.5, "thin": False}, "config.json") == asked
    assert current_names(Recurrent, {"clip": 1, "gone": 2}) == {"grad_clip": 1, "gone": 2}
    for wrong in (["--help"], ["--lenght", "3"]):
        with pytest.raises(SystemExit):
            parse(Recurrent, wrong)
        captured = capsys.readouterr()
        assert not re.search(r"--(no-)?(length|clip|thin)\b", captured.out + captured.err)
