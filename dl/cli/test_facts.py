"""facts.json says of models what is so."""

import json
from pathlib import Path

import pytest

from dl.cli import catalogue, facts
from dl.cli.testing import make_project


@pytest.mark.parametrize("name", ["CNN/LeNet", *(pytest.param(name, marks=pytest.mark.slow) for name in catalogue.names())])
def test_the_facts_of_a_model_are_current(name: str) -> None:
    """Else `python -m dl results` writes them again."""
    assert facts.read().get(name) == facts.compute(name)


def test_costs_are_computed_where_a_model_has_changed_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = make_project(tmp_path, monkeypatch)  # with LeNet alone
    monkeypatch.setattr(facts, "FILE", tmp_path / "facts.json")
    known = {"CNN/LeNet": {"presets": {"modern": [1, 2]}, "model.py": facts._digest("CNN/LeNet"), "best": ["old"]}}
    facts.FILE.write_text(json.dumps(known), encoding="utf-8")
    assert facts.current() == {"CNN/LeNet": known["CNN/LeNet"] | {"best": []}}
    path = project / "dl" / "modules" / "CNN" / "LeNet" / "model.py"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert facts.current()["CNN/LeNet"]["presets"] == {"modern": [1, 2]}
    path.write_text("# changed\n" + path.read_text(encoding="utf-8"), encoding="utf-8")
    assert facts.current()["CNN/LeNet"]["presets"]["modern"][0] == 61_706


def test_every_model_has_facts() -> None:
    assert sorted(facts.read()) == catalogue.names(), "`python -m dl results` brings dl/cli/facts.json up to date"
