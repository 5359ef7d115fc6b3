"""Cora and CiteSeer, with the public split of Yang, Cohen & Salakhutdinov 2016, https://arxiv.org/abs/1603.08861.

Papers are nodes, citations are edges, a feature is a word that the paper has, the class is its subject. The eight published
files of a set, `ind.cora.x` and so on, are pickles of Python 2. They are read once, after their checksums, by an unpickler that
constructs arrays, dicts and lists only; what they hold is kept beside them as `ind.cora.npz`, which later starts read.

Rows of the test nodes are in the order of `test.index`, which is not sorted. 15 nodes of CiteSeer are missing there: they have
neither features nor a label and are in no split. 48 of its nodes have no edge; the edges do not tell how many nodes there are.
"""

import io
import pickle
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dl.mytorch.config import UserError
from dl.mytorch.data import sources
from dl.mytorch.data.graphs.nodes import SHAPES, NodeGraph, sorted_edges
from dl.mytorch.data.sources import Remote, Source
from dl.mytorch.distributed import is_main
from dl.mytorch.files import recorded_write, verify

_URL = "https://raw.githubusercontent.com/kimiyoung/planetoid/af6abf468a772cc055bec88c52e4d6f51b7c37e3/data"
_HELP = "put the files ind.{0}.* of https://github.com/kimiyoung/planetoid/tree/master/data there, or train on --data karate"
# File (without "ind."), its git blob, its SHA-256.
_PUBLISHED = """
cora.x c4a91d008245403e7f26aa616b437191509793c0 23cfa55d91c6f624233f5eb7b6e3f141f1bd2b2ae39608a63cf5d084bb27baab
cora.y 58e30ef120d3553cfaac33ff28c6b5436dbef661 94465c14eb53e04ca262198dcbb2521ee8af60fb3f3d546cd6ca24a511b0e7d1
cora.tx 6e856d777401ee15dc8619db76c97d0a40ba2d60 b9afbaa4a400df991f6f02ef677e1e44da55ffc04801fd02f9e673987829226a
cora.ty da1734ab670b5c8ecee78a9c30b35566df916f4b 41f5ac76596a1699cc33f53084a2419e92961c42bb75f36fc38e616d348532ad
cora.allx 44d53b1fece343538e45592caac521d73c6f98d6 9419ba2f26f5c35243db64aba110e0f35a04851609e0dc5433450676ca6b8543
cora.ally 04fbd0b083d09341fcf16b395c642329637f0542 2b998f5cc7fedc86e7f97ca2498f47a1ffc1462c29e2d578b23bf3f62b6e7d71
cora.graph 4d3bf85dfc8b1c105a2c995597a1b3eed6947925 58f13302f39dde8852dad6fe6d15b89b077b6d7f837626bce671ef80344b383d
cora.test.index ded8092db4cd767a367eebe09003b954a5316f24 297ce89af2b51a6a194181c7dbe1796c6a1cf9cd9349a88383b1b1e227867875
citeseer.x f094104a66f2689ffbd01085fe6a856689e9db9e d20de19150741e555de0ed037195630fc194114ebc7fd72ced62810148aa22f6
citeseer.y e857ac49b611da98e101a068cf4855350274f68a 8ba87e515d8e3ee3cf52f6d2c5b86aa73f11ecad825a808455209ec26cd54924
citeseer.tx b2aff18aa1fc6f4f5e8c64db7643b59b24e42584 539a8906a2da97628d212f2fdd668c109a8b3f0d36574b59e5d3fd5b5303da21
citeseer.ty 3795f79df0cd1123f4478b77c148a5fbacc4cefb 55e5bd1ba1e733a04598753ad1a8d57957f4b8f89e74519f41f4f4938767e4ce
citeseer.allx 592091071ac35b78599c722d0e60b1c655711728 2ac30345d95c9ec933a817ee0bdd6a5f077f8c184a20e696910192d534414668
citeseer.ally 7503f81a0b6ac1cc21cb5a97073542a6b1dfe99c f704b2d986dde6c2669934de1f3ae5696a6cf9455c0f6b2646a2d135ea0a1c95
citeseer.graph a01dca663d0103c130f525017a4a9c313037e286 d79a4ef9d3e7169aee8946145f6b7306e35bc79bffad26346cfb94e10e9912a7
citeseer.test.index 62d9e3d5ed53c66b069125af98529d76c70d9b3e 2af990671580b6b2df5d158d1038f8292e30c9cd821b5453f399659b25b723d4
"""
CHECKSUMS = {f"ind.{name}": checksum for name, _, checksum in map(str.split, _PUBLISHED.strip().splitlines())}
_REMOTES = {
    f"ind.{name}": Remote(f"{_URL}/ind.{name}", blob) for name, blob, _ in map(str.split, _PUBLISHED.strip().splitlines())
}
PARTS = ("x", "y", "tx", "ty", "allx", "ally", "graph", "test.index")
SOURCES = {
    name: Source(("planetoid",), {f"ind.{name}.{part}": _REMOTES[f"ind.{name}.{part}"] for part in PARTS}, _HELP.format(name))
    for name in ("cora", "citeseer")
}
CLASSES = {
    "cora": ("Theory", "Reinforcement", "Genetic", "Neural", "Probabilistic", "Case-based", "Rules"),
    "citeseer": ("AI", "ML", "IR", "DB", "Agents", "HCI"),
}
_ARRAYS = ("indptr", "indices", "labels", "edges", "train", "val", "test")


def load(name: str) -> NodeGraph:
    """Return Cora or CiteSeer. Raises `UserError` when a file is missing, not the published one, or changed."""
    folder = sources.get(name, SOURCES[name])
    kept = folder / f"ind.{name}.npz"
    if kept.exists() and verify(kept):  # without a checksum it is not ours
        return _graph(name, _arrays(kept))
    arrays = parse({part: _read(folder / f"ind.{name}.{part}") for part in PARTS})
    if is_main():
        _keep(arrays, kept)
    return _graph(name, arrays)


def _read(path: Path) -> Any:
    content = sources.read_checked(path, CHECKSUMS[path.name])
    return content.decode() if path.name.endswith(".index") else unpickle(content)


def _graph(name: str, arrays: dict[str, np.ndarray]) -> NodeGraph:
    tensors = {key: torch.from_numpy(arrays[key]) for key in _ARRAYS}
    return NodeGraph(**tensors, num_features=SHAPES[name][0], names=CLASSES[name])


def _arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return {key: file[key] for key in _ARRAYS}


def _keep(arrays: dict[str, np.ndarray], path: Path) -> None:
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    try:
        with recorded_write(path) as file:
            file.write(content.getvalue())
    except UserError as error:  # a folder that others own, say: the next start reads the published files again
        print(f"note: {error}", flush=True)


def parse(parts: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return the arrays of a `NodeGraph` from the content of the eight files.

    `allx` and `ally` are of all nodes but those of the test, whose rows `tx` and `ty` belong to `test.index`.
    """
    test = np.array(parts["test.index"].split(), dtype=np.int64)
    known, trains = parts["allx"].shape[0], parts["x"].shape[0]
    num_nodes = max(known, int(test.max()) + 1)
    rows = [np.zeros(0, np.int64)] * num_nodes  # the features of each node
    labels = np.zeros(num_nodes, np.int64)
    for matrix, one_hot, nodes in ((parts["allx"], parts["ally"], range(known)), (parts["tx"], parts["ty"], test.tolist())):
        for i, node in enumerate(nodes):
            rows[node] = np.sort(matrix.indices[matrix.indptr[i] : matrix.indptr[i + 1]]).astype(np.int64)
            labels[node] = one_hot[i].argmax()
    pairs = torch.tensor([(node, other) for node, near in parts["graph"].items() for other in near]).T
    return {
        "indptr": np.cumsum([0, *map(len, rows)]),
        "indices": np.concatenate(rows),
        "labels": labels,
        "edges": sorted_edges(pairs, num_nodes).numpy(),
        "train": np.arange(trains),
        "val": np.arange(trains, trains + 500),
        "test": np.sort(test),
    }


# ---- pickles -------------------------------------------------------------------------------------------------------


class CSR:
    """Stands in for scipy's csr_matrix in a pickle: its arrays as they are."""

    data: np.ndarray
    indices: np.ndarray
    indptr: np.ndarray
    _shape: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int]:
        """Return rows and columns."""
        return self._shape


def unpickle(content: bytes) -> Any:
    """Return the array, matrix or dict of lists in a pickle. Raises `UnpicklingError` where it asks for anything else."""
    return _Arrays(io.BytesIO(content), encoding="latin1").load()


def _dtype(kind: str, *_: Any) -> np.dtype:
    if kind not in ("i4", "i8", "f4", "f8"):
        raise pickle.UnpicklingError(f"an array of {kind} has no place in a graph")
    return np.dtype(kind)


class _Arrays(pickle.Unpickler):
    """Constructs arrays of numbers, `CSR`, dicts and lists; any other thing that a pickle may ask for is refused."""

    _RECONSTRUCT = np.zeros(0).__reduce__()[0]  # newer NumPy has it at another place
    ALLOWED = {
        ("numpy.core.multiarray", "_reconstruct"): lambda *_: _Arrays._RECONSTRUCT(np.ndarray, (0,), b"b"),
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): _dtype,
        ("scipy.sparse.csr", "csr_matrix"): CSR,
        ("collections", "defaultdict"): lambda *_: defaultdict(list),
        ("__builtin__", "list"): list,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} has no place in a file of a graph")
        return self.ALLOWED[module, name]
