"""Squeeze and excitation: attention over channels."""

from torch import Tensor, nn


class SqueezeExcitation(nn.Module):
    """Each channel is scaled by a gate in (0, 1) that sees the mean of all channels.

    Hu et al. 2017, https://arxiv.org/abs/1709.01507, section 3. The two fully connected layers are 1x1 convolutions on a
    map of one pixel. `squeezed`: units between them; `act`: the activation there, the paper's is ReLU.

    forward: (B, channels, X, X) -> the same shape.
    """

    def __init__(self, channels: int, squeezed: int, act: nn.Module) -> None:
        super().__init__()
        self.squeeze = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.act = act
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.gate = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        mean = self.squeeze(x)  # (B, C, X, X) -> (B, C, 1, 1)
        return x * self.gate(self.fc2(self.act(self.fc1(mean))))
