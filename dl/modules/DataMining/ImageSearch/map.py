"""Draw the images of an index as a map, neighbours beside each other.

python -m dl.modules.DataMining.ImageSearch.map                                     # of runs/DataMining/ImageSearch
python -m dl.modules.DataMining.ImageSearch.map --place shoe.png --figure map.png   # with an image of one's own in it
python -m dl.modules.DataMining.ImageSearch.map --projector runs/projector          # then tensorboard --logdir runs/projector
"""

import argparse
import sys
from pathlib import Path
from typing import Sequence

import torch
from torch import Tensor

from dl.cli.command import command
from dl.modules.DataMining.ImageSearch.index import FOLDER, Index
from dl.modules.DataMining.ImageSearch.search import printable
from dl.modules.DataMining.TSNE.tsne import place, tsne
from dl.mytorch import plot
from dl.mytorch.command_line import Parser
from dl.mytorch.config import UserError, user_path
from dl.mytorch.data import centre_square, read_image


def chosen_rows(index: Index, points: int) -> Tensor:
    """Return at most `points` rows of the index, evenly spread."""
    return torch.linspace(0, len(index.names) - 1, min(points, len(index.names))).round().long().unique()


def thumbnails(index: Index, rows: Tensor, side: int = 32) -> Tensor:
    """Return the images of these rows as squares, (N, 3, side, side) in [0, 1]; see `Index.shown`."""
    return torch.stack([centre_square(image, side) for image in index.shown(rows.tolist())]).float() / 255


def export(folder: Path, features: Tensor, labels: Sequence[str], images: Tensor) -> None:
    """Features (N, D), labels and images (N, 3, H, W) as TensorBoard's projector reads them: vectors, metadata, sprite."""
    from torch.utils.tensorboard import SummaryWriter

    names = [" ".join(label.split()) or "-" for label in labels]
    with SummaryWriter(str(folder)) as writer:
        writer.add_embedding(features, metadata=names, label_img=images, tag="features")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(
        description="Draw the images of an index as a t-SNE map.", prog="python -m dl.modules.DataMining.ImageSearch.map"
    )
    parser.add_argument("--index", type=user_path, default=Path(FOLDER), help="folder of the index (default: %(default)s)")
    parser.add_argument("--points", type=int, default=2000, help="how many images at most (default: %(default)s)")
    parser.add_argument("--perplexity", type=float, default=30.0, help="how many neighbours count (default: %(default)s)")
    parser.add_argument("--iterations", type=int, default=1000, help="steps of the descent (default: %(default)s)")
    parser.add_argument("--place", type=user_path, nargs="+", default=[], metavar="IMAGE", help="images to place into the map")
    parser.add_argument("--figure", type=user_path, default=Path("map.png"), help="figure to write (default: %(default)s)")
    parser.add_argument("--projector", type=user_path, help="also write a folder for TensorBoard's projector")
    options = parser.parse_args(argv)
    if options.points < 1 or options.iterations < 1:
        parser.error("--points and --iterations have to be at least 1")
    return options


@command(parse)
def main(options: argparse.Namespace) -> None:
    index = Index(options.index)
    rows = chosen_rows(index, options.points)
    if not 1 < options.perplexity <= (len(rows) - 1) / 3:
        most = f"for {len(rows)} images at most {(len(rows) - 1) / 3:g}"
        raise UserError(f"--perplexity {options.perplexity:g}: above 1, and {most}")
    features = index.exact.rows(rows).float()
    new = index.extractor()([read_image(path) for path in options.place]) if options.place else None
    points = tsne(features, options.perplexity, options.iterations)
    labels = [printable(index.labels[row]) for row in rows.tolist()]
    images = thumbnails(index, rows)
    mark = None if new is None else place(points, features, new, min(5.0, options.perplexity))
    plot.save_figure(plot.scatter(points, labels, images, mark), options.figure)
    print(f"drawn: {options.figure}, {len(rows):,} images")
    if options.projector:
        export(options.projector, features, labels, images)
        print(f"written: {options.projector}; tensorboard --logdir {options.projector}")


if __name__ == "__main__":
    sys.exit(main())
