"""Reading images out of tar files beside webdataset: the same files, decoding, batches, shuffling and standardising.

    python -m dl.benchmarks.tar
    python -m dl.benchmarks.tar --rounds 3 --samples 1000

The bundled sample of Fashion-MNIST, as PNGs of 28 x 28 and as JPEGs of 224 x 224, in ten tar files that
`dl.mytorch.data.images.tar` writes; batches of 128, in this process and by two others. A round is an epoch of each
contender, see `dl.benchmarks.common`; files are in the page cache. webdataset (extra [bench]) reads files from their
beginning, in a random order, and shuffles among 1,000 samples; ours reads each sample where it lies, shuffled as a whole.
"""

import argparse
import io
import sys
import tempfile
from pathlib import Path
from typing import Any, Callable, Iterator, Sequence

import torch
from PIL import Image
from torch.utils.data import DataLoader, default_collate

from dl.benchmarks import common
from dl.cli.command import command
from dl.cli.records import write
from dl.mytorch.data import Batch, Loader
from dl.mytorch.data.images import idx, tar
from dl.mytorch.data.images.folder import IMAGENET
from dl.mytorch.data.images.imagefile import centre_square, read_image

BATCH, BUFFER, SHARDS = 128, 1000, 10
KINDS = {"PNG, 28 x 28": ("png", 28), "JPEG, 224 x 224": ("jpg", 224)}
Contender = Callable[[], Iterator[Batch]]  # -> the batches of an epoch


def write_set(folder: Path, samples: int, suffix: str, size: int) -> list[Path]:
    """Write images as a folder of classes, and these as shards. Return the shards."""
    images, _ = idx.load("fashion_mnist-sample")
    for label in range(len(idx.CLOTHES)):
        (folder / "images" / str(label)).mkdir(parents=True)
    for i in range(samples):
        source = i % len(images["labels"])
        image = (
            Image.fromarray(images["images"][source, 0].numpy()).convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
        )
        image.save(folder / "images" / str(int(images["labels"][source])) / f"{i}.{suffix}")
    tar.write_shards(folder / "images", folder / "shards", samples=-(-samples // SHARDS))
    return sorted((folder / "shards").glob("*.tar"))


def ours(shards: list[Path], size: int, workers: int) -> Contender:
    """Return the epochs of a `Loader` of these shards."""
    data = tar.Tarred(shards, size, len(idx.CLOTHES))
    loader = Loader(data, BATCH, shuffle=True, num_workers=workers, transform=IMAGENET)
    epoch = iter(range(sys.maxsize))
    return lambda: loader.batches(next(epoch))


def by_webdataset(shards: list[Path], size: int, workers: int) -> Contender | None:
    """Return the epochs of webdataset, as its documentation puts them together; None when it is not installed."""
    try:
        import webdataset
    except ImportError:
        return None

    def decode(sample: dict[str, Any]) -> Batch:
        content = sample["png" if "png" in sample else "jpg"]
        image = read_image(sample["__key__"], io.BytesIO(content))
        return {"images": centre_square(image, size), "labels": torch.tensor(int(sample["cls"]))}

    data = webdataset.WebDataset([path.as_posix() for path in shards], shardshuffle=len(shards), seed=0).shuffle(BUFFER)
    data = data.map(decode).batched(BATCH, collation_fn=default_collate)
    loader = DataLoader(data, batch_size=None, num_workers=workers, persistent_workers=workers > 0)
    return lambda: (IMAGENET(batch, torch.Generator()) for batch in loader)


def read(batches: Contender, samples: int) -> Callable[[], None]:
    """Return what a round times: an epoch, whose samples are counted."""

    def epoch() -> None:
        found = sum(len(batch["labels"]) for batch in batches())
        assert found == samples, f"{found} of {samples} samples"

    return epoch


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = common.parser(__spec__.name, "Reading images out of tar files beside webdataset.")
    parser.add_argument("--rounds", type=int, default=5, help="epochs of each contender")
    parser.add_argument("--samples", type=int, default=5_000, help="how many PNGs there are; of JPEGs a fifth")
    parser.add_argument("--workers", type=int, default=2, help="processes that read, beside a run without")
    return common.parse(parser, argv)


@command(parse)
def main(options: argparse.Namespace) -> None:
    about = common.about_this_machine(options.command)
    speeds: dict[str, common.Speeds] = {}
    for kind, (suffix, size) in KINDS.items():
        samples = options.samples if suffix == "png" else options.samples // 5
        with tempfile.TemporaryDirectory() as folder:
            shards = write_set(Path(folder), samples, suffix, size)
            for workers in (0, options.workers):
                made = {"webdataset": by_webdataset(shards, size, workers), "ours": ours(shards, size, workers)}
                present = {name: read(contender, samples) for name, contender in made.items() if contender}
                case = f"{kind}, {workers or 'no'} workers"
                speeds[case] = common.rates(common.seconds(present, options.rounds, warm_ups=1), samples)
                print(f"{case}\n{common.table(speeds[case], 'samples/s')}", flush=True)
    write(about | {"samples": options.samples, "rounds": options.rounds, "samples_per_second": speeds}, options.out)
    print(f"{about['device']}; written to {options.out}")


if __name__ == "__main__":
    sys.exit(main())
