"""GoogLeNet.

"Going Deeper with Convolutions", Christian Szegedy, Wei Liu, Yangqing Jia, Pierre Sermanet, Scott Reed, Dragomir Anguelov,
Dumitru Erhan, Vincent Vanhoucke, Andrew Rabinovich, 2014, https://arxiv.org/abs/1409.4842: the network of table 1 with the
two auxiliary classifiers of section 5, `GoogLeNet` ("paper"), and the one that torchvision publishes weights for,
`TorchvisionGoogLeNet` ("googlenet"), whose five differences stand in its class. "small" and "tiny" are ours, of torchvision's
kind: for 28x28 on a CPU, and for tests.

Deviations: what the paper does not say (padding, pooling windows that reach over the edge, the constants of the local
response normalisation) is taken from Caffe's replication, https://github.com/BVLC/caffe/tree/master/models/bvlc_googlenet.
Initial weights are He's.

Options beyond the paper: the stem "small" (3x3, stride 1, no pooling), for images of 28 or 32 pixels, whose maps then have
the sides that an image of 224 has; `width` multiplies all channels; `blocks` leaves some of table 1's out.
"""

from typing import Any, Callable, NamedTuple

import torch
from torch import Tensor, nn

from dl.mytorch.layers import sequential

# B batch, C channels, X side of a feature map, K classes

Conv = Callable[..., nn.Sequential]  # (in_channels, out_channels, kernel_size, stride=1) -> its layers

# Table 1: channels of 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool projection.
INCEPTIONS = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
STEMS = ("imagenet", "small")


def conv(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> nn.Sequential:
    """Return a same-padded, optionally strided convolution and a ReLU."""
    return sequential(
        conv=nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2),
        act=nn.ReLU(),
    )


def conv_norm(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> nn.Sequential:
    """`conv` with a batch norm in place of the bias."""
    return sequential(
        conv=nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=False),
        norm=nn.BatchNorm2d(out_channels, eps=0.001),
        act=nn.ReLU(),
    )


def make_stem(conv: Conv, in_channels: int, channels: int, out_channels: int, small: bool) -> nn.Sequential:
    """Table 1 up to 3a, with the norms of figure 3. (B, in_channels, X, X) -> (B, out_channels, X/8, X/8), or X if `small`."""
    layers = {
        "conv1": conv(in_channels, channels, 3) if small else conv(in_channels, channels, 7, stride=2),
        "pool1": nn.MaxPool2d(3, stride=2, ceil_mode=True),
        "norm1": nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75),
        "conv2": conv(channels, channels, 1),
        "conv3": conv(channels, out_channels, 3),
        "norm2": nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75),
        "pool2": nn.MaxPool2d(3, stride=2, ceil_mode=True),
    }
    if small:
        del layers["pool1"], layers["pool2"]
    return sequential(**layers)


class Inception(nn.Module):
    """Figure 2b: four ways to look at a map, side by side. `widths` is a row of table 1, `largest` the kernel of 5x5.

    forward: (B, in_channels, X, X) -> (B, out_channels, X, X), the channels of 1x1, 3x3, 5x5 and pooling in this order.
    """

    def __init__(self, in_channels: int, widths: tuple[int, ...], conv: Conv = conv, largest: int = 5) -> None:
        super().__init__()
        one, reduce_three, three, reduce_five, five, pool = widths
        self.out_channels = one + three + five + pool
        self.branch1 = conv(in_channels, one, 1)
        self.branch3 = sequential(
            reduce=conv(in_channels, reduce_three, 1),
            conv=conv(reduce_three, three, 3),
        )
        self.branch5 = sequential(
            reduce=conv(in_channels, reduce_five, 1),
            conv=conv(reduce_five, five, largest),
        )
        self.branch_pool = sequential(
            pool=nn.MaxPool2d(3, stride=1, padding=1),
            project=conv(in_channels, pool, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch1(x), self.branch3(x), self.branch5(x), self.branch_pool(x)], dim=1)


class AuxiliaryHead(nn.Module):
    """Section 5: a small classifier on a map in the middle of the network, so that a gradient begins there too.

    forward: (B, in_channels, X, X) -> (B, num_classes), for X from 14 to 16.
    """

    def __init__(self, in_channels: int, width: float, num_classes: int, dropout: float, conv: Conv = conv) -> None:
        super().__init__()
        channels, units = round(width * 128), round(width * 1024)
        self.pool = nn.AvgPool2d(5, stride=3)
        self.conv = conv(in_channels, channels, 1)
        self.fc1 = nn.Linear(channels * 4 * 4, units)
        self.act = nn.ReLU()
        self.dropout = nn.Dropout(dropout)
        self.fc2 = nn.Linear(units, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.pool(x))  # (B, C, X, X) -> (B, 128, 4, 4)
        x = self.act(self.fc1(x.flatten(1)))  # (B, 128, 4, 4) -> (B, 1024)
        return self.fc2(self.dropout(x))  # (B, K)


class GoogLeNetOutput(NamedTuple):
    """What a network with auxiliary heads gives in training: three times logits (B, K)."""

    logits: Tensor
    aux1: Tensor  # after 4a
    aux2: Tensor  # after 4d


class GoogLeNet(nn.Module):
    """A stem, the inception modules of table 1 with a pooling between stages, and a linear layer on the mean over the map.

    Args:
        width: multiplies the channels of every layer.
        blocks: names of the inception modules, in the order of table 1.
        aux: with auxiliary heads after 4a and 4d. They work in training only.
        stem: "imagenet", which divides the side by 8, or "small", which keeps it.
        dropout: before the last layer; `dropout_aux`: before that of the auxiliary heads.

    forward: images (B, in_channels, X, X) -> logits (B, num_classes); in training with `aux` a `GoogLeNetOutput`.

    Raises `ValueError` for an unknown stem or block, and for heads without 4a and 4d.
    """

    conv: Conv = staticmethod(conv)
    largest = 5  # kernel of the branch 5x5
    pools = {"4": 3, "5": 3}  # windows of the poolings before these stages

    def __init__(
        self,
        width: float = 1.0,
        blocks: tuple[str, ...] = tuple(INCEPTIONS),
        aux: bool = True,
        num_classes: int = 1000,
        in_channels: int = 3,
        stem: str = "imagenet",
        dropout: float = 0.4,
        dropout_aux: float = 0.7,
    ) -> None:
        super().__init__()
        if stem not in STEMS or not set(blocks) <= set(INCEPTIONS):
            raise ValueError(f"stem {stem!r}, blocks {blocks}: there are stems {STEMS}, blocks {tuple(INCEPTIONS)}")
        if aux and not {"4a", "4d"} <= set(blocks):
            raise ValueError(f"the auxiliary heads follow the blocks 4a and 4d, which {blocks} lack: aux=False")
        self.stem = make_stem(self.conv, in_channels, round(width * 64), round(width * 192), stem == "small")
        self.body, self.aux = nn.ModuleDict(), nn.ModuleDict()
        channels, stage = round(width * 192), blocks[0][0]
        for name in blocks:
            if name[0] != stage:
                self.body[f"pool{stage}"] = nn.MaxPool2d(self.pools[name[0]], stride=2, ceil_mode=True)
            widths = tuple(round(width * maps) for maps in INCEPTIONS[name])
            self.body[name] = Inception(channels, widths, self.conv, self.largest)
            channels, stage = self.body[name].out_channels, name[0]
            if aux and name in ("4a", "4d"):
                self.aux[name] = AuxiliaryHead(channels, width, num_classes, dropout_aux, self.conv)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(channels, num_classes)
        self.init_weights()

    def init_weights(self) -> None:
        """Kernels: uniform with variance 2 / fan-in (He et al. 2015, https://arxiv.org/abs/1502.01852, equation 10); biases 0.

        Norms and linear layers as torch's do.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor | GoogLeNetOutput:
        x = self.stem(images)  # (B, 3, X, X) -> (B, 192, X/8, X/8)
        auxiliary = []
        for name, layer in self.body.items():
            x = layer(x)  # a pooling: (B, C, X, X) -> (B, C, X/2, X/2); an inception module: (B, C, X, X) -> (B, C', X, X)
            if self.training and name in self.aux:
                auxiliary.append(self.aux[name](x))  # (B, K)
        x = self.pool(x).flatten(1)  # (B, 1024, X, X) -> (B, 1024)
        logits = self.head(self.dropout(x))  # (B, K)
        return GoogLeNetOutput(logits, *auxiliary) if auxiliary else logits


class TorchvisionGoogLeNet(GoogLeNet):
    """The network of torchvision and of its pretrained weights. It differs from the paper's in five places:

    - each convolution has a batch norm (epsilon 0.001) and no bias; there is no local response normalisation;
    - the branch of 5x5 convolutions has 3x3 ones, a mistake that the weights keep
      (https://github.com/pytorch/vision/issues/906);
    - the pooling before 5a is 2x2, not 3x3;
    - the auxiliary heads pool adaptively, not by 5x5 with stride 3, so that they take maps of any side;
    - dropout before the last layer is 0.2, not 0.4.

    Args:
        transform_input: images come normalised with the mean and std of ImageNet's channels, the network works on those of
            mean 0.5 and std 0.5, as torchvision's pretrained weights do. Folded into the first convolution, the shift would
            be wrong at the border, where the padding is 0 after it.
        options: the arguments of `GoogLeNet`.

    Raises `ValueError` as `GoogLeNet`, and for a transformation of images that do not have three channels.
    """

    conv: Conv = staticmethod(conv_norm)
    largest = 3
    pools = {"4": 3, "5": 2}

    def __init__(self, *, in_channels: int = 3, dropout: float = 0.2, transform_input: bool = False, **options: Any) -> None:
        if transform_input and in_channels != 3:
            raise ValueError(f"transform_input is for images of 3 channels, not {in_channels}")
        super().__init__(in_channels=in_channels, dropout=dropout, **options)
        self.transform_input = transform_input
        del self.stem.norm1, self.stem.norm2
        for head in self.aux.values():
            head.pool = nn.AdaptiveAvgPool2d(4)

    def forward(self, images: Tensor) -> Tensor | GoogLeNetOutput:
        return super().forward(to_half(images) if self.transform_input else images)


def to_half(images: Tensor) -> Tensor:
    """Images normalised by ImageNet's mean and std -> the same normalised by 0.5 and 0.5, (B, 3, X, X) both."""
    mean = images.new_tensor((0.485, 0.456, 0.406))[:, None, None]
    std = images.new_tensor((0.229, 0.224, 0.225))[:, None, None]
    return (images * std + mean - 0.5) / 0.5


STYLES: dict[str, type[GoogLeNet]] = {"paper": GoogLeNet, "torchvision": TorchvisionGoogLeNet}
PRESETS: dict[str, dict[str, Any]] = {
    "googlenet": {"style": "torchvision"},
    "paper": {"style": "paper"},
    "small": {"style": "torchvision", "width": 1 / 8, "in_channels": 1, "num_classes": 10, "stem": "small"},
    "tiny": {"style": "torchvision", "width": 1 / 16, "blocks": ("3a", "4a", "4d"), "num_classes": 10, "stem": "small"},
}


def build(preset: str = "googlenet", **overrides: Any) -> GoogLeNet:
    """Return a GoogLeNet by the name of its preset; `overrides` are its style, a key of `STYLES`, and arguments of that class.

    Raises `ValueError` for an unknown style, and as the class.
    """
    arguments = {**PRESETS[preset], **overrides}
    style = arguments.pop("style")
    if style not in STYLES:
        raise ValueError(f"style {style!r}: there are {', '.join(STYLES)}")
    return STYLES[style](**arguments)


def example(preset: str) -> tuple[Tensor]:
    """Return an image that the preset takes: zeros (1, C, H, W)."""
    channels = PRESETS[preset].get("in_channels", 3)
    size = 28 if channels == 1 else 32 if "num_classes" in PRESETS[preset] else 224
    return (torch.zeros(1, channels, size, size),)
