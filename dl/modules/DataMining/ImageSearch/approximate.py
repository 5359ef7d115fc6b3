"""Nearest neighbours in an index too large to go through: by faiss's inverted file, which finds nearly all of them.

`pip install -e ".[search]"`. Vectors are in cells around the means of k-means, of 8 bits a number (Jegou, Douze & Schmid 2011,
https://doi.org/10.1109/TPAMI.2010.57, section IV, without their product quantizer). A query meets the vectors of the nearest
cells only; the best of these, more than were asked for, are then ordered by their exact distances.
"""

import math
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from dl.modules.DataMining.neighbours import Exact, power
from dl.mytorch.config import UserError

CELLS = 32  # that a query looks into
CANDIDATES = 10  # for each neighbour that is asked for, and 100 more
TRAINING = 64  # vectors for each cell, of which k-means finds the cells
KINDS = ("l2", "cosine")  # the file for vectors as they are serves all lP


def build(exact: Exact, kind: str, path: Path) -> None:
    """Put the vectors into cells, and these into the file `path`. Raises `ModuleNotFoundError` when faiss is not installed."""
    import faiss

    cells = max(1, min(round(4 * math.sqrt(len(exact))), len(exact) // TRAINING))
    index = faiss.index_factory(exact.length, f"IVF{cells},SQ8")
    chosen = torch.arange(0, len(exact), max(1, len(exact) // (TRAINING * cells)))
    index.train(_as(kind, exact.rows(chosen)).numpy())
    for block in exact.blocks:
        index.add(_as(kind, block).numpy())
    faiss.write_index(index, str(path))


class Approximate:
    """Searches as `Exact` does, by the files of `build`, name of the kind -> path: nearly all of the nearest are found."""

    def __init__(self, exact: Exact, files: dict[str, Path]) -> None:
        try:
            import faiss
        except ModuleNotFoundError:
            raise UserError('this index is searched by faiss: pip install -e ".[search]"') from None
        self.exact = exact
        self.indices = {}
        for kind, path in files.items():
            try:
                index = faiss.read_index(str(path))
            except RuntimeError:
                raise UserError(f"{path} is not faiss's: --fresh rebuilds the index") from None
            if (index.ntotal, index.d) != (len(exact), exact.length):
                raise UserError(f"{path} is of other vectors: --fresh rebuilds the index")
            index.nprobe = CELLS
            self.indices[kind] = index

    def search(self, queries: Tensor, k: int = 5, distance: str = "l2") -> tuple[Tensor, Tensor]:
        """Search as `Exact.search` does. The largest products, "dot", are found exactly."""
        if distance == "dot":
            return self.exact.search(queries, k, distance)
        power(distance)
        kind = "cosine" if distance == "cosine" else "l2"
        k = min(k, len(self.exact))
        wanted = min(CANDIDATES * k + 100, len(self.exact))
        _, found = self.indices[kind].search(_as(kind, queries).numpy(), wanted)
        parts = []
        for query, rows in zip(queries.split(1), torch.from_numpy(found)):
            rows = rows[rows >= 0].sort().values  # -1: the cells held fewer
            if len(rows) < k:
                parts.append(self.exact.search(query, k, distance))
                continue
            distances, places = Exact(self.exact.rows(rows)).search(query, k, distance)
            parts.append((distances, rows[places]))
        distances, rows = (torch.cat(part) for part in zip(*parts))
        return distances, rows


def _as(kind: str, vectors: Tensor) -> Tensor:
    """Vectors (N, D) in float32; for "cosine" of length 1, among which the nearest under L2 are the nearest under cosine."""
    return (F.normalize(vectors.float()) if kind == "cosine" else vectors.float()).contiguous()
