"""Draw the classes of the pixels of images over them, by a trained run.

python -m dl.modules.Segmentation.predict slice.png --run runs/Segmentation/UNet
python -m dl predict runs/Segmentation/UNet slice.png other.png --figure predictions.png
"""

import argparse
import sys
from pathlib import Path
from typing import Sequence

import torch
from torch import Tensor

from dl.cli.command import command
from dl.cli.runs import Run
from dl.modules.Segmentation.figure import predictions
from dl.mytorch import plot
from dl.mytorch.command_line import Parser
from dl.mytorch.config import user_path
from dl.mytorch.data import read_image
from dl.mytorch.data.images.masks import MaskSet, mask_set


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    about = (__doc__ or "").partition("\n")[0]
    parser = Parser(description=about, prog="python -m dl.modules.Segmentation.predict")
    parser.add_argument("images", nargs="+", type=user_path, metavar="IMAGE", help="JPEG, PNG, WebP ...")
    parser.add_argument("--run", type=user_path, required=True, help="folder of a run")
    parser.add_argument(
        "--figure", type=user_path, default=Path("predictions.png"), help="figure to write (default: %(default)s)"
    )
    return parser.parse_args(argv)


def prepare(image: Tensor, about: MaskSet) -> Tensor:
    """Return an image (3, H, W) of bytes as the network reads it: (1, channels, H, W)."""
    images = image[None]
    if about.channels == 1:
        red, green, blue = images.float().unbind(1)
        images = (0.299 * red + 0.587 * green + 0.114 * blue)[:, None]  # as Pillow makes grey, ITU-R 601
    return about.standard({"images": images}, torch.Generator())["images"]


@command(parse)
def main(options: argparse.Namespace) -> None:
    images = [read_image(path) for path in options.images]
    run = Run.open(options.run)
    model, about = run.model().eval(), mask_set(run.config)
    found = []
    with torch.no_grad():
        for path, image in zip(options.images, images):
            found.append(model.predict(prepare(image, about)).argmax(1)[0])
            shares = found[-1].flatten().bincount(minlength=len(about.classes)) / found[-1].numel()
            print(f"{path}: " + ", ".join(f"{name} {share:.1%}" for name, share in zip(about.classes, shares.tolist())))
    plot.save_image(predictions(images, found), options.figure)
    print(f"drawn: {options.figure}")


if __name__ == "__main__":
    sys.exit(main())
