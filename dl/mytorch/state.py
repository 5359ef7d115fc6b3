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
    **{"own?": {str: object}, "shards?": str, "model?": {str: Tensor}, "ema?": ({str: Tensor}, None)},
}
# What is copied exactly into weights of another type: halves of pretrained weights. Anything else would be rounded.
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
    if not state["rng"]:
        raise UserError(f"{where} lacks the state of the generators of random numbers")
    for i, generators in enumerate(state["rng"]):  # version, words, the next normal number
        check(generators["python"], [object], where, f"rng[{i}].python")
        check(list(generators["python"])[2:], [(float, None)], where, f"rng[{i}].python[2]")
    if ("model" in state) == ("shards" in state):
        raise UserError(f"{where} has to hold either a model or the name of its shards")
    for part in ("train_sums", "task"):
        for name, tensor in state[part].items():
            if problem := problem_of(tensor):
                raise UserError(f"{where}: {part}.{name} {problem}")
    return state


def check_position(state: dict[str, Any], length: tuple[int, int], accumulate: int, where: Any) -> None:
    """Raise `UserError` unless `state` is of a run of this `length`, steps of an epoch and in all, and between two of them."""
    if tuple(state["length"]) != length:
        raise UserError(
            f"{where} is of a run with {state['length'][0]} steps an epoch, the data now gives {length[0]}: "
            "choose another --out, or --fresh to start over"
        )
    step, epoch, batch = state["position"]
    if batch > length[0] * accumulate or step != length[0] * epoch + math.ceil(batch / accumulate):
        raise UserError(f"{where} is damaged: step {step} is not at batch {batch} of epoch {epoch}")


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


def check_optimizer(saved: dict[str, Any], optimizer: torch.optim.Optimizer, where: str) -> dict[str, Any]:
    """Return `saved`, of the structure in `STATE`, as the state that `optimizer` can load; raise `UserError` if it is none.

    Of the options of its groups only the learning rate is taken: all others are the recipe's, and have to be the same.
    """
    groups = optimizer.state_dict()["param_groups"]
    if len(groups) != len(saved["param_groups"]):
        raise UserError(f"{where} has {len(saved['param_groups'])} groups of parameters, the optimizer has {len(groups)}")
    taken = []
    for own, group in zip(groups, saved["param_groups"]):
        check(group, {"lr": float}, where)
        for name in own.keys() & group.keys() - {"lr"}:
            if not isinstance(own[name], (bool, type(None))) and _differ(group[name], own[name]):  # else it is how, not what
                raise UserError(f"{where}: {name} is {shown(group[name])} there, {shown(own[name])} in this run")
        taken.append({**own, "lr": group["lr"]})
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    kinds = {tuple(sorted((name, type(value).__name__) for name, value in state.items())) for state in saved["state"].values()}
    if len(kinds) > 1 or not set(saved["state"]) <= set(range(len(parameters))):
        raise UserError(f"{where}: its parameters have unlike states, or there are too many")
    for place, of_one in saved["state"].items():
        for name, value in of_one.items():
            if isinstance(value, Tensor) and (problem := problem_of(value) or _problem_beside(value, parameters[place])):
                raise UserError(f"{where}: {name} of parameter {place} {problem}")
    return {"state": saved["state"], "param_groups": taken}


def _differ(saved: Any, own: Any) -> bool:
    numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in (saved, own))
    return bool(saved != own) if numbers or type(saved) is type(own) else True


def _problem_beside(value: Tensor, parameter: Tensor) -> str:
    """What is wrong with a tensor that an optimizer keeps for `parameter`: a number, one for each weight, row or column."""
    if value.ndim == 0:
        return "" if bool(value.isfinite()) and not value.is_complex() else "is no finite number"
    rows = value.ndim == parameter.ndim > 1 and all(n in (1, whole) for n, whole in zip(value.shape, parameter.shape))
    if value.shape != parameter.shape and not rows:
        return f"has shape {tuple(value.shape)}, the parameter has {tuple(parameter.shape)}"
    if not value.is_floating_point():
        return f"has type {_word(value.dtype)}"
    return "has numbers that are NaN" if bool(value.isnan().any()) else ""
