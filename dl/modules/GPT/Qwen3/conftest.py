"""Fixtures of the tests of Qwen3."""

from types import ModuleType

import pytest

from dl.modules.GPT.testing import exact_transformers


@pytest.fixture
def transformers(monkeypatch: pytest.MonkeyPatch, exact: None) -> ModuleType:
    return exact_transformers(monkeypatch, "qwen3", "qwen3_moe", "gpt_oss")
