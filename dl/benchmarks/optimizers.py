"""Our optimizers side by side: an MLP on Fashion-MNIST, loss curves of each at the best of three rates.

    python -m dl.benchmarks.optimizers
    python -m dl.benchmarks.optimizers --only "Adam;Lion" --data fashion_mnist-sample --epochs 3

All train the "d2l" MLP from the same weights on the same batches of 128, with weight decay 0 and a rate that warms up over a
twentieth of the steps and falls along a cosine. Each is run at three rates, a factor of 3 apart; the curves are those of
the rate with the lowest validation loss at the end. The test set is not touched. The time of a step is that of the
optimizer alone, without the passes through the network, on one core: the median over all steps.
"""

import argparse
import math
import sys
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Callable, Sequence

import torch
from torch import nn

from dl.benchmarks import common
from dl.cli.command import command
from dl.cli.records import write
from dl.modules.MLP.MLP.model import build
from dl.mytorch import plot
from dl.mytorch.data import ImageConfig, Splits, image_splits
from dl.mytorch.files import read_json
from dl.mytorch.from_scratch import optimizers
from dl.mytorch.from_scratch.losses import cross_entropy
from dl.mytorch.optim import warmup_cosine

if TYPE_CHECKING:
    from matplotlib.figure import Figure

POINT = 30  # steps between two points of a curve

Make = Callable[[nn.Module, float], list[torch.optim.Optimizer]]


def muon(model: nn.Module, lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the hidden matrices; what it is not for stays with AdamW at its usual rate."""
    hidden = [p for p in model.hidden.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if all(p is not matrix for matrix in hidden)]
    return [optimizers.Muon(hidden, lr=lr, weight_decay=0.0), optimizers.AdamW(others, lr=1e-3, weight_decay=0.0)]


def simple(name: str, **options: Any) -> Make:
    return lambda model, lr: [getattr(optimizers, name)(model.parameters(), lr=lr, **options)]


CONTENDERS: dict[str, tuple[float, Make]] = {  # name -> the middle rate, optimizers
    "SGD": (0.3, simple("SGD")),
    "SGD, momentum 0.9": (0.1, simple("SGD", momentum=0.9)),
    "SGD, Nesterov 0.9": (0.1, simple("SGD", momentum=0.9, nesterov=True)),
    "Adagrad": (0.02, simple("Adagrad")),
    "RMSprop": (3e-3, simple("RMSprop")),
    "Adam": (6e-3, simple("Adam")),
    "Lion": (1e-3, simple("Lion")),
    "LAMB": (0.02, simple("LAMB", weight_decay=0.0)),
    "Muon": (0.02, muon),
}


def train(make: Make, lr: float, data: Splits, epochs: int, preset: str) -> dict[str, Any]:
    """One run: every `POINT` steps the mean training loss of the last `POINT`, the validation loss and error."""
    torch.manual_seed(0)
    model = build(preset)
    moving = make(model, lr)
    groups = [(group, group["lr"]) for optimizer in moving for group in optimizer.param_groups]
    schedule, total, step = warmup_cosine(0.05), epochs * len(data.train), 0
    steps, curve, validation, losses, seconds = [], [], [], [], []
    for epoch in range(epochs):
        for batch in data.train.batches(epoch):
            for group, peak in groups:
                group["lr"] = peak * schedule(step, total)
            model.zero_grad()
            loss = cross_entropy(model(batch["images"]), batch["labels"])
            loss.backward()
            started = time.process_time()
            for optimizer in moving:
                optimizer.step()
            seconds.append(time.process_time() - started)
            losses.append(loss.detach())
            step += 1
            if step % POINT == 0 or step == total:
                steps.append(step)
                curve.append(torch.stack(losses[-POINT:]).mean().item())
                validation.append(evaluate(model, data))
    val_loss, val_top1_error = zip(*validation)
    figures = {"lr": lr, "milliseconds": round(1e3 * median(seconds), 3), "steps": steps, "train_loss": curve}
    return figures | {"val_loss": val_loss, "val_top1_error": val_top1_error}


@torch.no_grad()
def evaluate(model: nn.Module, data: Splits) -> tuple[float, float]:
    """Validation loss and top-1 error."""
    model.eval()
    outputs = [(model(batch["images"]), batch["labels"]) for batch in data.val.batches()]
    logits, labels = (torch.cat(parts) for parts in zip(*outputs))
    model.train()
    return cross_entropy(logits, labels).item(), (logits.argmax(1) != labels).double().mean().item()


def last(run: dict[str, Any]) -> float:
    """Validation loss at the end; infinite when the run came to nothing."""
    loss = run["val_loss"][-1]
    return loss if math.isfinite(loss) else math.inf


def draw(best: dict[str, dict[str, Any]]) -> "Figure":
    """Training and validation loss of each over the steps."""
    fig = plot.figure(11, 4.6)
    fig.subplots_adjust(left=0.05, right=0.8, bottom=0.11, top=0.92, wspace=0.15)
    axes = fig.subplots(1, 2, sharey=True)
    for number, (name, run) in enumerate(best.items()):
        for chart, key in zip(axes, ("train_loss", "val_loss")):
            chart.plot(run["steps"], run[key], color=f"C{number}", label=f"{name}, lr {run['lr']:.2g}", linewidth=1.3)
    for chart, title in zip(axes, ("training loss", "validation loss")):
        lowest = min(min(run["train_loss"]) for run in best.values())
        chart.set_ylim(0.9 * lowest, 1.0)
        chart.set_title(title)
        chart.set_xlabel("step")
        chart.grid(alpha=0.3)
    fig.legend(*axes[0].get_legend_handles_labels(), loc="center right", fontsize=8)
    return fig


def table(best: dict[str, dict[str, Any]]) -> str:
    """Return the table in Markdown, the lowest validation loss first."""
    lines = ["| optimizer | rate | training loss | validation loss | validation error | a step, ms |", "| --- " * 6 + "|"]
    for name, run in sorted(best.items(), key=lambda item: last(item[1])):
        losses = f"{run['train_loss'][-1]:.3f} | {run['val_loss'][-1]:.3f} | {run['val_top1_error'][-1]:.1%}"
        lines.append(f"| {name} | {run['lr']:.2g} | {losses} | {run['milliseconds']:.2f} |")
    return "\n".join(lines)


def tables() -> list[tuple[Path, str, str]]:
    """Return the README's table of what is recorded, see `dl.cli.results.OTHERS`."""
    curve = {"lr": float, "milliseconds": float, **dict.fromkeys(("train_loss", "val_loss", "val_top1_error"), [float])}
    record = read_json(common.RESULTS / "optimizers.json", {"best": {str: curve}})
    return [(Path(optimizers.__path__[0]) / "README.md", "results", table(record["best"]))]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = common.parser(__spec__.name, "Loss curves of our optimizers on Fashion-MNIST.")
    parser.add_argument("--epochs", type=int, default=1, help="passes over the images per run (default: %(default)s)")
    parser.add_argument("--data", default="fashion_mnist", help="set of images (default: %(default)s)")
    some = common.some_of(CONTENDERS, separator=";")
    parser.add_argument("--only", type=some, default=list(CONTENDERS), help="optimizers, by semicolons; default: all")
    parser.add_argument("--model", default="d2l", help="preset of the MLP (default: %(default)s)")
    return common.parse(parser, argv)


@command(parse)
def main(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    about = common.about_this_machine(options.command)
    data = image_splits(ImageConfig(out="runs", data=options.data))
    runs = {}
    for name in options.only:
        middle, make = CONTENDERS[name]
        runs[name] = [train(make, lr, data, options.epochs, options.model) for lr in (middle / 3, middle, 3 * middle)]
        for run in runs[name]:
            print(f"{name:18} lr {run['lr']:.2g}: {run['val_loss'][-1]:.4f}", file=sys.stderr, flush=True)
    best = {name: min(of, key=last) for name, of in runs.items()}
    others = {name: {f"{run['lr']:.3g}": last(run) for run in of} for name, of in runs.items()}
    write(about | {"data": options.data, "epochs": options.epochs, "best": best, "val_loss_by_rate": others}, options.out)
    plot.save_figure(draw(best), options.out.with_suffix(".png"))
    print(table(best))


if __name__ == "__main__":
    sys.exit(main())
