"""Language modelling with a mixture of experts, which an auxiliary loss balances."""

from typing import Any

from torch import nn

from dl.modules.GPT.Llama.model import MixtureOfExperts
from dl.modules.GPT.task import TextModeling
from dl.mytorch.data import Batch
from dl.mytorch.tasks import StepOutput


class BalancedTextModeling(TextModeling):
    """In training, the load-balancing losses of all mixtures of experts are added with a weight; evaluation is without."""

    def __init__(self, *args: Any, weight: float, **options: Any) -> None:
        super().__init__(*args, **options)
        self.weight = weight

    def step(self, model: nn.Module, batch: Batch) -> StepOutput:
        output = super().step(model, batch)
        losses = [module.balance for module in model.modules() if isinstance(module, MixtureOfExperts)]
        return output._replace(loss=output.loss + self.weight * sum(losses))
