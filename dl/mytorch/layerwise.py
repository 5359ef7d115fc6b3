"""Models larger than memory, block by block: exactly (`Stream`), or each block on its own (`greedy`).

A model's blocks are the members of its lists of modules, `self.blocks`; nothing else is asked of a model that streams.
For `greedy` it has its forward in three: `before_blocks(inputs) -> x`, the blocks, `after_blocks(x) -> output`.
"""

import contextlib
import copy
import ctypes
import dataclasses
import math
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any, Callable

import torch
from torch import Tensor, nn

from dl.mytorch import checkpoint, sharding
from dl.mytorch.checkpoint import write_json
from dl.mytorch.config import UserError
from dl.mytorch.data.loader import Batch, Loader, Splits
from dl.mytorch.distributed import seed_everything, to_device
from dl.mytorch.layers import sequential
from dl.mytorch.logger import History, Logger, open_run, read_json
from dl.mytorch.tasks import Task

Trainer = Any  # that of trainer.py, which imports this file

# ---- exact: blocks visit the device --------------------------------------------------------------------------------


class Stream:
    """Weights, gradients and optimizer state of all blocks in files; one block at a time visits the device.

    Training goes on as usual, with the same gradients: of a block the forward pass keeps the input only, the backward
    pass computes the inside again (`sharding.recompute`), and `update` takes one block after the other. What belongs to
    no block stays on the device: embeddings, the head, buffers, and a weight that two blocks share.
    """

    def __init__(self, model: nn.Module, device: torch.device, folder: Path | str) -> None:
        _give_back_what_is_freed()
        blocks = sharding.outermost_blocks(model)
        if not blocks:
            raise UserError("--layerwise stream is for models with blocks, lists of modules; this one has none")
        users = Counter(p for block in blocks for p in block.parameters())
        users.update(p for module in _besides(model, blocks) for p in module._parameters.values() if p is not None)
        self.parts = [_Part([p for p in block.parameters() if users[p] == 1], device, folder) for block in blocks]
        streamed = {p for part in self.parts for p in part.parameters}
        self.resident = [p for p in model.parameters() if p not in streamed]
        for tensor in [*self.resident, *model.buffers()]:
            tensor.data = tensor.data.to(device)
        self.visitor: _Part | None = None
        for block, part in zip(blocks, self.parts):
            block.forward = self._visiting(part, block.forward)  # type: ignore[method-assign]
            sharding.recompute(block)

    def _visiting(self, part: "_Part", forward: Callable[..., Any]) -> Callable[..., Any]:
        def visit(*args: Any, **kwargs: Any) -> Any:
            if self.visitor is not part:
                self.rest()
                part.load()
                self.visitor = part
            return forward(*args, **kwargs)

        return visit

    def rest(self) -> None:
        """Send the block that is on the device home, with the gradients that it got: after the backward pass."""
        if self.visitor is not None:
            self.visitor.leave()
        self.visitor = None

    def update(self, optimizer: torch.optim.Optimizer) -> None:
        """`optimizer.step()`, block after block: it passes by parameters without a gradient, so the others' are hidden."""
        self.rest()
        parameters = [*self.resident, *(p for part in self.parts for p in part.parameters)]
        gradients = {p: p.grad for p in parameters}
        for p in parameters:
            p.grad = None
        for part in self.parts:
            part.load(gradients, optimizer.state)
            optimizer.step()
            part.store(optimizer.state)
        for p in self.resident:
            p.grad = gradients[p]
        optimizer.step()


def _give_back_what_is_freed() -> None:
    """glibc keeps freed tensors of up to 32 MB for the next ones, and ends up with several blocks' worth of gaps.

    Larger ones than 1 MiB get mappings of their own, which go when they are freed; other systems have no such call.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 2**20)


_M_MMAP_THRESHOLD = -3  # of malloc.h


class _Part:
    """The parameters of a block, at home in files, and how they go to the device and come back."""

    def __init__(self, parameters: list[nn.Parameter], device: torch.device, folder: Path | str) -> None:
        self.parameters, self.device, self.folder = parameters, device, folder
        self.homes: dict[tuple[nn.Parameter, str], Tensor] = {}
        self.filled: set[nn.Parameter] = set()  # have a gradient at home
        for p in parameters:
            if sharding.is_in_file(p.data):
                self.homes[p, "weight"] = p.data
            else:
                p.data = self._keep(p, "weight", p.data)

    def load(self, gradients: dict[nn.Parameter, Tensor | None] | None = None, state: dict | None = None) -> None:
        """Onto the device: the weights; for an update also their gradients and what the optimizer remembers of them."""
        for p in self.parameters:
            p.data = self._visitor(self.homes[p, "weight"])
            p.grad = gradients[p].to(self.device) if gradients and gradients[p] is not None else None
            for name, value in (state or {}).get(p, {}).items():
                state[p][name] = self._visitor(value) if _is_large(value, p) else value

    def leave(self) -> None:
        """Home again; gradients are added to those of the forwards before."""
        for p in self.parameters:
            if p.grad is not None and p in self.filled:
                self.homes[p, "gradient"].add_(p.grad.to("cpu"))
            elif p.grad is not None:
                self._keep(p, "gradient", p.grad)
                self.filled.add(p)
            p.data, p.grad = self.homes[p, "weight"], None
            if p in self.filled:
                p.grad = self.homes[p, "gradient"]
        torch.clear_autocast_cache()  # it has a copy of the weights

    def store(self, state: dict) -> None:
        """Home after an update, which changed the weights and the optimizer's state."""
        self.filled.clear()
        for p in self.parameters:
            p.data, p.grad = self._keep(p, "weight", p.data), None
            for name, value in state.get(p, {}).items():
                state[p][name] = self._keep(p, name, value) if _is_large(value, p) else value

    def _visitor(self, home: Tensor) -> Tensor:
        return home.to(self.device, copy=True)

    def _keep(self, p: nn.Parameter, name: str, value: Tensor) -> Tensor:
        if (p, name) not in self.homes:
            self.homes[p, name] = sharding.in_file(value.shape, value.dtype, self.folder)
        return self.homes[p, name].copy_(value.detach())


def _is_large(value: Any, p: nn.Parameter) -> bool:
    """Whether an optimizer has such a value for each weight, as the mean of its gradients; not so its number of steps."""
    return isinstance(value, Tensor) and value.shape == p.shape


def _besides(model: nn.Module, blocks: list[nn.Module]) -> list[nn.Module]:
    inside = {module for block in blocks for module in block.modules()}
    return [module for module in model.modules() if module not in inside]


# ---- greedy: one block after the other -----------------------------------------------------------------------------


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


def greedy(trainer: Trainer, data: Splits) -> History:
    """Train the blocks of the trainer's model one by one, each as long as the config says; then test the whole.

    Belilovsky et al. 2019, https://arxiv.org/abs/1812.11446: a block learns under an auxiliary head, for the same loss,
    from what the blocks before it put out; these are frozen, and what they put out is kept on disk. At no time is there
    more than one block with gradients. Each block's training is a run of its own, `out`/block<i>, so that it resumes.

    The head is the mean over the map and a linear layer; for a block whose output is shaped like that of the last, the
    model's own. Deviations: the paper's better heads have convolutions; training examples that change at random are kept
    as they came in the first epoch.
    """
    model, config = trainer.model, trainer.config
    if not all(hasattr(model, name) for name in ("before_blocks", "blocks", "after_blocks")):
        raise UserError(f"--layerwise greedy: a {type(model).__name__} has no before_blocks, blocks and after_blocks")
    trainer.out = out = open_run(config)
    if (out / "history.json").exists():  # written at the end
        return _say(History(read_json(out / "history.json")), trainer.task.monitor)
    task = copy.copy(trainer.task)
    task.preview = task.report = lambda model: {}  # type: ignore[method-assign]  # they would show it images or tokens
    inputs, example = _inputs(task, to_device(next(data.train.batches()), trainer.device))
    heads, first = _heads(model, example), _parameters_before(model, example)
    train, val = data.train, data.val
    steps = config.steps or config.epochs * math.ceil(len(train) / config.accumulate)
    for place, head in enumerate(heads):
        seed_everything(config.seed + place)  # else a resumed run would draw other dropout
        of_stage = dataclasses.replace(config, layerwise="none", out=str(out / f"block{place}"))
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
    """What the task gives to a model, by its name in the batch; and one example of it."""

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
    """Those that `before_blocks` uses; the head may share some."""
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(model.before_blocks(example).sum(), parameters, allow_unused=True)
    return [p for p, gradient in zip(parameters, gradients) if gradient is not None]


@torch.no_grad()
def _kept(trainer: Trainer, loader: Loader, batches: int, inputs: str, forward: Callable[[Tensor], Tensor]) -> Loader:
    """A loader of what `forward` makes of the inputs of the first `batches`, kept in files."""
    trainer.model.eval()
    examples, filled = min(batches * loader.batch_size, loader.num_examples), 0
    kept: Batch = {}
    for batch in islice(loader.batches(), batches):
        batch = to_device(batch, trainer.device, trainer.config.channels_last)
        with trainer.autocast():
            batch[inputs] = forward(batch[inputs])
        for name, tensor in batch.items():
            if name not in kept:
                kept[name] = sharding.in_file((examples, *tensor.shape[1:]), tensor.dtype, trainer.out)
            kept[name][filled : filled + len(tensor)] = tensor
        filled += len(tensor)
    return Loader(kept, loader.batch_size, shuffle=loader.shuffle, seed=loader.seed)


def _finish(trainer: Trainer, data: Splits) -> History:
    """Save the whole network, test it, draw how the error falls from block to block."""
    history, last = trainer.history, trainer.history[-1]
    trainer.model.requires_grad_(True)
    checkpoint.save(trainer.model.state_dict(), trainer.out / "best.pt")
    with Logger(trainer.out, last["step"], last["step"]) as logger:
        if data.test is not None:
            history.append({"epoch": last["epoch"], "step": last["step"], "test": trainer.evaluate(data.test)})
        logger.finished(history, {}, trainer.config)
    write_json(_speed([read_json(path) for path in trainer.out.glob("block*/speed.json")]), trainer.out / "speed.json")
    return _say(history, trainer.task.monitor)


def _speed(of_blocks: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of all blocks together; what it takes to keep outputs is not in them."""
    sums = {name: sum(speed[name] for speed in of_blocks) for name in ("seconds", "training_seconds", "examples")}
    rate = round(sums["examples"] / max(sums["training_seconds"], 1e-9), 1)
    most = max(speed["peak_memory_bytes"] for speed in of_blocks)
    return of_blocks[0] | sums | {"examples_per_second": rate, "peak_memory_bytes": most}


def _say(history: History, monitor: str) -> History:
    print(history.table(monitor))
    return history
