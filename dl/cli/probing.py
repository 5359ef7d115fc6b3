"""How good an encoder is, told by labels that it has not seen: `python -m dl evaluate RUN --with knn,linear`."""

import dataclasses
from typing import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from dl.cli.runs import Run
from dl.mytorch import seed_everything
from dl.mytorch.config import UserError
from dl.mytorch.data import ImageConfig, Loader, image_splits
from dl.mytorch.distributed import device
from dl.mytorch.features import encode, represent
from dl.mytorch.probes import linear_classes, nearest, share_of_each_class, vote

PROBES = ("knn", "linear")
BASELINES = ("pixels", "random")
NEIGHBOURS = (20, 200)
UNCHANGED = {"crop": 0, "hflip": False, "auto_augment": False, "erase": 0.0, "mixup": 0.0, "cutmix": 0.0}

Examples = tuple[Tensor, Tensor]  # features (N, D), labels (N,)


def probe(run: Run, names: Sequence[str], data: str = "", shares: Sequence[float] = ()) -> Iterator[tuple[str, float]]:
    """Yield errors on the test images, by name, of the features of a run, each when it is known.

    `names` are of PROBES, which ask all images but those of the test for labels, and of BASELINES, which take other features:
    the pixels, or those of the network with initial weights. The linear probe is repeated with each of `shares` of the labels.
    Raises `UserError` for a run on no images, or data without a test split.
    """
    config = run.config
    if not isinstance(config, ImageConfig):
        raise UserError(f"--with {names[0]}: {run.path} is a run of {run.recipe}, on no images with labels")
    splits = image_splits(dataclasses.replace(config, **UNCHANGED, **({"data": data} if data else {})))
    if splits.test is None:
        raise UserError(f"--data {data or config.data}: it has no test split")
    for prefix, features in _features(run, [name for name in names if name in BASELINES]):
        *known, tested = (_encode(features, loader) for loader in (splits.train, splits.val, splits.test))
        bank = (torch.cat([known[0][0], known[1][0]]), torch.cat([known[0][1], known[1][1]]))
        for name, error in _errors(bank, tested, [name for name in names if name in PROBES], shares, config.seed):
            yield prefix + name, error


def _features(run: Run, baselines: Sequence[str]) -> Iterator[tuple[str, nn.Module | None]]:
    """Yield what makes features, with what comes before the names of its errors; None takes the pixels."""
    yield "", run.model()
    if "random" in baselines:
        seed_everything(run.config.seed)
        yield "random weights, ", run.module.build_model(run.config).eval()
    if "pixels" in baselines:
        yield "pixels, ", None


def _encode(model: nn.Module | None, loader: Loader) -> Examples:
    if model is None:
        return encode(lambda images: images.flatten(1), loader, device())
    model.to(device())
    return encode(lambda images: represent(model, images), loader, device(), channels_last=True)


def _errors(
    bank: Examples, tested: Examples, probes: Sequence[str], shares: Sequence[float], seed: int
) -> Iterator[tuple[str, float]]:
    features, labels = bank
    queries, truth = tested
    asked: list[tuple[str, Callable[[], Tensor]]] = []
    if "knn" in probes:
        cosines, rows = nearest(queries, features, max(NEIGHBOURS))
        asked += [(f"knn error, k {k}", lambda k=k: vote(cosines[:, :k], labels[rows[:, :k]])) for k in NEIGHBOURS]
    if "linear" in probes:
        asked += [("linear error", lambda: linear_classes(queries, features, labels, seed))]
        for share in shares:
            part = share_of_each_class(labels, share, seed)
            asked += [
                (
                    f"linear error, {100 * share:.4g} % of the labels",
                    lambda part=part: linear_classes(queries, features[part], labels[part], seed),
                )
            ]
    for name, answer in asked:
        yield name, (answer() != truth).float().mean().item()


def parse_shares(text: str) -> list[float]:
    """Return the shares of a list like "1%,10%". Raises `UserError` for what is none."""
    try:
        shares = [float(part.strip().removesuffix("%")) / 100 for part in text.split(",") if part.strip()]
    except ValueError:
        shares = [0.0]
    if not all(0 < share <= 1 for share in shares):
        raise UserError(f"--labels {text}: shares of the labels are asked for, above 0 and at most 100%, as 1%,10%")
    return shares
