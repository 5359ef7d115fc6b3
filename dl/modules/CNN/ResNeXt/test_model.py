"""ResNeXt against torchvision, against figure 3 of the paper, by hand, and through its real recipe."""

from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dl.modules.CNN.ResNeXt import train
from dl.modules.CNN.ResNeXt.convert import from_torchvision
from dl.modules.CNN.ResNeXt.model import Block, build
from dl.mytorch import Probe, testing
from dl.mytorch.data import synthetic
from dl.mytorch.introspect import count_parameters, without_values

# ---- sizes ---------------------------------------------------------------------------------------------------------


def parameters_by_hand(
    depths: tuple[int, ...], cardinality: int, group_width: int, first_kernel: int = 49, num_classes: int = 1000
) -> int:
    """Table 1, counted: kernels, a scale and a shift for each output channel of a convolution, the linear layer."""
    total = 3 * first_kernel * 64 + 2 * 64
    into = 64
    for stage, depth in enumerate(depths):
        d, out = group_width * 2**stage, 256 * 2**stage
        inner = cardinality * d
        for block in range(depth):
            total += into * inner + cardinality * 9 * d * d + inner * out + 2 * (inner + inner + out)
            if block == 0:
                total += into * out + 2 * out
            into = out
    return total + into * num_classes + num_classes


@pytest.mark.parametrize(
    ("preset", "count", "sizes"),
    [
        ("resnext50_32x4d", 25_028_904, ((3, 4, 6, 3), 32, 4)),
        ("resnext101_32x4d", 44_177_704, ((3, 4, 23, 3), 32, 4)),
        ("resnext101_32x8d", 88_791_336, ((3, 4, 23, 3), 32, 8)),
        ("resnext101_64x4d", 83_455_272, ((3, 4, 23, 3), 64, 4)),
        ("resnext29_8x64d", 34_426_698, ((3, 3, 3), 8, 64, 9, 10)),  # table 7: 34.4 million
        ("resnext29_16x64d", 68_155_210, ((3, 3, 3), 16, 64, 9, 10)),  # table 7: 68.1 million
    ],
)
def test_networks_have_the_parameters_of_torchvision_and_of_table_7(preset: str, count: int, sizes: tuple) -> None:
    with without_values():
        assert count_parameters(build(preset)) == count == parameters_by_hand(*sizes)


@pytest.mark.parametrize("stem", ["small", "imagenet"])
@pytest.mark.parametrize("side", [28, 32])
def test_logits_have_one_row_per_image(stem: str, side: int) -> None:
    model = build("tiny", stem=stem, num_classes=7, in_channels=2)
    assert model(torch.randn(3, 2, side, side)).shape == (3, 7)


@pytest.mark.parametrize(("preset", "stages"), [("resnext50_32x4d", 4), ("resnext29_8x64d", 3)])
@pytest.mark.parametrize(("stem", "divisor"), [("small", 1), ("imagenet", 4)])
def test_each_stage_but_the_first_halves_the_map(preset: str, stages: int, stem: str, divisor: int) -> None:
    with without_values():
        model = build(preset, stem=stem, depths=(2,) * stages)
        with Probe(model, *(f"blocks.{i}" for i in range(2 * stages))) as probe:
            model(torch.empty(1, 3, 64, 64))
    shapes = [tuple(probe[f"blocks.{i}"].shape[1:3]) for i in range(2 * stages)]
    assert shapes == [(256 * 2 ** (i // 2), 64 // divisor // 2 ** (i // 2)) for i in range(2 * stages)]


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="preset is one of resnext50_32x4d, .*, not 'resnext51'"):
        build("resnext51")
    with pytest.raises(ValueError, match="stem is one of imagenet, small, not 'large'"):
        build("tiny", stem="large")


# ---- figure 3 ------------------------------------------------------------------------------------------------------


def path(block: Block, x: Tensor, number: int, cardinality: int) -> tuple[Tensor, Tensor]:
    """One path of figure 3a alone, cut from the block's weights: its inner map, and the sum's term that it contributes."""
    body, training = block.body, block.training
    width = body.conv2.out_channels // cardinality
    own = slice(number * width, (number + 1) * width)

    def norm_relu(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
        statistics = norm.running_mean[own], norm.running_var[own], norm.weight[own], norm.bias[own]
        return F.batch_norm(x, *statistics, training=training, momentum=0).relu()

    x = norm_relu(F.conv2d(x, body.conv1.weight[own]), body.norm1)  # in -> d
    x = norm_relu(F.conv2d(x, body.conv2.weight[own], stride=body.conv2.stride, padding=1), body.norm2)  # d -> d
    return x, F.conv2d(x, body.conv3.weight[:, own])  # d -> out


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("cardinality", "stride"), [(1, 1), (4, 1), (4, 2), (6, 2)])
def test_the_three_forms_of_figure_3_are_equal(cardinality: int, stride: int, training: bool) -> None:
    block = testing.randomize_norms(Block(5, 12, 8, stride, cardinality)).double().train(training)
    x = torch.randn(3, 5, 6, 7, dtype=torch.float64)
    inner, terms = zip(*(path(block, x, number, cardinality) for number in range(cardinality)))
    separate = sum(terms)  # a: each path ends in its own 1x1, and the results are added
    joined = F.conv2d(torch.cat(inner, dim=1), block.body.conv3.weight)  # b: the paths are joined, then one 1x1
    shortcut = block.shortcut(x)
    for aggregated in (separate, joined):
        expected = (block.body.norm3(aggregated) + shortcut).relu()
        torch.testing.assert_close(block(x), expected, rtol=0, atol=1e-12)


def test_the_inside_of_a_path_depends_on_its_own_kernels_only() -> None:
    block = Block(8, 8, 8, stride=1, cardinality=4).double().eval()
    x = torch.randn(1, 8, 5, 5, dtype=torch.float64)
    before = block.body[:6](x)
    with torch.no_grad():
        block.body.conv1.weight[2:4] += 1  # path 1 of 4
    changed = (block.body[:6](x) - before).abs().amax((0, 2, 3)) > 0
    assert changed.tolist() == [False] * 2 + [True] * 2 + [False] * 4


# ---- torchvision ---------------------------------------------------------------------------------------------------


def short(torchvision: ModuleType, depths: list[int], **options: int) -> nn.Module:
    """torchvision's class with fewer blocks and no fourth stage, which is the third once more but holds most of the weights."""
    resnet = torchvision.models.resnet
    reference = resnet.ResNet(resnet.Bottleneck, [*depths, 1], **options)
    reference.layer4, reference.fc = nn.Sequential(), nn.Linear(1024, 7)
    return testing.randomize_norms(reference)


NAMES = ("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d")
PUBLISHED = [pytest.param(name, marks=pytest.mark.parity) for name in NAMES]


@pytest.mark.parametrize("name", ["short", *PUBLISHED])
@pytest.mark.parametrize(("mode", "height", "width"), [("train", 32, 33), ("eval", 64, 32)])
def test_network_is_torchvision_s_in_outputs_gradients_and_steps(
    torchvision: ModuleType, name: str, mode: str, height: int, width: int
) -> None:
    if name == "short":
        reference = short(torchvision, [1, 2, 1], groups=4, width_per_group=2)
    else:
        reference = testing.randomize_norms(getattr(torchvision.models, name)(num_classes=7))
    model = from_torchvision(reference)
    steps = 3 if mode == "train" and name == "short" else 1
    testing.assert_same_as(model, reference, torch.randn(2, 3, height, width), train=mode == "train", steps=steps)


def test_running_statistics_move_as_torchvision_s(torchvision: ModuleType) -> None:
    reference = short(torchvision, [1, 1, 1], groups=2, width_per_group=4)
    model = from_torchvision(reference)
    images = torch.randn(2, 3, 32, 32)
    model(images)
    reference(images)
    for (name, own), other in zip(model.named_buffers(), reference.buffers(), strict=True):
        torch.testing.assert_close(own, other, msg=name)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_small_network_is_torchvision_s_with_another_stem_and_three_stages(torchvision: ModuleType, mode: str) -> None:
    reference = short(torchvision, [1, 1, 1], groups=4, width_per_group=2)
    reference.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    reference.maxpool = nn.Identity()
    model = build("resnext29_8x64d", depths=(1, 1, 1), cardinality=4, group_width=2, num_classes=7)
    model.load_state_dict(dict(zip(model.state_dict(), reference.state_dict().values(), strict=True)))
    testing.assert_same_as(model, reference, torch.randn(2, 3, 12, 17), train=mode == "train")


@pytest.mark.parametrize("name", ["resnext50_32x4d", "resnext101_64x4d"])
def test_torchvision_s_networks_are_converted_to_our_presets(torchvision: ModuleType, name: str) -> None:
    with without_values():
        model, preset = from_torchvision(getattr(torchvision.models, name)()), build(name)
    assert str(model) == str(preset)


@pytest.mark.parametrize(
    ("block", "options"),
    [
        ("BasicBlock", {}),
        ("Bottleneck", {}),
        ("Bottleneck", {"width_per_group": 128}),
        ("Bottleneck", {"groups": 32, "width_per_group": 4, "replace_stride_with_dilation": [False, False, True]}),
    ],
)
def test_networks_of_other_papers_are_refused(torchvision: ModuleType, block: str, options: dict[str, Any]) -> None:
    resnet = torchvision.models.resnet
    with without_values(), pytest.raises(ValueError, match="no network of this paper"):
        from_torchvision(resnet.ResNet(getattr(resnet, block), [1, 1, 1, 2], **options))


# ---- laws ----------------------------------------------------------------------------------------------------------


def test_initialisation_has_the_variance_of_fan_out() -> None:
    model = build("resnext29_8x64d", depths=(1, 1), width=16, group_width=16, stem="small")
    grouped = model.blocks[1].body.conv2.weight  # 256 maps to 256, in 8 groups of 32
    assert grouped.std().item() == pytest.approx((2 / (9 * 256)) ** 0.5, rel=0.02)
    growing = model.blocks[1].body.conv1.weight  # 64 maps to 256
    assert growing.std().item() == pytest.approx((2 / 256) ** 0.5, rel=0.02)
    assert not model.head.bias.any()


test_standard = testing.standard_checks(
    build,
    train.main,
    train.Config(data="fashion_mnist-sample", model="tiny", epochs=1, batch_size=4),
    lambda: synthetic.images(8, channels=3),
    variants=[{"stem": "small"}, {"stem": "imagenet"}],
    prepare=testing.randomize_norms,
    overfit=[testing.Overfit({"in_channels": 1}, lambda: synthetic.images(16, size=8), lr=4e-2)],
)
