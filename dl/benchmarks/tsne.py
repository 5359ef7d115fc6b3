"""t-SNE beside scikit-learn's and openTSNE's: seconds, divergence and trustworthiness on features of Fashion-MNIST.

    python -m dl.benchmarks.tsne --weights runs/CNN/ResNet
    python -m dl.benchmarks.tsne --weights runs/CNN/ResNet --points 30000 --only ours openTSNE

All start at the first two principal components, with perplexity 30; the others take 1,000 iterations, 250 of them exaggerated
by 12, ours its default. All run on as many threads as torch has. The divergence of all maps is computed by the same function,
with the exact normalisation, from the same similarities. Maps are made one after the other, once: a machine with other work
gives other seconds.
"""

import argparse
import sys
from functools import partial
from os.path import expanduser
from typing import Callable, Sequence

import torch
from torch import Tensor

from dl.benchmarks import common
from dl.cli.command import command
from dl.cli.records import write
from dl.modules.DataMining.ImageSearch.features import Extractor
from dl.modules.DataMining.ImageSearch.images import open_images
from dl.modules.DataMining.TSNE.tsne import kl_divergence, similarities, tsne
from dl.mytorch import plot
from dl.mytorch.config import user_path
from dl.mytorch.data import centre_square


def contenders() -> dict[str, Callable[[Tensor], Tensor]]:
    """name -> features (N, D) to a map (N, 2); those that are installed."""
    found: dict[str, Callable[[Tensor], Tensor]] = {"ours": tsne}
    jobs = torch.get_num_threads()
    try:
        from sklearn.manifold import TSNE

        theirs = TSNE(init="pca", perplexity=30, max_iter=1000, random_state=0, n_jobs=jobs)
        found["scikit-learn"] = lambda features: torch.from_numpy(theirs.fit_transform(features.numpy()))
    except ImportError:
        pass
    try:
        import openTSNE

        open_tsne = openTSNE.TSNE(perplexity=30, n_iter=750, initialization="pca", random_state=0, n_jobs=jobs)
        found["openTSNE"] = lambda features: torch.from_numpy(open_tsne.fit(features.numpy()).__array__()).float()
    except ImportError:
        pass
    return found


def trustworthiness(features: Tensor, points: Tensor, k: int = 10) -> float:
    """Venna & Kaski 2001: 1, less for each of a point's k nearest on the map by how far it is from the k nearest in truth."""
    count, excess = len(features), 0
    for rows in torch.arange(count).split(1000):
        itself = torch.arange(len(rows)), rows
        near = torch.cdist(points[rows], points).index_put(itself, torch.tensor(torch.inf)).topk(k, largest=False).indices
        distances = torch.cdist(features[rows], features).index_put(itself, torch.tensor(-1.0))
        ranks = torch.searchsorted(distances.sort(1).values, distances.gather(1, near))  # 0 is the point itself
        excess += (ranks - k).clamp_min(0).sum().item()
    return 1 - 2 / (count * k * (2 * count - 3 * k - 1)) * excess


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = common.parser(__spec__.name, "t-SNE beside scikit-learn's and openTSNE's.")
    parser.add_argument("--weights", type=expanduser, required=True, help="folder of a run of CNN/ResNet")
    parser.add_argument("--data", default="fashion_mnist", help="set of images (default: %(default)s)")
    parser.add_argument("--points", type=int, default=10_000, help="how many features (default: %(default)s)")
    parser.add_argument("--only", nargs="+", help="names of some contenders; default: all that are installed")
    parser.add_argument("--figure", type=user_path, help="also draw our map into this file")
    return common.parse(parser, argv)


@command(parse)
def main(options: argparse.Namespace) -> None:
    about = common.about_this_machine(options.command)
    indexed, extractor = open_images(options.data), Extractor("CNN/ResNet", options.weights)
    starts = range(0, min(options.points, len(indexed.names)), 100)
    features = torch.cat([extractor([indexed.read(i) for i in range(s, min(s + 100, options.points))]) for s in starts])
    pairs = similarities(features)
    rows = {}
    print(f"{'':14} {'seconds':>8} {'divergence':>11} {'trustworthiness':>16}")
    for name, make in contenders().items():
        if options.only and name not in options.only:
            continue
        seconds, points = common.timed(partial(make, features))
        rows[name] = {
            **{"seconds": round(seconds, 2), "divergence": kl_divergence(points, pairs)},
            "trustworthiness": trustworthiness(features, points),
        }
        if name == "ours" and options.figure:
            images = torch.stack([centre_square(indexed.read(i), 32) for i in range(len(points))])
            plot.save_figure(plot.scatter(points, indexed.labels[: len(points)], images), options.figure)
        print(f"{name:14} {seconds:8.1f} {rows[name]['divergence']:11.4f} {rows[name]['trustworthiness']:16.4f}", flush=True)
    write(about | {"points": len(features), "data": options.data, "maps": rows}, options.out)
    print(f"{about['device']}, {len(features):,} features of {features.shape[1]}; written to {options.out}")


if __name__ == "__main__":
    sys.exit(main())
