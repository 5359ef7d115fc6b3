"""Fixtures of the tests of Llama."""

from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from dl.mytorch.torchvision_compat import import_torchvision


@pytest.fixture
def transformers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """With norms and angles in the precision of the model: it computes both in float32, whatever the model's."""
    import_torchvision()  # which transformers imports if it is there
    pytest.importorskip("transformers")
    import transformers
    from transformers.models.llama import modeling_llama as theirs

    def norm(self: nn.Module, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))

    def rotary(self: nn.Module, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        parameters, dim = self.config.rope_parameters, self.config.head_dim
        frequency = 1.0 / parameters["rope_theta"] ** (torch.arange(0, dim, 2, dtype=x.dtype) / dim)
        angle = (position_ids[..., None] * frequency).repeat(1, 1, 2)
        return angle.cos(), angle.sin()

    monkeypatch.setattr(theirs.LlamaRMSNorm, "forward", norm)
    monkeypatch.setattr(theirs.LlamaRotaryEmbedding, "forward", rotary)
    return transformers
