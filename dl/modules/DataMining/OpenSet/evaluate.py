"""How well each score finds what a network never learned: measures of runs of `train.py`.

    python -m dl.modules.DataMining.OpenSet.evaluate runs/DataMining/OpenSet runs/DataMining/OpenSet-2,6
    python -m dl.modules.DataMining.OpenSet.evaluate --record RUN ...   # also into the recorded results and the README
    python -m dl.modules.DataMining.OpenSet.evaluate                    # only the README's table, from what is recorded

A run with classes held out is tested on them; one of all classes on MNIST, on noise and on the test images inverted. The
threshold that ships accepts 95 % of the run's validation images; all figures are of test images.
"""

import argparse
import sys
from pathlib import Path
from typing import Any, Sequence

import torch
from torch import Tensor, nn

from dl.cli import records, results
from dl.cli.command import command
from dl.cli.runs import Run
from dl.modules.DataMining.OpenSet import metrics
from dl.modules.DataMining.OpenSet.scores import TrainingStatistics, fit_all
from dl.modules.DataMining.OpenSet.train import Config, known_classes, known_only, only
from dl.modules.DataMining.threshold import conformal_threshold, quantile_threshold
from dl.mytorch.command_line import Parser
from dl.mytorch.config import UserError, user_path
from dl.mytorch.data import image_set, image_splits
from dl.mytorch.data.images.idx import load
from dl.mytorch.data.images.sets import IMAGE_SETS
from dl.mytorch.features import features_and_logits

HERE = Path(__file__).parent
FITTED = 20_000  # training images that the scores are fitted to
OTHERS = 2_000  # images of noise, and inverted ones
MEASURES = {
    "auroc": "AUROC: how often an unknown image scores above a known one.",
    "fpr95": "FPR95: unknown images that are accepted where 95 % of the known test images are.",
    "rejected": "Rejected: unknown images above the threshold that ships.",
    "aupr_out": "AUPR out: of finding the unknown.",
    "aupr_in": "AUPR in: of finding the known.",
    "accepted": "Accepted: known test images below the threshold that ships.",
    "accepted_conformal": "Accepted by the split-conformal threshold.",
    "accepted_error": "Error of the accepted: known test images that are accepted and wrongly classified.",
}
RECORD = {
    **{
        "held_out": str,
        "seed": int,
        "error": float,
        "rows": [{"unknown": str, "score": str, **dict.fromkeys(MEASURES, float)}],
    },
    **{name: records.TRAINED[name] for name in ("recipe", "command", "config", "precision?", "commit", "versions")},
}
OF_KNOWN = ("accepted", "accepted_conformal", "accepted_error")


@torch.no_grad()
def outputs(model: nn.Module, images: Tensor, config: Config) -> tuple[Tensor, Tensor]:
    """Return features (N, D) and logits (N, C) of images (N, 1, 28, 28) of bytes."""
    standard, generator = image_set(config).standard, torch.Generator()
    parts = [features_and_logits(model, standard({"images": part}, generator)["images"]) for part in images.split(500)]
    features, logits = zip(*parts)
    return torch.cat(features), torch.cat(logits)


def unknown_images(config: Config) -> dict[str, Tensor]:
    """Return what the network of a run never saw, as bytes, by the name of its column."""
    test = image_splits(config).test.dataset
    known = known_classes(config)
    if config.held_out:
        held_out = [label for label in range(len(image_set(config).classes)) if label not in known]
        return {"held out": only(test, held_out)["images"]}
    noise = torch.randint(256, (OTHERS, *test["images"].shape[1:]), generator=torch.Generator().manual_seed(config.seed))
    return {"MNIST": load("mnist")[1]["images"], "noise": noise.byte(), "inverted": 255 - test["images"][:OTHERS]}


def measure(val: Tensor, known: Tensor, right: Tensor, unknown: Tensor) -> dict[str, float]:
    """Return all figures of one score, from its values of known validation images, of known test images and of unknown ones.

    `right` says which of the known test images are classified well.
    """
    threshold = quantile_threshold(val)
    accepted = known <= threshold
    return {
        "auroc": metrics.auroc(known, unknown),
        "aupr_in": metrics.aupr_in(known, unknown),
        "aupr_out": metrics.aupr_out(known, unknown),
        "fpr95": metrics.fpr95(known, unknown),
        "accepted": accepted.double().mean().item(),
        "accepted_conformal": (known <= conformal_threshold(val)).double().mean().item(),
        "rejected": (unknown > threshold).double().mean().item(),
        "accepted_error": 1 - right[accepted].double().mean().item() if accepted.any() else 0.0,
    }


def evaluate(run: Path) -> dict[str, Any]:
    """Return the record of a run.

    Raises `UserError` for a folder that holds none of this recipe, or one too poor to measure.
    """
    found = Run.open(run, "DataMining/OpenSet")
    config, model = found.config, found.model()
    train, val, test = (part.dataset for part in known_only(image_splits(config), known_classes(config)))
    features, logits = outputs(model, train["images"][:FITTED], config)
    seen = TrainingStatistics(features, logits, train["labels"][:FITTED], model.head.weight.detach(), model.head.bias.detach())
    try:
        scores = fit_all(seen)
    except UserError as error:
        raise UserError(f"{run}: {error}") from None
    known = [outputs(model, part["images"], config) for part in (val, test)]
    right = known[1][1].argmax(-1) == test["labels"]
    values = {name: [score(*each) for each in known] for name, score in scores.items()}
    rows = []
    for unknown, images in unknown_images(config).items():
        shown = outputs(model, images, config)
        for name, score in scores.items():
            rows.append({"unknown": unknown, "score": name, **measure(*values[name], right, score(*shown))})
    kept = ("recipe", "command", "config", "precision", "commit", "versions")
    about = {"held_out": config.held_out, "seed": config.seed, "error": 1 - right.double().mean().item()}
    return {**about, **{key: found.described[key] for key in kept}, "rows": rows}


def check_alike(found: Sequence[dict[str, Any]]) -> None:
    """Raise `UserError` unless the networks differ only in seeds and held-out classes: a table compares such."""
    for record in found[1:]:
        own, first = records.changed(record), records.changed(found[0])
        names = sorted(n for n in own.keys() | first.keys() if n not in ("seed", "held_out") and own.get(n) != first.get(n))
        if names:
            these, those = (records.as_taken(each) for each in (record, found[0]))
            differs = "; ".join(f"{n} {these.get(n)}, not {those.get(n)}" for n in names)
            other = f"{record['config']['out']} was trained otherwise than {found[0]['config']['out']} ({differs})"
            raise UserError(f"{other}, and a table does not mix them: evaluate it alone, and without --record")


def table(found: Sequence[dict[str, Any]]) -> str:
    """Return a table for each of `MEASURES`: a row for each score, a column for each unknown set, mean and std over seeds."""
    values: dict[tuple[str, str, str], dict[int, float]] = {}  # measure, score, column -> seed -> value
    for record in found:
        classes = IMAGE_SETS[record["config"]["data"]].classes
        held_out = ", ".join(classes[int(label)] for label in record["held_out"].split(",") if label)
        for row in record["rows"]:
            column = held_out or row["unknown"]
            for measure in MEASURES:
                place = held_out or "nothing" if measure in OF_KNOWN else column  # the same whatever is unknown
                values.setdefault((measure, row["score"], place), {})[record["seed"]] = row[measure]
    parts = []
    for measure, title in MEASURES.items():
        scores, columns = (list(dict.fromkeys(key[i] for key in values if key[0] == measure)) for i in (1, 2))
        rows = [[score, *(_percent(values[measure, score, column]) for column in columns)] for score in scores]
        parts.append(f"{title}\n\n{results.markdown_table(['score', *columns], rows)}")
    return "\n\n".join(parts)


def _percent(values: dict[int, float]) -> str:
    """Return the mean and sample standard deviation over seeds, in percent."""
    return results.spread(list(values.values()), ".1f", 100)


def recorded() -> list[dict[str, Any]]:
    """Return what is recorded, in the order of the files."""
    return records.read(HERE / "results", RECORD)


def tables() -> list[tuple[Path, str, str]]:
    """Return the README's table of what is recorded, see `dl.cli.results.OTHERS`."""
    return [(HERE / "README.md", "results", table(recorded()))]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(
        description="Measure how well scores find unknown images.", prog="python -m dl.modules.DataMining.OpenSet.evaluate"
    )
    parser.add_argument("runs", nargs="*", type=user_path, metavar="RUN", help="folders of runs of DataMining/OpenSet")
    parser.add_argument("--record", action="store_true", help="add the runs to the recorded results, and rewrite the README")
    options = parser.parse_args(argv)
    return options


@command(parse)
def main(options: argparse.Namespace) -> None:
    measured = [evaluate(run) for run in options.runs]
    if measured and not options.record:
        check_alike(measured)
        print(table(measured))
        return
    check_alike(recorded() + measured)
    for record in measured:
        name = "-".join(filter(None, [record["held_out"].replace(",", "_") or "all", f"seed{record['seed']}"]))
        records.write(record, HERE / "results" / f"{name}.json")
    for each in tables():
        print(results.rewrite(*each))


if __name__ == "__main__":
    sys.exit(main())
