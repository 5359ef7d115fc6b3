"""What models that answer are measured by: whether their answers to held-out prompts are right, greedily and by sampling."""

import math

import torch
from torch import Tensor, nn

from dl.modules.Alignment.sampling import noise, sample
from dl.modules.Alignment.sums import TOKENS, Sums
from dl.mytorch import Task
from dl.mytorch.data import Batch
from dl.mytorch.metrics import Mean, Metric
from dl.mytorch.tasks import StepOutput

# P prompts, G samples of each


class Answering(Task):
    """A model answers sums. Batches of evaluation: "pairs" (P, 2).

    `greedy_error` is the share of prompts whose likeliest answer is wrong in a token, `sampled_error` that of answers drawn at
    temperature 1, `samples` for each prompt, always with the same noise. Evaluation has no loss.
    """

    monitor = "greedy_error"

    def __init__(self, sums: Sums, samples: int = 4) -> None:
        self.sums, self.samples = sums, samples

    def eval_step(self, model: nn.Module, batch: Batch) -> StepOutput:
        return StepOutput(torch.tensor(math.nan), 0, self.judge(model, batch["pairs"]))

    def judge(self, model: nn.Module, pairs: Tensor) -> Batch:
        """Return "greedy_error" (P,) and "sampled_error" (P, G), 1 where an answer is wrong."""
        prompts, length = self.sums.prompts(pairs), self.sums.answer_length
        greedy, _ = sample(model, prompts, torch.zeros(len(pairs), 1, length), temperature=0.0)
        drawn, _ = sample(model, prompts, noise(0, 0, len(pairs), self.samples, length))
        errors = {"greedy_error": greedy[:, 0], "sampled_error": drawn.transpose(0, 1)}
        return {name: (~self.sums.right(pairs, answers)).float() for name, answers in errors.items()}

    def metrics(self) -> dict[str, Metric]:
        return {name: Mean(name) for name in ("greedy_error", "sampled_error")}

    def train_metrics(self) -> dict[str, Metric]:
        return {}

    def preview(self, model: nn.Module) -> dict[str, Tensor | str]:
        pairs = self.sums.pairs("val")[:8].to(next(model.parameters()).device)
        prompts = self.sums.prompts(pairs)
        answers, _ = sample(model, prompts, torch.zeros(len(pairs), 1, self.sums.answer_length), temperature=0.0)
        rows = torch.cat([prompts, answers[:, 0]], dim=1)
        return {"answers": "\n".join("".join(TOKENS.decode(row)) for row in rows)}
