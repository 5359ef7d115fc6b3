"""`python -m dl explain`: figures of what a trained network has learnt."""

import argparse

from dl.cli.classifiers import classifier, feature_maps
from dl.cli.runs import Run
from dl.mytorch import plot
from dl.mytorch.config import UserError
from dl.mytorch.data import read_image
from dl.mytorch.introspect import first_kernels


def kernels(options: argparse.Namespace) -> int:
    """Draw the kernels of the first convolution."""
    weight = first_kernels(Run.open(options.folder).model())
    if weight is None:
        raise UserError(f"the network of {options.folder} has no convolution whose kernels could be looked at")
    figure = options.figure or "kernels.png"
    plot.save_image(plot.kernels(weight), figure)
    print(f"drawn: {figure}, {' x '.join(map(str, weight.shape))}")
    return 0


def features(options: argparse.Namespace) -> int:
    """Draw what layers see in an image."""
    if not options.image:
        raise UserError("--how features takes an image: python -m dl explain RUN IMAGE --how features")
    maps = feature_maps(classifier(Run.open(options.folder)), read_image(options.image), options.layers)
    figure = options.figure or "features.png"
    plot.save_figure(plot.feature_maps(maps), figure)
    print(f"drawn: {figure}, {', '.join(maps)}")
    return 0
