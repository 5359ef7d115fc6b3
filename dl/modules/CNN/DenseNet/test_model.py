"""DenseNet against torchvision, against the paper's equations written with functions only, and through its real recipe."""

import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dl.modules.CNN.DenseNet import train
from dl.modules.CNN.DenseNet.convert import from_torchvision
from dl.modules.CNN.DenseNet.model import DenseNet, build
from dl.mytorch import Probe, testing
from dl.mytorch.data import synthetic
from dl.mytorch.introspect import count_parameters, without_values

VARIANTS = [
    {},
    {"stem": "imagenet", "depths": (2, 1)},
    {"bottleneck": 0, "compression": 1.0, "stem_channels": 5},
    {"bottleneck": 2, "compression": 0.3, "depths": (1, 2, 1)},
]


def on_meta(preset: str, **overrides: Any) -> DenseNet:
    with without_values():
        return build(preset, **overrides)


def depth_of(model: nn.Module) -> int:
    return sum(isinstance(module, (nn.Conv2d, nn.Linear)) for module in model.modules())


# ---- sizes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("depth", "count"), [(121, 7_978_856), (161, 28_681_000), (169, 14_149_480), (201, 20_013_928)])
def test_imagenet_networks_have_torchvision_s_parameters_and_the_depth_of_their_name(depth: int, count: int) -> None:
    model = on_meta(f"densenet{depth}")
    assert count_parameters(model) == count
    assert depth_of(model) == depth


@pytest.mark.parametrize(
    ("depth", "growth", "bc", "millions", "count"),
    [
        (40, 12, False, 1.0, 1_019_722),
        (100, 12, False, 7.0, 6_979_642),
        (100, 24, False, 27.2, 27_249_082),
        (100, 12, True, 0.8, 769_162),
        (250, 24, True, 15.3, 15_324_406),
        (190, 40, True, 25.6, 25_624_430),
    ],
)
def test_cifar_networks_have_the_parameters_of_table_2(depth: int, growth: int, bc: bool, millions: float, count: int) -> None:
    maps = 2 * growth if bc else 16
    expected = 27 * maps  # the first convolution, 3x3 of 3 colours
    for block in range(3):
        for _ in range((depth - 4) // (6 if bc else 3)):
            inner = 4 * growth if bc else maps
            bottleneck = 2 * maps + maps * inner if bc else 0  # norm, 1x1 convolution
            expected += bottleneck + 2 * inner + 9 * inner * growth  # norm, 3x3 convolution
            maps += growth
        if block < 2:
            kept = maps // 2 if bc else maps
            expected += 2 * maps + maps * kept
            maps = kept
    expected += 2 * maps + 10 * maps + 10
    model = on_meta(f"densenet{'bc' if bc else ''}{depth}_k{growth}")
    assert count_parameters(model) == count == expected
    assert round(count / 1e6, 1) == millions
    assert depth_of(model) == depth


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("size", [(32, 32), (29, 40)])
def test_logits_have_one_row_per_image(variant: dict[str, Any], size: tuple[int, int]) -> None:
    model = build("tiny", **variant, num_classes=7, in_channels=2)
    assert model(torch.randn(3, 2, *size)).shape == (3, 7)


@pytest.mark.parametrize(("stem", "size", "sides"), [("imagenet", 56, [14, 7, 3, 1, 1]), ("small", 28, [28, 14, 7, 3, 3])])
def test_each_transition_halves_the_map_and_the_maps(stem: str, size: int, sides: list[int]) -> None:
    model = build("densenet121", depths=(1, 2, 1, 1), stem=stem, in_channels=1, num_classes=3)
    names = ["stem", *(f"blocks.{i}" for i in range(4))]
    with Probe(model, *names) as probe:
        assert model(torch.randn(2, 1, size, size)).shape == (2, 3)
    channels = [64, 48, 56, 44, 76]  # (64 + 32) / 2, (48 + 2 * 32) / 2, (56 + 32) / 2, 44 + 32
    assert [probe[name].shape[1:] for name in names] == [(c, x, x) for c, x in zip(channels, sides)]


@pytest.mark.parametrize("wrong", [{"stem": "cifar"}, {"dropout_at": "end"}, {"compression": 0.0}, {"compression": 2.0}])
def test_wrong_arguments_are_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        build("tiny", **wrong)
    with pytest.raises(ValueError, match="no preset 'densenet12' here"):
        build("densenet12")


# ---- torchvision ---------------------------------------------------------------------------------------------------

# torchvision's class with fewer layers has all that the published networks have, and takes a fraction of the time.
SHORT = {"growth_rate": 6, "block_config": (2, 1, 2), "num_init_features": 10, "bn_size": 3}
PUBLISHED = [pytest.param(f"densenet{depth}", marks=pytest.mark.parity) for depth in (121, 161, 169, 201)]


@pytest.mark.parametrize("name", ["short", *PUBLISHED])
@pytest.mark.parametrize(("mode", "height", "width"), [("train", 48, 67), ("eval", 64, 33)])
def test_network_is_torchvision_s_in_outputs_gradients_and_steps(
    torchvision: ModuleType, name: str, mode: str, height: int, width: int
) -> None:
    if name == "short":
        reference = torchvision.models.DenseNet(**SHORT, num_classes=7)
    else:
        reference = getattr(torchvision.models, name)(num_classes=7)
    model = from_torchvision(testing.randomize_norms(reference))
    steps = 3 if name == "short" else 1
    testing.assert_same_as(model, reference, torch.randn(3, 3, height, width), train=mode == "train", steps=steps)
    assert model.head.out_features == 7


def test_dropout_of_torchvision_s_networks_keeps_its_place(torchvision: ModuleType) -> None:
    reference = torchvision.models.DenseNet(**SHORT, num_classes=7, drop_rate=0.3)
    testing.assert_same_as(from_torchvision(reference), reference, torch.randn(3, 3, 32, 40), train=True)


def test_running_statistics_move_as_torchvision_s(torchvision: ModuleType) -> None:
    reference = testing.randomize_norms(torchvision.models.DenseNet(**SHORT))
    model = from_torchvision(reference)
    images = torch.randn(2, 3, 48, 40)
    model(images)
    reference(images)
    for (name, own), other in zip(model.named_buffers(), reference.buffers(), strict=True):
        torch.testing.assert_close(own, other, msg=name)


def test_torchvision_s_networks_are_converted_to_our_presets(torchvision: ModuleType) -> None:
    with without_values():
        model = from_torchvision(torchvision.models.densenet161())
    assert str(model) == str(on_meta("densenet161"))


def test_other_networks_are_refused(torchvision: ModuleType) -> None:
    with without_values(), pytest.raises(ValueError, match="SqueezeNet is no DenseNet"):
        from_torchvision(torchvision.models.squeezenet1_1())


def test_published_weights_are_used_as_the_readme_says(torchvision: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    published = torchvision.models.densenet121().state_dict()
    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", lambda *args, **options: published)
    snippet = re.search(r"```python\n(.*?)```", Path(__file__).with_name("README.md").read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    exec(snippet[1], names)
    assert torch.equal(names["model"].stem.conv.weight, published["features.conv0.weight"])


# ---- the paper -----------------------------------------------------------------------------------------------------


class PaperTwin(nn.Module):
    """Sections 3 and 4.2 with functions only: each layer gets the list of all maps before it."""

    def __init__(self, model: DenseNet, depths: tuple[int, ...], bottleneck: int, dropout: float) -> None:
        super().__init__()
        self.weights = nn.ParameterList(p.detach().clone() for p in model.parameters())
        for i, buffer in enumerate(b for b in model.buffers() if b.ndim):
            self.register_buffer(f"statistics{i}", buffer.clone())
        self.depths, self.bottleneck, self.dropout = depths, bottleneck, dropout

    def forward(self, images: Tensor) -> Tensor:
        weights, statistics = iter(self.weights), iter(list(self.buffers()))

        def composite(x: Tensor) -> Tensor:
            mean, variance = next(statistics), next(statistics)
            x = F.batch_norm(x, mean, variance, next(weights), next(weights), training=self.training).relu()
            kernel = next(weights)
            return F.dropout(F.conv2d(x, kernel, padding=kernel.shape[-1] // 2), self.dropout, self.training)

        x = F.conv2d(images, next(weights), padding=1)
        for i, depth in enumerate(self.depths):
            maps = [x]
            for _ in range(depth):
                new = torch.cat(maps, dim=1)
                maps.append(composite(composite(new)) if self.bottleneck else composite(new))
            x = torch.cat(maps, dim=1)
            if i < len(self.depths) - 1:
                x = F.avg_pool2d(composite(x), kernel_size=2, stride=2)
        x = F.batch_norm(x, next(statistics), next(statistics), next(weights), next(weights), training=self.training)
        return F.linear(x.relu().mean((2, 3)), next(weights), next(weights))


@pytest.mark.parametrize("options", [{"bottleneck": 0, "compression": 1.0}, {"bottleneck": 4, "compression": 0.5}])
@pytest.mark.parametrize(("train_mode", "dropout", "size"), [(True, 0.2, (8, 8)), (True, 0.0, (6, 9)), (False, 0.2, (9, 6))])
def test_network_is_the_paper_s_in_outputs_gradients_and_steps(
    options: dict[str, Any], train_mode: bool, dropout: float, size: tuple[int, int]
) -> None:
    depths = (2, 3)
    model = testing.randomize_norms(build("tiny", depths=depths, stem_channels=5, dropout=dropout, **options))
    twin = PaperTwin(model, depths, options["bottleneck"], dropout)
    testing.assert_same_as(model, twin, torch.randn(3, 3, *size), train=train_mode)


@pytest.mark.parametrize("bottleneck", [0, 4])
def test_each_layer_sees_the_concatenation_of_all_earlier_outputs(bottleneck: int) -> None:
    model = testing.randomize_norms(build("tiny", depths=(4,), bottleneck=bottleneck)).eval()
    layers = [f"blocks.0.layers.{i}" for i in range(4)]
    with Probe(model, "stem", *layers, "blocks.0") as probe:
        model(torch.randn(2, 3, 8, 8))
    outputs = [probe["stem"]]
    for name, layer in zip(layers, model.blocks[0].layers):
        torch.testing.assert_close(probe[name], layer(torch.cat(outputs, dim=1)), rtol=0, atol=0)
        assert probe[name].shape[1] == 4  # k
        outputs.append(probe[name])
    assert torch.equal(probe["blocks.0"], torch.cat(outputs, dim=1))


def test_initialisation_has_the_variance_of_fan_out() -> None:
    model = build("densenet121", depths=(1, 1), num_classes=7)
    grow, reduce = model.blocks[0].layers[0].grow.conv.weight, model.blocks[0].transition.conv.weight
    assert grow.std().item() == pytest.approx((2 / (9 * 32)) ** 0.5, rel=0.02)  # 128 maps to 32, 3 x 3
    assert reduce.std().item() == pytest.approx((2 / 48) ** 0.5, rel=0.03)  # 96 maps to 48
    assert not model.head.bias.any()


# ---- laws ----------------------------------------------------------------------------------------------------------


test_standard = testing.standard_checks(
    build,
    train.main,
    train.Config(data="fashion_mnist-sample", model="tiny", epochs=1, batch_size=4, dropout=0.1),
    lambda: synthetic.images(8, channels=3, size=32),
    variants=VARIANTS,
    prepare=testing.randomize_norms,
    overfit=[testing.Overfit({"in_channels": 1}, lambda: synthetic.images(8, size=16), lr=1e-1)],
)


# ---- the recipe ----------------------------------------------------------------------------------------------------


def test_flags_of_the_recipe_reach_the_network() -> None:
    model = train.build_model(train.Config(data="mnist", model="tiny", dropout=0.3))
    assert str(model) == str(build("tiny", dropout=0.3, in_channels=1))
