"""Rollouts, their rewards, and the loss on those of groups that carry signal."""

import hashlib
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dl.modules.Alignment.GRPO.losses import Loss, advantages, kl_divergence, losses
from dl.modules.Alignment.sampling import answer_log_probs, noise, sample, until_end
from dl.modules.Alignment.sums import Sums
from dl.modules.Alignment.task import Answering
from dl.mytorch.config import UserError
from dl.mytorch.data import Batch
from dl.mytorch.metrics import Mean, Metric
from dl.mytorch.tasks import StepOutput

# P prompts, G answers to each, N of them that are learnt from, S tokens of a prompt, A tokens of an answer

Reward = Literal["exact", "digits"]


class GRPO(Answering):
    """Learning from groups of answers that a verifier has judged.

    Batches of `step`: "prompts" (N, S), "answers" (N, A), "advantages" (N,) of groups with signal, whose rewards are not all
    equal (any group, with a reference); "rewards" (P, G) and "signal" (P,) of all.

    Args:
        reward: "exact", 1 for a right answer, else 0; "digits", the share of its tokens before the first wrong one.
        temperature: of the draws, and inside the log-probabilities.
        clip: see `losses`.
        reference, kl_weight: a model that the policy is held near to.
        seed: of the noise.
    """

    def __init__(
        self,
        sums: Sums,
        loss: Loss = "grpo",
        group: int = 16,
        temperature: float = 1.0,
        clip: float = 0.2,
        reward: Reward = "exact",
        reference: nn.Module | None = None,
        kl_weight: float = 0.0,
        seed: int = 0,
        samples: int = 4,
    ) -> None:
        super().__init__(sums, samples)
        self.loss, self.group, self.temperature, self.clip, self.reward = loss, group, temperature, clip, reward
        self.reference, self.kl_weight, self.seed = reference, kl_weight, seed

    @torch.no_grad()
    def rollout(self, model: nn.Module, pairs: Tensor, step: int) -> Batch:
        """Return what `model` answers to pairs (P, 2) in a step: a batch for `step`. Takes no randomness from anywhere else."""
        prompts = self.sums.prompts(pairs)
        drawn = noise(self.seed, step + 1, len(pairs), self.group, self.sums.answer_length)  # 0 is that of evaluation
        answers, _ = sample(model, prompts, drawn, self.temperature)
        rewards = self.rewards(pairs, answers)
        signal = (rewards != rewards[:, :1]).any(1)
        learnt = signal | (self.reference is not None)
        batch = {
            "prompts": prompts[learnt].repeat_interleave(self.group, dim=0),
            "answers": answers[learnt].flatten(0, 1),
            "advantages": advantages(rewards, self.loss)[learnt].flatten(),
        }
        if self.reference is not None:
            batch["reference"] = answer_log_probs(self.reference, batch["prompts"], batch["answers"], self.temperature)
        return batch | {"rewards": rewards, "signal": signal}

    def rewards(self, pairs: Tensor, answers: Tensor) -> Tensor:
        """pairs (P, 2), answers (P, G, A) -> rewards (P, G)."""
        if self.reward == "exact":
            return self.sums.right(pairs[:, None], answers).float()
        return (answers == self.sums.answers(pairs)[:, None]).float().cumprod(-1).mean(-1)

    def step(self, model: nn.Module, batch: Batch) -> StepOutput:
        """Return the mean loss over all answers; those of groups without signal have a loss of 0, and are not computed.

        The log-probabilities of the first call are those of the policy that answered, and stay in the batch. Of a batch without
        answers, as the summary of a network has it, the right ones are taken.
        """
        if "answers" not in batch:
            batch = self.demonstration(batch["pairs"])
        found = answer_log_probs(model, batch["prompts"], batch["answers"], self.temperature)
        old = batch.setdefault("old_log_probs", found.detach())
        kl = kl_divergence(found, batch["reference"]) if "reference" in batch else None
        mask, count = until_end(batch["answers"]), batch["rewards"].numel()
        weighted = None if kl is None else self.kl_weight * kl
        loss = losses(self.loss, found, old, batch["advantages"], mask, self.clip, weighted).sum() / count
        return StepOutput(loss, count, self.measured(batch) | ({} if kl is None else {"kl": kl.detach()[mask]}))

    def demonstration(self, pairs: Tensor) -> Batch:
        """Return the right answers as a batch for `step`."""
        rewards = torch.ones(len(pairs), 1, device=pairs.device)
        batch = {"prompts": self.sums.prompts(pairs), "answers": self.sums.answers(pairs), "advantages": rewards[:, 0]}
        if self.reference is not None:
            batch["reference"] = answer_log_probs(self.reference, batch["prompts"], batch["answers"], self.temperature)
        return batch | {"rewards": rewards, "signal": rewards[:, 0] > 0}

    def measured(self, batch: Batch) -> Batch:
        """Return what `train_metrics` read."""
        return {"signal": batch["signal"].float(), "reward": batch["rewards"]}

    def train_metrics(self) -> dict[str, Metric]:
        names = ("reward", "signal", *(() if self.reference is None else ("kl",)))  # signal: the share of groups that have it
        return {name: Mean(name) for name in names}

    def own_state(self) -> dict[str, Any]:
        return {} if self.reference is None else {"reference": fingerprint(self.reference)}

    def load_own_state(self, state: dict[str, Any]) -> None:
        if state != self.own_state():
            raise UserError("the run that --init-from names has other weights than when this run was begun")


def fingerprint(model: nn.Module) -> str:
    """Return a hash of the weights."""
    found = hashlib.sha256()
    for name, value in model.state_dict().items():
        found.update(name.encode() + value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
