"""Atomic checkpoint files: written to a temporary name, fsynced, renamed; always loaded with `weights_only=True`."""

import os
import pickle
import re
import zipfile
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Sequence

import torch
from torch import nn

from dl.mytorch.config import UserError
from dl.mytorch.distributed import data_rank, gather_parts, is_main, rng_state, set_rng_state
from dl.mytorch.dtensor import distribute_like, full_state_dict
from dl.mytorch.files import recorded_write, regular_file, shown, verify
from dl.mytorch.names import by_name, by_position, renamed
from dl.mytorch.run import say_what_is_unverified
from dl.mytorch.state import check_optimizer, check_state, problem_of_weight

LARGE = 2**30  # bytes


def save(state: dict[str, Any], path: Path | str) -> None:
    """Tensors and plain Python values to a file, bit for bit the same for the same state, with its checksum beside it."""
    with recorded_write(path) as file:
        torch.save(state, file)


def load(path: Path | str, mapped: bool = False) -> dict[str, Any]:
    """Return what `save` wrote, or the tensors of a .safetensors file, on the CPU. Nothing in the file is executed.

    With `mapped`, tensors of a large file take memory when they are used only. The path of a folder of shards is read as one.

    Raises `UserError` when the file is missing, damaged, changed since `save` wrote it, or more than tensors and plain values.
    """
    path = Path(path)
    if path.is_dir():
        from dl.mytorch import shards

        return shards.read_parts(path)
    try:
        verify(path)
    except UserError:
        _read(path, mapped)  # says that it is damaged, if it cannot be read
        raise
    return _read(path, mapped)


def _read(path: Path, mapped: bool) -> dict[str, Any]:
    try:
        if path.suffix == ".safetensors":
            from dl.mytorch import safetensors

            return safetensors.read(path)
        if os.path.lexists(path):
            regular_file(path)
        mapped = mapped and path.stat().st_size > LARGE and zipfile.is_zipfile(path)  # not of an old version of torch
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except pickle.UnpicklingError as error:
        if "Unsupported operand" in str(error):  # bytes that are no instruction of such a file
            raise UserError(f"{path} is damaged or not a checkpoint") from None
        raise UserError(f"{path} refused: it holds more than weights, and loading it could run code") from None
    except Exception as error:  # a damaged file makes torch raise nearly anything, OSError too
        if isinstance(error, OSError) and error.filename:  # no right to read it, say
            raise
        reason = str(error).partition("\n")[0][:100] or "it ends too early"
        raise UserError(f"{path} is damaged or not a checkpoint ({reason})") from None


# ---- the state of training -----------------------------------------------------------------------------------------

Optimizers = Sequence[torch.optim.Optimizer]


def capture(
    folder: Path, model: nn.Module, optimizers: Optimizers, average: nn.Module | None
) -> tuple[dict[str, Any], Future | None]:
    """Return the state of all that a training step changes, and of the generators of every rank. All ranks call it.

    Of a large model that ranks share it only names `folder`, into which each rank writes what it has, see `shards.capture`:
    until the future is done. Else there is none.
    """
    if _use_shards(model):
        from dl.mytorch import shards

        return shards.capture(folder, model, optimizers, average)
    parts = {"model": model.state_dict(), "optimizers": [by_name(optimizer, model) for optimizer in optimizers]}
    parts |= {"ema": average and average.state_dict()}
    return {**full_state_dict(parts, gather=is_main()), "rng": gather_parts(rng_state())}, None


def _use_shards(model: nn.Module) -> bool:
    """Return whether ranks that share `model` write their shards each, instead of gathering all on the first: it is large."""
    parameters = list(model.parameters())
    shared = any(hasattr(p, "full_tensor") for p in parameters)
    return shared and sum(p.numel() * p.element_size() for p in parameters) > LARGE


def load_state(path: Path, mapped: bool = False) -> dict[str, Any]:
    """Return what last.pt holds, checked. Raises `UserError` when it is anything else, or names shards of version 0.1."""
    state = load(path, mapped)
    if isinstance(state, dict) and "shards" in state:
        from dl.mytorch import shards

        shards.refuse_pickles(_shards_of(state, path))
    return check_state(state, str(path))


def _shards_of(state: dict[str, Any], path: Path) -> Path:
    if not re.fullmatch(r"shards-\d+", str(state["shards"])):
        raise UserError(f"{path} names {shown(state['shards'])} as its shards")
    return path.with_name(state["shards"])


def restore(state: dict[str, Any], path: Path, model: nn.Module, optimizers: Optimizers, average: nn.Module | None) -> None:
    """Put back what `capture` gave; `path` is where it is from. A rank that had no part keeps its generators."""
    if len(state["optimizers"]) != len(optimizers):
        raise UserError(f"{path} is of a run with {len(state['optimizers'])} optimizers, this one has {len(optimizers)}")
    if "model" in state and (state.get("ema") is None) != (average is None):
        raise UserError(f"{path} is of a run with another --ema")
    order = list(renamed(model, state.get("model", {})))
    states = []
    for i, (optimizer, saved) in enumerate(zip(optimizers, state["optimizers"])):
        where = f"{path}: optimizer {i}"
        states.append(check_optimizer(by_position(saved, optimizer, model, order, where), optimizer, where))
    if "shards" in state:
        groups = [checked["param_groups"] for checked in states]
        from dl.mytorch import shards

        shards.restore(_shards_of(state, path), state["optimizers"], groups, model, optimizers, average)
    else:
        put_weights(model, state["model"], path)
        for optimizer, saved in zip(optimizers, states, strict=True):
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            for i, of_one in saved["state"].items():
                of_one.update({name: distribute_like(parameters[i], value) for name, value in of_one.items()})
            optimizer.load_state_dict(saved)
        if average is not None:
            put_weights(average, state["ema"], path)
    if data_rank() < len(state["rng"]):
        set_rng_state(state["rng"][data_rank()])


# ---- weights -------------------------------------------------------------------------------------------------------


def save_weights(model: nn.Module, path: Path | str) -> None:
    """Write the weights of `model`, gathered if they are sharded, as `best.pt` has them. All ranks call it."""
    weights = full_state_dict(model.state_dict(), gather=is_main())
    if is_main():
        save(weights, path)


def load_weights(model: nn.Module, path: Path | str) -> nn.Module:
    """Put the weights of a `best.pt`, or of any file of plain torch keys, into `model`, and return it.

    Raises `UserError` when the file cannot be read or belongs to another model; `model` is then as it was.
    """
    put_weights(model, load(path, mapped=True), path)
    say_what_is_unverified(Path(path).parent, "config.json", Path(path).name)
    return model


def put_weights(model: nn.Module, weights: Any, path: Path | str) -> nn.Module:
    """`load_state_dict`, checked first: a state dict of another model is a `UserError` that says what differs."""
    own = model.state_dict()
    if not isinstance(weights, dict) or not all(isinstance(name, str) for name in weights):
        raise UserError(f"{path} does not hold the weights of a model")
    weights = renamed(model, weights)
    differs = [f"lacks {name}" for name in own if name not in weights]
    differs += [f"has {name}, which the model lacks" for name in weights if name not in own]
    problems = {name: problem_of_weight(weights[name], own[name]) for name in own if name in weights}
    differs += [f"has {name} {problem}" for name, problem in problems.items() if problem]
    if differs:
        more = f", and {len(differs) - 3} more" if len(differs) > 3 else ""
        raise UserError(f"{path} belongs to another model than this {type(model).__name__}: it {'; '.join(differs[:3])}{more}")
    model.load_state_dict({name: distribute_like(own[name], weight) for name, weight in weights.items()})
    return model
