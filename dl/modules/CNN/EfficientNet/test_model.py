"""EfficientNet against torchvision, by the paper's laws, and through its real recipe."""

from functools import partial
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from dl.modules.CNN.EfficientNet import train
from dl.modules.CNN.EfficientNet.convert import from_torchvision
from dl.modules.CNN.EfficientNet.model import PRESETS, MBConv, build
from dl.modules.CNN.testing import assert_dropout_is_before_the_linear_layer, side_before_pooling
from dl.mytorch import Probe, testing
from dl.mytorch.data import synthetic
from dl.mytorch.introspect import count_parameters, without_values


def randomized(model: nn.Module) -> nn.Module:
    """Norms as after training, so that their scales, shifts and running statistics show in the output."""
    return testing.randomize_norms(model, shift=0.3)


# ---- sizes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "count"),
    [
        ("efficientnet_b0", 5_288_548),
        ("efficientnet_b1", 7_794_184),
        ("efficientnet_b2", 9_109_994),
        ("efficientnet_b3", 12_233_232),
        ("efficientnet_b4", 19_341_616),
        ("efficientnet_b5", 30_389_784),
        ("efficientnet_b6", 43_040_704),
        ("efficientnet_b7", 66_347_960),
    ],
)
def test_networks_have_as_many_parameters_as_torchvision_s(preset: str, count: int) -> None:
    with without_values():
        assert count_parameters(build(preset)) == count


def test_maps_have_the_shapes_of_table_1() -> None:
    shapes = {
        "stem": (32, 112), "blocks.0": (16, 112), "blocks.2": (24, 56), "blocks.4": (40, 28), "blocks.7": (80, 14),
        "blocks.10": (112, 14), "blocks.14": (192, 7), "blocks.15": (320, 7), "last": (1280, 7), "pool": (1280, 1),
    }  # fmt: skip
    with without_values():
        model = build()
        with Probe(model, *shapes) as probe:
            model(torch.empty(2, 3, 224, 224))
    for name, (channels, side) in shapes.items():
        assert probe[name].shape == (2, channels, side, side), name


@pytest.mark.parametrize(("preset", "blocks"), [("b1", (2, 3, 3, 4, 4, 5, 2)), ("b7", (4, 7, 7, 10, 10, 13, 4))])
def test_scaling_multiplies_the_blocks_and_rounds_up(preset: str, blocks: tuple[int, ...]) -> None:
    assert tuple(depth for *_, depth in PRESETS[f"efficientnet_{preset}"]["stages"]) == blocks


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


# ---- torchvision ---------------------------------------------------------------------------------------------------


def short(torchvision: ModuleType, **options: Any) -> nn.Module:
    """torchvision's class with few blocks, but of each kind: without expansion, with and without stride and shortcut."""
    efficientnet = torchvision.models.efficientnet
    settings = [(1, 3, 1, 16, 8, 1), (6, 5, 2, 8, 16, 2), (4, 3, 1, 16, 24, 1)]
    stages = [efficientnet.MBConvConfig(*setting) for setting in settings]
    return efficientnet.EfficientNet(stages, num_classes=7, **{"dropout": 0.3, **options})


NORM = {"norm_layer": partial(nn.BatchNorm2d, eps=1e-3, momentum=0.01)}
FULL = [pytest.param(name, {}, marks=pytest.mark.parity) for name in ("efficientnet_b0", "efficientnet_b2", "efficientnet_b5")]


@pytest.mark.parametrize(("name", "options"), [("short", {"stochastic_depth_prob": 0.9}), ("short", NORM), *FULL])
@pytest.mark.parametrize(("mode", "height", "width"), [("train", 32, 33), ("eval", 47, 40)])
def test_network_is_torchvision_s_in_outputs_gradients_and_steps(
    torchvision: ModuleType, name: str, options: dict[str, Any], mode: str, height: int, width: int
) -> None:
    build_theirs = getattr(torchvision.models, name, None)
    reference = build_theirs(num_classes=7) if build_theirs else short(torchvision, **options)
    model = from_torchvision(randomized(reference))
    # In training the same seed drops the same bodies and units.
    testing.assert_same_as(model, reference, torch.randn(4, 3, height, width), train=mode == "train")
    assert model.head.out_features == 7


def test_running_statistics_move_as_torchvision_s(torchvision: ModuleType) -> None:
    for options in ({}, NORM):
        reference = randomized(short(torchvision, stochastic_depth_prob=0.0, **options))
        model = from_torchvision(reference)
        images = torch.randn(2, 3, 32, 32)
        model(images)
        reference(images)
        for (name, own), other in zip(model.named_buffers(), reference.buffers(), strict=True):
            torch.testing.assert_close(own, other, msg=name)


LARGE = [pytest.param(f"efficientnet_b{i}", marks=pytest.mark.parity) for i in (1, 3, 4, 6, 7)]


@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnet_b2", "efficientnet_b5", *LARGE])
def test_torchvision_s_networks_are_converted_to_our_presets(torchvision: ModuleType, name: str) -> None:
    with without_values():
        model, preset = from_torchvision(getattr(torchvision.models, name)()), build(name)
    assert str(model) == str(preset)  # with the settings of norms, dropout and stochastic depth


def test_networks_of_other_papers_are_refused(torchvision: ModuleType) -> None:
    with without_values():
        for other in (torchvision.models.efficientnet_v2_s(), torchvision.models.mobilenet_v2()):
            with pytest.raises(ValueError, match="no network of this paper: .*(FusedMBConv|InvertedResidual)"):
                from_torchvision(other)


# ---- laws ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("into", "out", "stride", "there"), [(8, 8, 1, True), (8, 8, 2, False), (8, 16, 1, False)])
def test_a_shortcut_is_where_the_shape_allows_it(into: int, out: int, stride: int, there: bool) -> None:
    block = MBConv(into, out, 5, stride, 6, drop=0.5)
    nn.init.zeros_(block.body.project.norm.weight)
    x = torch.randn(2, into, 6, 6)
    assert torch.equal(block(x), x if there else torch.zeros(2, out, 6 // stride, 6 // stride))


@pytest.mark.parametrize(("stride", "there"), [(1, True), (2, False)])
def test_a_body_is_dropped_only_where_a_shortcut_replaces_it(stride: int, there: bool) -> None:
    block = MBConv(8, 8, 3, stride, 6, drop=0.5)
    x = torch.randn(32, 8, 6, 6)
    with Probe(block, "body", "drop") as probe:
        block(x)
    dropped = (probe["drop"] == 0).flatten(1).all(1)
    assert (0 < dropped.sum() < 32) == there and (there or torch.equal(probe["drop"], probe["body"]))


def test_probability_to_be_dropped_grows_in_proportion_to_the_depth() -> None:
    with without_values():
        model = build()
    for i in (2, 4, 6, 7, 9, 10, 12, 13, 14):  # the blocks with a shortcut, of 16
        assert model.blocks[i].drop.probability == pytest.approx(0.2 * i / 16)


def test_squeezed_is_a_quarter_of_the_input_not_of_the_expanded_channels() -> None:
    block = MBConv(16, 24, 3, 1, 6, drop=0.0)
    assert block.body.se.fc1.weight.shape == (4, 96, 1, 1) and block.body.se.fc2.weight.shape == (96, 4, 1, 1)
    assert MBConv(2, 8, 3, 1, 6, drop=0.0).body.se.fc1.out_channels == 1


def test_weights_start_as_torchvision_s() -> None:
    model = build(num_classes=100)
    kernel = model.blocks[13].body.expand.conv.weight  # 192 maps to 1152
    assert kernel.std().item() == pytest.approx((2 / 1152) ** 0.5, rel=0.02)
    assert model.blocks[13].body.se.fc2.weight.std().item() == pytest.approx((2 / 1152) ** 0.5, rel=0.02)
    assert model.head.weight.abs().max().item() == pytest.approx(0.1, rel=0.01)
    assert model.head.weight.std().item() == pytest.approx(0.1 / 3**0.5, rel=0.02)
    assert not any(bias.any() for name, bias in model.named_parameters() if name.endswith("bias"))


def test_dropout_is_before_the_linear_layer() -> None:
    assert_dropout_is_before_the_linear_layer(build)


WITHOUT_DROPOUT = {"in_channels": 1, "dropout": 0.0, "stochastic_depth": 0.0}
test_standard = testing.standard_checks(
    build,
    train.main,
    train.Config(data="fashion_mnist-sample", model="tiny", epochs=1, batch_size=4),
    lambda: synthetic.images(8, channels=3, size=16),
    prepare=randomized,
    overfit=[testing.Overfit(WITHOUT_DROPOUT, lambda: synthetic.images(16, size=16), lr=4e-2)],
)
