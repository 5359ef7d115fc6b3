"""Sets of small graphs with a class each, in the text format of https://chrsmrrs.github.io/datasets (Morris et al. 2020).

- mutag: 188 molecules, of which 125 are mutagenic on a bacterium; 7 kinds of atoms. Debnath et al. 1991.
- proteins: 1,113 proteins, of which 663 are enzymes; 3 kinds of secondary structure. Borgwardt et al. 2005.

A node's features are its kind, one-hot; the number that PROTEINS has beside it for each node is not used. There is no published
split: graphs are dealt to ten folds, class by class.
"""

import io
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dl.mytorch.config import TrainConfig, UserError
from dl.mytorch.data import sources
from dl.mytorch.data.graphs.batches import Graph, padded
from dl.mytorch.data.graphs.nodes import sorted_edges
from dl.mytorch.data.loader import Batch, Loader, Splits
from dl.mytorch.data.sources import LARGEST, Source

FOLDS = 10
SHAPES = {"mutag": (7, 2), "proteins": (3, 2)}  # features and classes of each set
COUNTS = {"mutag": (188, 3371, 7442), "proteins": (1113, 43471, 162088)}  # graphs, nodes, edges in both directions
TITLES = {"mutag": "MUTAG", "proteins": "PROTEINS"}
SOURCES = {
    name: Source(
        ("tudataset", ""),
        {f"{title}.zip": None},
        f"put https://www.chrsmrrs.com/graphkerneldatasets/{title}.zip there, as it is",
    )
    for name, title in TITLES.items()
}


class Files(NamedTuple):
    """The files of a set that are read, as arrays of whole numbers."""

    edges: np.ndarray  # (E, 2), nodes from 1
    graphs: np.ndarray  # (N,): the graph of each node, from 1
    labels: np.ndarray  # (G,)
    tags: np.ndarray  # (N,)


def load(name: str) -> list[Graph]:
    """Return the graphs of MUTAG or PROTEINS.

    Raises `UserError` when the set is unavailable, or its file is not the published one.
    """
    path = sources.get(name, SOURCES[name]) / f"{TITLES[name]}.zip"
    found = read(path, TITLES[name])
    counts = len(found.labels), len(found.tags), len(found.edges)
    if counts != COUNTS[name]:
        raise UserError(f"{path} has {counts} graphs, nodes and edges, not {COUNTS[name]}: delete it, and get it again")
    return split_up(found)


def read(path: Path, title: str) -> Files:
    """Return the content of a zip. Raises `UserError`, in one line, for what is no such file."""
    arrays = []
    try:
        with zipfile.ZipFile(path) as archive:
            for part in ("A", "graph_indicator", "graph_labels", "node_labels"):
                member = archive.getinfo(f"{title}/{title}_{part}.txt")
                if member.file_size > LARGEST:
                    raise UserError(f"{path}: {member.filename} is too large to be what it should be")
                text = io.BytesIO(archive.read(member))
                arrays.append(np.loadtxt(text, dtype=np.int64, delimiter=",", ndmin=2 if part == "A" else 1))
        files = Files(*arrays)
        _check(files)
    except (KeyError, ValueError, IndexError, zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is no set of graphs ({' '.join(str(error).split())}): delete it, and get it again") from None
    return files


def _check(files: Files) -> None:
    """Raise `ValueError` unless the arrays belong together."""
    edges, graphs, labels, tags = files
    if edges.shape[1] != 2 or len(graphs) != len(tags) or not len(tags) or tags.min() < 0:
        raise ValueError("its files do not belong together")
    if not (1 <= edges.min(initial=1) and edges.max(initial=1) <= len(tags)):
        raise ValueError("an edge has a node that does not exist")
    if (np.diff(graphs) < 0).any() or not np.array_equal(np.unique(graphs), np.arange(1, len(labels) + 1)):
        raise ValueError("nodes are not in the order of their graphs")
    if (graphs[edges[:, 0] - 1] != graphs[edges[:, 1] - 1]).any():
        raise ValueError("an edge leads from one graph to another")


def split_up(files: Files) -> list[Graph]:
    """Return the graphs, their nodes numbered from 0, classes from 0 in the order of their numbers in the file."""
    sizes = np.bincount(files.graphs - 1)
    starts = np.cumsum([0, *sizes])
    edges = sorted_edges(torch.from_numpy(files.edges.T.copy()) - 1, len(files.tags))
    ends = torch.searchsorted(edges[1].contiguous(), torch.from_numpy(starts))
    features = torch.nn.functional.one_hot(torch.from_numpy(files.tags)).float()
    classes = np.unique(files.labels, return_inverse=True)[1].tolist()
    return [
        Graph(features[a:b], edges[:, first:last] - a, label)
        for a, b, first, last, label in zip(starts.tolist(), starts[1:].tolist(), ends, ends[1:], classes)
    ]


def folds(labels: Tensor) -> Tensor:
    """Return the fold of each graph (G,), from 0 to 9: the graphs of a class are shuffled and dealt, so that all folds have
    about the same share of it. The folds are the same for every seed of a training."""
    generator = torch.Generator().manual_seed(0)
    found, dealt = torch.empty_like(labels), 0
    for label in labels.unique():
        members = (labels == label).nonzero().flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        found[members] = (torch.arange(len(members)) + dealt) % FOLDS
        dealt += len(members)  # the next class starts where this one ended: no fold is larger than another by more than 1
    return found


def graph_splits(config: TrainConfig, fold: int) -> Splits:
    """Return loaders in which fold `fold` tests, the next one validates and the other eight train.

    Raises `UserError` for another set than those of `SHAPES`, and as `load` does.
    """
    if config.data not in SHAPES:
        raise UserError(f"--data {config.data}: this recipe's function loads {', '.join(SHAPES)}")
    return fold_splits(config, padded(load(config.data)), fold)


def fold_splits(config: TrainConfig, graphs: Batch, fold: int) -> Splits:
    """Return `graph_splits` of these graphs."""
    of = folds(graphs["labels"])
    tests, validates = of == fold, of == (fold + 1) % FOLDS
    parts = [{key: tensor[part] for key, tensor in graphs.items()} for part in (~(tests | validates), validates, tests)]
    return Splits(*(Loader(part, config.batch_size, shuffle=i == 0, seed=config.seed) for i, part in enumerate(parts)))
