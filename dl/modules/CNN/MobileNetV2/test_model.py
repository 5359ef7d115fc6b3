"""MobileNetV2 against torchvision, by the paper's laws, and through its real recipe."""

from types import ModuleType

import pytest
import torch
from torch import nn

from dl.modules.CNN.MobileNetV2 import train
from dl.modules.CNN.MobileNetV2.convert import from_torchvision
from dl.modules.CNN.MobileNetV2.model import InvertedResidual, build, round_channels
from dl.modules.CNN.testing import assert_dropout_is_before_the_linear_layer, side_before_pooling
from dl.mytorch import Probe, testing
from dl.mytorch.data import synthetic
from dl.mytorch.introspect import count_parameters, without_values


def randomized(model: nn.Module) -> nn.Module:
    """Norms as after training, so that scales, shifts and running statistics show; large, so that activations pass 6."""
    return testing.randomize_norms(model, scale=(1, 4), shift=0.3)


# ---- sizes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "count"),
    [
        ("mobilenet_v2", 3_504_872),
        ("mobilenet_v2_0.35", 1_677_128),
        ("mobilenet_v2_0.5", 1_968_680),
        ("mobilenet_v2_0.75", 2_636_424),
        ("mobilenet_v2_1.4", 6_108_776),
    ],
)
def test_networks_have_as_many_parameters_as_torchvision_s(preset: str, count: int) -> None:
    with without_values():
        assert count_parameters(build(preset)) == count


def test_maps_have_the_shapes_of_table_2() -> None:
    shapes = {
        "stem": (32, 112), "blocks.0": (16, 112), "blocks.2": (24, 56), "blocks.5": (32, 28), "blocks.9": (64, 14),
        "blocks.12": (96, 14), "blocks.15": (160, 7), "blocks.16": (320, 7), "last": (1280, 7), "pool": (1280, 1),
    }  # fmt: skip
    with without_values():
        model = build()
        with Probe(model, *shapes) as probe:
            model(torch.empty(2, 3, 224, 224))
    for name, (channels, side) in shapes.items():
        assert probe[name].shape == (2, channels, side, side), name


@pytest.mark.parametrize(("stem", "side"), [("imagenet", 1), ("small", 2)])
def test_a_small_stem_keeps_the_side_of_the_image(stem: str, side: int) -> None:
    with without_values():
        model = build(stem=stem)
    assert side_before_pooling(model, 28) == side


def test_an_unknown_stem_is_refused() -> None:
    with pytest.raises(ValueError, match="stem is one of imagenet, small; got 'big'"):
        build("tiny", stem="big")


@pytest.mark.parametrize("preset", ["tiny", "small"])
@pytest.mark.parametrize("size", [(28, 28), (32, 36)])
def test_logits_have_one_row_per_image(preset: str, size: tuple[int, int]) -> None:
    assert build(preset, num_classes=7, in_channels=2)(torch.randn(3, 2, *size)).shape == (3, 7)


def test_channels_are_rounded_as_torchvision_s(torchvision: ModuleType) -> None:
    for channels in torch.arange(0.5, 400, 0.37).tolist():
        assert round_channels(channels) == torchvision.models._utils._make_divisible(channels, 8)


# ---- torchvision ---------------------------------------------------------------------------------------------------

# Few blocks, but each kind: without expansion, with and without stride, with and without a shortcut.
SHORT = [[1, 16, 1, 1], [6, 16, 2, 2], [3, 24, 2, 1]]
FULL = [pytest.param(None, width, marks=pytest.mark.parity) for width in (1.0, 0.35, 0.5, 0.75, 1.4)]


@pytest.mark.parametrize(("stages", "width"), [(SHORT, 1.0), (SHORT, 0.35), *FULL])
@pytest.mark.parametrize(("mode", "height", "width_of_image"), [("train", 32, 33), ("eval", 47, 40)])
def test_network_is_torchvision_s_in_outputs_gradients_and_steps(
    torchvision: ModuleType, stages: list | None, width: float, mode: str, height: int, width_of_image: int
) -> None:
    reference = torchvision.models.mobilenet_v2(width_mult=width, inverted_residual_setting=stages, num_classes=7, dropout=0.3)
    model = from_torchvision(randomized(reference))
    images = torch.randn(3, 3, height, width_of_image)
    testing.assert_same_as(model, reference, images, train=mode == "train")
    assert model.head.out_features == 7


def test_activations_of_the_comparison_reach_6(torchvision: ModuleType) -> None:
    reference = torchvision.models.mobilenet_v2(inverted_residual_setting=SHORT, num_classes=7)
    model = from_torchvision(randomized(reference))
    names = [name for name, module in model.named_modules() if isinstance(module, nn.ReLU6)]
    with Probe(model, *names) as probe:
        model(torch.randn(3, 3, 32, 33))
    assert all(probe[name].max() == 6 and probe[name].min() == 0 for name in names)


def test_running_statistics_move_as_torchvision_s(torchvision: ModuleType) -> None:
    reference = randomized(torchvision.models.mobilenet_v2(inverted_residual_setting=SHORT, num_classes=2))
    model = from_torchvision(reference)
    images = torch.randn(2, 3, 32, 32)
    model(images)
    reference(images)
    for (name, own), other in zip(model.named_buffers(), reference.buffers(), strict=True):
        torch.testing.assert_close(own, other, msg=name)


@pytest.mark.parametrize("width", [1.0, 0.35, 0.5, 0.75, 1.4])
def test_torchvision_s_networks_are_converted_to_our_presets(torchvision: ModuleType, width: float) -> None:
    with without_values():
        model = from_torchvision(torchvision.models.mobilenet_v2(width_mult=width))
        preset = build("mobilenet_v2" if width == 1 else f"mobilenet_v2_{width}")
    assert str(model) == str(preset)


def test_networks_of_other_papers_are_refused(torchvision: ModuleType) -> None:
    models = torchvision.models
    with without_values():
        for other in (models.mobilenet_v3_small(), models.mobilenet_v2(norm_layer=nn.InstanceNorm2d)):
            with pytest.raises(ValueError, match="no network of this paper: .*(Hardswish|InstanceNorm2d)"):
                from_torchvision(other)
        with pytest.raises(ValueError, match="its batch norms are set otherwise"):
            from_torchvision(models.mobilenet_v2(norm_layer=lambda channels: nn.BatchNorm2d(channels, eps=1e-3)))


# ---- laws ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("into", "out", "stride", "expansion"), [(8, 8, 1, 6), (8, 8, 2, 6), (8, 16, 1, 1)])
def test_the_bottleneck_is_linear(into: int, out: int, stride: int, expansion: int) -> None:
    block = randomized(InvertedResidual(into, out, stride, expansion))
    x = torch.randn(4, into, 6, 6)
    norm = block.body.project.norm
    once = block(x) - (x if block.has_shortcut else 0)
    assert once.min() < 0
    with torch.no_grad():
        norm.weight.mul_(-3)
        norm.bias.mul_(-3)
    torch.testing.assert_close(block(x) - (x if block.has_shortcut else 0), -3 * once, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("into", "out", "stride", "there"), [(8, 8, 1, True), (8, 8, 2, False), (8, 16, 1, False)])
def test_a_shortcut_is_where_the_shape_allows_it(into: int, out: int, stride: int, there: bool) -> None:
    block = InvertedResidual(into, out, stride, 6)
    nn.init.zeros_(block.body.project.norm.weight)
    x = torch.randn(2, into, 6, 6)
    y = block(x)
    assert torch.equal(y, x if there else torch.zeros(2, out, 6 // stride, 6 // stride))


def test_every_spatial_convolution_of_the_blocks_is_depthwise() -> None:
    with without_values():
        model = build()
    for module in model.blocks.modules():
        if isinstance(module, nn.Conv2d):
            assert module.groups == (module.in_channels if module.kernel_size == (3, 3) else 1)


def test_weights_start_as_torchvision_s() -> None:
    model = build("mobilenet_v2")
    kernel = model.blocks[15].body.expand.conv.weight  # 160 maps to 960
    assert kernel.std().item() == pytest.approx((2 / 960) ** 0.5, rel=0.02)
    depthwise = model.blocks[15].body.depthwise.conv.weight
    assert depthwise.std().item() == pytest.approx((2 / (9 * 960)) ** 0.5, rel=0.05)
    assert model.head.weight.std().item() == pytest.approx(0.01, rel=0.02) and not model.head.bias.any()


def test_dropout_is_before_the_linear_layer() -> None:
    assert_dropout_is_before_the_linear_layer(build)


test_standard = testing.standard_checks(
    build,
    train.main,
    train.Config(data="fashion_mnist-sample", model="tiny", epochs=1, batch_size=4),
    lambda: synthetic.images(8, channels=3, size=16),
    prepare=randomized,
    overfit=[testing.Overfit({"in_channels": 1, "dropout": 0.0}, lambda: synthetic.images(16, size=16), lr=4e-2)],
)
