"""Atomic checkpoint files: written to a temporary name, fsynced, renamed; always loaded with `weights_only=True`."""

import contextlib
import json
import pickle
import tempfile
import zipfile
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Iterator, Sequence

import torch
from torch import Tensor, nn

from dl.mytorch.config import UserError
from dl.mytorch.distributed import background_group, gather_objects, is_main, rank, rng_state, set_rng_state, world
from dl.mytorch.files import atomic_write
from dl.mytorch.sharding import like, whole

LARGE = 2**30  # bytes


def save(state: dict[str, Any], path: Path | str) -> None:
    """Tensors and plain Python values to a file, bit for bit the same for the same state."""
    with atomic_write(path) as file:
        torch.save(state, file)


def load(path: Path | str, mapped: bool = False) -> dict[str, Any]:
    """What `save` wrote, or the tensors of a .safetensors file, on the CPU. Nothing in the file is executed.

    With `mapped`, tensors of a large file take memory when they are used only. The path of a folder of shards is read as one.

    Raises `UserError` when the file is missing, damaged, or holds more than tensors and plain values.
    """
    try:
        if Path(path).suffix == ".safetensors":
            return _read_safetensors(path)
        if Path(path).is_dir():
            return _read_shards(path)
        mapped = mapped and Path(path).stat().st_size > LARGE and zipfile.is_zipfile(path)  # not of an old version of torch
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
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


_TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64}


def _read_safetensors(path: Path | str) -> dict[str, Tensor]:
    """https://github.com/huggingface/safetensors, "Format": the length of a header, the header in JSON, the numbers."""
    content = Path(path).read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        first, last = (start + place for place in entry["data_offsets"])
        numbers = torch.frombuffer(bytearray(content[first:last]), dtype=_TYPES[entry["dtype"]])
        tensors[name] = numbers.view(entry["shape"])
    return tensors


# ---- the state of training -----------------------------------------------------------------------------------------

Optimizers = Sequence[torch.optim.Optimizer]


def capture(model: nn.Module, optimizers: Optimizers, average: nn.Module | None) -> dict[str, Any]:
    """The state of all that a training step changes, and of the generators of every rank. All ranks call it."""
    parts = {"model": model.state_dict(), "optimizers": [optimizer.state_dict() for optimizer in optimizers]}
    parts |= {"ema": average and average.state_dict()}
    return {**whole(parts, keep=is_main()), "rng": gather_objects(rng_state())}


def capture_shards(
    folder: Path, model: nn.Module, optimizers: Optimizers, average: nn.Module | None
) -> tuple[dict[str, Any], Future]:
    """The same of a large model: each rank writes what it has into `folder`, and the state only names it. See `use_shards`.

    What is written is copied first, then written while training goes on. When the future is done on rank 0, all is there;
    `finish_shards` raises what went wrong.
    """
    from torch.distributed import checkpoint as dcp

    shards = _shards(model, optimizers, average)
    writing = dcp.async_save(shards, checkpoint_id=folder, process_group=background_group())
    return {"shards": folder.name, "rng": gather_objects(rng_state())}, writing


def finish_shards(writing: Future, folder: Path) -> None:
    """Wait for the shards to be written. Raises `UserError` when they could not be."""
    with _short_errors(f"cannot write {folder}"):
        writing.result()


def restore(state: dict[str, Any], path: Path, model: nn.Module, optimizers: Optimizers, average: nn.Module | None) -> None:
    """Put back what `capture` gave; `path` is where it is from. A rank that had no part keeps its generators."""
    if "shards" in state:
        _load_shards(path.with_name(state["shards"]), model, optimizers, average)
    else:
        put_weights(model, state["model"], path)
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            for i, of_one in saved["state"].items():
                of_one.update({name: like(parameters[i], value) for name, value in of_one.items()})
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


def _shards(model: nn.Module, optimizers: Optimizers, average: nn.Module | None) -> dict[str, Any]:
    """By the names of parameters, so that any number of ranks can load it; optimizers that are new get a state of zeros."""
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict  # takes a second

    state = {"model": model.state_dict(), "optimizers": get_optimizer_state_dict(model, optimizers)}
    return state | ({"ema": average.state_dict()} if average is not None else {})


def _load_shards(folder: Path, model: nn.Module, optimizers: Optimizers, average: nn.Module | None) -> None:
    from torch.distributed import checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import set_optimizer_state_dict

    state = _shards(model, optimizers, average)
    with _short_errors(f"cannot read {folder}"):
        dcp.load(state, checkpoint_id=folder, no_dist=world() == 1)  # into the tensors of the model
    set_optimizer_state_dict(model, optimizers, state["optimizers"])


def _read_shards(folder: Path | str) -> dict[str, Any]:
    """All of it, in one process, as plain tensors."""
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    with tempfile.TemporaryDirectory(dir=folder) as place, _short_errors(f"cannot read {folder}"):
        dcp_to_torch_save(folder, f"{place}/whole.pt")
        return torch.load(f"{place}/whole.pt", map_location="cpu", weights_only=True)


@contextlib.contextmanager
def _short_errors(what: str) -> Iterator[None]:
    """What goes wrong with the shards of one rank, torch tells all ranks, with the whole stack; a line is enough."""
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        yield
    except CheckpointException as error:
        place, (cause, _) = min(error.failures.items())
        raise UserError(f"{what}: {str(cause).partition(chr(10))[0] or type(cause).__name__} (rank {place})") from None


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
    return {name: rows[rank() :: world()] for name, rows in state.items()}


# ---- weights -------------------------------------------------------------------------------------------------------


def load_weights(model: nn.Module, path: Path | str) -> nn.Module:
    """Put the weights of a `best.pt`, or of any file of plain torch keys, into `model`, and return it.

    Raises `UserError` when the file cannot be read or belongs to another model; `model` is then as it was.
    """
    return put_weights(model, load(path, mapped=True), path)


def put_weights(model: nn.Module, weights: Any, path: Path | str) -> nn.Module:
    """`load_state_dict`, checked first: a state dict of another model is a `UserError` that says what differs."""
    own = model.state_dict()
    if not isinstance(weights, dict):
        raise UserError(f"{path} does not hold the weights of a model")
    differs = [f"lacks {name}" for name in own if name not in weights]
    differs += [f"has {name}, which the model lacks" for name in weights if name not in own]
    for name in (name for name in own if name in weights):
        shape = tuple(getattr(weights[name], "shape", ()))
        if shape != tuple(own[name].shape):
            differs.append(f"has {name} of shape {shape}, the model's is {tuple(own[name].shape)}")
    if differs:
        more = f", and {len(differs) - 3} more" if len(differs) > 3 else ""
        raise UserError(f"{path} belongs to another model than this {type(model).__name__}: it {'; '.join(differs[:3])}{more}")
    model.load_state_dict({name: like(own[name], weight) for name, weight in weights.items()})
    return model
