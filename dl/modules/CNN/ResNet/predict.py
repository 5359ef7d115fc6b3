"""Name what images show: the five likeliest classes of each, and a figure to look at.

python -m dl.modules.CNN.ResNet.predict cat.jpg                        # ImageNet's 1,000 classes, pretrained weights
python -m dl.modules.CNN.ResNet.predict cat.jpg --model resnet18 --weights resnet18.pth
python -m dl.modules.CNN.ResNet.predict shoe.png --run runs/CNN/ResNet     # the classes that you trained
python -m dl.modules.CNN.ResNet.predict cat.jpg --features features.png    # also what each layer sees
"""

import argparse
import sys
from os.path import expanduser
from pathlib import Path
from typing import Sequence

import torch
from torch import Tensor

from dl.cli.classifiers import Classifier, classifier, feature_maps, published
from dl.cli.command import command
from dl.cli.runs import Run
from dl.mytorch import plot
from dl.mytorch.command_line import Parser
from dl.mytorch.config import user_path
from dl.mytorch.data import read_image

PUBLISHED = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")


@torch.no_grad()
def predict(classifier: Classifier, image: Tensor) -> Tensor:
    """Return the probability of each class, (classes,), for an image (3, H, W) of bytes."""
    return classifier.model.eval()(classifier.prepare(image)).softmax(-1)[0]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    about = (__doc__ or "").partition("\n")[0]
    parser = Parser(description=about, prog="python -m dl.modules.CNN.ResNet.predict")
    parser.add_argument("images", nargs="+", type=user_path, metavar="IMAGE", help="JPEG, PNG, WebP ...")
    parser.add_argument("--model", choices=PUBLISHED, default="resnet50", help="network for ImageNet (default: %(default)s)")
    parser.add_argument(
        "--weights", type=expanduser, default="", help="file with torchvision's weights of it; default: downloaded once"
    )
    parser.add_argument("--run", type=user_path, help="folder of a run of yours, in place of --model and --weights")
    parser.add_argument("--top", type=int, default=5, help="how many classes to name (default: %(default)s)")
    parser.add_argument(
        "--figure", type=user_path, default=Path("predictions.png"), help="figure to write (default: %(default)s)"
    )
    parser.add_argument("--features", type=user_path, help="also draw the feature maps of the first image into this file")
    options = parser.parse_args(argv)
    if options.top < 1:
        parser.error(f"--top has to be at least 1; got {options.top}")
    return options


@command(parse)
def main(options: argparse.Namespace) -> None:
    images = [read_image(path) for path in options.images]
    if options.run:
        found = classifier(Run.open(options.run))
    else:
        found = published("CNN/ResNet", options.model, options.weights)
    answers = []
    for path, image in zip(options.images, images):
        likely = predict(found, image).topk(min(options.top, len(found.classes)))
        answers.append([(found.classes[i], p) for p, i in zip(likely.values.tolist(), likely.indices.tolist())])
        print(f"{path}\n" + "\n".join(f"  {probability:6.1%}  {name}" for name, probability in answers[-1]))
    plot.save_figure(plot.predictions(images, answers), options.figure)
    print(f"drawn: {options.figure}")
    if options.features:
        plot.save_figure(plot.feature_maps(feature_maps(found, images[0])), options.features)
        print(f"drawn: {options.features}")


if __name__ == "__main__":
    sys.exit(main())
