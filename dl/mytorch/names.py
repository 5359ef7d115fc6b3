"""Weights and moments under the names of their parameters: an order of definitions, or a name, may change between versions.

A network that has had other names says so in `RENAMED`: regular expressions for the old ones, and what stands there today.
"""

import re
from itertools import chain
from typing import Any, Mapping, Sequence

import torch
from torch import nn

from dl.mytorch.config import UserError

Weights = dict[str, Any]


def substituted(name: str, table: Sequence[tuple[str, str]]) -> str:
    """Return the name of a parameter after each of the `table`'s substitutions: (regular expression, replacement)."""
    for old, new in table:
        name = re.sub(old, new, name)
    return name


def renamed(model: nn.Module, weights: Mapping[str, Any]) -> Weights:
    """Return `weights`, in their order, under today's names, by the tables `RENAMED` of `model` and of the networks in it."""
    parts = [(name, part.RENAMED) for name, part in model.named_modules() if hasattr(part, "RENAMED")]
    tables = [(f"{name}." if name else "", table) for name, table in parts]
    return {_renamed(name, tables) if isinstance(name, str) else name: weight for name, weight in weights.items()}


def _renamed(name: str, tables: Sequence[tuple[str, Sequence[tuple[str, str]]]]) -> str:
    for prefix, table in tables:
        if name.startswith(prefix):
            name = prefix + substituted(name.removeprefix(prefix), table)
    return name


def by_name(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Any]:
    """Return `optimizer.state_dict()` with the names of `model`'s parameters in place of their positions."""
    names = list(chain(*_names(optimizer, model)))
    saved = optimizer.state_dict()
    groups = [{**group, "params": [names[i] for i in group["params"]]} for group in saved["param_groups"]]
    return {**saved, "state": {names[i]: of_one for i, of_one in saved["state"].items()}, "param_groups": groups}


def by_position(
    saved: dict[str, Any], optimizer: torch.optim.Optimizer, model: nn.Module, order: Sequence[str], where: str
) -> dict[str, Any]:
    """Return what `by_name` gave as `optimizer.load_state_dict` takes it.

    Version 0.1 saved positions; then `order` has today's names of the parameters in the order in which they were defined.
    Raises `UserError`, which begins with `where`, if the parameters are not those of `optimizer`.
    """
    own = _names(optimizer, model)
    groups, state = saved["param_groups"], saved["state"]
    if len(groups) != len(own):
        raise UserError(f"{where} has {len(groups)} groups of parameters, the optimizer has {len(own)}")
    if any(isinstance(name, int) for name in [*state, *chain(*(_parameters(group, where) for group in groups))]):
        earlier = [name for names in own for name in order if name in names]
        places = range(sum(map(len, own)))
        numbers = [i for group in groups for i in group["params"]]
        if len(earlier) < len(places) or numbers != list(places) or not set(state) <= set(places):
            raise UserError(f"{where} is of other parameters than the optimizer's")
        state = {earlier[i]: of_one for i, of_one in state.items()}
    else:
        theirs = [list(renamed(model, dict.fromkeys(group["params"]))) for group in groups]
        state = renamed(model, state)
        if [sorted(names) for names in theirs] != [sorted(names) for names in own] or not set(state) <= set(chain(*own)):
            raise UserError(f"{where} is of other parameters than the optimizer's")
    positions = {name: i for i, name in enumerate(chain(*own))}
    groups = [{**group, "params": [positions[name] for name in names]} for group, names in zip(groups, own)]
    return {**saved, "state": {positions[name]: of_one for name, of_one in state.items()}, "param_groups": groups}


def _names(optimizer: torch.optim.Optimizer, model: nn.Module) -> list[list[str]]:
    """Return the names of the parameters in each group of `optimizer`."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return [[names[parameter] for parameter in group["params"]] for group in optimizer.param_groups]


def _parameters(group: dict[str, Any], where: str) -> list[Any]:
    params = group.get("params")
    if not isinstance(params, list) or not all(isinstance(name, (int, str)) for name in params):
        raise UserError(f"{where}: params has to be a list of names")
    return params
