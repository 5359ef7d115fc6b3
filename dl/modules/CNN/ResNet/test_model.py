"""ResNet against torchvision, against the layout of published CIFAR-10 weights, by hand, and through its real recipe."""

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dl.modules.CNN.ResNet import train
from dl.modules.CNN.ResNet.convert import from_akamaster, from_torchvision
from dl.modules.CNN.ResNet.model import PaddedShortcut, build
from dl.mytorch import Probe, testing
from dl.mytorch.data import synthetic
from dl.mytorch.introspect import count_parameters, without_values

VARIANTS = [
    {},
    {"shortcut": "B", "stem": "imagenet"},
    {"shortcut": "C", "kind": "bottleneck", "width": 4},
    {"kind": "bottleneck", "width": 4, "stride_in": "1x1"},
    {"se_reduction": 16, "stem": "pool"},
]


def parameters(preset: str, **overrides: Any) -> int:
    with without_values():
        return count_parameters(build(preset, **overrides))


# ---- sizes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "count"),
    [
        ("resnet18", 11_689_512),
        ("resnet34", 21_797_672),
        ("resnet50", 25_557_032),
        ("resnet101", 44_549_160),
        ("resnet152", 60_192_808),
    ],
)
def test_imagenet_networks_have_as_many_parameters_as_torchvision_s(preset: str, count: int) -> None:
    assert parameters(preset) == count


@pytest.mark.parametrize(
    ("preset", "millions", "count"),
    [
        ("resnet20", 0.27, 269_722),
        ("resnet32", 0.46, 464_154),
        ("resnet44", 0.66, 658_586),
        ("resnet56", 0.85, 853_018),
        ("resnet110", 1.7, 1_727_962),
    ],
)
def test_cifar_networks_have_the_parameters_of_table_6(preset: str, millions: float, count: int) -> None:
    n = (int(preset.removeprefix("resnet")) - 2) // 6
    kernels = [(3, 16)] + [(16, 16)] * 2 * n + [(16, 32)] + [(32, 32)] * (2 * n - 1) + [(32, 64)] + [(64, 64)] * (2 * n - 1)
    assert parameters(preset) == count == sum(9 * into * out + 2 * out for into, out in kernels) + 64 * 10 + 10
    assert abs(count / 1e6 - millions) < 0.03


def test_projections_are_where_the_option_says() -> None:
    projections = [16 * 32 + 2 * 32, 32 * 64 + 2 * 64]  # where the shape changes: kernel and norm
    everywhere = [3 * (16 * 16 + 2 * 16), 2 * (32 * 32 + 2 * 32), 2 * (64 * 64 + 2 * 64)]
    option_a = parameters("resnet20")
    assert parameters("resnet20", shortcut="B") == option_a + sum(projections)
    assert parameters("resnet20", shortcut="C") == option_a + sum(projections) + sum(everywhere)


def test_squeeze_and_excitation_adds_two_layers_to_each_block() -> None:
    gates = sum(n * (2 * c * c // 16 + c // 16 + c) for n, c in [(3, 256), (4, 512), (6, 1024), (3, 2048)])
    assert parameters("resnet50", se_reduction=16) == 28_088_024 == 25_557_032 + gates


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("side", [28, 32])
def test_logits_have_one_row_per_image(variant: dict[str, Any], side: int) -> None:
    model = build("tiny", **variant, num_classes=7, in_channels=2)
    assert model(torch.randn(3, 2, side, side)).shape == (3, 7)


@pytest.mark.parametrize(("preset", "stages"), [("resnet18", 4), ("resnet20", 3), ("resnet50", 4)])
@pytest.mark.parametrize(("stem", "divisor"), [("small", 1), ("pool", 2), ("imagenet", 4)])
def test_each_stage_but_the_first_halves_the_map(preset: str, stages: int, stem: str, divisor: int) -> None:
    model = build(preset, stem=stem, depths=(2,) * stages, width=2)
    with torch.no_grad(), Probe(model, "stem", *(f"blocks.{i}" for i in range(2 * stages))) as probe:
        model(torch.randn(1, 3, 64, 64))
    assert probe["stem"].shape[2:] == (64 // divisor,) * 2
    sides = [probe[f"blocks.{i}"].shape[2] for i in range(2 * stages)]
    assert sides == [64 // divisor // 2 ** (i // 2) for i in range(2 * stages)]


# ---- torchvision ---------------------------------------------------------------------------------------------------


def short(torchvision: ModuleType, kind: str) -> nn.Module:
    """torchvision's class with three blocks in two stages; the others are the second once more but hold most of the weights."""
    resnet = torchvision.models.resnet
    reference = resnet.ResNet({"basic": resnet.BasicBlock, "bottleneck": resnet.Bottleneck}[kind], [1, 2, 1, 1])
    reference.fc = nn.Linear(reference.layer3[0].conv1.in_channels, 7)
    reference.layer3, reference.layer4 = nn.Sequential(), nn.Sequential()
    return testing.randomize_norms(reference)


PUBLISHED = [pytest.param(name, marks=pytest.mark.parity) for name in ("resnet18", "resnet34", "resnet50", "resnet101")]


@pytest.mark.parametrize("name", ["basic", "bottleneck", *PUBLISHED])
@pytest.mark.parametrize(("mode", "height", "width"), [("train", 32, 33), ("eval", 33, 32)])
def test_network_is_torchvision_s_in_outputs_gradients_and_steps(
    torchvision: ModuleType, name: str, mode: str, height: int, width: int
) -> None:
    if name in ("basic", "bottleneck"):
        reference, steps = short(torchvision, name), 3 if mode == "train" else 1
    else:
        reference, steps = testing.randomize_norms(getattr(torchvision.models, name)(num_classes=7)), 1
    model = from_torchvision(reference)
    testing.assert_same_as(model, reference, torch.randn(2, 3, height, width), train=mode == "train", steps=steps)
    assert model.head.out_features == 7


def test_running_statistics_move_as_torchvision_s(torchvision: ModuleType) -> None:
    reference = short(torchvision, "basic")
    model = from_torchvision(reference)
    images = torch.randn(2, 3, 32, 32)
    model(images)
    reference(images)
    for (name, own), other in zip(model.named_buffers(), reference.buffers(), strict=True):
        torch.testing.assert_close(own, other, msg=name)


def test_stride_in_the_first_1x1_is_the_other_place_of_the_same_weights(torchvision: ModuleType) -> None:
    reference = short(torchvision, "bottleneck").eval()
    with without_values():
        model = build("resnet50", depths=(1, 2), num_classes=7, stride_in="1x1").eval()
    model.load_state_dict(from_torchvision(reference).state_dict(), assign=True)
    images = torch.randn(1, 3, 48, 32)
    with torch.no_grad():
        assert not torch.allclose(model(images), reference(images))
        reference.layer2[0].conv1.stride, reference.layer2[0].conv2.stride = (2, 2), (1, 1)
        torch.testing.assert_close(model(images), reference(images))


@pytest.mark.parametrize("name", ["resnet34", "resnet50"])
def test_torchvision_s_networks_are_converted_to_our_presets(torchvision: ModuleType, name: str) -> None:
    with without_values():
        model, preset = from_torchvision(getattr(torchvision.models, name)()), build(name)
    assert str(model) == str(preset)


@pytest.mark.parametrize("name", ["resnext50_32x4d", "wide_resnet50_2"])
def test_networks_of_other_papers_are_refused(torchvision: ModuleType, name: str) -> None:
    with without_values(), pytest.raises(ValueError, match="no network of this paper"):
        from_torchvision(getattr(torchvision.models, name)())


def test_dilated_networks_are_refused(torchvision: ModuleType) -> None:
    with without_values(), pytest.raises(ValueError, match="no network of this paper"):
        from_torchvision(torchvision.models.resnet50(replace_stride_with_dilation=[False, False, True]))


# ---- CIFAR networks ------------------------------------------------------------------------------------------------


def akamaster_weights(n: int, prefix: str = "module.") -> dict[str, Tensor]:
    """Random weights of 6n + 2 layers under the names of github.com/akamaster/pytorch_resnet_cifar10."""
    weights = {}

    def add(conv: str, norm: str, into: int, out: int) -> None:
        weights[f"{conv}.weight"] = torch.randn(out, into, 3, 3) / (9 * into) ** 0.5
        weights[f"{norm}.weight"], weights[f"{norm}.running_var"] = torch.rand(out) + 0.5, torch.rand(out) + 0.5
        weights[f"{norm}.bias"], weights[f"{norm}.running_mean"] = torch.randn(out), torch.randn(out)

    add("conv1", "bn1", 3, 16)
    for stage, (before, out) in enumerate([(16, 16), (16, 32), (32, 64)], start=1):
        for block in range(n):
            add(f"layer{stage}.{block}.conv1", f"layer{stage}.{block}.bn1", before if block == 0 else out, out)
            add(f"layer{stage}.{block}.conv2", f"layer{stage}.{block}.bn2", out, out)
    weights["linear.weight"], weights["linear.bias"] = torch.randn(10, 64), torch.randn(10)
    return {prefix + name: weight for name, weight in weights.items()}


def cifar_by_hand(weights: dict[str, Tensor], images: Tensor, n: int) -> Tensor:
    """Section 4.2 with shortcut A, written with functions only."""

    def layer(x: Tensor, conv: str, norm: str, stride: int) -> Tensor:
        statistics = [weights[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(F.conv2d(x, weights[f"{conv}.weight"], stride=stride, padding=1), *statistics)

    x = layer(images, "conv1", "bn1", 1).relu()
    for stage in (1, 2, 3):
        for block in range(n):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            inner = layer(x, f"{name}.conv1", f"{name}.bn1", stride).relu()
            inner = layer(inner, f"{name}.conv2", f"{name}.bn2", 1)
            if stride == 2:
                nothing = torch.zeros_like(inner[:, : inner.shape[1] // 4])
                x = torch.cat([nothing, x[:, :, ::2, ::2], nothing], dim=1)
            x = (inner + x).relu()
    return F.linear(x.mean((2, 3)), weights["linear.weight"], weights["linear.bias"])


@pytest.mark.parametrize(("n", "prefix"), [(3, "module."), (5, "")])
def test_published_layout_is_read_and_computes_section_4_2(n: int, prefix: str) -> None:
    weights = {name: weight.double() for name, weight in akamaster_weights(n, prefix).items()}
    model = from_akamaster(weights).double().eval()
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    expected = cifar_by_hand({name.removeprefix(prefix): weight for name, weight in weights.items()}, images, n)
    assert (model(images) - expected).abs().max() <= 1e-9 * expected.abs().max()
    assert str(model) == str(build(f"resnet{6 * n + 2}").eval())


# ---- parts by hand -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("into", "out", "stride", "before"), [(2, 4, 2, 1), (2, 8, 1, 3), (3, 4, 3, 0)])
def test_shortcut_a_takes_every_sth_pixel_and_pads_channels_with_zeros(into: int, out: int, stride: int, before: int) -> None:
    x = torch.randn(2, into, 5, 7)
    y = PaddedShortcut(into, out, stride)(x)
    assert y.shape == (2, out, -(-5 // stride), -(-7 // stride))
    assert torch.equal(y[:, before : before + into], x[..., ::stride, ::stride])
    assert y.count_nonzero() == x[..., ::stride, ::stride].numel()


@pytest.mark.parametrize(("kind", "last"), [("basic", "norm2"), ("bottleneck", "norm3")])
def test_squeeze_and_excitation_comes_last_in_the_body(kind: str, last: str) -> None:
    model = build("tiny", kind=kind, se_reduction=4)
    with Probe(model, "blocks.0.body", f"blocks.0.body.{last}") as probe:
        model(torch.randn(2, 3, 8, 8))
    gated = model.blocks[0].body.se(probe[f"blocks.0.body.{last}"])
    torch.testing.assert_close(probe["blocks.0.body"], gated)


@pytest.mark.parametrize("kind", ["basic", "bottleneck"])
def test_with_zero_init_blocks_start_as_their_shortcuts(kind: str) -> None:
    model = build("tiny", kind=kind, zero_init=True, se_reduction=4)
    x = model.stem(torch.randn(2, 3, 8, 8))
    for block in model.blocks:
        torch.testing.assert_close(block(x), block.shortcut(x).relu(), rtol=0, atol=0)
        x = block(x)


def test_initialisation_has_the_variance_of_fan_out() -> None:
    model = build("resnet20", width=32)
    kernel = model.blocks[-1].body.conv2.weight  # 128 maps to 128, 3 x 3
    assert kernel.std().item() == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.02)
    reducing = model.blocks[3].body.conv1.weight  # 32 maps to 64
    assert reducing.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.02)


@pytest.mark.parametrize("wrong", [{"stem": "smal"}, {"shortcut": "D"}, {"kind": "bottle"}, {"stride_in": "2x2"}])
def test_an_unknown_option_is_refused_by_its_name(wrong: dict[str, str]) -> None:
    ((option, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"{option} '{value}'"):
        build("tiny", **wrong)


# ---- laws ----------------------------------------------------------------------------------------------------------


test_standard = testing.standard_checks(
    build,
    train.main,
    train.Config(data="fashion_mnist-sample", model="tiny", epochs=1, batch_size=4),
    lambda: synthetic.images(8, channels=3),
    variants=VARIANTS,
    prepare=testing.randomize_norms,
    overfit=[testing.Overfit({"in_channels": 1}, lambda: synthetic.images(16, size=16), lr=4e-2)],
)


def test_it_trains_from_disk_with_the_same_gradients(tmp_path: Path) -> None:
    testing.assert_streams_exactly(build("tiny"), synthetic.images(8, channels=3, size=16), tmp_path)


# ---- the recipe ----------------------------------------------------------------------------------------------------


def test_recipe_trains_block_by_block(tmp_path: Path, no_figures: None) -> None:
    flags = {"data": "fashion_mnist-sample", "model": "tiny", "epochs": 1, "batch_size": 16, "layerwise": "greedy"}
    history = train.main(train.Config(out=str(tmp_path), **flags), synthetic.image_splits())
    assert [record["epoch"] for record in history] == [1, 2, 2] and history.test
