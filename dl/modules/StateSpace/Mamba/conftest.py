"""Fixtures of the tests of Mamba."""

from types import ModuleType
from typing import Iterator

import pytest
import torch

from dl.modules.GPT.testing import exact_transformers


@pytest.fixture
def transformers(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    torch.set_default_dtype(torch.float64)
    yield exact_transformers(monkeypatch, "mamba")
    torch.set_default_dtype(torch.float32)
