"""Models built from our own layers instead of torch.nn's: the same first weights, logits and gradients."""

from typing import Any, Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from dl.cli import catalogue
from dl.mytorch.from_scratch.layers import from_scratch
from dl.mytorch.testing import assert_same_function

# What torch computes these layers with. None of it may run in a model that is built from ours.
KERNELS = {"convolution", "addmm", "relu", "gelu", "silu", "hardtanh", "embedding", "max_pool2d_with_indices", "avg_pool2d"}
KERNELS |= {"native_batch_norm", "native_layer_norm", "native_group_norm", "_scaled_dot_product_flash_attention_for_cpu"}


class Used(TorchDispatchMode):
    """Notes the names of all kernels that run inside."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        self.names.add(function._schema.name.removeprefix("aten::"))
        return function(*args, **(kwargs or {}))


def assert_builds_from_either(build: Callable[[], nn.Module], *inputs: Tensor) -> None:
    """`build` gives the same model from our layers, whose forward pass runs none of torch's kernels for layers."""
    torch.manual_seed(0)
    twin = build().eval()
    torch.manual_seed(0)
    with from_scratch():
        own = build().eval()
    assert own.state_dict().keys() == twin.state_dict().keys()
    for name, value in twin.state_dict().items():
        torch.testing.assert_close(own.state_dict()[name], value, rtol=0, atol=1e-6)
    forward = own.forward

    def inside(*x: Tensor) -> Any:
        with from_scratch():
            return forward(*x)

    own.forward = inside
    with torch.no_grad(), Used() as ours:
        own(*inputs)
    with torch.no_grad(), Used() as theirs:
        twin(*inputs)
    assert theirs.names & KERNELS
    assert not ours.names & KERNELS, f"torch's own {ours.names & KERNELS}: of a layer that dl.mytorch.layers has to have"
    assert_same_function(own, twin, *inputs, tolerance=1e-8)


def test_lenet() -> None:
    build = catalogue.module("CNN/LeNet").build
    for preset in ("modern", "lenet5"):
        assert_builds_from_either(lambda: build(preset), torch.randn(2, 1, 28, 28))


def test_resnet18() -> None:
    build = catalogue.module("CNN/ResNet").build
    assert_builds_from_either(lambda: build("resnet18", width=16, num_classes=10), torch.randn(2, 3, 32, 32))


def test_bert() -> None:
    tokens = torch.randint(1, 50, (2, 12))
    build = catalogue.module("Transformers/BERT").build
    assert_builds_from_either(lambda: build("tiny", vocab_size=50), tokens, torch.zeros_like(tokens), tokens.cumsum(1) > 200)


@pytest.mark.parametrize("name", sorted(set(catalogue.names()) - {"Graph/GAT"}))  # whose layers are all its own
def test_every_model_in_its_smallest_size(name: str) -> None:
    build, example = catalogue.module(name).build, catalogue.module(name).example
    examples = [x.expand(4, *x.shape[1:]) if name == "Linear/LinearRegression" else x for x in example("tiny")]
    as_given = name.startswith(("Graph/", "Detection/"))  # numbers of nodes, boxes and sizes are not just any
    integers = (lambda x: x) if as_given else (lambda x: torch.randint(1, 10, x.shape))
    draw = torch.rand if name == "Generative/RealNVP" else torch.randn  # whose images are in [0, 1]
    floats = (lambda x: x if x.shape[-1] == 4 else draw(x.shape)) if as_given else (lambda x: draw(x.shape))
    inputs = [floats(x) if x.is_floating_point() else integers(x) for x in examples]
    assert_builds_from_either(lambda: build("tiny"), *inputs)
