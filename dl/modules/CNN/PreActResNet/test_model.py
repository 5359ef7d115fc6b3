"""PreActResNet against the paper written with functions, against its equations, by hand, and through its real recipe."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dl.modules.CNN.PreActResNet import train
from dl.modules.CNN.PreActResNet.model import Block, PreActResNet, build
from dl.mytorch import Probe, testing
from dl.mytorch.data import synthetic
from dl.mytorch.introspect import count_parameters, without_values

VARIANTS = [
    {},
    {"shortcut": "A"},
    {"kind": "bottleneck", "width": 4},
    {"kind": "bottleneck", "width": 4, "stem": "imagenet"},
]

# ---- sizes ---------------------------------------------------------------------------------------------------------


def parameters_by_hand(
    kind: str, depths: tuple[int, ...], width: int, first_kernel: int, num_classes: int, option_b: bool
) -> int:
    """Kernels with a norm in front of each, projections without one, the stem before the first, norm and head at the end."""
    total, into = first_kernel * 3 * width, width
    for stage, depth in enumerate(depths):
        w = width * 2**stage
        for _ in range(depth):
            if kind == "basic":
                out, kernels = w, [(9, into, w), (9, w, w)]
            else:
                out, kernels = 4 * w, [(1, into, w), (9, w, w), (1, w, 4 * w)]
            total += sum(area * a * b + 2 * a for area, a, b in kernels)
            if into != out and option_b:
                total += into * out
            into = out
    return total + 2 * into + into * num_classes + num_classes


IMAGENET = {"width": 64, "first_kernel": 49, "num_classes": 1000, "option_b": True}
CIFAR = {"width": 16, "first_kernel": 9, "num_classes": 10}


@pytest.mark.parametrize(
    ("layers", "count", "millions", "sizes"),
    [
        (110, 1_727_962, 1.7, {"kind": "basic", "depths": (18, 18, 18), **CIFAR, "option_b": False}),
        (164, 1_703_258, 1.7, {"kind": "bottleneck", "depths": (18, 18, 18), **CIFAR, "option_b": True}),
        (1001, 10_327_706, 10.2, {"kind": "bottleneck", "depths": (111, 111, 111), **CIFAR, "option_b": True}),
        (18, 11_687_720, None, {"kind": "basic", "depths": (2, 2, 2, 2), **IMAGENET}),
        (50, 25_549_352, None, {"kind": "bottleneck", "depths": (3, 4, 6, 3), **IMAGENET}),
        (152, 60_185_128, None, {"kind": "bottleneck", "depths": (3, 8, 36, 3), **IMAGENET}),
        (200, 64_666_152, None, {"kind": "bottleneck", "depths": (3, 24, 36, 3), **IMAGENET}),
    ],
)
def test_networks_have_the_layers_of_their_names_and_the_parameters_counted_by_hand(
    layers: int, count: int, millions: float | None, sizes: dict[str, Any]
) -> None:
    with without_values():
        model = build(f"preact_resnet{layers}")
    assert count_parameters(model) == count == parameters_by_hand(**sizes)
    kernels = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    projections = [block for block in model.blocks if block.projects]
    assert len(kernels) - len(projections) == layers
    if millions:  # those in table 5 of https://arxiv.org/abs/1605.07146 are of the kernels alone, without norms
        assert round(sum(kernel.numel() for kernel in kernels) / 1e6, 1) == millions


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("side", [28, 32])
def test_logits_have_one_row_per_image(variant: dict[str, Any], side: int) -> None:
    model = build("tiny", **variant, num_classes=7, in_channels=2)
    assert model(torch.randn(3, 2, side, side)).shape == (3, 7)


@pytest.mark.parametrize(("preset", "stages"), [("preact_resnet18", 4), ("preact_resnet164", 3)])
@pytest.mark.parametrize(("stem", "divisor"), [("small", 1), ("imagenet", 4)])
def test_each_stage_but_the_first_halves_the_map(preset: str, stages: int, stem: str, divisor: int) -> None:
    with without_values():
        model = build(preset, stem=stem, depths=(2,) * stages)
        with Probe(model, *(f"blocks.{i}" for i in range(2 * stages))) as probe:
            model(torch.empty(1, 3, 64, 64))
    sides = [probe[f"blocks.{i}"].shape[2] for i in range(2 * stages)]
    assert sides == [64 // divisor // 2 ** (i // 2) for i in range(2 * stages)]


@pytest.mark.parametrize("name", ["kind", "stem", "shortcut"])
def test_unknown_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is one of .*, not 'other'"):
        build("tiny", **{name: "other"})
    with pytest.raises(ValueError, match="preset is one of preact_resnet110, .*, not 'resnet110'"):
        build("resnet110")


# ---- the paper, written with functions -----------------------------------------------------------------------------


class Twin(nn.Module):
    """The network as the paper's figure 4e, its appendix and the authors' code tell it, without a line of model.py.

    It holds copies of a model's weights and of the norms' statistics, in the order in which the model uses them.
    """

    def __init__(self, model: PreActResNet, kind: str, depths: tuple[int, ...], option: str, imagenet: bool) -> None:
        super().__init__()
        self.kind, self.depths, self.option, self.imagenet = kind, depths, option, imagenet
        self.weights = nn.ParameterList(parameter.detach().clone() for parameter in model.parameters())
        for i, buffer in enumerate(buffer for buffer in model.buffers() if buffer.ndim):
            self.register_buffer(f"statistic{i}", buffer.clone())

    def forward(self, images: Tensor) -> Tensor:
        weights, statistics = iter(self.weights), iter(self.buffers())

        def norm_relu(x: Tensor) -> Tensor:
            mean, variance, scale, shift = next(statistics), next(statistics), next(weights), next(weights)
            return F.batch_norm(x, mean, variance, scale, shift, self.training, momentum=0.1, eps=1e-5).clamp(min=0)

        def conv(x: Tensor, stride: int = 1) -> Tensor:
            kernel = next(weights)
            return F.conv2d(x, kernel, stride=stride, padding=(kernel.shape[-1] - 1) // 2)

        x = norm_relu(conv(images, 2 if self.imagenet else 1))  # the first activation comes right after the first convolution
        if self.imagenet:
            x = F.max_pool2d(F.pad(x, (1, 1, 1, 1)), 3, stride=2)  # nothing is below 0 here
        for stage, depth in enumerate(self.depths):
            for i in range(depth):
                stride = 2 if stage and not i else 1
                before = x
                activated = x if stage == i == 0 else norm_relu(x)
                inner = norm_relu(conv(activated, stride))
                inner = conv(inner)
                if self.kind == "bottleneck":
                    inner = conv(norm_relu(inner))
                grows = inner.shape[1] - before.shape[1]
                if grows and self.option == "B":
                    before = conv(activated, stride)
                elif grows:
                    nothing = torch.zeros_like(inner[:, : grows // 2])
                    before = torch.cat([nothing, before[:, :, ::stride, ::stride], nothing], dim=1)
                x = before + inner
        return F.linear(norm_relu(x).mean((2, 3)), next(weights), next(weights))


NETWORKS = [
    ("basic", (2, 2, 1), "A", "small"),
    ("basic", (1, 2), "B", "imagenet"),
    ("bottleneck", (2, 1, 2), "B", "small"),
    ("bottleneck", (1, 2), "B", "imagenet"),
]


def twins(kind: str, depths: tuple[int, ...], option: str, stem: str) -> tuple[PreActResNet, Twin]:
    model = testing.randomize_norms(PreActResNet(depths, kind, width=4, num_classes=5, stem=stem, shortcut=option))
    return model, Twin(model, kind, depths, option, stem == "imagenet")


@pytest.mark.parametrize(("kind", "depths", "option", "stem"), NETWORKS)
@pytest.mark.parametrize(("mode", "height", "width"), [("train", 16, 16), ("eval", 17, 24), ("train", 17, 24)])
def test_network_is_the_paper_s_in_outputs_gradients_and_steps(
    kind: str, depths: tuple[int, ...], option: str, stem: str, mode: str, height: int, width: int
) -> None:
    model, twin = twins(kind, depths, option, stem)
    testing.assert_same_as(model, twin, torch.randn(3, 3, height, width), train=mode == "train")


@pytest.mark.parametrize(("kind", "depths", "option", "stem"), NETWORKS)
def test_running_statistics_move_as_the_twin_s(kind: str, depths: tuple[int, ...], option: str, stem: str) -> None:
    model, twin = (network.double() for network in twins(kind, depths, option, stem))
    images = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    model(images)
    twin(images)
    own = {name: buffer for name, buffer in model.named_buffers() if buffer.ndim}
    for (name, buffer), other in zip(own.items(), twin.buffers(), strict=True):
        torch.testing.assert_close(buffer, other, rtol=0, atol=1e-12, msg=name)


@pytest.mark.parity
@pytest.mark.parametrize(("preset", "kind", "n", "option"), [("110", "basic", 18, "A"), ("164", "bottleneck", 18, "B")])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_published_network_is_the_paper_s(preset: str, kind: str, n: int, option: str, mode: str) -> None:
    model = testing.randomize_norms(build(f"preact_resnet{preset}"))
    twin = Twin(model, kind, (n, n, n), option, imagenet=False)
    testing.assert_same_as(model, twin, torch.randn(2, 3, 16, 20), train=mode == "train", steps=1)


# ---- equations -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["basic", "bottleneck"])
def test_signal_is_that_of_a_lower_block_and_all_bodies_between(kind: str) -> None:
    model = testing.randomize_norms(PreActResNet((5,), kind, width=4, stem="small")).double()
    with Probe(model, *(f"blocks.{i}{part}" for i in range(5) for part in ("", ".body"))) as probe:
        model(torch.randn(2, 3, 8, 9, dtype=torch.float64))
    for low in range(4):  # equation 4
        bodies = sum(probe[f"blocks.{i}.body"] for i in range(low + 1, 5))
        torch.testing.assert_close(probe["blocks.4"], probe[f"blocks.{low}"] + bodies, rtol=0, atol=1e-12)


def test_gradient_reaches_a_lower_block_unchanged_when_bodies_are_silent() -> None:
    model = PreActResNet((5,), width=4, stem="small").double()
    for block in model.blocks:
        nn.init.zeros_(block.body.conv2.weight)
    with Probe(model, "blocks.0", "blocks.4") as probe:
        loss = model(torch.randn(2, 3, 8, 9, dtype=torch.float64)).square().sum()
    low, high = torch.autograd.grad(loss, [probe["blocks.0"], probe["blocks.4"]])
    assert high.any() and torch.equal(low, high)  # equation 5, whose second term is zero here


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(
    ("kind", "into", "stride", "option"),
    [("basic", 6, 1, "B"), ("basic", 3, 2, "A"), ("basic", 3, 2, "B"), ("bottleneck", 24, 1, "B"), ("bottleneck", 6, 1, "B")],
)
def test_block_whose_last_convolution_is_zero_is_its_shortcut(
    kind: str, into: int, stride: int, option: str, first: bool
) -> None:
    block = testing.randomize_norms(Block(kind, into, 6, stride, option, first))
    x = torch.randn(2, into, 7, 9)
    last = block.body.conv3 if kind == "bottleneck" else block.body.conv2
    assert not torch.equal(block(x), block.shortcut(x))
    nn.init.zeros_(last.weight)
    if isinstance(block.shortcut, nn.Identity):
        assert torch.equal(block(x), x)
    elif isinstance(block.shortcut, nn.Conv2d) and not first:
        assert torch.equal(block(x), block.shortcut(block.preact(x)))
        assert not torch.equal(block(x), block.shortcut(x))
    else:
        assert torch.equal(block(x), block.shortcut(x))


def test_initialisation_has_the_variance_of_fan_out() -> None:
    model = build("tiny", width=64)
    kernel = model.blocks[2].body.conv1.weight  # 64 maps to 128, 3 x 3
    assert kernel.std().item() == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.02)
    assert model.blocks[2].shortcut.weight.std().item() == pytest.approx((2 / 128) ** 0.5, rel=0.05)
    assert not model.head.bias.any()


test_standard = testing.standard_checks(
    build,
    train.main,
    train.Config(data="fashion_mnist-sample", model="tiny", epochs=1, batch_size=4),
    lambda: synthetic.images(8, channels=3),
    variants=VARIANTS,
    prepare=testing.randomize_norms,
    overfit=[testing.Overfit({"in_channels": 1}, lambda: synthetic.images(16, size=8), lr=4e-2)],
)
