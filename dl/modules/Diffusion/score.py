"""How like the real images samples are: Frechet distance, precision and recall, agreement with the class that was asked for.

    python -m dl.modules.Diffusion.score runs/Diffusion/DDPM --classifier runs/CNN/ResNet --num 2000 --guidance 3

The features are those of a classifier of this project, the mean over the last maps of a ResNet trained on the same set.
So the numbers compare runs here; they are not the FID of papers, whose features are those of Inception on ImageNet.

- Frechet distance: Heusel et al. 2017, https://arxiv.org/abs/1706.08500, equation 6.
- precision, recall: Kynkaanniemi et al. 2019, https://arxiv.org/abs/1904.06991, equations 1 and 2.
"""

import argparse
import sys
from pathlib import Path
from typing import Sequence

import torch
from torch import Tensor, nn

from dl.modules.CNN.ResNet import predict
from dl.modules.Diffusion.DDPM.sample import SAMPLERS, Trained, sample, trained
from dl.mytorch import Probe
from dl.mytorch.config import UserError
from dl.mytorch.data import ImageConfig, image_splits


def frechet_distance(real: Tensor, drawn: Tensor) -> float:
    """|m - m'|^2 + tr(S + S' - 2 (S S')^1/2) of features (N, D) and (M, D), with N and M at least 2.

    The trace of the root is that of (S^1/2 S' S^1/2)^1/2, which is symmetric: its eigenvalues are real and not negative.
    """
    real, drawn = real.double(), drawn.double()
    covariance, other = real.T.cov(), drawn.T.cov()
    values, vectors = torch.linalg.eigh(covariance)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ other @ root).clamp_min(0).sqrt().sum()
    distance = (real.mean(0) - drawn.mean(0)).square().sum() + covariance.trace() + other.trace() - 2 * cross
    return distance.item()


def precision_recall(real: Tensor, drawn: Tensor, nearest: int = 3) -> tuple[float, float]:
    """The share of drawn features (M, D) that lie among the real ones (N, D), and of real ones among the drawn.

    A point lies among others if it is no farther from one of these than the `nearest`-th neighbour of that one is.
    """

    def share_among(points: Tensor, others: Tensor) -> float:
        radius = torch.cdist(others, others).kthvalue(nearest + 1, dim=1).values  # the first is the point itself
        return (torch.cdist(points, others) <= radius).any(1).double().mean().item()

    real, drawn = real.double(), drawn.double()
    return share_among(drawn, real), share_among(real, drawn)


@torch.no_grad()
def features(classifier: nn.Module, images: Tensor, batch: int = 256) -> tuple[Tensor, Tensor]:
    """What the last layer of the classifier sees, (N, D), and the classes that it says, (N,), for standardised images."""
    seen, said = [], []
    for part in images.split(batch):
        with Probe(classifier.eval(), "pool") as probe:
            said.append(classifier(part).argmax(1))
        seen.append(probe["pool"].flatten(1))
    return torch.cat(seen), torch.cat(said)


def standardised(images: Tensor, found: Trained) -> Tensor:
    """Images in [-1, 1] as a classifier of the same set sees them: rounded to bytes first, as real images are."""
    pixels = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return found.about.standard({"images": pixels}, torch.Generator())["images"]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], prog="python -m dl.modules.Diffusion.score")
    parser.add_argument("run", type=Path, help="folder of a run of Diffusion/DDPM")
    parser.add_argument("--classifier", type=Path, required=True, help="folder of a run of CNN/ResNet on the same set")
    parser.add_argument("--num", type=int, default=2000, help="samples, and real images of the test set (default: %(default)s)")
    parser.add_argument("--sampler", choices=SAMPLERS, default="ddim", help="(default: %(default)s)")
    parser.add_argument("--steps", type=int, default=50, help="(default: %(default)s)")
    parser.add_argument("--guidance", type=float, default=1.0, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    try:
        found, classifier = trained(options.run), predict.trained(options.classifier)
        if not 1 <= options.steps <= found.process.steps or options.num < 8:
            got = f"got {options.steps} and {options.num}"
            raise UserError(f"--steps is from 1 to {found.process.steps} and --num at least 8; {got}")
        if classifier.classes != found.about.classes:
            raise UserError(f"{options.classifier} was trained on other classes than {options.run}")
        test = image_splits(ImageConfig(out=str(options.run), data=found.data)).test.dataset["images"][: options.num]
        asked = torch.arange(options.num) % len(classifier.classes) if found.model.num_classes else None
        drawn = sample(found, asked, options.num, options.sampler, options.steps, options.guidance, 0.0, options.seed)
        real, _ = features(classifier.model, found.about.standard({"images": test}, torch.Generator())["images"])
        fake, said = features(classifier.model, standardised(drawn, found))
        precision, recall = precision_recall(real, fake)
        agreement = f", of the class asked for {(said == asked).double().mean():.3f}" if asked is not None else ""
        print(f"Frechet distance {frechet_distance(real, fake):.3f}, precision {precision:.3f}, recall {recall:.3f}{agreement}")
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
