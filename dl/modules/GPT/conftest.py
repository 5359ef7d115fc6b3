"""Fixtures of the tests of language models."""

from typing import Iterator

import pytest
import torch


@pytest.fixture
def exact() -> Iterator[None]:
    """Models are made in float64: their rotary tables would keep the rounding of float32."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
