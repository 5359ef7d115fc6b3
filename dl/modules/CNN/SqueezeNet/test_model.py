"""SqueezeNet against torchvision, against the paper's figures written with functions only, and through its real recipe."""

import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from dl.modules.CNN.SqueezeNet import train
from dl.modules.CNN.SqueezeNet.convert import from_torchvision
from dl.modules.CNN.SqueezeNet.model import PRESETS, Fire, SqueezeNet, build
from dl.mytorch import Probe, testing
from dl.mytorch.data import synthetic
from dl.mytorch.introspect import count_parameters, without_values

VARIANTS = [{}, {"bypass": True}, {"stem": "imagenet", "stem_kernel": 3}, {"pools": (2,), "squeeze_ratio": 0.5, "width": 24}]


def on_meta(preset: str, **overrides: Any) -> SqueezeNet:
    with without_values():
        return build(preset, **overrides)


# ---- sizes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bypass", [False, True])
@pytest.mark.parametrize(("preset", "count"), [("squeezenet1_0", 1_248_424), ("squeezenet1_1", 1_235_496)])
def test_networks_have_the_parameters_of_torchvision_s_and_a_bypass_has_none(preset: str, count: int, bypass: bool) -> None:
    assert count_parameters(on_meta(preset, bypass=bypass)) == count


def test_each_layer_has_the_parameters_and_the_maps_of_table_1() -> None:
    model = on_meta("squeezenet1_0")
    # Table 1, "# parameter before pruning", of conv1, fire2 to fire9 and conv10
    table = [14_208, 11_920, 12_432, 45_344, 49_440, 104_880, 111_024, 188_992, 197_184, 513_000]
    layers = [model.stem, *(getattr(model.body, f"fire{i}") for i in range(2, 10)), model.head]
    assert [count_parameters(layer) for layer in layers] == table
    squeezed = [fire.squeeze.conv.out_channels for fire in model.body if isinstance(fire, Fire)]
    assert squeezed == [16, 16, 32, 32, 48, 48, 64, 64]


@pytest.mark.parametrize(
    ("preset", "order", "sides"),
    [
        ("squeezenet1_0", "pool1 fire2 fire3 fire4 pool4 fire5 fire6 fire7 fire8 pool8 fire9", (109, 54, 27, 13)),
        ("squeezenet1_1", "pool1 fire2 fire3 pool3 fire4 fire5 pool5 fire6 fire7 fire8 fire9", (111, 55, 27, 13)),
    ],
)
def test_pools_come_where_the_authors_have_them(preset: str, order: str, sides: tuple[int, ...]) -> None:
    pools = re.findall(r"pool\d", order)
    with without_values(), Probe(model := build(preset), "stem", *(f"body.{pool}" for pool in pools)) as probe:
        model(torch.empty(1, 3, 224, 224))
    assert [name for name, _ in model.body.named_children()] == order.split()
    assert tuple(output.shape[-1] for output in probe.outputs.values()) == sides


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("size", [(32, 32), (21, 30)])
def test_logits_have_one_row_per_image(variant: dict[str, Any], size: tuple[int, int]) -> None:
    model = build("tiny", **variant, num_classes=7, in_channels=2)
    assert model(torch.randn(3, 2, *size)).shape == (3, 7)


@pytest.mark.parametrize("preset", PRESETS)
def test_small_stem_keeps_the_side_of_small_images(preset: str) -> None:
    model = build(preset, stem="small", in_channels=1, num_classes=3)
    with Probe(model, "stem") as probe:
        assert model(torch.randn(2, 1, 28, 28)).shape == (2, 3)
    assert probe["stem"].shape[2:] == (28, 28)


def test_wrong_arguments_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="stem is"):
        build("tiny", stem="cifar")
    with pytest.raises(ValueError, match="no preset 'squeezenet' here"):
        build("squeezenet")


# ---- torchvision ---------------------------------------------------------------------------------------------------


def randomized(model: nn.Module) -> nn.Module:
    """Biases and last weights as after training, so that they show in the output; the first logits are above 0."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.bias.data.normal_(0, 0.1)
            if module.in_channels == 512 and module.kernel_size == (1, 1) and module.out_channels < 48:
                module.weight.data.normal_(0, 0.05)[:4].abs_()
    return model


def awake(model: nn.Module) -> nn.Module:
    """With weights above 0 no ReLU is dead, as it is for some seeds in a network this narrow."""
    for parameter in model.parameters():
        parameter.data.abs_()
    return model


@pytest.mark.parametrize("name", ["squeezenet1_0", "squeezenet1_1"])
@pytest.mark.parametrize(("mode", "height", "width"), [("train", 32, 45), ("eval", 41, 32)])
def test_network_is_torchvision_s_in_outputs_gradients_and_steps(
    torchvision: ModuleType, name: str, mode: str, height: int, width: int
) -> None:
    reference = randomized(getattr(torchvision.models, name)(num_classes=7, dropout=0.4))
    model = from_torchvision(reference)
    images = torch.randn(2, 3, height, width)
    assert model(images).count_nonzero() > 7  # not all cut off by the last ReLU
    testing.assert_same_as(model, reference, images, train=mode == "train")


@pytest.mark.parametrize("name", ["squeezenet1_0", "squeezenet1_1"])
def test_torchvision_s_networks_are_converted_to_our_presets(torchvision: ModuleType, name: str) -> None:
    with without_values():
        model = from_torchvision(getattr(torchvision.models, name)())
    assert str(model) == str(on_meta(name))


def test_other_networks_are_refused(torchvision: ModuleType) -> None:
    with without_values(), pytest.raises(ValueError, match="AlexNet is no SqueezeNet"):
        from_torchvision(torchvision.models.alexnet())
    with pytest.raises(ValueError, match="no SqueezeNet of torchvision"):
        from_torchvision(on_meta("tiny"))  # ours


def test_published_weights_are_used_as_the_readme_says(
    torchvision: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    published = torchvision.models.squeezenet1_0().state_dict()
    published["classifier.1.bias"][207] = 100.0
    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", lambda *args, **options: published)
    Image.new("RGB", (400, 300)).save(tmp_path / "dog.jpg")
    monkeypatch.chdir(tmp_path)
    snippet = re.search(r"```python\n(.*?)```", Path(__file__).with_name("README.md").read_text(encoding="utf-8"), re.DOTALL)
    exec(snippet[1], {})
    assert capsys.readouterr().out == "golden retriever\n"


# ---- the paper -----------------------------------------------------------------------------------------------------


class PaperTwin(nn.Module):
    """Figure 2 with functions only: left, or middle with the bypass around fire 3, 5, 7 and 9."""

    def __init__(self, model: SqueezeNet, bypass: bool) -> None:
        super().__init__()
        self.weights = nn.ParameterList(p.detach().clone() for p in model.parameters())
        self.bypass = bypass

    def forward(self, images: Tensor) -> Tensor:
        weights = iter(self.weights)

        def conv(x: Tensor, **options: int) -> Tensor:
            return F.conv2d(x, next(weights), next(weights), **options).relu()

        def pool(x: Tensor) -> Tensor:
            return F.max_pool2d(x, 3, 2, ceil_mode=True)

        def fire(x: Tensor) -> Tensor:
            squeezed = conv(x)
            return torch.cat([conv(squeezed), conv(squeezed, padding=1)], dim=1)

        x = pool(conv(images, stride=2))
        for number in range(2, 10):
            y = fire(x)
            x = x + y if self.bypass and number in (3, 5, 7, 9) else y
            x = pool(x) if number in (4, 8) else x
        return conv(x).mean((2, 3))


@pytest.mark.parametrize("bypass", [False, True])
@pytest.mark.parametrize("size", [(40, 40), (33, 52)])
def test_network_is_figure_2_in_outputs_gradients_and_steps(bypass: bool, size: tuple[int, int]) -> None:
    model = randomized(build("squeezenet1_0", width=32, stem_channels=24, num_classes=7, bypass=bypass, dropout=0.0))
    testing.assert_same_as(model, PaperTwin(model, bypass), torch.randn(2, 3, *size), train=True)


def test_dropout_comes_before_the_last_convolution() -> None:
    model = awake(build("tiny", dropout=0.5))
    with Probe(model, "body", "head.drop", "head.conv10") as probe:
        model(torch.rand(4, 3, 16, 16))
    kept = probe["head.drop"] != 0
    assert torch.equal(probe["head.drop"][kept], 2 * probe["body"][kept])
    assert 0.4 < 1 - kept[probe["body"] != 0].float().mean() < 0.6
    torch.testing.assert_close(probe["head.conv10"], model.head.conv10(probe["head.drop"]))


def test_initialisation_is_he_s_and_narrow_in_the_last_convolution() -> None:
    model = build("squeezenet1_0", num_classes=100)
    kernel = model.body.fire9.expand3x3.conv.weight  # 64 maps to 256, 3 x 3
    assert kernel.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.02)
    assert kernel.abs().max() <= (6 / (9 * 64)) ** 0.5  # uniform
    assert model.head.conv10.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert not any(parameter.any() for name, parameter in model.named_parameters() if name.endswith("bias"))


# ---- laws ----------------------------------------------------------------------------------------------------------


SHALLOW = {"preset": "small", "width": 32, "stem_channels": 16, "fires": 4, "dropout": 0.0}
test_standard = testing.standard_checks(
    build,
    train.main,
    train.Config(data="fashion_mnist-sample", model="tiny", epochs=1, batch_size=4),
    lambda: synthetic.images(16, channels=3, size=32),
    variants=VARIANTS,
    prepare=awake,
    overfit=[testing.Overfit(SHALLOW, lambda: synthetic.images(8, size=16), lr=5e-3)],
)


def test_last_act_is_all_that_cuts_logits_off_at_0() -> None:
    model, images = build("tiny", last_act=True).eval(), torch.randn(8, 3, 16, 16)
    with_signs = build("tiny").eval()
    with_signs.load_state_dict(model.state_dict())
    with Probe(model, "head.conv10") as probe:
        model(images)
    torch.testing.assert_close(with_signs(images), probe["head.conv10"].mean((2, 3)))
    torch.testing.assert_close(model(images), probe["head.conv10"].relu().mean((2, 3)))


# ---- the recipe ----------------------------------------------------------------------------------------------------


def test_flags_of_the_recipe_reach_the_network() -> None:
    model = train.build_model(train.Config(data="mnist", model="tiny", dropout=0.3, last_act=True))
    assert str(model) == str(build("tiny", dropout=0.3, last_act=True, in_channels=1))
