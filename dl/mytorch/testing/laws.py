"""What holds for every network: gradients flow, one batch is overfitted, no example sees another, layers have names."""

import copy
import sys
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from dl.mytorch import names
from dl.mytorch.data.loader import Batch
from dl.mytorch.introspect import without_values
from dl.mytorch.tasks import Classification, Task
from dl.mytorch.testing.twins import assert_within, real_tensors


def assert_gradients_flow(model: nn.Module, batch: Batch, task: Task | None = None) -> None:
    """After one backward pass every trainable parameter has a finite gradient that is not all zero."""
    model.zero_grad()
    (task or Classification()).step(model, batch).loss.backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, f"{name} gets no gradient"
            assert parameter.grad.isfinite().all(), f"the gradient of {name} is not finite"
            assert parameter.grad.any(), f"the gradient of {name} is zero everywhere"


def assert_overfits(
    model: nn.Module, batch: Batch, task: Task | None = None, lr: float = 1e-2, steps: int = 300, below: float = 0.05
) -> None:
    """At most `steps` of Adam on one batch bring its loss below `below`.

    Choose `lr` so that a third of the steps suffice for any seed: how many it takes depends on the rounding of the processor.
    """
    task = task or Classification()
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, fused=True)
    model.train()
    for _ in range(steps):
        loss = task.step(model, batch).loss
        if loss < below:
            return
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    raise AssertionError(f"the loss on one batch is still {loss.item():.4f} after {steps} steps, not below {below}")


@torch.no_grad()
def assert_batch_independent(model: nn.Module, *inputs: Tensor, tolerance: float = 1e-9) -> None:
    """In evaluation mode an example's output does not depend on the others in its batch. float64."""
    model = copy.deepcopy(model).double().eval()
    inputs = tuple(x.double() if x.is_floating_point() else x for x in inputs)
    together = real_tensors(model(*inputs))
    for i in range(len(inputs[0])):
        for alone, whole in zip(real_tensors(model(*(x[i : i + 1] for x in inputs))), together, strict=True):
            assert_within(f"output of example {i} alone", alone, whole[i : i + 1], tolerance)


@torch.no_grad()
def assert_causal(model: Callable[[Tensor], Tensor], x: Tensor, changed: Tensor, tolerance: float = 0.0) -> None:
    """Output (B, T, ...) at position t depends on input (B, T, ...) up to t alone, and on the input at t at least somewhere.

    `changed` differs from `x` at every position; its end is put in place of that of `x` at each position in turn.
    """
    before = model(x)
    reacts = False
    for t in range(1, x.shape[1]):
        mixed = torch.cat([x[:, :t], changed[:, t:]], dim=1)
        after = model(mixed)
        assert_within(f"output before position {t}, when the input from {t} on changes", after[:, :t], before[:, :t], tolerance)
        reacts |= bool((after[:, t:] != before[:, t:]).any())
    assert reacts, "the output does not depend on the input at all"


def anonymous_layers(model: nn.Module) -> list[str]:
    """Return the layers named by a digit, but for the place in a list of repeated blocks."""
    found = []
    for parent_name, parent in model.named_modules():
        kinds = {type(child) for child in parent.children()}
        repeated = isinstance(parent, nn.ModuleList) and len(kinds) == 1
        for name, _ in parent.named_children():
            if name.isdigit() and not repeated:
                found.append(f"{parent_name}.{name}".lstrip("."))
    return found


def assert_presets_build(build: Callable[..., nn.Module]) -> None:
    """Every preset beside `build` makes a network in which every layer has a name; "tiny" is one, and takes its `example`."""
    module = sys.modules[build.__module__]
    assert "tiny" in module.PRESETS, f"there is no preset tiny beside {', '.join(module.PRESETS)}"
    for preset in module.PRESETS:
        with without_values():
            found = anonymous_layers(build(preset))
        assert not found, f"layers of preset {preset} without a name: {', '.join(found)}"
    with torch.no_grad():
        build("tiny").eval()(*module.example("tiny"))


def assert_earlier_names_load(model: nn.Module, earlier: Mapping[str, str]) -> None:
    """Weights and moments of an earlier version find their parameters, by the table `RENAMED`.

    `earlier` has the names of its parameters, in its order, and today's. Moments are saved by name, and as version 0.1 saved
    them, by position.
    """
    weights = model.state_dict()
    state = names.renamed(model, {old: weights[new] for old, new in earlier.items()})
    assert {name: state[name].data_ptr() for name in state} == {name: weights[name].data_ptr() for name in weights}
    parameters = dict(model.named_parameters())
    before = torch.optim.Adam([parameters[new] for new in earlier.values()])
    for parameter in parameters.values():
        parameter.grad = torch.randn_like(parameter)
    before.step()
    saved = names.by_name(before, model)
    old_names = {new: old for old, new in earlier.items()}
    saved["state"] = {old_names[name]: moments for name, moments in saved["state"].items()}
    saved["param_groups"][0]["params"] = list(earlier)
    for version in (saved, before.state_dict()):
        optimizer = torch.optim.Adam(model.parameters())
        optimizer.load_state_dict(names.by_position(version, optimizer, model, list(state), "the checkpoint"))
        for name, parameter in parameters.items():
            assert torch.equal(optimizer.state[parameter]["exp_avg"], before.state[parameter]["exp_avg"]), name
