"""One step of training: the mean loss over batches and ranks, its gradients, one update."""

import contextlib
import math
from typing import Any, Callable

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dl.mytorch import distributed, precision
from dl.mytorch.config import TrainConfig, UserError
from dl.mytorch.data.loader import Batch
from dl.mytorch.distributed import all_reduce_sum, data_world_size, world_size
from dl.mytorch.dtensor import local
from dl.mytorch.large import placement
from dl.mytorch.metrics import Metrics, total
from dl.mytorch.optim import MakeOptimizer
from dl.mytorch.run import recorded_precision
from dl.mytorch.tasks import StepOutput, Task


class NotFinite(UserError):
    """The loss or a gradient of a step, counted from 1, is NaN or infinite; nothing was updated on a CPU."""

    def __init__(self, step: int) -> None:
        super().__init__(f"the loss or a gradient is not finite at step {step}")
        self.step = step


class TrainStep:
    """Called with the batches of a step, it updates `model`, which it has put where the config wants it.

    `step(batches)` makes one step; batches are on `step.device`. What is really another way to learn overrides `learn`.

    Args:
        optimizer: model -> torch optimizer, for instance `sgd(lr=0.1)`; called when the model is on its device. Or a list of
            them, for a subclass whose `learn` uses each.
    """

    def __init__(self, model: nn.Module, task: Task, optimizer: MakeOptimizer, config: TrainConfig) -> None:
        self.model, self.config, self.task = model, config, task
        self.device = distributed.device(config.device)
        self.precision = precision.choose(config.precision, self.device, recorded_precision(config))
        if config.deterministic:
            distributed.use_deterministic_algorithms()
        self.placement = placement.choose(config, self.device, self.precision.taken)
        self.placement.move(model)
        self.ema = AveragedModel(model) if config.ema else None
        if config.checkpoint_activations:
            self.placement.checkpoint_activations(model)
        if config.compile:
            self.placement.compile(model)
        self.network = self.parallelized(model)  # what a training step calls
        if self.ema is not None and self.placement.in_place:
            self.parallelized(self.ema.module)
        made = optimizer(model)
        self.optimizers = made if isinstance(made, list) else [made]
        self.optimizer = self.optimizers[0]
        for group in self.param_groups():
            group["initial_lr"] = group["lr"]

        self.steps_done = 0
        self.signals: list[int] = []  # those that asked this process to stop
        self.stop = torch.zeros(())  # how many there are on all ranks, as of the last update; on the device
        self.train_metrics = Metrics(task.train_metrics())  # means over the training since the last evaluation
        self.first_bad = torch.zeros((), dtype=torch.int64, device=self.device)  # step of the first NaN or infinity

    def __call__(self, batches: list[Batch]) -> None:
        """Make one step from `batches`, which may be spread over ranks in any way."""
        self.learn(batches)
        self.update_average()
        self.steps_done += 1

    def learn(self, batches: list[Batch]) -> None:
        """Update the weights. The override point for learning that is really different: several updates, say."""
        self.update(batches, self.task.step, self.optimizer)

    def parallelized(self, model: nn.Module) -> Any:
        """Return what a step calls when ranks share the work. A step that calls parts of `model` by themselves wraps these."""
        return self.placement.parallelize(model)

    def update(self, batches: list[Batch], step: Callable[[Any, Batch], StepOutput], optimizer: torch.optim.Optimizer) -> None:
        """Make one update by `optimizer` from the mean loss over all items of `batches` on all ranks, however these are spread.

        `step` gives the loss, as `Task.step` does.
        """
        alone = len(batches) == 1 and world_size() == 1  # then the mean of the batch is the mean of the step
        losses, counts = [], []
        for i, batch in enumerate(batches):
            with self.placement.no_sync(self.network) if i + 1 < len(batches) else contextlib.nullcontext():
                with self.autocast():
                    output = step(self.network, batch)
                loss = output.loss if alone else total(output.loss, output.count)
                loss.backward()
            self.train_metrics.update(*output)
            losses.append(loss.detach())
            counts.append(output.count)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.placement.after_backward(parameters)
        loss = losses[0] if alone else torch.stack(losses).sum()
        gradients = [p.grad for p in parameters if p.grad is not None]
        if not alone:
            # Sums over items become means. DDP and FSDP have divided by the number of parts of the data already.
            sums = [torch.as_tensor(number, device=self.device) for number in (sum(counts), loss, len(self.signals))]
            items, loss, self.stop = all_reduce_sum(torch.stack(sums))
            self.placement.scale(gradients, data_world_size() / items)
        self.apply_gradients(loss, gradients, optimizer)

    def apply_gradients(self, loss: Tensor, gradients: list[Tensor], optimizer: torch.optim.Optimizer) -> None:
        """Check that loss and gradients are finite, clip, update, clear the gradients, those of other optimizers too."""
        self.gradient_norm = self.placement.norm(gradients)
        health = loss + self.gradient_norm
        if self.device.type == "cpu":
            if not math.isfinite(health):
                raise NotFinite(self.steps_done + 1)
        else:  # reading it would wait for the device: the step is noted there, and read with the other sums
            bad = ~torch.isfinite(health) & (self.first_bad == 0)
            self.first_bad = torch.where(bad, self.steps_done + 1, self.first_bad)
        if self.config.grad_clip:
            self.placement.scale(gradients, (self.config.grad_clip / (self.gradient_norm + 1e-6)).clamp(max=1.0))
        self.placement.update(optimizer)
        for each in self.optimizers:
            each.zero_grad()

    def update_average(self) -> None:
        """Update the EMA of the weights, if there is one. The decay is warmed up: min(ema, (1 + t) / (10 + t)).

        The weights of the first steps, which are bad, would else be a large part of the average of a short run.
        """
        if self.ema is None:
            return
        if self.config.ema:
            decay = min(self.config.ema, (1 + self.steps_done) / (10 + self.steps_done))
            average = get_ema_multi_avg_fn(decay)
            self.ema.multi_avg_fn = lambda own, new, n: average(list(map(local, own)), list(map(local, new)), n)
        self.ema.update_parameters(self.model)

    def check_health(self) -> None:
        """Raise `NotFinite` if a step was. On a GPU this waits for the device."""
        if self.device.type != "cpu" and self.first_bad:
            raise NotFinite(int(self.first_bad))

    def param_groups(self) -> list[dict[str, Any]]:
        """Return those of all optimizers."""
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def autocast(self) -> contextlib.AbstractContextManager:
        """Return the precision of a forward pass as a context."""
        bf16 = self.precision.taken == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16) if bf16 else contextlib.nullcontext()
