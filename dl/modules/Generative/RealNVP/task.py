"""The negative log-likelihood of images of bytes as a task, in bits per dimension beside a histogram's, and what is drawn."""

import math

import torch
from torch import Tensor, nn

from dl.modules.Generative.histogram import HistogramBits
from dl.modules.Generative.images import image_grid, samples, walks
from dl.mytorch import Task
from dl.mytorch.data import Batch
from dl.mytorch.metrics import Mean, Metric
from dl.mytorch.tasks import StepOutput

LEVELS = 256  # values of a byte


def dequantize(images: Tensor, levels: int = LEVELS) -> Tensor:
    """Return images of bytes in [0, 1): (x + u) / levels, with u uniform in [0, 1). Else a density could grow without limit.

    The mean log-density of what is drawn is at most the log-probability of the byte (Theis et al. 2015, section 3.1,
    https://arxiv.org/abs/1511.01844).
    """
    x = images if images.is_floating_point() else images.float()
    return (x + torch.rand_like(x)) / levels


def bits_per_dimension(log_density: Tensor, dimensions: int, levels: int = LEVELS) -> Tensor:
    """Return the bits that each number of an image takes, (B,).

    `log_density` (B,) in nats is that of images in [0, 1]; a value of a byte is an interval of 1 / levels there.
    """
    return (dimensions * math.log(levels) - log_density) / (dimensions * math.log(2))


class NegativeLogLikelihood(Task):
    """-log p(x) of images with noise that fills the gaps between bytes, in nats per image.

    Batches: "images" (B, C, X, X), bytes. Evaluation draws noise, too: bits per dimension are an upper bound of those of the
    bytes. A test knows `histogram_bits` from its own images.
    """

    monitor = "bits_per_dimension"

    def step(self, model: nn.Module, batch: Batch) -> StepOutput:
        images = batch["images"]
        bits = bits_per_dimension(model(dequantize(images)), images[0].numel())
        outputs = {"bits_per_dimension": bits.detach(), "images": images}
        return StepOutput(bits.mean() * images[0].numel() * math.log(2), len(images), outputs)

    def metrics(self) -> dict[str, Metric]:
        return {**self.train_metrics(), "histogram_bits": HistogramBits("images", LEVELS)}

    def train_metrics(self) -> dict[str, Metric]:
        return {"bits_per_dimension": Mean("bits_per_dimension")}

    def preview(self, model: nn.Module) -> dict[str, Tensor | str]:
        return {"samples": image_grid(samples(model, 64, seed=0), 8)}

    def report(self, model: nn.Module) -> dict[str, Tensor | str]:
        return self.preview(model) | {"interpolations": image_grid(walks(model, rows=8, seed=1), 10)}
