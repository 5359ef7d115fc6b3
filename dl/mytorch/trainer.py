"""The one training loop: every model of the project goes through it, and none has a copy. train_step.py has the step."""

import contextlib
import math
import os
import signal
import time
from itertools import islice
from typing import Callable, Iterator

import torch
from torch import nn

from dl.mytorch import checkpoint, distributed
from dl.mytorch.config import TrainConfig, UserError
from dl.mytorch.data.loader import Batch, Loader, Splits
from dl.mytorch.data.split import record
from dl.mytorch.distributed import all_reduce_sum, data_rank, fork_rng, is_main, to_device, world_size
from dl.mytorch.large import memory, sharding
from dl.mytorch.last import LastCheckpoint
from dl.mytorch.logger import History, Logger, finite
from dl.mytorch.metrics import Metrics
from dl.mytorch.optim import MakeOptimizer, Schedule
from dl.mytorch.progress import Progress
from dl.mytorch.run import held, open_run, say_what_is_unverified
from dl.mytorch.tasks import Task
from dl.mytorch.train_step import NotFinite, TrainStep


class _Stopped(Exception):
    """SIGINT or SIGTERM came; the state is that between two steps."""


class Trainer:
    """Trains `model` at `task`; everything a run writes goes to `config.out`.

    Args:
        optimizer: model -> torch optimizer, or a list of them: all follow the schedule, and are saved and resumed.
        schedule: (step, total steps) -> multiplier of the optimizer's learning rates.
        step: makes the `TrainStep`, which is one update from `config.accumulate` forwards. Whatever differs between models
            belongs to the task; what is really another way to learn (two optimizers, say) is a subclass of it.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        optimizer: MakeOptimizer,
        schedule: Schedule,
        config: TrainConfig,
        step: Callable[[nn.Module, Task, MakeOptimizer, TrainConfig], TrainStep] = TrainStep,
    ) -> None:
        from dl.mytorch import contract  # no part of the loop

        contract.check_recipe(model, task, optimizer, schedule)
        self.step = step(model, task, optimizer, config)
        self.model, self.task, self.config, self.schedule = model, task, config, schedule
        self.make_optimizer, self.device = optimizer, self.step.device
        self.epoch = self.batch = 0  # position of the next batch
        self.history, self.best, self.saved = History(), math.inf, False
        self.logged = (0.0, 0.0)  # loss and items of train_metrics at the last point of the curve
        self.evaluation_seconds = 0.0

    @property
    def steps_done(self) -> int:
        """Updates made."""
        return self.step.steps_done

    # ---- the whole run ---------------------------------------------------------------------------------------------

    def fit(self, data: Splits) -> History:
        """Train, or resume the run that `config.out` holds; then test the best checkpoint.

        `data.test` is read once, at the end. Afterwards the model has the weights of the best checkpoint.
        """
        with held(self.config):
            if self.config.layerwise == "greedy":
                from dl.mytorch.large import layerwise

                return layerwise.greedy(self, data)
            return self._fit(data)

    def _fit(self, data: Splits) -> History:
        self.started, self.evaluation_seconds = time.perf_counter(), 0.0
        self.steps_per_epoch = math.ceil(len(data.train) / self.config.accumulate)
        self.total_steps = self.config.steps or self.config.epochs * self.steps_per_epoch
        self.open_folder(data)
        self.last = LastCheckpoint(self.out, lambda state: self.logger.history(state["history"]))
        self._resume()
        self.first_step, self.done_before = self.steps_done, self._examples(data.train)
        self.logger = Logger(self.out, self.steps_done, self.total_steps, self.config.plots)
        from dl.mytorch.rates import Rates

        memory.report(self.step)
        with self.logger, Rates(self) as self.rates, distributed.catch_signals() as self.step.signals:
            if 0 < self.steps_done < self.total_steps:
                self.logger.say(f"resuming {self.out} at step {self.steps_done} of {self.total_steps}")
            try:
                self._loop(data)
                self.last.commit(block=True)
                return self._finish(data)
            except _Stopped:
                if not self.saved:
                    self._save(data.train)
                self.last.commit(block=True)
                self.logger.say(f"stopped at step {self.steps_done} of {self.total_steps}, saved; the same command resumes")
                raise SystemExit(128 + self.step.signals[0]) from None
            except NotFinite as error:
                epoch, place = divmod(error.step - 1, self.steps_per_epoch)
                raise UserError(
                    f"{error} (epoch {epoch + 1}, batch {place * self.config.accumulate + 1}): stopped before the update. "
                    f"What was saved before is kept in {self.out}. A lower --lr, --grad-clip 1 or --precision fp32 may help"
                ) from None
            finally:
                self.last.settle()

    def open_folder(self, data: Splits) -> None:
        """Claim `config.out` for this run, and record what explains the ids in its batches, and its split."""
        self.out = open_run(self.config, self.step.precision.taken, optimizer=self.make_optimizer, schedule=self.schedule)
        record(data, self.out)

    def _loop(self, data: Splits) -> None:
        groups = self._groups(data.train)
        evaluate_every = self.config.eval_every or self.steps_per_epoch
        save_every = self.config.save_every or self.steps_per_epoch
        while True:
            at_end = self.steps_done == self.total_steps
            evaluated = self.history[-1]["step"] if self.history else 0
            if self.steps_done > evaluated and (at_end or self.steps_done % evaluate_every == 0):
                self._record(data)
            if not self.saved and self.steps_done and (at_end or self.steps_done % save_every == 0):
                self._save(data.train)
            if at_end:
                return
            batches = next(groups)
            if self.steps_done == 0:
                with self._eval_mode() as model:  # on all ranks, since a task's step may ask the others for something
                    self.logger.summary(model, self.task.step, batches[0])
            if not self.model.training:
                self.model.train()
            for group in self.step.param_groups():
                group["lr"] = group["initial_lr"] * self.schedule(self.steps_done, self.total_steps)
            asked = self.step.stop  # in the step before: to read that of this step would be to wait for it
            self.step(batches)
            self.saved = False
            self.last.commit(block=False)
            self.logger.progress.update()
            self.rates.step()
            if self.steps_done % self.config.log_every == 0:
                self._log_point(data.train)
            if self.step.signals and world_size() == 1:
                raise _Stopped
            if world_size() > 1 and asked:  # ranks stop at the same step
                self.step.signals = self.step.signals or [signal.SIGTERM]
                raise _Stopped

    def _groups(self, loader: Loader) -> Iterator[list[Batch]]:
        """Yield the batches of each step, from the present position on; the position moves past what was given."""
        while True:
            batches = loader.batches(self.epoch, self.batch)
            while group := list(islice(batches, self.config.accumulate)):
                self.batch += len(group)
                yield [to_device(batch, self.device, self.config.channels_last) for batch in group]
            self.epoch, self.batch = self.epoch + 1, 0

    def _record(self, data: Splits) -> None:
        """Evaluate, remember, and keep the weights if they are the best so far."""
        self.step.check_health()
        val = self.evaluate(data.val)
        if not math.isfinite(val[self.task.monitor]):
            raise UserError(f"the validation {self.task.monitor} is not finite at step {self.steps_done}: stopped")
        train = finite(self.step.train_metrics.compute())
        self.rates.count(self.step.train_metrics)
        self.step.train_metrics.reset()
        self.saved, self.logged = False, (0.0, 0.0)
        self.rates.restart(self._examples(data.train), self.evaluation_seconds)
        lr, epoch = self.step.optimizer.param_groups[0]["lr"], math.ceil(self.steps_done / self.steps_per_epoch)
        made = {self.task.counted: self._examples(data.train)} if self.task.counted else {}
        self.history.append({"epoch": epoch, "step": self.steps_done, **made, "lr": lr, "train": train, "val": finite(val)})
        better = val[self.task.monitor] < self.best
        if better:
            self.best = val[self.task.monitor]
            checkpoint.save_weights(self.evaluated_model, self.out / "best.pt")
        with self._eval_mode() as model:
            shown = self.task.preview(model) if self.config.plots and self.step.placement.previews else {}
            self.logger.evaluated(self.history, shown, better)

    def _finish(self, data: Splits) -> History:
        """Test the best checkpoint, draw, and say where everything is."""
        distributed.barrier()  # rank 0 has written best.pt
        for model in {self.model, self.evaluated_model}:
            checkpoint.load_weights(model, self.out / "best.pt")
        drawn = (self.out / "curves.png").exists() or (self.logger.was_finished and not self.config.plots)
        if self.history.test is not None or (data.test is None and self.first_step == self.total_steps and drawn):
            self.logger.say(f"{self.out} holds this run, finished; --fresh would start it over")
        else:
            if data.test is not None:
                best = self.history.best(self.task.monitor)
                self.history.append({"epoch": best["epoch"], "step": best["step"], "test": finite(self.evaluate(data.test))})
            with self._eval_mode() as model:
                shown = self.task.report(model) if data.test and self.step.placement.reports else {}
                self.logger.finished(self.history, shown, self.config, self.task.monitor)
            self._save_speed(data.train, finished=True)
        self.logger.say(self.history.table(self.task.monitor))
        return self.history

    # ---- evaluation ------------------------------------------------------------------------------------------------

    @property
    def evaluated_model(self) -> nn.Module:
        """Return the model that evaluation and the best checkpoint are about: the moving average, if there is one."""
        return self.model if self.step.ema is None else self.step.ema.module

    def evaluate(self, loader: Loader) -> dict[str, float]:
        """Mean loss and metrics over every example of `loader`, each counted once. Takes no randomness from training."""
        metrics = Metrics(self.task.metrics())
        distributed.broadcast_buffers(self.evaluated_model)
        progress = Progress(len(loader), "batch", "evaluating", shown=is_main(), delay=Progress.EVERY)
        with self._eval_mode() as model, contextlib.closing(progress):
            self.task.begin_evaluation(model)
            for batch in loader.batches():
                if self.step.signals and world_size() == 1:
                    raise _Stopped
                metrics.update(*self.task.eval_step(model, to_device(batch, self.device, self.config.channels_last)))
                progress.update()
            return metrics.compute()

    @contextlib.contextmanager
    def _eval_mode(self) -> Iterator[nn.Module]:
        """Yield the model in evaluation mode: no gradients, a forked RNG, and time not counted as training."""
        started = time.perf_counter()
        model = self.evaluated_model
        with torch.no_grad(), fork_rng(self.config.seed + data_rank()), sharding.gathered(model), self.step.autocast():
            yield model.eval()
        self.evaluation_seconds += time.perf_counter() - started

    def _log_point(self, loader: Loader) -> None:
        """Read the sums from the device, here alone: the mean loss since the last point, and whether it is finite."""
        self.step.check_health()
        loss, items = all_reduce_sum(self.step.train_metrics.by_name["loss"].sums.cpu().double()).tolist()
        point = {
            "step/loss": (loss - self.logged[0]) / max(items - self.logged[1], 1),
            "step/lr": self.step.optimizer.param_groups[0]["lr"],
            "step/gradient_norm": float(self.step.gradient_norm),
        }
        point |= self.rates.point(items - self.logged[1], self._examples(loader), self.evaluation_seconds)
        self.logged = (loss, items)
        self.logger.scalars("train", point, self.steps_done)
        place = f"epoch {self.steps_done / self.steps_per_epoch:.1f}, loss {point['step/loss']:.4f}"
        self.logger.progress.annotate(f"{place}, {self.rates.shown(point)}")

    def _examples(self, loader: Loader) -> int:
        return self.epoch * loader.num_examples + min(self.batch * loader.batch_size, loader.num_examples)

    def _save_speed(self, loader: Loader, finished: bool = False) -> None:
        distributed.synchronize(self.device)
        seconds = time.perf_counter() - self.started
        sums = {"seconds": seconds, "training_seconds": seconds - self.evaluation_seconds, "items": self.rates.items}
        examples = self._examples(loader) - self.done_before
        self.logger.speed(self.device, self.task.unit, finished, examples=examples, **sums)

    def _save(self, loader: Loader) -> None:
        """Save everything that the next step depends on."""
        self.step.check_health()
        self.last.save(self)
        self._save_speed(loader)
        self.saved = True

    def _resume(self) -> None:
        """Put back what `_save` wrote, if there is anything. Raises `UserError` if it cannot be, and says what helps."""
        if data_rank():  # weights are drawn the same on all ranks, dropout is not
            distributed.seed_everything(self.config.seed + data_rank())
        if os.path.lexists(self.last.path):
            self.last.restore(self)
            say_what_is_unverified(self.out, "config.json", "last.pt", "history.json")
            self.saved = True
