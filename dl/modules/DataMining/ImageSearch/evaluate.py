"""How often the nearest images are of the query's class: recall@1, recall@5 and mAP.

    python -m dl.modules.DataMining.ImageSearch.evaluate fashion --weights runs/CNN/ResNet
    python -m dl.modules.DataMining.ImageSearch.evaluate fashion --weights runs/DataMining/MetricLearning
    python -m dl.modules.DataMining.ImageSearch.evaluate hymenoptera FOLDER --weights squeezenet1_0.pth --record
    python -m dl.modules.DataMining.ImageSearch.evaluate table        # only the README's, from what is recorded

With --record the figures also go into the recorded results, one for each set and loss, and into the README.

fashion: the first 1,000 test images of Fashion-MNIST among 10,000 of those that the run trained on, by its features and by
raw pixels; and the shares of other test images, digits (MNIST), noise and inverted images that the index does not know.
hymenoptera: the images in FOLDER/val among those in FOLDER/train, by SqueezeNet's features for ImageNet.
"""

import argparse
import sys
from os.path import expanduser
from pathlib import Path
from typing import Any, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from dl.cli import records, results
from dl.cli.command import command
from dl.cli.runs import Run
from dl.modules.DataMining.ImageSearch.decision import fit, threshold
from dl.modules.DataMining.ImageSearch.features import Extractor
from dl.modules.DataMining.ImageSearch.images import Images, open_images
from dl.modules.DataMining.neighbours import Exact
from dl.mytorch import plot
from dl.mytorch.command_line import Parser
from dl.mytorch.config import UserError, user_path
from dl.mytorch.data import centre_square

HERE = Path(__file__).parent
QUERIES = 1000
INDEXED = 10_000  # training images
OTHERS = 2000  # images of each kind that the index may know or not
DISTANCES = ("l1", "l2", "cosine")
RECORD = {
    **{"data": str, "queries": int, "index": int, "network": {"backbone": str}, "unknown?": {str: float}},
    **{"rows": [{"of": str, "distance": str, "recall1": float, "recall5": float, "map": float}]},
    "run": {"loss?": str, "command?": str, "commit?": str},
}


def recall(labels: Tensor, found: Tensor, k: int) -> float:
    """recall@k: the share of queries, labels (Q,), with one of their class among the first k found, labels (Q, n)."""
    return (found[:, :k] == labels[:, None]).any(1).double().mean().item()


def mean_average_precision(labels: Tensor, ranked: Tensor) -> float:
    """mAP: for each query, the mean of the precision at each image of its class in the whole ranking.

    `labels` (Q,) are those of the queries, `ranked` (Q, N) those of the rankings. Queries without any do not count.
    """
    right = (ranked == labels[:, None]).double()
    precision = right.cumsum(1) / torch.arange(1, ranked.shape[1] + 1)
    counts = right.sum(1)
    return ((precision * right).sum(1)[counts > 0] / counts[counts > 0]).mean().item()


def figures(queries: Tensor, labels: Tensor, vectors: Tensor, own: Tensor) -> list[dict[str, Any]]:
    """The three figures under each distance, of queries (Q, D) with labels (Q,) among vectors (N, D) with labels (N,)."""
    rows = []
    for distance in DISTANCES:
        a, b = (F.normalize(x) if distance == "cosine" else x for x in (queries, vectors))  # as L2 of directions ranks
        ranked = own[torch.cdist(a, b, p=1 if distance == "l1" else 2).argsort(dim=1, stable=True)]
        numbers = {"recall1": recall(labels, ranked, 1), "recall5": recall(labels, ranked, 5)}
        rows.append({"distance": distance, **numbers, "map": mean_average_precision(labels, ranked)})
    return rows


def embed(extractor: Extractor, images: Images, numbers: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return features (N, D) and raw squares (N, 3, 32, 32) of bytes of some images."""
    features, squares = [], []
    for start in range(0, len(numbers), 64):
        read = [images.read(i) for i in numbers[start : start + 64]]
        features.append(extractor(read))
        squares += [centre_square(image, 32) for image in read]
    return torch.cat(features), torch.stack(squares)


def draw(
    path: Path, queries: Sequence[Tensor], neighbours: Sequence[Sequence[Tensor]], titles: Sequence[Sequence[str]]
) -> None:
    """A row for each query: itself and its five nearest, as squares, under their titles."""
    squares = [centre_square(each, 96) for query, found in zip(queries, neighbours) for each in (query, *found)]
    grid = torch.stack(squares).float() / 255
    plot.save_figure(plot.image_grid(grid, [title for row in titles for title in row], columns=6), path)


def unknown(extractor: Extractor, vectors: Tensor, labels: Sequence[str], seed: int = 0) -> dict[str, float]:
    """Shares of 2,000 images each that an index of these vectors (N, D), calibrated on validation images, does not know."""
    exact = Exact(vectors)
    parts = {"val": ("fashion_mnist", "val"), "test": ("fashion_mnist", "test"), "MNIST": ("mnist", "test")}
    read = {name: open_images(*part, seed) for name, part in parts.items()}
    images = {name: [each.read(i) for i in range(OTHERS)] for name, each in read.items()}
    images["noise"] = list(torch.randint(256, (OTHERS, 3, 28, 28), generator=torch.Generator().manual_seed(seed)).byte())
    images["inverted"] = [255 - image for image in images["test"]]
    features = {name: torch.cat([extractor(own[s : s + 100]) for s in range(0, OTHERS, 100)]) for name, own in images.items()}
    limit, score = threshold(exact, labels, features.pop("val"))["distance"], fit(exact, labels)
    return {name: (score(own).sqrt() > limit).double().mean().item() for name, own in features.items()}


def evaluate(
    source: str,
    extractor: Extractor,
    index: Images,
    test: Images,
    numbers: Sequence[int],
    shown: Sequence[int],
    figure: Path,
) -> dict[str, Any]:
    """Return the record of a set; and, where a `figure` is asked for, the figure of the queries `shown`."""
    names = sorted(set(index.labels) | set(test.labels))
    if not {test.labels[i] for i in numbers} & set(index.labels[:INDEXED]):
        raise UserError(f"no query is of a class of the index ({', '.join(sorted(set(index.labels)))}): nothing to find")
    labels = torch.tensor([names.index(test.labels[i]) for i in numbers])
    own = torch.tensor([names.index(label) for label in index.labels[:INDEXED]])
    vectors, pixels = embed(extractor, index, range(len(own)))
    queries, query_pixels = embed(extractor, test, numbers)
    raw = tuple(squares.flatten(1).float() / 255 for squares in (query_pixels, pixels))
    kinds = {"features": (queries, vectors), "raw pixels": raw}
    rows = [{"of": kind, **row} for kind, (q, x) in kinds.items() for row in figures(q, labels, x, own)]
    if figure != Path():
        distances, found = Exact(vectors).search(queries[list(shown)], 5, "l2")
        titles = [
            [test.labels[numbers[i]], *(f"{index.labels[j]}\n{d:.3g}" for j, d in zip(near, far))]
            for i, near, far in zip(shown, found.tolist(), distances.tolist())
        ]
        neighbours = [[index.read(j) for j in near] for near in found.tolist()]
        draw(figure, [test.read(numbers[i]) for i in shown], neighbours, titles)
    network = {name: extractor.about[name] for name in ("backbone", "preset", "layer", "size")}
    record = {"data": source, "queries": len(numbers), "index": len(own), "network": network, "rows": rows}
    if source == "fashion_mnist":
        record["unknown"] = unknown(extractor, vectors, index.labels[:INDEXED])
    return record


def about_run(weights: str) -> dict[str, Any]:
    """Return how the network of a run was trained; of a file, nothing is known."""
    if not Path(weights).is_dir():
        return {}
    described = Run.open(weights).described
    loss = described["config"].get("loss", "cross-entropy")
    return {"loss": loss, **{name: described[name] for name in ("command", "commit")}}


def table(found: Sequence[dict[str, Any]]) -> str:
    """Return a row for each set, kind of vector and distance; raw pixels once for each set.

    Then what the index does not know.
    """
    lines: dict[tuple[str, ...], list[str]] = {}
    for record in found:
        for row in record["rows"]:
            what = f"{record['data']}: {record['queries']:,} among {record['index']:,}"
            key = (what, _title(record) if row["of"] == "features" else row["of"], row["distance"])
            lines.setdefault(key, [*key, *(f"{row[name]:.1%}" for name in ("recall1", "recall5", "map"))])
    ordered = sorted(lines.values(), key=lambda line: (line[0], line[1] == "raw pixels"))
    parts = [results.markdown_table(["queries", "by", "distance", "recall@1", "recall@5", "mAP"], ordered)]
    asked = [record for record in found if "unknown" in record]
    if asked:
        names = list(asked[0]["unknown"])
        rows = [[_title(record), *(f"{record['unknown'][name]:.1%}" for name in names)] for record in asked]
        parts.append(results.markdown_table(['"I don\'t know this image", by', *names], rows))
    return "\n\n".join(parts)


def _title(record: dict[str, Any]) -> str:
    loss = record["run"].get("loss", "ImageNet's weights")
    return f"{record['network']['backbone'].replace('DataMining/ImageSearch', 'CNN/ResNet')}, {loss}"


def recorded() -> list[dict[str, Any]]:
    """Return what is recorded, in the order of the files."""
    return records.read(HERE / "results", RECORD)


def tables() -> list[tuple[Path, str, str]]:
    """Return the README's table of what is recorded, see `dl.cli.results.OTHERS`."""
    return [(HERE / "README.md", "results", table(recorded()))]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(description="Recall and mAP of search.", prog="python -m dl.modules.DataMining.ImageSearch.evaluate")
    parser.add_argument("set", choices=["fashion", "hymenoptera", "table"], help="what to search in")
    parser.add_argument("folder", nargs="?", type=expanduser, default="", help="of hymenoptera, with the folders train and val")
    parser.add_argument(
        "--weights", type=expanduser, default="", help="folder of a run, or file of torchvision's SqueezeNet 1.0"
    )
    parser.add_argument("--figure", type=user_path, default=Path(), help="also write a figure of some queries")
    parser.add_argument("--record", action="store_true", help="add the figures to the recorded results and the README")
    options = parser.parse_args(argv)
    return options


@command(parse)
def main(options: argparse.Namespace) -> None:
    if options.set == "fashion":
        index, test = open_images("fashion_mnist"), open_images("fashion_mnist", "test")
        first = [test.labels.index(label) for label in dict.fromkeys(test.labels[:QUERIES])]
        extractor = Extractor(weights=options.weights)
        record = evaluate("fashion_mnist", extractor, index, test, range(QUERIES), first, options.figure)
    elif options.set == "hymenoptera":
        index, test = (open_images(f"{options.folder}/{part}") for part in ("train", "val"))
        shown = [0, 40, 75, 100, 140]
        extractor = Extractor("CNN/SqueezeNet", options.weights)
        shown = [i for i in shown if i < len(test.names)]
        record = evaluate("hymenoptera", extractor, index, test, range(len(test.names)), shown, options.figure)
    if options.set != "table":
        record["run"] = about_run(options.weights)
        if not options.record:
            print(table([record]))
            return
        name = "-".join(filter(None, [record["data"], record["run"].get("loss")]))
        records.write(record, HERE / "results" / f"{name}.json")
    for each in tables():
        print(results.rewrite(*each))


if __name__ == "__main__":
    sys.exit(main())
