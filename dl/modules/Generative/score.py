"""How like the real images the samples of a VAE, a GAN or a flow are, by the same scores as diffusion's, in the same features.

    python -m dl.modules.Generative.score runs/Generative/DCGAN --classifier runs/CNN/ResNet --num 2000

Diffusion/score.py says what the numbers are, and what they are not. scores.py puts runs of all models into one table.
"""

import argparse
import sys
from typing import Callable, Sequence

import torch
from torch import Tensor, nn

from dl.cli.classifiers import classifier
from dl.cli.command import command
from dl.cli.runs import Run
from dl.modules.Diffusion.DDPM.data import some_examples
from dl.modules.Diffusion.score import features, frechet_distance, precision_recall, standardised
from dl.modules.Generative.images import samples
from dl.modules.Generative.sample import RECIPES
from dl.mytorch.command_line import Parser
from dl.mytorch.config import UserError, user_path
from dl.mytorch.data import image_set, image_splits
from dl.mytorch.distributed import device


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    about = (__doc__ or "").partition("\n")[0]
    parser = Parser(description=about, prog="python -m dl.modules.Generative.score")
    parser.add_argument("run", type=user_path, help=f"folder of a run of {', '.join(RECIPES)}")
    parser.add_argument("--classifier", type=user_path, required=True, help="folder of a run of CNN/ResNet on the same set")
    parser.add_argument("--num", type=int, default=2000, help="samples, and real images of the test set (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    return parser.parse_args(argv)


@torch.no_grad()
def scores(run: Run, judge: nn.Module, num: int, seed: int) -> tuple[float, float, float]:
    """Return the Frechet distance, precision and recall of `num` samples against as many images of the test set."""
    about, model = image_set(run.config), run.model().to(device(run.config.device))
    test = some_examples(image_splits(run.config).test, num)["images"]
    real, _ = features(judge, about.standard({"images": test}, torch.Generator())["images"])
    drawn, _ = features(judge, standardised(samples(model, num, seed) * 2 - 1, about))
    return frechet_distance(real, drawn), *precision_recall(real, drawn)


def drawing(run: Run, calls: int) -> tuple[Callable[[int, int], Tensor], int, str]:
    """Return what draws images of a run, network calls for each, and "", see scores.py.

    Raises `UserError` for a network that takes more than `calls`.
    """
    model = run.model().to(device(run.config.device))
    needed = getattr(model, "calls", 1)
    if needed > calls:
        raise UserError(f"{run.path}: an image takes {needed} network calls, more than --calls {calls}")
    return lambda num, seed: samples(model, num, seed), needed, ""


@command(parse)
def main(options: argparse.Namespace) -> None:
    run, judge = Run.open(options.run, *RECIPES), classifier(Run.open(options.classifier))
    if options.num < 8 or options.seed < 0:
        raise UserError(f"--num has to be at least 8 and --seed 0 or more; got {options.num} and {options.seed}")
    if judge.classes != run.names:
        raise UserError(f"{options.classifier} was trained on other classes than {options.run}")
    distance, precision, recall = scores(run, judge.model, options.num, options.seed)
    print(f"Frechet distance {distance:.2f}, precision {precision:.3f}, recall {recall:.3f}")


if __name__ == "__main__":
    sys.exit(main())
