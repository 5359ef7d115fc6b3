"""The losses of both stages: reconstruction with a small penalty, and denoising in the latent space; and their figures."""

import contextlib
import functools
from dataclasses import replace
from itertools import islice

import torch
from torch import Tensor, nn

from dl.modules.Diffusion.DDPM.process import DiffusionSchedule
from dl.modules.Diffusion.DDPM.samplers import ddim
from dl.modules.Diffusion.DDPM.task import Denoising, image_grid
from dl.modules.Diffusion.LatentDiffusion.autoencoder import Autoencoder, Posterior
from dl.modules.Diffusion.LatentDiffusion.model import LatentDiffusion
from dl.mytorch import Task
from dl.mytorch.data import Batch, Loader, Splits
from dl.mytorch.data.augment import Transform
from dl.mytorch.distributed import all_reduce_sum
from dl.mytorch.metrics import Mean, Metric
from dl.mytorch.progress import Progress
from dl.mytorch.tasks import StepOutput

FIRST = 2048  # training images whose latents the scale is measured on


class Reconstruction(Task):
    """Absolute error + `kl_weight` times KL, both summed over an image and divided by the number of its pixels' values.

    Batches: "images" (B, C, X, X) in [-1, 1]. In training the decoder sees drawn latents, in evaluation the means.
    """

    keep = 10  # images of an evaluation that are kept for the figure

    def __init__(self, kl_weight: float) -> None:
        self.kl_weight = kl_weight
        self.seen: Tensor | None = None

    def step(self, model: nn.Module, batch: Batch) -> StepOutput:
        images = batch["images"]
        again, posterior = model(images)
        reconstruction = (again.float() - images).abs().flatten(1).mean(1)  # (B,)
        kl = Posterior(*(moment.float() for moment in posterior)).kl() / images[0].numel()
        loss = reconstruction + self.kl_weight * kl
        outputs = {"reconstruction_loss": reconstruction.detach(), "mse": (again.detach().float() - images).square().flatten(1)}
        return StepOutput(loss.mean(), len(loss), outputs | {"mse": outputs["mse"].mean(1)})

    def begin_evaluation(self, model: nn.Module) -> None:
        self.seen = None

    def eval_step(self, model: nn.Module, batch: Batch) -> StepOutput:
        if self.seen is None:
            self.seen = batch["images"][: self.keep]
        return self.step(model, batch)

    def metrics(self) -> dict[str, Metric]:
        return {name: Mean(name) for name in ("reconstruction_loss", "mse")}

    def preview(self, model: nn.Module) -> dict[str, Tensor | str]:
        """Above, images of the evaluation; below each, what comes back."""
        if self.seen is None or not len(self.seen):
            return {}
        return {"reconstructions": image_grid(torch.cat([self.seen, model(self.seen)[0].float()]), len(self.seen))}

    def report(self, model: nn.Module) -> dict[str, Tensor | str]:
        figures = self.preview(model)
        if figures:
            posterior = model.posterior(self.seen)
            noise = (posterior.log_variance.float() / 2).exp().mean()
            figures["latents"] = (
                f"std {posterior.mean.float().std():.3f}, of their noise {noise:.4f}, KL {posterior.kl().mean():.0f} nats"
            )
        return figures


class LatentDenoising(Denoising):
    """DDPM's task on scaled latents, drawn again in each step from the posterior of each image.

    Batches: "images" (B, C, X, X) in [-1, 1], or the posteriors of `encoded`; and "labels" (B,).
    """

    def __init__(self, process: DiffusionSchedule, model: LatentDiffusion, drop_label: float = 0.1) -> None:
        super().__init__(process, model.latent_shape, drop_label, sampler=functools.partial(ddim, clip=False))

    def images(self, model: nn.Module, x: Tensor) -> Tensor:
        """Scaled latents (N, Z, Y, Y) -> images (N, C, X, X)."""
        return model.decode(x)

    def _loss(self, model: nn.Module, batch: Batch, drop_label: float) -> tuple[StepOutput, Tensor, Tensor]:
        network = getattr(model, "module", model)  # below DistributedDataParallel
        latents = network.encode(posterior_of(network.autoencoder, batch))
        return super()._loss(model, {"images": latents, "labels": batch["labels"]}, drop_label)


@torch.no_grad()
def posterior_of(autoencoder: Autoencoder, batch: Batch) -> Posterior:
    """Return q(z | image) of a batch of images, or of what `encoded` made of them, in at least fp32."""
    if "images" not in batch:
        return Posterior(batch["mean"], batch["log_variance"])
    posterior = autoencoder.posterior(batch["images"])
    return posterior if posterior.mean.dtype == torch.float64 else Posterior(*(moment.float() for moment in posterior))


def encoded(data: Splits, autoencoder: Autoencoder) -> Splits:
    """Return the same examples with "mean" and "log_variance" in place of "images": encoded once, not in each epoch.

    For images in memory that training does not change. Each rank encodes all of them.
    """
    total = sum(len(loader) for loader in data if loader)
    with contextlib.closing(Progress(total, what="encoding")) as progress:

        def loader(images: Loader | None) -> Loader | None:
            if images is None:
                return None
            parts = []
            for start in range(0, images.num_examples, images.batch_size):
                batch = {name: tensor[start : start + images.batch_size] for name, tensor in images.dataset.items()}
                posterior = posterior_of(autoencoder, prepared(batch, images.transform, autoencoder))
                parts.append([moment.cpu() for moment in posterior])
                progress.update()
            moments = {name: torch.cat(column) for name, column in zip(Posterior._fields, zip(*parts))}
            labels = {"labels": images.dataset["labels"]}
            return Loader(moments | labels, images.batch_size, shuffle=images.shuffle, seed=images.seed)

        return replace(data, train=loader(data.train), val=loader(data.val), test=loader(data.test))


def std_of_latents(data: Splits, autoencoder: Autoencoder, batch_size: int = 64) -> float:
    """Return the std of latents, drawn, of the first 2,048 training images, or of as many of a set on disk, over all ranks."""
    train = data.train
    sums = torch.zeros(3, dtype=torch.float64)  # of ones, of latents, of their squares
    loader = Loader(train.dataset, batch_size, shuffle=not train.in_memory)
    for batch in islice(loader.batches(), FIRST // batch_size):
        latents = posterior_of(autoencoder, prepared(batch, data.val.transform, autoencoder)).sample().cpu().double()
        sums += torch.stack([torch.tensor(float(latents.numel())), latents.sum(), latents.square().sum()])
    count, total, squares = all_reduce_sum(sums).tolist()
    return (squares / count - (total / count) ** 2) ** 0.5


def prepared(batch: Batch, transform: Transform | None, model: nn.Module) -> Batch:
    """Return a batch as evaluation has it, where the model is."""
    batch = transform(batch, torch.Generator()) if transform else batch
    where = next(model.parameters()).device
    return {name: tensor.to(where) for name, tensor in batch.items()}
