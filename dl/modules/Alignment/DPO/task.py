"""Preference tuning: of two answers to a prompt, the chosen one becomes likelier than under the reference, the other less."""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dl.modules.Alignment.DPO import losses
from dl.modules.Alignment.sums import Sums
from dl.modules.Alignment.task import Answering
from dl.mytorch.config import UserError
from dl.mytorch.data import Batch, Loader
from dl.mytorch.distributed import all_reduce_sum, to_device
from dl.mytorch.metrics import Mean, Metric
from dl.mytorch.tasks import StepOutput, Task

Loss = Literal["dpo", "ipo", "kto", "orpo"]

# B pairs, T tokens of a prompt and an answer


def token_log_probs(model: nn.Module, texts: Tensor) -> Tensor:
    """texts (B, T) -> log p of each token but the first, (B, T - 1), given those before it."""
    logits = model(texts[:, :-1])  # (B, T - 1, V)
    return -F.cross_entropy(logits.flatten(0, 1), texts[:, 1:].flatten(), reduction="none").view_as(texts[:, 1:])


def answer_mask(starts: Tensor, ends: Tensor, length: int) -> Tensor:
    """Return which of `token_log_probs` are of answers, bool (B, length - 1): those of tokens starts to ends - 1, each (B,)."""
    places = torch.arange(1, length, device=starts.device)
    return (places >= starts[:, None]) & (places < ends[:, None])


class Answers:
    """log p of an answer of each pair, (B,): `sums` and `means` over its tokens; `nll`, its negative mean, prompt included."""

    def __init__(self, log_probs: Tensor, starts: Tensor, ends: Tensor) -> None:
        self.mask = answer_mask(starts, ends, log_probs.shape[1] + 1)
        self.sums = (log_probs * self.mask).sum(1)
        self.means = self.sums / self.mask.sum(1)
        text = answer_mask(torch.ones_like(starts), ends, log_probs.shape[1] + 1)
        self.nll = -(log_probs * text).sum(1) / text.sum(1)


def answers(model: nn.Module, batch: Batch, *names: str) -> list[Answers]:
    """Return those of `batch[name]` (B, T) for each name, "chosen" say, from one forward pass.

    "prompt_length" (B,) says where an answer begins, name + "_length" where it ends; what follows is padding.
    """
    starts, ends = batch["prompt_length"], [batch[f"{name}_length"] for name in names]
    longest = int(torch.stack(ends).max()) if len(starts) else 2
    texts = torch.cat([batch[name][:, :longest] for name in names])
    return [Answers(log_probs, starts, end) for log_probs, end in zip(token_log_probs(model, texts).chunk(len(names)), ends)]


@torch.no_grad()
def with_reference(model: nn.Module, data: Batch, batch_size: int = 64) -> Batch:
    """Return `data` with "reference_chosen" (N,), and so on: the summed log p of its answers under `model` in evaluation."""
    model.eval()
    names = [name.removesuffix("_length") for name in data if name.endswith("_length") and name != "prompt_length"]
    device = next(model.parameters()).device
    parts = (to_device(part, device) for part in Loader(data, batch_size).batches())
    found = [[answer.sums.cpu() for answer in answers(model, part, *names)] for part in parts]
    return data | {f"reference_{name}": torch.cat(rows) for name, rows in zip(names, zip(*found))}


class Preferences(Task):
    """A loss of pairs, or for KTO of each answer by itself.

    Batches: "chosen" and "rejected" (B, T), a prompt and an answer each, with their lengths as `answers` reads them and the
    log p of `with_reference`; for KTO "mismatched", the prompt and the answer to another one.

    The error is the share of pairs that the policy ranks wrongly: by its implicit reward, log p minus that of the reference,
    for ORPO by the mean log p; a tie is half an error. "chosen_nll" tells whether the chosen answers become less likely,
    which a loss of differences does not see: nats per token.

    Args:
        held_out: KTO's loss on held-out pairs has the KL divergence of all these, whatever batches they are cut into.
        reference: the mean log p of the training pairs' chosen answers under the reference, by which a run that is resumed
            knows it.
    """

    unit = "pair"

    def __init__(self, loss: Loss = "dpo", beta: float = 0.1, held_out: Loader | None = None, reference: float = 0.0) -> None:
        self.loss, self.beta, self.held_out, self.reference = loss, beta, held_out, reference
        self.kl: Tensor | None = None  # of the held-out pairs

    def step(self, model: nn.Module, batch: Batch) -> StepOutput:
        kl = self._kl(model, [batch]) if self.loss == "kto" else None
        return self._score(model, batch, kl)

    def begin_evaluation(self, model: nn.Module) -> None:
        if self.loss == "kto" and self.held_out is not None:
            device = next(model.parameters()).device
            batches = [{name: x.to(device) for name, x in batch.items()} for batch in self.held_out.batches()]
            self.kl = self._kl(model, batches)

    def eval_step(self, model: nn.Module, batch: Batch) -> StepOutput:
        return self._score(model, batch, self.kl)

    @torch.no_grad()
    def _kl(self, model: nn.Module, batches: list[Batch]) -> Tensor:
        """Return KTO's reference point over the batches of all ranks."""
        ratios = [answers(model, batch, "mismatched")[0].sums - batch["reference_mismatched"] for batch in batches]
        total = torch.cat(ratios)
        total, count = all_reduce_sum(torch.stack([total.sum(), total.new_tensor(len(total))]))
        return losses.mismatched_kl(total, count)

    def _score(self, model: nn.Module, batch: Batch, kl: Tensor | None) -> StepOutput:
        chosen, rejected = answers(model, batch, "chosen", "rejected")
        if self.loss == "orpo":
            margin = chosen.means - rejected.means
            loss = losses.orpo(chosen.means, rejected.means, chosen.nll, self.beta)
        else:
            sums = chosen.sums, rejected.sums, batch["reference_chosen"], batch["reference_rejected"]
            margin = losses.margin(*sums)
            if self.loss == "kto":
                good = torch.arange(2, device=margin.device).repeat_interleave(len(margin)) == 0
                loss = losses.kto(torch.cat(sums[:2]), torch.cat(sums[2:]), good, 0.0 if kl is None else kl, self.beta)
            else:
                loss = {"dpo": losses.dpo, "ipo": losses.ipo}[self.loss](*sums, self.beta)
        wrong = (margin < 0) + 0.5 * (margin == 0)
        tokens = chosen.mask.sum()
        outputs = {"wrong": wrong, "chosen_nll": -chosen.sums.detach().sum() / tokens.clamp(min=1), "tokens": tokens}
        return StepOutput(loss.sum() / max(1, len(loss)), len(margin), outputs)

    def metrics(self) -> dict[str, Metric]:
        return {"preference_error": Mean("wrong"), "chosen_nll": Mean("chosen_nll", "tokens")}

    def own_state(self) -> dict[str, Any]:
        return {"reference": self.reference}

    def load_own_state(self, state: dict[str, Any]) -> None:
        if abs(state["reference"] - self.reference) > 1e-4 * abs(self.reference):  # another processor rounds otherwise
            raise UserError("the run that --init-from names has other weights than when this run was begun")


class SumPreferences(Answering, Preferences):
    """`Preferences` on sums, whose held-out answers are checked as well, see `Answering`."""

    def __init__(self, sums: Sums, samples: int, **options: Any) -> None:
        Answering.__init__(self, sums, samples)
        Preferences.__init__(self, **options)

    def eval_step(self, model: nn.Module, batch: Batch) -> StepOutput:
        output = Preferences.eval_step(self, model, batch)
        return output._replace(outputs={**output.outputs, **self.judge(model, batch["pairs"])})

    def metrics(self) -> dict[str, Metric]:
        return Answering.metrics(self) | Preferences.metrics(self)

    def train_metrics(self) -> dict[str, Metric]:
        return Preferences.metrics(self)
