import numpy as np
import pytest
import torch
from torch.nn import functional as F

from dl.mytorch.from_scratch.autograd import Tensor, avg_pool2d, conv2d, cross_entropy, functions, log_softmax, max_pool2d
from dl.mytorch.from_scratch.autograd.testing import compare, normal


@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (2, 1), (3, 2)])
def test_convolution_equals_torch_s(stride: int, padding: int) -> None:
    compare(
        lambda *x: conv2d(*x, stride=stride, padding=padding),
        lambda *x: F.conv2d(*x, stride=stride, padding=padding),
        *(normal(2, 2, 6, 5), normal(3, 2, 3, 2), normal(3)),
    )


@pytest.mark.parametrize("size", [2, 3])
def test_pooling_equals_torch_s(size: int) -> None:
    compare(lambda x: max_pool2d(x, size), lambda x: F.max_pool2d(x, size), normal(2, 2, 6, 7))
    compare(lambda x: avg_pool2d(x, size), lambda x: F.avg_pool2d(x, size), normal(2, 2, 6, 7))


def test_softmax_and_cross_entropy_equal_torch_s() -> None:
    labels = np.array([0, 2, 2, 1])
    compare(log_softmax, lambda x: F.log_softmax(x, -1), normal(4, 3))
    compare(lambda x: cross_entropy(x, labels), lambda x: F.cross_entropy(x, torch.from_numpy(labels)), normal(4, 3))


def test_large_logits_do_not_overflow() -> None:
    assert cross_entropy(Tensor(np.array([[1e4, 0.0]])), np.array([1])).data == 1e4


def test_windows_are_what_the_kernel_sees() -> None:
    seen = functions.windows(Tensor(np.arange(20.0).reshape(1, 1, 4, 5)), (2, 2), stride=2).data
    assert seen.shape == (1, 1, 2, 2, 2, 2)
    assert seen[0, 0, 1, 1].tolist() == [[12, 13], [17, 18]]
