"""Flow matching: paths and velocity by hand, laws of the sampler, diffusers' Euler (parity tier), the recipe."""

import importlib
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from dl.modules.Diffusion.DDPM.task import Denoising
from dl.modules.Diffusion.FlowMatching import train
from dl.modules.Diffusion.FlowMatching.flow import Flow, euler
from dl.modules.Diffusion.FlowMatching.model import build
from dl.modules.Diffusion.testing import one_image
from dl.mytorch import testing
from dl.mytorch.data import synthetic
from dl.mytorch.introspect import count_parameters, without_values
from dl.mytorch.torchvision_compat import import_torchvision


def two(count: int = 3) -> tuple[Tensor, Tensor]:
    """Images and noise, in float64."""
    return torch.rand(count, 1, 4, 4).double() * 2 - 1, torch.randn(count, 1, 4, 4).double()


def smooth(x: Tensor, times: Tensor) -> Tensor:
    """Some velocity, standing in for a trained network."""
    return torch.tanh(x.flip(-1) + times.view(-1, 1, 1, 1) / 1000)


def test_paths_are_straight_from_image_to_noise_with_the_velocity_as_their_derivative() -> None:
    images, noise = two()
    flow = Flow()
    torch.testing.assert_close(flow.q_sample(images, noise, torch.zeros(3)), images)
    torch.testing.assert_close(flow.q_sample(images, noise, torch.full((3,), 1000.0)), noise)
    times = torch.tensor([100.0, 500.0, 800.0]).double()
    step = (flow.q_sample(images, noise, times + 1) - flow.q_sample(images, noise, times)) * flow.steps
    torch.testing.assert_close(step, flow.target(images, noise, times), atol=1e-9, rtol=0)
    drawn = flow.sample_timesteps(10_000)
    assert 0 <= drawn.min() < 1 and 999 < drawn.max() < 1000 and 490 < drawn.mean() < 510


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_a_perfect_velocity_leads_to_the_image_in_any_number_of_steps(steps: int) -> None:
    images, noise = two()

    def perfect(x: Tensor, times: Tensor) -> Tensor:
        return (x - images) / (times / 1000).view(-1, 1, 1, 1)

    torch.testing.assert_close(euler(perfect, Flow(), noise, steps), images, atol=1e-9, rtol=0)


def test_euler_by_hand_in_two_steps() -> None:
    _, noise = two()
    seen = []
    result = euler(smooth, Flow(), noise, 2, watch=lambda i, x: seen.append(i))
    middle = noise - smooth(noise, torch.full((3,), 1000.0)) / 2
    torch.testing.assert_close(result, middle - smooth(middle, torch.full((3,), 500.0)) / 2)
    assert seen == [1, 2]
    with pytest.raises(ValueError, match="0 steps"):
        euler(smooth, Flow(), noise, 0)


@pytest.mark.parity
def test_every_step_is_diffusers(monkeypatch: pytest.MonkeyPatch) -> None:
    import_torchvision()  # diffusers imports it, too
    diffusers = pytest.importorskip("diffusers")
    exact = ModuleType("torch")  # diffusers says float32, the comparison is in float64
    exact.__dict__.update(vars(torch), float32=torch.float64)
    name = "diffusers.schedulers.scheduling_flow_match_euler_discrete"
    monkeypatch.setattr(importlib.import_module(name), "torch", exact)
    reference, steps = diffusers.FlowMatchEulerDiscreteScheduler(), 8
    reference.set_timesteps(sigmas=[1 - i / steps for i in range(steps)])
    seen: list[Tensor] = []
    x = noise = two()[1]
    euler(smooth, Flow(), noise, steps, watch=lambda i, x: seen.append(x))
    for t, own in zip(reference.timesteps, seen, strict=True):
        x = reference.step(smooth(x, t.expand(3)), t, x).prev_sample
        torch.testing.assert_close(own, x, atol=1e-9, rtol=0)


def awake(model: nn.Module) -> nn.Module:
    """At the start, its residual branches are nearly nothing."""
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    return model


def denoising(drop_label: float) -> Denoising:
    return Denoising(Flow(), (1, 8, 8), drop_label=drop_label, steps=4, sampler=euler)


test_standard = testing.standard_checks(
    build,
    train.main,
    train.Config(data="fashion_mnist-sample", model="tiny", epochs=1, batch_size=4, ema=0.9, precision="fp32"),
    lambda: synthetic.images(32, size=8),
    splits=lambda config: testing.tiny_splits(size=8),
    task=lambda: denoising(0.5),
    variants=[{"num_classes": 10}],
    prepare=awake,
    inputs=lambda: (torch.randn(3, 1, 8, 8), torch.tensor([0.0, 17.5, 999.0]), torch.tensor([0, 10, 3])),
    overfit=[testing.Overfit({"num_classes": 10}, one_image, lambda: denoising(0.0), below=0.9)],  # 2.2 at the start
)


def test_the_paper_s_network_is_ddpm_s() -> None:
    with without_values():
        assert count_parameters(build()) == 35_746_307


@torch.no_grad()
def test_a_figure_has_a_column_for_each_class() -> None:
    assert denoising(0.0).draw(build("tiny", num_classes=10), rows=1).shape == (1, 16, 10 * 17 - 1)
