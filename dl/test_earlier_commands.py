"""Every command line in the READMEs runs, and those of version 0.1 still do: testdata/commands-0.1.txt, without `python -m`."""

import argparse
import ast
import dataclasses
import importlib
import re
import runpy
import shlex
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from dl.cli import catalogue, records, verbs
from dl.cli.runs import restore
from dl.cli.testing import PROGRAMS, READMES, commands, fenced
from dl.mytorch.command_line import Parser, parse
from dl.mytorch.config import current_names
from dl.mytorch.run import FREE

EARLIER = (Path(__file__).parent / "testdata" / "commands-0.1.txt").read_text(encoding="utf-8").splitlines()


def of_module(words: list[str]) -> list[str] | None:
    """Return a command line as [module, word, ...], where `python -m dl` is what it calls; None if it runs none of ours."""
    if words[0] not in ("python", "torchrun") or "-m" not in words:
        return None
    module, *rest = words[words.index("-m") + 1 :]
    if module != "dl" or not rest or "--help" in rest:
        return [module, *rest] if module.startswith("dl") else None
    verb, *rest = rest
    if verb == "train":
        return [f"dl.modules.{catalogue.find(rest[0]).replace('/', '.')}.train", *rest[1:]]
    if verb not in verbs.VERBS:
        return [module, verb, *rest]
    if verb in verbs.FRONTS:
        return [verbs.find_command(verbs.FRONTS[verb]).__name__, *rest]
    run = rest.pop(0)
    recipe = "/".join(run.removeprefix("runs/").split("/")[:2]).partition("-")[0]  # runs/GPT/GPT2-gpu is of GPT/GPT2
    return [verbs.find_command(verb, recipe).__name__, *(["--run", run] if verb == "predict" else [run]), *rest]


DOCUMENTED = [words for path in READMES for words in commands(path.read_text(encoding="utf-8"))]
LINES = [shlex.split(line) for line in EARLIER] + [line for line in map(of_module, DOCUMENTED) if line]
MODULES = list(dict.fromkeys(line[0] for line in LINES))


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
def test_the_command_lines_of_the_readmes_and_of_version_0_1_are_understood(
    module: str, only_parsed: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        as_program(module, ["--help"], monkeypatch)
    assert ended.value.code == 0 and capsys.readouterr().out.startswith("usage: ")
    imported = importlib.import_module(module)
    for words in (line[1:] for line in LINES if line[0] == module):
        try:
            if "awd" in words or not hasattr(imported, "main"):  # which another module takes
                as_program(module, words, monkeypatch)
            elif module.endswith((".train", ".finetune", ".prior", ".train_autoencoder")):
                parse(imported.Config, words)
            else:
                imported.main(words)
            pytest.fail(f"{module} parsed nothing of {words}")
        except Parsed:
            pass
        except SystemExit as ended:
            assert ended.code == 0 and "--help" in words, f"{words}: {capsys.readouterr().err}"


@pytest.mark.parametrize("words", [words for words in DOCUMENTED if of_module(words) is None], ids=" ".join)
def test_other_programs_in_the_readmes_are_called_with_what_there_is(words: list[str]) -> None:
    program, *rest = words
    if program == "make":
        assert re.search(f"^{rest[0]}:", (catalogue.ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    elif program == "pytest" or rest[:2] == ["-m", "pytest"]:
        assert all((catalogue.ROOT / word).exists() for word in rest if "/" in word)
    elif program == "sbatch":
        assert (catalogue.ROOT / next(word for word in rest if word.endswith(".sh"))).exists()
    elif program == "cp":
        assert (catalogue.ROOT / rest[-2]).exists()
    elif "-r" in rest:
        assert (catalogue.ROOT / rest[rest.index("-r") + 1]).exists()
    else:
        assert program in (*PROGRAMS, ".", ".venv/Scripts/activate"), f"no program {program}"


def test_presets_that_are_summarised_exist() -> None:
    summarised = [line[2:] for line in LINES if line[:2] == ["dl", "summary"] and len(line) == 4 and "--help" not in line]
    assert len(summarised) > 10
    for model, preset in summarised:
        presets = importlib.import_module(f"dl.modules.{catalogue.find(model).replace('/', '.')}.model").PRESETS
        assert preset in presets, f"python -m dl summary {model} {preset}"


BLOCKS = [(path, *block) for path in READMES for block in fenced(path.read_text(encoding="utf-8"))]
PYTHON = [
    (path, code) for path, language, code in BLOCKS if language == "python" and path.name != "CONTRIBUTING.md"
]  # whose are run


@pytest.mark.parametrize(("path", "block"), PYTHON, ids=[path.parent.name for path, _ in PYTHON])
def test_python_in_the_readmes_compiles_and_imports_what_there_is(path: Path, block: str) -> None:
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "dl":
            module = importlib.import_module(str(node.module))
            assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)


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
