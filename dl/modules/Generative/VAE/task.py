"""The negative evidence lower bound as a task, and figures: what is drawn, what comes back, what lies between."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dl.modules.Generative.images import image_grid, on_lines, samples
from dl.mytorch import Task
from dl.mytorch.data import Batch
from dl.mytorch.metrics import Mean, Metric
from dl.mytorch.tasks import StepOutput


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return KL(q(z|x) || p(z)) in nats, (B,), of normal distributions (B, Z) from the standard one. Appendix B."""
    return -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(1)


def reconstruction_loss(logits: Tensor, images: Tensor) -> Tensor:
    """Return -log p(x|z) in nats, (B,): Bernoulli distributions (B, C, X, X) and pixels in [0, 1]. Appendix C.1."""
    return F.binary_cross_entropy_with_logits(logits, images, reduction="none").flatten(1).sum(1)


class NegativeELBO(Task):
    """Equation 10 with one draw for each image, turned round: reconstruction + KL, a bound of -log p(x), in nats per image.

    Batches: "images" (B, C, X, X) in [-1, 1]. Grey pixels count as probabilities of white, as is common; the bound is of
    a distribution over black-and-white images, and no density of grey ones.
    """

    keep = 10  # images of an evaluation that are kept for the figures

    def __init__(self) -> None:
        self.seen: Tensor | None = None

    def step(self, model: nn.Module, batch: Batch) -> StepOutput:
        images = unit(batch["images"])
        logits, mean, log_variance = (x.float() for x in model(images))
        reconstruction = reconstruction_loss(logits, images)
        kl = kl_divergence(mean, log_variance)
        loss = (reconstruction + kl).mean()
        return StepOutput(loss, len(images), {"reconstruction_loss": reconstruction.detach(), "kl_loss": kl.detach()})

    def begin_evaluation(self, model: nn.Module) -> None:
        self.seen = None

    def eval_step(self, model: nn.Module, batch: Batch) -> StepOutput:
        if self.seen is None:
            self.seen = unit(batch["images"][: self.keep])
        return self.step(model, batch)

    def metrics(self) -> dict[str, Metric]:
        return {name: Mean(name) for name in ("reconstruction_loss", "kl_loss")}

    def preview(self, model: nn.Module) -> dict[str, Tensor | str]:
        return {"samples": image_grid(samples(model, 64, seed=0), 8)} | self._reconstructions(model)

    def report(self, model: nn.Module) -> dict[str, Tensor | str]:
        figures = self.preview(model)
        if self.seen is not None and len(self.seen) > 1:
            means = model.encode(self.seen)[0]  # (B, Z)
            pairs = len(means) // 2
            figures["interpolations"] = image_grid(on_lines(model, means[:pairs], means[pairs : 2 * pairs]), 10)
        if model.latent == 2:
            figures["manifold"] = image_grid(model.draw(manifold(20).to(next(model.parameters()).device)), 20)
        return figures

    def _reconstructions(self, model: nn.Module) -> dict[str, Tensor | str]:
        """Above, images of the evaluation; below each, what the decoder makes of the mean of its distribution."""
        if self.seen is None or not len(self.seen):
            return {}
        again = model.draw(model.encode(self.seen)[0])
        return {"reconstructions": image_grid(torch.cat([self.seen, again]), len(self.seen))}


def unit(images: Tensor) -> Tensor:
    """Map images in [-1, 1] to [0, 1]."""
    return (images + 1) / 2


def manifold(side: int) -> Tensor:
    """Return figure 4: the plane of two latent variables at `side` quantiles of the prior on each axis, (side * side, 2)."""
    quantiles = torch.special.ndtri((torch.arange(side) + 0.5) / side)
    return torch.cartesian_prod(quantiles, quantiles)
