"""Trained weights that come with the project: each file data/weights/<Category>-<Model>.pt is a run, small enough for a clone.

    python -m dl.cli.bundled runs/CNN/LeNet runs/GPT/GPT2   # make them, of finished runs

A file holds tensors alone: the best weights by their names, in half precision, and the run's texts (config.json, vocabularies,
names of classes) as bytes. It is unpacked into the folder of a run, beside it, which every command opens as any other. Its row
in NOTICE.md is written, too.
"""

import argparse
import sys
from pathlib import Path
from typing import Sequence

import torch
from torch import Tensor

from dl.cli import catalogue
from dl.cli.command import command
from dl.mytorch.checkpoint import load, save
from dl.mytorch.command_line import Parser
from dl.mytorch.config import UserError, user_path
from dl.mytorch.files import atomic_write, recorded_write
from dl.mytorch.run import read_described

FOLDER = catalogue.ROOT / "data" / "weights"
MOST, MOST_IN_ALL = 4 * 2**20, 12 * 2**20  # bytes
TEXTS = ("config.json", "names.json", "vocabulary-*.json")
TEXT = "file:"  # before the name of a text
TRAINED = {  # where a run's data is from, as NOTICE.md says it; and an agent's environment
    "fashion_mnist": "on Fashion-MNIST (MIT)",
    "fashion_mnist-sample": "on Fashion-MNIST (MIT)",
    "shakespeare": "on tiny Shakespeare (public domain)",
    "shakespeare-sample": "on eight plays of Shakespeare (public domain)",
    "sst2": "on SST-2 (no licence stated)",
    "karate": "on Zachary's karate club (facts)",
    "cora": "on Cora of Planetoid (MIT)",
    "bccd": "on BCCD (MIT)",
    "CartPole-v1": "in CartPole-v1 of gymnasium (MIT)",
}


def file_of(recipe: str) -> Path:
    """Return where the weights of a recipe, as "CNN/LeNet", are if they are bundled."""
    return FOLDER / f"{recipe.replace('/', '-')}.pt"


def unpack(recipe: str) -> Path:
    """Return the folder of the run that is bundled for `recipe`, written from its file.

    Raises `UserError` for a file that is damaged, of another recipe, or holds numbers that are not finite.
    """
    file = file_of(recipe)
    state = load(file)
    if not all(isinstance(each, Tensor) for each in state.values()):
        raise UserError(f"{file} holds more than tensors: it is no file of bundled weights")
    texts = {name.removeprefix(TEXT): each for name, each in state.items() if name.startswith(TEXT)}
    numbers = {name: each for name, each in state.items() if not name.startswith(TEXT)}
    weights = {name: each.float() if each.dtype == torch.float16 else each for name, each in numbers.items()}
    if broken := [name for name, weight in weights.items() if not weight.isfinite().all()]:
        raise UserError(f"{file}: {broken[0]} holds numbers that are not finite")
    folder = FOLDER / ".unpacked" / file.stem
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        if Path(name).name != name or not any(Path(name).match(pattern) for pattern in TEXTS) or text.dtype != torch.uint8:
            raise UserError(f"{file}: {name!r} is no text of a run")
        with recorded_write(folder / name) as out:
            out.write(bytes(text.tolist()))
    save(weights, folder / "best.pt")
    if "config.json" not in texts or read_described(folder)["recipe"] != recipe:
        raise UserError(f"{file} is not of {recipe}")
    return folder


def bundle(run: Path) -> Path:
    """Write the file of a run, and return its path.

    Raises `UserError` for one that is too large, of data whose licence is not known here, or whose numbers are out of the range
    of half precision.
    """
    described = read_described(run)
    recipe, config = described["recipe"], described["config"]
    data = config.get("data", config.get("env"))
    if data not in TRAINED:
        raise UserError(f"{run} was trained on {data}, of which {Path(__file__).name} does not say whose it is")
    state = load(run / "best.pt")
    weights = {name: weight.half() if weight.is_floating_point() else weight for name, weight in state.items()}
    if broken := [name for name, weight in weights.items() if not weight.isfinite().all()]:
        raise UserError(f"{run}: {broken[0]} is out of the range of half precision")
    texts = {TEXT + path.name: path.read_bytes() for pattern in TEXTS for path in sorted(run.glob(pattern))}
    size = sum(weight.nbytes for weight in weights.values()) + sum(map(len, texts.values()))
    others = sum(path.stat().st_size for path in FOLDER.glob("*.pt") if path != file_of(recipe))
    if size > MOST or others + size > MOST_IN_ALL:
        raise UserError(
            f"{run} would take {size / 2**20:.1f} MB in data/weights, which has {others / 2**20:.1f}: "
            f"at most {MOST >> 20} each and {MOST_IN_ALL >> 20} in all"
        )
    FOLDER.mkdir(parents=True, exist_ok=True)
    as_bytes = {name: torch.frombuffer(bytearray(text), dtype=torch.uint8) for name, text in texts.items()}
    save({**weights, **as_bytes}, file_of(recipe))
    _notice(file_of(recipe).name, TRAINED[data])
    return file_of(recipe)


def _notice(name: str, trained: str) -> None:
    """Put the row of a file of weights into NOTICE.md, in place of the one before."""
    path, first = catalogue.ROOT / "NOTICE.md", f"| `data/weights/{name}` |"
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith(first)]
    later = [i for i, line in enumerate(lines) if line.startswith("| `data/weights/") and line > first]
    lines.insert(later[0], f"{first} weights, in half precision | trained here {trained} | that of the code |")
    with atomic_write(path) as file:
        file.write(("\n".join(lines) + "\n").encode())


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(description="Put the best weights of runs into data/weights.", prog="python -m dl.cli.bundled")
    parser.add_argument("runs", nargs="+", type=user_path, metavar="RUN", help="folders of runs")
    return parser.parse_args(argv)


@command(parse)
def main(options: argparse.Namespace) -> None:
    for run in options.runs:
        path = bundle(run)
        print(f"{path.relative_to(catalogue.ROOT)}: {path.stat().st_size / 2**20:.2f} MB")


if __name__ == "__main__":
    sys.exit(main())
