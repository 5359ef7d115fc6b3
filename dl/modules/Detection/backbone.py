"""What detectors read: the maps of a ResNet, coarser from stage to stage, and the feature pyramid on top of them.

"Feature Pyramid Networks for Object Detection", Tsung-Yi Lin et al., 2017, https://arxiv.org/abs/1612.03144, figure 3.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dl.modules.CNN.ResNet.model import PRESETS, Block, build

# B batch, C channels, H height, W width


class FrozenNorm(nn.Module):
    """A batch norm that stays as it was pretrained: scale, shift and statistics are buffers, and training uses them, too."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, torch.full((channels,), value))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, eps={self.eps}"


def freeze_norms(model: nn.Module, eps: float) -> None:
    """Replace each batch norm below `model` by a fresh `FrozenNorm`."""
    for name, child in list(model.named_children()):
        if isinstance(child, nn.BatchNorm2d):
            setattr(model, name, FrozenNorm(child.num_features, eps))
        else:
            freeze_norms(child, eps)


class ResNetFeatures(nn.Module):
    """The maps of a ResNet after some of its stages.

    Args:
        preset: of dl/modules/CNN/ResNet/model.py; `overrides` are arguments of its network, as `in_channels` or `stem`.
        stages: whose maps are returned, in rising order; 1 to 4 are C2 to C5 of the paper. Stages after the last are not built.
        frozen: norms are `FrozenNorm`s. For pretrained weights alone: with fresh ones it is a network without norms.
        eps: of frozen norms. torchvision's weights "COCO_V1" of Faster and Mask R-CNN need 0, those of FCOS 1e-5.

    Attributes: `channels` and `strides` of the maps.

    forward: images (B, in_channels, H, W) -> [(B, channels[i], H / strides[i], W / strides[i])], sides rounded up.
    """

    def __init__(
        self,
        preset: str = "resnet50",
        stages: Sequence[int] = (2, 3, 4),
        frozen: bool = False,
        eps: float = 1e-5,
        **overrides: Any,
    ) -> None:
        super().__init__()
        options = {"kind": "basic", "width": 64, "stem": "imagenet", **PRESETS[preset], **overrides}
        network = build(preset, **overrides)
        self.ends = [sum(options["depths"][:stage]) - 1 for stage in stages]  # the last block of each stage
        self.stem, self.blocks = network.stem, network.blocks[: self.ends[-1] + 1]
        first = {"imagenet": 4, "pool": 2, "small": 1}[options["stem"]]
        self.strides = [first * 2 ** (stage - 1) for stage in stages]
        self.channels = [options["width"] * 2 ** (stage - 1) * Block.EXPANSION[options["kind"]] for stage in stages]
        if frozen:
            freeze_norms(self, eps)

    def forward(self, images: Tensor) -> list[Tensor]:
        x, maps = self.stem(images), []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in self.ends:
                maps.append(x)
        return maps


class FPN(nn.Module):
    """Figure 3: each map, through a 1x1 convolution, plus the coarser one at twice its size, through a 3x3 convolution.

    Args:
        in_channels: of the maps, the finest first.
        extra: what follows the coarsest: "none", "pool" (every second pixel of it: P6 of section 4.1), or "p6p7" (two strided
            convolutions: P6 and P7 of RetinaNet, Lin et al. 2017, https://arxiv.org/abs/1708.02002, but from P5, as in FCOS).

    forward: [(B, in_channels[i], H_i, W_i)] -> [(B, out_channels, H_i, W_i)], followed by the extra maps.
    """

    EXTRA = {"none": 0, "pool": 1, "p6p7": 2}  # how many maps they add

    def __init__(self, in_channels: Sequence[int], out_channels: int = 256, extra: str = "none") -> None:
        super().__init__()
        if extra not in self.EXTRA:
            raise ValueError(f"extra {extra!r} is one of {', '.join(self.EXTRA)}")
        self.extra = extra
        self.lateral = nn.ModuleList(nn.Conv2d(channels, out_channels, 1) for channels in in_channels)
        self.output = nn.ModuleList(nn.Conv2d(out_channels, out_channels, 3, padding=1) for _ in in_channels)
        if extra == "p6p7":
            self.p6 = nn.Conv2d(out_channels, out_channels, 3, stride=2, padding=1)
            self.p7 = nn.Conv2d(out_channels, out_channels, 3, stride=2, padding=1)
        self.init_weights()

    def init_weights(self) -> None:
        """Uniform with variance 1 / fan-in, biases 0, as torchvision's."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                nn.init.zeros_(module.bias)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        merged = [lateral(x) for lateral, x in zip(self.lateral, maps, strict=True)]
        for i in reversed(range(len(merged) - 1)):
            merged[i] = merged[i] + F.interpolate(merged[i + 1], size=merged[i].shape[-2:], mode="nearest")
        outputs = [output(x) for output, x in zip(self.output, merged, strict=True)]
        if self.extra == "pool":
            outputs.append(outputs[-1][..., ::2, ::2])
        elif self.extra == "p6p7":
            outputs.append(self.p6(outputs[-1]))
            outputs.append(self.p7(outputs[-1].relu()))
        return outputs
