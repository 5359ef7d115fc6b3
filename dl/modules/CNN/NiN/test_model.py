"""NiN against functions written by hand, against the sizes of its release, and through its real recipe."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dl.modules.CNN.NiN import train
from dl.modules.CNN.NiN.model import NiN, build, mlpconv
from dl.mytorch import Probe, testing
from dl.mytorch.data import synthetic
from dl.mytorch.introspect import count_parameters, without_values

FOUR_BLOCKS = {
    "widths": ((5, 4, 3), (6, 5, 4), (6, 5, 4), (7, 6)),
    "pools": ("max", "max", "max"),
    "dropouts": (0.0, 0.0, 0.5),
    "kernels": ((11, 4, 0), (5, 1, 2), (3, 1, 1), (3, 1, 1)),
}
VARIANTS = [{}, {"dropouts": (0.5, 0.3)}, FOUR_BLOCKS]


# ---- sizes ---------------------------------------------------------------------------------------------------------


def layer_sizes(preset: str, **overrides: Any) -> list[int]:
    with without_values():
        model = build(preset, **overrides)
    sizes = [count_parameters(layer) for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    assert sum(sizes) == count_parameters(model)  # the convolutions are all there is
    return sizes


def test_cifar10_network_has_966986_parameters() -> None:
    sizes = layer_sizes("cifar10")
    assert sizes[:3] == [5 * 5 * 3 * 192 + 192, 192 * 160 + 160, 160 * 96 + 96]
    assert sizes[3:6] == [5 * 5 * 96 * 192 + 192, 192 * 192 + 192, 192 * 192 + 192]
    assert sizes[6:] == [3 * 3 * 192 * 192 + 192, 192 * 192 + 192, 192 * 10 + 10]
    assert sum(sizes) == 966_986


def test_imagenet_network_has_7595176_parameters() -> None:
    sizes = layer_sizes("imagenet")
    assert sizes[:3] == [11 * 11 * 3 * 96 + 96, 96 * 96 + 96, 96 * 96 + 96]
    assert sizes[3:6] == [5 * 5 * 96 * 256 + 256, 256 * 256 + 256, 256 * 256 + 256]
    assert sizes[6:9] == [3 * 3 * 256 * 384 + 384, 384 * 384 + 384, 384 * 384 + 384]
    assert sizes[9:] == [3 * 3 * 384 * 1024 + 1024, 1024 * 1024 + 1024, 1024 * 1000 + 1000]
    assert sum(sizes) == 7_595_176


@pytest.mark.parametrize(
    ("preset", "side", "sides"), [("cifar10", 32, [16, 8, 8]), ("imagenet", 224, [27, 13, 6, 6]), ("small", 28, [14, 7, 7])]
)
def test_maps_have_the_sides_of_the_release(preset: str, side: int, sides: list[int]) -> None:
    model = build(preset)
    names = [f"blocks.{i}" for i in range(len(sides))]
    with Probe(model, *names) as probe, torch.no_grad():
        model(torch.zeros(1, 1 if preset == "small" else 3, side, side))
    assert [probe[name].shape[2:] for name in names] == [(side, side) for side in sides]


@pytest.mark.parametrize(("variant", "side"), [({}, 28), ({}, 33), (FOUR_BLOCKS, 64), (FOUR_BLOCKS, 99)])
def test_logits_have_one_row_per_image(variant: dict[str, Any], side: int) -> None:
    model = build("tiny", **variant, num_classes=7, in_channels=2)
    assert model(torch.randn(3, 2, side, side + 1)).shape == (3, 7)


def test_imagenet_network_takes_small_images_with_a_small_stem() -> None:
    assert build("imagenet", stem="small")(torch.zeros(2, 3, 28, 28)).shape == (2, 1000)
    with without_values():
        assert str(build("cifar10", stem="small")) == str(build("cifar10"))
        assert str(build("imagenet", stem="imagenet")) == str(build("imagenet"))


# ---- a twin by hand ------------------------------------------------------------------------------------------------


def randomized(model: NiN) -> NiN:
    """Biases as after training, so that they show."""
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, 0.1, 0.1)
    return model


class Twin(nn.Module):
    """The network with functions only; `stride`, `pads`, `pools` and `dropouts` are those of its blocks."""

    def __init__(self, model: NiN, stride: int, pads: list[int], pools: str, dropouts: tuple[float, ...]) -> None:
        super().__init__()
        self.weights = nn.ParameterList(p.detach().clone() for p in model.parameters())
        self.stride, self.pads, self.pools, self.dropouts = stride, pads, pools, dropouts

    def forward(self, x: Tensor) -> Tensor:
        weights = iter(self.weights)
        for block, pad in enumerate(self.pads):
            x = F.conv2d(x, next(weights), next(weights), stride=self.stride if block == 0 else 1, padding=pad).relu()
            for _ in range(2):
                x = torch.einsum("oi,bihw->bohw", next(weights).flatten(1), x) + next(weights)[:, None, None]
                x = x.relu()
            if block < len(self.pools):
                x = F.dropout(self.pool(x, self.pools[block]), self.dropouts[block], self.training)
        return x.mean((2, 3))

    @staticmethod
    def pool(x: Tensor, kind: str) -> Tensor:
        """A last window reaches over the edge of an even side: "m" takes the largest, "a" the mean of what is there."""
        edge = (0, (x.shape[3] - 3) % 2, 0, (x.shape[2] - 3) % 2)
        if kind == "m":
            return F.max_pool2d(F.pad(x, edge, value=-torch.inf), 3, 2)
        return F.avg_pool2d(F.pad(x, edge), 3, 2) / F.avg_pool2d(F.pad(torch.ones_like(x), edge), 3, 2)


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize(
    ("variant", "description", "height", "width"),
    [
        (VARIANTS[0], (1, [2, 2, 1], "ma", (0.0, 0.0)), 12, 13),
        (VARIANTS[1], (1, [2, 2, 1], "ma", (0.5, 0.3)), 17, 11),
        (VARIANTS[2], (4, [0, 2, 1, 1], "mmm", (0.0, 0.0, 0.5)), 79, 64),
    ],
)
def test_network_is_the_twin_by_hand(mode: str, variant: dict, description: tuple, height: int, width: int) -> None:
    model = randomized(build("tiny", num_classes=4, **variant))
    testing.assert_same_as(model, Twin(model, *description), torch.randn(2, 3, height, width), train=mode == "train")


@pytest.mark.parity
@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize(
    ("preset", "description", "height", "width"),
    [
        ("cifar10", (1, [2, 2, 1], "ma", (0.5, 0.5)), 32, 33),
        ("imagenet", (4, [0, 2, 1, 1], "mmm", (0.0, 0.0, 0.5)), 96, 80),
    ],
)
def test_released_network_is_the_twin_by_hand(mode: str, preset: str, description: tuple, height: int, width: int) -> None:
    model = randomized(build(preset))
    testing.assert_same_as(model, Twin(model, *description), torch.randn(2, 3, height, width), train=mode == "train")


# ---- laws ----------------------------------------------------------------------------------------------------------


def test_a_block_is_a_perceptron_of_three_layers_on_each_patch() -> None:
    block = mlpconv(2, (5, 4, 3), kernel_size=3, stride=1, padding=0)
    images = torch.randn(2, 2, 6, 7)
    maps = block(images)
    for row in range(4):
        for column in range(5):
            x = images[:, :, row : row + 3, column : column + 3].flatten(1)
            for conv in (block.conv1, block.conv2, block.conv3):
                x = F.linear(x, conv.weight.flatten(1), conv.bias).relu()
            torch.testing.assert_close(maps[:, :, row, column], x)


def test_logits_are_the_means_of_the_last_maps() -> None:
    model = build("tiny", num_classes=3)
    with Probe(model, "blocks.2") as probe:
        logits = model(torch.randn(2, 3, 12, 17))
    maps = probe["blocks.2"]
    assert maps.shape == (2, 3, 3, 4)
    for i in range(2):
        for k in range(3):
            assert logits[i, k].item() == pytest.approx(sum(maps[i, k].flatten().tolist()) / 12, abs=1e-6)


def test_dropout_follows_the_pools_that_the_presets_say() -> None:
    for preset, rates in {"cifar10": [0.5, 0.5], "imagenet": [0.0, 0.0, 0.5]}.items():
        with without_values():
            layers = build(preset).modules()
        assert [layer.p for layer in layers if isinstance(layer, nn.Dropout)] == rates


def test_initialisation_has_the_variance_of_fan_in() -> None:
    model = build("cifar10")
    assert model.blocks[1].conv1.weight.std().item() == pytest.approx((2 / (25 * 96)) ** 0.5, rel=0.02)
    assert model.blocks[2].conv2.weight.std().item() == pytest.approx((2 / 192) ** 0.5, rel=0.02)
    biases = {name: p for name, p in model.named_parameters() if name.endswith("bias")}
    assert torch.equal(biases.pop("blocks.2.conv3.bias"), torch.ones(10))
    assert not any(bias.any() for bias in biases.values())


def test_biases_of_1_leave_hardly_a_class_without_a_gradient() -> None:
    images, dead = torch.randn(8, 3, 16, 16), {0.0: 0, 1.0: 0}
    for _ in range(20):
        model = build("tiny")
        for bias in (1.0, 0.0):
            assert bias == 0 or model.blocks[-1].conv3.bias.eq(bias).all()
            nn.init.constant_(model.blocks[-1].conv3.bias, bias)
            dead[bias] += (model(images) == 0).all(0).sum().item()
    assert 2 * dead[1.0] < dead[0.0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"stem": "large"},
        {"pools": ("max", "min")},
        {"pools": ("max",)},
        {"dropouts": (0.0,)},
        {"widths": ((4, 4),)},
        {"kernels": ((3, 1, 1),)},
    ],
)
def test_what_is_no_network_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="pool"):
        build("tiny", **wrong)


test_standard = testing.standard_checks(
    build,
    train.main,
    train.Config(data="fashion_mnist-sample", model="tiny", epochs=1, batch_size=4),
    lambda: synthetic.images(16, channels=3, size=64),
    variants=VARIANTS,
    overfit=[testing.Overfit({"in_channels": 1}, lambda: synthetic.images(16, size=16), lr=5e-3)],
)
