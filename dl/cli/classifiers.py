"""Networks that classify images: of a run, or pretrained weights in our network; and what their layers see."""

import functools
import math
import re
import sys
import textwrap
import warnings
from pathlib import Path
from typing import Callable, NamedTuple, Sequence

import torch
from torch import Tensor, nn

from dl.cli import catalogue
from dl.cli.runs import Run
from dl.mytorch import Probe
from dl.mytorch.checkpoint import load
from dl.mytorch.config import UserError
from dl.mytorch.data import image_set, prepare, sources
from dl.mytorch.introspect import without_values
from dl.mytorch.torchvision_compat import import_torchvision


class Classifier(NamedTuple):
    """A network that classifies images, in evaluation mode."""

    model: nn.Module
    prepare: Callable[[Tensor], Tensor]  # image (3, H, W) of bytes -> what the network takes, (1, C, size, size)
    classes: Sequence[str]


def classifier(run: Run) -> Classifier:
    """Return the network of a run that classifies images. Raises `UserError` for one that does not."""
    if not getattr(run.module.Config, "classifies", False):
        raise UserError(f"{run.path} is a run of {run.recipe}, whose network does not classify images")
    about = image_set(run.config)
    return Classifier(run.model(), lambda image: prepare(image, about), run.names)


def published(backbone: str, name: str = "", weights: Path | str = "") -> Classifier:
    """torchvision's network `name` for ImageNet, as ours of the folder `backbone`: with its newest weights or those of a file.

    `name` is one of the folder's presets that torchvision has too; default: the first. The file is a state dict under
    torchvision's names; images are prepared as for the weights that torchvision publishes under the file's name, else as
    for the newest. Raises `UserError` when there is no such network, or the weights are unavailable or of another.
    """
    models = import_torchvision().models
    names = [preset for preset in catalogue.presets(backbone) if preset in models.list_models()]
    name = name or (names[0] if names else "")
    if name not in names:
        raise UserError(f"{backbone} has no published network {name}".rstrip() + f"; there are {', '.join(names) or 'none'}")
    choices = models.get_model_weights(name)
    best = next((choice for choice in choices if Path(choice.url).name == Path(weights).name), choices.DEFAULT)
    if weights and Path(weights).is_dir():
        raise UserError(f"{weights} is a folder, not a file of weights; a run of yours goes with --run")
    weights = weights or _downloaded(best.url)
    state = load(weights)
    options = {}
    try:
        if name.startswith("vit_"):  # trained on images of several sizes
            options["image_size"] = size = (
                math.isqrt(state["encoder.pos_embedding"].shape[1] - 1) * state["conv_proj.weight"].shape[-1]
            )
            best = next((choice for choice in (best, *choices) if choice.meta["min_size"][0] == size), best)
        reference = _torchvision_s(name, state, **options)
    except (AttributeError, IndexError, KeyError, TypeError, RuntimeError) as error:
        reason = textwrap.shorten(f"it lacks {error}" if isinstance(error, KeyError) else str(error), 200)
        raise UserError(f"{weights} does not hold the weights of torchvision's {name}: {reason}") from None
    model = catalogue.module(backbone, "convert").from_torchvision(reference).eval()
    transforms, classes = best.transforms(), best.meta["categories"]
    outputs = len(list(reference.parameters())[-1])
    if outputs != len(classes):
        classes = [f"class {i}" for i in range(outputs)]
    return Classifier(model, lambda image: transforms(image)[None], classes)


def _downloaded(url: str) -> Path:
    """Return the file in data/pretrained/, else that where torch keeps what it downloads, there already or fetched.

    Raises `UserError` when it cannot be.
    """
    by_hand = sources.DATA / "pretrained" / Path(url).name
    if by_hand.exists():
        return by_hand
    path = Path(torch.hub.get_dir(), "checkpoints", by_hand.name)
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(
                url, str(path), torch.hub.HASH_REGEX.search(path.name)[1], progress=sys.stderr.isatty()
            )
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"the weights cannot be downloaded from {url} ({error}): get the file another way and put it into "
            f"{by_hand.parent}, or give it with --weights FILE, or take a run of yours"
        ) from None
    return path


def _torchvision_s(name: str, state: dict[str, Tensor], **options: int) -> nn.Module:
    """torchvision's network with these weights, and with what its builders do for pretrained weights and not otherwise."""
    # DenseNet's files are older than the names of its layers.
    state = {re.sub(r"(denselayer\d+\.(?:norm|conv))\.(\d)", r"\1\2", key): weight for key, weight in state.items()}
    build = functools.partial(import_torchvision().models.get_model, name, weights=None, **options)
    with warnings.catch_warnings(), without_values():
        warnings.simplefilter("ignore")  # GoogLeNet's, of initial weights that are not used
        bias = [name for name, _ in build().named_parameters()][-1]  # of the classes
        reference = build(num_classes=len(state[bias]))
    reference.load_state_dict(state, assign=True)
    if hasattr(reference, "transform_input"):
        reference.transform_input = True  # GoogLeNet's weights are for images of another scale
    return reference


@torch.no_grad()
def feature_maps(classifier: Classifier, image: Tensor, layers: Sequence[str] = ()) -> dict[str, Tensor]:
    """Return layers' outputs for an image (3, H, W) of bytes, name -> (C, h, w); default: the network's parts that give maps.

    Raises `UserError` for a layer that is not there or gives no maps, and when no layer does.
    """
    model = classifier.model
    several = {name: child for name, child in model.named_children() if isinstance(child, (nn.ModuleList, nn.ModuleDict))}
    parts = [name for name, _ in model.named_children() if name not in several]
    blocks = [f"{name}.{block}" for name, child in several.items() for block, _ in child.named_children()]
    try:
        with Probe(model, *(layers or parts + blocks)) as probe:
            model(classifier.prepare(image))
    except KeyError as error:
        raise UserError(str(error.args[0])) from None
    maps = {name: output for name, output in probe.outputs.items() if isinstance(output, Tensor) and output.ndim == 4}
    maps = {name: output[0] for name, output in maps.items() if layers or output.shape[-1] > 1}  # in the order of their use
    if missing := [name for name in layers if name not in maps]:
        raise UserError(f"layer {missing[0]} of {type(model).__name__} gives no maps (C, H, W)")
    if not maps:
        raise UserError(f"no layer of {type(model).__name__} gives maps; --layers names others")
    return maps
