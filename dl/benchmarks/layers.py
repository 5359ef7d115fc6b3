"""The cost of our layers, losses and optimizers beside torch's: one forward and backward pass, or one step, of each.

    python -m dl.benchmarks.layers
    python -m dl.benchmarks.layers --rounds 3 --only Conv2d,LSTM

Both sides have the same weights and inputs, in float32. A round times every pair, ours and torch's one after the other, see
`dl.benchmarks.common`.
"""

import argparse
import sys
from pathlib import Path
from statistics import median
from typing import Any, Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dl.benchmarks import common
from dl.cli.command import command
from dl.cli.records import write
from dl.mytorch.files import read_json
from dl.mytorch.from_scratch import layers, losses, optimizers
from dl.mytorch.from_scratch.layers.attention import scaled_dot_product_attention
from dl.mytorch.from_scratch.layers.conv import conv2d_by_sums

FUSED = "each operation is a pass over memory, forth and back; torch's kernel is one"
IN_PYTHON = "64 steps of several operations, called from Python; torch loops in C++"
LOOP = "a loop over parameters; torch updates all in a few calls"
REASONS = {
    "Conv2d": "every window is written out for one product, 9 times the image; torch's kernel gathers as it goes",
    "Conv2d by sums": "9 products, each of a shifted image that is copied to be one",
    "Conv2d in 64 groups": "windows are written out as above, for products of 9 numbers only; torch has a kernel for this",
    "MaxPool2d": "windows are written out, and their gradients added up",
    "AvgPool2d": "gradients of windows are added up, side by side",
    "AdaptiveAvgPool2d": "two small matrix products",
    "BatchNorm2d": FUSED,
    "GroupNorm": FUSED,
    "Linear": "the same products",
    "LayerNorm": FUSED,
    "RMSNorm": "torch puts it together from the same operations on a CPU",
    "Dropout": "drawing the random numbers is most of both",
    "ReLU": FUSED,
    "GELU": FUSED,
    "SiLU": FUSED,
    "Softmax": FUSED,
    "attention": "the weights are written out; torch's kernel keeps a tile of them at a time",
    "embedding": "the same copies of rows, and sums of their gradients",
    "RNN": IN_PYTHON,
    "LSTM": IN_PYTHON,
    "GRU": IN_PYTHON,
    "cross_entropy": FUSED,
    "ctc_loss": "100 steps of several operations, called from Python; torch loops in C++, and knows the gradient",
    "SGD": LOOP,
    "Adagrad": LOOP,
    "RMSprop": LOOP,
    "Adam": LOOP,
    "AdamW": LOOP,
    "Muon": "the same products in bfloat16 are nearly all of it",
}
OPTIMIZERS = ["SGD", "Adagrad", "RMSprop", "Adam", "AdamW", "Muon"]

Run = Callable[[], None]
Pair = tuple[Callable[..., Any], Callable[..., Any]]  # ours and torch's


def layer(name: str, *arguments: Any, **options: Any) -> Pair:
    """With the same weights."""
    own, twin = (getattr(module, name)(*arguments, **options) for module in (layers, nn))
    own.load_state_dict(twin.state_dict())
    return own, twin


def image_cases() -> dict[str, Pair]:
    """Functions of maps (32, 64, 28, 28)."""
    twin = nn.Conv2d(64, 64, 3, padding=1)
    return {
        "Conv2d": layer("Conv2d", 64, 64, 3, padding=1),
        "Conv2d by sums": (lambda x: conv2d_by_sums(x, twin.weight, twin.bias, padding=1), twin),
        "Conv2d in 64 groups": layer("Conv2d", 64, 64, 3, padding=1, groups=64),
        "MaxPool2d": layer("MaxPool2d", 2),
        "AvgPool2d": layer("AvgPool2d", 2),
        "AdaptiveAvgPool2d": layer("AdaptiveAvgPool2d", 7),
        "BatchNorm2d": layer("BatchNorm2d", 64),
        "GroupNorm": layer("GroupNorm", 8, 64),
    }


def token_cases() -> dict[str, Pair]:
    """Functions of tokens (32, 128, 256)."""

    def in_heads(attend: Callable[..., Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda x: attend(*[x.unflatten(2, (8, 32)).transpose(1, 2)] * 3)  # 8 heads: (32, 8, 128, 32)

    return {
        "Linear": layer("Linear", 256, 1024),
        "LayerNorm": layer("LayerNorm", 256),
        "RMSNorm": layer("RMSNorm", 256),
        "Dropout": layer("Dropout", 0.1),
        "ReLU": layer("ReLU"),
        "GELU": layer("GELU"),
        "SiLU": layer("SiLU"),
        "Softmax": layer("Softmax", dim=-1),
        "attention": (in_heads(scaled_dot_product_attention), in_heads(F.scaled_dot_product_attention)),
    }


def other_cases() -> dict[str, tuple[Pair, tuple[int, ...]]]:
    """Functions of inputs of their own shape."""
    words, classes = torch.randint(8000, (32, 128)), torch.randint(1000, (256,))
    spoken, ends, lengths = torch.randint(1, 40, (16, 20)), torch.full((16,), 100), torch.full((16,), 20)
    table = torch.randn(8000, 256)

    def ctc(loss: Callable[..., Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda x: loss(x.log_softmax(2), spoken, ends, lengths)

    embeddings = (lambda weight: layers.embedding.embedding(words, weight), lambda weight: F.embedding(words, weight))
    entropies = (lambda x: losses.cross_entropy(x, classes), lambda x: F.cross_entropy(x, classes))
    return {
        "embedding": (embeddings, tuple(table.shape)),
        **{name: (layer(name, 128, 128), (64, 32, 128)) for name in ("RNN", "LSTM", "GRU")},
        "cross_entropy": (entropies, (256, 1000)),
        "ctc_loss": ((ctc(losses.ctc_loss), ctc(F.ctc_loss)), (100, 16, 40)),
    }


def forward_and_backward(function: Callable[..., Any], shape: tuple[int, ...]) -> Run:
    """One pass of each, with gradients of the input and the weights."""
    torch.manual_seed(0)
    x = torch.randn(shape, requires_grad=True)
    leaves = [x, *(function.parameters() if isinstance(function, nn.Module) else ())]
    gradient: Tensor | None = None

    def run() -> None:
        nonlocal gradient
        for leaf in leaves:
            leaf.grad = None
        y = function(x)
        y = y[0] if isinstance(y, tuple) else y
        gradient = torch.randn(y.shape) if gradient is None else gradient
        y.backward(gradient)

    return run


def update(optimizer: type[torch.optim.Optimizer]) -> Run:
    """One step for 24 matrices of 256 x 256."""
    torch.manual_seed(0)
    parameters = [nn.Parameter(torch.randn(256, 256)) for _ in range(24)]
    for parameter in parameters:
        parameter.grad = torch.randn(256, 256)
    moving = optimizer(parameters, lr=1e-3, **({"momentum": 0.9} if optimizer.__name__ == "SGD" else {}))
    return lambda: moving.step()


def pairs() -> dict[str, tuple[Run, ...]]:
    """name -> what runs ours, what runs torch's."""
    cases = {name: (pair, (32, 64, 28, 28)) for name, pair in image_cases().items()}
    cases |= {name: (pair, (32, 128, 256)) for name, pair in token_cases().items()} | other_cases()
    found = {name: tuple(forward_and_backward(side, shape) for side in pair) for name, (pair, shape) in cases.items()}
    for name in OPTIMIZERS:
        found[name] = tuple(update(getattr(module, name)) for module in (optimizers, torch.optim))
    return found


def measure(runs: dict[str, tuple[Run, Run]], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """name -> (ours, torch's) in seconds, one pair a round."""
    taken = common.seconds({(name, side): run for name, pair in runs.items() for side, run in enumerate(pair)}, rounds)
    return {name: list(zip(taken[name, 0], taken[name, 1])) for name in runs}


def table(seconds: dict[str, list[tuple[float, float]]]) -> str:
    """Return the table in Markdown: milliseconds, ratio, reason."""
    lines = ["| | torch, ms | ours, ms | ratio | why |", "| --- | --- | --- | --- | --- |"]
    for name, rounds in seconds.items():
        own, twin = (1e3 * median(side) for side in zip(*rounds))
        ratio = common.ratio(*zip(*rounds))
        lines.append(f"| {name} | {twin:.2f} | {own:.2f} | {ratio:.1f} | {REASONS[name]} |")
    return "\n".join(lines)


def tables() -> list[tuple[Path, str, str]]:
    """Return the README's table of what is recorded, see `dl.cli.results.OTHERS`."""
    record = read_json(common.RESULTS / "layers.json", {"seconds": {str: [[float]]}})
    return [(Path(layers.__path__[0]) / "README.md", "results", table(record["seconds"]))]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = common.parser(__spec__.name, "The cost of our layers, losses and optimizers beside torch's.")
    parser.add_argument("--rounds", type=int, default=15, help="timed runs of each (default: %(default)s)")
    names = list(REASONS)
    parser.add_argument("--only", type=common.some_of(names), default=names, help="layers, separated by commas; default: all")
    return common.parse(parser, argv)


@command(parse)
def main(options: argparse.Namespace) -> None:
    about = common.about_this_machine(options.command) | {"rounds": options.rounds}
    runs = {name: pair for name, pair in pairs().items() if name in options.only}
    seconds = measure(runs, options.rounds)
    write(about | {"seconds": seconds}, options.out)
    print(f"{about['device']}\n\n{table(seconds)}")


if __name__ == "__main__":
    sys.exit(main())
