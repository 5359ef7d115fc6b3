"""Emoji as pairs: in training an image with a random choice of what it is called, in evaluation with its two names."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from dl.modules.Multimodal.CLIP.tokens import SEPARATOR, Tokenizer, padded
from dl.mytorch.config import TrainConfig, flag
from dl.mytorch.data import Batch, Loader, Splits
from dl.mytorch.data.augment import Transform, compose, signed
from dl.mytorch.data.images.emoji import LANGUAGES, Emoji, emoji, parts, sample

SETS = ("emoji", "emoji-sample")


@dataclass(frozen=True)
class PairConfig(TrainConfig):
    """What a recipe on images with names can be told. Raises `UserError` for an invalid value."""

    data: str = flag("emoji", "emoji: 1,911 with names in English and Chinese; emoji-sample: 24 drawn ones", choices=SETS)
    tones: bool = flag(False, "train on the skin tones of the training emoji, too")
    rotate: float = flag(15.0, "training images are turned by at most this, degrees")
    zoom: float = flag(0.2, "and made larger or smaller by a factor from 1 / (1 + this) to 1 + this")
    shift: float = flag(0.1, "and moved by at most this share of their size, both ways")
    jitter: float = flag(0.2, "and their brightness and contrast changed by at most this share")
    label_share: float = flag(0.5, "share of training texts that are the name; others are tags, half of them with the name")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("rotate", 0 <= self.rotate <= 180, "from 0 to 180")
        self._check("zoom", 0 <= self.zoom <= 4, "from 0 to 4")
        for name in ("shift", "jitter", "label_share"):
            self._check(name, 0 <= getattr(self, name) <= 1, "from 0 to 1")


class Pairs(Dataset):
    """Emoji, each time with another random text: a language, then the name, some of the tags, or both."""

    def __init__(self, emoji: Emoji, tokenize: Tokenizer, label_share: float) -> None:
        self.emoji, self.tokenize, self.label_share = emoji, tokenize, label_share

    def __len__(self) -> int:
        return len(self.emoji.images)

    def __getitem__(self, i: int) -> tuple[Tensor, list[int]]:
        language, draw, both = torch.rand(3).tolist()
        name = LANGUAGES[int(language * len(LANGUAGES))]
        label, tags = self.emoji.labels[name][i], self.emoji.tags[name][i]
        text = label
        if tags and draw >= self.label_share:
            some = torch.randperm(len(tags))[: int(torch.randint(1, len(tags) + 1, ()))].tolist()
            text = SEPARATOR.join([label] * (both < 0.5) + [tags[j] for j in some])
        return self.emoji.images[i], self.tokenize(text)


def collate(examples: list[tuple[Tensor, list[int]]]) -> Batch:
    """Return "images" (B, 3, H, W) of bytes and "tokens" (B, T)."""
    images, texts = zip(*examples)
    return {"images": torch.stack(images), "tokens": padded(texts)}


def named(emoji: Emoji, tokenize: Tokenizer) -> Batch:
    """Return "images", "tokens_en" and "tokens_zh", their names, and "groups" (N,): the same number for equal images."""
    numbers = {digest: i for i, digest in enumerate(dict.fromkeys(emoji.digests))}
    texts = {f"tokens_{name}": padded([tokenize(label) for label in emoji.labels[name]]) for name in LANGUAGES}
    return {"images": emoji.images, **texts, "groups": torch.tensor([numbers[digest] for digest in emoji.digests])}


def split(config: PairConfig, size: int) -> dict[str, Emoji]:
    """Return the emoji of "train", "val" and "test", `size` pixels wide, which have no image in common, see `emoji.parts`.

    Skin tones are in training only, if at all: a held-out name is that of an emoji.
    """
    if config.data == "emoji":
        every = emoji(size, config.tones)
        drawn = parts(every, config.seed)
    else:  # of each shape one colour is the test and one validates, both of which are seen of other shapes
        every = sample(size)
        kinds = [("test", "val", "train", "train", "train", "train")[(i + i // 6) % 6] for i in range(len(every.bases))]
        drawn = {part: [i for i, kind in enumerate(kinds) if kind == part] for part in ("train", "val", "test")}
    return {
        part: every.rows([row for row in rows if part == "train" or every.bases[row] == row]) for part, rows in drawn.items()
    }


def pair_splits(config: PairConfig, tokenize: Tokenizer, emoji: dict[str, Emoji]) -> Splits:
    """Return the loaders. Validation and test are one batch each, so that the loss is that of all pairs with each other."""
    train = Pairs(emoji["train"], tokenize, config.label_share)
    change = compose(moved(config.rotate, config.zoom, config.shift), jittered(config.jitter), signed)
    loaders = [Loader(named(emoji[part], tokenize), len(emoji[part].bases), transform=signed) for part in ("val", "test")]
    return Splits(Loader(train, config.batch_size, shuffle=True, seed=config.seed, collate=collate, transform=change), *loaders)


def moved(rotate: float, zoom: float, shift: float) -> Transform:
    """Turn, scale and move each image by values of its own; what comes in from outside is white. Nothing is mirrored.

    40 names have a right or left in them.
    """

    def apply(batch: Batch, generator: torch.Generator) -> Batch:
        images = batch["images"].float()
        drawn = torch.rand(4, len(images), generator=generator) * 2 - 1
        angle, factor = torch.deg2rad(rotate * drawn[0]), torch.exp(-torch.log1p(torch.tensor(zoom)) * drawn[1])
        cosine, sine = angle.cos() * factor, angle.sin() * factor
        right, down = 2 * shift * drawn[2:]  # from -1 to 1 is the whole image
        maps = torch.stack([cosine, -sine, right, sine, cosine, down], dim=1).view(-1, 2, 3).to(images.device)
        grid = F.affine_grid(maps, list(images.shape), align_corners=False)
        return batch | {"images": 255 - F.grid_sample(255 - images, grid, align_corners=False)}

    return apply


def jittered(strength: float) -> Transform:
    """Multiply each image's contrast by a factor drawn from 1 +- `strength`, and move its brightness by as much of 255 / 2."""

    def apply(batch: Batch, generator: torch.Generator) -> Batch:
        images = batch["images"].float()
        contrast, light = (strength * (torch.rand(2, len(images), 1, 1, 1, generator=generator) * 2 - 1)).to(images.device)
        return batch | {"images": ((images - 127.5) * (1 + contrast) + 127.5 * (1 + light)).clamp(0, 255)}

    return apply
