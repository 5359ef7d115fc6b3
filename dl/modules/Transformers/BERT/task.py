"""The two objectives of BERT's pre-training, each of which can be off."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dl.mytorch.data import Batch
from dl.mytorch.data.sequences import IGNORED
from dl.mytorch.metrics import Mean, Metric, TopKError
from dl.mytorch.tasks import StepOutput, Task


class PreTraining(Task):
    """Section 3.1: masked tokens (task 1) and whether the second sentence follows the first (task 2).

    Batches: "tokens" and "segments" (B, T), rows filled up with `padding`; "positions" and "targets" (B, M), the masked
    places and what was there, `IGNORED` where a row has fewer; "labels" (B,), 0 where the second sentence is the next.

    The loss is the mean cross-entropy over the masked tokens, to which each of them adds the next-sentence loss of its
    pair. So both are one mean over masked tokens, and a step over several batches or ranks is exact although their
    numbers differ; a pair weighs in the second by its masked tokens. Without `mlm` it is the mean over pairs.
    The metrics "mlm_loss" and "nsp_loss" are the plain means, over masked tokens and over pairs.

    Raises `ValueError` when both objectives are off.
    """

    def __init__(self, mlm: bool = True, nsp: bool = True, padding: int = 0) -> None:
        if not mlm and not nsp:
            raise ValueError("with both objectives off there is nothing to learn: leave mlm or nsp on")
        self.mlm, self.nsp, self.padding = mlm, nsp, padding

    def step(self, model: nn.Module, batch: Batch) -> StepOutput:
        tokens, targets, labels = batch["tokens"], batch["targets"], batch["labels"]
        positions = batch["positions"] if self.mlm else None
        output = model(tokens, batch["segments"], tokens == self.padding, positions)
        weights = torch.ones_like(labels)  # (B,) items of each pair: itself, or its masked tokens
        losses: list[Tensor] = []  # sums over the items
        outputs: Batch = {}
        if self.mlm:
            weights = (targets != IGNORED).sum(1)  # (B, M) -> (B,)
            losses.append(summed_cross_entropy(output.mlm.flatten(0, 1), targets.flatten()))
            masked = weights.sum()
            mean = losses[0].detach() / masked.clamp(min=1)
            outputs |= {"mlm_loss": mean, "masked": masked, "mlm_logits": output.mlm.detach(), "targets": targets}
        if self.nsp:
            per_pair = F.cross_entropy(output.nsp, labels, reduction="none")  # (B,)
            losses.append((weights * per_pair).sum())
            outputs |= {"nsp_loss": per_pair.detach(), "nsp_logits": output.nsp.detach(), "labels": labels}
        count = weights.sum()
        return StepOutput(sum(losses) / count.clamp(min=1), count, outputs)

    def metrics(self) -> dict[str, Metric]:
        """Return the metrics of the objectives that are on."""
        metrics: dict[str, Metric] = {}
        if self.mlm:
            metrics["mlm_loss"] = Mean("mlm_loss", count="masked")
            metrics |= {f"mlm_top{k}_error": TopKError(k, "mlm_logits", "targets") for k in (1, 5)}
        if self.nsp:
            metrics |= {"nsp_loss": Mean("nsp_loss"), "nsp_error": TopKError(1, "nsp_logits", "labels")}
        return metrics


def summed_cross_entropy(logits: Tensor, targets: Tensor, rows: int = 16) -> Tensor:
    """Return the sum of the cross-entropies of logits (N, V), but for targets (N,) that are `IGNORED`; some rows at a time.

    A large vocabulary makes logits of many megabytes, several times over: in pieces that fit into the cache a whole
    training step of a small network on a CPU is a tenth faster.
    """
    pieces = zip(logits.split(rows), targets.split(rows))
    return torch.stack([F.cross_entropy(*piece, ignore_index=IGNORED, reduction="sum") for piece in pieces]).sum()
