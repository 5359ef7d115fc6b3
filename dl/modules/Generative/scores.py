"""One table of how like the real images the samples of runs are, whatever model drew them.

    python -m dl score runs/Generative/DCGAN runs/Diffusion/DDPM --classifier runs/CNN/ResNet --real
    python -m dl score RUN [RUN ...] --classifier RUN --record    # also into the recorded scores and Generative/README.md

What draws a run's images is what `drawing(run, calls)` of score.py in its model's folder or category returns: a function
(num, seed) -> images (num, C, H, W) in [0, 1], how many network calls each takes, at most `calls`, and how in words.
Diffusion/score.py says what the scores are. With fewer images a Frechet distance is larger, and another classifier has another
scale: all rows of a table have the same images, number and classifier.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any, Callable, Sequence

import torch
from torch import Tensor, nn

from dl.cli import catalogue, records
from dl.cli.classifiers import classifier
from dl.cli.command import SEEDS, check_range, command
from dl.cli.results import markdown_table, rewrite
from dl.cli.runs import Run
from dl.modules.Diffusion.DDPM.data import some_examples
from dl.modules.Diffusion.score import features, frechet_distance, precision_recall, standardised
from dl.mytorch.command_line import Parser
from dl.mytorch.config import UserError, user_path
from dl.mytorch.data import image_set, image_splits
from dl.mytorch.data.images.sets import IMAGE_SETS
from dl.mytorch.distributed import device
from dl.mytorch.logger import device_name

HERE = Path(__file__).parent
COMPARED = ("data", "num", "seed", "classifier")  # the same in all rows of a table
QUANTITIES = ("frechet_distance", "precision", "recall")
RECORD = {
    **{"model": str, "preset": str, "settings": [str], "how": str, "calls": (int, None), "command": str, "commit": str},
    **{"data": str, "num": int, "seed": int, "classifier": {"command": str, "commit": str}},
    **{**dict.fromkeys(QUANTITIES, float), "seconds": float, "device": str},
}
Drawing = tuple[Callable[[int, int], Tensor], int, str]


def drawing(run: Run, calls: int) -> Drawing:
    """Return what draws images of a run by at most so many network calls. Raises `UserError` for one that draws none."""
    for place in (run.recipe, run.recipe.partition("/")[0]):
        if (catalogue.MODULES / place / "score.py").exists():
            found = getattr(catalogue.module(place, "score"), "drawing", None)
            if found is not None:
                return found(run, calls)
    raise UserError(f"{run.path} is a run of {run.recipe}, which draws no images that a classifier could judge")


def about_run(run: Run) -> dict[str, Any]:
    """Return what a row says of a run."""
    file = run.described.get("file", "train")
    recorded = {"recipe": run.recipe, "config": run.described["config"], "file": file}
    model = run.recipe.rpartition("/")[2] + (f", {file}" if file != "train" else "")
    found = {"model": model, "preset": str(getattr(run.config, "model", "")), "settings": records.settings(recorded)}
    return found | {name: str(run.described.get(name, "")) for name in ("command", "commit")}


@torch.no_grad()
def measure(images: Tensor, real: Tensor, judge: nn.Module, about: Any) -> dict[str, float]:
    """Return the scores of images (N, C, H, W) in [0, 1] against the features `real` (N, D)."""
    drawn, _ = features(judge, standardised(images * 2 - 1, about))
    return dict(zip(QUANTITIES, (frechet_distance(real, drawn), *precision_recall(real, drawn))))


def score(runs: Sequence[Run], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a record for each run and, with `options.real`, one for images of the training set.

    Raises `UserError`, before anything is drawn, for runs on different images, of other classes than the classifier's, or that
    draw no images.
    """
    judge, drawings = Run.open(options.classifier), [drawing(run, options.calls) for run in runs]
    network = classifier(judge)
    for run in runs:
        if run.config.data != runs[0].config.data:
            raise UserError(f"{run.path} was trained on {run.config.data}, {runs[0].path} on {runs[0].config.data}")
        if network.classes != run.names:
            raise UserError(f"{options.classifier} was trained on other classes than {run.path}")
    about, splits = image_set(runs[0].config), image_splits(runs[0].config)
    test = some_examples(splits.test, options.num)["images"]
    train = some_examples(splits.train, options.num)["images"] / 255 if options.real else None
    real, _ = features(network.model, about.standard({"images": test}, torch.Generator())["images"])
    same = {"data": runs[0].config.data, "num": options.num, "seed": options.seed}
    same["classifier"] = {name: str(judge.described.get(name, "")) for name in ("command", "commit")}
    found = []
    for run, (draw, calls, how) in zip(runs, drawings):
        started = time.perf_counter()
        with torch.no_grad():
            images = draw(options.num, options.seed)
        took = {"seconds": round(time.perf_counter() - started, 1), "device": device_name(device(run.config.device))}
        found.append(
            {**about_run(run), "how": how, "calls": calls, **same, **took, **measure(images, real, network.model, about)}
        )
        print(f"{run.path}: Frechet distance {found[-1]['frechet_distance']:.2f}", flush=True)
    if train is not None:
        nobody = {
            "model": "training images",
            "preset": "",
            "settings": [],
            "how": "",
            "calls": None,
            "command": "",
            "commit": "",
        }
        scores = measure(train, real, network.model, about)
        found.append({**nobody, **same, "seconds": 0.0, "device": "", **scores})
    return found


def table(found: Sequence[dict[str, Any]]) -> str:
    """Return records as Markdown, the nearest to the test images first. Raises `UserError` for some that do not compare."""
    for record in found:
        for name in COMPARED:
            if record[name] != found[0][name]:
                raise UserError(
                    f"{name}: scores of {record['model']} have {record[name]}, those of {found[0]['model']} {found[0][name]}: "
                    f"they do not compare; score all of {HERE / 'results'} again, or none"
                )
    cells = []
    for record in sorted(found, key=lambda record: record["frechet_distance"]):
        settings = ", ".join(filter(None, [record["preset"] and f"`{record['preset']}`", *record["settings"]]))
        distance, *shares = (record[name] for name in QUANTITIES)
        shown = [f"{record['num']:,}", f"{distance:.2f}", *(f"{share:.3f}" for share in shares)]
        cells.append([record["model"], settings, record["how"], str(record["calls"] or ""), *shown])
    headings = ["model", "settings", "drawn by", "network calls", "images", "Frechet distance", "precision", "recall"]
    return markdown_table(headings, cells) if cells else "Nothing is recorded yet."


def recorded() -> list[dict[str, Any]]:
    """Return what is recorded, in the order of the files."""
    return records.read(HERE / "results", RECORD)


def tables() -> list[tuple[Path, str, str]]:
    """Return the README's table of what is recorded, see `dl.cli.results.OTHERS`."""
    return [(HERE / "README.md", "scores", table(recorded()))]


def file_name(record: dict[str, Any]) -> str:
    """Return the name of a record's file: scored again, a run replaces itself."""
    words = [record["model"], record["preset"], *record["settings"]]
    return "-".join("".join(c for c in word if c.isalnum() or c in "._") for word in words if word) + ".json"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(
        description="Score samples of runs of any models that draw images, in one table.", prog="python -m dl score"
    )
    parser.add_argument("runs", nargs="+", type=user_path, metavar="RUN", help="folders of runs on the same images")
    judge = "folder of a run of CNN/ResNet on the same set, whose features are compared"
    parser.add_argument("--classifier", type=user_path, required=True, metavar="RUN", help=judge)
    num = "samples of each run, and real images of the test set (default: %(default)s)"
    parser.add_argument("--num", type=int, default=10_000, help=num)
    calls = "most calls of a network for a sample: the steps of a diffusion model's sampler (default: %(default)s)"
    parser.add_argument("--calls", type=int, default=50, help=calls)
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    parser.add_argument("--real", action="store_true", help="also score images of the training set: the floor")
    parser.add_argument("--record", action="store_true", help="add the scores to the recorded ones, and to their table")
    return parser.parse_args(argv)


@command(parse)
def main(options: argparse.Namespace) -> None:
    check_range("--num", options.num, 8, 1_000_000)
    check_range("--calls", options.calls, 1, 1_000_000)
    check_range("--seed", options.seed, *SEEDS)
    runs = [Run.open(run) for run in options.runs]
    if options.record and runs[0].config.data not in IMAGE_SETS:
        raise UserError(f"--record keeps scores of sets that all have, not of --data {runs[0].config.data}")
    found = score(runs, options)
    if not options.record:
        print(table(found))
        return
    new = {file_name(record): record for record in found}
    kept = [record for record in recorded() if file_name(record) not in new]
    table([*kept, *found])  # refuses what does not compare before anything is written
    for name, record in new.items():
        records.write(record, HERE / "results" / name)
    print("\n".join(rewrite(*each) for each in tables()))


if __name__ == "__main__":
    sys.exit(main())
