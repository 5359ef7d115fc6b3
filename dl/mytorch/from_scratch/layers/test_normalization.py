"""Norms against torch's: outputs, gradients and running statistics."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dl.mytorch.from_scratch import layers
from dl.mytorch.from_scratch.layers import normalization
from dl.mytorch.testing import assert_same_function

BATCH_NORMS = [("BatchNorm1d", (6, 4)), ("BatchNorm1d", (3, 4, 5)), ("BatchNorm2d", (3, 4, 2, 3))]


def random_weights(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module


@pytest.mark.parametrize(("name", "shape"), BATCH_NORMS)
@pytest.mark.parametrize("momentum", [0.1, 0.7, None])
@pytest.mark.parametrize(("affine", "tracked"), [(True, True), (False, True), (True, False)])
def test_batch_norm_and_its_running_statistics_are_torch_s(
    name: str, shape: tuple[int, ...], momentum: float | None, affine: bool, tracked: bool
) -> None:
    own, twin = (getattr(module, name)(4, 1e-3, momentum, affine, tracked) for module in (layers, nn))
    random_weights(twin)
    for _ in range(3):  # the buffers are compared after each
        assert_same_function(own, twin, 3 * torch.randn(shape) + 2)
    assert_same_function(own.eval(), twin.eval(), torch.randn(shape))
    assert tracked == ("running_mean" in own.state_dict())
    if tracked:
        assert own.num_batches_tracked == 3 and own.running_mean.abs().min() > 0
        for training in (False, True):  # nothing moves the running statistics, which stay numbers
            assert_same_function(own.train(training), twin.train(training), torch.randn(0, *shape[1:]))


def test_batch_norm_refuses_what_torch_s_refuses() -> None:
    with pytest.raises(ValueError, match="no variance"):
        layers.BatchNorm1d(3)(torch.randn(1, 3))
    with pytest.raises(ValueError, match="BatchNorm2d takes"):
        layers.BatchNorm2d(3)(torch.randn(2, 3))


@pytest.mark.parametrize("options", [{}, {"bias": False}, {"elementwise_affine": False}, {"eps": 0.3}], ids=str)
@pytest.mark.parametrize("shape", [5, (5,), (3, 5)])
def test_layer_norm_is_torch_s(shape: Any, options: dict[str, Any]) -> None:
    own, twin = (module.LayerNorm(shape, **options) for module in (layers, nn))
    assert_same_function(own, random_weights(twin), torch.randn(2, 3, 5) + 1)
    assert_same_function(own, twin, torch.randn(0, 3, 5))


@pytest.mark.parametrize("options", [{}, {"elementwise_affine": False}, {"eps": 0.3}], ids=str)
@pytest.mark.parametrize("shape", [5, (3, 5)])
def test_rms_norm_is_torch_s(shape: Any, options: dict[str, Any]) -> None:
    own, twin = (module.RMSNorm(shape, **options) for module in (layers, nn))
    assert_same_function(own, random_weights(twin), torch.randn(2, 3, 5) + 1)
    assert_same_function(own, twin, torch.randn(0, 3, 5))


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("affine", [True, False])
def test_group_norm_is_torch_s(groups: int, affine: bool) -> None:
    own, twin = (module.GroupNorm(groups, 6, 1e-3, affine) for module in (layers, nn))
    random_weights(twin)
    for shape in ((3, 6), (2, 6, 5), (2, 6, 3, 2)):
        assert_same_function(own, twin, torch.randn(shape))
    assert_same_function(own, twin, torch.randn(2, 6, 3, 2).to(memory_format=torch.channels_last))
    with pytest.raises(ValueError, match="4 groups"):
        layers.GroupNorm(4, 6)


@pytest.mark.parametrize("module", [layers, nn])
def test_other_sizes_than_the_weights_are_refused(module: Any) -> None:
    for layer, shape in (
        (module.LayerNorm(5), (4, 1)),
        (module.LayerNorm((3, 5)), (2, 1, 5)),
        (module.RMSNorm(5), (4, 1)),
        (module.GroupNorm(1, 1), (2, 3)),
        (module.GroupNorm(2, 4, affine=False), (2, 3, 2)),  # 3 channels do not divide into 2 groups, though 6 numbers do
        (module.BatchNorm2d(1).eval(), (2, 3, 4, 4)),
    ):
        with pytest.raises((RuntimeError, ValueError)):
            layer(torch.randn(shape))


def test_an_empty_batch_gives_an_empty_batch() -> None:
    assert layers.GroupNorm(2, 4)(torch.randn(0, 4, 3)).shape == (0, 4, 3)  # torch's refuses it


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_number_types_give_torch_s_output_within_their_precision(dtype: torch.dtype) -> None:
    x, tolerance = torch.randn(4, 8, 16, dtype=dtype), {"rtol": 0, "atol": 8 * torch.finfo(dtype).eps}
    torch.testing.assert_close(normalization.layer_norm(x, [16]), F.layer_norm(x, [16]), **tolerance)
    torch.testing.assert_close(normalization.rms_norm(x, [16]), F.rms_norm(x, [16]), **tolerance)
    torch.testing.assert_close(normalization.group_norm(x, 4), F.group_norm(x, 4), **tolerance)
    own, twin = (f(x, None, None, training=True) for f in (normalization.batch_norm, F.batch_norm))
    torch.testing.assert_close(own, twin, **tolerance)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_in_half_precision_outputs_are_torch_s_where_squares_overflow_and_of_its_type(dtype: torch.dtype) -> None:
    x, tolerance = torch.tensor([[300.0, -300.0, 100.0, 50.0]], dtype=dtype), {"rtol": torch.finfo(dtype).eps, "atol": 1e-3}
    weight, running = torch.full((4,), 3.0, dtype=dtype), (torch.full((4,), 50.0), torch.full((4,), 1e5))
    for own, twin, *arguments in (
        (normalization.layer_norm, F.layer_norm, x, [4], weight, weight),
        (normalization.rms_norm, F.rms_norm, x, [4], weight),
        (normalization.rms_norm, F.rms_norm, x / 1e5, [4]),  # where the default of eps counts
        (normalization.group_norm, F.group_norm, x, 2, weight, weight),
        (normalization.batch_norm, F.batch_norm, x, *running),
        (normalization.batch_norm, F.batch_norm, x.T.contiguous(), None, None, None, None, True),
    ):
        torch.testing.assert_close(own(*arguments), twin(*arguments), **tolerance)


def test_gradients_equal_finite_differences() -> None:
    x, weight, bias = (torch.randn(shape).double().requires_grad_() for shape in ((3, 4), (4,), (4,)))

    def by_batch(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return normalization.batch_norm(x, None, None, weight, bias, training=True)

    assert torch.autograd.gradcheck(by_batch, (x, weight, bias))
    assert torch.autograd.gradcheck(lambda *x: normalization.layer_norm(x[0], [4], *x[1:]), (x, weight, bias))
    assert torch.autograd.gradcheck(lambda *x: normalization.group_norm(x[0], 2, *x[1:]), (x, weight, bias))
    assert torch.autograd.gradcheck(lambda *x: normalization.rms_norm(x[0], [4], x[1]), (x, weight))
