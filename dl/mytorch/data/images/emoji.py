"""Emoji with their names and tags in English and Chinese: images of Twitter (CC BY 4.0), texts of Unicode by emojibase (MIT).

Two npm packages, read as they are published, without npm. Of 1,911 emoji 33 have the image of another one under another
name, as the flags of Norway and Svalbard; 1,875 more images are those of people in one of five skin tones. A split has to
keep both together, else the test shows what was trained on: `parts` draws it by the image.
"""

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any, NamedTuple, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from dl.mytorch.config import UserError
from dl.mytorch.data import sources
from dl.mytorch.data.images.imagefile import read_image
from dl.mytorch.data.sources import Remote, Source

LANGUAGES = ("en", "zh")
SIDE = 64  # pixels, as published
IMAGES, TEXTS = "emoji-datasource-twitter-16.0.0.tgz", "emojibase-data-17.0.0.tgz"
_BLOBS = {IMAGES: "a98d2bd37f0d23ee93637f93e469f647525d3276", TEXTS: "caafa44407694c08366fb76cba7a967d2635cf9f"}
SOURCE = Source(
    ("emoji",),
    {name: Remote(f"https://registry.npmjs.org/{name.rsplit('-', 1)[0]}/-/{name}", blob) for name, blob in _BLOBS.items()},
    "in data/emoji, run `npm pack emoji-datasource-twitter@16.0.0 emojibase-data@17.0.0` (68 MB)",
)


class Emoji(NamedTuple):
    """Pictures (N, 3, size, size) of bytes on white and, for each, what it is called."""

    images: Tensor
    labels: dict[str, list[str]]  # language -> a name for each, different from all others of this language
    tags: dict[str, list[list[str]]]  # language -> words for each; () for a skin tone
    categories: list[str]  # ten: "Flags", "Food & Drink" ...
    bases: list[int]  # of a skin tone the row of the emoji without, else its own row
    digests: list[str]  # SHA-256 of the image on white, before it is made smaller: equal for equal images

    def rows(self, chosen: Sequence[int]) -> "Emoji":
        """Return these rows, in this order. Raises `KeyError` for a skin tone without its base."""
        places = {row: i for i, row in enumerate(chosen)}
        return Emoji(
            self.images[list(chosen)],
            *({name: [texts[i] for i in chosen] for name, texts in each.items()} for each in (self.labels, self.tags)),
            [self.categories[i] for i in chosen],
            [places[self.bases[i]] for i in chosen],
            [self.digests[i] for i in chosen],
        )


def emoji(size: int = 32, tones: bool = False) -> Emoji:
    """Return the 1,911 emoji at `size` x `size` pixels; with `tones` also the 1,875 in a skin tone.

    Raises `UserError` when a file is missing and cannot be downloaded, or is not the published one.
    """
    folder = sources.get("emoji", SOURCE)
    for name, blob in _BLOBS.items():
        content = sources.read_bytes(folder / name, sources.LARGEST)
        if hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest() != blob:
            raise UserError(f"{folder / name} is not the published file (its checksum differs): delete it, and get it again")
    return read_packages(folder / IMAGES, folder / TEXTS, size, tones)


def read_packages(images: Path, texts: Path, size: int, tones: bool = False) -> Emoji:
    """Return what two packages of this form hold; see `emoji`."""
    known = _members(texts, *(f"package/{language}/data.json" for language in LANGUAGES))
    names = {language: _by_code(json.loads(known[f"package/{language}/data.json"])) for language in LANGUAGES}
    files = _members(images, "package/emoji.json", f"package/img/twitter/{SIDE}/")
    table = sorted(json.loads(files["package/emoji.json"]), key=lambda row: row["sort_order"])
    found: list[tuple[str, str, str, int]] = []  # code, name of the file, category, row of the base
    for row in table:
        base = len(found)
        for each in (row, *row.get("skin_variations", {}).values()) if tones else (row,):
            found.append((_code(each["unified"]), each["image"], row["category"], base))
    large = torch.stack([_image(name, files[f"package/img/twitter/{SIDE}/{name}"]) for _, name, *_ in found])
    return Emoji(
        _smaller(large, size),
        {language: [known[code]["label"] for code, *_ in found] for language, known in names.items()},
        {language: [known[code].get("tags", []) for code, *_ in found] for language, known in names.items()},
        [category for *_, category, _ in found],
        [base for *_, base in found],
        [hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in large],
    )


def parts(emoji: Emoji, seed: int = 0) -> dict[str, list[int]]:
    """Return the rows of "train", "val" and "test": a fifth of the images is the test, a tenth of the rest validates.

    Equal images are in one part, and so is an image with its skin tones. The test is the same for every `seed`, which
    draws the validation part.
    """
    found: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    for row, digest in enumerate(_first_digests(emoji)):
        drawn = int(hashlib.sha256(f"{seed} {digest}".encode()).hexdigest()[:8], 16)
        found["test" if int(digest[:8], 16) % 5 == 0 else "val" if drawn % 10 == 0 else "train"].append(row)
    return found


def _first_digests(emoji: Emoji) -> list[str]:
    """Return for each row the smallest digest among the images that have to be in one part with it."""
    first = list(emoji.digests)
    while True:
        smallest: dict[str | int, str] = {}
        for keys in zip(emoji.digests, emoji.bases, first):
            for key in keys[:2]:
                smallest[key] = min(keys[2], smallest.get(key, keys[2]))
        merged = [min(smallest[digest], smallest[base]) for digest, base in zip(emoji.digests, emoji.bases)]
        if merged == first:
            return first
        first = merged


def sample(size: int = 16) -> Emoji:
    """Return 24 drawn images of `size` pixels, four shapes in six colours, named in both languages: for tests and tries."""
    colours = {"red": "红", "green": "绿", "blue": "蓝", "black": "黑", "grey": "灰", "purple": "紫"}
    values = torch.tensor([[220, 0, 0], [0, 160, 0], [0, 0, 220], [0, 0, 0], [140, 140, 140], [150, 0, 150]])
    line = (torch.arange(size) - (size - 1) / 2) * 16 / size
    y, x = torch.meshgrid(line, line, indexing="ij")
    shapes = {
        "circle": ("圆", x**2 + y**2 < 36),
        "square": ("方", (x.abs() < 5) & (y.abs() < 5)),
        "cross": ("十字", (x.abs() < 2) | (y.abs() < 2)),
        "ring": ("环", (x**2 + y**2 - 36).abs() < 20),
    }
    images, en, zh = [], [], []
    for shape, (other, mask) in shapes.items():
        for (colour, short), value in zip(colours.items(), values):
            images.append(torch.where(mask, value[:, None, None], 255).byte())
            en.append(f"{colour} {shape}")
            zh.append(f"{short}{other}")
    digests = [hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in images]
    tags = {"en": [name.split() for name in en], "zh": [[name[0], name[1:]] for name in zh]}
    rows = list(range(len(en)))
    return Emoji(torch.stack(images), {"en": en, "zh": zh}, tags, [name.split()[1] for name in en], rows, digests)


def _image(name: str, content: bytes) -> Tensor:
    """Return an image (3, SIDE, SIDE), on white. Raises `UserError` for one of another size."""
    image = read_image(name, io.BytesIO(content))
    if image.shape != (3, SIDE, SIDE):
        raise UserError(f"{name} is no image of {SIDE} x {SIDE} pixels")
    return image


def _smaller(images: Tensor, size: int) -> Tensor:
    """Return images (N, C, H, W) of bytes at `size` x `size` pixels."""
    if images.shape[-1] == size:
        return images
    return F.interpolate(images.float(), size=(size, size), mode="bilinear", antialias=True).round().clamp(0, 255).byte()


def _code(text: str) -> str:
    """Return the code points of an emoji without FE0F, "as an image", which one of the packages leaves out at times."""
    return "-".join(part for part in text.upper().split("-") if part != "FE0F")


def _by_code(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return rows, and those of their skin tones, by their codes."""
    return {_code(each["hexcode"]): each for row in rows for each in (row, *row.get("skins", ()))}


def _members(path: Path, *prefixes: str) -> dict[str, bytes]:
    """Return the files of a package whose names begin with one of `prefixes`. Raises `UserError` if one of these has none."""
    try:
        with tarfile.open(path) as package:
            # Lazily, so that each is read when it passes by: to go back is to unpack from the beginning.
            chosen = (member for member in package if member.isfile() and member.name.startswith(prefixes))
            found = {member.name: package.extractfile(member).read() for member in chosen}
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UserError(f"{path} is no npm package: {error}") from None
    if missing := [prefix for prefix in prefixes if not any(name.startswith(prefix) for name in found)]:
        raise UserError(f"{path} holds no {missing[0]}")
    return found
