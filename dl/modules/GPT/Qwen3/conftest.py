"""Fixtures of the tests of Qwen3."""

from types import ModuleType
from typing import Any

import pytest
import torch

from dl.mytorch.torchvision_compat import import_torchvision


class Torch64:
    """torch, in which float32 means float64: what transformers computes in float32, whatever the model is in, is exact."""

    float32 = float = torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


@pytest.fixture
def transformers(monkeypatch: pytest.MonkeyPatch, exact: None) -> ModuleType:
    import_torchvision()  # which transformers imports if it is there
    pytest.importorskip("transformers")
    import transformers
    from transformers import modeling_rope_utils
    from transformers.models.gpt_oss import modeling_gpt_oss
    from transformers.models.qwen3 import modeling_qwen3
    from transformers.models.qwen3_moe import modeling_qwen3_moe

    for module in (modeling_rope_utils, modeling_qwen3, modeling_qwen3_moe, modeling_gpt_oss):
        monkeypatch.setattr(module, "torch", Torch64())
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    return transformers
