"""Name what pictures show: the five likeliest classes of each, and a figure to look at.

    python -m dl.modules.CNN.ResNet.predict cat.jpg                        # ImageNet's 1,000 classes, published weights
    python -m dl.modules.CNN.ResNet.predict cat.jpg --model resnet18 --weights resnet18.pth
    python -m dl.modules.CNN.ResNet.predict shoe.png --run runs/CNN/ResNet     # the classes that you trained
    python -m dl.modules.CNN.ResNet.predict cat.jpg --features features.png    # also what each layer sees
"""

import argparse
import sys
from pathlib import Path
from typing import Callable, NamedTuple, Sequence

import torch
from torch import Tensor, nn

from dl.modules.CNN.ResNet.convert import from_torchvision
from dl.modules.CNN.ResNet.train import Config, network
from dl.mytorch import Probe, plot
from dl.mytorch.checkpoint import load, load_weights
from dl.mytorch.config import UserError
from dl.mytorch.data import image_set, prepare, read_image
from dl.mytorch.logger import trained_config
from dl.mytorch.vision import import_torchvision

PUBLISHED = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")


class Classifier(NamedTuple):
    """A trained network with what belongs to it."""

    model: nn.Module
    prepare: Callable[[Tensor], Tensor]  # picture (3, H, W) of bytes -> what the network takes, (1, C, size, size)
    classes: Sequence[str]


def published(name: str, weights: str = "") -> Classifier:
    """torchvision's ResNet for ImageNet, with its newest weights or those of a file, a state dict under its names.

    Raises `UserError` when the weights cannot be had or are not of this network.
    """
    models = import_torchvision().models
    best = models.get_model_weights(name).DEFAULT
    try:
        state = load(weights) if weights else best.get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError) as error:
        if weights:
            raise
        raise UserError(
            f"the weights of {name} cannot be downloaded from {best.url} ({error}): get the file another way and give it "
            "with --weights FILE, or use a run of yours with --run FOLDER"
        ) from None
    try:
        reference = models.get_model(name, weights=None, num_classes=len(state["fc.bias"]))
        reference.load_state_dict(state)
    except (KeyError, TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{weights or best.url} does not hold the weights of torchvision's {name} ({reason})") from None
    classes = best.meta["categories"]
    if reference.fc.out_features != len(classes):
        classes = [f"class {i}" for i in range(reference.fc.out_features)]
    transforms = best.transforms()
    return Classifier(from_torchvision(reference), lambda picture: transforms(picture)[None], classes)


def trained(run: Path) -> Classifier:
    """The best checkpoint of a run of this recipe. Raises `UserError` for a folder that holds none."""
    config = Config(**trained_config(run, "CNN/ResNet"))
    about = image_set(config)
    return Classifier(load_weights(network(config), run / "best.pt"), lambda picture: prepare(picture, about), about.classes)


@torch.no_grad()
def predict(classifier: Classifier, picture: Tensor) -> Tensor:
    """The probability of each class, (classes,), for a picture (3, H, W) of bytes."""
    return classifier.model.eval()(classifier.prepare(picture)).softmax(-1)[0]


def feature_maps(classifier: Classifier, picture: Tensor) -> dict[str, Tensor]:
    """What the stem and every block put out for a picture: name -> (C, H, W)."""
    names = ["stem", *(f"blocks.{i}" for i in range(len(classifier.model.blocks)))]
    with Probe(classifier.model, *names) as probe:
        predict(classifier, picture)
    return {name: probe[name][0] for name in names}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    lines = (__doc__ or "").splitlines()
    parser = argparse.ArgumentParser(description=lines[0], prog="python -m dl.modules.CNN.ResNet.predict")
    parser.add_argument("pictures", nargs="+", type=Path, metavar="PICTURE", help="JPEG, PNG, WebP ...")
    parser.add_argument("--model", choices=PUBLISHED, default="resnet50", help="network for ImageNet (default: %(default)s)")
    parser.add_argument("--weights", default="", help="file with torchvision's weights of it; default: downloaded once")
    parser.add_argument("--run", type=Path, help="folder of a run of yours, in place of --model and --weights")
    parser.add_argument("--top", type=int, default=5, help="how many classes to name (default: %(default)s)")
    parser.add_argument("--figure", type=Path, default=Path("predictions.png"), help="picture to write (default: %(default)s)")
    parser.add_argument("--features", type=Path, help="also draw the feature maps of the first picture into this file")
    options = parser.parse_args(argv)
    if options.top < 1:
        parser.error(f"--top has to be at least 1; got {options.top}")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    try:
        pictures = [read_image(path) for path in options.pictures]
        classifier = trained(options.run) if options.run else published(options.model, options.weights)
        answers = []
        for path, picture in zip(options.pictures, pictures):
            likely = predict(classifier, picture).topk(min(options.top, len(classifier.classes)))
            answers.append([(classifier.classes[i], p) for p, i in zip(likely.values.tolist(), likely.indices.tolist())])
            print(f"{path}\n" + "\n".join(f"  {probability:6.1%}  {name}" for name, probability in answers[-1]))
        plot.save_figure(plot.predictions(pictures, answers), options.figure)
        print(f"drawn: {options.figure}")
        if options.features:
            plot.save_figure(plot.feature_maps(feature_maps(classifier, pictures[0])), options.features)
            print(f"drawn: {options.features}")
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
