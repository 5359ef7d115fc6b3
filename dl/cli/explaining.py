"""`python -m dl explain`: figures of what a trained network has learnt."""

import argparse

import torch
from torch import Tensor

from dl.cli.classifiers import Classifier, classifier, feature_maps
from dl.cli.runs import Run
from dl.mytorch import plot
from dl.mytorch.attribution import fgsm, grad_cam
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
    image = _image(options)
    maps = feature_maps(classifier(Run.open(options.folder)), image, options.layers)
    figure = options.figure or "features.png"
    plot.save_figure(plot.feature_maps(maps), figure)
    print(f"drawn: {figure}, {', '.join(maps)}")
    return 0


def attribution(options: argparse.Namespace) -> int:
    """Draw which parts of an image speak for its three likeliest classes (Grad-CAM)."""
    image, found = _image(options), classifier(Run.open(options.folder))
    if len(options.layers) > 1:
        raise UserError("--how grad_cam draws one layer; --layers names several")
    images = found.prepare(image)
    shares = _shares(found, images)
    best = shares[0].topk(min(3, len(found.classes))).indices
    try:
        layer, maps = grad_cam(found.model, images.expand(len(best), -1, -1, -1), best, *options.layers)
    except ValueError as error:
        raise UserError(f"{type(found.model).__name__}: {error}; --layers names others") from None
    names = [f"{found.classes[i]}\n{shares[0, i]:.1%}" for i in best.tolist()]
    figure = options.figure or "grad_cam.png"
    plot.save_figure(plot.heat_maps(images[0], maps, names), figure)
    print(f"drawn: {figure}, layer {layer}, {' x '.join(map(str, maps.shape[1:]))}: " + ", ".join(map(_on_one_line, names)))
    return 0


def attack(options: argparse.Namespace) -> int:
    """Draw an image whose pixels were changed to mislead the network (FGSM), by more and more."""
    image, found = _image(options), classifier(Run.open(options.folder))
    images = found.prepare(image)
    low, high = (found.prepare(torch.full_like(image, end)).amax((0, 2, 3))[:, None, None] for end in (0, 255))
    best = _shares(found, images).argmax(1)
    shown, names = [], []
    for step in (0, 1, 2, 4, 8, 16, 32):
        changed = fgsm(found.model, images, best, step / 255 * (high - low), low, high)
        share, now = (each.item() for each in _shares(found, changed)[0].max(0))
        shown.append(((changed[0] - low) / (high - low)).clamp(0, 1))
        names.append(f"{step} of 255\n{found.classes[int(now)]} {share:.1%}")
        print(f"each pixel changed by {step} of 255: {found.classes[int(now)]} {share:.1%}")
    figure = options.figure or "fgsm.png"
    plot.save_figure(plot.image_grid(torch.stack(shown), names, columns=len(shown)), figure)
    print(f"drawn: {figure}")
    return 0


def _image(options: argparse.Namespace) -> Tensor:
    if not options.image:
        raise UserError(f"--how {options.how} takes an image: python -m dl explain RUN IMAGE --how {options.how}")
    return read_image(options.image)


@torch.no_grad()
def _shares(found: Classifier, images: Tensor) -> Tensor:
    return found.model(images).softmax(-1)


def _on_one_line(text: str) -> str:
    return text.replace("\n", " ")
