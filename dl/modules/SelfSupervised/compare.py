"""What features learnt without labels are worth: runs beside pixels, random weights and a network that saw all labels.

    python -m dl.modules.SelfSupervised.compare runs/SelfSupervised/SimCLR runs/SelfSupervised/MAE runs/CNN/ResNet
    python -m dl.modules.SelfSupervised.compare --record RUN ...   # also into the recorded results, README and figure
    python -m dl.modules.SelfSupervised.compare                    # table and figure again, from what is recorded

Any run on images may stand in the table, on the same data. Errors are those of `python -m dl evaluate RUN --with knn,linear`.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Sequence

from dl.cli import probing, records, results
from dl.cli.command import command
from dl.cli.runs import Run
from dl.mytorch import plot
from dl.mytorch.command_line import Parser
from dl.mytorch.config import UserError, user_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HERE = Path(__file__).parent
SHARES = (0.01, 0.1)  # of the labels
RANDOM, PIXELS = "random weights, ", "pixels, "  # before the names of the errors of `dl.cli.probing`
COLUMNS = {
    **{f"knn error, k {k}": f"{k} nearest" for k in probing.NEIGHBOURS},
    "linear error": "linear, all labels",
    **{f"linear error, {100 * share:.4g} % of the labels": f"linear, {100 * share:.4g} %" for share in reversed(SHARES)},
}
RECORD = {
    **{"errors": {str: float}, "training_seconds": float},
    **{name: records.TRAINED[name] for name in ("recipe", "command", "config", "seed", "commit", "versions")},
}
Row = tuple[str, str, list[float]]  # features, training, an error for each of COLUMNS


def measure(path: Path, pixels: bool) -> dict[str, Any]:
    """Return the record of a run, with the errors of the pixels if asked for; each error is printed when it is known.

    Raises `UserError` for a folder that holds no run on images, or data without a test split.
    """
    run, errors = Run.open(path), {}
    for name, error in probing.probe(run, [*probing.PROBES, "random", *["pixels"] * pixels], shares=SHARES):
        errors[name] = error
        print(f"{path}: {name}: {error:.2%}", flush=True)
    about = {name: run.described[name] for name in ("recipe", "command", "config", "commit", "versions")}
    return {**about, "seed": run.config.seed, "errors": errors, "training_seconds": run.speed["training_seconds"]}


def rows(found: Sequence[dict[str, Any]]) -> list[Row]:
    """Return a row for each run, one for each kind of network with random weights, and one for the pixels, the best first.

    Raises `UserError` for runs on different data: errors are compared on the same images.
    """
    if len(sets := sorted({record["config"]["data"] for record in found})) > 1:
        raise UserError(f"runs on {' and '.join(sets)}: their errors do not compare; measure those on one set")
    made: dict[str, Row] = {}
    for record in found:
        recipe = record["recipe"].split("/")[-1]
        learnt = f"{recipe}, supervised" if not record["recipe"].startswith("SelfSupervised/") else recipe
        for prefix, name, training in (
            ("", learnt, results.time(record["training_seconds"])),
            (RANDOM, f"random {recipe}", ""),
            (PIXELS, "pixels", ""),
        ):
            if prefix + next(iter(COLUMNS)) in record["errors"]:
                made[name] = (name, training, [record["errors"][prefix + column] for column in COLUMNS])
    alike: dict[tuple[float, ...], Row] = {}  # SimCLR's encoder with random weights is the supervised one's
    for row in made.values():
        alike.setdefault(tuple(row[2]), row)
    return sorted(alike.values(), key=lambda row: row[2][2])


def table(found: Sequence[dict[str, Any]]) -> str:
    """Return `rows` as Markdown, test errors in per cent."""
    shown = [[name, training, *(f"{100 * error:.1f}" for error in errors)] for name, training, errors in rows(found)]
    return results.markdown_table(["features", "training", *COLUMNS.values()], shown) if found else "Nothing is recorded yet."


def figure(found: Sequence[dict[str, Any]]) -> "Figure":
    """Draw `rows`: a line for each, a mark for each column, over the test error."""
    made = rows(found)[::-1]  # the best is on top
    fig = plot.figure(8, 0.42 * len(made) + 1.5)
    axes = fig.add_axes((0.24, 0.9 / (0.42 * len(made) + 1.5), 0.52, 1 - 1.1 / (0.42 * len(made) + 1.5)))
    for column, (title, marker, color) in enumerate(
        zip(COLUMNS.values(), "os^Dv", ("tab:blue", "tab:cyan", "black", "tab:orange", "tab:red"))
    ):
        errors = [100 * row[2][column] for row in made]
        axes.plot(errors, range(len(made)), marker, color=color, markersize=7, label=title)
    axes.set_yticks(range(len(made)), [row[0] for row in made])
    axes.set_xlabel("test error, per cent")
    axes.grid(axis="both", linewidth=0.4)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return fig


def recorded() -> list[dict[str, Any]]:
    """Return what is recorded, in the order of the files."""
    return records.read(HERE / "results", RECORD)


def tables() -> list[tuple[Path, str, str]]:
    """Return the README's table of what is recorded, see `dl.cli.results.OTHERS`."""
    return [(HERE / "README.md", "results", table(recorded()))]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(
        description="Compare what features are worth that were learnt without labels.",
        prog="python -m dl.modules.SelfSupervised.compare",
    )
    parser.add_argument("runs", nargs="*", type=user_path, metavar="RUN", help="folders of runs on the same images")
    parser.add_argument("--record", action="store_true", help="add the runs to the recorded results, README and figure")
    return parser.parse_args(argv)


@command(parse)
def main(options: argparse.Namespace) -> None:
    measured = [measure(run, pixels=i == 0) for i, run in enumerate(options.runs)]
    if measured and not options.record:
        print(table(measured))
        return
    recipes = {record["recipe"] for record in measured}
    rows(measured + [record for record in recorded() if record["recipe"] not in recipes])  # raises before anything is written
    for record in measured:
        records.write(record, HERE / "results" / f"{record['recipe'].split('/')[-1]}.json")
    for each in tables():
        print(results.rewrite(*each))
    if found := recorded():
        plot.save_figure(figure(found), HERE / "results" / "probes.png")


if __name__ == "__main__":
    sys.exit(main())
