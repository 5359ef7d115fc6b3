"""LoRA by its laws: nothing changes at first, little is trained, and what is merged computes the same."""

from typing import Any

import pytest
import torch

from dl.modules.GPT.GPT2 import model as gpt2
from dl.modules.GPT.Llama import model as llama
from dl.modules.GPT.lora import LoRALinear, adapt, merge
from dl.modules.GPT.testing import TOKENS, randomized

BOTH = pytest.mark.parametrize("build", [gpt2.build, llama.build])


@BOTH
def test_an_adapted_model_begins_as_it_was_learns_and_is_merged(build: Any) -> None:
    model = randomized(build("tiny", dim=16)).double()
    names, before = list(model.state_dict()), model(TOKENS)
    adapt(model, rank=2, alpha=6.0)
    assert torch.equal(model(TOKENS), before)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    layers = [f"blocks.{i}.attention.{part}" for i in range(2) for part in ("query", "value")]
    assert trained == {f"{layer}.{part}" for layer in layers for part in ("down", "up")}
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    for _ in range(3):
        model(TOKENS).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    learnt = model(TOKENS)
    assert (learnt - before).abs().max() > 1e-3
    assert all(torch.equal(p, frozen[name]) for name, p in model.named_parameters() if name in frozen)
    merge(model)
    assert list(model.state_dict()) == names and all(p.requires_grad for p in model.parameters())
    assert (model(TOKENS) - learnt).abs().max() <= 1e-9


def test_the_layer_is_its_equation() -> None:
    linear = torch.nn.Linear(5, 4).double()
    layer = LoRALinear(linear, rank=3, alpha=6.0)
    layer.up.data.normal_()
    x = torch.randn(2, 5, dtype=torch.float64)
    expected = x @ (linear.weight + 2.0 * layer.up @ layer.down).T + linear.bias
    assert (layer(x) - expected).abs().max() <= 1e-12
    assert layer.down.abs().max() <= 5**-0.5 and layer.down.std() > 0.1


def test_ranks_and_names_that_are_invalid_are_refused() -> None:
    for rank in (0, 8):
        with pytest.raises(ValueError, match=f"rank has to be at least 1 and below 8, that of the layer itself; got {rank}"):
            adapt(gpt2.build("tiny"), rank=rank)
    with pytest.raises(ValueError, match="no linear layer named q_proj"):
        adapt(gpt2.build("tiny"), layers=["q_proj"])
