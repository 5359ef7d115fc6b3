"""Fixtures of the tests of DeepSeek-V3."""

from types import ModuleType

import pytest

from dl.modules.GPT.testing import exact_transformers


@pytest.fixture
def transformers(monkeypatch: pytest.MonkeyPatch, exact: None) -> ModuleType:
    return exact_transformers(monkeypatch, "deepseek_v3")
