"""Every command line in the READMEs of version 0.1 still runs: testdata/commands-0.1.txt, a line each, without `python -m`."""

import argparse
import dataclasses
import importlib
import runpy
import shlex
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from dl.cli import catalogue, records
from dl.cli.runs import restore
from dl.mytorch.command_line import Parser, parse
from dl.mytorch.config import current_names
from dl.mytorch.run import FREE

LINES = (Path(__file__).parent / "testdata" / "commands-0.1.txt").read_text(encoding="utf-8").splitlines()
MODULES = list(dict.fromkeys(line.split()[0] for line in LINES))


class Parsed(Exception):
    """A command line is understood; what it asks for is not done."""


@pytest.fixture
def only_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    def then_stop(parse_args: Any) -> Any:
        def stop(*args: Any) -> None:
            parse_args(*args)
            raise Parsed

        return stop

    monkeypatch.setattr(Parser, "parse_args", then_stop(Parser.parse_args))
    for name in ("parse_args", "parse_intermixed_args"):
        monkeypatch.setattr(argparse.ArgumentParser, name, then_stop(getattr(argparse.ArgumentParser, name)))


def as_program(module: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Do what `python -m MODULE WORDS` does."""
    monkeypatch.setattr(sys, "argv", [module, *words])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # runpy's, of what is imported already
        runpy.run_module(module, run_name="__main__", alter_sys=True)


@pytest.mark.parametrize("module", [pytest.param(m, marks=pytest.mark.slow) if "benchmarks" in m else m for m in MODULES])
def test_the_command_lines_of_version_0_1_are_understood(
    module: str, only_parsed: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        as_program(module, ["--help"], monkeypatch)
    assert ended.value.code == 0 and capsys.readouterr().out.startswith("usage: ")
    imported = importlib.import_module(module)
    for words in (shlex.split(line)[1:] for line in LINES if line.split()[0] == module):
        try:
            if "awd" in words or not hasattr(imported, "main"):  # which another module takes
                as_program(module, words, monkeypatch)
            elif module.endswith((".train", ".finetune")):
                parse(imported.Config, words)
            else:
                imported.main(words)
            pytest.fail(f"{module} parsed nothing of {words}")
        except Parsed:
            pass
        except SystemExit as ended:
            assert ended.code == 0 and "--help" in words, f"{words}: {capsys.readouterr().err}"


def test_the_commands_of_version_0_1_have_help(capsys: pytest.CaptureFixture[str]) -> None:
    from dl import __main__ as front

    for command in "list train test summary kernels features results doctor".split():
        with pytest.raises(SystemExit) as ended:
            front.main([command, "--help"])
        assert ended.value.code == 0 and f"usage: python -m dl {command}" in capsys.readouterr().out


def test_the_commands_of_recorded_runs_are_parsed_into_their_configs() -> None:
    """Those that were given, and those that the tables show; of today's `Config`, whatever the flags were called."""
    recorded = [record for name in catalogue.names() for record in records.of_model(name)]
    assert len(recorded) >= 71
    for record in recorded:
        cls = catalogue.module(record["recipe"], record.get("file", "train")).Config
        config, words = restore(cls, record["config"], record["command"]), shlex.split(record["command"])[3:]
        asked = parse(cls, words)
        named = {word.partition("=")[0][2:].removeprefix("no-").replace("-", "_") for word in words if word.startswith("--")}
        for name in current_names(cls, dict.fromkeys(named)):
            assert getattr(asked, name) == getattr(config, name), (record["command"], name)
    for line, record in {records.command(record): record for record in recorded}.items():  # one for all seeds
        cls = catalogue.module(record["recipe"], record.get("file", "train")).Config
        taken = dataclasses.asdict(parse(cls, shlex.split(line)[3:]))
        differ = {name for name, value in records.as_taken(record).items() if taken.get(name, value) != value}
        assert differ <= {*FREE, "out", "seed"}, (line, differ)
