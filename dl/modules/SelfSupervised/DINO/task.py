"""Self-distillation: a student learns from its own moving average, the teacher. Both start as the same network."""

from typing import Any

import torch
from torch import Tensor, nn

from dl.modules.SelfSupervised.DINO.loss import distillation_loss, momentum, teacher_temperature
from dl.modules.SelfSupervised.task import SelfSupervised
from dl.mytorch.data import Batch
from dl.mytorch.distributed import all_reduce_sum
from dl.mytorch.large.sharding import gathered
from dl.mytorch.tasks import StepOutput
from dl.mytorch.train_step import TrainStep

STUDENT_TEMPERATURE = 0.1  # section 3.2
CENTRE_MOMENTUM = 0.9  # appendix D tries others; 0.999 is too slow, and all collapses


class Distillation(SelfSupervised):
    """The loss of "first" and "second" (B, C, H, W), two views of each image, which pass each network together.

    Evaluation is about the teacher, which has both parts there. `temperature` is the teacher's; `total_steps` those of the run.
    """

    teacher: nn.Module  # `DistillationStep` gives it
    totals: Tensor | float  # (K + 1,): sums of the teacher's outputs in a step, and their number

    def __init__(self, temperature: float, total_steps: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.temperature = self.final_temperature = temperature
        self.total_steps = total_steps
        self.forget()

    def forget(self) -> None:
        """Begin a step, whose mean of the teacher's outputs `move_centre` will ask for."""
        self.totals = 0.0

    def step(self, model: nn.Module, batch: Batch) -> StepOutput:
        views = torch.cat([batch["first"], batch["second"]])
        with torch.no_grad(), gathered(self.teacher):
            targets = self.teacher(views)  # (2B, K)
        sums = targets.sum(0, dtype=torch.promote_types(targets.dtype, torch.float32))
        self.totals = self.totals + torch.cat([sums, sums.new_tensor([len(targets)])])
        return self.compare(model(views), targets, self.teacher.centre, self.temperature)

    def eval_step(self, model: Any, batch: Batch) -> StepOutput:
        outputs = model(torch.cat([batch["first"], batch["second"]]))
        output = self.compare(outputs, outputs, model.centre, self.final_temperature)
        wrong = self.wrong(model.represent(batch["images"]), batch["labels"])
        return output._replace(outputs=output.outputs | {"wrong": wrong})

    def compare(self, student: Tensor, teacher: Tensor, centre: Tensor, temperature: float) -> StepOutput:
        """Return the loss of outputs (2B, K) of both networks."""
        student, teacher = (outputs.unflatten(0, (2, -1)) for outputs in (student, teacher))  # (2, B, K)
        loss = distillation_loss(student, teacher, centre, STUDENT_TEMPERATURE, temperature)
        return StepOutput(loss, student.shape[1], {"embeddings": student.detach()})

    @torch.no_grad()
    def move_centre(self) -> None:
        """Equation 4: move the centre towards the mean of the teacher's outputs in this step, over all ranks and forwards."""
        totals = all_reduce_sum(torch.as_tensor(self.totals))
        self.teacher.centre.lerp_(totals[:-1] / totals[-1], 1 - CENTRE_MOMENTUM)


class DistillationStep(TrainStep):
    """The student's update, then the teacher's (algorithm 1). The teacher is the run's moving average of the weights.

    So it is what is evaluated, saved as best.pt, and resumed; its momentum starts at `config.ema` and rises to 1.
    """

    task: Distillation

    def __init__(self, model: nn.Module, task: Distillation, *arguments: Any) -> None:
        super().__init__(model, task, *arguments)
        task.teacher = self.ema.module

    def learn(self, batches: list[Batch]) -> None:
        config, task = self.config, self.task
        task.temperature = teacher_temperature(
            config.warm_temperature, config.temperature, config.temperature_warmup, self.steps_done, task.total_steps
        )
        task.forget()
        super().learn(batches)
        task.move_centre()

    def apply_gradients(self, loss: Tensor, gradients: list[Tensor], optimizer: torch.optim.Optimizer) -> None:
        """At first the prototypes stay as they are: `config.freeze` of all steps."""
        if self.steps_done < self.config.freeze * self.task.total_steps:
            self.model.head.prototypes.weight.grad = None
            gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        super().apply_gradients(loss, gradients, optimizer)

    @torch.no_grad()
    def update_average(self) -> None:
        """Move the teacher's weights towards the student's. The first step does so too, where torch's average would copy."""
        kept = momentum(self.config.ema, self.steps_done, self.task.total_steps)
        torch._foreach_lerp_(list(self.task.teacher.parameters()), list(self.model.parameters()), 1 - kept)
