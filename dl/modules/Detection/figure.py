"""Figures of detection: boxes with the names of their classes and scores over an image, found ones beside true ones."""

import functools
from typing import TYPE_CHECKING, Any, NamedTuple, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dl.modules.Detection.metrics import Truth, mistakes
from dl.mytorch import plot
from dl.mytorch.fonts import drawable
from dl.mytorch.layers.boxes import Detections

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont, ImageFont

# Of the classes, in turn: bright, and unlike each other for the colour-blind, too (Okabe and Ito).
COLOURS = [(0, 158, 115), (230, 159, 0), (86, 180, 233), (204, 121, 167), (240, 228, 66), (213, 94, 0), (0, 114, 178)]
SHORTEST, LONGEST = 400, 1000  # pixels of the longer side of a drawn image
GAP, SIZE = 8, 13  # pixels between images; of letters
DASH = 6
Spot = tuple[float, float, float, float]


def drawn(
    image: Tensor,
    boxes: Tensor,
    labels: Tensor,
    names: Sequence[str],
    scores: Tensor | None = None,
    masks: Tensor | None = None,
    dashed: Tensor | None = None,
) -> Tensor:
    """Return an image (C, H, W) of any range with boxes (n, 4), their classes, scores and masks (n, H, W): (3, h, w) in [0, 1].

    It is scaled until its longer side has 400 to 1000 pixels. The surest are on top. `dashed` (n,) are those to point out.
    """
    from PIL import Image, ImageDraw

    height, width = image.shape[-2:]
    factor = min(max(1, SHORTEST / max(height, width)), LONGEST / max(height, width))
    shown = plot.to_unit(image).expand(3, -1, -1).permute(1, 2, 0).mul(255).byte().numpy()
    canvas = Image.fromarray(shown).resize((round(width * factor), round(height * factor)), Image.Resampling.BICUBIC)
    order = range(len(labels)) if scores is None else scores.argsort().tolist()  # the surest last, on top
    if masks is not None:
        canvas = Image.fromarray(_masked(np.array(canvas), masks[list(order)], labels[list(order)]))
    pen = ImageDraw.Draw(canvas)
    spots = [tuple((factor * box).tolist()) for box in boxes.float().cpu()]
    for i in order:
        _frame(pen, spots[i], colour(int(labels[i])), dashed is not None and bool(dashed[i]))
    words, font = lettering([names[int(label)] for label in labels])
    taken: list[Spot] = []
    for i in reversed(order):
        text = words[i] if scores is None else f"{words[i]} {scores[i]:.2f}"
        _tag(pen, text, spots[i], colour(int(labels[i])), font, canvas.size, taken)
    return torch.from_numpy(np.array(canvas)).permute(2, 0, 1).float() / 255


def colour(label: int) -> tuple[int, int, int]:
    """Return the colour of a class."""
    return COLOURS[label % len(COLOURS)]


def lettering(texts: Sequence[str], size: int = SIZE) -> tuple[list[str], "FreeTypeFont | ImageFont"]:
    """Return texts as they can be drawn, and a font that has their characters."""
    words, options = drawable(texts)
    families = options.get("fontfamily", ())
    return words, _font(families[-1] if families else "", size)


@functools.cache
def _font(family: str, size: int) -> "FreeTypeFont | ImageFont":
    from matplotlib.font_manager import FontProperties, findfont
    from PIL import ImageFont

    return ImageFont.truetype(findfont(FontProperties(family=family) if family else FontProperties()), size)


def _masked(canvas: np.ndarray, masks: Tensor, labels: Tensor) -> np.ndarray:
    """Return a canvas (h, w, 3) with masks (n, H, W) in colour over it, their edges in full colour."""
    picture = torch.from_numpy(canvas).float()
    for mask, label in zip(masks.cpu(), labels):
        inside = F.interpolate(mask[None, None].float(), canvas.shape[:2], mode="bilinear")[0, 0] > 0.5
        edge = inside & (F.max_pool2d((~inside)[None].float(), 3, stride=1, padding=1)[0] > 0)
        strength = (0.4 * inside + 0.5 * edge)[..., None]
        picture = picture.lerp(torch.tensor(colour(int(label))).float().expand_as(picture), strength)
    return picture.round().byte().numpy()


def _frame(pen: Any, spot: Spot, ink: tuple[int, int, int], dashed: bool) -> None:
    """Draw a box on a dark ground, which separates it from whatever is in the image."""
    x0, y0, x1, y1 = spot
    pen.rectangle((x0 - 1, y0 - 1, max(x0, x1) + 1, max(y0, y1) + 1), outline=(20, 20, 20), width=4)
    if not dashed:
        pen.rectangle((x0, y0, max(x0, x1), max(y0, y1)), outline=ink, width=2)
        return
    for x in np.arange(x0, x1, 2 * DASH):
        for y in (y0, y1 - 1):
            pen.rectangle((x, y, min(x + DASH, x1), y + 1), fill=ink)
    for y in np.arange(y0, y1, 2 * DASH):
        for x in (x0, x1 - 1):
            pen.rectangle((x, y, x + 1, min(y + DASH, y1)), fill=ink)


def _tag(
    pen: Any, text: str, spot: Spot, ink: tuple[int, int, int], font: Any, size: tuple[int, int], taken: list[Spot]
) -> None:
    """Write a name on its colour: where it hides no other name, and lies in the image, of the corners of its box."""
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    wide, high = right - left + 6, bottom - top + 5
    x0, y0, x1, y1 = spot
    corners = [(x0 - 1, y0 - high), (x0 - 1, y0), (x1 - wide, y0 - high), (x0 - 1, y1), (x1 - wide, y1 - high), (x1 - wide, y0)]
    places = [(min(max(0, x), size[0] - wide), min(max(0, y), size[1] - high)) for x, y in corners]
    boxes = [(x, y, x + wide, y + high) for x, y in places]
    hidden = [sum(_common(box, other) for other in taken) for box in boxes]
    best = boxes[hidden.index(min(hidden))]
    taken.append(best)
    pen.rectangle(best, fill=ink)
    bright = 0.299 * ink[0] + 0.587 * ink[1] + 0.114 * ink[2] > 110
    pen.text((best[0] + 3 - left, best[1] + 2 - top), text, font=font, fill=(0, 0, 0) if bright else (255, 255, 255))


def _common(a: Spot, b: Spot) -> float:
    """Return the area that two boxes have in common."""
    return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))


def titled(image: Tensor, title: str) -> Tensor:
    """Return an image (3, h, w) in [0, 1] with a line above it: (3, h + 22, w)."""
    from PIL import Image, ImageDraw

    strip = Image.new("RGB", (image.shape[-1], 22), "white")
    (text,), font = lettering([title])
    ImageDraw.Draw(strip).text((2, 3), text, font=font, fill=(0, 0, 0))
    return torch.cat([torch.from_numpy(np.array(strip)).permute(2, 0, 1).float() / 255, image], dim=1)


def rows(images: Sequence[Sequence[Tensor]]) -> Tensor:
    """Return rows of images (3, h, w) of any sizes in one (3, height, width), white between them."""
    columns, width = max(len(row) for row in images), max(image.shape[2] for row in images for image in row)
    lines = []
    for row in images:
        height = max(image.shape[1] for image in row)
        same = [F.pad(image, (0, width - image.shape[2], 0, height - image.shape[1]), value=1.0) for image in row]
        same += [torch.ones(3, height, width)] * (columns - len(row))
        lines.append(F.pad(plot.grid(torch.stack(same), columns, gap=GAP, stretch=False), (0, 0, 0, GAP), value=1.0))
    return torch.cat(lines, dim=1)[:, :-GAP]


class Example(NamedTuple):
    """An image (C, H, W) of an evaluation, without padding; `found` are its detections that count, the surest first."""

    image: Tensor
    found: Detections
    truth: Truth

    @classmethod
    def of(cls, image: Tensor, size: Tensor, found: Detections, truth: Truth, score: float) -> "Example":
        """Return an example, on the CPU, of a padded image and all that is found in it."""
        height, width = size.tolist()
        shown = found.scores >= score
        if truth.masks is not None:
            truth = truth._replace(masks=truth.masks[:, :height, :width])
        if found.masks is not None:
            found = found._replace(masks=found.masks[:, :height, :width])
        return cls(
            image[:, :height, :width].cpu(),
            Detections(*(None if each is None else each[shown].cpu() for each in found)),
            Truth(*(None if each is None else each.cpu() for each in truth)),
        )

    @property
    def num_mistakes(self) -> int:
        return sum(int(each.sum()) for each in mistakes(self.found, self.truth))


def comparison(examples: Sequence[Example], names: Sequence[str]) -> Tensor:
    """Return one image (3, height, width), a row for each example: what is there, what is found, mistakes with dashed lines."""
    shown = []
    for image, found, truth in examples:
        wrong, missed = mistakes(found, truth)
        there = drawn(image, truth.boxes, truth.labels, names, masks=truth.masks, dashed=missed)
        seen = drawn(image, found.boxes, found.labels, names, found.scores, found.masks, wrong)
        shown.append([titled(there, _counts(missed, "there", "missed")), titled(seen, _counts(wrong, "found", "wrong"))])
    return rows(shown)


def _counts(bad: Tensor, all_of_them: str, of_these: str) -> str:
    return f"{len(bad)} {all_of_them}" + (f", {int(bad.sum())} {of_these} (dashed)" if bad.any() else "")


def predictions(images: Sequence[Tensor], found: Sequence[Detections], names: Sequence[str]) -> Tensor:
    """Return one image (3, height, width) with what is found in each of `images` (C, H, W) drawn over it, two in a row."""
    shown = [drawn(image, each.boxes, each.labels, names, each.scores, each.masks) for image, each in zip(images, found)]
    return rows([shown[i : i + 2] for i in range(0, len(shown), 2)])
