"""The maps of a ResNet and the pyramid on top of them, against torchvision's."""

from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dl.modules.CNN.ResNet.model import build
from dl.modules.Detection.backbone import FPN, FrozenNorm, ResNetFeatures
from dl.mytorch import testing
from dl.mytorch.introspect import count_parameters, without_values


@pytest.mark.parametrize(
    ("preset", "options", "channels", "strides"),
    [
        ("resnet18", {"width": 4}, [8, 16, 32], [8, 16, 32]),
        ("resnet50", {"width": 4, "stages": (1, 2, 3, 4)}, [16, 32, 64, 128], [4, 8, 16, 32]),
        ("resnet18", {"width": 4, "stages": (1, 3), "stem": "small"}, [4, 16], [1, 4]),
        ("small", {"stages": (2,)}, [32], [4]),
    ],
)
def test_maps_have_the_channels_and_strides_that_are_stated(
    preset: str, options: dict[str, Any], channels: list[int], strides: list[int]
) -> None:
    with without_values():
        model = ResNetFeatures(preset, in_channels=1, **options)
        maps = model(torch.zeros(2, 1, 96, 72))
    assert model.channels == channels and model.strides == strides
    assert [m.shape for m in maps] == [(2, c, -(-96 // s), -(-72 // s)) for c, s in zip(channels, strides)]


def test_maps_are_those_of_the_classifier_and_nothing_is_built_in_vain() -> None:
    torch.manual_seed(0)
    classifier = build("tiny", depths=(1, 2, 1)).eval()
    torch.manual_seed(0)
    model = ResNetFeatures("tiny", depths=(1, 2, 1), stages=(1, 2)).eval()
    images, maps = torch.randn(1, 3, 8, 8), []
    with torch.no_grad():
        x = classifier.stem(images)
        for block in classifier.blocks:
            x = block(x)
            maps.append(x)
        found = model(images)
    assert len(model.blocks) == 3 and torch.equal(found[0], maps[0]) and torch.equal(found[1], maps[2])


def test_frozen_norms_have_no_parameters_and_the_same_output_in_training() -> None:
    model = ResNetFeatures("tiny", stages=(1, 2), frozen=True, eps=0.0)
    norms = [m for m in model.modules() if isinstance(m, FrozenNorm)]
    assert len(norms) == 5 and all(norm.eps == 0 and not list(norm.parameters()) for norm in norms)
    images = torch.randn(2, 3, 8, 8)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert torch.equal(model.train()(images)[-1], model.eval()(images)[-1])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("eps", [0.0, 1e-5, 0.1])
def test_a_frozen_norm_is_torchvision_s_with_its_eps(torchvision: ModuleType, eps: float) -> None:
    own, reference = FrozenNorm(3, eps), torchvision.ops.FrozenBatchNorm2d(3, eps)
    for value in own.buffers():
        value.uniform_(0.5, 1.5)
    testing.assert_same_function(own, reference, torch.randn(2, 3, 4, 5), tolerance=1e-12)


def test_the_paper_s_backbone_with_frozen_norms_has_torchvision_s_parameters() -> None:
    with without_values():
        count = count_parameters(ResNetFeatures("resnet50", frozen=True))
        live = count_parameters(ResNetFeatures("resnet50"))
    assert (count, live) == (23_454_912, 23_508_032)  # ResNet-50 without head: 25,557,032 - 2,049,000; its norms: 53,120


class Pyramid(nn.Module):
    """torchvision's FPN, which reads and gives a dict."""

    def __init__(self, fpn: nn.Module) -> None:
        super().__init__()
        self.fpn = fpn

    def forward(self, *maps: Tensor) -> list[Tensor]:
        return list(self.fpn(dict(zip("012", maps))).values())


class Listed(nn.Module):
    def __init__(self, fpn: FPN) -> None:
        super().__init__()
        self.fpn = fpn

    def forward(self, *maps: Tensor) -> list[Tensor]:
        return self.fpn(list(maps))


@pytest.mark.parametrize("extra", ["none", "pool", "p6p7"])
def test_the_pyramid_is_torchvision_s_in_outputs_gradients_and_steps(torchvision: ModuleType, extra: str) -> None:
    blocks = torchvision.ops.feature_pyramid_network
    top = {"none": None, "pool": blocks.LastLevelMaxPool(), "p6p7": blocks.LastLevelP6P7(8, 8)}[extra]
    reference, own = blocks.FeaturePyramidNetwork([3, 4, 5], 8, top), FPN([3, 4, 5], 8, extra)
    for parameter in reference.parameters():
        nn.init.normal_(parameter, std=0.3)  # biases, too
    own.load_state_dict(dict(zip(own.state_dict(), reference.state_dict().values())))
    maps = [torch.randn(2, c, h, w) for c, h, w in ((3, 9, 13), (4, 5, 7), (5, 3, 4))]  # sides that do not divide
    outputs = own(maps)
    assert len(outputs) == 3 + FPN.EXTRA[extra]
    testing.assert_same_as(Listed(own), Pyramid(reference), *maps)


def test_the_pyramid_starts_as_torchvision_s(torchvision: ModuleType) -> None:
    own = FPN([40, 20], 30, "p6p7")
    for conv, fan_in in ((own.lateral[0], 40), (own.output[1], 270), (own.p7, 270)):
        assert conv.weight.var().item() == pytest.approx(1 / fan_in, rel=0.15) and not conv.bias.any()
    with pytest.raises(ValueError, match="extra 'p6' is one of none, pool, p6p7"):
        FPN([3], 3, "p6")
