"""The state of a model that several ranks share, each with a part of it: a folder that any number of ranks can read.

`rank-<i>.safetensors` has the pieces that rank i wrote, and in its metadata where each begins in the whole tensor.
`index.json` has the names of all files with their sizes and checksums, and comes last: without it a folder is not complete.
"""

import hashlib
import json
import math
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, Mapping, NamedTuple, Sequence

import torch
from torch import Tensor, nn

from dl.mytorch import safetensors
from dl.mytorch.config import UserError
from dl.mytorch.distributed import background_group, gather_objects, gather_parts, is_main, rank, rng_state, world_size
from dl.mytorch.dtensor import local, offset
from dl.mytorch.files import atomic_write, check, read_json, regular_file, write_json
from dl.mytorch.names import by_name, by_position

INDEX = {"files": {str: {"sha256": str, "size": int}}}
PLACE = {"shape": [int], "start": [int]}  # of a piece: the shape of the whole tensor, where the piece begins in it


class Piece(NamedTuple):
    """A part of a tensor, in a file under the tensor's name."""

    file: safetensors.Header
    start: tuple[int, ...]
    shape: tuple[int, ...]


class Tensors(NamedTuple):
    """What a folder holds of one tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    pieces: list[Piece]


# ---- the state of training -----------------------------------------------------------------------------------------

Optimizers = Sequence[torch.optim.Optimizer]


def capture(folder: Path, model: nn.Module, optimizers: Optimizers, average: nn.Module | None) -> tuple[dict[str, Any], Future]:
    """Write the state of all that a training step changes into `folder`, see `write`; return what is no tensor in it."""
    named = _named(model, average)
    rest = []  # what is no tensor: learning rates and the like
    for i, optimizer in enumerate(optimizers):
        state = by_name(optimizer, model)
        rest.append({**state, "state": {parameter: {} for parameter in state["state"]}})
        for parameter, of_one in state["state"].items():
            named |= {
                f"optimizers.{i}.{name}.{parameter}": value for name, value in of_one.items() if isinstance(value, Tensor)
            }
            rest[i]["state"][parameter] |= {name: value for name, value in of_one.items() if not isinstance(value, Tensor)}
    return {"shards": folder.name, "optimizers": rest, "rng": gather_parts(rng_state())}, write(folder, named)


def restore(
    folder: Path,
    rest: list[dict[str, Any]],
    groups: list[list[dict[str, Any]]],
    model: nn.Module,
    optimizers: Optimizers,
    average: nn.Module | None,
) -> None:
    """Put back what `capture` wrote. `rest` is what it returned of the optimizers, `groups` the checked groups in that."""
    found, own = open_folder(folder), _named(model, average)
    parameters = dict(model.named_parameters())
    for i, of_optimizer in enumerate(rest):
        for name in (name for name in found if name.startswith(f"optimizers.{i}.")):
            try:
                of_one, parameter = name.split(".", 3)[2:]
                own[name] = of_optimizer["state"][parameter][of_one] = _zeros(parameters[parameter], found[name])
            except (KeyError, ValueError):
                raise UserError(f"{folder} belongs to another model: its {name} is of no parameter") from None
    for name in own.keys() | found.keys():
        both = name in own and name in found
        if not both or (found[name].shape, found[name].dtype) != (tuple(own[name].shape), own[name].dtype):
            raise UserError(f"{folder} belongs to another model: {name} is missing or of another shape or type in one of them")
    for name, tensor in own.items():
        fill(tensor, name, found[name])
    for optimizer, saved, checked in zip(optimizers, rest, groups, strict=True):
        optimizer.load_state_dict(by_position(saved, optimizer, model, (), str(folder)) | {"param_groups": checked})


def _named(model: nn.Module, average: nn.Module | None) -> dict[str, Tensor]:
    """Return the weights of both, under the names that they have in a folder."""
    parts = {"model": model.state_dict(), "ema": {} if average is None else average.state_dict()}
    return {f"{part}.{name}": tensor for part, state in parts.items() for name, tensor in state.items()}


def _zeros(parameter: Tensor, saved: Tensors) -> Tensor:
    """What an optimizer's state of `parameter` is copied into: shared among ranks as the parameter is, if it has its shape."""
    if tuple(parameter.shape) == saved.shape:
        return torch.zeros_like(parameter, dtype=saved.dtype)
    return torch.zeros(saved.shape, dtype=saved.dtype)


# ---- writing -------------------------------------------------------------------------------------------------------


def write(folder: Path, tensors: Mapping[str, Tensor]) -> Future:
    """Write `tensors`, sharded or the same on all ranks, into `folder`. All ranks call it and may then change the tensors.

    They are copied first, then written while the caller continues. When the future is done on rank 0, the folder is complete;
    its result raises `UserError` on all ranks when a rank could not write.
    """
    places = {name: start for name, tensor in tensors.items() if (start := _own_start(tensor)) is not None}
    pieces = {name: local(tensors[name]).detach().to("cpu", copy=True) for name in places}
    metadata = {name: json.dumps({"shape": list(tensors[name].shape), "start": list(start)}) for name, start in places.items()}
    if world_size() > 1:
        background_group()  # made by all ranks here, used in the thread
    executor = ThreadPoolExecutor(1)
    writing = executor.submit(_write, folder, pieces, metadata)
    executor.shutdown(wait=False)
    return writing


def _write(folder: Path, pieces: dict[str, Tensor], metadata: dict[str, str]) -> None:
    def write_pieces() -> dict[str, Any]:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"rank-{rank()}.safetensors"
        with atomic_write(path) as file:
            sha256 = safetensors.write(pieces, file, metadata)
        return {path.name: {"sha256": sha256, "size": path.stat().st_size}}

    files = _on_all_ranks(write_pieces, background_group() if world_size() > 1 else None)
    if is_main():
        write_json({"files": {name: about for of_rank in files for name, about in of_rank.items()}}, folder / "index.json")


def _on_all_ranks(work: Callable[[], Any], group: Any = None) -> list[Any]:
    """Return the results of `work` on all ranks; what is wrong on one of them is a `UserError` on each."""
    result = problem = None
    try:
        result = work()
    except (UserError, OSError) as error:
        problem = str(error)
    results, problems = zip(*gather_objects((result, problem), group))
    for place, problem in enumerate(problems):
        if problem is not None:
            raise UserError(problem if len(problems) == 1 else f"{problem} (rank {place})")
    return list(results)


def _own_start(tensor: Tensor) -> tuple[int, ...] | None:
    """Return where this rank's part of `tensor` begins in the whole; None where another rank writes the same numbers."""
    if not hasattr(tensor, "placements"):
        return (0,) * tensor.ndim if is_main() else None
    copies = [i for i, placement in enumerate(tensor.placements) if placement.is_replicate()]
    coordinate = tensor.device_mesh.get_coordinate()
    first = bool((tensor.device_mesh.mesh == 0).any())  # else another mesh holds the same, with rank 0 in it
    if coordinate is None or not first or any(coordinate[i] for i in copies) or (tensor.numel() and not local(tensor).numel()):
        return None
    return offset(tensor)


# ---- reading -------------------------------------------------------------------------------------------------------


def open_folder(folder: Path) -> dict[str, Tensors]:
    """Return what tensors are in `folder`, each whole, after comparing all checksums. All ranks call it, and share that work.

    Raises `UserError` on all of them when anything is missing, damaged, or changed.
    """
    refuse_pickles(folder)
    if not (folder / "index.json").exists():
        raise UserError(f"{folder} is no complete folder of shards: it has no index.json")
    files = read_json(folder / "index.json", INDEX)["files"]
    if any(Path(name).name != name or not name.endswith(".safetensors") for name in files):
        raise UserError(f"{folder / 'index.json'} names a file that is no shard")
    _on_all_ranks(lambda: [_verify(folder / name, **files[name]) for name in sorted(files)[rank() :: world_size()]])
    found: dict[str, Tensors] = {}
    for name in files:
        header = safetensors.read_header(folder / name)
        for tensor, entry in header.tensors.items():
            _add(found, tensor, entry, header)
    for name, tensor in found.items():
        starts = {piece.start: math.prod(piece.shape) for piece in tensor.pieces}
        if sum(starts.values()) != math.prod(tensor.shape):
            raise UserError(f"{folder} lacks a part of {name}")
    return found


def refuse_pickles(folder: Path) -> None:
    """Raise `UserError` for shards as version 0.1 wrote them: to read one is to run what is in it."""
    if (folder / ".metadata").exists():
        raise UserError(
            f"{folder} refused: it holds pickles, as shards of version 0.1 do, and loading one could run code; "
            "finish that run with version 0.1, or start it over with --fresh"
        )


def _verify(path: Path, sha256: str, size: int) -> None:
    if not path.exists():
        raise UserError(f"{path} is missing: without it this state cannot be read; --fresh starts the run over")
    with open(regular_file(path), "rb") as file:
        if path.stat().st_size != size or hashlib.file_digest(file, "sha256").hexdigest() != sha256:
            raise UserError(f"{path} is damaged or was changed since it was written; --fresh starts the run over")


def _add(found: dict[str, Tensors], name: str, entry: safetensors.Entry, header: safetensors.Header) -> None:
    try:
        place = json.loads(header.metadata[name])
    except (KeyError, ValueError, RecursionError):
        raise UserError(f"{header.path} does not say where its part of {name} begins") from None
    check(place, PLACE, str(header.path), name)
    shape, start = tuple(place["shape"]), tuple(place["start"])
    fits = len(shape) == len(start) == len(entry.shape)
    if not fits or not all(0 <= a and a + n <= whole for a, n, whole in zip(start, entry.shape, shape)):
        raise UserError(f"{header.path}: its part of {name} lies outside of it")
    tensor = found.setdefault(name, Tensors(shape, entry.dtype, []))
    if (tensor.shape, tensor.dtype) != (shape, entry.dtype):
        raise UserError(f"{header.path}: {name} has another shape or type than in the other files")
    tensor.pieces.append(Piece(header, start, entry.shape))


@torch.no_grad()
def fill(own: Tensor, name: str, tensor: Tensors) -> None:
    """Copy into `own`, of the same whole shape, sharded in any way or not at all, what a folder has of the tensor `name`."""
    part = local(own)
    start = offset(own)
    for piece in tensor.pieces:
        first = [max(a, b) for a, b in zip(start, piece.start)]
        last = [min(a + n, b + m) for a, n, b, m in zip(start, part.shape, piece.start, piece.shape)]
        if all(a < b for a, b in zip(first, last)):
            there = tuple(slice(a - b, z - b) for a, z, b in zip(first, last, start))
            here = tuple(slice(a - b, z - b) for a, z, b in zip(first, last, piece.start))
            part[there].copy_(safetensors.read_tensor(piece.file, name)[here])


def read(folder: Path) -> dict[str, Tensor]:
    """Return all of a folder as whole tensors in this process. Raises `UserError` as `open_folder`."""
    whole = {}
    for name, tensor in open_folder(folder).items():
        whole[name] = torch.zeros(tensor.shape, dtype=tensor.dtype)
        fill(whole[name], name, tensor)
    return whole


def read_parts(folder: Path) -> dict[str, dict[str, Tensor]]:
    """Return the tensors of `read` by what they are part of: "model", "ema", "optimizers"."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in read(folder).items():
        part, _, own = name.partition(".")
        parts.setdefault(part, {})[own] = tensor
    return parts
