"""The learned variance: its loss by hand and its laws. That a step with it is diffusers' is in test_samplers.py."""

import math

import pytest
import torch
from torch import Tensor, nn

from dl.modules.Diffusion.DDPM.process import DiffusionSchedule
from dl.modules.Diffusion.DDPM.samplers import guided
from dl.modules.Diffusion.DDPM.task import Denoising
from dl.modules.Diffusion.DDPM.vlb import (
    log_likelihood,
    normal_divergence,
    variational_bound,
)

# Two steps: alpha_bar is 0.9, then 0.9 * 0.8 = 0.72.
TWO = DiffusionSchedule(torch.tensor([0.1, 0.2], dtype=torch.float64), "x0", learned_variance=True)


def pixel(*values: float) -> Tensor:
    """One image of one pixel, a channel for each value."""
    return torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1)


def test_the_bound_of_the_second_step_by_hand() -> None:
    x0, x, guess, v = 0.5, 0.2, 0.1, 0.5
    # Equation 7 of Ho et al.: beta = 0.2, beta tilde = 0.2 * (1 - 0.9) / (1 - 0.72) = 1 / 14.
    towards_image = math.sqrt(0.9) * 0.2 / 0.28
    variance = 0.2**0.75 * (1 / 14) ** 0.25  # share (v + 1) / 2 = 0.75 of log beta
    ratio = 1 / 14 / variance
    nats = 0.5 * (-math.log(ratio) + ratio + (towards_image * (x0 - guess)) ** 2 / variance - 1)
    bound = variational_bound(TWO, pixel(guess, v), pixel(x0), pixel(x), torch.tensor([1]))
    assert bound.item() == pytest.approx(nats / math.log(2), abs=1e-12)
    assert bound.item() == pytest.approx(0.5117, abs=1e-4)


def test_the_bound_of_the_first_step_is_the_probability_of_a_byte() -> None:
    # The mean is the guess itself; beta = 0.1, and beta tilde of the step before, 1 / 14, stands in for 0.
    std = math.sqrt(math.sqrt(0.1 / 14))  # v = 0: the geometric mean of both variances
    for x0, low, high in ((0.2, 0.2 - 1 / 255, 0.2 + 1 / 255), (1.0, 1 - 1 / 255, math.inf), (-1.0, -math.inf, -1 + 1 / 255)):
        cut = [0.5 * (1 + math.erf((side - 0.1) / std / math.sqrt(2))) for side in (low, high)]
        bound = variational_bound(TWO, pixel(0.1, 0.0), pixel(x0), pixel(0.3), torch.tensor([0]))
        assert bound.item() == pytest.approx(-math.log2(cut[1] - cut[0]), abs=1e-9)


def test_all_bytes_together_have_probability_one() -> None:
    bytes_ = (torch.arange(256).double() / 127.5 - 1).view(-1, 1, 1, 1)
    for mean, log_variance in ((0.3, -2.0), (-1.4, -6.0), (0.999, -9.0)):
        likelihoods = log_likelihood(bytes_, torch.full_like(bytes_, mean), torch.full_like(bytes_, log_variance))
        assert likelihoods.exp().sum().item() == pytest.approx(1, abs=1e-9)


def test_the_divergence_is_its_integral() -> None:
    means, logs = torch.randn(2, 5, 1).double(), torch.randn(2, 5, 1).double()
    x = torch.linspace(-40, 40, 40_001).double()
    first, second = -0.5 * (logs + math.log(2 * math.pi) + (x - means) ** 2 / logs.exp())  # logarithms of the densities
    expected = torch.trapezoid(first.exp() * (first - second), x)
    torch.testing.assert_close(normal_divergence(means[0], logs[0], means[1], logs[1])[:, 0], expected)


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_a_perfect_prediction_with_the_posterior_s_variance_has_no_bound(prediction: str) -> None:
    process = DiffusionSchedule("linear", prediction, learned_variance=True)
    images, noise = torch.rand(3, 1, 2, 2).double() * 2 - 1, torch.randn(3, 1, 2, 2).double()
    times = torch.tensor([1, 400, 999])
    x = process.q_sample(images, noise, times)
    perfect = torch.cat([process.target(images, noise, times), torch.full_like(x, -1.0)], dim=1)
    bound = variational_bound(process, perfect, images, x, times)
    torch.testing.assert_close(bound, torch.zeros(3).double(), atol=1e-9, rtol=0)
    assert (variational_bound(process, perfect + 0.1, images, x, times) > 1e-9).all()


def test_v_goes_from_beta_tilde_to_beta() -> None:
    times, before = torch.tensor([700]), torch.tensor([650])
    process = DiffusionSchedule("cosine", learned_variance=True)
    small, large = process.variances(times, before)
    for v, expected in ((-1.0, small), (1.0, large), (0.0, (small * large).sqrt())):
        torch.testing.assert_close(process.log_variance(pixel(v), times, before).exp(), expected)
    assert process.log_variance(pixel(-1.0), torch.tensor([0]), torch.tensor([-1])).isfinite().all()


class Both(nn.Module):
    """Gives a prediction and v, for each of which it has one number."""

    num_classes = 0

    def __init__(self) -> None:
        super().__init__()
        self.prediction, self.v = nn.Parameter(torch.tensor(0.3)), nn.Parameter(torch.tensor(0.2))

    def forward(self, images: Tensor, times: Tensor, labels: Tensor | None = None) -> Tensor:
        return torch.cat([self.prediction * torch.ones_like(images), self.v * torch.ones_like(images)], dim=1)


def test_the_task_adds_a_thousandth_of_the_bound_which_teaches_the_variance_alone() -> None:
    process, plain = (DiffusionSchedule("linear", steps=50, learned_variance=learned) for learned in (True, False))
    batch = {"images": torch.rand(64, 1, 4, 4) * 2 - 1, "labels": torch.zeros(64)}
    model = Both()
    torch.manual_seed(0)
    output = Denoising(process, (1, 4, 4)).step(model, batch)
    output.loss.backward()
    torch.manual_seed(0)
    times, noise = process.sample_timesteps(64), torch.randn(64, 1, 4, 4)
    x = process.q_sample(batch["images"], noise, times)
    simple = (0.3 - plain.target(batch["images"], noise, times)).square().mean()
    bound = variational_bound(process, model(x, times), batch["images"], x, times).mean()
    assert output.loss.item() == pytest.approx((simple + 0.001 * 50 * bound).item(), rel=1e-6)
    assert model.prediction.grad.item() == pytest.approx(2 * (0.3 - noise.mean().item()), rel=1e-4)  # that of L_simple
    assert model.v.grad.abs() > 0


def test_guidance_leaves_the_variance_of_the_conditional_model() -> None:
    class Labelled(nn.Module):
        num_classes = 3

        def forward(self, x: Tensor, times: Tensor, labels: Tensor) -> Tensor:
            return labels.double().view(-1, 1, 1, 1).expand(-1, 2, 2, 2)

    output = guided(Labelled(), torch.tensor([1]), 4.0)(torch.zeros(1, 1, 2, 2).double(), torch.zeros(1))
    assert output[0, :, 0, 0].tolist() == [3 + 4 * (1 - 3), 1]


def test_one_step_cannot_have_a_learned_variance() -> None:
    with pytest.raises(ValueError, match="at least 2 steps"):
        DiffusionSchedule(steps=1, learned_variance=True)
