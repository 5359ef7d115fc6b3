"""Images to learn to draw: the flags that such recipes share, and what fits the images."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from dl.modules.Diffusion.DDPM.model import PRESETS, UNet
from dl.mytorch.config import UserError, flag
from dl.mytorch.data import Batch, ImageConfig, Loader, image_set


@dataclass(frozen=True)
class ImagesConfig(ImageConfig):
    """What a recipe that learns to draw images can be told. Raises `ValueError` for what would be learnt as an image."""

    classifies: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("label_smoothing", "mixup", "cutmix", "erase", "auto_augment"):
            self._check(name, not getattr(self, name), "off: samples would look like what it makes of images")


@dataclass(frozen=True)
class DiffusionConfig(ImagesConfig):
    """What the recipes of diffusion can be told beside."""

    model: str = flag("small", "preset of the network, see model.py", choices=PRESETS)
    classes: bool = flag(True, "condition on the label, so that samples of a class can be asked for")
    drop_label: float = flag(0.1, "probability that training hides the label, for classifier-free guidance")
    epochs: int = 5  # half an hour on two cores
    batch_size: int = 64
    lr: float = 2e-3
    grad_clip: float = 1.0
    ema: float = 0.998
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # bf16: twice as fast on a CPU with avx512_bf16
    channels_last: bool = True  # a twelfth faster in fp32 on a CPU

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("drop_label", 0 <= self.drop_label <= 1, "from 0 to 1")


def fitting(model: UNet, config: DiffusionConfig) -> UNet:
    """`model`. Raises `UserError` when it cannot halve the images that `config.data` names."""
    size = image_set(config).size
    try:
        model.check_sides(size, size)
    except ValueError as error:
        raise UserError(f"--model {config.model} does not fit --data {config.data}, {error}") from None
    return model


def some_examples(loader: Loader, count: int) -> Batch:
    """Return `count` examples as they are stored: "images" (count, C, H, W) of bytes and "labels" (count,), always the same.

    They are the first of a set in memory, and drawn at random from files, which may be in the order of the classes.
    Raises `UserError` when there are fewer.
    """
    if count > loader.num_examples:
        raise UserError(f"--num {count}: there are {loader.num_examples} images to compare with, so ask for that many at most")
    return next(Loader(loader.dataset, count, shuffle=not loader.in_memory).batches())
