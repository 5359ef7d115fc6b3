"""One image file: every mode, every kind of damage, no format but those that are listed."""

import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dl.mytorch.config import UserError
from dl.mytorch.data import centre_square, read_image
from dl.mytorch.data.images.imagefile import SUFFIXES, image_size

# Two rows of three pixels: red green blue, black grey white.
PIXELS = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[0, 0, 0], [128, 128, 128], [255, 255, 255]]], np.uint8)
COLOURS = torch.from_numpy(PIXELS).permute(2, 0, 1)
GREYS = torch.tensor([[76, 150, 29], [0, 128, 255]], dtype=torch.uint8).expand(3, 2, 3)  # ITU-R 601: 0.299, 0.587, 0.114


def saved(image: Image.Image, path: Path, **options: Any) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".ppm"])
def test_colours_are_read_as_they_were_saved(suffix: str, tmp_path: Path) -> None:
    image = read_image(saved(Image.fromarray(PIXELS), tmp_path / f"a{suffix}"))
    assert image.dtype == torch.uint8 and image.is_contiguous() and torch.equal(image, COLOURS)


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_lossy_images_come_out_nearly_as_they_went_in(suffix: str, tmp_path: Path) -> None:
    ramp = np.broadcast_to(np.arange(0, 256, 8, dtype=np.uint8)[None, :, None], (16, 32, 3))
    image = read_image(saved(Image.fromarray(ramp.copy()), tmp_path / f"a{suffix}", quality=95))
    assert image.shape == (3, 16, 32)
    assert (image.int() - torch.from_numpy(ramp.copy()).permute(2, 0, 1).int()).abs().max() <= 4


@pytest.mark.parametrize("mode", ["L", "LA", "I;16", "RGBX", "P"])
def test_other_modes_become_three_channels(mode: str, tmp_path: Path) -> None:
    image = Image.fromarray(PIXELS)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
        assert image.mode == "I;16"
    elif mode == "P":
        image = image.quantize(6)
    else:
        image = image.convert(mode)
    expected = COLOURS if mode in ("RGBX", "P") else GREYS
    assert torch.equal(read_image(saved(image, tmp_path / ("a.tif" if mode == "RGBX" else "a.png"))), expected)


def test_floats_are_from_0_to_1(tmp_path: Path) -> None:
    floats = np.array([[0, 0.5, 1]], np.float32)
    assert read_image(saved(Image.fromarray(floats), tmp_path / "a.tif")).tolist() == [[[0, 128, 255]]] * 3
    for wrong in (floats * 255, floats - 0.1, floats * np.nan):
        path = saved(Image.fromarray(wrong), tmp_path / "b.tif")
        with pytest.raises(UserError, match=r"b.tif cannot be read: its floats are from .*, not from 0 to 1: save it as bytes"):
            read_image(path)


def test_integers_of_32_bits_are_from_0_to_255(tmp_path: Path) -> None:
    shades = np.arange(256, dtype=np.int32)[None]
    assert read_image(saved(Image.fromarray(shades), tmp_path / "a.tif"))[0, 0].tolist() == list(range(256))
    for wrong in (shades * 257, shades - 1):
        path = saved(Image.fromarray(wrong), tmp_path / "b.tif")
        with pytest.raises(UserError, match="b.tif cannot be read: its integers are from .*, not from 0 to 255: save"):
            read_image(path)


def test_a_grey_map_of_any_range_is_brought_to_bytes(tmp_path: Path) -> None:
    for most in (100, 1023, 65535):
        kind = ">u2" if most > 255 else "u1"
        (tmp_path / "a.pgm").write_bytes(b"P5 3 1 %d\n" % most + np.array([0, most // 2 + 1, most], kind).tobytes())
        assert read_image(tmp_path / "a.pgm")[0, 0].tolist() == [0, 128 if most > 100 else 130, 255]


@pytest.mark.parametrize("kind", ["<u2", "<f4"])
def test_a_tiff_in_which_white_is_zero_is_no_negative(kind: str, tmp_path: Path) -> None:
    values = np.array([[0, 1]], kind) * (65535 if kind == "<u2" else 1)
    path = saved(Image.fromarray(values), tmp_path / "a.tif")
    content = path.read_bytes()
    black_is_zero, white_is_zero = (struct.pack("<HHIHH", 262, 3, 1, photometric, 0) for photometric in (1, 0))
    assert content.count(black_is_zero) == 1
    path.write_bytes(content.replace(black_is_zero, white_is_zero))
    assert read_image(path)[0, 0].tolist() == [255, 0]


def png(bits: int, colour: int, row: bytes, width: int, transparent: bytes) -> bytes:
    """A PNG of one row with a transparent value (chunk tRNS), which Pillow writes for 8 bits only."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    parts = (b"IHDR", struct.pack(">IIBBBBB", width, 1, bits, colour, 0, 0, 0)), (b"tRNS", transparent)
    parts += (b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (png(1, 0, b"\x40", 2, b"\0\0"), [[255, 255]] * 3),
        (png(2, 0, b"\x18", 3, b"\0\1"), [[0, 255, 170]] * 3),
        (png(4, 0, b"\x07", 2, b"\0\7"), [[0, 255]] * 3),
        (png(8, 0, b"\0\x80\xff", 3, b"\0\x80"), [[0, 255, 255]] * 3),
        (png(16, 0, struct.pack(">3H", 0, 1000, 2000), 3, struct.pack(">H", 1000)), [[0, 255, 8]] * 3),
        (png(16, 2, b"\x12\x34" + bytes(4) + b"\xff" * 2 + bytes(4), 2, b"\x12\x34" + bytes(4)), [[255, 255], *[[255, 0]] * 2]),
    ],
    ids=["1 bit", "2 bits", "4 bits", "8 bits", "16 bits", "16 bits in colour"],
)
def test_the_transparent_value_of_a_png_is_white_at_every_depth(content: bytes, expected: list, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(content)
    assert read_image(tmp_path / "a.png")[:, 0].tolist() == expected


def test_one_bit_becomes_black_and_white(tmp_path: Path) -> None:
    image = read_image(saved(Image.fromarray(np.array([[True, False]])), tmp_path / "a.png"))
    assert image.tolist() == [[[255, 0]]] * 3


def test_cmyk_becomes_red_green_and_blue(tmp_path: Path) -> None:
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # no cyan: red
    read = read_image(saved(image, tmp_path / "a.jpg", quality=100))
    assert (read.float().mean((1, 2)) - torch.tensor([255.0, 0.0, 0.0])).abs().max() < 6


def test_what_is_transparent_becomes_white(tmp_path: Path) -> None:
    pixels = np.array([[[255, 0, 0, 255], [255, 0, 0, 0], [0, 0, 0, 51]]], np.uint8)
    image = read_image(saved(Image.fromarray(pixels), tmp_path / "a.png"))
    assert image[:, 0].T.tolist() == [[255, 0, 0], [255, 255, 255], [204, 204, 204]]
    palette = Image.fromarray(PIXELS).quantize(6)
    image = read_image(saved(palette, tmp_path / "b.png", transparency=palette.getpixel((0, 0))))
    assert image[:, 0, 0].tolist() == [255] * 3 and torch.equal(image[:, :, 1:], COLOURS[:, :, 1:])


# EXIF's orientation: how the stored rows and columns have to be turned to stand upright.
UPRIGHT = {
    1: lambda x: x,
    2: lambda x: x.flip(2),
    3: lambda x: x.flip(1, 2),
    4: lambda x: x.flip(1),
    5: lambda x: x.transpose(1, 2),
    6: lambda x: x.rot90(-1, (1, 2)),
    7: lambda x: x.flip(1, 2).transpose(1, 2),
    8: lambda x: x.rot90(1, (1, 2)),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_images_stand_upright(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(Image.fromarray(PIXELS), tmp_path / "a.png", exif=exif)
    assert torch.equal(read_image(path), UPRIGHT[orientation](COLOURS))


def test_one_pixel_is_an_image(tmp_path: Path) -> None:
    path = saved(Image.new("RGB", (1, 1), (1, 2, 3)), tmp_path / "a.png")
    assert read_image(path).flatten().tolist() == [1, 2, 3]
    assert centre_square(read_image(path), 5).flatten(1).T.unique(dim=0).tolist() == [[1, 2, 3]]


def damaged(kind: str, path: Path) -> str:
    """Make `path` what cannot be read; a part of what is said of it."""
    content = saved(Image.fromarray(PIXELS.repeat(40, 0).repeat(40, 1)), path).read_bytes()
    if kind == "missing":
        path.unlink()
        return "does not exist"
    if kind == "folder":
        path.unlink()
        path.mkdir()
        return "is a folder"
    contents = {
        "empty": (b"", "is empty"),
        "cut off": (content[: len(content) * 2 // 3], "cannot be read"),
        "two bytes": (content[:2], "not an image"),
        "a web page": (b"<!DOCTYPE html><html>Not Found</html>", "not an image"),
    }
    path.write_bytes(contents[kind][0])
    return contents[kind][1]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".tif"])
@pytest.mark.parametrize("kind", ["missing", "folder", "empty", "cut off", "two bytes", "a web page"])
def test_what_is_no_image_is_refused_in_one_line(kind: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    cause = damaged(kind, path)
    with pytest.raises(UserError) as refused:
        read_image(path)
    message = str(refused.value)
    assert message.startswith(str(path)) and "\n" not in message
    assert cause in message or kind == "cut off"  # a short BMP, say, is no image at all


def test_a_format_that_is_not_listed_is_not_opened(tmp_path: Path) -> None:
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n{} loop\n"  # Pillow would run Ghostscript
    icon = saved(Image.new("RGB", (16, 16)), tmp_path / "a.ico").read_bytes()
    for content in (eps, icon):
        (tmp_path / "a.jpg").write_bytes(content)
        with pytest.raises(UserError, match="a.jpg is not an image of a known format"):
            read_image(tmp_path / "a.jpg")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    for name in ("pipe.png", "loop.png"):
        with pytest.raises(UserError, match=f"{name} (is a device or pipe|cannot be read)"):
            read_image(tmp_path / name)


def test_the_size_is_read_from_the_beginning(tmp_path: Path) -> None:
    path = saved(Image.new("RGB", (300, 200)), tmp_path / "a.bmp")
    path.write_bytes(path.read_bytes()[:60])
    assert image_size(path) == (300, 200)


def test_an_image_of_too_many_pixels_is_refused_with_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(Image.new("1", (100, 100)), tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5000)  # up to twice of that is a warning only
    assert read_image(path).shape == (3, 100, 100)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4999)
    with pytest.raises(UserError, match=r"a.png cannot be read: .*10000 pixels"):
        read_image(path)


@pytest.mark.parametrize(("height", "width"), [(4, 4), (4, 7), (9, 4), (1, 200)])
def test_the_square_is_the_middle(height: int, width: int) -> None:
    image = torch.arange(3 * height * width).remainder(256).to(torch.uint8).view(3, height, width)
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    assert torch.equal(centre_square(image, side), image[:, top : top + side, left : left + side])


def test_a_square_of_one_pixel_is_the_mean(tmp_path: Path) -> None:
    assert centre_square(torch.tensor([[[0, 100], [101, 201]]] * 3, dtype=torch.uint8), 1).tolist() == [[[100]]] * 3


def test_a_smaller_square_is_a_mean_of_pixels_not_a_choice() -> None:
    stripes = torch.tensor([0, 255], dtype=torch.uint8).repeat(33).expand(3, 66, 66)  # 1 pixel wide; each third one is 0 or 255
    assert (centre_square(stripes, 22).float() - 127.5).abs().max() < 20
    assert centre_square(stripes, 22).shape == (3, 22, 22)


def test_suffixes_are_in_lower_case() -> None:
    assert {".jpg", ".jpeg", ".png"} <= SUFFIXES and all(suffix == suffix.lower() for suffix in SUFFIXES)
