"""Optimizers that measure each gradient by those before it."""

import torch
from torch import Tensor

from dl.mytorch.from_scratch.optimizers.sgd import Optimizer, Parameters, Values, averaged


class Adagrad(Optimizer):
    """p <- p - lr g / (sqrt(sum of all g^2) + eps): Duchi et al. 2011, https://jmlr.org/papers/v12/duchi11a.html."""

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
    ) -> None:
        options = {"lr": lr, "lr_decay": lr_decay, "weight_decay": weight_decay, "eps": eps}
        super().__init__(params, options | {"initial_accumulator_value": initial_accumulator_value})

    def update(self, parameter: Tensor, gradient: Tensor, state: Values, group: Values) -> None:
        gradient = gradient + group["weight_decay"] * parameter
        if "sum" not in state:
            state["sum"] = torch.full_like(parameter, group["initial_accumulator_value"])
        state["sum"].add_(gradient.square())
        lr = group["lr"] / (1 + (state["step"] - 1) * group["lr_decay"])
        parameter.sub_(lr * gradient / (state["sum"].sqrt() + group["eps"]))


class RMSprop(Optimizer):
    """p <- p - lr g / (sqrt(mean of g^2) + eps), a mean that forgets: Tieleman & Hinton 2012, lecture 6.5.

    `centered` divides by the standard deviation instead, without the mean of g (Graves 2013, https://arxiv.org/abs/1308.0850).
    """

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
    ) -> None:
        options = {"lr": lr, "alpha": alpha, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, options | {"momentum": momentum, "centered": centered})

    def update(self, parameter: Tensor, gradient: Tensor, state: Values, group: Values) -> None:
        gradient = gradient + group["weight_decay"] * parameter
        variance = averaged(state, "square_avg", gradient.square(), group["alpha"])
        if group["centered"]:
            variance = variance - averaged(state, "grad_avg", gradient, group["alpha"]).square()
        step = gradient / (variance.sqrt() + group["eps"])
        if group["momentum"]:
            buffer = state.setdefault("momentum_buffer", torch.zeros_like(parameter))
            step = buffer.mul_(group["momentum"]).add_(step)
        parameter.sub_(group["lr"] * step)


class Adam(Optimizer):
    """p <- p - lr m / (sqrt(v) + eps), means of g and of g^2: Kingma & Ba 2014, https://arxiv.org/abs/1412.6980, algorithm 1.

    The means begin at 0; dividing by 1 - beta^t makes up for that. `amsgrad` takes the largest v so far (Reddi et al. 2018,
    https://arxiv.org/abs/1904.09237).
    """

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "amsgrad": amsgrad})

    def update(self, parameter: Tensor, gradient: Tensor, state: Values, group: Values) -> None:
        direction = self.direction(gradient + group["weight_decay"] * parameter, state, group)
        parameter.sub_(group["lr"] * direction)

    def direction(self, gradient: Tensor, state: Values, group: Values) -> Tensor:
        """m / (sqrt(v) + eps), both without the bias of their beginning."""
        beta1, beta2 = group["betas"]
        mean = averaged(state, "exp_avg", gradient, beta1) / (1 - beta1 ** state["step"])
        square = averaged(state, "exp_avg_sq", gradient.square(), beta2)
        if group["amsgrad"]:
            largest = state.setdefault("max_exp_avg_sq", square.clone())
            square = torch.maximum(largest, square, out=largest)
        return mean / ((square / (1 - beta2 ** state["step"])).sqrt() + group["eps"])


class AdamW(Adam):
    """Adam whose weight decay is no part of the gradient: p <- (1 - lr weight_decay) p first.

    Loshchilov & Hutter 2017, https://arxiv.org/abs/1711.05101, algorithm 2.
    """

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad)

    def update(self, parameter: Tensor, gradient: Tensor, state: Values, group: Values) -> None:
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.sub_(group["lr"] * self.direction(gradient, state, group))


class Lion(Optimizer):
    """p <- p - lr (sign(beta1 m + (1 - beta1) g) + weight_decay p), then m <- beta2 m + (1 - beta2) g.

    Chen et al. 2023, https://arxiv.org/abs/2302.06675, algorithm 2. Every number moves by lr, so lr is smaller than Adam's.
    """

    def __init__(
        self, params: Parameters, lr: float = 1e-4, betas: tuple[float, float] = (0.9, 0.99), weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    def update(self, parameter: Tensor, gradient: Tensor, state: Values, group: Values) -> None:
        beta1, beta2 = group["betas"]
        mean = state.get("exp_avg", torch.zeros_like(parameter))
        sign = mean.lerp(gradient, 1 - beta1).sign()
        parameter.sub_(group["lr"] * (sign + group["weight_decay"] * parameter))
        averaged(state, "exp_avg", gradient, beta2)


class LAMB(Adam):
    """p <- p - lr |p| / |r| r, where r = Adam's direction + weight_decay p: You et al. 2019, https://arxiv.org/abs/1904.00962.

    Algorithm 2, with phi the identity: every layer moves by the same share of its length. Where a length is 0, the ratio
    is 1.
    """

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay)

    def update(self, parameter: Tensor, gradient: Tensor, state: Values, group: Values) -> None:
        step = self.direction(gradient, state, group) + group["weight_decay"] * parameter
        length, step_length = parameter.norm(), step.norm()
        ratio = torch.where((length > 0) & (step_length > 0), length / step_length, 1.0)
        parameter.sub_(group["lr"] * ratio * step)
