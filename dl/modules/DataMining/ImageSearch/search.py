"""The nearest images of an index to a given one, or to a text; or "I don't know this image".

python -m dl.modules.DataMining.ImageSearch.search shoe.png
python -m dl.modules.DataMining.ImageSearch.search shoe.png --top 5 --distance l1 --figure out.png
python -m dl.modules.DataMining.ImageSearch.search --text "red heart" --index runs/emoji     # made by a run of CLIP
"""

import argparse
import hashlib
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Sequence

import torch
from torch import Tensor

from dl.cli import bundled, catalogue
from dl.cli.command import command
from dl.modules.DataMining.ImageSearch import index as making
from dl.modules.DataMining.ImageSearch.features import Extractor
from dl.modules.DataMining.ImageSearch.index import FOLDER, Index
from dl.modules.DataMining.ImageSearch.store import read_manifest
from dl.modules.DataMining.neighbours import power
from dl.mytorch import plot
from dl.mytorch.command_line import Parser
from dl.mytorch.config import user_path
from dl.mytorch.data import centre_square, read_image
from dl.mytorch.fonts import drawable

if TYPE_CHECKING:
    from matplotlib.figure import Figure


RECIPE = "DataMining/ImageSearch"
DRAWN = 20  # neighbours in the figure at most


class Neighbour(NamedTuple):
    row: int  # of the index
    name: str
    label: str
    distance: float


class Answer(NamedTuple):
    """What an index says of an image."""

    known: bool | None  # None: the index is too small to tell
    decision: str  # one line, with the numbers that it follows from
    neighbours: list[Neighbour]  # nearest first


def query_text(index: Index, features: Tensor, text: str, top: int = 5, distance: str = "l2") -> Answer:
    """Return the `top` nearest to a text's features (1, D). Whether it is known nobody asks: no texts are indexed."""
    return Answer(
        None, f"The nearest to {printable(text)!r} of {len(index.names):,} images.", nearest(index, features, top, distance)
    )


def nearest(index: Index, features: Tensor, top: int, distance: str) -> list[Neighbour]:
    """Return the `top` nearest to features (1, D). Raises `ValueError` for an unknown distance."""
    distances, rows = index.nearest.search(features, top, distance)
    found = zip(rows[0].tolist(), distances[0].tolist())
    return [Neighbour(row, printable(index.names[row]), printable(index.labels[row]), value) for row, value in found]


def query(index: Index, features: Tensor, top: int = 5, distance: str = "l2") -> Answer:
    """Return the `top` nearest to an image's features (1, D), and whether it is known.

    Known means that it is as near to a class of the index as 95 % of held-out known images, see `decision.py`, whatever
    `distance` ranks the neighbours. Raises `ValueError` for an unknown distance.
    """
    neighbours = nearest(index, features, top, distance)
    calibrated = index.about["verdict"]
    if calibrated is None:
        return Answer(None, "Too few different images are indexed to say whether this one is known.", neighbours)
    own = index.ood_score(features).item() ** 0.5
    known = own <= calibrated["distance"]
    reason = (
        f"its Mahalanobis distance to the nearest class is {own:.1f}, and 95 % of {calibrated['pictures']:,} known images "
        f"({calibrated['how']}) are within {calibrated['distance']:.1f}"
    )
    if not known:
        return Answer(False, f"I don't know this image: {reason}.", neighbours)
    label, votes = Counter(neighbour.label for neighbour in neighbours).most_common(1)[0]
    return Answer(True, f"Known, {votes} of {len(neighbours)} nearest are {label or 'without a label'}: {reason}.", neighbours)


def printable(name: str) -> str:
    """Return a file's name as any terminal or font shows it: what is no character, and control characters, as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def figure(image: Tensor | None, answer: Answer, images: Sequence[Tensor]) -> "Figure":
    """Return a query (3, H, W), or none, and its neighbours' `images` side by side as squares, labels and distances below."""
    squares = torch.stack([centre_square(each, 128) for each in (images if image is None else [image, *images])])
    titles = ["query"] * (image is not None) + [f"{n.label or n.name}\n{n.distance:.4g}" for n in answer.neighbours]
    drawn = plot.image_grid(squares.float() / 255, titles, columns=len(titles))
    drawn.set_size_inches(drawn.get_size_inches() + (0, 0.6))
    for axes in drawn.axes:
        axes.set_position((0, 0, 1, drawn.get_figheight() and 1 - 0.6 / drawn.get_figheight()))
    words, font = drawable(answer.decision.split(": ", 1))
    colour = "tab:red" if answer.known is False else "black"
    drawn.text(0.01, 0.99, "\n".join(words), va="top", fontsize=7, color=colour, **font)
    return drawn


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(
        description="Find the nearest images of an index.", prog="python -m dl.modules.DataMining.ImageSearch.search"
    )
    parser.add_argument("image", type=user_path, nargs="?", metavar="IMAGE", help="JPEG, PNG, WebP ...")
    parser.add_argument("--text", help="in the place of an IMAGE; of an index by a network for images and texts")
    parser.add_argument("--index", type=user_path, default=Path(FOLDER), help="folder of the index (default: %(default)s)")
    parser.add_argument("--top", type=int, default=5, help=f"how many neighbours (default: %(default)s); {DRAWN} are drawn")
    parser.add_argument("--distance", default="l2", help="l1, l2, cosine, dot, or lP for any P > 0 (default: %(default)s)")
    parser.add_argument(
        "--figure", type=user_path, default=Path("neighbours.png"), help="figure to write (default: %(default)s)"
    )
    options = parser.parse_args(argv)
    try:
        power(options.distance)
    except ValueError as error:
        parser.error(str(error))
    if (options.image is None) == (not (options.text or "").strip()):
        parser.error("give an IMAGE or a --text, one of them")
    if options.top < 1:
        parser.error(f"--top has to be at least 1; got {options.top}")
    return options


def sample_index() -> Path:
    """Return the folder of an index of the bundled images by the bundled network, made when it is first asked for."""
    run, file = bundled.unpack(RECIPE), bundled.file_of(RECIPE)
    shown = file.relative_to(catalogue.ROOT)
    print(f"no index in {FOLDER}: searching the bundled fashion_mnist-sample by {shown}", file=sys.stderr)
    index = run / f"index-{hashlib.sha256(file.read_bytes()).hexdigest()[:8]}"  # a newer file needs another
    if not (index / "index.json").exists() or read_manifest(index)["verdict"] is None:  # not made, or not to its end
        making.make(making.parse(["fashion_mnist-sample", "--weights", str(run), "--index", str(index)]))
    return index


@command(parse)
def main(options: argparse.Namespace) -> None:
    image = None if options.image is None else read_image(options.image)
    if options.index == Path(FOLDER) and not options.index.exists() and bundled.file_of(RECIPE).exists():
        options.index = sample_index()
    index = Index(options.index)
    extractor: Extractor = index.extractor()
    if image is None:
        answer = query_text(index, extractor.texts([options.text]), options.text, options.top, options.distance)
    else:
        answer = query(index, extractor([image]), options.top, options.distance)
    print(answer.decision)
    for neighbour in answer.neighbours:
        print(f"  {neighbour.distance:10.4f}  {neighbour.label or '-'}  {neighbour.name}")
    answer = answer._replace(neighbours=answer.neighbours[:DRAWN])
    images = index.shown([neighbour.row for neighbour in answer.neighbours])
    plot.save_figure(figure(image, answer, images), options.figure)
    print(f"drawn: {options.figure}")


if __name__ == "__main__":
    sys.exit(main())
