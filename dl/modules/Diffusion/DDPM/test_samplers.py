"""Schedules, the forward process and the samplers: their formulas, their laws, and diffusers' schedulers (parity tier)."""

import functools
import importlib
import math
from types import ModuleType
from typing import Any, Callable

import pytest
import torch
from torch import Tensor, nn

from dl.modules.Diffusion.DDPM.process import (
    PREDICTIONS,
    DiffusionSchedule,
    cosine_betas,
    linear_betas,
)
from dl.modules.Diffusion.DDPM.samplers import (
    Denoiser,
    ddim,
    ddim_step,
    ddpm,
    ddpm_step,
    dpm_solver_2m,
    guided,
    trailing,
)
from dl.mytorch.testing.device import device_without_float64
from dl.mytorch.torchvision_compat import import_torchvision


def images(seed: int = 0, count: int = 3) -> Tensor:
    """In [-1, 1], in float64."""
    return torch.rand(count, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def noise(seed: int = 1, count: int = 3) -> Tensor:
    return torch.randn(count, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def perfect(process: DiffusionSchedule, truth: Tensor) -> Denoiser:
    """What a network would say that knows the images."""
    return lambda x, times: process.target(truth, process.noise(truth, x, times), times)


def smooth(process: DiffusionSchedule) -> Denoiser:
    """Some function of image and time, standing in for a trained network."""

    def denoise(x: Tensor, times: Tensor) -> Tensor:
        prediction = torch.tanh(0.7 * x.flip(-1) + times.view(-1, 1, 1, 1) / process.steps - 0.4)
        return torch.cat([prediction, x.sin()], dim=1) if process.learned_variance else prediction

    return denoise


# ---- the process ---------------------------------------------------------------------------------------------------


def test_schedules_are_those_of_the_papers() -> None:
    linear, cosine = linear_betas(1000), cosine_betas(1000)
    torch.testing.assert_close(linear[[0, 499, 999]], torch.tensor([1e-4, 1e-4 + 499 * 0.0199 / 999, 0.02]).double())
    left = DiffusionSchedule("cosine").alpha_bar

    def expected(t: int) -> float:  # Nichol & Dhariwal 2021, equation 17
        return (math.cos((t / 1000 + 0.008) / 1.008 * math.pi / 2) / math.cos(0.008 / 1.008 * math.pi / 2)) ** 2

    for t in (1, 250, 500, 900):
        assert left[t - 1].item() == pytest.approx(expected(t), rel=1e-12)
    assert cosine[-1] == 0.999 and linear.dtype == torch.float64


@pytest.mark.parametrize("steps", [2, 10, 100, 2000])
def test_any_number_of_linear_steps_ends_in_noise(steps: int) -> None:
    assert torch.equal(linear_betas(1000), torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64))
    assert linear_betas(steps).max() <= 0.999 and DiffusionSchedule("linear", steps=steps).alpha_bar[-1] < 0.001


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_noised_images_have_the_mean_and_variance_of_equation_4(schedule: str) -> None:
    process = DiffusionSchedule(schedule)
    image = images(count=1).expand(20_000, -1, -1, -1)
    for t in (0, 300, 999):
        x = process.q_sample(image, torch.randn_like(image), torch.full((20_000,), t))
        betas = linear_betas() if schedule == "linear" else cosine_betas()
        alpha_bar = math.prod(1 - beta for beta in betas.tolist()[: t + 1])
        torch.testing.assert_close(x.mean(0), alpha_bar**0.5 * image[0], atol=0.04, rtol=0)
        torch.testing.assert_close(x.var(0), torch.full_like(image[0], 1 - alpha_bar), atol=0, rtol=0.06)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_targets_are_what_their_names_say_and_lead_back_to_the_image(prediction: str) -> None:
    process, times = DiffusionSchedule("cosine", prediction), torch.tensor([3, 400, 900])
    bars = process.alpha_bar[times].view(-1, 1, 1, 1)
    signal, std = bars.sqrt(), (1 - bars).sqrt()
    expected = {"epsilon": noise(), "x0": images(), "v": signal * noise() - std * images()}[prediction]
    target, x = process.target(images(), noise(), times), process.q_sample(images(), noise(), times)
    torch.testing.assert_close(target, expected)
    torch.testing.assert_close(process.predict_x0(target, x, times), images())
    torch.testing.assert_close(process.noise(images(), x, times), noise())


def test_unknown_names_and_too_many_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="schedule 'cosin'"):
        DiffusionSchedule("cosin")
    with pytest.raises(ValueError, match="prediction 'eps'"):
        DiffusionSchedule(prediction="eps")
    with pytest.raises(ValueError, match="11 steps: the process has 10"):
        ddim(lambda x, times: x, DiffusionSchedule(steps=10), noise(), steps=11)
    with pytest.raises(ValueError, match="variance 'learned'"):
        ddpm(lambda x, times: x, DiffusionSchedule(steps=10), noise(), variance="learned")


# ---- samplers ------------------------------------------------------------------------------------------------------


def test_times_are_even_and_end_where_the_image_is_clean() -> None:
    assert trailing(1000, 4) == [999, 749, 499, 249, -1]
    assert trailing(10, 10) == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0, -1]
    assert trailing(1000, 1) == [999, -1]


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("clip", [False, True])
def test_a_perfect_denoiser_leads_every_sampler_to_the_image(prediction: str, clip: bool) -> None:
    process = DiffusionSchedule("linear", prediction)
    denoise = perfect(process, images())
    for steps in (1, 2, 7):
        for sampler in (ddim, dpm_solver_2m, ddpm):
            result = sampler(denoise, process, noise(), steps=steps, clip=clip)
            torch.testing.assert_close(result, images(), atol=1e-9, rtol=0)


def test_ddim_stays_on_the_line_from_image_to_noise() -> None:
    process = DiffusionSchedule("linear")
    times = torch.tensor([700])
    x = process.q_sample(images(), noise(), times)
    expected = process.q_sample(images(), noise(), torch.tensor([200]))
    torch.testing.assert_close(ddim_step(process, images(), x, 700, 200, noise(7)), expected)


@pytest.mark.parametrize(("t", "before"), [(999, 998), (500, 499), (1, 0), (999, 749)])
def test_one_ddpm_step_is_the_posterior_of_equation_7(t: int, before: int) -> None:
    process = DiffusionSchedule("linear")
    bar, bar_before = process.alpha_bar[t].item(), process.alpha_bar[before].item()
    x, truth, beta = noise(), images(), 1 - bar / bar_before
    # Bayes: precision of q(x_before | x_0) plus that of q(x_t | x_before), each normal.
    precision = 1 / (1 - bar_before) + (1 - beta) / beta
    mean = (bar_before**0.5 * truth / (1 - bar_before) + (1 - beta) ** 0.5 * x / beta) / precision
    zero, new = torch.zeros_like(x), noise(5)
    torch.testing.assert_close(ddpm_step(process, truth, x, t, before, zero), mean, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(ddpm_step(process, truth, x, t, before, new) - mean, precision**-0.5 * new, atol=1e-9, rtol=1e-9)
    large = ddpm_step(process, truth, x, t, before, new, variance="large") - mean
    torch.testing.assert_close(large, beta**0.5 * new, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("clip", [False, True])
def test_ddim_with_eta_1_and_all_steps_is_ddpm(clip: bool) -> None:
    process = DiffusionSchedule("cosine", "v", steps=20)
    same = [
        sampler(smooth(process), process, noise(), steps=20, clip=clip, generator=torch.Generator().manual_seed(3), **options)
        for sampler, options in ((ddpm, {}), (ddim, {"eta": 1.0}))
    ]
    torch.testing.assert_close(*same, atol=1e-9, rtol=0)


def test_clipping_keeps_what_is_predicted_in_range() -> None:
    process = DiffusionSchedule("linear", "x0", steps=10)
    for sampler in (ddpm, ddim, dpm_solver_2m):
        assert sampler(lambda x, times: 3 * x.sign(), process, noise(), steps=4).abs().max() <= 1 + 1e-12
        assert sampler(lambda x, times: 3 * x.sign(), process, noise(), steps=4, clip=False).abs().max() > 2


def test_images_have_the_precision_of_the_noise_whatever_the_network_computes_in() -> None:
    process = DiffusionSchedule("linear", "x0", steps=10)
    for sampler in (ddpm, ddim, dpm_solver_2m):
        assert sampler(lambda x, times: x.bfloat16(), process, noise().float(), steps=2).dtype == torch.float32


def test_dpm_solver_is_of_second_order_where_ddim_is_of_first() -> None:
    # For normal data with variance 0.25 the best denoiser is known, and so is the path: x_t / sqrt(var(x_t)) stays.
    process = DiffusionSchedule("linear", "x0")
    variance = process.alpha_bar * 0.25 + 1 - process.alpha_bar

    def exact(x: Tensor, times: Tensor) -> Tensor:
        return (process.alpha_bar[times].sqrt() * 0.25 / variance[times]).view(-1, 1, 1, 1) * x

    truth = noise() * (variance[299] / variance[999]).sqrt()  # at time 299, after seven tenths of the steps
    errors = {}
    for sampler in (ddim, dpm_solver_2m):
        for steps in (50, 100):
            seen = []
            sampler(exact, process, noise(), steps, clip=False, watch=lambda i, x: seen.append(x))
            errors[sampler, steps] = (seen[steps * 7 // 10 - 1] - truth).abs().max().item()
    assert errors[ddim, 50] / errors[ddim, 100] == pytest.approx(2, rel=0.1)
    assert errors[dpm_solver_2m, 50] / errors[dpm_solver_2m, 100] > 3
    assert errors[dpm_solver_2m, 50] < 0.2 * errors[ddim, 50]


def test_sampling_repeats_with_a_seed_and_watch_sees_each_step() -> None:
    process, seen = DiffusionSchedule("linear", steps=10), []
    first, second, other = (
        ddpm(smooth(process), process, noise(), generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(first, second) and not torch.allclose(first, other)
    assert torch.equal(ddim(smooth(process), process, noise(), 5), ddim(smooth(process), process, noise(), 5))
    last = dpm_solver_2m(smooth(process), process, noise(), 4, watch=lambda i, x: seen.append((i, x)))
    assert [i for i, _ in seen] == [1, 2, 3, 4] and torch.equal(seen[-1][1], last)


class Labelled(nn.Module):
    """The label, or 100 without one, in each pixel."""

    num_classes = 3

    def forward(self, x: Tensor, times: Tensor, labels: Tensor) -> Tensor:
        return torch.where(labels == 3, 100.0, labels.double()).view(-1, 1, 1, 1).expand_as(x)


def test_guidance_goes_from_the_unconditional_through_the_conditional_model() -> None:
    labels, times = torch.tensor([0, 1, 2]), torch.zeros(3)
    wanted = labels.double().view(-1, 1, 1, 1)
    for scale, expected in ((1, wanted), (0, 100 + 0 * wanted), (3, 100 + 3 * (wanted - 100))):
        output = guided(Labelled(), labels, scale)(noise(), times)
        torch.testing.assert_close(output, expected.expand_as(output), rtol=0, atol=0)
    for wrong in ([4], [0, 4], [-1, 2]):
        with pytest.raises(ValueError, match="labels are from 0 to 2, or 3 for none"):
            guided(Labelled(), torch.tensor(wrong))


@pytest.mark.parametrize("sampler", [ddpm, ddim, dpm_solver_2m])
@pytest.mark.parametrize("learned", [False, True])
def test_on_a_device_without_float64_every_sampler_draws_the_same(sampler: Callable[..., Tensor], learned: bool) -> None:
    process = DiffusionSchedule("cosine", "v", steps=8, learned_variance=learned)
    options = {} if sampler is dpm_solver_2m else {"generator": torch.Generator().manual_seed(0)}
    expected = sampler(smooth(process), process, noise().float(), steps=3, **options)
    if options:
        options["generator"].manual_seed(0)
    with device_without_float64() as device:
        found = sampler(smooth(process), process, noise().float().to(device), steps=3, **options).cpu()
    torch.testing.assert_close(found, expected)


# ---- diffusers -----------------------------------------------------------------------------------------------------


THEIRS = {"epsilon": "epsilon", "x0": "sample", "v": "v_prediction"}


@pytest.fixture
def diffusers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Its schedulers, computing in float64 where they say float32."""
    import_torchvision()  # diffusers imports it, too
    diffusers = pytest.importorskip("diffusers")
    exact = ModuleType("torch")
    exact.__dict__.update(vars(torch), float32=torch.float64)
    for name in ("ddpm", "ddim", "dpmsolver_multistep"):
        monkeypatch.setattr(importlib.import_module(f"diffusers.schedulers.scheduling_{name}"), "torch", exact)
    return diffusers


@pytest.mark.parity
def test_schedules_and_forward_process_are_diffusers(diffusers: ModuleType) -> None:
    for ours, theirs in (("linear", "linear"), ("cosine", "squaredcos_cap_v2")):
        process, reference = DiffusionSchedule(ours, "v"), diffusers.DDPMScheduler(beta_schedule=theirs)
        torch.testing.assert_close(process.alpha_bar, reference.alphas_cumprod, atol=1e-9, rtol=1e-9)
        times = torch.tensor([0, 400, 999])
        noisy, velocity = (f(images(), noise(), times) for f in (reference.add_noise, reference.get_velocity))
        torch.testing.assert_close(process.q_sample(images(), noise(), times), noisy, atol=1e-9, rtol=0)
        torch.testing.assert_close(process.target(images(), noise(), times), velocity, atol=1e-9, rtol=0)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # diffusers' use of numpy
@pytest.mark.parity
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize(
    ("ours", "theirs", "options", "step"),
    [
        ({"sampler": ddpm, "steps": 1000}, "DDPMScheduler", {"variance_type": "fixed_small"}, {}),
        ({"sampler": ddpm, "steps": 30}, "DDPMScheduler", {"variance_type": "fixed_small"}, {}),
        # With all steps: with fewer, diffusers adds noise to the clean image, too.
        ({"sampler": ddpm, "steps": 1000, "variance": "large"}, "DDPMScheduler", {"variance_type": "fixed_large"}, {}),
        ({"sampler": ddpm, "steps": 1000, "learned": True}, "DDPMScheduler", {"variance_type": "learned_range"}, {}),
        ({"sampler": ddim, "steps": 50}, "DDIMScheduler", {}, {"use_clipped_model_output": True}),
        ({"sampler": ddim, "steps": 20, "eta": 0.7}, "DDIMScheduler", {}, {"eta": 0.7, "use_clipped_model_output": True}),
    ],
)
def test_every_step_is_diffusers(
    diffusers: ModuleType, ours: dict, theirs: str, options: dict[str, Any], step: dict[str, Any], clip: bool, prediction: str
) -> None:
    process = DiffusionSchedule("linear", prediction, learned_variance="learned" in ours)
    options = options | {"prediction_type": THEIRS[prediction], "timestep_spacing": "trailing", "clip_sample": clip}
    reference = getattr(diffusers, theirs)(**options)
    reference.set_timesteps(ours["steps"])
    sampler, own = ours["sampler"], {name: value for name, value in ours.items() if name not in ("sampler", "learned")}
    compare(reference, functools.partial(sampler, **own, clip=clip), process, step, True)


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # diffusers' use of numpy
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("steps", [7, 10, 25])
def test_every_step_of_the_solver_is_diffusers(diffusers: ModuleType, steps: int, clip: bool, prediction: str) -> None:
    process = DiffusionSchedule("linear", prediction)
    options = {"prediction_type": THEIRS[prediction], "timestep_spacing": "trailing"}
    options |= {"thresholding": clip, "sample_max_value": 1.0}  # its thresholds go from 1 to that: all are 1
    reference = diffusers.DPMSolverMultistepScheduler(**options)
    reference.set_timesteps(steps)
    bars = process.alpha_bar[reference.timesteps]
    reference.sigmas = torch.cat([((1 - bars) / bars).sqrt(), torch.zeros(1, dtype=torch.float64)])  # its own: numpy's float32
    compare(reference, functools.partial(dpm_solver_2m, steps=steps, clip=clip), process, {}, False)


def compare(
    reference: Any, sampler: Callable[..., Tensor], process: DiffusionSchedule, step: dict[str, Any], random: bool
) -> None:
    """Both go from the same noise, with the same new noise; x after each step is the same."""
    x, denoise, expected, seen = noise(), smooth(process), [], []
    theirs, ours = ({"generator": torch.Generator().manual_seed(3)} if random else {} for _ in range(2))
    for t in reference.timesteps:
        x = reference.step(denoise(x, t.expand(3)), t, x, **step, **theirs).prev_sample
        expected.append(x)
    sampler(denoise, process, noise(), watch=lambda i, x: seen.append(x), **ours)
    for own, other in zip(seen, expected, strict=True):
        torch.testing.assert_close(own, other, atol=1e-9, rtol=1e-9)
