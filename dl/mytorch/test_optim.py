"""Schedules against their formulas, optimizers against torch's own updates."""

import math

import pytest
import torch
from torch import nn

from dl.mytorch.layers import sequential
from dl.mytorch.optim import (
    MakeOne,
    MakeOptimizer,
    Schedule,
    adamw,
    constant,
    decay_groups,
    noam,
    sgd,
    shown,
    warmup_cosine,
    warmup_linear,
)


def test_constant_is_1_throughout() -> None:
    assert {constant()(step, 100) for step in (0, 1, 50, 99)} == {1.0}


@pytest.mark.parametrize("warmup", [0.04, 4])  # a fraction of the 100 steps, or a number of steps
def test_warm_up_climbs_in_equal_parts_to_1(warmup: float) -> None:
    for schedule in (warmup_cosine(warmup), warmup_linear(warmup)):
        assert [schedule(step, 100) for step in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_cosine_falls_along_half_a_cosine() -> None:
    schedule = warmup_cosine(4)
    for step in range(4, 100):
        assert schedule(step, 100) == pytest.approx((1 + math.cos(math.pi * (step - 4) / 96)) / 2)
    assert schedule(52, 100) == pytest.approx(0.5)  # half-way down
    assert schedule(28, 100) == pytest.approx(0.5 + math.sqrt(0.5) / 2)  # a quarter of the way
    assert 0 < schedule(99, 100) < 0.001
    assert schedule(100, 100) == pytest.approx(0)


def test_cosine_ends_on_its_floor() -> None:
    schedule = warmup_cosine(0, floor=0.1)
    assert schedule(0, 10) == 1
    assert schedule(5, 10) == pytest.approx(0.55)
    assert schedule(10, 10) == schedule(12, 10) == pytest.approx(0.1)  # and stays there


def test_linear_falls_in_equal_parts_to_0() -> None:
    schedule = warmup_linear(0.5)
    assert [schedule(step, 8) for step in range(10)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 0.75, 0.5, 0.25, 0, 0])


@pytest.mark.parametrize("schedule", [warmup_cosine(0.0), warmup_linear(0.0), warmup_cosine(0.3), warmup_linear(3)])
@pytest.mark.parametrize("total", [1, 2, 3])
def test_the_shortest_runs_have_a_rate_above_0_at_every_step(schedule: Schedule, total: int) -> None:
    assert all(0 < schedule(step, total) <= 1 for step in range(total))


def test_noam_is_the_paper_s_equation() -> None:
    schedule = noam(dim=512, warmup_steps=4000)
    # Vaswani et al. 2017, eq. 3: lrate = d_model^-0.5 min(step_num^-0.5, step_num warmup_steps^-1.5)
    for step_num in (1, 2, 1000, 3999, 4000, 4001, 100_000):
        expected = 512**-0.5 * min(step_num**-0.5, step_num * 4000**-1.5)
        assert schedule(step_num - 1, 100_000) == pytest.approx(expected, rel=1e-12)
    rates = [schedule(step, 100_000) for step in range(10_000)]
    assert rates.index(max(rates)) == 3999  # the peak is at step 4000
    assert max(rates) == pytest.approx(1 / math.sqrt(512 * 4000))


def mixed_model() -> nn.Module:
    """Kernels, matrices, biases, scales, a frozen matrix, and one matrix used by two layers."""
    model = sequential(
        conv=nn.Conv2d(1, 2, 3), norm=nn.BatchNorm2d(2), fc=nn.Linear(4, 4), tied=nn.Linear(4, 4), frozen=nn.Linear(4, 4)
    )
    model.tied.weight = model.fc.weight
    model.frozen.requires_grad_(False)
    return model


def test_every_trainable_parameter_is_in_exactly_one_group() -> None:
    model = mixed_model()
    decaying, plain = decay_groups(model, 0.1)
    grouped = [id(p) for group in (decaying, plain) for p in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(p) for p in model.parameters() if p.requires_grad}


def test_kernels_and_matrices_decay_and_the_rest_does_not() -> None:
    model = mixed_model()
    decaying, plain = decay_groups(model, 0.1)
    assert (decaying["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    names = {id(p): name for name, p in model.named_parameters()}
    assert [names[id(p)] for p in decaying["params"]] == ["conv.weight", "fc.weight"]
    assert [names[id(p)] for p in plain["params"]] == ["conv.bias", "norm.weight", "norm.bias", "fc.bias", "tied.bias"]


def test_a_module_may_name_matrices_that_do_not_decay() -> None:
    model = mixed_model()
    model.conv.no_weight_decay = ("weight",)
    decaying, plain = decay_groups(model, 0.1)
    assert decaying["params"] == [model.fc.weight]
    assert plain["params"][0] is model.conv.weight and len(plain["params"]) == 6


def after_steps(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 3) -> dict[str, torch.Tensor]:
    x, y = torch.randn(5, 3, generator=torch.Generator().manual_seed(1)), torch.ones(5, 2)
    for _ in range(steps):
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()
    return dict(model.named_parameters())


def linear_pair() -> tuple[nn.Module, nn.Module]:
    model, twin = nn.Linear(3, 2), nn.Linear(3, 2)
    twin.load_state_dict(model.state_dict())
    return model, twin


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_updates_as_torch_s_with_decay_on_the_matrix_alone(nesterov: bool) -> None:
    model, twin = linear_pair()
    own = after_steps(model, sgd(0.1, momentum=0.9, weight_decay=0.2, nesterov=nesterov)(model))
    groups = [{"params": [twin.weight], "weight_decay": 0.2}, {"params": [twin.bias], "weight_decay": 0.0}]
    expected = after_steps(twin, torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=nesterov))
    assert all(torch.equal(own[name], expected[name]) for name in expected)


def test_one_plain_sgd_step_is_weights_minus_rate_times_gradient_and_decay() -> None:
    model, _ = linear_pair()
    weight, bias = (p.detach().clone() for p in model.parameters())
    after_steps(model, sgd(0.1, weight_decay=0.2)(model), steps=1)
    torch.testing.assert_close(model.weight, weight - 0.1 * (model.weight.grad + 0.2 * weight))
    torch.testing.assert_close(model.bias, bias - 0.1 * model.bias.grad)


@pytest.mark.parametrize("fused", [False, True])
def test_adamw_updates_as_torch_s_with_decay_on_the_matrix_alone(fused: bool) -> None:
    model, twin = linear_pair()
    optimizer = adamw(0.1, weight_decay=0.2, betas=(0.8, 0.95), eps=1e-6, fused=fused)(model)
    assert bool(optimizer.defaults["fused"]) == fused
    own = after_steps(model, optimizer)
    groups = [{"params": [twin.weight], "weight_decay": 0.2}, {"params": [twin.bias], "weight_decay": 0.0}]
    expected = after_steps(twin, torch.optim.AdamW(groups, lr=0.1, betas=(0.8, 0.95), eps=1e-6))
    for name in expected:
        torch.testing.assert_close(own[name], expected[name], rtol=1e-6 if fused else 0, atol=1e-7 if fused else 0)


def test_a_model_without_biases_has_an_optimizer() -> None:
    model = nn.Linear(3, 2, bias=False)
    before = model.weight.detach().clone()
    after_steps(model, sgd(0.1)(model), steps=1)
    assert not torch.equal(before, model.weight)


def test_optimizers_and_schedules_are_printed_as_the_call_that_made_them() -> None:
    assert repr(sgd(0.1, momentum=0.9, nesterov=True)) == "sgd(lr=0.1, momentum=0.9, nesterov=True)"
    assert repr(adamw(1e-3, betas=(0.9, 0.95), weight_decay=0.01)) == "adamw(lr=0.001, betas=(0.9, 0.95))"
    made = [repr(made) for made in (constant(), warmup_cosine(0.1), warmup_linear(5), noam(512, 4000))]
    assert made == ["constant()", "warmup_cosine(warmup=0.1)", "warmup_linear(warmup=5)", "noam(dim=512, warmup_steps=4000)"]
    assert repr(shown(_twice)(sgd(0.1))) == "_twice(make=sgd(lr=0.1))"


def _twice(make: MakeOne) -> MakeOptimizer:
    return lambda model: [make(model), make(model)]
