"""The network that the recipes of image classifiers share: its head, stem and overrides."""

from typing import Any

import pytest
from torch import nn

from dl.modules.CNN.recipe import build_classifier
from dl.mytorch.data import ImageConfig


@pytest.mark.parametrize("data, channels, classes, stem", [("mnist", 1, 10, "small"), ("cifar100", 3, 100, "small")])
def test_network_has_the_channels_classes_and_stem_of_its_images(data: str, channels: int, classes: int, stem: str) -> None:
    given: dict[str, Any] = {}

    def build(preset: str, **overrides: Any) -> nn.Module:
        given.update(overrides, preset=preset)
        return nn.Identity()

    build_classifier(build, _Config("-", data), part="head", dropout=0.3)
    assert given == {"preset": "tiny", "in_channels": channels, "num_classes": classes, "head": stem, "dropout": 0.3}


class _Config(ImageConfig):
    model: str = "tiny"
