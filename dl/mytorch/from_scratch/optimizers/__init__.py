"""Optimizers by hand, each a rule for one parameter, under the names and with the arguments of `torch.optim`.

They stand in for torch's anywhere: `Trainer(optimizer=lambda model: Lion(decay_groups(model, 0.1), lr=1e-4), ...)`. Recipes
take torch's, which move all parameters of a model in one call. States have torch's names.

Left out: options that change speed and not the result (`foreach`, `fused`, `capturable` ...), `maximize`, sparse gradients.
"""

from dl.mytorch.from_scratch.optimizers.adaptive import LAMB, Adagrad, Adam, AdamW, Lion, RMSprop
from dl.mytorch.from_scratch.optimizers.muon import Muon
from dl.mytorch.from_scratch.optimizers.sgd import SGD

__all__ = ["LAMB", "SGD", "Adagrad", "Adam", "AdamW", "Lion", "Muon", "RMSprop"]
