"""Comparing a network or function with a twin: outputs, gradients, steps. What differs is in the `AssertionError`."""

import copy
import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)

LARGEST: dict[str, float] = {}  # the largest differences so far, and the tolerance: what `pytest --proof` records of a test


def randomize_norms(model: Model, scale: tuple[float, float] = (0.5, 1.5), shift: float = 0.1) -> Model:
    """Batch norms as after training, so that their scales, shifts and running statistics show in the output; gives `model`.

    Scales and variances are uniform in `scale`, shifts and means normal with std `shift`.
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                tensor.uniform_(*scale)
            for tensor in (module.bias.data, module.running_mean):
                tensor.normal_(0, shift)
    return model


def assert_same_as(
    model: nn.Module, twin: nn.Module, *inputs: Tensor, tolerance: float = 1e-9, steps: int = 3, train: bool = False
) -> None:
    """Same outputs, same gradients of parameters and inputs, same weights after `steps` of SGD, all in float64.

    `twin` has to hold a copy of the model's weights already; parameters are compared in the order of `parameters()`. Of nested
    outputs every tensor is compared. The loss is a random linear function of the output, so that no gradient cancels.
    """
    model, twin = (copy.deepcopy(m).double().train(train) for m in (model, twin))
    counts = [len(list(m.parameters())) for m in (model, twin)]
    assert counts[0] == counts[1], f"{counts[0]} parameters, the twin has {counts[1]}"
    pairs = list(zip(model.named_parameters(), twin.parameters()))
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.01, momentum=0.9) for m in (model, twin)]
    own_inputs, twin_inputs = ([_leaf(x) for x in inputs] for _ in range(2))
    weights: list[Tensor] = []
    for step in range(steps):
        torch.manual_seed(step)
        outputs = real_tensors(model(*own_inputs))
        torch.manual_seed(step)
        expected = real_tensors(twin(*twin_inputs))
        assert len(outputs) == len(expected) > 0, f"{len(outputs)} outputs, the twin has {len(expected)}"
        for i, (own, other) in enumerate(zip(outputs, expected)):
            assert_within(f"output{'s' if len(outputs) == 1 else f' {i}'} at step {step}", own, other, tolerance)
        weights = weights or [torch.randn_like(own) for own in outputs]
        for optimizer, results in zip(optimizers, (outputs, expected)):
            optimizer.zero_grad()
            torch.stack([(weight * result).mean() for weight, result in zip(weights, results)]).sum().backward()
        gradients = [(f"gradient of {name} at step {step}", own.grad, other.grad) for (name, own), other in pairs]
        _all_within(gradients, tolerance)
        for i, (own, other) in enumerate(zip(own_inputs, twin_inputs)):
            if own.requires_grad:
                assert_within(f"gradient of input {i} at step {step}", own.grad, other.grad, tolerance)
        for optimizer in optimizers:
            optimizer.step()
    _all_within([(f"{name} after {steps} steps", own, other) for (name, own), other in pairs], tolerance)


def assert_same_function(
    own: Callable[..., Any], twin: Callable[..., Any], *inputs: Any, tolerance: float = 1e-10, seed: int = 0
) -> None:
    """Same outputs for `inputs`, and same gradients of all of these that are real numbers, which become float64.

    Of two modules also: the same names in the state dict, the twin's weights (which `own` gets here) have the same
    gradients, and buffers are the same afterwards. Outputs may be tuples of tensors. Randomness starts from `seed`.
    """
    modules = isinstance(own, nn.Module) and isinstance(twin, nn.Module)
    if modules:
        own.double().load_state_dict(twin.double().state_dict())
    results = []
    for function in (own, twin):
        leaves = [_leaf(x) if isinstance(x, Tensor) else x for x in inputs]
        torch.manual_seed(seed)
        outputs = real_tensors(function(*leaves))
        torch.manual_seed(seed)
        weights = [torch.randn(y.shape, dtype=y.dtype) for y in outputs]  # of a linear function: no gradient cancels
        wanted = {f"input {i}": x for i, x in enumerate(leaves) if isinstance(x, Tensor) and x.requires_grad}
        wanted |= {name: x for name, x in function.named_parameters() if x.requires_grad} if modules else {}
        gradients = torch.autograd.grad(outputs, [*wanted.values()], weights, materialize_grads=True) if wanted else ()
        result = {f"output {i}": y for i, y in enumerate(outputs)}
        result |= {f"gradient of {name}": gradient for name, gradient in zip(wanted, gradients)}
        buffers = {name: buffer.double() for name, buffer in function.named_buffers()} if modules else {}
        results.append(result | buffers)
    assert results[0].keys() == results[1].keys(), f"{list(results[0])}, the twin has {list(results[1])}"
    _all_within([(name, tensor, results[1][name]) for name, tensor in results[0].items()], tolerance)


def real_tensors(output: Any) -> list[Tensor]:
    """Return the tensors of real numbers in nested tuples, lists and dicts."""
    if isinstance(output, dict):
        output = tuple(output.values())
    if isinstance(output, (tuple, list)):
        return [tensor for part in output for tensor in real_tensors(part)]
    return [output] if isinstance(output, Tensor) and output.is_floating_point() else []


def _leaf(x: Tensor) -> Tensor:
    return x.detach().double().requires_grad_() if x.is_floating_point() else x


def assert_within(what: str, own: Tensor | None, other: Tensor | None, tolerance: float) -> None:
    assert own is not None and other is not None, f"{what}: missing"
    assert own.shape == other.shape, f"{what}: shape {tuple(own.shape)}, the twin's is {tuple(other.shape)}"
    difference = torch.dist(own.detach(), other.detach(), math.inf).item() if own.numel() else 0.0
    _note(what, difference, tolerance)
    assert difference <= tolerance, f"{what}: differs by {difference:.3g}, more than {tolerance:g}"


@torch.no_grad()
def _all_within(pairs: list[tuple[str, Tensor | None, Tensor | None]], tolerance: float) -> None:
    """`assert_within` of each: what it is, and the two tensors. As long as nothing differs, all are compared at once."""
    if pairs and all(x is not None and y is not None and x.shape == y.shape and x.numel() for _, x, y in pairs):
        differences = torch._foreach_sub([x for _, x, _ in pairs], [y for *_, y in pairs])
        largest = torch.stack(torch._foreach_norm(differences, math.inf)).tolist()
        if all(difference <= tolerance for difference in largest):
            for (what, *_), difference in zip(pairs, largest):
                _note(what, difference, tolerance)
            return
    for what, own, other in pairs:
        assert_within(what, own, other, tolerance)


def _note(what: str, difference: float, tolerance: float) -> None:
    """Keep `difference` in `LARGEST` if nothing of its kind differed more."""
    kind = "gradients" if what.startswith("gradient") else "weights" if what.endswith(" steps") else "outputs"
    for name, value in ((kind, difference), ("tolerance", tolerance)):
        LARGEST[name] = max(LARGEST.get(name, 0.0), value)
