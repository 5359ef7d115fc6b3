"""Both networks against plain stacks of torch's layers, with the counts of the paper's figure and of PyTorch's tutorial."""

from typing import Sequence

import pytest
import torch
from torch import nn

from dl.modules.Generative.DCGAN import train
from dl.modules.Generative.DCGAN.model import PRESETS, build
from dl.modules.Generative.DCGAN.task import Adversarial, PixelFrechetDistance
from dl.mytorch import testing
from dl.mytorch.data import synthetic
from dl.mytorch.introspect import count_parameters, without_values


def test_tutorial_has_the_parameters_that_it_is_known_for() -> None:
    with without_values():
        model = build("tutorial")
    assert count_parameters(model.generator) == 3_576_704
    assert count_parameters(model.discriminator) == 2_765_568


def test_lsun_has_the_parameters_of_figure_1() -> None:
    with without_values():
        model = build("lsun")
    # Kernels of 5x5 between 1024, 512, 256, 128 and 3 maps; two numbers for a map in a batch norm; 4x4 at both ends.
    kernels = [512 * 1024 * 25, 256 * 512 * 25, 128 * 256 * 25, 3 * 128 * 25]
    norms = [2 * 512, 2 * 256, 2 * 128]
    assert count_parameters(model.generator) == 100 * 1024 * 16 + 2 * 1024 + sum(kernels) + sum(norms) == 18_855_040
    assert count_parameters(model.discriminator) == 1024 * 16 + 2 * 1024 + sum(kernels) + sum(norms[:2]) == 17_232_768


def twins(f: int, kernel: dict[str, int]) -> tuple[nn.Module, nn.Module]:
    """Figure 1 for 64x64 as stacks, f maps at the widest resolution."""

    def up(wide: int, narrow: int) -> Sequence[nn.Module]:
        return [nn.ConvTranspose2d(wide, narrow, **kernel, bias=False), nn.BatchNorm2d(narrow), nn.ReLU()]

    def down(narrow: int, wide: int) -> Sequence[nn.Module]:
        own = {name: value for name, value in kernel.items() if name != "output_padding"}
        return [nn.Conv2d(narrow, wide, **own, bias=False), nn.BatchNorm2d(wide), nn.LeakyReLU(0.2)]

    first = [nn.Unflatten(1, (-1, 1, 1)), nn.ConvTranspose2d(6, 8 * f, 4, 1, 0, bias=False), nn.BatchNorm2d(8 * f), nn.ReLU()]
    last = [nn.ConvTranspose2d(f, 3, **kernel, bias=False), nn.Tanh()]
    generator = nn.Sequential(*first, *up(8 * f, 4 * f), *up(4 * f, 2 * f), *up(2 * f, f), *last)
    into, _, leak = down(3, f)
    head = [nn.Conv2d(8 * f, 1, 4, 1, 0, bias=False), nn.Flatten(0)]
    return generator, nn.Sequential(into, leak, *down(f, 2 * f), *down(2 * f, 4 * f), *down(4 * f, 8 * f), *head)


@pytest.mark.parametrize("preset", ["lsun", "tutorial"])
def test_networks_equal_plain_stacks(preset: str) -> None:
    kernel = {"kernel_size": 4, "stride": 2, "padding": 1}
    if preset == "lsun":
        kernel = {"kernel_size": 5, "stride": 2, "padding": 2, "output_padding": 1}
    model = build(preset, latent=6, widths=(16, 8, 4, 2))
    testing.randomize_norms(model)
    inputs = (torch.randn(3, 6), torch.randn(3, 3, 64, 64))
    for own, twin, x in zip((model.generator, model.discriminator), twins(2, kernel), inputs):
        twin.load_state_dict(dict(zip(twin.state_dict(), own.state_dict().values(), strict=True)))
        testing.assert_same_as(own, twin, x, train=True, steps=2)


def test_weights_begin_as_the_paper_says() -> None:
    model = build("small", widths=(128, 64))
    convolutions = [m.weight for m in model.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))]
    assert len(convolutions) == 6
    for weight in convolutions:
        count = weight.numel()
        assert weight.std().item() == pytest.approx(0.02, rel=4 / count**0.5) and abs(weight.mean()) < 0.1 / count**0.5
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    scales = torch.cat([norm.weight for norm in norms])
    assert scales.mean().item() == pytest.approx(1, abs=0.005) and scales.std().item() == pytest.approx(0.02, rel=0.2)
    assert not any(norm.bias.any() for norm in norms)


@pytest.mark.parametrize(("size", "channels"), [(28, 1), (32, 3)])
def test_images_and_logits_have_their_shapes(size: int, channels: int) -> None:
    model = build("small", image_size=size, channels=channels)
    images, logits = model(model.prior(3))
    assert images.shape == (3, channels, size, size) and logits.shape == (3,)
    noise = model.prior(5000)
    assert images.abs().max() <= 1 and noise.abs().max() <= 1 and noise.std().item() == pytest.approx(3**-0.5, abs=0.01)
    with pytest.raises(ValueError, match="30 pixels cannot be halved 2 times"):
        build("small", image_size=30)


def test_every_preset_is_built() -> None:
    with without_values():
        for preset in PRESETS:
            model = build(preset)
            images, logits = model(torch.zeros(2, model.latent))
            assert images.shape[-1] in (28, 64) and logits.shape == (2,)


@pytest.fixture(autouse=True)
def _few_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Distances of 784 numbers would take most of a run's time."""
    monkeypatch.setattr(PixelFrechetDistance, "most", 50)


test_standard = testing.standard_checks(
    build,
    train.main,
    train.Config(data="fashion_mnist-sample", model="tiny", steps=3, eval_every=3, batch_size=4, ema=0.9, precision="fp32"),
    lambda: synthetic.images(8),
    task=lambda: Adversarial(10),
    inputs=lambda: (build("tiny").prior(3),),
    skip={"overfits_one_batch": "of two players none has a loss that goes to 0"},
)
