"""Draw samples of a run of VAE, DCGAN, RealNVP or of VQVAE's prior into an image.

python -m dl.modules.Generative.sample runs/Generative/DCGAN --num 64 --out grid.png
python -m dl.modules.Generative.sample runs/Generative/VAE --num 8 --interpolate    # from one sample to another, a row each
python -m dl.modules.Generative.sample runs/Generative/DCGAN --num 16 --nearest     # are they copies?
"""

import argparse
import sys
from pathlib import Path
from typing import Sequence

import torch

from dl.cli.command import command
from dl.cli.runs import Run
from dl.modules.Diffusion.DDPM.sample import beside_nearest, check_out
from dl.modules.Generative.images import image_grid, samples, walks
from dl.mytorch import plot
from dl.mytorch.command_line import Parser
from dl.mytorch.config import UserError, user_path
from dl.mytorch.data import image_splits
from dl.mytorch.distributed import device

RECIPES = ("Generative/DCGAN", "Generative/RealNVP", "Generative/VAE", "Generative/VQVAE")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    about = (__doc__ or "").partition("\n")[0]
    parser = Parser(description=about, prog="python -m dl.modules.Generative.sample")
    parser.add_argument("run", type=user_path, help="folder of a run")
    parser.add_argument("--num", type=int, default=64, help="how many images, or interpolations (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--interpolate", action="store_true", help="draw what lies between two samples each, a row for each pair")
    way.add_argument("--nearest", action="store_true", help="show each sample with the nearest training image beside it")
    parser.add_argument("--out", type=user_path, default=Path("grid.png"), help="image to write (default: %(default)s)")
    return parser.parse_args(argv)


@command(parse)
@torch.no_grad()
def main(options: argparse.Namespace) -> None:
    check_out(options.out)
    run = Run.open(options.run, *RECIPES)
    model = run.model().to(device(run.config.device))
    if options.num < 1 or options.seed < 0:
        raise UserError(f"--num has to be at least 1 and --seed 0 or more; got {options.num} and {options.seed}")
    columns = 8
    if options.interpolate:
        images, columns = walks(model, options.num, options.seed), 10
    else:
        images = samples(model, options.num, options.seed)
    if options.nearest:
        images = (beside_nearest(images * 2 - 1, image_splits(run.config).train) + 1) / 2
    plot.save_image(image_grid(images, columns), options.out)
    print(f"drawn: {options.out}")


if __name__ == "__main__":
    sys.exit(main())
