"""Experts are balanced without a loss: after each step a bias moves by how many tokens each of them had."""

from typing import Any

import torch

from dl.modules.GPT.DeepSeekV3.model import MixtureOfExperts
from dl.mytorch import Trainer
from dl.mytorch.data import Batch
from dl.mytorch.distributed import all_reduce_sum
from dl.mytorch.train_step import TrainStep


class BalancingStep(TrainStep):
    """A step after which the biases move by `config.bias_update_speed` (section 2.1.2, auxiliary-loss-free load balancing).

    The load is that of all tokens of the step, over accumulated batches and ranks. A layer that recomputes its activations
    counts each token twice, which no comparison between experts notices.
    """

    def learn(self, batches: list[Batch]) -> None:
        mixtures = [module for module in self.model.modules() if isinstance(module, MixtureOfExperts)]
        for mixture in mixtures:
            mixture.load.zero_()
        super().learn(batches)
        if mixtures:
            loads = all_reduce_sum(torch.stack([mixture.load for mixture in mixtures]))  # (mixtures, E)
            for mixture, load in zip(mixtures, loads):
                mixture.update_bias(load, self.config.bias_update_speed)


class BalancingTrainer(Trainer):
    """A trainer whose step is a `BalancingStep`, also where it trains block by block."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, step=BalancingStep, **options)
