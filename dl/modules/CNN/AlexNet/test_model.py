"""AlexNet against two towers by hand, against torchvision, against the paper's numbers, and through its real recipe."""

from types import ModuleType

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dl.modules.CNN.AlexNet import train
from dl.modules.CNN.AlexNet.convert import from_torchvision
from dl.modules.CNN.AlexNet.model import PRESETS, ResponseNorm, build
from dl.mytorch import Probe, testing
from dl.mytorch.data import synthetic
from dl.mytorch.introspect import count_parameters, first_kernels, without_values
from dl.mytorch.tasks import Classification

VARIANTS = [{}, {"style": "torchvision"}]
NARROW = {"widths": (8, 12, 16, 12, 8), "hidden": 16, "num_classes": 7}


# ---- sizes ---------------------------------------------------------------------------------------------------------


def test_paper_network_has_60965224_parameters() -> None:
    with without_values():
        model = build("alexnet")
    layers = [
        96 * (3 * 11 * 11 + 1),
        256 * (48 * 5 * 5 + 1),  # a tower sees its own half of the 96 maps
        384 * (256 * 3 * 3 + 1),  # both towers see all
        384 * (192 * 3 * 3 + 1),
        256 * (192 * 3 * 3 + 1),
        4096 * (256 * 6 * 6 + 1),
        4096 * (4096 + 1),
        1000 * (4096 + 1),
    ]
    own = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert [count_parameters(layer) for layer in own] == layers
    assert count_parameters(model) == sum(layers) == 60_965_224  # the abstract: 60 million


def test_torchvision_preset_has_61100840_parameters() -> None:
    with without_values():
        assert count_parameters(build("torchvision")) == 61_100_840


def test_maps_of_the_paper_network_have_the_sizes_of_figure_2() -> None:
    names = ["conv1", "pool1", "conv2", "pool2", "conv3", "conv4", "conv5", "pool5"]
    with without_values():
        model = build("alexnet")
        with Probe(model, *(f"features.{name}" for name in names)) as probe:
            model(torch.empty(1, 3, 227, 227))
    shapes = {name: tuple(probe[f"features.{name}"].shape[1:]) for name in names}
    assert shapes["conv1"] == (96, 55, 55) and shapes["pool1"] == (96, 27, 27)
    assert shapes["pool2"] == (256, 13, 13) and shapes["pool5"] == (256, 6, 6)
    neurons = [probe[f"features.{name}"].numel() for name in ("conv2", "conv3", "conv4", "conv5")]
    assert neurons == [186_624, 64_896, 64_896, 43_264]


def test_small_stem_leaves_a_map_of_2x2_of_28_pixels() -> None:
    model = build("small")
    with Probe(model, *(f"features.{name}" for name in ("conv1", "pool1", "pool2", "pool5"))) as probe:
        model(torch.zeros(1, 1, 28, 28))
    assert [tuple(maps.shape[1:]) for maps in probe.outputs.values()] == [(32, 28, 28), (32, 13, 13), (96, 6, 6), (128, 2, 2)]
    assert model.head.fc6.in_features == 128 * 2 * 2


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(("stem", "size"), [("small", 28), ("small", 32), ("imagenet", 67), ("imagenet", 224)])
def test_logits_have_one_row_per_image(preset: str, stem: str, size: int) -> None:
    with without_values():
        model = build(preset, stem=stem, num_classes=7, in_channels=2)
        assert model(torch.empty(3, 2, size, size)).shape == (3, 7)


@pytest.mark.parametrize("wrong", [{"style": "caffe"}, {"stem": "tiny"}, {"init": "glorot"}])
def test_unknown_names_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=f"no AlexNet of .*{next(iter(wrong.values()))}"):
        build("tiny", **wrong)


# ---- the paper, by hand --------------------------------------------------------------------------------------------


def normalised(a: Tensor) -> Tensor:
    """Section 3.3 as it is written, channel by channel."""
    k, n, alpha, beta, last = 2, 5, 1e-4, 0.75, a.shape[1] - 1
    sums = [(a[:, max(0, i - n // 2) : min(last, i + n // 2) + 1] ** 2).sum(1) for i in range(last + 1)]
    return torch.stack([a[:, i] / (k + alpha * total) ** beta for i, total in enumerate(sums)], dim=1)


class TwoTowers(nn.Module):
    """Figure 2 and section 3.5 with two convolutions, one for each GPU, where the model has a grouped one."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.parameters_ = nn.ParameterList(p.detach().clone() for p in model.parameters())

    def forward(self, images: Tensor) -> Tensor:
        weights, biases = list(self.parameters_)[::2], list(self.parameters_)[1::2]
        halves = [list(zip(w.chunk(2), b.chunk(2))) for w, b in zip(weights[:5], biases)]
        a, b = (F.conv2d(images, *half, stride=4).relu() for half in halves[0])
        a, b = F.max_pool2d(normalised(torch.cat([a, b], 1)), 3, 2).chunk(2, 1)
        a, b = F.conv2d(a, *halves[1][0], padding=2).relu(), F.conv2d(b, *halves[1][1], padding=2).relu()
        both = F.max_pool2d(normalised(torch.cat([a, b], 1)), 3, 2)
        a, b = F.conv2d(both, *halves[2][0], padding=1).relu(), F.conv2d(both, *halves[2][1], padding=1).relu()
        a, b = F.conv2d(a, *halves[3][0], padding=1).relu(), F.conv2d(b, *halves[3][1], padding=1).relu()
        a, b = F.conv2d(a, *halves[4][0], padding=1).relu(), F.conv2d(b, *halves[4][1], padding=1).relu()
        x = F.adaptive_avg_pool2d(F.max_pool2d(torch.cat([a, b], 1), 3, 2), 6).flatten(1)
        for weight, bias in list(zip(weights, biases))[5:7]:
            x = F.dropout(F.linear(x, weight, bias).relu(), 0.5, self.training)
        return F.linear(x, weights[7], biases[7])


@pytest.mark.parametrize(("mode", "height", "width"), [("train", 67, 99), ("eval", 99, 67), ("eval", 227, 99)])
def test_paper_network_is_two_towers_that_meet_in_conv3(mode: str, height: int, width: int) -> None:
    model = build("alexnet", **NARROW, init="torch")
    testing.assert_same_as(model, TwoTowers(model), 9 * torch.randn(2, 3, height, width), train=mode == "train")


def test_response_norm_is_the_paper_s_formula() -> None:
    a = 50 * torch.randn(2, 9, 3, 4, dtype=torch.float64)
    torch.testing.assert_close(ResponseNorm()(a), normalised(a), rtol=1e-12, atol=0)


def test_alpha_is_not_divided_by_n() -> None:
    a = torch.zeros(1, 5, 1, 1)
    a[0, 2] = 100.0  # 1e-4 * 100^2 = 1
    assert ResponseNorm()(a)[0, 2].item() == pytest.approx(100 / 3**0.75)


def test_initialisation_is_that_of_section_5() -> None:
    model = build("alexnet", widths=(32, 64, 64, 64, 64), hidden=128)
    layers = {name.split(".")[-1]: m for name, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
    assert len(layers) == 8
    for name, layer in layers.items():
        assert layer.weight.std().item() == pytest.approx(0.01, rel=0.05) and abs(layer.weight.mean()) < 1e-3
        assert (layer.bias == (0 if name in ("conv1", "conv3", "fc8") else 1)).all(), name


def test_initialisation_he_has_the_variance_of_fan_in() -> None:
    model = build("alexnet", widths=(32, 64, 64, 64, 64), hidden=128, init="he")
    grouped, linear = model.features.conv2, model.head.fc7
    assert grouped.weight.std().item() == pytest.approx((2 / (16 * 25)) ** 0.5, rel=0.05)  # 16 of 32 maps
    assert linear.weight.std().item() == pytest.approx((2 / 128) ** 0.5, rel=0.05)
    assert not grouped.bias.any() and not linear.bias.any()


def test_initialisation_torch_leaves_the_layers_as_torch_starts_them() -> None:
    layer = build("tiny", init="torch").head.fc7
    assert 0.9 * 32**-0.5 < layer.weight.abs().max() <= 32**-0.5 and 0 < layer.bias.abs().max() <= 32**-0.5


# ---- torchvision ---------------------------------------------------------------------------------------------------


@pytest.fixture
def narrow_reference(torchvision: ModuleType) -> nn.Module:
    """torchvision's AlexNet with an eighth of the channels and 32 units for 4096: it has no arguments for them."""
    with without_values():
        reference = torchvision.models.AlexNet(num_classes=7, dropout=0.3)
    widths = iter([3, 8, 8, 24, 24, 48, 48, 32, 32, 32])
    for place, layer in enumerate(reference.features):
        if isinstance(layer, nn.Conv2d):
            reference.features[place] = nn.Conv2d(next(widths), next(widths), layer.kernel_size, layer.stride, layer.padding)
    for place, (into, out) in {1: (32 * 36, 32), 4: (32, 32), 6: (32, 7)}.items():
        reference.classifier[place] = nn.Linear(into, out)
    return reference


@pytest.mark.parametrize(("mode", "height", "width"), [("train", 63, 67), ("eval", 95, 63)])
def test_network_is_torchvision_s_in_outputs_gradients_and_steps(
    narrow_reference: nn.Module, mode: str, height: int, width: int
) -> None:
    model = from_torchvision(narrow_reference)
    testing.assert_same_as(model, narrow_reference, torch.randn(2, 3, height, width), train=mode == "train")


@pytest.mark.parity
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_published_network_is_torchvision_s_in_outputs_gradients_and_steps(torchvision: ModuleType, mode: str) -> None:
    reference = torchvision.models.alexnet()
    testing.assert_same_as(from_torchvision(reference), reference, torch.randn(2, 3, 224, 224), train=mode == "train")


def test_torchvision_s_network_is_converted_to_our_preset(torchvision: ModuleType) -> None:
    with without_values():
        assert str(from_torchvision(torchvision.models.alexnet())) == str(build("torchvision"))


@pytest.mark.parametrize("name", ["vgg11", "resnet18", "squeezenet1_0"])
def test_networks_of_other_papers_are_refused(torchvision: ModuleType, name: str) -> None:
    with without_values(), pytest.raises(ValueError, match="no AlexNet"):
        from_torchvision(getattr(torchvision.models, name)())


# ---- laws ----------------------------------------------------------------------------------------------------------


test_standard = testing.standard_checks(
    build,
    train.main,
    train.Config(data="fashion_mnist-sample", model="tiny", epochs=1, batch_size=4),
    lambda: synthetic.images(32),
    variants=VARIANTS,
    overfit=[testing.Overfit({"dropout": 0.0, **variant}, lambda: synthetic.images(16, size=16)) for variant in VARIANTS],
)


@pytest.mark.parametrize(
    ("preset", "shape", "figure"),
    [("alexnet", (96, 3, 11, 11), (3, 12, 8 * 59 - 4)), ("small", (32, 1, 7, 7), (1, 4, 8 * 67 - 4))],
)
def test_first_kernels_are_large_enough_to_look_at(preset: str, shape: tuple[int, ...], figure: tuple[int, ...]) -> None:
    model = build(preset, hidden=16)
    assert first_kernels(model).shape == shape
    channels, rows, width = figure
    drawn = Classification().preview(model)["kernels"]
    assert drawn.shape == (channels, rows * (width + 4) // 8 - 4, width)  # eight in a row, 4 white pixels between
