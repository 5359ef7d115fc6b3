"""The one training loop: every model of the project goes through it, and none has a copy."""

import concurrent.futures
import contextlib
import math
import shutil
import signal
import time
from itertools import islice
from typing import Any, Callable, Iterator

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dl.mytorch import checkpoint, distributed, introspect, layerwise, sharding
from dl.mytorch.config import TrainConfig, UserError
from dl.mytorch.data.loader import Batch, Loader, Splits
from dl.mytorch.distributed import all_sum, is_main, rank, separate_rng, to_device, world
from dl.mytorch.logger import History, Logger, open_run, read_json
from dl.mytorch.metrics import Metrics, total
from dl.mytorch.optim import MakeOptimizer, Schedule
from dl.mytorch.tasks import StepOutput, Task


class _Stopped(Exception):
    """SIGINT or SIGTERM came; the state is that between two steps."""


class Trainer:
    """Trains `model` at `task`; everything a run writes goes to `config.out`.

    Args:
        optimizer: model -> torch optimizer, for instance `sgd(lr=0.1)`; called when the model is on its device. Or a list of
            them, for a subclass whose `train_step` uses each: all follow the schedule, and are saved and resumed.
        schedule: (step, total steps) -> multiplier of the optimizer's learning rates.

    A step is one update from `config.accumulate` forwards. Whatever differs between models belongs to the task; what
    is really another way to learn (two optimizers, say) overrides `train_step`.
    """

    def __init__(
        self, model: nn.Module, task: Task, optimizer: MakeOptimizer, schedule: Schedule, config: TrainConfig
    ) -> None:
        self.config, self.task, self.schedule = config, task, schedule
        self.device = distributed.device(config.device)
        self.stream = layerwise.Stream(model, self.device, config.out) if config.layerwise == "stream" else None
        self.model = model if self.stream else model.to(self.device)
        # Shards and files take weights of the usual layout alone.
        if config.channels_last and config.parallel != "fsdp" and self.stream is None:
            self.model.to(memory_format=torch.channels_last)
        average = get_ema_multi_avg_fn(config.ema)
        self.ema = AveragedModel(self.model, multi_avg_fn=average) if config.ema else None
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
        for group in self._param_groups():
            group["initial_lr"] = group["lr"]

        self.step = self.epoch = self.batch = 0  # updates made; position of the next batch
        self.history = History()
        self.best = math.inf
        self.train_metrics = Metrics(task.train_metrics())  # means over the training since the last evaluation
        self.first_bad = torch.zeros((), dtype=torch.int64, device=self.device)  # step of the first NaN or infinity
        self.signals: list[int] = []  # those that asked us to stop
        self.saved = False
        # What was saved and is not yet in last.pt, and the writing of its shards, if it has any.
        self.unkept: tuple[dict[str, Any], concurrent.futures.Future | None] | None = None
        self.logged = (0.0, 0.0)  # loss and items of train_metrics at the last point of the curve
        self.evaluation_seconds = 0.0

    def parallelized(self, model: nn.Module) -> Any:
        """What a step calls when ranks share the work. A step that calls parts of `model` by themselves wraps these."""
        return distributed.parallelize(model, self.config.parallel, self.config.precision)

    # ---- one step --------------------------------------------------------------------------------------------------

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
            unsynced = distributed.without_sync(self.network) if i + 1 < len(batches) else contextlib.nullcontext()
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
        gradients = [sharding.local(p.grad) for p in parameters if p.grad is not None]
        if not alone:
            # Sums over items become means. DDP and FSDP have divided by the number of ranks already.
            items, loss = all_sum(torch.stack([torch.as_tensor(sum(counts), device=self.device), loss]))
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
                self._refuse(self.step + 1)
        else:  # reading it would wait for the device: the step is noted there, and read with the other sums
            bad = ~torch.isfinite(health) & (self.first_bad == 0)
            self.first_bad = torch.where(bad, self.step + 1, self.first_bad)
        if self.config.clip:
            self._scale(gradients, (self.config.clip / (self.gradient_norm + 1e-6)).clamp(max=1.0))
        if self.stream is None:
            optimizer.step()
        else:
            self.stream.update(optimizer)
        for each in self.optimizers:
            each.zero_grad()

    def update_average(self) -> None:
        """Move the average of the weights, if there is one."""
        if self.ema is not None:
            self.ema.update_parameters(self.model)

    def _scale(self, gradients: list[Tensor], factor: Tensor) -> None:
        torch._foreach_mul_(gradients, factor if self.stream is None else float(factor))

    def _check_health(self) -> None:
        if self.device.type != "cpu" and self.first_bad:
            self._refuse(int(self.first_bad))

    def _refuse(self, step: int) -> None:
        epoch, place = divmod(step - 1, self.steps_per_epoch)
        raise UserError(
            f"the loss or a gradient is not finite at step {step} (epoch {epoch + 1}, batch "
            f"{place * self.config.accumulate + 1}): stopped before the update. "
            f"What was saved before is kept in {self.out}. A lower --lr, --clip 1 or --precision fp32 may help"
        )

    # ---- the whole run ---------------------------------------------------------------------------------------------

    def fit(self, data: Splits) -> History:
        """Train, or go on with the run that `config.out` holds; then test the best checkpoint.

        `data.test` is read once, at the end. Afterwards the model has the weights of the best checkpoint.
        """
        if self.config.layerwise == "greedy":
            return layerwise.greedy(self, data)
        self.started, self.evaluation_seconds = time.perf_counter(), 0.0
        self.steps_per_epoch = math.ceil(len(data.train) / self.config.accumulate)
        self.total_steps = self.config.steps or self.config.epochs * self.steps_per_epoch
        self.out = open_run(self.config)
        for name, vocabulary in data.vocabularies.items():
            vocabulary.keep(self.out / f"vocabulary-{name}.json")
        self._resume()
        self.done_before = self._examples(data.train)
        with Logger(self.out, self.step, self.total_steps) as self.logger, distributed.signals_noted() as self.signals:
            if 0 < self.step < self.total_steps:
                self.logger.say(f"going on with {self.out} at step {self.step} of {self.total_steps}")
            try:
                self._loop(data)
                self._keep(wait=True)
                return self._finish(data)
            except _Stopped:
                if not self.saved:
                    self._save(data.train)
                self._keep(wait=True)
                self.logger.say(f"stopped at step {self.step} of {self.total_steps}, saved; the same command goes on")
                raise SystemExit(128 + self.signals[0]) from None
            finally:
                if self.unkept is not None and self.unkept[1] is not None:
                    concurrent.futures.wait([self.unkept[1]])

    def _loop(self, data: Splits) -> None:
        groups = self._groups(data.train)
        evaluate_every = self.config.eval_every or self.steps_per_epoch
        save_every = self.config.save_every or self.steps_per_epoch
        while True:
            at_end = self.step == self.total_steps
            evaluated = self.history[-1]["step"] if self.history else 0
            if self.step > evaluated and (at_end or self.step % evaluate_every == 0):
                self._record(data)
            if not self.saved and self.step and (at_end or self.step % save_every == 0):
                self._save(data.train)
            if at_end:
                return
            batches = next(groups)
            if self.step == 0:
                example = {name: tensor[:1] for name, tensor in batches[0].items()}
                with self._aside() as model:
                    if is_main():
                        self.logger.summary(introspect.summarize(model, lambda: self.task.step(model, example)))
            if not self.model.training:
                self.model.train()
            for group in self._param_groups():
                group["lr"] = group["initial_lr"] * self.schedule(self.step, self.total_steps)
            self.train_step(batches)
            self.step += 1
            self.saved = False
            self._keep(wait=False)
            self.logger.bar.update()
            if self.step % self.config.log_every == 0:
                self._log_point()
            if self.signals and world() == 1:
                raise _Stopped

    def _groups(self, loader: Loader) -> Iterator[list[Batch]]:
        """The batches of each step, from the present position on; the position moves past what was given."""
        while True:
            batches = loader.batches(self.epoch, self.batch)
            while group := list(islice(batches, self.config.accumulate)):
                self.batch += len(group)
                yield [to_device(batch, self.device, self.config.channels_last) for batch in group]
            self.epoch, self.batch = self.epoch + 1, 0

    def _record(self, data: Splits) -> None:
        """Evaluate, remember, and keep the weights if they are the best so far."""
        self._check_health()
        val = self.evaluate(data.val)
        if self.task.monitor not in val:
            raise UserError(f"the task monitors {self.task.monitor!r}, but evaluation gives {', '.join(val)}")
        if not math.isfinite(val[self.task.monitor]):
            raise UserError(f"the validation {self.task.monitor} is not finite at step {self.step}: stopped")
        train = self.train_metrics.compute()
        self.train_metrics.reset()
        self.saved = False
        self.logged = (0.0, 0.0)
        lr = self.optimizer.param_groups[0]["lr"]
        epoch = math.ceil(self.step / self.steps_per_epoch)
        self.history.append({"epoch": epoch, "step": self.step, "lr": lr, "train": train, "val": val})
        better = val[self.task.monitor] < self.best
        if better:
            self.best = val[self.task.monitor]
            weights = sharding.whole(self.evaluated_model.state_dict(), keep=is_main())
            if is_main():
                checkpoint.save(weights, self.out / "best.pt")
        with self._aside() as model:
            shown = self.task.preview(model) if self.stream is None else {}  # it may take a hundred passes through all blocks
            self.logger.evaluated(self.history, shown, better)

    def _finish(self, data: Splits) -> History:
        """Test the best checkpoint, draw, and say where everything is."""
        distributed.barrier()  # rank 0 has written best.pt
        for model in {self.model, self.evaluated_model}:
            checkpoint.load_weights(model, self.out / "best.pt")
        if self.history.test is not None or (data.test is None and (self.out / "curves.png").exists()):
            self.logger.say(f"{self.out} holds this run, finished; --fresh would start it over")
        else:
            if data.test is not None:
                best = self.history.best(self.task.monitor)
                self.history.append({"epoch": best["epoch"], "step": best["step"], "test": self.evaluate(data.test)})
            with self._aside() as model:
                self.logger.finished(self.history, self.task.report(model) if data.test else {}, self.config)
            self._save_speed(data.train)
        self.logger.say(self.history.table(self.task.monitor))
        return self.history

    # ---- evaluation ------------------------------------------------------------------------------------------------

    @property
    def evaluated_model(self) -> nn.Module:
        """The model that evaluation and the best checkpoint are about: the moving average, if there is one."""
        return self.model if self.ema is None else self.ema.module

    def evaluate(self, loader: Loader) -> dict[str, float]:
        """Mean loss and metrics over every example of `loader`, each counted once. Takes no randomness from training."""
        metrics = Metrics(self.task.metrics())
        distributed.share_buffers(self.evaluated_model)
        with self._aside() as model:
            for batch in loader.batches():
                if self.signals and world() == 1:
                    raise _Stopped
                metrics.update(*self.task.eval_step(model, to_device(batch, self.device, self.config.channels_last)))
            return metrics.compute()

    @contextlib.contextmanager
    def _aside(self) -> Iterator[nn.Module]:
        """The model for looking at: without gradients, with randomness and a clock of its own."""
        started = time.perf_counter()
        model = self.evaluated_model
        with torch.no_grad(), separate_rng(self.config.seed + rank()), sharding.gathered(model), self.autocast():
            yield model.eval()
        self.evaluation_seconds += time.perf_counter() - started

    # ---- small things ----------------------------------------------------------------------------------------------

    def _param_groups(self) -> list[dict[str, Any]]:
        """Those of all optimizers."""
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def autocast(self) -> contextlib.AbstractContextManager:
        """The precision of a forward pass."""
        bf16 = self.config.precision == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16) if bf16 else contextlib.nullcontext()

    def _log_point(self) -> None:
        """The one place where training reads sums from the device: the mean loss since the last point, and bad news."""
        self._check_health()
        asked = torch.tensor([len(self.signals)], dtype=torch.float64)
        loss, items, stop = all_sum(torch.cat([self.train_metrics.by_name["loss"].sums.cpu().double(), asked])).tolist()
        point = {
            "step/loss": (loss - self.logged[0]) / max(items - self.logged[1], 1),
            "step/lr": self.optimizer.param_groups[0]["lr"],
            "step/gradient_norm": float(self.gradient_norm),
        }
        self.logged = (loss, items)
        self.logger.scalars("train", point, self.step)
        place = f"epoch {self.step / self.steps_per_epoch:.1f}, loss {point['step/loss']:.4f}"
        self.logger.bar.set_postfix_str(place, refresh=False)
        if stop and world() > 1:  # ranks stop at the same step, here
            self.signals = self.signals or [signal.SIGTERM]
            raise _Stopped

    def _examples(self, loader: Loader) -> int:
        return self.epoch * loader.num_examples + min(self.batch * loader.batch_size, loader.num_examples)

    def _save_speed(self, loader: Loader) -> None:
        distributed.synchronize(self.device)
        seconds = time.perf_counter() - self.started
        examples = self._examples(loader) - self.done_before
        self.logger.speed(self.device, seconds, seconds - self.evaluation_seconds, examples)

    # ---- state -----------------------------------------------------------------------------------------------------

    def _save(self, loader: Loader) -> None:
        """Everything that the next step depends on, in one file; weights of a large model beside it, in shards."""
        self._check_health()
        self._keep(wait=True)  # the state before, if its shards are still being written
        parts = self.model, self.optimizers, self.ema
        if checkpoint.use_shards(self.model):
            captured, writing = checkpoint.capture_shards(self.out / f"shards-{self.step}", *parts)
        else:
            captured, writing = checkpoint.capture(*parts), None
        state = {
            **captured,
            "train_sums": self.train_metrics.state(),
            "task": checkpoint.gather_rows(self.task.state()),
            "position": (self.step, self.epoch, self.batch),
            "length": (self.steps_per_epoch, self.total_steps),
            "history": list(self.history),
            "best": self.best,
        }
        self.unkept = (state, writing)
        self._keep(wait=False)
        self._save_speed(loader)
        self.saved = True

    def _keep(self, wait: bool) -> None:
        """Put the latest state into last.pt, once its shards are written: now, after waiting, or in a later step."""
        if self.unkept is None:
            return
        state, writing = self.unkept
        shards = None
        if writing is not None:
            if not (wait or writing.done()):
                return
            shards = self.out / state["shards"]
            checkpoint.finish_shards(writing, shards)
        self.unkept = None
        if is_main():
            checkpoint.save(state, self.out / "last.pt")
            for old in set(self.out.glob("shards-*")) - {shards}:
                shutil.rmtree(old)
            self.logger.history(state["history"])

    def _resume(self) -> None:
        """Put back what `_save` wrote, if there is anything."""
        path = self.out / "last.pt"
        if rank():  # weights are drawn alike on all ranks, dropout is not
            distributed.seed_everything(self.config.seed + rank())
        if not path.exists():
            return
        state = checkpoint.load(path, mapped=self.stream is not None or self.sharded)
        if tuple(state["length"]) != (self.steps_per_epoch, self.total_steps):
            raise UserError(
                f"{path} is of a run with {state['length'][0]} steps an epoch, the data now gives {self.steps_per_epoch}: "
                "choose another --out, or --fresh to start over"
            )
        checkpoint.restore(state, path, self.model, self.optimizers, self.ema)
        self.train_metrics.load_state(state["train_sums"])
        self.task.load_state(checkpoint.own_rows(state["task"]))
        self.step, self.epoch, self.batch = state["position"]
        self.history, self.best = History(state["history"]), state["best"]
        self.saved = True
        if self.step == self.total_steps and (self.out / "history.json").exists():
            self.history = History(read_json(self.out / "history.json"))  # the test may be in it already
