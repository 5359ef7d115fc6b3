"""Linear regression.

"Nouvelles methodes pour la determination des orbites des cometes", Adrien-Marie Legendre, 1805,
http://probabilityandfinance.com/pulskamp/Legendre/legendre.html, appendix "Sur la methode des moindres quarres",
pages 72 to 80; Carl Friedrich Gauss, "Theoria motus corporum coelestium", 1809, sections 175 to 186.

The linear function whose squared errors have the smallest sum: as a model that gradient descent can train
(https://d2l.ai, chapter 3), and as the paper finds it, by the normal equations.

Deviations:
- The paper adds up squares; training takes their mean, d2l half of it. The smallest is at the same place.
- The paper solves by elimination on paper, `solve` by LU factors.
"""

from typing import Any

import torch
from torch import Tensor, nn

# N examples, B batch, D features, K targets


class LinearRegression(nn.Module):
    """y = W x + b.

    forward: features (B, num_features) -> predictions (B, num_targets).
    """

    def __init__(self, num_features: int = 10, num_targets: int = 1) -> None:
        super().__init__()
        self.linear = nn.Linear(num_features, num_targets)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear(features)  # (B, D) -> (B, K)


def solve(features: Tensor, targets: Tensor) -> LinearRegression:
    """Return the best model for features (N, D) and targets (N, K), by the normal equations X^T X [W b]^T = X^T y.

    They say that no feature is correlated with what remains: X^T (y - X [W b]^T) = 0. Needs more examples than
    features, none of which is a linear function of the others.
    """
    x = torch.cat([features, torch.ones_like(features[:, :1])], dim=1)  # (N, D) -> (N, D + 1): the bias's feature is 1
    solution = torch.linalg.solve(x.T @ x, x.T @ targets)  # (D + 1, K)
    model = LinearRegression(features.shape[1], targets.shape[1]).to(features)
    with torch.no_grad():
        model.linear.weight.copy_(solution[:-1].T)
        model.linear.bias.copy_(solution[-1])
    return model


PRESETS: dict[str, dict[str, Any]] = {
    "linear": {"num_features": 10},
    "tiny": {"num_features": 3},
}


def build(preset: str = "linear", **overrides: Any) -> LinearRegression:
    """Return a linear regression by the name of its preset; `overrides` are arguments of `LinearRegression`."""
    return LinearRegression(**{**PRESETS[preset], **overrides})


def example(preset: str) -> tuple[Tensor]:
    """Return the features of an example, zeros (1, D)."""
    return (torch.zeros(1, PRESETS[preset]["num_features"]),)
