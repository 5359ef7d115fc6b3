"""ConvNeXt against torchvision, by the paper's laws, and through its real recipe."""

from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from dl.modules.CNN.ConvNeXt import train
from dl.modules.CNN.ConvNeXt.convert import from_torchvision
from dl.modules.CNN.ConvNeXt.model import Block, LayerNorm2d, build
from dl.mytorch import Probe, testing
from dl.mytorch.data import synthetic
from dl.mytorch.introspect import count_parameters, without_values


def randomized(model: nn.Module) -> nn.Module:
    """Weights as after training: scales, shifts and layer scales of order 1, so that every layer shows in the output."""
    for name, parameter in model.named_parameters():
        if "layer_scale" in name or (parameter.ndim == 1 and name.endswith("weight")):
            parameter.data.uniform_(0.5, 1.5)
        elif parameter.ndim == 1:
            parameter.data.normal_(0, 0.3)
        else:
            parameter.data.normal_(0, 1 / parameter[0].numel() ** 0.5)
    return model


# ---- sizes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "count"),
    [
        ("convnext_tiny", 28_589_128),
        ("convnext_small", 50_223_688),
        ("convnext_base", 88_591_464),
        ("convnext_large", 197_767_336),
    ],
)
def test_networks_have_as_many_parameters_as_torchvision_s(preset: str, count: int) -> None:
    with without_values():
        assert count_parameters(build(preset)) == count


@pytest.mark.parametrize(("stem", "side"), [("imagenet", 56), ("small", 112)])
def test_the_stem_cuts_patches_and_each_further_stage_halves_the_map(stem: str, side: int) -> None:
    names = ["stem", "stages.0", "stages.1", "stages.2", "stages.3"]
    with without_values():
        model = build(stem=stem)
        with Probe(model, *names) as probe:
            model(torch.empty(2, 3, 224, 224))
    for name, channels, divisor in zip(names, (96, 96, 192, 384, 768), (1, 1, 2, 4, 8), strict=True):
        assert probe[name].shape == (2, channels, side // divisor, side // divisor)


@pytest.mark.parametrize("preset", ["tiny", "small"])
@pytest.mark.parametrize("size", [(28, 28), (32, 37)])
def test_logits_have_one_row_per_image(preset: str, size: tuple[int, int]) -> None:
    assert build(preset, num_classes=7, in_channels=2)(torch.randn(3, 2, *size)).shape == (3, 7)


def test_what_cannot_be_built_is_refused() -> None:
    with pytest.raises(ValueError, match="stem is one of imagenet, small; got 'big'"):
        build("tiny", stem="big")
    with pytest.raises(ValueError, match="one number for each stage"):
        build("tiny", depths=(1, 2, 1))


# ---- torchvision ---------------------------------------------------------------------------------------------------


class LastChannels(nn.Module):
    """torchvision's layer scale (C, 1, 1) from a parameter (C,) like ours."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight[:, None, None]

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight.flatten()


def short(torchvision: ModuleType, **options: Any) -> nn.Module:
    convnext = torchvision.models.convnext
    settings = [convnext.CNBlockConfig(*setting) for setting in [(8, 16, 1), (16, 24, 2), (24, None, 1)]]
    return convnext.ConvNeXt(settings, num_classes=7, **options)


FULL = [pytest.param(name, marks=pytest.mark.parity) for name in ("convnext_tiny", "convnext_small")]


@pytest.mark.parametrize("name", ["short", *FULL])
@pytest.mark.parametrize(("mode", "height", "width"), [("train", 32, 33), ("eval", 47, 40)])
def test_network_is_torchvision_s_in_outputs_gradients_and_steps(
    torchvision: ModuleType, name: str, mode: str, height: int, width: int
) -> None:
    build_theirs = getattr(torchvision.models, name, None)
    reference = build_theirs(num_classes=7) if build_theirs else short(torchvision, stochastic_depth_prob=0.5)
    model = from_torchvision(randomized(reference))
    for block in [module for module in reference.modules() if hasattr(module, "layer_scale")]:
        register_parametrization(block, "layer_scale", LastChannels())
    # In training the same seed drops the same bodies.
    testing.assert_same_as(model, reference, torch.randn(4, 3, height, width), train=mode == "train")
    assert model.head.out_features == 7


@pytest.mark.parametrize("name", ["convnext_tiny", "convnext_small", "convnext_base", "convnext_large"])
def test_torchvision_s_networks_are_converted_to_our_presets(torchvision: ModuleType, name: str) -> None:
    with without_values():
        model, preset = from_torchvision(getattr(torchvision.models, name)()), build(name)
    assert str(model) == str(preset)  # with the probabilities of stochastic depth


def test_networks_of_other_papers_are_refused(torchvision: ModuleType) -> None:
    with pytest.raises(ValueError, match="no network of this paper: .*BasicBlock"):
        from_torchvision(torchvision.models.resnet.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1]))
    with pytest.raises(ValueError, match="no network of this paper: its layer norms are set otherwise"):
        from_torchvision(short(torchvision, norm_layer=torchvision.models.convnext.LayerNorm2d))


# ---- laws ----------------------------------------------------------------------------------------------------------


def test_layer_norm_is_over_the_channels_of_each_pixel() -> None:
    norm = randomized(LayerNorm2d(5, eps=1e-6))
    x = torch.randn(2, 5, 3, 4)
    y = norm(x)
    for image in range(2):
        for row in range(3):
            for column in range(4):
                pixel = x[image, :, row, column]
                expected = (pixel - pixel.mean()) / (pixel.var(correction=0) + 1e-6).sqrt() * norm.weight + norm.bias
                torch.testing.assert_close(y[image, :, row, column], expected)


def test_layer_scale_multiplies_each_channel_of_the_body() -> None:
    block = randomized(Block(8, layer_scale=1.0, drop=0.0))
    x = torch.randn(2, 8, 6, 6)
    body = (block(x) - x).detach()
    factors = torch.linspace(-1, 2, 8)
    with torch.no_grad():
        block.layer_scale.weight.mul_(factors)
    torch.testing.assert_close(block(x) - x, body * factors[:, None, None], rtol=1e-4, atol=1e-5)


def test_blocks_start_close_to_the_identity() -> None:
    block = build("tiny", stochastic_depth=0.0).stages[1].blocks[0].double()
    torch.testing.assert_close(block.layer_scale.weight, torch.full((16,), 1e-6, dtype=torch.float64))
    x = torch.randn(2, 16, 6, 6, dtype=torch.float64)
    assert 0 < (block(x) - x).abs().max() < 1e-6


def test_a_pixel_sees_7_by_7_pixels_and_all_channels_in_a_block() -> None:
    block = randomized(Block(4, layer_scale=1.0, drop=0.0))
    x = torch.randn(1, 4, 15, 15, requires_grad=True)
    block(x)[0, 2, 7, 7].backward()
    seen = x.grad[0] != 0
    expected = torch.zeros(15, 15, dtype=torch.bool)
    expected[4:11, 4:11] = True
    assert torch.equal(seen, expected.expand(4, 15, 15))


def test_a_whole_body_is_dropped_for_some_images_in_training() -> None:
    block = randomized(Block(4, layer_scale=1.0, drop=0.5))
    x = torch.randn(64, 4, 6, 6)
    body = block.eval()(x) - x
    after = block.train()(x)
    dropped = (after == x).flatten(1).all(1)
    assert 10 < dropped.sum() < 54
    torch.testing.assert_close(after[~dropped], (x + 2 * body)[~dropped])


def test_probability_to_be_dropped_grows_from_0_to_that_of_the_last_block() -> None:
    with without_values():
        model = build("convnext_tiny")
    drops = [block.drop.probability for stage in model.stages for block in stage.blocks]
    assert drops == pytest.approx([0.1 * i / 17 for i in range(18)])


def test_weights_start_as_in_the_authors_code() -> None:
    model = build("small")
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and parameter.numel() > 1000:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.1), name
        elif name.endswith("bias"):
            assert not parameter.any(), name


test_standard = testing.standard_checks(
    build,
    train.main,
    train.Config(data="fashion_mnist-sample", model="tiny", epochs=1, batch_size=4),
    lambda: synthetic.images(8, channels=3, size=16),
    prepare=randomized,
    overfit=[testing.Overfit({"in_channels": 1, "stochastic_depth": 0.0}, lambda: synthetic.images(16, size=16), lr=4e-2)],
)
