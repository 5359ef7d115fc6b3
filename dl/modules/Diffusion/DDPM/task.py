"""Denoising as a task: the loss of section 3.4, its course over time steps, and figures of what the network draws."""

from typing import Any, Callable, Sequence

import torch
from torch import Tensor, nn

from dl.modules.Diffusion.DDPM.process import DiffusionSchedule
from dl.modules.Diffusion.DDPM.samplers import Denoiser, ddim, guided
from dl.modules.Diffusion.DDPM.vlb import variational_bound
from dl.mytorch import Task, plot
from dl.mytorch.data import Batch
from dl.mytorch.distributed import all_reduce_sum
from dl.mytorch.tasks import StepOutput

BINS = 10  # of time steps, for the figure of the loss
BOUND_WEIGHT = 0.001  # lambda of Nichol & Dhariwal 2021, equation 16


class Denoising(Task):
    """Predict what noise was added: L_simple, equation 14, or the same loss for x0 and v.

    With a learned variance the loss is L_simple + 0.001 L_vlb (Nichol & Dhariwal 2021, https://arxiv.org/abs/2102.09672,
    equation 16); the expectation of the bound over one time is a T-th of its sum over all.

    Batches: "images" (B, C, H, W) in [-1, 1] and "labels" (B,). Each image gets a time step and noise of its own. A model
    with classes sees the labels; in training it is left without one with probability `drop_label`, for guidance.

    The preview is a grid of samples by `sampler`; the report adds how samples come about, and the loss at each time.
    Another process than DDPM's brings its own sampler, (denoiser, process, noise, steps, watch=...) -> images.
    """

    def __init__(
        self,
        process: DiffusionSchedule | Any,
        shape: Sequence[int],
        drop_label: float = 0.1,
        steps: int = 25,
        sampler: Callable[..., Tensor] = ddim,
    ) -> None:
        self.process, self.shape, self.drop_label = process, tuple(shape), drop_label
        self.steps, self.sampler = min(steps, process.steps), sampler
        self.by_time = torch.zeros(2, BINS, dtype=torch.float64)

    def step(self, model: nn.Module, batch: Batch) -> StepOutput:
        return self._loss(model, batch, self.drop_label)[0]

    def begin_evaluation(self, model: nn.Module) -> None:
        self.by_time.zero_()

    def eval_step(self, model: nn.Module, batch: Batch) -> StepOutput:
        output, losses, times = self._loss(model, batch, 0.0)
        bins = (times * BINS // self.process.steps).long().clamp(max=BINS - 1).cpu()
        self.by_time[0].index_add_(0, bins, losses.cpu().double())  # not every device has float64
        self.by_time[1].index_add_(0, bins, torch.ones(len(bins), dtype=torch.float64))
        return output

    def preview(self, model: nn.Module) -> dict[str, Tensor | str]:
        return {"samples": self.draw(model, rows=2)}

    def report(self, model: nn.Module) -> dict[str, Tensor | str]:
        sums, counts = all_reduce_sum(self.by_time)
        course = plot.figure(6, 3)
        axes = course.add_axes((0.12, 0.17, 0.86, 0.74))
        edges = torch.arange(BINS) * self.process.steps / BINS
        axes.bar(edges.numpy(), (sums / counts.clamp_min(1)).numpy(), self.process.steps / BINS * 0.9, align="edge")
        axes.set_xlabel("time step")
        axes.set_title(f"test loss, prediction of {self.process.prediction}")
        return {
            "samples": self.draw(model, rows=8),
            "denoising": self.draw_denoising(model),
            "loss_by_time": plot.to_tensor(course),
        }

    def draw(self, model: nn.Module, rows: int) -> Tensor:
        """`rows` samples of each class (a column each), or as many of no class."""
        columns = getattr(model, "num_classes", 0) or 8
        labels = torch.arange(columns).repeat(rows)
        noise = self._noise(model, len(labels))
        drawn = self.sampler(self._denoiser(model, labels), self.process, noise, self.steps)
        return image_grid(self.images(model, drawn), columns)

    def draw_denoising(self, model: nn.Module, frames: int = 8) -> Tensor:
        """Draw samples, one a row, from noise (left) to image (right)."""
        noise = self._noise(model, 6)
        seen = [noise]
        labels = torch.arange(6) % max(1, getattr(model, "num_classes", 0))
        self.sampler(self._denoiser(model, labels), self.process, noise, self.steps, watch=lambda i, x: seen.append(x))
        chosen = [seen[round(i * (len(seen) - 1) / (frames - 1))] for i in range(frames)]
        return image_grid(self.images(model, torch.stack(chosen, dim=1).flatten(0, 1)), frames)

    def images(self, model: nn.Module, x: Tensor) -> Tensor:
        """Return what the process is about as images: it is about images itself."""
        return x

    def _noise(self, model: nn.Module, count: int) -> Tensor:
        noise = torch.randn(count, *self.shape, generator=torch.Generator().manual_seed(0))
        return noise.to(next(model.parameters()).device)

    def _denoiser(self, model: nn.Module, labels: Tensor) -> Denoiser:
        return guided(model, labels.to(next(model.parameters()).device)) if model.num_classes else model

    def _loss(self, model: nn.Module, batch: Batch, drop_label: float) -> tuple[StepOutput, Tensor, Tensor]:
        images, labels = batch["images"], batch["labels"]
        network = getattr(model, "module", model)  # below DistributedDataParallel
        times = self.process.sample_timesteps(len(images), images.device)
        noise = torch.randn_like(images)
        x = self.process.q_sample(images, noise, times)
        arguments = [x, times]
        if network.num_classes:
            dropped = torch.rand(len(labels), device=labels.device) < drop_label
            arguments.append(labels.masked_fill(dropped, network.num_classes))
        output = model(*arguments).float()
        prediction, v = self.process.split(output)
        losses = (prediction - self.process.target(images, noise, times)).square().flatten(1).mean(1)  # (B,)
        if v is not None:
            bound = variational_bound(self.process, output, images, x, times)
            losses = losses + BOUND_WEIGHT * self.process.steps * bound
        loss = losses.mean()
        return StepOutput(loss, len(images), {}), losses.detach(), times


def image_grid(images: Tensor, columns: int) -> Tensor:
    """Return images (N, C, H, W) in [-1, 1] as one, (C, height, width) in [0, 1]."""
    return plot.grid((images.float().cpu().clamp(-1, 1) + 1) / 2, columns, enlarge=2, stretch=False)
