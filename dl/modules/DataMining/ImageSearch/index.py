"""An index of images on disk: their features at a layer of a trained network.

    python -m dl.modules.DataMining.ImageSearch.index fashion_mnist --weights runs/CNN/ResNet
    python -m dl.modules.DataMining.ImageSearch.index IMAGES --backbone CNN/SqueezeNet --weights squeezenet1_0.pth

The same command again adds what is new or changed, removes what is gone, and embeds nothing else. Killed at any moment,
it resumes after the last whole shard, and ends with the same bytes as if nothing had happened.

The folder: `index.json`, and for each shard of up to 1,024 images the features `000000.npy`, (images, D) in float32,
and their names, labels and stamps (checksums of the images' files), `000000.json`. A file is written under another name
and renamed; index.json, which comes last, holds the checksums of all, and its own. What it does not name does not count. Of
`--approximate-above` images and more there are the files of approximate.py too, if faiss is there. Other files in the
folder are left alone, and a folder of other files is not taken for an index.
"""

import argparse
import sys
from functools import cached_property
from os.path import expanduser
from pathlib import Path
from typing import Any, Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from dl.cli.command import command
from dl.modules.DataMining.ImageSearch.approximate import KINDS, Approximate, build
from dl.modules.DataMining.ImageSearch.decision import fit, threshold
from dl.modules.DataMining.ImageSearch.features import Extractor
from dl.modules.DataMining.ImageSearch.images import Images, open_images, track
from dl.modules.DataMining.ImageSearch.store import (
    ANEW,
    add_shard,
    checksum,
    make_folder,
    read_manifest,
    read_shard,
    remove_unnamed,
    verify,
    write_manifest,
)
from dl.modules.DataMining.mahalanobis import Mahalanobis
from dl.modules.DataMining.neighbours import Exact
from dl.mytorch.command_line import Parser
from dl.mytorch.config import UserError, user_path
from dl.mytorch.data.images.sets import IMAGE_SETS

SHARD = 1024  # images
BATCH = 64  # images per forward pass
LARGE = 200_000  # images, from which on search is approximate
UNMADE = {"verdict": None, "approximate": None}  # what is made of all images, when these come or go
FOLDER = "runs/DataMining/ImageSearch"

Embed = Callable[[Sequence[Tensor]], Tensor]


class Index:
    """An index that is read: `vectors`, memory-mapped (N, D) in blocks, `names` and `labels` of the N rows, and `about`.

    Raises `UserError` that names the file when there is no index or a file of it is missing or altered.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        if not (self.folder / "index.json").exists():
            raise UserError(f"{folder} holds no index; `python -m dl.modules.DataMining.ImageSearch.index` makes one")
        self.about = read_manifest(self.folder)
        self.vectors: list[Tensor] = []
        self.names: list[str] = []
        self.labels: list[str] = []
        for shard in self.about["shards"]:
            rows, vectors = read_shard(self.folder, shard, self.about["network"]["size"])
            self.names += rows["names"]
            self.labels += rows["labels"]
            if rows["names"]:
                self.vectors.append(torch.from_numpy(vectors))
        if not self.names:
            raise UserError(f"{folder} is an index of no images")
        self.exact = Exact(self.vectors)
        if len(self.exact.nonfinite):
            name = self.names[self.exact.nonfinite[0]]
            raise UserError(f"{folder} holds features that are not finite, first those of {name}: {ANEW}")
        sums = self.about["approximate"] or {}
        for kind, expected in sums.items():
            verify(self.folder / f"{kind}.faiss", expected)
        files = {kind: self.folder / f"{kind}.faiss" for kind in sums}
        self.nearest = Approximate(self.exact, files) if files else self.exact

    @cached_property
    def ood_score(self) -> Mahalanobis:
        """Return the OOD score: the squared Mahalanobis distance from features to the nearest class of the index."""
        return fit(self.exact, self.labels)

    def images(self) -> Images:
        """Return the images that were indexed, where they still are."""
        return open_images(self.about["source"], seed=self.about["seed"])

    def shown(self, rows: Sequence[int]) -> list[Tensor]:
        """Return the images (3, H, W) of these rows; white for one that is gone since, or cannot be read any more."""
        images = self.images()
        places = {name: i for i, name in enumerate(images.names)}
        found = []
        for row in rows:
            try:
                found.append(images.read(places[self.names[row]]))
            except (KeyError, UserError):
                found.append(torch.full((3, 32, 32), 255, dtype=torch.uint8))
        return found

    def extractor(self) -> Extractor:
        """Return the network that the index was made with. Raises `UserError` when it is gone, or another now."""
        network = self.about["network"]
        if network["weights"] and not Path(network["weights"]).exists():
            gone = f"{network['weights']}, whose network {self.folder} was made with, is gone"
            raise UserError(f"{gone}: if it has moved, index again with its new place as --weights")
        extractor = Extractor(*(network[name] for name in ("backbone", "weights", "preset", "layer")))
        if any(extractor.about[name] != network[name] for name in ("sha256", "size")):
            now = f"{network['weights']} holds now" if network["weights"] else "are published now"
            raise UserError(f"{self.folder} was made with other weights than {now}: index again, --fresh")
        return extractor


def update(
    folder: Path | str, images: Images, embed: Embed, network: dict[str, Any], seed: int = 0, fresh: bool = False
) -> list[str]:
    """Bring the index in `folder` to what `images` are now, or rebuild it; a line for each image that cannot be read.

    Raises `UserError` when the folder holds an index of other images or of another network, or what is no index.
    """
    folder = Path(folder)
    make_folder(folder)
    new = {"source": images.source, "seed": seed, "network": network, "shards": [], **UNMADE}
    about = read_manifest(folder) if (folder / "index.json").exists() and not fresh else new
    about["network"]["weights"] = network["weights"]  # wherever they are now: whether they are the same, "sha256" says
    for name in ("source", "seed", "network"):
        if about[name] != new[name]:
            raise UserError(f"{folder} holds an index of another {name}: choose another --index, or --fresh to delete that one")
    write_manifest(folder, about)  # before the shards, so that after a kill the folder is known to be an index
    remove_unnamed(folder, about)
    stamps = {images.names[i]: images.stamp(i) for i in track(range(len(images.names)), "file", "checksums")}
    known, problems = _remove_gone(folder, about, stamps)
    remove_unnamed(folder, about)  # when nothing of it is mapped any more
    missing = [i for i, name in enumerate(images.names) if name not in known]
    for start in track(range(0, len(missing), SHARD), "shard", "indexing"):
        rows, vectors, skipped = _embedded(images, stamps, missing[start : start + SHARD], embed, network["size"])
        problems += skipped
        add_shard(folder, about, rows, vectors)
        about |= UNMADE
        write_manifest(folder, about)
    return problems


def calibrate(folder: Path | str, held_out: Tensor | None = None) -> None:
    """Write into the index how near to it known images are, see `decision.threshold`; once, until images come or go."""
    index = Index(folder)
    if index.about["verdict"] is None:
        write_manifest(index.folder, {**index.about, "verdict": threshold(index.exact, index.labels, held_out)})


def approximate(folder: Path | str, above: int = LARGE) -> None:
    """Make the files of approximate.py for an index of `above` images or more; once, until images come or go.

    Raises `ModuleNotFoundError` when faiss is not installed.
    """
    index = Index(folder)
    if len(index.names) < above or index.about["approximate"] is not None:
        return
    for kind in KINDS:
        build(index.exact, kind, index.folder / "faiss.tmp")
        (index.folder / "faiss.tmp").replace(index.folder / f"{kind}.faiss")
    sums = {kind: checksum(index.folder / f"{kind}.faiss") for kind in KINDS}
    write_manifest(index.folder, {**index.about, "approximate": sums})


def _remove_gone(folder: Path, about: dict[str, Any], stamps: dict[str, str]) -> tuple[set[str], list[str]]:
    """Drop the rows whose image is gone or has changed; the names that stay, and what cannot be read as before."""
    known: set[str] = set()
    problems: list[str] = []
    for shard in list(about["shards"]):
        rows, vectors = read_shard(folder, shard, about["network"]["size"])
        stay = [i for i, name in enumerate(rows["names"]) if stamps.get(name) == rows["stamps"][i]]
        skipped = {name: skip for name, skip in rows["skipped"].items() if stamps.get(name) == skip["stamp"]}
        if len(stay) < len(rows["names"]) or len(skipped) < len(rows["skipped"]):
            kept = {part: [rows[part][i] for i in stay] for part in ("names", "labels", "stamps")} | {"skipped": skipped}
            if stay or skipped:
                add_shard(folder, about, kept, vectors[stay])
            about["shards"].remove(shard)
            about |= UNMADE
            write_manifest(folder, about)
        known |= {rows["names"][i] for i in stay} | set(skipped)
        problems += [skip["cause"] for skip in skipped.values()]
    return known, problems


def _embedded(
    images: Images, stamps: dict[str, str], numbers: list[int], embed: Embed, size: int
) -> tuple[dict[str, Any], np.ndarray, list[str]]:
    """Return the rows and features (N, size) of the images with these numbers, and the causes why others have none."""
    rows: dict[str, Any] = {"names": [], "labels": [], "stamps": [], "skipped": {}}
    vectors = [np.empty((0, size), np.float32)]
    for start in range(0, len(numbers), BATCH):
        read: dict[int, Tensor] = {}
        causes: dict[int, str] = {}
        for i in numbers[start : start + BATCH]:
            try:
                read[i] = images.read(i)
            except UserError as error:
                causes[i] = str(error)
        features = embed(list(read.values())).numpy() if read else vectors[0]
        finite = np.isfinite(features).all(1)
        vectors.append(features[finite])
        causes |= {i: f"{images.names[i]}: its features are not finite" for i, good in zip(read, finite) if not good}
        for i in (i for i in read if i not in causes):
            name = images.names[i]
            for part, value in (("names", name), ("labels", images.labels[i]), ("stamps", stamps[name])):
                rows[part].append(value)
        rows["skipped"] |= {
            images.names[i]: {"stamp": stamps[images.names[i]], "cause": cause} for i, cause in sorted(causes.items())
        }
    return rows, np.concatenate(vectors), [skip["cause"] for skip in rows["skipped"].values()]


# ---- the command ---------------------------------------------------------------------------------------------------


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(
        description="Index images by their features at a layer of a trained network.",
        prog="python -m dl.modules.DataMining.ImageSearch.index",
    )
    parser.add_argument("source", type=expanduser, metavar="FOLDER", help=f"of images; or a data set: {', '.join(IMAGE_SETS)}")
    parser.add_argument(
        "--index", type=user_path, default=Path(FOLDER), help="folder to keep the index in (default: %(default)s)"
    )
    parser.add_argument("--backbone", default="", help="folder of the network; default: that of the run, or CNN/ResNet")
    parser.add_argument(
        "--weights", type=expanduser, default="", help="folder of a run, or file of torchvision's weights; default: downloaded"
    )
    parser.add_argument("--preset", default="", help="which of torchvision's networks; default: the folder's first")
    parser.add_argument("--layer", default="", help="as `python -m dl summary` names it; default: what the classifier reads")
    parser.add_argument(
        "--held-out", type=expanduser, default="", help="folder of known images to calibrate on; default: see the README"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the run, whose validation images calibrate")
    large = "number of images from which the search is approximate, through faiss (default: %(default)s)"
    parser.add_argument("--approximate-above", type=int, default=LARGE, metavar="N", help=large)
    parser.add_argument("--fresh", action="store_true", help="delete the index that is there, and start over")
    options = parser.parse_args(argv)
    if options.approximate_above < 1 or not 0 <= options.seed < 2**32:
        parser.error("--approximate-above has to be at least 1, and --seed from 0 to 4294967295")
    return options


def make(options: argparse.Namespace) -> None:
    """Index the images that the command line names."""
    images = open_images(options.source, seed=options.seed)
    extractor = Extractor(options.backbone, options.weights, options.preset, options.layer)
    try:
        problems = update(options.index, images, extractor, extractor.about, options.seed, options.fresh)
    except KeyboardInterrupt:
        print(f"stopped: the same command resumes after the last {SHARD:,} images that are indexed", file=sys.stderr)
        raise
    if len(problems) == len(images.names):
        raise UserError(f"none of the {len(problems)} images can be indexed: {problems[0]}")
    calibrate(options.index, _held_out(options, extractor))
    try:
        approximate(options.index, options.approximate_above)
    except ModuleNotFoundError as error:
        print(f"search goes through all images: {error}", file=sys.stderr)
    index = Index(options.index)
    for problem in problems:
        print(f"left out: {problem}", file=sys.stderr)
    print(f"{options.index}: {len(index.names):,} images, features of {extractor.about['size']} numbers")


def _held_out(options: argparse.Namespace, extractor: Extractor) -> Tensor | None:
    """Return features of known images that are not in the index, if there are any and they are needed."""
    source = options.held_out or (options.source if options.source in IMAGE_SETS else "")
    if not source or Index(options.index).about["verdict"] is not None:
        return None
    known = open_images(source, "val", options.seed)
    read = [known.read(i) for i in range(len(known.names))]
    return torch.cat([extractor(read[start : start + BATCH]) for start in range(0, len(read), BATCH)])


main = command(parse)(make)


if __name__ == "__main__":
    sys.exit(main())
