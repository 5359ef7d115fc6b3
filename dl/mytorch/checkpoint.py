"""Files that are whole or not there: written under a temporary name, flushed to the disk, renamed. Never trusted when read."""

import contextlib
import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any, BinaryIO, Iterator, Sequence

import torch
from torch import Tensor, nn

from dl.mytorch.config import UserError
from dl.mytorch.distributed import gather_objects, rank, rng_state, set_rng_state, world
from dl.mytorch.sharding import like, whole


@contextlib.contextmanager
def atomic_write(path: Path | str) -> Iterator[BinaryIO]:
    """A file to write to that appears at `path` when the block ends, and only then. `UserError` when it cannot be written."""
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if not isinstance(error, (OSError, RuntimeError)):  # torch.save reports a full disk as a RuntimeError
            raise
        cause = error if isinstance(error, OSError) else error.__context__
        reason = cause.strerror if isinstance(cause, OSError) else str(error)
        free = f" ({shutil.disk_usage(path.parent).free / 1e6:.1f} MB free there)" if path.parent.is_dir() else ""
        kept = "; the copy from before is kept" if path.exists() else ""
        raise UserError(f"cannot write {path}: {reason}{free}{kept}") from error


def _sync_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut, where the system has a way to."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


def write_json(value: Any, path: Path | str) -> None:
    """`value` as indented JSON."""
    with atomic_write(path) as file:
        file.write((json.dumps(value, indent=1) + "\n").encode())


def save(state: dict[str, Any], path: Path | str) -> None:
    """Tensors and plain Python values to a file, bit for bit the same for the same state."""
    with atomic_write(path) as file:
        torch.save(state, file)


def load(path: Path | str) -> dict[str, Any]:
    """What `save` wrote, or the tensors of a .safetensors file, on the CPU. Nothing in the file is executed.

    Raises `UserError` when the file is missing, damaged, or holds more than tensors and plain values.
    """
    try:
        if Path(path).suffix == ".safetensors":
            return _read_safetensors(path)
        return torch.load(path, map_location="cpu", weights_only=True)
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


Optimizers = Sequence[torch.optim.Optimizer]


def capture(model: nn.Module, optimizers: Optimizers, average: nn.Module | None) -> dict[str, Any]:
    """The state of all that a training step changes, and of the generators of every rank. All ranks call it."""
    return {
        "model": whole(model.state_dict()),
        "optimizers": [whole(optimizer.state_dict()) for optimizer in optimizers],
        "ema": None if average is None else whole(average.state_dict()),
        "rng": gather_objects(rng_state()),
    }


def restore(state: dict[str, Any], path: Path, model: nn.Module, optimizers: Optimizers, average: nn.Module | None) -> None:
    """Put back what `capture` gave; `path`, where it is from, is for the error. A rank that had no part keeps its generators."""
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


def load_weights(model: nn.Module, path: Path | str) -> nn.Module:
    """Put the weights of a `best.pt`, or of any file of plain torch keys, into `model`, and return it.

    Raises `UserError` when the file cannot be read or belongs to another model; `model` is then as it was.
    """
    return put_weights(model, load(path), path)


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
