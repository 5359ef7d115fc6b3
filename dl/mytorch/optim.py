"""Learning-rate schedules and optimizers.

A schedule is a pure function (step, total steps) -> multiplier of the peak learning rate, so a resumed run needs no
scheduler state. An optimizer is a function model -> torch optimizer, called when the model lies on its device.
Both are printed as the call that made them, which config.json and records keep: sgd(lr=0.1, momentum=0.9).
"""

import functools
import inspect
import math
from typing import Any, Callable, ParamSpec

import torch
from torch import nn

Schedule = Callable[[int, int], float]
MakeOne = Callable[[nn.Module], torch.optim.Optimizer]
MakeOptimizer = MakeOne | Callable[[nn.Module], list[torch.optim.Optimizer]]

Arguments = ParamSpec("Arguments")


class Shown:
    """A function whose repr is `text`."""

    def __init__(self, function: Callable[..., Any], text: str) -> None:
        self.function, self.text = function, text

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)

    def __repr__(self) -> str:
        return self.text


def shown(factory: Callable[Arguments, Any]) -> Callable[Arguments, Any]:
    """Decorate a function that returns a function: the repr of the latter is the call that made it, defaults left out."""
    signature = inspect.signature(factory)

    @functools.wraps(factory)
    def make(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Shown:
        given = signature.bind(*args, **kwargs).arguments
        words = [f"{name}={value!r}" for name, value in given.items() if value != signature.parameters[name].default]
        return Shown(factory(*args, **kwargs), f"{factory.__name__}({', '.join(words)})")

    return make


@shown
def constant() -> Schedule:
    """1 throughout."""
    return lambda step, total: 1.0


@shown
def warmup_cosine(warmup: float, floor: float = 0.0) -> Schedule:
    """Linear from 0 to 1, then half a cosine to `floor` (Loshchilov & Hutter 2016, https://arxiv.org/abs/1608.03983, eq. 5).

    `warmup` below 1 is a fraction of all steps, from 1 on a number of steps.
    """

    def multiplier(step: int, total: int) -> float:
        rise = _steps(warmup, total)
        if step < rise:
            return (step + 1) / (rise + 1)
        progress = min(1.0, (step - rise) / max(1, total - rise))
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))

    return multiplier


@shown
def warmup_linear(warmup: float) -> Schedule:
    """Linear from 0 to 1, then linear to 0 (Devlin et al. 2018, appendix A.2). `warmup` as in `warmup_cosine`."""

    def multiplier(step: int, total: int) -> float:
        rise = _steps(warmup, total)
        if step < rise:
            return (step + 1) / (rise + 1)
        return max(0.0, 1 - (step - rise) / max(1, total - rise))

    return multiplier


@shown
def noam(dim: int, warmup_steps: int) -> Schedule:
    """dim^-0.5 min(step^-0.5, step warmup^-1.5), steps counted from 1 (Vaswani et al. 2017, eq. 3); for a peak rate of 1."""
    return lambda step, total: dim**-0.5 * min((step + 1) ** -0.5, (step + 1) * warmup_steps**-1.5)


def _steps(warmup: float, total: int) -> int:
    return round(warmup * total) if warmup < 1 else int(warmup)


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Two groups of the trainable parameters: matrices and kernels decay, not biases, scales, a module's `no_weight_decay`."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    plain = {getattr(module, name) for module in model.modules() for name in getattr(module, "no_weight_decay", ())}
    return [
        {"params": [p for p in parameters if p.ndim >= 2 and p not in plain], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2 or p in plain], "weight_decay": 0.0},
    ]


@shown
def sgd(lr: float, momentum: float = 0.0, weight_decay: float = 0.0, nesterov: bool = False) -> MakeOne:
    """Stochastic gradient descent; decay on matrices and kernels only."""
    return lambda model: torch.optim.SGD(decay_groups(model, weight_decay), lr=lr, momentum=momentum, nesterov=nesterov)


@shown
def adamw(
    lr: float, weight_decay: float = 0.01, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, fused: bool = False
) -> MakeOne:
    """AdamW (Loshchilov & Hutter 2017, https://arxiv.org/abs/1711.05101); decay on matrices and kernels only.

    `fused` is torch's faster kernel, which rounds otherwise: for networks with large embeddings.
    """
    options = {"lr": lr, "betas": betas, "eps": eps, "fused": fused or None}
    return lambda model: torch.optim.AdamW(decay_groups(model, weight_decay), **options)
