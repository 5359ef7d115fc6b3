"""What a file of weights or of a training's state may hold: everything is checked before anything of it is used."""

import math
from typing import Any

import torch
from torch import Tensor

from dl.mytorch.config import UserError
from dl.mytorch.files import check, shown

STATE = {  # of last.pt; its history is checked where it is read
    **{"position": [int], "length": [int], "logged?": [float], "history": [{str: object}]},
    **{"train_sums": {str: Tensor}, "task": {str: Tensor}, "rng": [{"python": object, "numpy": object, "torch": Tensor}]},
    **{"optimizers": [{"state": {str: {str: (Tensor, float, bool, None)}}, "param_groups": [{str: object}]}]},
    **{"shards?": str, "model?": {str: Tensor}, "ema?": ({str: Tensor}, None)},
}
# What is copied exactly into weights of another type: halves of published weights. Anything else would be rounded.
WIDER = {torch.float16: (torch.float32, torch.float64), torch.bfloat16: (torch.float32, torch.float64)}
WIDER |= {torch.float32: (torch.float64,)}


def check_state(state: Any, where: str) -> dict[str, Any]:
    """Return `state`, what last.pt holds, if it has the structure that a save gives it; else raise `UserError`."""
    check(state, STATE, where)
    for name, length in (("position", 3), ("length", 2), ("logged", 2)):
        if len(state.get(name, range(length))) != length:
            raise UserError(f"{where}: {name} has to be {length} numbers; got {shown(state[name])}")
    if min(*state["position"], *state["length"]) < 0:
        raise UserError(f"{where}: position and length have to be 0 or more; got {state['position']} and {state['length']}")
    if ("model" in state) == ("shards" in state):
        raise UserError(f"{where} has to hold either a model or the name of its shards")
    for part in ("train_sums", "task"):
        for name, tensor in state[part].items():
            if problem := problem_of(tensor):
                raise UserError(f"{where}: {part}.{name} {problem}")
    return state


def problem_of(tensor: Any) -> str:
    """Why this is no plain tensor in memory of its own; "" if it is."""
    if not isinstance(tensor, Tensor) or type(tensor) not in (Tensor, torch.nn.Parameter):
        return f"is {type(tensor).__name__}, not a tensor"
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.device.type == "meta":
        return "is not a plain tensor"
    if tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
        return "has fewer numbers than its shape says"  # an expanded tensor
    return ""


def problem_of_weight(weight: Any, own: Tensor) -> str:
    """Why `weight` cannot be copied into the parameter or buffer `own` of a model; "" if it can.

    Half-precision weights are taken for float32 and float64, float32 for float64: that is exact. No other type is.
    """
    shape = tuple(getattr(weight, "shape", ()))
    if not isinstance(weight, Tensor) or shape != tuple(own.shape):
        return f"of shape {shape}, the model's is {tuple(own.shape)}"
    if problem := problem_of(weight):
        return f"which {problem}"
    if weight.dtype != own.dtype and own.dtype not in WIDER.get(weight.dtype, ()):
        return f"of type {_word(weight.dtype)}, the model's is {_word(own.dtype)}"
    if weight.is_floating_point() and weight.numel() and not all(map(math.isfinite, weight.detach().aminmax())):
        return "with numbers that are not finite"
    return ""


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def check_optimizer(saved: dict[str, Any], optimizer: torch.optim.Optimizer, where: str) -> None:
    """Raise `UserError` unless `saved`, of the structure in `STATE`, can be the state of `optimizer`."""
    groups = optimizer.state_dict()["param_groups"]
    if len(groups) != len(saved["param_groups"]):
        raise UserError(f"{where} has {len(saved['param_groups'])} groups of parameters, the optimizer has {len(groups)}")
    for own, group in zip(groups, saved["param_groups"]):
        for name in own:
            if name in group and not _alike(group[name], own[name]) or name not in group and name in ("params", "lr"):
                raise UserError(f"{where}: {name} cannot be {shown(group.get(name))} where the optimizer has {shown(own[name])}")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    names = {frozenset(of_one) for of_one in saved["state"].values()}
    if len(names) > 1 or not set(saved["state"]) <= set(range(len(parameters))):
        raise UserError(f"{where}: its parameters have unlike states, or there are too many")
    for place, of_one in saved["state"].items():
        for name, value in of_one.items():
            problem = problem_of(value) if isinstance(value, Tensor) else ""
            if isinstance(value, Tensor) and not problem:
                problem = _problem_beside(value, parameters[place])
            if problem:
                raise UserError(f"{where}: {name} of parameter {place} {problem}")


def _problem_beside(value: Tensor, parameter: Tensor) -> str:
    shapes = zip(reversed(value.shape), reversed(parameter.shape))
    if value.ndim > parameter.ndim or any(n not in (1, whole) for n, whole in shapes):
        return f"has shape {tuple(value.shape)}, the parameter has {tuple(parameter.shape)}"
    if value.is_complex() or value.dtype is torch.bool:
        return f"has type {_word(value.dtype)}"
    return "has numbers that are NaN" if bool(value.isnan().any()) else ""


def _alike(saved: Any, own: Any) -> bool:
    """Whether these are options of an optimizer of one kind."""
    if isinstance(own, (tuple, list)):
        return type(saved) is type(own) and len(saved) == len(own) and all(map(_alike, saved, own))
    if isinstance(own, Tensor):
        return isinstance(saved, (Tensor, float)) and math.isfinite(saved)
    if isinstance(own, (bool, type(None))):
        return isinstance(saved, (bool, type(None)))
    if isinstance(own, (int, float)):
        return isinstance(saved, (int, float)) and not isinstance(saved, bool) and abs(saved) <= 1e308
    return isinstance(saved, type(own))
