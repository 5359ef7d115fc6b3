"""WideResNet against the paper written with functions, against torchvision, by hand, and through its real recipe."""

import dataclasses
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dl.modules.CNN.WideResNet import train
from dl.modules.CNN.WideResNet.convert import from_torchvision
from dl.modules.CNN.WideResNet.model import Block, WideResNet, build
from dl.mytorch import Probe, testing
from dl.mytorch.config import UserError
from dl.mytorch.data import synthetic
from dl.mytorch.introspect import count_parameters, without_values

# ---- sizes ---------------------------------------------------------------------------------------------------------


def parameters_by_hand(depth: int, k: int, num_classes: int = 10) -> int:
    """Table 1, counted: n blocks in each stage; a norm in front of each 3x3, three projections, norm and linear layer."""
    n = (depth - 4) // 6
    widths = [16, 16 * k, 32 * k, 64 * k]
    total = 9 * 3 * 16 + 2 * widths[-1] + widths[-1] * num_classes + num_classes
    for into, out in zip(widths, widths[1:]):
        total += (9 * into * out + 2 * into) + (2 * n - 1) * (9 * out * out + 2 * out) + into * out
    return total


@pytest.mark.parametrize(
    ("preset", "count", "millions"),
    [
        ("wrn_40_2", 2_243_546, 2.2),
        ("wrn_40_4", 8_949_210, 8.9),
        ("wrn_40_8", 35_748_314, 35.7),
        ("wrn_28_10", 36_479_194, 36.5),
        ("wrn_28_12", 52_517_850, 52.5),
        ("wrn_22_8", 17_158_106, 17.2),
        ("wrn_22_10", 26_797_914, 26.8),
        ("wrn_16_4", 2_748_890, None),
        ("wrn_16_8", 10_961_370, 11.0),
        ("wrn_16_10", 17_116_634, 17.1),
    ],
)
def test_networks_have_the_parameters_of_tables_4_and_5(preset: str, count: int, millions: float | None) -> None:
    with without_values():
        model = build(preset)
    depth, k = map(int, preset.split("_")[1:])
    assert count_parameters(model) == count == parameters_by_hand(depth, k)
    assert millions in (None, round(count / 1e6, 1))
    assert sum(isinstance(module, nn.Conv2d) for module in model.modules()) == depth  # the stem, 6n in blocks, 3 projections


@pytest.mark.parametrize(("preset", "count"), [("wide_resnet50_2", 68_883_240), ("wide_resnet101_2", 126_886_696)])
def test_bottlenecks_have_as_many_parameters_as_torchvision_s(preset: str, count: int) -> None:
    with without_values():
        assert count_parameters(build(preset)) == count


@pytest.mark.parametrize("stem", ["small", "imagenet"])
@pytest.mark.parametrize("side", [28, 32])
def test_logits_have_one_row_per_image(stem: str, side: int) -> None:
    model = build("tiny", stem=stem, num_classes=7, in_channels=2)
    assert model(torch.randn(3, 2, side, side)).shape == (3, 7)


@pytest.mark.parametrize(("stem", "divisor"), [("small", 1), ("imagenet", 4)])
def test_stages_have_the_shapes_of_table_1(stem: str, divisor: int) -> None:
    with without_values():
        model = build("wrn_16_8", stem=stem)
        with Probe(model, "stem", *(f"blocks.{i}" for i in range(6))) as probe:
            model(torch.empty(1, 3, 64, 64))
    shapes = [tuple(probe[name].shape[1:3]) for name in ("stem", *(f"blocks.{i}" for i in range(6)))]
    side = 64 // divisor
    assert shapes == [(16, side)] + [(128, side)] * 2 + [(256, side // 2)] * 2 + [(512, side // 4)] * 2


def test_bottlenecks_take_small_images_too() -> None:
    with without_values():
        model = build("wide_resnet50_2", stem="small", num_classes=10)
        with Probe(model, "stem", "blocks.15") as probe:
            assert model(torch.empty(2, 3, 32, 32)).shape == (2, 10)
    assert probe["stem"].shape[2:] == (32, 32) and probe["blocks.15"].shape[2:] == (4, 4)


@pytest.mark.parametrize("depth", [4, 12, 29])
def test_depths_that_are_not_6n_plus_4_are_refused(depth: int) -> None:
    with pytest.raises(ValueError, match=f"depth is 6n \\+ 4 .*, not {depth}"):
        build("tiny", depth=depth)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="preset is one of wrn_28_10, .*, not 'wrn_28'"):
        build("wrn_28")
    with pytest.raises(ValueError, match="stem is one of imagenet, small, not 'large'"):
        build("tiny", stem="large")


# ---- the paper, written with functions -----------------------------------------------------------------------------


class Twin(nn.Module):
    """Table 1, figure 1d and section 3.4 as the authors' code tells them, without a line of model.py.

    It holds copies of a model's weights and of the norms' statistics, in the order in which the model uses them.
    """

    def __init__(self, model: WideResNet, n: int, dropout: float, imagenet: bool) -> None:
        super().__init__()
        self.n, self.dropout, self.imagenet = n, dropout, imagenet
        self.weights = nn.ParameterList(parameter.detach().clone() for parameter in model.parameters())
        for i, buffer in enumerate(buffer for buffer in model.buffers() if buffer.ndim):
            self.register_buffer(f"statistic{i}", buffer.clone())

    def forward(self, images: Tensor) -> Tensor:
        weights, statistics = iter(self.weights), iter(self.buffers())

        def norm_relu(x: Tensor) -> Tensor:
            mean, variance, scale, shift = next(statistics), next(statistics), next(weights), next(weights)
            return F.batch_norm(x, mean, variance, scale, shift, self.training, momentum=0.1, eps=1e-5).clamp(min=0)

        if self.imagenet:
            x = F.max_pool2d(F.conv2d(images, next(weights), stride=2, padding=3), 3, stride=2, padding=1)
        else:
            x = F.conv2d(images, next(weights), padding=1)
        for stage in range(3):
            for i in range(self.n):
                stride = 2 if stage and not i else 1
                activated = norm_relu(x)
                inner = norm_relu(F.conv2d(activated, next(weights), stride=stride, padding=1))
                inner = F.conv2d(F.dropout(inner, self.dropout, self.training), next(weights), padding=1)
                changes = stride == 2 or inner.shape[1] != x.shape[1]
                x = inner + (F.conv2d(activated, next(weights), stride=stride) if changes else x)
        return F.linear(norm_relu(x).mean((2, 3)), next(weights), next(weights))


NETWORKS = [(10, 2, 0.0, "small"), (16, 1, 0.3, "small"), (10, 1, 0.5, "imagenet")]


def twins(depth: int, k: int, dropout: float, stem: str) -> tuple[WideResNet, Twin]:
    model = testing.randomize_norms(WideResNet(depth, k, dropout, num_classes=5, stem=stem))
    return model, Twin(model, (depth - 4) // 6, dropout, stem == "imagenet")


@pytest.mark.parametrize(("depth", "k", "dropout", "stem"), NETWORKS)
@pytest.mark.parametrize(("mode", "height", "width"), [("train", 16, 16), ("eval", 17, 24), ("train", 17, 24)])
def test_network_is_the_paper_s_in_outputs_gradients_and_steps(
    depth: int, k: int, dropout: float, stem: str, mode: str, height: int, width: int
) -> None:
    model, twin = twins(depth, k, dropout, stem)
    testing.assert_same_as(model, twin, torch.randn(3, 3, height, width), train=mode == "train")


@pytest.mark.parametrize(("depth", "k", "dropout", "stem"), [(10, 2, 0.0, "small"), (10, 1, 0.0, "imagenet")])
def test_running_statistics_move_as_the_twin_s(depth: int, k: int, dropout: float, stem: str) -> None:
    model, twin = (network.double() for network in twins(depth, k, dropout, stem))
    images = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    model(images)
    twin(images)
    own = {name: buffer for name, buffer in model.named_buffers() if buffer.ndim}
    for (name, buffer), other in zip(own.items(), twin.buffers(), strict=True):
        torch.testing.assert_close(buffer, other, rtol=0, atol=1e-12, msg=name)


@pytest.mark.parity
@pytest.mark.parametrize(("depth", "k"), [(40, 4), (16, 8), (28, 10)])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_published_network_is_the_paper_s(depth: int, k: int, mode: str) -> None:
    model = testing.randomize_norms(build(f"wrn_{depth}_{k}"))
    twin = Twin(model, (depth - 4) // 6, dropout=0.0, imagenet=False)
    testing.assert_same_as(model, twin, torch.randn(2, 3, 16, 20), train=mode == "train", steps=1)


# ---- torchvision ---------------------------------------------------------------------------------------------------


PUBLISHED = [
    pytest.param(name, mode, marks=pytest.mark.parity)
    for name in ("wide_resnet50_2", "wide_resnet101_2")
    for mode in ("train", "eval")
]


# In evaluation mode the class is compared in ResNeXt's tests, where it belongs.
@pytest.mark.parametrize(("name", "mode"), [("short", "train"), *PUBLISHED])
def test_bottlenecks_are_torchvision_s_in_outputs_gradients_and_steps(torchvision: ModuleType, name: str, mode: str) -> None:
    if name == "short":
        resnet = torchvision.models.resnet
        reference = resnet.ResNet(resnet.Bottleneck, [1, 1, 1, 1], width_per_group=65)
        reference.layer4, reference.fc = nn.Sequential(), nn.Linear(1024, 7)  # most of the weights, and nothing new
    else:
        reference = getattr(torchvision.models, name)(num_classes=7)
    model = from_torchvision(testing.randomize_norms(reference))
    testing.assert_same_as(model, reference, torch.randn(2, 3, 33, 32), train=mode == "train", steps=1)


@pytest.mark.parametrize("name", ["wide_resnet50_2", pytest.param("wide_resnet101_2", marks=pytest.mark.parity)])
def test_torchvision_s_networks_are_converted_to_our_presets(torchvision: ModuleType, name: str) -> None:
    with without_values():
        model, preset = from_torchvision(getattr(torchvision.models, name)()), build(name)
    assert str(model) == str(preset)


@pytest.mark.parametrize(
    ("block", "options"),
    [
        ("BasicBlock", {}),
        ("Bottleneck", {}),
        ("Bottleneck", {"groups": 32, "width_per_group": 4}),
        ("Bottleneck", {"width_per_group": 128, "replace_stride_with_dilation": [False, False, True]}),
    ],
)
def test_networks_of_other_papers_are_refused(torchvision: ModuleType, block: str, options: dict[str, Any]) -> None:
    resnet = torchvision.models.resnet
    with without_values(), pytest.raises(ValueError, match="no network of this paper"):
        from_torchvision(resnet.ResNet(getattr(resnet, block), [1, 1, 1, 2], **options))


# ---- laws ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("into", "stride"), [(6, 1), (3, 1), (6, 2)])
def test_block_whose_last_convolution_is_zero_is_its_shortcut(into: int, stride: int) -> None:
    block = testing.randomize_norms(Block(into, 6, stride, dropout=0.0))
    nn.init.zeros_(block.body.conv2.weight)
    x = torch.randn(2, into, 7, 9)
    expected = x if into == 6 and stride == 1 else block.shortcut(block.preact(x))
    assert torch.equal(block(x), expected)


def test_signal_is_that_of_a_lower_block_and_all_bodies_between() -> None:
    model = testing.randomize_norms(WideResNet(28, 1)).double()  # with k = 1 all of the first stage's shortcuts are identities
    with Probe(model, "stem", "blocks.3", *(f"blocks.{i}.body" for i in range(4))) as probe:
        model(torch.randn(2, 3, 8, 9, dtype=torch.float64))
    bodies = sum(probe[f"blocks.{i}.body"] for i in range(4))
    torch.testing.assert_close(probe["blocks.3"], probe["stem"] + bodies, rtol=0, atol=1e-12)


def test_dropout_is_between_the_convolutions_and_rests_in_evaluation() -> None:
    model = build("tiny", dropout=0.25)
    images = torch.randn(4, 3, 16, 16)
    with Probe(model, "blocks.2.body.act", "blocks.2.body.dropout") as probe:
        model(images)
        before, after = probe["blocks.2.body.act"], probe["blocks.2.body.dropout"]
        kept = after[before > 0] > 0
        assert kept.float().mean().item() == pytest.approx(0.75, abs=0.05)
        torch.testing.assert_close(after[after > 0], before[after > 0] / 0.75)
        model.eval()(images)
        assert torch.equal(probe["blocks.2.body.act"], probe["blocks.2.body.dropout"])
    with pytest.raises(ValueError, match="dropout probability"):
        build("tiny", dropout=1.5)


def test_initialisation_has_the_variance_of_fan_out() -> None:
    model = build("tiny", width=4)
    assert model.blocks[1].body.conv1.weight.std().item() == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.02)
    assert model.blocks[1].shortcut.weight.std().item() == pytest.approx((2 / 128) ** 0.5, rel=0.03)
    assert not model.head.bias.any()


test_standard = testing.standard_checks(
    build,
    train.main,
    train.Config(data="fashion_mnist-sample", model="tiny", epochs=1, batch_size=4, dropout=0.3),
    lambda: synthetic.images(8, channels=3),
    variants=[{"stem": "small", "dropout": 0.3}, {"stem": "imagenet", "dropout": 0.3}],
    prepare=testing.randomize_norms,
    overfit=[testing.Overfit({"in_channels": 1}, lambda: synthetic.images(16, size=8))],
)


# ---- the recipe ----------------------------------------------------------------------------------------------------


def test_networks_with_bottlenecks_are_trained_without_dropout() -> None:
    config = train.Config(data="cifar10", model="wide_resnet50_2")
    with without_values():
        assert train.build_model(config).stem.conv.stride == (1, 1)
        with pytest.raises(UserError, match="--model wide_resnet50_2 has no dropout"):
            train.build_model(dataclasses.replace(config, dropout=0.1))
