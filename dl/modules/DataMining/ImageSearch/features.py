"""Features of images, and of texts: made by a network that is named by folder, weights and preset."""

import hashlib
from pathlib import Path
from typing import Any, Sequence

import torch
from torch import Tensor, nn

from dl.cli import catalogue
from dl.cli.classifiers import Classifier, classifier, published
from dl.cli.runs import Run
from dl.mytorch.config import UserError
from dl.mytorch.features import features_and_logits

TOWERS = "towers.py"


class Extractor:
    """Turns images into features, with a network that is named by folder, weights and preset.

    Where the folder of a run's network has a towers.py, its `Towers` turn images and texts into features that compare: `texts`
    of unit length, near those of images that they name.

    Args:
        backbone: folder of the network, as "CNN/SqueezeNet"; default: that of the run, or else "CNN/ResNet".
        weights: folder of a run that classifies images, or has towers, or file of torchvision's weights; "" downloads them.
        preset: which network of torchvision's; default: the first preset of the folder that is there.
        layer: see `features_and_logits`.

    Raises `UserError` for weights that are not there, and for a layer that is not.
    """

    def __init__(self, backbone: str = "", weights: str = "", preset: str = "", layer: str = "") -> None:
        run = Run.open(weights) if weights and Path(weights).is_dir() else None
        recipe = run.recipe if run else "CNN/ResNet"
        try:
            backbone = recipe if backbone in ("", recipe) else catalogue.find(backbone)
        except catalogue.UnknownName as error:
            raise UserError(str(error)) from None
        self.backbone, self.layer, self.towers = backbone, layer, None
        if run and (catalogue.MODULES / backbone / TOWERS).exists():
            self.towers = catalogue.module(backbone, "towers").Towers(Run.open(weights, backbone))
            if layer:
                raise UserError(f"--layer {layer}: texts compare with what the image tower of {weights} gives, no other layer")
        else:
            self.classifier: Classifier = (
                classifier(Run.open(weights, backbone)) if run else published(backbone, preset, weights)
            )
        try:
            size = self([torch.zeros(3, 64, 64, dtype=torch.uint8)]).shape[1]
        except KeyError as error:
            raise UserError(str(error.args[0])) from None
        place = str(Path(weights).resolve()) if weights else ""  # an index is searched from any folder
        self.about: dict[str, Any] = {
            **{"backbone": backbone, "weights": place, "preset": preset, "layer": layer, "size": size},
            "sha256": fingerprint(self.towers.model if self.towers else self.classifier.model),
        }

    def __call__(self, images: Sequence[Tensor]) -> Tensor:
        """Return features (N, D) of images (3, H, W) of bytes, of any sizes."""
        if self.towers:
            return self.towers.images(images)
        inputs = torch.cat([self.classifier.prepare(image) for image in images])
        return features_and_logits(self.classifier.model, inputs, self.layer)[0]

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Return features (N, D) of texts. Raises `UserError` for a network that reads none."""
        if self.towers is None:
            readers = [
                path.parent.relative_to(catalogue.MODULES).as_posix() for path in catalogue.MODULES.glob(f"*/*/{TOWERS}")
            ]
            raise UserError(f"a network of {self.backbone} reads no texts: index by a run of {' or '.join(sorted(readers))}")
        return self.towers.texts(texts)


def fingerprint(model: nn.Module) -> str:
    """Return the SHA-256 of all weights and buffers: equal for equal networks."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
