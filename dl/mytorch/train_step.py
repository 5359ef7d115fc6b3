"""One step of training: the mean loss over batches and ranks, its gradients, one update."""

import contextlib
import math
from typing import Any, Callable

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dl.mytorch import distributed
from dl.mytorch.config import TrainConfig, UserError
from dl.mytorch.data.loader import Batch
from dl.mytorch.distributed import all_sum, world
from dl.mytorch.dtensor import local
from dl.mytorch.large import placement, sharding
from dl.mytorch.large.offloading import Stream
from dl.mytorch.metrics import Metrics, total
from dl.mytorch.optim import MakeOptimizer
from dl.mytorch.precision import choose
from dl.mytorch.run import recorded_precision
from dl.mytorch.tasks import StepOutput, Task


class NotFinite(UserError):
    """The loss or a gradient of a step, counted from 1, is NaN or infinite; nothing was updated on a CPU."""

    def __init__(self, step: int) -> None:
        super().__init__(f"the loss or a gradient is not finite at step {step}")
        self.step = step


class Learner:
    """`model` where and as the config wants it (device, layout, ranks, compiled), with its optimizers, ready to make steps.

    `optimizer` is as `Trainer` says, which is a `Learner` that makes the steps of a whole run.
    """

    def __init__(self, model: nn.Module, task: Task, optimizer: MakeOptimizer, config: TrainConfig) -> None:
        self.config, self.task = config, task
        self.device = distributed.device(config.device)
        self.precision = choose(config.precision, self.device, recorded_precision(config))
        if config.deterministic:
            distributed.use_deterministic_algorithms()
        self.stream = Stream(model, self.device, config.out) if config.layerwise == "stream" else None
        self.model = model if self.stream else model.to(self.device)
        # Shards and files take weights of the usual layout alone.
        if config.channels_last and config.parallel != "fsdp" and self.stream is None:
            self.model.to(memory_format=torch.channels_last)
        self.ema = AveragedModel(self.model) if config.ema else None
        if config.checkpoint_activations and self.stream is None:  # which does so anyway
            sharding.recompute_activations(self.model)
        if config.compile:
            # Shards come and go between blocks; blocks that are alike share a program.
            parts = sharding.outermost_blocks(self.model) if config.parallel == "fsdp" else []
            for part in parts or [self.model]:
                part.compile()
        self.network = self.parallelized(self.model)  # what a training step calls
        if self.ema is not None and config.parallel == "fsdp":
            self.parallelized(self.ema.module)
        self.sharded = config.parallel == "fsdp" and world() > 1
        self.make_optimizer, made = optimizer, optimizer(self.model)
        self.optimizers = made if isinstance(made, list) else [made]
        self.optimizer = self.optimizers[0]
        for group in self.param_groups():
            group["initial_lr"] = group["lr"]

        self.step = 0  # updates made
        self.signals: list[int] = []  # those that asked this process to stop
        self.stop = torch.zeros(())  # how many there are on all ranks, as of the last update; on the device
        self.train_metrics = Metrics(task.train_metrics())  # means over the training since the last evaluation
        self.first_bad = torch.zeros((), dtype=torch.int64, device=self.device)  # step of the first NaN or infinity

    def parallelized(self, model: nn.Module) -> Any:
        """What a step calls when ranks share the work. A step that calls parts of `model` by themselves wraps these."""
        return placement.parallelize(model, self.config.parallel, self.precision.taken)

    def train_step(self, batches: list[Batch]) -> None:
        """One step from `batches`. The override point for learning that is really different: several updates, say."""
        self.update(batches, self.task.step, self.optimizer)
        self.update_average()

    def update(self, batches: list[Batch], step: Callable[[Any, Batch], StepOutput], optimizer: torch.optim.Optimizer) -> None:
        """One update by `optimizer` from the mean loss over all items of `batches` on all ranks, however these are spread.

        `step` gives the loss, as `Task.step` does.
        """
        alone = len(batches) == 1 and world() == 1  # then the mean of the batch is the mean of the step
        losses, counts = [], []
        for i, batch in enumerate(batches):
            unsynced = placement.no_sync(self.network) if i + 1 < len(batches) else contextlib.nullcontext()
            with unsynced:
                with self.autocast():
                    output = step(self.network, batch)
                loss = output.loss if alone else total(output.loss, output.count)
                loss.backward()
            self.train_metrics.update(*output)
            losses.append(loss.detach())
            counts.append(output.count)
        if self.stream is not None:
            self.stream.rest()
        loss = losses[0] if alone else torch.stack(losses).sum()
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        gradients = [local(p.grad) for p in parameters if p.grad is not None]
        if not alone:
            # Sums over items become means. DDP and FSDP have divided by the number of ranks already.
            sums = [torch.as_tensor(number, device=self.device) for number in (sum(counts), loss, len(self.signals))]
            items, loss, self.stop = all_sum(torch.stack(sums))
            self._scale(gradients, world() / items)
        self.apply_gradients(loss, gradients, optimizer)

    def apply_gradients(self, loss: Tensor, gradients: list[Tensor], optimizer: torch.optim.Optimizer) -> None:
        """Check that loss and gradients are finite, clip, update, clear the gradients, those of other optimizers too."""
        norms = torch._foreach_norm(gradients)
        if self.stream is not None:  # the gradients of blocks are at home
            norms = [norm.to(self.device) for norm in norms]
        self.gradient_norm = torch.linalg.vector_norm(torch.stack(norms))
        if self.sharded:
            self.gradient_norm = all_sum(self.gradient_norm.square()).sqrt()
        health = loss + self.gradient_norm
        if self.device.type == "cpu":
            if not math.isfinite(health):
                raise NotFinite(self.step + 1)
        else:  # reading it would wait for the device: the step is noted there, and read with the other sums
            bad = ~torch.isfinite(health) & (self.first_bad == 0)
            self.first_bad = torch.where(bad, self.step + 1, self.first_bad)
        if self.config.grad_clip:
            self._scale(gradients, (self.config.grad_clip / (self.gradient_norm + 1e-6)).clamp(max=1.0))
        if self.stream is None:
            optimizer.step()
        else:
            self.stream.update(optimizer)
        for each in self.optimizers:
            each.zero_grad()

    def update_average(self) -> None:
        """Move the average of the weights, if there is one: by `config.ema`, but in the beginning each step counts for more.

        The weights of the first steps, which are bad, would else be a large part of the average of a short run.
        """
        if self.ema is None:
            return
        if self.config.ema:
            self.ema.multi_avg_fn = get_ema_multi_avg_fn(min(self.config.ema, (1 + self.step) / (10 + self.step)))
        self.ema.update_parameters(self.model)

    def _scale(self, gradients: list[Tensor], factor: Tensor) -> None:
        torch._foreach_mul_(gradients, factor if self.stream is None else float(factor))

    def check_health(self) -> None:
        """Raise `NotFinite` if a step was. On a GPU this waits for the device."""
        if self.device.type != "cpu" and self.first_bad:
            raise NotFinite(int(self.first_bad))

    def param_groups(self) -> list[dict[str, Any]]:
        """Those of all optimizers."""
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def autocast(self) -> contextlib.AbstractContextManager:
        """The precision of a forward pass."""
        bf16 = self.precision.taken == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16) if bf16 else contextlib.nullcontext()
