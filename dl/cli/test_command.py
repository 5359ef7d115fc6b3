"""How commands end: one line for what the user can fix, escapes for what a terminal lacks, nothing when the reader is gone."""

import argparse
import importlib
import io
import re
import sys
from pathlib import Path

import pytest
import torch

import dl
from dl.cli import command
from dl.mytorch.config import UserError

COMMANDS = {
    "GPT.generate": ["runs/none", "to be"],
    "GPT.GPT2.generate": ["runs/none", "to be"],
    "GPT.Llama.generate": ["runs/none", "to be"],
    "GPT.Llama.stories": ["none.bin", "none.bin"],
    "GPT.BPE.prepare": ["out", "none.txt"],
    "RNN.generate": ["runs/none", "to be"],
    "RNN.translate": ["runs/none", "a"],
    "RNN.Word2Vec.neighbours": ["runs/none", "king"],
    "Transformers.Transformer.translate": ["runs/none", "a"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_of_texts_have_help_and_refuse_what_is_not_there_in_a_line(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main = importlib.import_module(f"dl.modules.{name}").main
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0 and f"usage: python -m dl.modules.{name}" in capsys.readouterr().out
    assert main(COMMANDS[name]) == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("error: ") and said.err.count("\n") == 1 and "none" in said.err
    with pytest.raises(SystemExit) as ended:
        main([*COMMANDS[name], "--sed", "x"])
    assert ended.value.code == 2 and capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (UserError("no such run"), 1, "error: no such run\n"),
        (FileNotFoundError(2, "No such file", "a.txt"), 1, "error: [Errno 2] No such file: 'a.txt'\n"),
        (torch.OutOfMemoryError(), 1, "error: out of memory\n"),
        (MemoryError(), 1, "error: out of memory\n"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), 1, "error: out of memory\n"),
        (RuntimeError("can't start new thread"), 1, "error: out of memory\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_can_be_mended_is_a_line(error: BaseException, status: int, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    def action() -> None:
        raise error

    assert command.run(action) == status and capsys.readouterr().err == line


def test_other_errors_keep_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        command.run(lambda: print(1 / 0))
    for error in ("RuntimeError('shapes')", "ValueError('shapes')", "KeyError('shapes')"):
        with pytest.raises(Exception, match="shapes"):
            command.run(lambda: exec(f"raise {error}"))


def test_a_decorated_function_is_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    @command.command(lambda argv: argparse.Namespace(words=argv))
    def main(options: argparse.Namespace) -> None:
        """Say the words."""
        if not options.words:
            raise UserError("say something")
        print(*options.words)

    assert (main(["a", "b"]), main([]), main.__doc__) == (0, 1, "Say the words.")
    assert capsys.readouterr() == ("a b\n", "error: say something\n")


def test_errors_are_printed_in_one_place() -> None:
    root = Path(dl.__file__).parent
    files = [path for path in root.rglob("*.py") if not path.name.startswith("test_")]
    assert [path.name for path in files if re.search(r'"error: |"error: "', path.read_text(encoding="utf-8"))] == [
        "__init__.py"
    ]


def test_no_command_hides_a_bug() -> None:
    root = Path(dl.__file__).parent
    commands = [path for path in root.rglob("[!t]*.py") if "@command(parse)" in path.read_text(encoding="utf-8")]
    wide = r"except \(OSError, ValueError\)|except Exception:"
    assert len(commands) > 10 and not [path for path in commands if re.search(wide, path.read_text(encoding="utf-8"))]


def test_every_parser_of_a_command_is_that_of_the_project_and_its_errors_follow_the_one_rule() -> None:
    root = Path(dl.__file__).parent
    texts = {path.relative_to(root).as_posix(): path.read_text(encoding="utf-8") for path in root.rglob("[!t]*.py")}
    assert [path for path, text in texts.items() if "argparse.ArgumentParser(" in text] == ["__main__.py"]
    above = {
        path: text for path, text in texts.items() if path.startswith(("modules/", "benchmarks/")) and "(parser, argv)" in text
    }
    assert [path for path, text in above.items() if "@command(parse)" not in text and not path.endswith("common.py")] == []


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_what_a_terminal_cannot_show_is_escaped(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    terminal = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", terminal)
    assert command.run(lambda: print("caf\u00e9 \u732b \udce9")) == 0  # the last is a byte of an argument that is no UTF-8
    shown = {"ascii": "caf\\xe9 \\u732b \\udce9", "cp1252": "caf\u00e9 \\u732b \\udce9", "utf-8": "caf\u00e9 \u732b \\udce9"}
    assert terminal.buffer.getvalue().decode(encoding).strip() == shown[encoding]


def test_a_reader_that_has_gone_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def action() -> None:
        raise BrokenPipeError

    told = []
    monkeypatch.setattr(command, "silence_broken_pipe", lambda: told.append(True))
    assert command.run(action) == 0 and told


def test_numbers_outside_their_range_are_refused() -> None:
    for value in (None, 0, 2**32 - 1):
        command.check_range("--seed", value, *command.SEEDS)
    for value in (-1, 2**32, 10**30):
        with pytest.raises(UserError, match=f"--seed has to be from 0 to 4,294,967,295; got {value}"):
            command.check_range("--seed", value, *command.SEEDS)
