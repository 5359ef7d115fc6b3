"""The losses of the game, a GAN's or WGAN-GP's, a distance that measures its progress, and figures of what is drawn."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dl.modules.Diffusion.frechet import frechet_distance_of_moments
from dl.modules.Generative.DCGAN.model import DCGAN, uniform_noise
from dl.modules.Generative.DCGAN.step import Players
from dl.modules.Generative.images import image_grid, samples, walks
from dl.mytorch import Task
from dl.mytorch.data import Batch
from dl.mytorch.distributed import all_reduce_sum
from dl.mytorch.metrics import Mean, Metric
from dl.mytorch.tasks import StepOutput


def precise(values: Tensor) -> Tensor:
    """Return values of bf16 in float32, others as they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def discriminator_loss(real: Tensor, drawn: Tensor) -> Tensor:
    """Return -log D(x) - log(1 - D(G(z))), (B,), of logits (B,). Goodfellow et al. 2014, algorithm 1."""
    return F.softplus(-real) + F.softplus(drawn)


def generator_loss(drawn: Tensor) -> Tensor:
    """Return -log D(G(z)), (B,), of logits (B,): the loss that does not saturate. The same paper, section 3."""
    return F.softplus(-drawn)


def critic_loss(real: Tensor, drawn: Tensor) -> Tensor:
    """Return D(G(z)) - D(x), (B,), of scores (B,). Gulrajani et al. 2017, equation 3, without the penalty."""
    return drawn - real


def critic_generator_loss(drawn: Tensor) -> Tensor:
    """Return -D(G(z)), (B,), of scores (B,). The same paper, algorithm 1."""
    return -drawn


def gradient_penalty(discriminator: nn.Module, real: Tensor, drawn: Tensor, share: Tensor) -> Tensor:
    """Return (|dD(x)/dx| - 1)^2, (B,), at the points x = share * real + (1 - share) * drawn. Equation 3.

    Images are (B, C, X, X), `share` is (B, 1, 1, 1): x lies between an image and another. The norm is over all numbers of x.
    """
    points = (share * real + (1 - share) * drawn).requires_grad_()
    scores = discriminator(points).sum()  # of which each depends on one x
    (gradient,) = torch.autograd.grad(scores, points, create_graph=True)
    return (precise(gradient).flatten(1).norm(dim=1) - 1).square()


class Adversarial(Task):
    """A discriminator learns to tell drawn from real images, a generator to draw what it takes for real.

    Batches: "images" (B, C, X, X) in [-1, 1]. Noise is uniform in [-1, 1] (figure 1). "loss" is the mean of both players'
    losses. None of these measures how good the images are, since each player is measured against the other: what chooses the
    best checkpoint is `PixelFrechetDistance`.

    Args:
        latent: size of the noise vector of an image.
        critic_steps: updates of the discriminator for each of the generator's.
    """

    monitor = "pixel_frechet_distance"
    discriminator_loss, generator_loss = staticmethod(discriminator_loss), staticmethod(generator_loss)

    def __init__(self, latent: int, critic_steps: int = 1) -> None:
        self.latent, self.critic_steps = latent, critic_steps

    def discriminator_step(self, players: Players, batch: Batch) -> StepOutput:
        """Return the discriminator's loss. The generator is only looked at."""
        with torch.no_grad():
            drawn = players.generator(self.noise(batch))
        losses = self.discriminator_loss(*(precise(players.discriminator(x)) for x in (batch["images"], drawn)))
        losses, outputs = self.penalized(losses, players.discriminator, batch["images"], drawn)
        return StepOutput(losses.mean(), len(losses), outputs)

    def generator_step(self, players: Players, batch: Batch) -> StepOutput:
        """Return the generator's loss, through the discriminator."""
        losses = self.generator_loss(precise(players.discriminator(players.generator(self.noise(batch)))))
        return StepOutput(losses.mean(), len(losses), {"generator_loss": losses.detach()})

    def step(self, model: DCGAN, batch: Batch) -> StepOutput:
        """Return both losses on the same images and noise: for evaluation."""
        drawn, logits = model(self.noise(batch))
        own = self.discriminator_loss(precise(model.discriminator(batch["images"])), precise(logits))
        others = self.generator_loss(precise(logits))
        outputs = {"discriminator_loss": own.detach(), "generator_loss": others.detach()}
        outputs |= {"real": batch["images"], "drawn": drawn.detach()}
        return StepOutput((own.mean() + others.mean()) / 2, len(own), outputs)

    def penalized(self, losses: Tensor, discriminator: nn.Module, real: Tensor, drawn: Tensor) -> tuple[Tensor, Batch]:
        """Return the discriminator's losses (B,) in training, and what is measured of them."""
        return losses, {"discriminator_loss": losses.detach()}

    def noise(self, batch: Batch) -> Tensor:
        """Return noise (B, Z) for as many images as the batch has."""
        return uniform_noise(len(batch["images"]), self.latent, device=batch["images"].device)

    def metrics(self) -> dict[str, Metric]:
        return {"pixel_frechet_distance": PixelFrechetDistance(), **Adversarial.train_metrics(self)}

    def train_metrics(self) -> dict[str, Metric]:
        return {name: MeanWhereGiven(name) for name in ("discriminator_loss", "generator_loss")}

    def preview(self, model: nn.Module) -> dict[str, Tensor | str]:
        return {"samples": image_grid(samples(model, 64, seed=0), 8)}

    def report(self, model: nn.Module) -> dict[str, Tensor | str]:
        return self.preview(model) | {"interpolations": image_grid(walks(model, rows=8, seed=1), 10)}


class WassersteinGP(Adversarial):
    """The critic's scores estimate the Wasserstein distance of drawn from real images, by a penalty on its gradient.

    Gulrajani et al. 2017, https://arxiv.org/abs/1704.00028, algorithm 1. The critic has no batch norm. Of training,
    `wasserstein_distance` is the mean of D(x) - D(G(z)), which falls as images get better; in evaluation it is
    `discriminator_loss` with the other sign, for there the penalty is left out.
    """

    discriminator_loss, generator_loss = staticmethod(critic_loss), staticmethod(critic_generator_loss)

    def __init__(self, latent: int, critic_steps: int = 5, penalty: float = 10.0) -> None:
        super().__init__(latent, critic_steps)
        self.penalty = penalty

    def penalized(self, losses: Tensor, discriminator: nn.Module, real: Tensor, drawn: Tensor) -> tuple[Tensor, Batch]:
        penalties = gradient_penalty(discriminator, real, drawn, self.shares(real))
        measured = {"wasserstein_distance": -losses.detach(), "gradient_penalty": penalties.detach()}
        losses = losses + self.penalty * penalties
        return losses, measured | {"discriminator_loss": losses.detach()}

    def shares(self, images: Tensor) -> Tensor:
        """Return the place of each image's point on its line, (B, 1, 1, 1), uniform in [0, 1]."""
        return torch.rand(len(images), 1, 1, 1, device=images.device)

    def train_metrics(self) -> dict[str, Metric]:
        others = {name: MeanWhereGiven(name) for name in ("wasserstein_distance", "gradient_penalty")}
        return super().train_metrics() | others


class MeanWhereGiven(Mean):
    """The mean of `outputs[key]` over those outputs that have it: a player's step has its own loss alone."""

    def update(self, outputs: Batch) -> None:
        if self.key in outputs:
            super().update(outputs)


class PixelFrechetDistance(Metric):
    """Frechet distance of the pixels of `outputs["drawn"]` from those of `outputs["real"]`, each (B, C, X, X) in [-1, 1].

    It compares the means of all pixels and their covariances: noise, blur and images that all look the same raise it. It is not
    the FID of papers, which compares features of a classifier; it needs none, and adds up over batches and ranks. Large images
    are shrunk, so that at most 1024 numbers are compared.
    """

    most = 1024

    def reset(self) -> None:
        super().reset()
        self._sums = torch.zeros((), dtype=torch.float64)  # takes its shape from the first batch

    def update(self, outputs: Batch) -> None:
        self._sums = self._sums + torch.stack([self._moments(outputs[name]) for name in ("real", "drawn")])

    def compute(self) -> float:
        sums = all_reduce_sum(self.sums)  # (2, 1 + D + D D)
        if not sums.ndim or sums[0, 0] < 2:
            return math.nan
        return frechet_distance_of_moments(*self._mean_and_covariance(sums[0]), *self._mean_and_covariance(sums[1]))

    def _moments(self, images: Tensor) -> Tensor:
        """Return how many there are, their sum, the sum of their products: (1 + D + D D,)."""
        channels, side = images.shape[1:3]
        window = next(n for n in range(1, side + 1) if channels * (side // n) ** 2 <= self.most)
        x = F.avg_pool2d(images.float().cpu(), window).flatten(1).double()  # (B, D)
        return torch.cat([x.new_tensor([len(x)]), x.sum(0), (x.T @ x).flatten()])

    def _mean_and_covariance(self, moments: Tensor) -> tuple[Tensor, Tensor]:
        count = moments[0]
        size = (math.isqrt(4 * len(moments) - 3) - 1) // 2  # D
        mean, products = moments[1 : 1 + size] / count, moments[1 + size :].view(size, size)
        return mean, (products - count * torch.outer(mean, mean)) / (count - 1)
