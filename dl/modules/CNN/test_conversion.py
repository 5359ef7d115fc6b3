"""Copies of torchvision's networks: whatever their constructors are given is carried over or refused."""

import copy
import importlib
import inspect
import warnings
from functools import partial
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

# Norms that a network can be given; the first are batch norms with other settings, the last are none.
NORMS = [
    partial(nn.BatchNorm2d, eps=0.1),
    partial(nn.BatchNorm2d, momentum=0.5),
    partial(nn.BatchNorm2d, track_running_stats=False),
    partial(nn.BatchNorm2d, affine=False),
    partial(nn.InstanceNorm2d, affine=True, track_running_stats=True),
    partial(nn.GroupNorm, 1),
]


def variations(tv: ModuleType) -> dict[str, tuple[type, dict[str, Any], dict[str, list[Any]]]]:
    """Name -> class, arguments of a small network, and for each argument of the class other values."""
    return residual(tv) | mobile(tv) | others(tv)


def residual(tv: ModuleType) -> dict[str, tuple[type, dict[str, Any], dict[str, list[Any]]]]:
    resnet, frozen = tv.models.resnet, tv.ops.FrozenBatchNorm2d
    stages = {"block": [resnet.BasicBlock, resnet.Bottleneck], "layers": [[1, 2, 1, 1]], "num_classes": [4]}
    stages |= {"zero_init_residual": [True], "groups": [2], "width_per_group": [4, 128]}
    stages |= {"replace_stride_with_dilation": [[False, False, True], [True, True, True]], "norm_layer": [*NORMS, frozen]}
    small = {"block": resnet.Bottleneck, "layers": [1, 1, 1, 1], "num_classes": 3}
    return {
        "ResNet": (resnet.ResNet, small, stages),
        "ResNeXt": (resnet.ResNet, small | {"groups": 2, "width_per_group": 4}, stages),
        "WideResNet": (resnet.ResNet, small | {"width_per_group": 128}, stages),
    }


def mobile(tv: ModuleType) -> dict[str, tuple[type, dict[str, Any], dict[str, list[Any]]]]:
    models, frozen = tv.models, tv.ops.FrozenBatchNorm2d
    mb = partial(models.efficientnet.MBConvConfig, 6, 3, 2, 8, 16, 1)
    fused = models.efficientnet.FusedMBConvConfig(4, 3, 2, 16, 16, 1)
    return {
        "MobileNetV2": (
            models.MobileNetV2,
            {"inverted_residual_setting": [[1, 8, 1, 1], [6, 8, 2, 2]], "num_classes": 3},
            {
                "num_classes": [4],
                "width_mult": [0.5],
                "inverted_residual_setting": [[[2, 8, 1, 1]]],
                "round_nearest": [4],
                "block": [type("Other", (models.mobilenetv2.InvertedResidual,), {})],
                "norm_layer": [*NORMS, frozen],
                "dropout": [0.0, 0.7],
            },
        ),
        "EfficientNet": (
            models.EfficientNet,
            {"inverted_residual_setting": [mb(1)], "dropout": 0.0, "num_classes": 3},
            {
                "inverted_residual_setting": [[mb(2)], [fused]],
                "dropout": [0.5],
                "stochastic_depth_prob": [0.0, 0.5],
                "num_classes": [4],
                "norm_layer": [*NORMS, frozen],
                "last_channel": [24],
            },
        ),
    }


def others(tv: ModuleType) -> dict[str, tuple[type, dict[str, Any], dict[str, list[Any]]]]:
    models, cn = tv.models, tv.models.convnext.CNBlockConfig
    return {
        "ConvNeXt": (
            models.ConvNeXt,
            {"block_setting": [cn(8, 16, 1), cn(16, 16, 1), cn(16, 16, 1), cn(16, None, 1)], "num_classes": 3},
            {
                "block_setting": [[cn(8, 16, 2), cn(16, None, 1)]],
                "stochastic_depth_prob": [0.5],
                "layer_scale": [1.0],
                "num_classes": [4],
                "block": [type("Other", (models.convnext.CNBlock,), {})],
                "norm_layer": [partial(models.convnext.LayerNorm2d, eps=0.1), partial(nn.GroupNorm, 1)],
            },
        ),
        "DenseNet": (
            models.DenseNet,
            {"growth_rate": 4, "block_config": (1, 1, 1, 1), "num_init_features": 8, "num_classes": 3},
            {
                "growth_rate": [6],
                "block_config": [(1, 2, 1)],
                "num_init_features": [6],
                "bn_size": [2],
                "drop_rate": [0.5],
                "num_classes": [4],
                "memory_efficient": [True],
            },
        ),
        "GoogLeNet": (
            models.GoogLeNet,
            {"num_classes": 3, "init_weights": False},
            {
                "num_classes": [4],
                "aux_logits": [False],
                "transform_input": [True],
                "init_weights": [],
                "blocks": [],
                "dropout": [0.0],
                "dropout_aux": [0.0],
            },
        ),
        "SqueezeNet": (models.SqueezeNet, {"num_classes": 3}, {"version": ["1_1"], "num_classes": [4], "dropout": [0.1]}),
    }


NAMES = ("ResNet", "ResNeXt", "WideResNet", "MobileNetV2", "EfficientNet", "ConvNeXt", "DenseNet", "GoogLeNet", "SqueezeNet")


def assert_same_or_refused(name: str, reference: nn.Module, what: str) -> bool:
    """Whether a copy is made, which then has the same outputs in evaluation and in training."""
    convert = importlib.import_module(f"dl.modules.CNN.{name}.convert").from_torchvision
    try:
        model = convert(reference)
    except ValueError:
        return False
    images = torch.randn(2, 3, 40, 40).double()
    model, reference = copy.deepcopy(model).double(), reference.double()
    for train in (False, True, False):  # the last one shows what training has made of the buffers
        outputs = []
        for network in (model, reference):
            torch.manual_seed(0)
            output = network.train(train)(images)
            outputs.append(output if isinstance(output, Tensor) else output[0])
        torch.testing.assert_close(*outputs, msg=lambda text: f"{name} with another {what}: {text}")
    return True


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_every_argument_of_the_reference_is_carried_over_or_refused(torchvision: ModuleType, name: str) -> None:
    cls, small, others = variations(torchvision)[name]
    arguments = set(inspect.signature(cls).parameters) - {"kwargs"}
    assert set(others) | set(small) == arguments, "an argument of the reference has no test"
    warnings.simplefilter("ignore")
    assert assert_same_or_refused(name, cls(**small), "nothing")
    for argument, values in others.items():
        for value in values:
            try:
                reference = cls(**{**small, argument: value})
            except (ValueError, NotImplementedError, AttributeError):
                continue  # torchvision refuses the combination itself
            assert_same_or_refused(name, reference, f"{argument} {value}")


def test_another_norm_is_refused_by_its_name(torchvision: ModuleType) -> None:
    for name, options in (("ResNet", {}), ("ResNeXt", {"groups": 2}), ("WideResNet", {"width_per_group": 128})):
        convert = importlib.import_module(f"dl.modules.CNN.{name}.convert").from_torchvision
        with torch.device("meta"):
            norm = partial(nn.BatchNorm2d, eps=0.1)
            bottleneck = torchvision.models.resnet.Bottleneck
            reference = torchvision.models.resnet.ResNet(bottleneck, [1, 1, 1, 1], norm_layer=norm, **options)
            with pytest.raises(ValueError, match=r"it has BatchNorm2d\(64, eps=0.1"):
                convert(reference)
