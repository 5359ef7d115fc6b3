"""Models larger than memory, another way: each block is trained on its own, one after the other. `--layerwise greedy`

For this a model has its forward in three: `before_blocks(inputs) -> x`, the list `blocks`, `after_blocks(x) -> output`.
"""

import copy
import dataclasses
import math
from itertools import islice
from typing import TYPE_CHECKING, Any, Callable

import torch
from torch import Tensor, nn

from dl.mytorch import checkpoint, introspect, mapped
from dl.mytorch.config import UserError
from dl.mytorch.data.loader import Batch, Loader, Splits
from dl.mytorch.distributed import seed_everything, to_device
from dl.mytorch.files import read_recorded_json, write_recorded_json
from dl.mytorch.layers import sequential
from dl.mytorch.logger import SPEED, History, Logger, finite, read_history
from dl.mytorch.tasks import Task

if TYPE_CHECKING:
    from dl.mytorch.trainer import Trainer


class Stage(nn.Module):
    """A block that is trained, under a head that reads its output; the first together with what comes before the blocks."""

    def __init__(self, model: nn.Module, place: int, head: nn.Module | None) -> None:
        super().__init__()
        self.outside = nn.ModuleDict({name: child for name, child in model.named_children() if child is not model.blocks})
        self.block, self.head = model.blocks[place], head
        self.before = model.before_blocks if place == 0 else None
        self.after = model.after_blocks if head is None else head.forward

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.block(x if self.before is None else self.before(x)))


def greedy(trainer: "Trainer", data: Splits) -> History:
    """Train the blocks of the trainer's model one by one, each as long as the config says; then test all of it.

    Belilovsky et al. 2019, https://arxiv.org/abs/1812.11446: a block learns under an auxiliary head, for the same loss,
    from the output of the blocks before it; these are frozen, and their output is kept on disk. At no time is there
    more than one block with gradients. Each block's training is a run of its own, `out`/block<i>, so that it resumes.

    The head is the mean over the map and a linear layer; for a block whose output is shaped like that of the last, the
    model's own. Deviations: the paper's better heads have convolutions; training examples that change at random are kept
    as they came in the first epoch.
    """
    model, config = trainer.model, trainer.config
    if not all(hasattr(model, name) for name in ("before_blocks", "blocks", "after_blocks")):
        raise UserError(f"--layerwise greedy: a {type(model).__name__} has no before_blocks, blocks and after_blocks")
    trainer.open_folder(data)
    out = trainer.out
    if (out / "history.json").exists():  # written at the end
        return _say(read_history(out / "history.json"), trainer.task.monitor)
    task = copy.copy(trainer.task)
    task.preview = task.report = lambda model: {}  # type: ignore[method-assign]  # they would show it images or tokens
    inputs, example = _inputs(task, to_device(next(data.train.batches()), trainer.device))
    try:
        heads, first = _heads(model, example), _parameters_before(model, example)
    except (RuntimeError, ValueError) as error:
        raise introspect.explained(error, lambda batch: _heads(model, batch[inputs]), {inputs: example}) from error
    train, val = data.train, data.val
    steps = config.steps or config.epochs * math.ceil(len(train) / config.accumulate)
    for place, head in enumerate(heads):
        seed_everything(config.seed + place)  # else a resumed run would draw other dropout
        taken = trainer.step.precision.taken  # a block that is begun on another machine takes what the run took
        of_stage = dataclasses.replace(config, layerwise="none", out=str(out / f"block{place}"), precision=taken)
        stage = Stage(model, place, head).train()
        of_block = type(trainer)(stage, task, trainer.make_optimizer, trainer.schedule, of_stage)
        best = of_block.fit(Splits(train, val)).best(task.monitor)
        trainer.history.append({**best, "epoch": place + 1, "step": (place + 1) * steps})
        for parameter in [*first, *stage.block.parameters()]:
            parameter.requires_grad_(False)
        if place + 1 < len(heads):
            before = model.before_blocks if place == 0 else nn.Identity()
            kept = [(train, min(steps * config.accumulate, len(train))), (val, len(val))]
            train, val = (_kept(trainer, loader, n, inputs, lambda x: stage.block(before(x))) for loader, n in kept)
    return _finish(trainer, data)


def _inputs(task: Task, batch: Batch) -> tuple[str, Tensor]:
    """Return what the task gives to a model, by its name in the batch; and one example of it."""

    class Called(Exception):
        pass

    def note(*inputs: Any, **_: Any) -> None:
        raise Called(*inputs)

    try:
        task.step(note, batch)
    except Called as called:
        name = next(name for name, tensor in batch.items() if tensor is called.args[0])
    return name, batch[name][:1]


def _heads(model: nn.Module, example: Tensor) -> list[nn.Module | None]:
    """For each block: None if its output, (C, H, W), is shaped as that of the last, else a head of its own."""
    with torch.no_grad():
        x = model.eval().before_blocks(example)
        shapes = [(x := block(x)).shape for block in model.blocks]
        outputs = model.after_blocks(x).shape[-1]

    def head(shape: torch.Size) -> nn.Module:
        return sequential(pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(), fc=nn.Linear(shape[1], outputs))

    return [None if shape == shapes[-1] else head(shape) for shape in shapes]


def _parameters_before(model: nn.Module, example: Tensor) -> list[nn.Parameter]:
    """Return those that `before_blocks` uses; the head may share some."""
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(model.before_blocks(example).sum(), parameters, allow_unused=True)
    return [p for p, gradient in zip(parameters, gradients) if gradient is not None]


@torch.no_grad()
def _kept(trainer: "Trainer", loader: Loader, batches: int, inputs: str, forward: Callable[[Tensor], Tensor]) -> Loader:
    """Return a loader of what `forward` makes of the inputs of the first `batches`, kept in files."""
    trainer.model.eval()
    examples, filled = min(batches * loader.batch_size, loader.num_examples), 0
    kept: Batch = {}
    for batch in islice(loader.batches(), batches):
        batch = to_device(batch, trainer.device, trainer.config.channels_last)
        with trainer.step.autocast():
            batch[inputs] = forward(batch[inputs])
        for name, tensor in batch.items():
            if name not in kept:
                kept[name] = mapped.mmap_zeros((examples, *tensor.shape[1:]), tensor.dtype, trainer.out)
            kept[name][filled : filled + len(tensor)] = tensor
        filled += len(tensor)
    return Loader(kept, loader.batch_size, shuffle=loader.shuffle, seed=loader.seed)


def _finish(trainer: "Trainer", data: Splits) -> History:
    """Save the whole network, test it, draw how the error falls from block to block."""
    history, last = trainer.history, trainer.history[-1]
    trainer.model.requires_grad_(True)
    checkpoint.save(trainer.model.state_dict(), trainer.out / "best.pt")
    with Logger(trainer.out, last["step"], last["step"], trainer.config.plots) as logger:
        if data.test is not None:
            history.append({"epoch": last["epoch"], "step": last["step"], "test": finite(trainer.evaluate(data.test))})
        logger.finished(history, {}, trainer.config, trainer.task.monitor)
    speeds = [read_recorded_json(path, SPEED) for path in trainer.out.glob("block*/speed.json")]
    write_recorded_json(_speed(speeds), trainer.out / "speed.json")
    return _say(history, trainer.task.monitor)


def _speed(of_blocks: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures of all blocks together; what it takes to keep outputs is not in them."""
    sums = {name: sum(speed[name] for speed in of_blocks) for name in ("seconds", "training_seconds", "examples", "items")}
    taken = max(sums["training_seconds"], 1e-9)
    rates = {f"{name}_per_second": round(sums[name] / taken, 1) for name in ("examples", "items")}
    most = max(speed["peak_memory_bytes"] for speed in of_blocks)
    return of_blocks[0] | sums | rates | {"peak_memory_bytes": most}


def _say(history: History, monitor: str) -> History:
    """Print what the last block reached, with which the whole network was tested."""
    last = max(place for place, record in enumerate(history) if "val" in record)
    print(History(history[last:]).table(monitor))
    return history
