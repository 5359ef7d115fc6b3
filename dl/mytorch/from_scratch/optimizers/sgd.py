"""What all optimizers here are built on, and the simplest of them."""

from typing import Any, Callable, Iterable

import torch
from torch import Tensor

Parameters = Iterable[Tensor] | Iterable[dict[str, Any]]
Values = dict[str, Any]


class Optimizer(torch.optim.Optimizer):
    """`step` calls `update` for every parameter that has a gradient. torch's class keeps groups and states.

    Raises `ValueError` for options that torch refuses too, and in a step for a sparse gradient.
    """

    def __init__(self, params: Parameters, options: Values) -> None:
        for name in ("lr", "momentum", "weight_decay", "eps"):
            if options.get(name, 0.0) < 0:
                raise ValueError(f"{name} {options[name]} is below 0")
        if not all(0 <= beta < 1 for beta in options.get("betas", ())):
            raise ValueError(f"betas {options['betas']}: each is from 0 to below 1")
        super().__init__(params, options)

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    if parameter.grad.is_sparse:
                        raise ValueError("a sparse gradient: make the embedding without sparse=True, or take torch's optimizer")
                    state = self.state[parameter]
                    state["step"] = state.get("step", 0) + 1
                    self.update(parameter, parameter.grad, state, group)
        return loss

    def update(self, parameter: Tensor, gradient: Tensor, state: Values, group: Values) -> None:
        """Change `parameter` in place. `state` is its own, with the number of this step, from 1; `group` has the options."""
        raise NotImplementedError


def averaged(state: Values, name: str, value: Tensor, decay: float) -> Tensor:
    """state[name] <- decay state[name] + (1 - decay) value, from 0 at first."""
    if name not in state:
        state[name] = torch.zeros_like(value)
    return state[name].lerp_(value, 1 - decay)


class SGD(Optimizer):
    """p <- p - lr g, with momentum p <- p - lr b where b <- momentum b + (1 - dampening) g: Polyak 1964.

    `nesterov` looks ahead to where the momentum will lead: g + momentum b in place of b (Sutskever et al. 2013,
    https://proceedings.mlr.press/v28/sutskever13.html). `weight_decay` adds weight_decay p to g. Raises `ValueError` for
    `nesterov` without momentum, or with dampening.
    """

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        if nesterov and (not momentum or dampening):
            raise ValueError(f"nesterov needs a momentum and no dampening; got {momentum} and {dampening}")
        options = {"lr": lr, "momentum": momentum, "dampening": dampening}
        super().__init__(params, options | {"weight_decay": weight_decay, "nesterov": nesterov})

    def update(self, parameter: Tensor, gradient: Tensor, state: Values, group: Values) -> None:
        gradient = gradient + group["weight_decay"] * parameter
        if group["momentum"]:
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = gradient.clone()  # the first is not dampened
            else:
                state["momentum_buffer"].mul_(group["momentum"]).add_(gradient, alpha=1 - group["dampening"])
            ahead = group["momentum"] * state["momentum_buffer"]
            gradient = gradient + ahead if group["nesterov"] else state["momentum_buffer"]
        parameter.sub_(group["lr"] * gradient)
