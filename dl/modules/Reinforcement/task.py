"""What the tasks of agents share: whole episodes as evaluation, environments as a part of the state, an episode to look at."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from dl.mytorch import Task
from dl.mytorch.config import UserError
from dl.mytorch.data import Batch
from dl.mytorch.distributed import is_main
from dl.mytorch.environments import TEST, Environments, NegativeReturn, Policy, play, record, strip
from dl.mytorch.metrics import Metric
from dl.mytorch.tasks import StepOutput


def greedy(model: nn.Module) -> Policy:
    """Return the policy that takes the action which `model.act` thinks best: observations (n, O) on the CPU -> actions."""
    device = next(model.parameters()).device
    return lambda observations: model.act(observations.to(device))


class AgentTask(Task):
    """An agent learns in `environments` and is evaluated in new ones: a greedy episode for each seed of a batch.

    A model has `act`: observations (n, O) -> the best actions, (n,) or (n, A). The best checkpoint is that of the lowest
    `negative_return`, minus the mean return. Evaluation has no loss. Curves are over environment steps.
    """

    monitor = "negative_return"
    unit = "sample"
    counted = "environment_steps"

    def __init__(self, environments: Environments) -> None:
        self.environments = environments

    def eval_step(self, model: nn.Module, batch: Batch) -> StepOutput:
        episodes = play(self.environments.name, greedy(model), batch["seeds"].tolist())
        return StepOutput(torch.tensor(math.nan), 0, {"returns": episodes.returns})

    def metrics(self) -> dict[str, Metric]:
        return {"negative_return": NegativeReturn()}

    def own_state(self) -> dict[str, Any]:
        return {"environments": self.environments.state()}

    def load_own_state(self, state: dict[str, Any]) -> None:
        self.environments.load_state(state["environments"])

    def report(self, model: nn.Module) -> dict[str, Tensor | str]:
        if not is_main():
            return {}
        try:
            return {"episode": strip(record(self.environments.name, greedy(model), TEST)[0])}
        except UserError as error:  # it cannot draw itself, or without pygame: the run is no worse for it
            return {"episode": str(error)}
