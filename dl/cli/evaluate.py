"""Test a trained run again: `python -m dl evaluate RUN [--data SET] [--with METRIC [FILE]] [--labels 1%,10%]`."""

import argparse
import contextlib
import dataclasses
from typing import Any
from unittest import mock

from dl.cli import likelihoods, probing
from dl.cli.listing import NEGATIVE
from dl.cli.runs import Run
from dl.cli.verbs import find_command
from dl.mytorch import Trainer
from dl.mytorch.checkpoint import load_weights
from dl.mytorch.config import UserError, user_path
from dl.mytorch.data import ImageConfig, Splits, image_set, split


def evaluate(options: argparse.Namespace) -> int:
    """`python -m dl evaluate`"""
    options.metric, *files = options.metric
    names = [name.strip() for name in options.metric.split(",")]
    if files or "choices" in names:
        return _measure(options, names, files)
    if options.stride is not None:
        raise UserError("--stride goes with --with bits_per_byte FILE")
    if options.metric == "frechet":
        if not options.classifier:
            raise UserError("--with frechet compares features of a classifier of yours: name its run by --classifier RUN")
        recipe = Run.open(options.folder).recipe
        return find_command("score", recipe).main([str(options.folder), "--classifier", str(options.classifier)])
    if set(names) & {*probing.PROBES, *probing.BASELINES}:
        return _probe(options, names)
    if options.labels:
        raise UserError("--labels goes with --with linear")
    means = means_of(Run.open(options.folder), options.data)
    if options.metric and options.metric not in means:
        raise UserError(
            f"--with {options.metric}: this run is tested by {', '.join(means)}; there are frechet, knn, linear, too, "
            f"and with a FILE {', '.join(likelihoods.MEASURES)}"
        )
    for name, value in means.items():
        if options.metric in ("", name) and value == value:  # NaN: nothing was counted
            shown = f"{value:.2%}" if name.endswith("error") else f"{-value if NEGATIVE in name else value:.6g}"
            print(name.replace(NEGATIVE, "").replace("_", " "), shown)
    return 0


def _measure(options: argparse.Namespace, names: list[str], files: list[str]) -> int:
    """Print what a language model makes of a file. Raises `UserError` unless there is one."""
    if len(files) != 1:
        raise UserError(f"--with {options.metric} takes one FILE after it; got {' '.join(files) or 'none'}")
    if options.data or options.labels:
        raise UserError("--data and --labels do not go with a FILE")
    for line in likelihoods.measure(Run.open(options.folder), names, user_path(files[0]), options.stride):
        print(line, flush=True)
    return 0


def _probe(options: argparse.Namespace, names: list[str]) -> int:
    """Print the errors of the probes `names`. Raises `UserError` for another name, and for shares of labels without a probe."""
    known = [*probing.PROBES, *probing.BASELINES]
    if (unknown := [name for name in names if name not in known]) or not set(names) & set(probing.PROBES):
        wrong = unknown[0] if unknown else "no probe"
        raise UserError(f"--with {options.metric}: {wrong}; probes are knn and linear, beside them pixels and random")
    if options.labels and "linear" not in names:
        raise UserError("--labels goes with --with linear")
    shares = probing.parse_shares(options.labels)
    for name, error in probing.probe(Run.open(options.folder), names, options.data, shares):
        print(f"{name}: {error:.2%}", flush=True)
    return 0


def means_of(run: Run, data: str = "") -> dict[str, Any]:
    """Return the means of the best weights on the test split, of the run's own data or of `data`.

    The recipe prepares everything as for training, with the run's config; in place of training it is tested.
    Raises `UserError` for data without a test split, or that the network is not made for.
    """
    found: dict[str, Any] = {}

    def test(trainer: Trainer, splits: Splits) -> None:
        if splits.test is None:
            raise UserError(f"--data {run.config.data}: it has no test split")
        for name, vocabulary in getattr(splits, "vocabularies", {}).items():
            if run.vocabularies.get(name) != vocabulary:
                raise UserError(f"{run.path} was trained with another vocabulary than --data {data or run.config.data} gives")
        config = trainer.config
        there = tuple(splits.names) or (image_set(config).classes if isinstance(config, ImageConfig) else ())
        if run.names and there and there != run.names:
            raise UserError(f"{run.path} was trained on other classes than --data {data or config.data} has")
        load_weights(trainer.evaluated_model, run.path / "best.pt")
        found.update(trainer.evaluate(splits.test))

    config = dataclasses.replace(run.config, **({"data": data} if data else {}))
    other = mock.patch.object(split, "_compare") if data else contextlib.nullcontext()  # another set than the run's
    with other, mock.patch.object(Trainer, "fit", test):
        run.module.main(config)
    return found
