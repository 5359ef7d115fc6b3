"""The model of CONTRIBUTING.md passes its own tests, and the examples of docs/tasks.md train."""

import importlib
import math
import re
import runpy
import sys
from pathlib import Path

import pytest

from dl.cli.testing import fenced
from dl.modules import MLP

ROOT = Path(__file__).parents[1]
PAGE = ROOT / ".github" / "CONTRIBUTING.md"
TASKS = (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8")
EXAMPLES = dict(
    zip(re.findall("^## (.*)$", TASKS, re.MULTILINE), [block for language, block in fenced(TASKS) if language == "python"])
)


def test_the_example_passes_its_own_tests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_figures: None, no_reports: None
) -> None:
    blocks = re.findall(r"^```python\n# (\w+\.py)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert [name for name, _ in blocks] == ["model.py", "train.py", "test_model.py"]
    (tmp_path / "Highway").mkdir()
    for name, code in [("__init__.py", ""), *blocks]:
        (tmp_path / "Highway" / name).write_text(code, encoding="utf-8")
    monkeypatch.setattr(MLP, "__path__", [*MLP.__path__, str(tmp_path)])
    try:
        tests = vars(importlib.import_module("dl.modules.MLP.Highway.test_model"))
        names = [name for name in tests if name.startswith("test_") and name != "test_standard"]
        assert len(names) == 2
        for name in names:
            tests[name]()
        for item in tests["test_standard"].pytestmark[-1].args[1]:
            folder = tmp_path / str(item.id)
            folder.mkdir()
            tests["test_standard"](*item.values, folder)
    finally:
        for name in [name for name in sys.modules if name.startswith("dl.modules.MLP.Highway")]:
            del sys.modules[name]
        vars(MLP).pop("Highway", None)


@pytest.mark.parametrize("kind", EXAMPLES)
def test_the_smallest_task_of_a_kind_of_data_trains_and_bears_a_rank_without_examples(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_figures: None
) -> None:
    if kind == "Agents":
        pytest.importorskip("gymnasium")
    monkeypatch.chdir(tmp_path)
    Path("example.py").write_text(EXAMPLES[kind], encoding="utf-8")
    made = runpy.run_path("example.py")
    for record in made["history"][:2]:
        assert math.isfinite(record["train"]["loss"]) and math.isfinite(record["val"][made["task"].monitor])
        assert len(record["val"]) == 2
    batch = next(made["data"].train.batches())
    loss, count, _ = made["task"].step(made["model"], {name: tensor[:0] for name, tensor in batch.items()})
    assert count == 0 and loss.isnan()
