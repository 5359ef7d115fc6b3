"""The flow against Jacobians by autograd, its density against an integral, bits against numbers by hand, and its recipe."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dl.modules.Generative.histogram import HistogramBits
from dl.modules.Generative.RealNVP import train
from dl.modules.Generative.RealNVP.model import Coupling, RealNVP, build, inverse_logit, logit
from dl.modules.Generative.RealNVP.task import NegativeLogLikelihood, bits_per_dimension, dequantize
from dl.mytorch import testing
from dl.mytorch.config import UserError
from dl.mytorch.data import Batch, Loader, Splits
from dl.mytorch.introspect import without_values
from dl.mytorch.tasks import StepOutput

CONFIG = train.Config(out="unused", data="fashion_mnist-sample", model="tiny", epochs=1, batch_size=4)


def moved(model: nn.Module) -> nn.Module:
    """Return `model` with changed weights: new, each coupling would be the identity."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def images(count: int = 6, size: int = 8) -> Batch:
    generator = torch.Generator().manual_seed(count)
    return {"images": torch.randint(256, (count, 1, size, size), dtype=torch.uint8, generator=generator)}


def log_det_by_autograd(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return log |det| of the Jacobian of `function` at each of x (B, ...), (B,)."""
    jacobians = [torch.autograd.functional.jacobian(lambda one: function(one[None])[0], example) for example in x]
    return torch.stack([torch.linalg.slogdet(j.reshape(x[0].numel(), -1)).logabsdet for j in jacobians])


# ---- preprocessing and bits ------------------------------------------------------------------------------------------


def test_logit_and_its_term_are_those_of_hand() -> None:
    x = torch.full((1, 1, 1, 1), 100.5 / 256, dtype=torch.float64)
    value, log_derivative = logit(x)
    assert value.item() == pytest.approx(-0.391649, abs=1e-6) and log_derivative.item() == pytest.approx(1.319039, abs=1e-6)
    again, back = inverse_logit(value)
    torch.testing.assert_close(again, x, rtol=0, atol=1e-15)
    assert (back + log_derivative).abs().item() < 1e-14
    assert logit(torch.tensor([[[[0.0, 1.0]]]]))[0].isfinite().all()


def test_bits_count_the_width_of_a_byte() -> None:
    """Without log 256 a normal distribution at its mean would have 1.3257 bits, and uniform images none."""
    normal = torch.tensor([-0.5 * math.log(2 * math.pi)], dtype=torch.float64)
    assert bits_per_dimension(normal, 1).item() == pytest.approx(9.325748, abs=1e-6)
    assert bits_per_dimension(7 * normal, 7).item() == pytest.approx(9.325748, abs=1e-6)  # of seven independent pixels
    assert bits_per_dimension(torch.zeros(2), 12).tolist() == [8, 8] and bits_per_dimension(torch.zeros(1), 12, 32).item() == 5


def test_uniform_data_has_8_bits() -> None:
    class Uniform(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            assert 0 <= images.min() and images.max() < 1
            return images.new_zeros(len(images))

    output = NegativeLogLikelihood().step(Uniform(), images())
    assert output.outputs["bits_per_dimension"].tolist() == [8] * 6
    assert output.loss.item() == pytest.approx(64 * math.log(256)) and output.count == 6


def test_noise_fills_the_gap_of_each_byte_and_no_more() -> None:
    x = torch.tensor([0, 7, 255], dtype=torch.uint8).expand(1000, 3)
    y = dequantize(x) * 256
    assert torch.equal(y.floor(), x.float()) and y.std(0).tolist() == pytest.approx([12**-0.5] * 3, rel=0.1)


def test_histogram_is_the_entropy_of_single_pixels_in_any_split() -> None:
    metric = HistogramBits("images", 256)
    assert math.isnan(metric.compute())
    pixels = torch.tensor([0, 0, 0, 0, 9, 9, 5, 255], dtype=torch.uint8).view(4, 1, 1, 2)
    for part in pixels.split(3):
        metric.update({"images": part})
    assert metric.compute() == pytest.approx(1.75)  # shares 4, 2, 1, 1 of 8
    colour = HistogramBits("images", 256)
    colour.update({"images": torch.cat([pixels, torch.zeros_like(pixels)], dim=1)})
    assert colour.compute() == pytest.approx(1.75 / 2)  # the mean of both channels


# ---- couplings and the flow ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["checkerboard", "channels"])
@pytest.mark.parametrize("swap", [False, True])
def test_a_coupling_keeps_half_and_its_log_determinant_is_that_of_its_jacobian(kind: str, swap: bool) -> None:
    coupling, x = moved(Coupling(4, 5, 1, kind, swap)).double(), torch.randn(2, 4, 2, 2, dtype=torch.float64)
    y, log_det = coupling(x)
    kept = coupling.mask(x).bool().expand_as(x)
    assert kept.float().mean() == 0.5 and bool(kept[0, 0, 0, 0]) != swap
    assert torch.equal(y[kept], x[kept]) and (y != x)[~kept].all()
    torch.testing.assert_close(log_det, log_det_by_autograd(lambda one: coupling(one)[0], x))
    torch.testing.assert_close(log_det, coupling.scale_and_shift(x)[0].flatten(1).sum(1))
    again, back = coupling.inverse(y)
    torch.testing.assert_close(again, x, rtol=0, atol=1e-12)
    torch.testing.assert_close(back, -log_det)


def test_masks_are_those_of_figure_3_and_alternate() -> None:
    x = torch.zeros(1, 4, 2, 3)
    assert Coupling(4, 2, 0, "checkerboard", False).mask(x).tolist() == [[[[1, 0, 1], [0, 1, 0]]]]
    assert Coupling(4, 2, 0, "channels", True).mask(x).flatten().tolist() == [0, 0, 1, 1]
    model = build("tiny")
    for couplings, count in ((model.checkerboards[0], 3), (model.channelwise[0], 3), (model.last, 4)):
        assert [coupling.swap for coupling in couplings] == [i % 2 == 1 for i in range(count)]


@pytest.mark.parametrize(("size", "channels", "scales"), [(8, 1, 2), (4, 3, 1), (3, 2, 0)])
def test_the_inverse_is_exact_and_log_determinants_cancel(size: int, channels: int, scales: int) -> None:
    model = moved(build("tiny", image_size=size, in_channels=channels, scales=scales)).double()
    x = torch.rand(3, channels, size, size, dtype=torch.float64)
    latents, log_det = model.encode(x)
    assert latents.shape == (3, channels * size**2)  # no number is lost
    again, back = model.decode(latents)
    torch.testing.assert_close(again, x, rtol=0, atol=1e-10)
    torch.testing.assert_close(back, -log_det, rtol=0, atol=1e-9)
    z = model.prior(3, torch.Generator().manual_seed(0)).double()
    torch.testing.assert_close(model.encode(model.decode(z)[0])[0], z, rtol=0, atol=1e-10)


def test_log_determinant_of_the_flow_is_that_of_its_jacobian_and_every_number_counts() -> None:
    """With the preprocessing, and with more than two dimensions, each of which moves some latent variable."""
    model = moved(build("tiny", image_size=4, scales=2)).double()
    x = torch.rand(2, 1, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(model.encode(x)[1], log_det_by_autograd(lambda one: model.encode(one)[0], x))
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(model.encode(x)[0]).sum(1)
    torch.testing.assert_close(model(x), normal + model.encode(x)[1])
    single = torch.autograd.functional.jacobian(lambda one: model.encode(one[None])[0][0], x[0]).view(16, 16)
    assert single.abs().sum(0).min() > 0 and single.abs().sum(1).min() > 0


@torch.no_grad()
def test_the_density_of_two_pixels_integrates_to_one() -> None:
    model = moved(build("tiny", scales=0)).double()
    side = torch.linspace(-12, 12, 121, dtype=torch.float64)
    x, log_det = inverse_logit(torch.cartesian_prod(side, side).view(-1, 1, 1, 2))  # an even grid of logits
    assert (model(x) + log_det).exp().sum().item() * 0.2**2 == pytest.approx(1, abs=1e-3)


def test_a_new_flow_is_the_logit() -> None:
    model, x = build("tiny", image_size=8), torch.rand(2, 1, 8, 8)
    latents, log_det = model.encode(x)
    torch.testing.assert_close(latents.sort(1).values, logit(x)[0].flatten(1).sort(1).values)
    torch.testing.assert_close(log_det, logit(x)[1])


def test_paper_s_network_for_32x32_squeezes_once_with_8_blocks_of_64_features() -> None:
    with without_values():
        model = build("cifar10")
    assert isinstance(model, RealNVP) and len(model.checkerboards) == 1 and model.size == 32
    network = model.checkerboards[0][0].network
    assert network.stem.out_channels == 64 and len(network) == 3 + 8
    assert model.channelwise[0][0].network.stem.out_channels == model.last[0].network.stem.out_channels == 128
    with pytest.raises(ValueError, match="30 pixels cannot be halved 2 times"):
        build("small", image_size=30)


@pytest.mark.parity
@pytest.mark.parametrize("kind", ["checkerboard", "channels"])
def test_a_coupling_is_that_of_nflows(kind: str) -> None:
    transforms = pytest.importorskip("nflows.transforms")
    own = moved(Coupling(2, 5, 1, kind, swap=True)).double()
    x = torch.randn(3, 2, 4, 4, dtype=torch.float64)
    kept = own.mask(x).expand(1, 2, 4, 4).flatten().bool()

    class Network(nn.Module):
        """s and t of the numbers that change, from those that do not."""

        def __init__(self, *sizes: int) -> None:
            super().__init__()

        def forward(self, known: Tensor, context: None = None) -> Tensor:
            image = known.new_zeros(len(known), 32)
            image[:, kept] = known
            image = image.view(-1, 2, 4, 4)
            s, t = own.network(torch.cat([image, own.mask(image).expand_as(image)], dim=1)).chunk(2, dim=1)
            return torch.cat([t.flatten(1)[:, ~kept], (own.scale * s.tanh()).flatten(1)[:, ~kept]], dim=1)

    class Affine(transforms.AffineCouplingTransform):
        """With the paper's scale; nflows takes a sigmoid."""

        def _scale_and_shift(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
            shift, scale = parameters.chunk(2, dim=1)
            return scale.exp(), shift

    theirs = Affine(~kept, Network)
    for mine, other in ((own.forward, theirs.forward), (own.inverse, theirs.inverse)):
        (y, log_det), (expected, expected_log_det) = mine(x), other(x.flatten(1))
        torch.testing.assert_close(y.flatten(1), expected, rtol=0, atol=1e-9)
        torch.testing.assert_close(log_det, expected_log_det, rtol=0, atol=1e-9)
        results = [
            torch.autograd.grad(a.square().sum() + b.sum(), list(own.parameters()))
            for a, b in ((y, log_det), (expected, expected_log_det))
        ]
        for left, right in zip(*results):
            torch.testing.assert_close(left, right, rtol=0, atol=1e-9)


# ---- training ------------------------------------------------------------------------------------------------------


def splits(config: train.Config) -> Splits:
    return Splits(*(Loader(images(count, 28), config.batch_size, shuffle=count == 10) for count in (10, 5, 3)))


class Bits(NegativeLogLikelihood):
    """With bits per dimension as the loss."""

    def step(self, model: nn.Module, batch: Batch) -> StepOutput:
        output = super().step(model, batch)
        return output._replace(loss=bits_per_dimension(model(dequantize(batch["images"])), 64).mean())


def two_images() -> Batch:
    return {"images": torch.stack([torch.full((1, 8, 8), 128), torch.full((1, 8, 8), 30)]).byte()}


test_standard = testing.standard_checks(
    build,
    train.main,
    dataclasses.replace(CONFIG, ema=0.9),
    images,
    splits=splits,
    task=NegativeLogLikelihood,
    variants=[{"image_size": 8}, {"image_size": 8, "scales": 2}],
    prepare=moved,
    inputs=lambda: (torch.rand(3, 1, 8, 8),),
    overfit=[testing.Overfit({"image_size": 8}, two_images, Bits, lr=2e-2, below=5.0)],  # a new flow needs 8.8
)


def test_figures_show_samples_and_lines_between_them() -> None:
    shown = NegativeLogLikelihood().report(build("tiny", image_size=8).eval())
    assert shown["samples"].shape == (1, 8 * 17 - 1, 8 * 17 - 1)
    assert shown["interpolations"].shape == (1, 8 * 17 - 1, 10 * 17 - 1)


def test_images_that_the_flow_cannot_halve_are_refused_before_training(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
    config = train.Config(out="unused", data=f"folder:{tmp_path}", image_size=30, model="small")
    with pytest.raises(UserError, match="--model small does not fit .*: images of 30 pixels .* 2 times: multiples of 4 can"):
        train.build_model(config)
    with pytest.raises(ValueError, match="--mixup"):
        dataclasses.replace(CONFIG, mixup=0.2)
