"""What a rank holds and sends in a step of each way to share a training, counted as tensors, beside the formulas.

    python -m dl.benchmarks.collectives

A GPT-2 of characters trains two steps in fp32 on a CPU, on 2 and on 4 ranks of this machine. Counted are:

- held: weights, gradients and AdamW's two means that a rank has after the step
- sent: the tensors of all collectives of the second step, forward, backward and update, each as a ring sends it. A program
  on the wire would see more with gloo, which adds up whole tensors where a rank needs a part of the sum.
- kept: what a block keeps for its backward pass, in units of its input: half of the difference between networks of 4 and
  of 2 blocks, so that embeddings, head and loss are in neither. Ways that cut weights by rows keep what one process does.

Formulas: dl/mytorch/large/SCALING.md.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any, Sequence

import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import Tensor
from torch.distributed.distributed_c10d import _resolve_process_group
from torch.utils._python_dispatch import TorchDispatchMode

from dl.benchmarks import common
from dl.benchmarks.scale_formulas import Sizes, Way, held, kept, sent
from dl.cli.command import command
from dl.cli.records import write
from dl.modules.GPT.GPT2.model import build
from dl.mytorch import TrainConfig, Trainer, seed_everything
from dl.mytorch.data import Batch
from dl.mytorch.distributed import data_rank, data_world_size
from dl.mytorch.dtensor import local
from dl.mytorch.files import read_json
from dl.mytorch.introspect import count_parameters
from dl.mytorch.optim import adamw, constant
from dl.mytorch.text.tasks import LanguageModeling

DIM, DEPTH, HEADS, LENGTH, BATCH, VOCABULARY = 128, 4, 8, 64, 8, 65
TP, FSDP = {"parallel": "tp"}, {"parallel": "fsdp"}
WAYS: dict[int, dict[str, tuple[dict[str, Any], Way]]] = {
    2: {
        "ddp": ({"parallel": "ddp"}, Way(copies=2)),
        "fsdp": (FSDP, Way(shards=2)),
        "tp": (TP, Way(tensor=2)),
        "tp, sequence": (TP | {"sequence": True}, Way(tensor=2, sequence=True)),
    },
    4: {
        "ddp": ({"parallel": "ddp"}, Way(copies=4)),
        "fsdp": (FSDP, Way(shards=4)),
        "hsdp, 2 x 2": ({"parallel": "hsdp", "shard_size": 2}, Way(copies=2, shards=2)),
        "tp": (TP, Way(tensor=4)),
        "tp, sequence": (TP | {"sequence": True}, Way(tensor=4, sequence=True)),
        "fsdp x tp, 2 x 2": (FSDP | {"tensor_size": 2}, Way(shards=2, tensor=2)),
        "fsdp x tp, sequence": (FSDP | {"tensor_size": 2, "sequence": True}, Way(shards=2, tensor=2, sequence=True)),
    },
}


class Sent(TorchDispatchMode):
    """`with Sent() as made: ...; made.bytes`: what a rank sends in the collectives inside, by rings."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        namespace, _, name = func.name().partition("::")
        if "c10d" in namespace and (times := next((n for part, n in PASSES.items() if part in name), 0)):
            group = next(filter(None, map(_group, args)))
            whole = max(map(_nbytes, args)) * (group.size() if name.startswith("all_gather") else 1)
            self.bytes += times * whole * (group.size() - 1) / group.size()
        return func(*args, **(kwargs or {}))


# How often the whole tensor goes round, less each rank's own part. Of a gather "whole" is the result, which is an argument
# of c10d's operator, and larger by the ranks than the argument of the functional one.
PASSES = {"allreduce": 2, "all_reduce": 2, "allgather": 1, "all_gather": 1, "reduce_scatter": 1}


def _group(argument: Any) -> dist.ProcessGroup | None:
    """Return the group that an argument of a collective is or names."""
    if isinstance(argument, torch.ScriptObject):
        return dist.ProcessGroup.unbox(argument) if "ProcessGroup" in str(argument._type()) else None
    return _resolve_process_group(argument) if isinstance(argument, str) and argument.isdigit() else None


def _nbytes(argument: Any) -> int:
    if isinstance(argument, (list, tuple)):
        return sum(map(_nbytes, argument))
    return argument.nbytes if isinstance(argument, Tensor) else 0


def make(depth: int, out: str, flags: dict[str, Any]) -> Trainer:
    """Return the trainer of a network of `depth` blocks."""
    seed_everything(0)
    model = build("char", dim=DIM, depth=depth, num_heads=HEADS, max_length=LENGTH, vocab_size=VOCABULARY, dropout=0.0)
    config = TrainConfig(out, "", device="cpu", plots=False, **flags)
    return Trainer(model.train(), LanguageModeling(), adamw(1e-3), constant(), config)


def batch() -> Batch:
    """Return this rank's part of a batch of random tokens; ranks of one forward pass have the same."""
    ids = torch.randint(VOCABULARY, (BATCH, LENGTH + 1), generator=torch.Generator().manual_seed(0))
    own = ids[data_rank() :: data_world_size()]
    return {"tokens": own[:, :-1].contiguous(), "targets": own[:, 1:].contiguous()}


def kept_bytes(trainer: Trainer) -> int:
    """Return the bytes that a forward pass keeps for the backward pass, weights apart."""
    found: dict[int, int] = {}
    model = trainer.step.model

    def note(tensor: Tensor) -> Tensor:
        storage = local(tensor).untyped_storage()
        found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        output = trainer.step.task.step(trainer.step.network, batch())
    for parameter in model.parameters():
        found.pop(local(parameter).untyped_storage().data_ptr(), None)
    output.loss.backward()
    trainer.step.optimizers[0].zero_grad()
    return sum(found.values())


def held_bytes(trainer: Trainer) -> int:
    """Return the bytes of weights, gradients and the optimizer's state, without its counts of steps."""
    trainer.step.task.step(trainer.step.network, batch()).loss.backward()  # an update leaves no gradients
    tensors = [tensor for p in trainer.step.model.parameters() for tensor in (p, p.grad)]
    tensors += [tensor for state in trainer.step.optimizers[0].state.values() for tensor in state.values() if tensor.ndim]
    return sum(local(tensor).nbytes for tensor in tensors)


def measure(out: str, flags: dict[str, Any], way: Way) -> dict[str, Any]:
    """Return what is counted on this rank, and what the formulas say."""
    trainer = make(DEPTH, out, flags)
    parameters = count_parameters(trainer.step.model)
    trainer.step([batch()])
    with Sent() as made:
        trainer.step([batch()])
    sizes = Sizes(DIM, DEPTH, VOCABULARY, parameters, BATCH * LENGTH)
    row = {"held": held_bytes(trainer), "expected_held": held(way, sizes)}
    row |= {"sent": made.bytes, "expected_sent": sent(way, sizes)}
    if way.shards == 1:
        unit = BATCH * LENGTH / way.copies * DIM * 4
        fewer = make(DEPTH // 2, out, flags)
        row["kept"] = (kept_bytes(trainer) - kept_bytes(fewer)) / (DEPTH - DEPTH // 2) / unit
        row["expected_kept"] = kept(way)
    return row


def run_rank(rank: int, ranks: int, folder: str) -> None:
    """Measure all ways of `ranks` ranks; rank 0 writes what it found."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting-{ranks}", rank=rank, world_size=ranks)
    rows = [{"way": name, "ranks": ranks, **measure(folder, *way)} for name, way in WAYS[ranks].items()]
    if rank == 0:
        write({"rows": rows}, Path(folder) / f"{ranks}.json")
    dist.barrier()
    dist.destroy_process_group()


def count(ranks: int) -> list[dict[str, Any]]:
    """Return the rows of all ways of `ranks` ranks, from processes of their own."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(run_rank, (ranks, Path(folder).as_posix()), nprocs=ranks)
        return read_json(Path(folder) / f"{ranks}.json", {"rows": [object]})["rows"]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    return common.parse(common.parser(__spec__.name, "What ranks hold and send, counted, beside the formulas."), argv)


@command(parse)
def main(options: argparse.Namespace) -> None:
    rows = []
    for ranks in WAYS:
        for row in count(ranks):
            rows.append(row)
            print(line(row), flush=True)
    write(common.about_this_machine(options.command) | {"rows": rows}, options.out)


def line(row: dict[str, Any]) -> str:
    """Return a row as readable text."""
    parts = [
        f"{name} {row[name]:,.1f} (formula {row[f'expected_{name}']:,.1f})" for name in ("held", "sent", "kept") if name in row
    ]
    return f"{row['ranks']} ranks, {row['way']}: {', '.join(parts)}"


if __name__ == "__main__":
    sys.exit(main())
