"""SqueezeNet.

"SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model size", Forrest N. Iandola, Song Han,
Matthew W. Moskewicz, Khalid Ashraf, William J. Dally, Kurt Keutzer, 2016, https://arxiv.org/abs/1602.07360: the network
of table 1 ("squeezenet1_0") and the authors' later one with fewer operations ("squeezenet1_1",
https://github.com/forresti/SqueezeNet). Layers have the names of table 1. "small" and "tiny" are ours: for 28x28 on a
CPU, and for tests.

Options:
- bypass: the simple bypass of section 6 and figure 2, middle.
- stem "small" (3x3, stride 1) is ours, for images of 28 or 32; any preset takes it.
- last_act=False is ours: no ReLU after the last convolution. With it, as in the paper, a class whose logit is 0 for all
  images gets no gradient any more. With few classes one or more are soon lost, so "small" and "tiny" are without.

Deviations:
- The last convolution has no padding, as in torchvision's network, whose pretrained weights fit; in the authors' Caffe
  file this 1x1 convolution has a padding of 1, a frame of its biases around the map.
- The paper says nothing of initial weights. The last convolution starts as in the authors' Caffe file and in
  torchvision, normal with standard deviation 0.01; the others as in torchvision (He), while the Caffe file has Xavier.

Not here: the complex bypass of section 6, and the Deep Compression of section 4.
"""

from typing import Any

import torch
from torch import Tensor, nn

from dl.mytorch.layers import sequential

# B batch, C channels, X side of a feature map


class Fire(nn.Module):
    """Figure 1: a 1x1 convolution squeezes the maps, a 1x1 and a 3x3 convolution side by side expand them again.

    bypass: the module's input is added to its output. This needs as many maps in as out.

    forward: (B, in_channels, X, X) -> (B, expand, X, X).
    """

    def __init__(self, in_channels: int, squeeze: int, expand: int, bypass: bool) -> None:
        super().__init__()
        half = expand // 2
        self.bypass = bypass
        self.squeeze = sequential(conv=nn.Conv2d(in_channels, squeeze, 1), act=nn.ReLU())
        self.expand1x1 = sequential(conv=nn.Conv2d(squeeze, half, 1), act=nn.ReLU())
        self.expand3x3 = sequential(conv=nn.Conv2d(squeeze, half, 3, padding=1), act=nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        inner = self.squeeze(x)  # (B, in_channels, X, X) -> (B, squeeze, X, X)
        y = torch.cat([self.expand1x1(inner), self.expand3x3(inner)], dim=1)  # 2 x (B, expand/2, X, X) -> (B, expand, X, X)
        return x + y if self.bypass else y


class SqueezeNet(nn.Module):
    """A convolution, fire modules with max pooling between them, a convolution to the classes, the mean over the map.

    Images may have any side from 21 up.

    Args:
        pools: numbers of the layers, counted from conv1, that a max pooling follows; it halves the map.
        fires: number of fire modules, which are the layers fire2, fire3 ...
        width: section 5.2's base_e and incr_e: fire2 and fire3 expand to `width` maps, each next pair to `width` more.
        squeeze_ratio: section 5.2's SR: maps that a fire module squeezes to, as a share of those it expands to.
        stem_channels: maps of the first convolution.
        stem_kernel: its side in the stem "imagenet".
        bypass: simple bypass around every fire module with as many maps in as out; in the paper's network 3, 5, 7 and 9.
        last_act: a ReLU after the last convolution, which leaves no logit below 0.
        dropout: probability, before the last convolution.
        stem: "imagenet", of stride 2 without padding, or "small", 3x3 of stride 1, which keeps the side.

    Raises `ValueError` for another stem.

    forward: images (B, in_channels, X, X) -> logits (B, num_classes).
    """

    def __init__(
        self,
        pools: tuple[int, ...] = (1, 4, 8),
        fires: int = 8,
        width: int = 128,
        squeeze_ratio: float = 0.125,
        stem_channels: int = 96,
        stem_kernel: int = 7,
        bypass: bool = False,
        last_act: bool = True,
        dropout: float = 0.5,
        num_classes: int = 1000,
        in_channels: int = 3,
        stem: str = "imagenet",
    ) -> None:
        super().__init__()
        if stem not in ("imagenet", "small"):
            raise ValueError(f'stem is "imagenet" or "small", not {stem!r}')
        if stem == "imagenet":
            first = nn.Conv2d(in_channels, stem_channels, stem_kernel, stride=2)
        else:
            first = nn.Conv2d(in_channels, stem_channels, 3, padding=1)
        self.stem = sequential(conv1=first, act=nn.ReLU())
        layers: dict[str, nn.Module] = {}
        channels = stem_channels
        for number in range(2, fires + 2):
            if number - 1 in pools:
                layers[f"pool{number - 1}"] = nn.MaxPool2d(3, stride=2, ceil_mode=True)  # Caffe rounds up
            expand = width * (number // 2)
            layers[f"fire{number}"] = Fire(channels, int(squeeze_ratio * expand), expand, bypass and channels == expand)
            channels = expand
        self.body = sequential(**layers)
        self.head = sequential(
            drop=nn.Dropout(dropout),
            conv10=nn.Conv2d(channels, num_classes, 1),
            act=nn.ReLU() if last_act else nn.Identity(),
            pool10=nn.AdaptiveAvgPool2d(1),
        )
        self.init_weights()

    def init_weights(self) -> None:
        """Convolutions: uniform with variance 2 / fan-in (He et al. 2015, https://arxiv.org/abs/1502.01852, equation 10).

        conv10: normal with standard deviation 0.01 (the authors' SqueezeNet_v1.0/train_val.prototxt). Biases: 0.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.head.conv10.weight, std=0.01)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)  # (B, in_channels, X, X) -> (B, C, X/2, X/2), or (B, C, X, X) after a small stem
        x = self.body(x)  # (B, C, X, X) -> (B, width * fires/2, X/8, X/8)
        return self.head(x).flatten(1)  # (B, C, X, X) -> (B, num_classes, 1, 1) -> (B, num_classes)


PRESETS: dict[str, dict[str, Any]] = {
    "squeezenet1_0": {},
    "squeezenet1_1": {"pools": (1, 3, 5), "stem_channels": 64, "stem_kernel": 3},
    "small": {
        "pools": (3, 5),
        "fires": 6,
        "width": 64,
        "squeeze_ratio": 0.25,
        "stem_channels": 32,
        "bypass": True,
        "last_act": False,
        "stem": "small",
        "num_classes": 10,
        "in_channels": 1,
    },
    "tiny": {"pools": (1,), "fires": 2, "width": 16, "stem_channels": 8, "last_act": False, "stem": "small", "num_classes": 10},
}


def build(preset: str = "squeezenet1_0", **overrides: Any) -> SqueezeNet:
    """Return a SqueezeNet by the name of its preset; `overrides` are arguments of `SqueezeNet`.

    `ValueError` for an unknown preset.
    """
    if preset not in PRESETS:
        raise ValueError(f"no preset {preset!r} here; there are {', '.join(PRESETS)}")
    return SqueezeNet(**{**PRESETS[preset], **overrides})


def example(preset: str) -> tuple[Tensor]:
    """Return an image that the preset takes: zeros (1, C, H, W)."""
    channels = PRESETS[preset].get("in_channels", 3)
    size = 28 if channels == 1 else 32 if "num_classes" in PRESETS[preset] else 224
    return (torch.zeros(1, channels, size, size),)
