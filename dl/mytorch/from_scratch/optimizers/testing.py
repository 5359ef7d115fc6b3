"""What the tests of the optimizers by hand share."""

from typing import Any

import torch
from torch import Tensor, nn

from dl.mytorch.from_scratch import optimizers
from dl.mytorch.layers import sequential


def after_ten_steps(optimizer: type[torch.optim.Optimizer], dtype: torch.dtype = torch.float64, **options: Any) -> list[Tensor]:
    """Return weights of matrices alone, of several shapes, from the same start; the last two steps have another rate."""
    torch.manual_seed(1)
    model = sequential(fc1=nn.Linear(5, 8, bias=False), act=nn.Tanh(), fc2=nn.Linear(8, 3, bias=False)).to(dtype)
    x, y = torch.randn(6, 5, dtype=dtype), torch.randn(6, 3, dtype=dtype)
    moving = optimizer(model.parameters(), **options)
    for step in range(10):
        if step == 8:
            moving.param_groups[0]["lr"] *= 0.5
        moving.zero_grad()
        (model(x) - y).square().mean().backward()
        moving.step()
    return [parameter.detach() for parameter in model.parameters()]


def assert_leaves_torch_s_weights(name: str, tolerance: float = 1e-10, **options: Any) -> None:
    own, twin = (after_ten_steps(getattr(module, name), **options) for module in (optimizers, torch.optim))
    torch.manual_seed(1)
    start = nn.Linear(5, 8, bias=False).weight
    assert torch.dist(own[0].float(), start) > 1e-3
    for weight, expected in zip(own, twin):
        torch.testing.assert_close(weight, expected, rtol=0, atol=tolerance)
