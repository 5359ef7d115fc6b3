"""The model of CONTRIBUTING.md is one: its code is run, its tests pass."""

import importlib
import re
import sys
from pathlib import Path

import pytest

from dl.modules import MLP

PAGE = Path(__file__).parents[1] / ".github" / "CONTRIBUTING.md"


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
