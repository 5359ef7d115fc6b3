"""The commands, called in this process."""

import importlib
import io
import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dl
from dl import __main__ as front
from dl.cli import catalogue

LENET = catalogue.MODULES / "CNN" / "LeNet"


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What `train` and `test` would have run."""
    calls: list[Any] = []
    monkeypatch.setattr(sys, "argv", ["dl"])
    monkeypatch.setattr(runpy, "run_module", lambda module, **options: calls.append((module, options, sys.argv[1:])))
    monkeypatch.setattr(pytest, "main", lambda words: calls.append(words) or 5)
    return calls


@pytest.mark.parametrize("command", ["train", "test", "summary"])
def test_unknown_model_is_refused_with_near_names(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert front.main([command, "CNN/LeNit"]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: no model CNN/LeNit; near: CNN/LeNet") and captured.out == ""
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("argv", [["trian"], ["train"], ["summary"], ["results", "--record"]])
def test_a_wrong_call_ends_with_status_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        front.main(argv)
    assert stopped.value.code == 2
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [[], *([name] for name in ("list", "train", "test", "summary", "explain", "kernels", "features", "evaluate", "runs"))]
    + [[name] for name in ("results", "doctor", "generate", "translate", "sample", "predict")],
)
def test_every_command_has_help(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        front.main([*command, "--help"])
    assert stopped.value.code == 0
    assert f"usage: python -m dl{' '.join(['', *command])}" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["CNN/LeNet", "lenet", str(LENET), str(LENET / "train.py")])
def test_train_runs_the_recipe_with_its_flags(started: list[Any], name: str) -> None:
    assert front.main(["train", name, "--epochs", "2", "--fresh"]) == 0
    as_main = {"run_name": "__main__", "alter_sys": True}
    assert started == [("dl.modules.CNN.LeNet.train", as_main, ["--epochs", "2", "--fresh"])]


def test_train_help_is_that_of_the_recipe(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delitem(sys.modules, "dl.modules.CNN.LeNet.train", raising=False)  # runpy warns of what is imported already
    monkeypatch.setattr(sys, "argv", ["dl"])
    with pytest.raises(SystemExit) as stopped:
        front.main(["train", "CNN/LeNet", "--help"])
    assert stopped.value.code == 0
    assert "--weight-decay" in capsys.readouterr().out


def test_test_gives_pytest_the_folder_and_the_flags_and_returns_its_status(started: list[Any]) -> None:
    assert front.main(["test", "lenet", "-k", "logits", "--help"]) == 5
    assert front.main(["test", "-k", "logits"]) == 5
    assert front.main(["test"]) == 5
    everything = str(catalogue.ROOT / "dl")
    assert started == [[str(LENET), "-k", "logits", "--help"], [everything, "-k", "logits"], [everything]]


def test_list_shows_name_paper_and_parameters(capsys: pytest.CaptureFixture[str]) -> None:
    assert front.main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("Linear/SoftmaxRegression ") for line in lines)
    (row,) = [line for line in lines if line.startswith("CNN/LeNet ")]
    assert "LeNet-5, 1998" in row and "modern 61,706" in row
    assert any("lenet5 60,000" in line for line in lines) and not any(" tiny " in line for line in lines)


def test_list_takes_a_category_and_gives_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert front.main(["list", "cnn", "--json"]) == 0
    models = json.loads(capsys.readouterr().out)
    assert all(name.startswith("CNN/") for name in models) and models["CNN/LeNet"]["presets"]["modern"][0] == 61706
    assert front.main(["list", "CMN"]) == 2 and "there are Alignment, CNN, " in capsys.readouterr().err


def test_the_commands_are_listed_when_none_is_given(capsys: pytest.CaptureFixture[str]) -> None:
    assert front.main([]) == 0
    out = capsys.readouterr().out
    assert "generate" in out and "kernels  " not in out  # a name of version 0.1, which is hidden


def test_what_answers_at_once_imports_no_torch() -> None:
    calls = "main([]); main(['list', 'CNN']); main(['runs', 'none'])"
    program = f"import sys; from dl.__main__ import main; {calls}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def test_summary_is_of_the_first_preset_and_the_first_shape_that_fits(capsys: pytest.CaptureFixture[str]) -> None:
    assert front.main(["summary", "lenet"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "CNN/LeNet modern, input (1, 1, 28, 28)"
    assert lines[-1].split()[:2] == ["total", "LeNet"] and "61,706" in lines[-1]


def test_summary_takes_a_preset_and_an_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert front.main(["summary", "lenet", "lenet5", "--input", "3", "1", "28", "28"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "CNN/LeNet lenet5, input (3, 1, 28, 28)"
    assert "(3, 10)" in lines[-1] and "60,000" in lines[-1]


def test_summary_of_an_unknown_preset_lists_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert front.main(["summary", "lenet", "huge"]) == 2
    assert capsys.readouterr().err == "error: CNN/LeNet has no preset huge; there are modern, textbook, lenet5, tiny\n"


def test_summary_of_an_input_that_does_not_fit_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    assert front.main(["summary", "lenet", "--input", "2", "7"]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("error: CNN/LeNet modern takes no input of shape (2, 7): ") and captured.err.count("\n") == 1
    assert front.main(["summary", "lenet", "--input", "-1", "1", "28", "28"]) == 1
    assert "takes no input of shape (-1, 1, 28, 28): " in capsys.readouterr().err


class Tokens(nn.Module):
    """Reads its input's values, as a model may that looks for padding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        assert tokens.max().item() < 10
        return self.embedding(tokens)


class Pair(Tokens):
    """Takes source and target."""

    def forward(self, source: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        return super().forward(source) + super().forward(target)


@pytest.mark.parametrize("model", [Tokens, Pair])
def test_summary_is_of_the_example_that_the_model_file_has(
    model: type, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Module:
        PRESETS = {"only": {}}

        @staticmethod
        def build(preset: str) -> nn.Module:
            return model()

        @staticmethod
        def example(preset: str) -> tuple[Tensor, ...]:
            return (torch.zeros(1, 16, dtype=torch.int64),) * (2 if model is Pair else 1)

    monkeypatch.setattr(catalogue, "module", lambda name: Module)
    assert front.main(["summary", "lenet"]) == 0
    assert capsys.readouterr().out.startswith("CNN/LeNet only, input (1, 16)\n")


def test_what_the_user_can_mend_is_one_line_and_status_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert front.main(["results", "--record", str(tmp_path / "missing")]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ") and "is not a folder" in err and err.count("\n") == 1


def test_other_errors_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> str:
        raise ValueError("a bug")

    monkeypatch.setattr(catalogue, "find", broken)
    with pytest.raises(ValueError, match="a bug"):
        front.main(["test", "lenet"])


def test_doctor_and_results_are_called(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("dl.cli.doctor.main", lambda: 1)
    monkeypatch.setattr("dl.cli.records.record", lambda run, allow_dirty: f"record of {run}")
    monkeypatch.setattr("dl.cli.results.rewrite_readmes", lambda: ["README.md: up to date"])
    monkeypatch.setattr("dl.cli.facts.write", lambda: "facts.json: rewritten")
    assert front.main(["doctor"]) == 1
    assert front.main(["results", "--record", "a", "b"]) == 0
    assert (
        capsys.readouterr().out
        == "recorded: record of a\nrecorded: record of b\nREADME.md: up to date\nfacts.json: rewritten\n"
    )


def test_a_mistyped_name_is_answered_without_torch() -> None:
    program = "import sys; from dl.__main__ import main; main(['train', 'LeNit']); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def test_a_copy_without_records_ends_with_a_line_that_says_to_clone(tmp_path: Path) -> None:
    """As `pip install git+...` makes it."""
    shutil.copy(dl.__file__, tmp_path)
    with pytest.raises(SystemExit, match="^dl was installed without its records and samples. Clone its repository[^\\n]*$"):
        runpy.run_path(str(tmp_path / "__init__.py"))


COMMANDS = [path for path in sorted(catalogue.MODULES.rglob("*.py")) if "__doc__ or" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: path.relative_to(catalogue.MODULES).as_posix())
def test_help_needs_no_docstring(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`python -OO` leaves none."""
    module = importlib.import_module(".".join(("dl", "modules", *path.relative_to(catalogue.MODULES).with_suffix("").parts)))
    monkeypatch.setattr(module, "__doc__", None)
    with pytest.raises(SystemExit) as stopped:
        module.main(["--help"])
    assert stopped.value.code == 0


def test_without_the_installed_packages_every_command_is_one_line_that_names_the_environment(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = ModuleNotFoundError("No module named 'torch'", name="torch")
    dl.explain_missing(type(missing), missing, None)
    line = capsys.readouterr().err
    assert line.startswith("error: ") and ".venv" in line and "make" in line and line.count("\n") == 1
    passed_on: list[Any] = []
    monkeypatch.setattr(sys, "__excepthook__", lambda *error: passed_on.append(error))
    for other in (ModuleNotFoundError("No module named 'dl.x'", name="dl.x"), ValueError("a bug")):
        dl.explain_missing(type(other), other, None)
    assert len(passed_on) == 2 and capsys.readouterr().err == ""


@pytest.mark.slow
@pytest.mark.parametrize("module", [["dl", "train", "CNN/LeNet"], ["dl.modules.CNN.LeNet.train"]])
def test_an_interpreter_without_torch_ends_with_that_line(module: list[str]) -> None:
    without_packages = [sys.executable, "-S", "-m", *module]
    ended = subprocess.run(without_packages, cwd=catalogue.ROOT, capture_output=True, encoding="utf-8")
    assert ended.returncode == 1 and ".venv" in ended.stderr and ended.stderr.count("\n") == 1


def test_a_misspelt_command_is_answered_with_a_near_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        front.main(["trian", "CNN/LeNet"])
    assert "did you mean train?" in capsys.readouterr().err


def test_ctrl_c_is_status_130_without_a_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(name: str) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(catalogue, "find", interrupted)
    assert front.main(["test", "lenet"]) == 130
    assert capsys.readouterr().err == ""


def test_what_a_terminal_lacks_is_shown_as_an_escape(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", shown)
    monkeypatch.setattr("dl.cli.results.rewrite_readmes", list)
    monkeypatch.setattr("dl.cli.facts.write", lambda: "\u00b1 0.1")
    assert front.main(["results"]) == 0
    shown.flush()
    assert shown.buffer.getvalue() == b"\\xb1 0.1\n"
