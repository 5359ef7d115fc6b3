"""The loss of the autoencoder with the use of its codebook, the likelihood of codes under the prior, and figures of both."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dl.modules.Generative.histogram import Histogram, HistogramBits, entropy
from dl.modules.Generative.images import image_grid, on_lines, samples, walks
from dl.mytorch import Task
from dl.mytorch.data import Batch
from dl.mytorch.metrics import Mean, Metric
from dl.mytorch.tasks import StepOutput


def perplexity(counts: Tensor) -> Tensor:
    """Return how many codes of equal use would have the entropy of `counts` (R, K), (R,)."""
    return 2 ** entropy(counts)


class UnusedCodebook(Histogram):
    """1 - perplexity / K: 0 when all codes are used equally, near 1 when one is."""

    def of_counts(self, counts: Tensor) -> float:
        return 1 - perplexity(counts).mean().item() / self.levels


class Reconstruction(Task):
    """Equation 3: mean squared error + codebook loss + beta times commitment loss, means over all numbers of a map.

    Batches: "images" (B, C, X, X) in [-1, 1]. The report says the perplexity of the codes of the last evaluation.
    """

    keep = 10  # images of an evaluation that are kept for the figures

    def __init__(self, num_codes: int, beta: float = 0.25) -> None:
        self.num_codes, self.beta = num_codes, beta
        self.seen: Tensor | None = None

    def step(self, model: nn.Module, batch: Batch) -> StepOutput:
        again, quantized = model(batch["images"])
        reconstruction = (again.float() - batch["images"]).square().flatten(1).mean(1)  # (B,)
        loss = reconstruction + quantized.codebook_loss + self.beta * quantized.commitment_loss
        outputs = {
            "mse": reconstruction.detach(),
            "commitment_loss": quantized.commitment_loss.detach(),
            "codes": quantized.codes[:, None],
        }
        return StepOutput(loss.mean(), len(loss), outputs)

    def begin_evaluation(self, model: nn.Module) -> None:
        self.seen = None

    def eval_step(self, model: nn.Module, batch: Batch) -> StepOutput:
        if self.seen is None:
            self.seen = batch["images"][: self.keep]
        return self.step(model, batch)

    def train_metrics(self) -> dict[str, Metric]:
        return {name: Mean(name) for name in ("mse", "commitment_loss")}

    def metrics(self) -> dict[str, Metric]:
        self.used = UnusedCodebook("codes", self.num_codes)
        return {**self.train_metrics(), "unused_codebook": self.used}

    def preview(self, model: nn.Module) -> dict[str, Tensor | str]:
        """Above, images of the evaluation; below each, what comes back."""
        if self.seen is None or not len(self.seen):
            return {}
        again = (model(self.seen)[0].float() + 1) / 2
        both = torch.cat([(self.seen + 1) / 2, again.clamp(0, 1)])
        return {"reconstructions": image_grid(both, len(self.seen))}

    def report(self, model: nn.Module) -> dict[str, Tensor | str]:
        figures = self.preview(model)
        if self.seen is not None and len(self.seen) > 1:
            latents = model.latents(model.codes(self.seen))
            pairs = len(latents) // 2
            figures["interpolations"] = image_grid(on_lines(model, latents[:pairs], latents[pairs : 2 * pairs]), 10)
            figures["codes"] = f"perplexity {self.num_codes * (1 - self.used.compute()):.1f} of {self.num_codes} codes"
        return figures


class CodeLikelihood(Task):
    """-log p(code | codes before it) of the maps of images, in nats per code.

    Batches: "images" (B, C, X, X) in [-1, 1]. `bits_per_dimension` spreads the bits of the codes over the numbers of the image,
    `histogram_bits` those of a histogram of single codes. Both tell what the codes cost, not what was lost between
    the image and them.
    """

    monitor = "bits_per_dimension"
    unit = "code"

    def __init__(self, num_codes: int, codes_per_dimension: float) -> None:
        self.num_codes, self.codes_per_dimension = num_codes, codes_per_dimension

    def step(self, model: nn.Module, batch: Batch) -> StepOutput:
        logits, codes = model(batch["images"])
        nats = F.cross_entropy(logits.float().transpose(1, 2), codes, reduction="none")  # (B, T)
        bits = nats.detach().sum(1) / (math.log(2) * batch["images"][0].numel())
        return StepOutput(nats.mean(), nats.numel(), {"bits_per_dimension": bits, "codes": codes[:, None]})

    def train_metrics(self) -> dict[str, Metric]:
        return {"bits_per_dimension": Mean("bits_per_dimension")}

    def metrics(self) -> dict[str, Metric]:
        histogram = CodeHistogramBits("codes", self.num_codes)
        histogram.codes_per_dimension = self.codes_per_dimension
        return {**self.train_metrics(), "histogram_bits": histogram}

    def preview(self, model: nn.Module) -> dict[str, Tensor | str]:
        return {"samples": image_grid(samples(model, 64, seed=0), 8)}

    def report(self, model: nn.Module) -> dict[str, Tensor | str]:
        return self.preview(model) | {"interpolations": image_grid(walks(model, rows=8, seed=1), 10)}


class CodeHistogramBits(HistogramBits):
    """In bits per number of the image."""

    codes_per_dimension = 1.0

    def of_counts(self, counts: Tensor) -> float:
        return super().of_counts(counts) * self.codes_per_dimension
