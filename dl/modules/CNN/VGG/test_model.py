"""VGG against torchvision, against the paper's numbers, by hand, and through its real recipe."""

from types import ModuleType

import pytest
import torch
from torch import nn

from dl.modules.CNN.VGG import train
from dl.modules.CNN.VGG.convert import from_torchvision
from dl.modules.CNN.VGG.model import VGG, build
from dl.mytorch import Probe, testing
from dl.mytorch.data import synthetic
from dl.mytorch.introspect import count_parameters, without_values

# Parameters of the paper's networks: in millions in its table 2, exactly in torchvision, there also with batch norms.
COUNTS = {
    "vgg11": (133, 132_863_336, 132_868_840),
    "vgg13": (133, 133_047_848, 133_053_736),
    "vgg16": (138, 138_357_544, 138_365_992),
    "vgg19": (144, 143_667_240, 143_678_248),
}
PUBLISHED = [name + norm for name in COUNTS for norm in ("", "_bn")]


# ---- sizes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COUNTS)
def test_networks_have_the_parameters_of_table_2_and_of_torchvision(name: str) -> None:
    millions, plain, with_norms = COUNTS[name]
    with without_values():
        assert count_parameters(build(name)) == plain
        assert count_parameters(build(f"{name}_bn")) == with_norms
    assert round(plain / 1e6) == millions


@pytest.mark.parametrize("name", PUBLISHED)
def test_networks_have_as_many_layers_with_weights_as_their_names_say(name: str) -> None:
    with without_values():
        layers = [m for m in build(name).modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert len(layers) == int(name[3:5])


@pytest.mark.parametrize("name", COUNTS)
def test_each_block_halves_the_map_and_doubles_the_channels_up_to_512(name: str) -> None:
    with without_values():
        model = build(name)
        with Probe(model, *(f"blocks.{i}" for i in range(5))) as probe:
            model(torch.empty(1, 3, 224, 224))
    shapes = [tuple(probe[f"blocks.{i}"].shape[1:]) for i in range(5)]
    assert shapes == [(64, 112, 112), (128, 56, 56), (256, 28, 28), (512, 14, 14), (512, 7, 7)]


@pytest.mark.parametrize("preset", ["vgg11", "vgg19_bn", "small", "tiny"])
@pytest.mark.parametrize(("head", "size"), [("small", 28), ("small", 32), ("imagenet", 32), ("imagenet", 224)])
def test_logits_have_one_row_per_image(preset: str, head: str, size: int) -> None:
    with without_values():
        model = build(preset, head=head, num_classes=7, in_channels=2)
        assert model(torch.empty(3, 2, size, size)).shape == (3, 7)


def test_small_head_has_one_linear_layer() -> None:
    with without_values():
        model = build("vgg16", head="small", num_classes=10)
    assert count_parameters(model.head) == 512 * 10 + 10
    assert count_parameters(model) == 14_714_688 + 5130  # torchvision's `features` and this


def test_an_unknown_head_is_refused() -> None:
    with pytest.raises(ValueError, match="no head 'large'"):
        build("tiny", head="large")


# ---- torchvision ---------------------------------------------------------------------------------------------------


def randomized(model: nn.Module) -> nn.Module:
    """Biases and norms as after training, so that they show in the output."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                tensor.uniform_(0.5, 1.5)
            module.running_mean.normal_(0, 0.1)
        if getattr(module, "bias", None) is not None:
            module.bias.data.normal_(0, 0.1)
    return model


def narrow(torchvision: ModuleType, name: str, width: int = 4, hidden: int = 16) -> nn.Module:
    """torchvision's network with few channels and units: its classes leave the layers out of which it is made to the caller."""
    config = {"vgg11": "A", "vgg13": "B", "vgg16": "D", "vgg19": "E"}[name[:5]]
    channels = [c if c == "M" else c * width // 64 for c in torchvision.models.vgg.cfgs[config]]
    with without_values():
        reference = torchvision.models.VGG(nn.Identity(), init_weights=False, dropout=0.3)
    reference.features = torchvision.models.vgg.make_layers(channels, batch_norm=name.endswith("_bn"))
    for place, (into, out) in {0: (channels[-2] * 49, hidden), 3: (hidden, hidden), 6: (hidden, 7)}.items():
        reference.classifier[place] = nn.Linear(into, out)
    return randomized(reference)


@pytest.mark.parametrize("name", ["vgg11", "vgg13_bn", "vgg16_bn", "vgg19"])
@pytest.mark.parametrize(("mode", "height", "width"), [("train", 32, 67), ("eval", 64, 32)])
def test_network_is_torchvision_s_in_outputs_gradients_and_steps(
    torchvision: ModuleType, name: str, mode: str, height: int, width: int
) -> None:
    reference = narrow(torchvision, name)
    model = from_torchvision(reference)
    testing.assert_same_as(model, reference, torch.randn(3, 3, height, width), train=mode == "train")


def test_running_statistics_move_as_torchvision_s(torchvision: ModuleType) -> None:
    reference = narrow(torchvision, "vgg11_bn")
    model = from_torchvision(reference)
    images = torch.randn(2, 3, 32, 32)
    model(images)
    reference(images)
    for (name, own), other in zip(model.named_buffers(), reference.buffers(), strict=True):
        torch.testing.assert_close(own, other, msg=name)


@pytest.mark.parity
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_network_is_torchvision_s(torchvision: ModuleType, name: str) -> None:
    reference = randomized(getattr(torchvision.models, name)(init_weights=False)).double().eval()
    model = from_torchvision(reference).double().eval()
    images = torch.randn(1, 3, 224, 224, dtype=torch.float64)
    with torch.no_grad():
        assert (model(images) - reference(images)).abs().max() <= 1e-9


@pytest.mark.parametrize("name", PUBLISHED)
def test_torchvision_s_networks_are_converted_to_our_presets(torchvision: ModuleType, name: str) -> None:
    with without_values():
        model, preset = from_torchvision(getattr(torchvision.models, name)()), build(name)
    assert str(model) == str(preset)


@pytest.mark.parametrize("name", ["alexnet", "resnet18", "squeezenet1_0"])
def test_networks_of_other_papers_are_refused(torchvision: ModuleType, name: str) -> None:
    with without_values(), pytest.raises(ValueError, match="no VGG"):
        from_torchvision(getattr(torchvision.models, name)())


def test_networks_of_other_channels_are_refused(torchvision: ModuleType) -> None:
    reference = narrow(torchvision, "vgg11")
    reference.features = torchvision.models.vgg.make_layers([4, "M", 8, "M", 16, 16, "M", 32, 16, "M", 16, 32, "M"])
    with pytest.raises(ValueError, match="no VGG"):
        from_torchvision(reference)


# ---- parts by hand -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [28, 30])
def test_small_network_equals_a_plain_stack_of_torch_layers(size: int) -> None:
    def conv(into: int, out: int) -> list[nn.Module]:
        return [nn.Conv2d(into, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU()]

    def pool() -> nn.Module:
        return nn.MaxPool2d(2, ceil_mode=True)

    model = randomized(build("tiny", dropout=0.3))
    twin = nn.Sequential(
        *(*conv(1, 8), pool(), *conv(8, 16), pool(), *conv(16, 32), *conv(32, 32), pool()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.3), nn.Linear(32, 10)),
    )
    twin.load_state_dict(dict(zip(twin.state_dict(), model.state_dict().values(), strict=True)))
    for train_mode in (True, False):
        testing.assert_same_as(model, twin, torch.randn(3, 1, size, size), train=train_mode)


def test_small_head_keeps_28_pixels_through_five_poolings() -> None:
    model = VGG(depths=(1, 1, 1, 1, 1), width=2, in_channels=1, head="small")
    with Probe(model, *(f"blocks.{i}" for i in range(5))) as probe:
        model(torch.randn(1, 1, 28, 28))
    assert [probe[f"blocks.{i}"].shape[-1] for i in range(5)] == [14, 7, 4, 2, 1]


def test_initialisation_has_the_variance_of_fan_out() -> None:
    model = VGG(depths=(1, 2), width=64, hidden=64)
    for kernel, out in [(model.blocks[0].conv1.weight, 64), (model.blocks[1].conv1.weight, 128)]:
        assert kernel.std().item() == pytest.approx((2 / (9 * out)) ** 0.5, rel=0.05)
    for layer in (model.head.fc1, model.head.fc2, model.head.fc3):
        assert layer.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert not any(parameter.any() for name, parameter in model.named_parameters() if name.endswith("bias"))


# ---- laws ----------------------------------------------------------------------------------------------------------


def without_biases_before_norms(model: nn.Module) -> nn.Module:
    """A norm takes the bias of its convolution out again: its gradient is zero but for rounding."""
    layers = list(randomized(model).modules())
    for layer in layers:
        if isinstance(layer, nn.Conv2d) and any(isinstance(other, nn.BatchNorm2d) for other in layers):
            layer.bias.requires_grad_(False)
    return model


test_standard = testing.standard_checks(
    build,
    train.main,
    train.Config(data="fashion_mnist-sample", model="tiny", epochs=1, batch_size=4),
    lambda: synthetic.images(16),
    variants=[{"batch_norm": norm, "head": head, "hidden": 16} for norm in (False, True) for head in ("small", "imagenet")],
    prepare=without_biases_before_norms,
    overfit=[testing.Overfit({"batch_norm": norm}, lambda: synthetic.images(16)) for norm in (False, True)],
)
