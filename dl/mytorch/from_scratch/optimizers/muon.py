"""Muon, for which a matrix is more than the numbers in it."""

import math

import torch
from torch import Tensor

from dl.mytorch.from_scratch.optimizers.sgd import Optimizer, Parameters, Values, averaged


class Muon(Optimizer):
    """Momentum whose step for a matrix is made orthogonal: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon.

    For hidden layers; embeddings, outputs, biases and norms stay with AdamW. Kernels are taken as matrices (out, the rest),
    which torch's class refuses. Raises `ValueError` for a vector, and for an unknown `adjust_lr_fn`.

    Args:
        ns_coefficients, ns_steps, eps: see `orthogonalized`.
        adjust_lr_fn: "original" multiplies lr by sqrt(max(1, rows / columns)), "match_rms_adamw" by 0.2 sqrt(the larger
            side), which makes a step as long as one of AdamW (https://arxiv.org/abs/2502.16982). Default: the first.
    """

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.775, 2.0315),
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
    ) -> None:
        if adjust_lr_fn not in (None, "original", "match_rms_adamw"):
            raise ValueError(f'adjust_lr_fn {adjust_lr_fn!r}: there are "original" and "match_rms_adamw"')
        options = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "nesterov": nesterov}
        options |= {"ns_coefficients": ns_coefficients, "eps": eps, "ns_steps": ns_steps, "adjust_lr_fn": adjust_lr_fn}
        super().__init__(params, options)
        for shape in (parameter.shape for group in self.param_groups for parameter in group["params"]):
            if len(shape) < 2:
                raise ValueError(f"Muon is for matrices and kernels; got a parameter of shape {tuple(shape)}")

    def update(self, parameter: Tensor, gradient: Tensor, state: Values, group: Values) -> None:
        mean = averaged(state, "momentum_buffer", gradient, group["momentum"])
        step = (gradient.lerp(mean, group["momentum"]) if group["nesterov"] else mean).flatten(1)  # (out, the rest)
        rows, columns = step.shape
        step = orthogonalized(step, group["ns_coefficients"], group["ns_steps"], group["eps"])
        wide = group["adjust_lr_fn"] == "match_rms_adamw"
        factor = 0.2 * math.sqrt(max(rows, columns)) if wide else math.sqrt(max(1, rows / columns))
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(step.reshape(parameter.shape), alpha=-group["lr"] * factor)


def orthogonalized(matrix: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """U V^T of U S V^T, nearly: `steps` times X <- a X + b A X + c A A X with A = X X^T, in bfloat16.

    Each step is an odd polynomial of the singular values, which drives all of (0, 1] to between 0.7 and 1.2. `eps` keeps
    the first division, by the norm, from being one by 0.
    """
    a, b, c = coefficients
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if tall else matrix).bfloat16()
    x = x / x.norm().clamp_min(eps)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)  # addmm(s, t, u): beta s + alpha t u
    return x.T if tall else x
