"""Training runs as processes, for tests."""

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable, Iterable

from dl.mytorch.testing.runs import assert_same_runs

# A recipe of its own, so that the core's tests need no model of the project. 49 images: the last batch has 1.
RECIPE = '''
import datetime
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from dl.mytorch import TrainConfig, Trainer, checkpoint, distributed, launch, layers, seed_everything
from dl.mytorch.data import Loader, Splits, synthetic
from dl.mytorch.optim import sgd, warmup_cosine
from dl.mytorch.tasks import Classification


class Images(torch.utils.data.Dataset):
    """Examples one by one, with randomness of their own, for worker processes."""

    def __init__(self, count, seed):
        self.images = synthetic.images(count, seed=seed)

    def __len__(self):
        return len(self.images["labels"])

    def __getitem__(self, i):
        return {"images": self.images["images"][i] + 0.1 * torch.randn(1, 28, 28), "labels": self.images["labels"][i]}


@dataclass(frozen=True)
class Config(TrainConfig):
    data: str = "synthetic"
    dropout: float = 0.0
    one_by_one: bool = False
    pause: float = 0.0
    shards: bool = False
    patience: float = 60.0


class Network(nn.Module):
    """With a forward of its own: torch.compile leaves a bare `nn.Sequential` as it is."""

    def __init__(self, dropout):
        super().__init__()
        self.body = layers.sequential(conv=nn.Conv2d(1, 4, 5, stride=4), act=nn.ReLU(), flat=nn.Flatten(),
                                      drop=nn.Dropout(dropout), fc=nn.Linear(144, 10))

    def forward(self, images):
        return self.body(images)


class Paused(Classification):
    def __init__(self, pause):
        super().__init__()
        self.pause = pause

    def step(self, model, batch):
        time.sleep(self.pause)
        return super().step(model, batch)

    def report(self, model):
        return {}


def main(config):
    torch.set_num_threads(1)
    seed_everything(config.seed)
    sets = [(Images if config.one_by_one else synthetic.images)(n, seed=s) for s, n in enumerate((49, 17, 19))]
    data = Splits(*(Loader(d, config.batch_size, shuffle=i == 0, num_workers=config.num_workers) for i, d in enumerate(sets)))
    trainer = Trainer(Network(config.dropout), Paused(config.pause), sgd(config.lr, momentum=0.9), warmup_cosine(0.1), config)
    return trainer.fit(data)


if __name__ == "__main__":
    if "--shards" in sys.argv:
        checkpoint.LARGE = 0
    if "--patience" in sys.argv:
        distributed.TIMEOUT = datetime.timedelta(seconds=float(sys.argv[sys.argv.index("--patience") + 1]))
    launch(main, Config)
    if "--compile" in sys.argv:
        import torch._dynamo.utils

        assert torch._dynamo.utils.counters["frames"]["ok"], "nothing was compiled"
    threads = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
    if "fsdp" not in sys.argv:  # a thread that outlives the group may abort Python at its exit
        assert not any("gloo" in name for name in threads), threads
'''


def start(recipe: Path, *flags: str, ranks: int = 1, restarts: int = 0) -> subprocess.Popen:
    several = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}", f"--max-restarts={restarts}"]
    torchrun = several if ranks > 1 else []
    command = [sys.executable, *torchrun, str(recipe), "--device", "cpu", "--batch-size", "8", "--lr", "0.01", *flags]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen, status: int = 0) -> str:
    output, _ = process.communicate(timeout=600)
    assert process.returncode == status, output[-3000:]
    return output


def wait_for_change(path: Path, before: float, process: subprocess.Popen) -> None:
    """Until `path` was written after `before`, so that a kill meets training and not the imports."""
    deadline = time.monotonic() + 600  # on a busy machine
    while process.poll() is None and (not path.exists() or path.stat().st_mtime <= before):
        assert time.monotonic() < deadline, f"{path} was not written"
        time.sleep(0.002)


def assert_kills_change_nothing(start: Callable[[Path], subprocess.Popen], folder: Path, pauses: Iterable[float]) -> None:
    """A run is killed with kill -9 once for each pause, so many seconds after a checkpoint, and resumes to the same bytes.

    `start` begins or resumes the run in the folder it is given: `folder` / "whole", which is left alone, or / "broken".
    """
    finish(start(folder / "whole"))
    last = folder / "broken" / "last.pt"
    for pause in pauses:
        process = start(folder / "broken")
        wait_for_change(last, last.stat().st_mtime if last.exists() else 0, process)
        time.sleep(pause)
        assert process.poll() is None, f"the run ended before it was killed: {process.communicate()[0][-3000:]}"
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL
    finish(start(folder / "broken"))
    assert_same_runs(folder / "whole", folder / "broken")
