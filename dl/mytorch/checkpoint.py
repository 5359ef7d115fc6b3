"""Atomic checkpoint files: written to a temporary name, fsynced, renamed; always loaded with `weights_only=True`."""

import os
import pickle
import re
import zipfile
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, Sequence

import torch
from torch import Tensor, nn

from dl.mytorch.config import UserError
from dl.mytorch.distributed import gather_objects, is_main, rank, rng_state, set_rng_state, world_size
from dl.mytorch.dtensor import distribute_like, full_state_dict
from dl.mytorch.files import recorded_write, regular_file, shown, verify
from dl.mytorch.names import by_name, by_position, renamed
from dl.mytorch.run import say_what_is_unverified
from dl.mytorch.state import check_optimizer, check_state, problem_of_weight

if TYPE_CHECKING:
    from dl.mytorch import shards

LARGE = 2**30  # bytes


def save(state: dict[str, Any], path: Path | str) -> None:
    """Tensors and plain Python values to a file, bit for bit the same for the same state, with its checksum beside it."""
    with recorded_write(path) as file:
        torch.save(state, file)


def load(path: Path | str, mapped: bool = False) -> dict[str, Any]:
    """What `save` wrote, or the tensors of a .safetensors file, on the CPU. Nothing in the file is executed.

    With `mapped`, tensors of a large file take memory when they are used only. The path of a folder of shards is read as one.

    Raises `UserError` when the file is missing, damaged, changed since `save` wrote it, or more than tensors and plain values.
    """
    path = Path(path)
    if path.is_dir():
        return _read_shards(path)
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


def capture(model: nn.Module, optimizers: Optimizers, average: nn.Module | None) -> dict[str, Any]:
    """The state of all that a training step changes, and of the generators of every rank. All ranks call it."""
    parts = {"model": model.state_dict(), "optimizers": [by_name(optimizer, model) for optimizer in optimizers]}
    parts |= {"ema": average and average.state_dict()}
    return {**full_state_dict(parts, gather=is_main()), "rng": gather_objects(rng_state())}


def capture_shards(
    folder: Path, model: nn.Module, optimizers: Optimizers, average: nn.Module | None
) -> tuple[dict[str, Any], Future]:
    """The same of a large model: each rank writes what it has into `folder`, and the state only names it. See `use_shards`.

    What is written is copied first, then written while training goes on. When the future is done on rank 0, all is there;
    its result raises `UserError` if something went wrong.
    """
    from dl.mytorch import shards

    parts = {"model": model.state_dict(), "ema": {} if average is None else average.state_dict()}
    named = {f"{part}.{name}": tensor for part, state in parts.items() for name, tensor in state.items()}
    rest = []  # what is no tensor: learning rates and the like
    for i, optimizer in enumerate(optimizers):
        state = by_name(optimizer, model)
        rest.append({**state, "state": {parameter: {} for parameter in state["state"]}})
        for parameter, of_one in state["state"].items():
            named |= {f"optimizers.{i}.{name}.{parameter}": value for name, value in of_one.items() if isinstance(value, Tensor)}
            rest[i]["state"][parameter] |= {name: value for name, value in of_one.items() if not isinstance(value, Tensor)}
    return {"shards": folder.name, "optimizers": rest, "rng": gather_objects(rng_state())}, shards.write(folder, named)


def load_state(path: Path, mapped: bool = False) -> dict[str, Any]:
    """Return what last.pt holds, checked. Raises `UserError` when it is anything else, or names shards of version 0.1."""
    from dl.mytorch import shards

    state = load(path, mapped)
    if isinstance(state, dict) and "shards" in state:
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
        _restore_shards(_shards_of(state, path), state["optimizers"], groups, model, optimizers, average)
    else:
        put_weights(model, state["model"], path)
        for optimizer, saved in zip(optimizers, states, strict=True):
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            for i, of_one in saved["state"].items():
                of_one.update({name: distribute_like(parameters[i], value) for name, value in of_one.items()})
            optimizer.load_state_dict(saved)
        if average is not None:
            put_weights(average, state["ema"], path)
    if rank() < len(state["rng"]):
        set_rng_state(state["rng"][rank()])


def use_shards(model: nn.Module) -> bool:
    """Whether ranks that share `model` write their shards each, instead of gathering all on the first: it is large."""
    parameters = list(model.parameters())
    shared = any(hasattr(p, "full_tensor") for p in parameters)
    return shared and sum(p.numel() * p.element_size() for p in parameters) > LARGE


def _restore_shards(
    folder: Path,
    rest: list[dict[str, Any]],
    groups: list[list[dict[str, Any]]],
    model: nn.Module,
    optimizers: Optimizers,
    average: nn.Module | None,
) -> None:
    """`rest` is what `capture_shards` found of the optimizers beside tensors, `groups` the checked ones in it."""
    from dl.mytorch import shards

    found = shards.open_folder(folder)
    own = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    if average is not None:
        own |= {f"ema.{name}": tensor for name, tensor in average.state_dict().items()}
    for i, optimizer in enumerate(optimizers):
        parameters = dict(model.named_parameters())
        for name in (name for name in found if name.startswith(f"optimizers.{i}.")):
            try:
                of_one, parameter = name.split(".", 3)[2:]
                own[name] = rest[i]["state"][parameter][of_one] = _zeros(parameters[parameter], found[name])
            except (KeyError, ValueError):
                raise UserError(f"{folder} belongs to another model: its {name} is of no parameter") from None
    for name in own.keys() | found.keys():
        both = name in own and name in found
        if not both or (found[name].shape, found[name].dtype) != (tuple(own[name].shape), own[name].dtype):
            raise UserError(f"{folder} belongs to another model: {name} is missing or of another shape or type in one of them")
    for name, tensor in own.items():
        shards.fill(tensor, name, found[name])
    for optimizer, saved, checked in zip(optimizers, rest, groups, strict=True):
        optimizer.load_state_dict(by_position(saved, optimizer, model, (), str(folder)) | {"param_groups": checked})


def _zeros(parameter: Tensor, saved: "shards.Tensors") -> Tensor:
    """What an optimizer's state of `parameter` is copied into: shared among ranks as the parameter is, if it has its shape."""
    if tuple(parameter.shape) == saved.shape:
        return torch.zeros_like(parameter, dtype=saved.dtype)
    return torch.zeros(saved.shape, dtype=saved.dtype)


def _read_shards(folder: Path) -> dict[str, dict[str, Tensor]]:
    """All tensors of a folder of shards, in one process, by what they are part of."""
    from dl.mytorch import shards

    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in shards.read(folder).items():
        part, _, own = name.partition(".")
        parts.setdefault(part, {})[own] = tensor
    return parts


def gather_rows(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rows for the examples of a batch, of all ranks, in the order of the whole batch. All ranks call it."""
    parts = gather_objects({name: rows.cpu() for name, rows in state.items()})
    whole_rows = {}
    for name in parts[0]:
        rows = [part[name] for part in parts]
        whole_rows[name] = torch.cat(rows)
        for i, own in enumerate(rows):
            whole_rows[name][i :: len(parts)] = own  # as `Loader` cuts a batch
    return whole_rows


def own_rows(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of what `gather_rows` gave, the rows of this rank, whatever number of ranks there was."""
    return {name: rows[rank() :: world_size()] for name, rows in state.items()}


# ---- weights -------------------------------------------------------------------------------------------------------


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
