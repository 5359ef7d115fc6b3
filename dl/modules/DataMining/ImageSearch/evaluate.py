"""How often the nearest pictures are of the query's class: recall@1, recall@5 and mAP, recorded and put into the README.

    python -m dl.modules.DataMining.ImageSearch.evaluate fashion --weights runs/CNN/ResNet
    python -m dl.modules.DataMining.ImageSearch.evaluate hymenoptera FOLDER --weights squeezenet1_0.pth
    python -m dl.modules.DataMining.ImageSearch.evaluate table        # only the table, from what is recorded

fashion: the first 1,000 test images of Fashion-MNIST among 10,000 of those that the run trained on, by its features and by
raw pixels. hymenoptera: the pictures in FOLDER/val among those in FOLDER/train, by SqueezeNet's features for ImageNet.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from dl import results
from dl.modules.DataMining.ImageSearch.exact import Exact
from dl.modules.DataMining.ImageSearch.features import Extractor
from dl.modules.DataMining.ImageSearch.pictures import Pictures, open_pictures
from dl.mytorch import plot
from dl.mytorch.checkpoint import write_json
from dl.mytorch.config import UserError
from dl.mytorch.data import centre_square

HERE = Path(__file__).parent
QUERIES = 1000
INDEXED = 10_000  # training images
DISTANCES = ("l1", "l2", "cosine")


def recall(labels: Tensor, found: Tensor, k: int) -> float:
    """recall@k of retrieval: the share of queries, labels (Q,), with one of their class among the first k found, labels (Q, n)."""
    return (found[:, :k] == labels[:, None]).any(1).double().mean().item()


def mean_average_precision(labels: Tensor, ranked: Tensor) -> float:
    """mAP: for each query, the mean of the precision at each picture of its class in the whole ranking.

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


def embed(extractor: Extractor, pictures: Pictures, numbers: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Features (N, D) and raw squares (N, 3, 32, 32) of bytes of some pictures."""
    features, squares = [], []
    for start in range(0, len(numbers), 64):
        read = [pictures.read(i) for i in numbers[start : start + 64]]
        features.append(extractor(read))
        squares += [centre_square(picture, 32) for picture in read]
    return torch.cat(features), torch.stack(squares)


def draw(
    path: Path, queries: Sequence[Tensor], neighbours: Sequence[Sequence[Tensor]], titles: Sequence[Sequence[str]]
) -> None:
    """A row for each query: itself and its five nearest, as squares, under their titles."""
    squares = [centre_square(each, 96) for query, found in zip(queries, neighbours) for each in (query, *found)]
    grid = torch.stack(squares).float() / 255
    plot.save_figure(plot.image_grid(grid, [title for row in titles for title in row], columns=6), path)


def evaluate(
    source: str,
    extractor: Extractor,
    index: Pictures,
    test: Pictures,
    numbers: Sequence[int],
    shown: Sequence[int],
    figure: Path,
) -> dict[str, Any]:
    """The record of a set; and the picture `figure` of the queries `shown`."""
    names = sorted(set(index.labels))
    labels = torch.tensor([names.index(test.labels[i]) for i in numbers])
    own = torch.tensor([names.index(label) for label in index.labels[:INDEXED]])
    vectors, pixels = embed(extractor, index, range(len(own)))
    queries, query_pixels = embed(extractor, test, numbers)
    raw = tuple(squares.flatten(1).float() / 255 for squares in (query_pixels, pixels))
    kinds = {"features": (queries, vectors), "pixels": raw}
    rows = [{"of": kind, **row} for kind, (q, x) in kinds.items() for row in figures(q, labels, x, own)]
    distances, found = Exact(vectors).search(queries[list(shown)], 5, "l2")
    titles = [
        [test.labels[numbers[i]], *(f"{index.labels[j]}\n{d:.3g}" for j, d in zip(near, far))]
        for i, near, far in zip(shown, found.tolist(), distances.tolist())
    ]
    neighbours = [[index.read(j) for j in near] for near in found.tolist()]
    draw(figure, [test.read(numbers[i]) for i in shown], neighbours, titles)
    network = {name: extractor.about[name] for name in ("backbone", "preset", "layer", "size")}
    return {"data": source, "queries": len(numbers), "index": len(own), "network": network, "rows": rows}


def table(records: Sequence[dict[str, Any]]) -> str:
    """A row for each set, kind of vector and distance."""
    lines = []
    for record in records:
        for row in record["rows"]:
            kind = f"{record['network']['backbone']}'s features" if row["of"] == "features" else "raw pixels"
            numbers = (f"{row[name]:.1%}" for name in ("recall1", "recall5", "map"))
            what = f"{record['data']}: {record['queries']:,} among {record['index']:,}"
            lines.append([what, kind, row["distance"], *numbers])
    return results.markdown_table(["queries", "by", "distance", "recall@1", "recall@5", "mAP"], lines)


def recorded() -> list[dict[str, Any]]:
    """What is recorded, in the order of the files."""
    return [json.loads(path.read_text()) for path in sorted((HERE / "results").glob("*.json"))]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Recall and mAP of search.", prog="python -m dl.modules.DataMining.ImageSearch.evaluate"
    )
    parser.add_argument("set", choices=["fashion", "hymenoptera", "table"], help="what to search in")
    parser.add_argument("folder", nargs="?", default="", help="of hymenoptera, with the folders train and val")
    parser.add_argument("--weights", default="", help="folder of a run of CNN/ResNet, or file of torchvision's SqueezeNet 1.0")
    parser.add_argument("--figure", type=Path, default=Path("queries.png"), help="picture to write (default: %(default)s)")
    options = parser.parse_args(argv)
    try:
        (HERE / "results").mkdir(exist_ok=True)
        if options.set == "fashion":
            index, test = open_pictures("fashion_mnist"), open_pictures("fashion_mnist", "test")
            first = [test.labels.index(label) for label in dict.fromkeys(test.labels[:QUERIES])]
            extractor = Extractor("CNN/ResNet", options.weights)
            record = evaluate("fashion_mnist", extractor, index, test, range(QUERIES), first, options.figure)
        elif options.set == "hymenoptera":
            index, test = (open_pictures(f"{options.folder}/{part}") for part in ("train", "val"))
            shown = [0, 40, 75, 100, 140]
            extractor = Extractor("CNN/SqueezeNet", options.weights)
            shown = [i for i in shown if i < len(test.names)]
            record = evaluate("hymenoptera", extractor, index, test, range(len(test.names)), shown, options.figure)
        if options.set != "table":
            write_json(record, HERE / "results" / f"{record['data']}.json")
        print(results.rewrite(HERE / "README.md", "results", table(recorded())))
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
