"""One image file, of the formats in FORMATS and no others, as a tensor of bytes."""

import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dl.mytorch.config import UserError
from dl.mytorch.files import regular_file

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"}  # torchvision's: a .gif is a web page's
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM")  # for others Pillow starts programs (EPS: Ghostscript)


def read_image(path: Path | str, content: BinaryIO | None = None) -> Tensor:
    """Return an image as bytes (3, H, W), upright as its EXIF says, transparent parts white.

    With `content`, the bytes of its file, `path` only says where they are from. Of an animation the first image. Greys of
    16 bits are from 0 to 65535, other integers from 0 to 255, floats from 0 to 1. Colour profiles are not applied. Raises
    `UserError`, one line with the file and the cause, for what cannot be read or is larger than Pillow's limit (179 million
    pixels).
    """
    pixels = _opened(path, lambda image: np.array(_rgb(image)), content)
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def read_values(path: Path | str, content: BinaryIO | None = None) -> Tensor:
    """Return the values of a mask (H, W) as they are stored: greys of bytes, places in a palette, or 0 and 1.

    Raises `UserError` as `read_image` does, and for an image in colour.
    """
    return torch.from_numpy(_opened(path, _values, content))


def image_size(path: Path | str) -> tuple[int, int]:
    """Return (width, height) as the beginning of the file states it. Raises `UserError` as `read_image` does."""
    return _opened(path, lambda image: image.size)


def check_images(paths: Sequence[Path]) -> None:
    """Look at the beginning of each file. Raises `UserError` that counts the bad ones and names the first."""
    bad = []
    for path in paths:
        try:
            image_size(path)
        except UserError as error:
            bad.append(str(error))
    if bad:
        more = f"; and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise UserError(f"{len(bad)} of {len(paths)} images have to be repaired or removed: {'; '.join(bad[:3])}{more}")


def centre_square(image: Tensor, size: int) -> Tensor:
    """Return the largest square (C, size, size) in the middle of an image (C, H, W) of bytes, made smaller or larger."""
    height, width = image.shape[1:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return scaled(image[:, top : top + side, left : left + side], size, size)


def scaled(image: Tensor, height: int, width: int) -> Tensor:
    """Return an image (C, H, W) of bytes at another size (C, height, width), bilinearly and with antialiasing."""
    change = partial(F.interpolate, size=(height, width), mode="bilinear", antialias=True)
    if min(height, width) == 1:  # torch's kernel for bytes fails at it on AVX2
        return change(image[None].float())[0].round().to(torch.uint8)
    return change(image[None])[0]


def _opened(path: Path | str, use: Callable[["Image.Image"], Any], content: BinaryIO | None = None) -> Any:
    """Return `use` of the opened image; whatever goes wrong becomes one line."""
    from PIL import Image, UnidentifiedImageError

    path = path if content else regular_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata, and of large images below the limit
            with Image.open(content or path, formats=FORMATS) as image:
                return use(image)
    except UnidentifiedImageError:
        cause = "is not an image of a known format" if content or Path(path).stat().st_size else "is empty"
    except Exception as error:  # the readers of the many formats raise whatever they come upon
        cause = f"cannot be read: {' '.join(str(error).split()) or type(error).__name__}"
    raise UserError(f"{path} {cause}")


def _values(image: "Image.Image") -> np.ndarray:
    values = np.array(image)
    if values.ndim == 3 and (values == values[..., :1]).all():  # a grey one that was saved as a colour image
        values = values[..., 0]
    if values.ndim != 2 or values.min() < 0 or values.max() > 255:
        raise ValueError("a mask has one value from 0 to 255 for each pixel, its class")
    return values.astype(np.uint8)


def _rgb(image: "Image.Image") -> "Image.Image":
    """Return an opened image of any mode as one of 8 bits in red, green and blue, upright."""
    from PIL import Image, ImageOps

    args = image.tile[0].args if image.tile else ""  # gone once it is loaded
    layout = args if isinstance(args, str) else args[0]  # how pixels are stored, "I;16B"
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I") or image.mode == "F":
        image = _grey(image, layout)
    if image.has_transparency_data:
        _scale_transparency(image, layout)
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _grey(image: "Image.Image", layout: str) -> "Image.Image":
    """Return greys of more than 8 bits, which Pillow would cut off at 255 or to whole numbers, as bytes."""
    from PIL import Image

    values = np.asarray(image)
    if image.mode == "F":
        kind, largest = "floats", 1
    elif image.mode == "I" and image.format != "PPM":  # 32 bits, or 16 with a sign
        kind, largest = "integers", 255
    else:
        kind, largest = "", 4095 if layout == "I;12" else 65535
    if kind and not (values.min() >= 0 and values.max() <= largest):  # NaN is neither
        found = f"its {kind} are from {values.min():g} to {values.max():g}"
        raise ValueError(f"{found}, not from 0 to {largest}: save it as bytes")
    if image.format == "TIFF" and image.tag_v2.get(262) == 0:  # white is 0, which Pillow heeds for bytes only
        values = largest - values
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):  # one of the greys
        values = np.where(values == transparent, largest, values)
    return Image.fromarray((values * (255 / largest)).round().astype(np.uint8))


def _scale_transparency(image: "Image.Image", layout: str) -> None:
    """Bring a PNG's transparent value to 8 bits, as Pillow brings the pixels that it is compared with."""
    value = image.info.get("transparency")
    if isinstance(value, int) and layout in ("L;2", "L;4"):
        image.info["transparency"] = value * {"L;2": 85, "L;4": 17}[layout]
    elif isinstance(value, tuple) and layout == "RGB;16B":
        image.info["transparency"] = tuple(part >> 8 for part in value)
