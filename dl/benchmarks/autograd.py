"""LeNet on our NumPy engine beside the same LeNet on torch: test error on the bundled images, and seconds.

    python -m dl.benchmarks.autograd
    python -m dl.benchmarks.autograd --seeds 0 --epochs 1

Both start from the same weights and see the same batches of 64 of the 9,000 training images, in float32, with SGD of
momentum 0.9 at a rate that falls from 0.05 to 0 in a straight line. What differs is the order in which numbers are added.
Seconds are those of one core, whatever else the machine does; NumPy's matrix products need OMP_NUM_THREADS=1 for that.
"""

import argparse
import sys
import time
from statistics import mean, stdev
from typing import Any, Callable, Iterator, Sequence

import numpy as np
import torch
from torch.nn import functional as F

from dl.benchmarks import common
from dl.cli.command import command
from dl.cli.records import write
from dl.modules.CNN.LeNet.model import LeNet, build
from dl.mytorch.data import Batch, ImageConfig, Splits, image_splits
from dl.mytorch.from_scratch.autograd import Tensor, conv2d, cross_entropy, max_pool2d

RATE, MOMENTUM = 0.05, 0.9


class NumpyLeNet:
    """The "modern" LeNet on arrays, with the weights of a torch model at first."""

    def __init__(self, model: LeNet) -> None:
        self.weights = {name: Tensor(p.detach().numpy().copy(), requires_grad=True) for name, p in model.named_parameters()}
        self.velocity = {name: np.zeros_like(tensor.data) for name, tensor in self.weights.items()}

    def __call__(self, images: np.ndarray) -> Tensor:
        """images (B, 1, 28, 28) -> logits (B, 10)."""
        x = Tensor(images)
        x = max_pool2d(conv2d(x, *self.layer("c1"), padding=2).relu(), 2)  # (B, 1, 28, 28) -> (B, 6, 14, 14)
        x = max_pool2d(conv2d(x, *self.layer("c3")).relu(), 2)  # (B, 16, 5, 5)
        x = conv2d(x, *self.layer("c5")).relu().reshape(len(images), -1)  # (B, 120, 1, 1) -> (B, 120)
        for name in ("f6", "output"):
            weight, bias = self.layer(name)
            x = x @ weight.transpose(1, 0) + bias  # (B, 84), (B, 10)
            x = x.relu() if name == "f6" else x
        return x

    def layer(self, name: str) -> tuple[Tensor, Tensor]:
        return self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]

    def step(self, batch: Batch, rate: float) -> None:
        """One update by SGD with momentum."""
        cross_entropy(self(batch["images"].numpy()), batch["labels"].numpy()).backward()
        for name, tensor in self.weights.items():
            self.velocity[name] = MOMENTUM * self.velocity[name] + tensor.grad
            tensor.data = tensor.data - np.float32(rate) * self.velocity[name]
            tensor.grad = None

    def predict(self, batch: Batch) -> np.ndarray:
        return self(batch["images"].numpy()).data.argmax(1)


class TorchLeNet:
    """The same by torch."""

    def __init__(self, model: LeNet) -> None:
        self.model = model
        self.optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM)

    def step(self, batch: Batch, rate: float) -> None:
        self.optimizer.param_groups[0]["lr"] = rate
        F.cross_entropy(self.model(batch["images"]), batch["labels"]).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    @torch.no_grad()
    def predict(self, batch: Batch) -> np.ndarray:
        return self.model(batch["images"]).argmax(1).numpy()


ENGINES: dict[str, Callable[[LeNet], Any]] = {"numpy": NumpyLeNet, "torch": TorchLeNet}


def batches(data: Splits, epochs: int) -> Iterator[tuple[Batch, float]]:
    """Yield every batch of training with its rate."""
    steps = epochs * len(data.train)
    for epoch in range(epochs):
        for i, batch in enumerate(data.train.batches(epoch)):
            yield batch, RATE * (1 - (epoch * len(data.train) + i) / steps)


def train(engine: Any, data: Splits, epochs: int) -> dict[str, float]:
    """Test error after `epochs`, and the seconds of a core that an epoch of training took."""
    started = time.process_time()
    for batch, rate in batches(data, epochs):
        engine.step(batch, rate)
    seconds = (time.process_time() - started) / epochs
    wrong = [engine.predict(batch) != batch["labels"].numpy() for batch in data.test.batches()]
    return {"test_error": float(np.concatenate(wrong).mean()), "seconds_per_epoch": round(seconds, 3)}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = common.parser(__spec__.name, "LeNet on the NumPy engine beside torch.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the first weights (default: 0 1 2)")
    parser.add_argument("--epochs", type=int, default=2, help="passes over the images (default: %(default)s)")
    return common.parse(parser, argv)


@command(parse)
def main(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    about = common.about_this_machine(options.command)
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in ENGINES}
    for seed in options.seeds:
        config = ImageConfig(out="runs", data="fashion_mnist-sample", seed=seed, batch_size=64)
        splits = image_splits(config)
        for name, make in ENGINES.items():
            torch.manual_seed(seed)
            runs[name].append(train(make(build("modern")), splits, options.epochs))
            print(f"seed {seed}, {name}: {runs[name][-1]}", file=sys.stderr, flush=True)
    write(about | {"seeds": options.seeds, "epochs": options.epochs, "runs": runs}, options.out)
    for name, own in runs.items():
        errors, seconds = ([run[key] for run in own] for key in ("test_error", "seconds_per_epoch"))
        spread = f" +- {stdev(errors):.2%}" if len(errors) > 1 else ""
        print(f"{name:6} test error {mean(errors):.2%}{spread}, {mean(seconds):.2f} s an epoch")


if __name__ == "__main__":
    sys.exit(main())
