"""Both ways of the convolution against torch's, over a grid of its arguments."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dl.mytorch.from_scratch import layers
from dl.mytorch.from_scratch.layers.conv import conv2d, conv2d_by_sums, windows
from dl.mytorch.testing import assert_same_function

OPTIONS: list[dict[str, Any]] = [
    {},
    {"stride": 2},
    {"stride": (1, 3), "padding": 1},
    {"padding": (2, 1)},
    {"padding": "valid", "stride": 2},
    {"padding": "same"},
    {"padding": "same", "dilation": (1, 2)},
    {"dilation": 2, "padding": 2},
    {"dilation": (2, 1), "stride": (2, 1), "padding": (0, 2)},
]


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("function", [conv2d, conv2d_by_sums])
def test_functions_equal_torch_s(function: Any, groups: int, options: dict[str, Any]) -> None:
    options = {"groups": groups, **options}
    for size, bias in (((3, 2), torch.randn(8)), ((1, 4), None)):
        inputs = (torch.randn(2, 4, 7, 8), torch.randn(8, 4 // groups, *size), bias)
        assert_same_function(lambda *x: function(*x, **options), lambda *x: F.conv2d(*x, **options), *inputs)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("padding", [(2, 1), "same", "valid"])
def test_layers_equal_torch_s(mode: str, padding: Any) -> None:
    for bias in (True, False):
        options = {"padding": padding, "bias": bias, "padding_mode": mode, "groups": 2, "dilation": (1, 2)}
        own, twin = (module.Conv2d(4, 6, (3, 2), **options) for module in (layers, nn))
        assert_same_function(own, twin, torch.randn(2, 4, 6, 7))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": 2, "padding": 1, "groups": 2},
        {"padding": "same", "dilation": 2, "bias": False},
        {"padding": "valid", "stride": (3,), "dilation": (2,)},
    ],
    ids=str,
)
def test_convolutions_of_sequences_equal_torch_s(options: dict[str, Any]) -> None:
    own, twin = (module.Conv1d(4, 6, 3, **options) for module in (layers, nn))
    assert_same_function(own, twin, torch.randn(2, 4, 9))
    assert_same_function(own, twin, torch.randn(0, 4, 9))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": 2, "padding": 1, "output_padding": 1},
        {"stride": (3, 2), "padding": (0, 1), "output_padding": (2, 0), "groups": 2},
        {"dilation": (2, 1), "padding": 1, "bias": False},
        {"stride": 2, "padding": 4, "dilation": 2},
    ],
    ids=str,
)
def test_the_way_back_equals_torch_s(options: dict[str, Any]) -> None:
    own, twin = (module.ConvTranspose2d(4, 6, (3, 4), **options) for module in (layers, nn))
    assert_same_function(own, twin, torch.randn(2, 4, 5, 6))
    assert_same_function(own, twin, torch.randn(0, 4, 5, 6))


@pytest.mark.parametrize("function", [conv2d, conv2d_by_sums])
def test_an_empty_batch_gives_an_empty_batch(function: Any) -> None:
    assert_same_function(function, F.conv2d, torch.randn(0, 3, 5, 5), torch.randn(2, 3, 3, 3), torch.randn(2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("function", [conv2d, conv2d_by_sums])
def test_other_number_types_give_torch_s_output_within_their_precision(function: Any, dtype: torch.dtype) -> None:
    x, weight = torch.randn(2, 3, 6, 6, dtype=dtype), torch.randn(4, 3, 3, 3, dtype=dtype)
    torch.testing.assert_close(function(x, weight), F.conv2d(x, weight), rtol=0, atol=40 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("function", [conv2d, conv2d_by_sums])
def test_gradients_equal_finite_differences(function: Any) -> None:
    inputs = [torch.randn(shape).double().requires_grad_() for shape in ((1, 2, 4, 3), (2, 1, 2, 2), (2,))]
    assert torch.autograd.gradcheck(lambda *x: function(*x, stride=(2, 1), padding=1, groups=2), inputs)


def test_windows_are_what_the_kernel_sees() -> None:
    image = torch.arange(20.0).view(1, 1, 4, 5)
    seen = windows(image, 2, stride=(2, 1), dilation=(1, 2))
    assert seen.shape == (1, 1, 2, 3, 2, 2)
    assert seen[0, 0, 1, 2].tolist() == [[12, 14], [17, 19]]
    assert seen.untyped_storage().data_ptr() == image.untyped_storage().data_ptr()


def test_a_seed_gives_the_weights_of_torch_s() -> None:
    for name, size in (("Conv2d", (3, 1)), ("Conv1d", 3), ("ConvTranspose2d", (3, 1))):
        states = []
        for module in (layers, nn):
            torch.manual_seed(2)
            states.append(getattr(module, name)(4, 6, size, groups=2).state_dict())
        assert all(torch.equal(states[0][part], states[1][part]) for part in ("weight", "bias"))


def test_what_cannot_be_is_refused() -> None:
    x, weight = torch.randn(1, 1, 4, 4), torch.randn(1, 1, 3, 3)
    with pytest.raises(ValueError, match=r"stride \(2, 2\) does not"):
        conv2d(x, weight, stride=2, padding="same")
    with pytest.raises(ValueError, match="'wide': the words"):
        conv2d(x, weight, padding="wide")
    with pytest.raises(ValueError, match="3 groups"):
        layers.Conv2d(6, 4, 1, groups=3)


@pytest.mark.parametrize("module", [layers, nn])
def test_another_number_of_channels_is_refused(module: Any) -> None:
    for groups in (1, 4):  # in groups of one channel, any number of them could be one
        for channels in (groups + 2, 2 * groups):
            for name, x in (("Conv1d", torch.randn(2, channels, 5)), ("Conv2d", torch.randn(2, channels, 5, 5))):
                with pytest.raises(RuntimeError):
                    getattr(module, name)(groups, 4, 3, groups=groups)(x)
            with pytest.raises(RuntimeError):
                module.ConvTranspose2d(groups, 4, 3, groups=groups)(torch.randn(2, channels, 5, 5))
    with pytest.raises(RuntimeError):
        conv2d_by_sums(torch.randn(2, 3, 5, 5), torch.randn(4, 1, 3, 3))
