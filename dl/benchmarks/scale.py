"""Speed, peak memory and communication of every way to train a model that is too large for the ordinary one.

    python -m dl.benchmarks.scale                       all modes on what is there: a few minutes
    python -m dl.benchmarks.scale --depths 2,4,8 --only one,recomputed   memory against the formula
    python -m dl.benchmarks.scale --plan                the formulas for 8 and 64 GPUs, without measuring

A GPT-2 of characters trains on one batch of random tokens, by AdamW in fp32, the batch over all ranks being the same.

- one               an ordinary process
- recomputed        --checkpoint-activations
- streamed          --layerwise stream: blocks on disk
- ddp, fsdp, both   torchrun with `--ranks` processes (or GPUs) and --parallel; the last with --checkpoint-activations too

A mode is one or several separate processes: two steps to warm up, then the median of the others. Memory is the most that a
rank holds beyond what it held before the model was built, a small network having trained a step: on a CPU the highest
resident set that Linux noted, with large tensors in mappings of their own, so that nothing freed is counted; of
"streamed", whose files the system keeps in memory while there is room, the rest of it, looked at every 2 ms.
Communication is what went over the loopback device per step and rank; other programs that use it are counted too.
Formulas: dl/mytorch/large/SCALING.md.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Sequence

import torch

from dl.benchmarks import common
from dl.benchmarks.scale_formulas import Sizes, communication, memory, plan
from dl.cli.command import command
from dl.cli.records import write
from dl.modules.GPT.GPT2.model import build
from dl.mytorch import TrainConfig, Trainer, launch, seed_everything
from dl.mytorch.data import Batch
from dl.mytorch.distributed import device, is_main, rank, synchronize, world_size
from dl.mytorch.introspect import count_parameters
from dl.mytorch.optim import adamw, constant
from dl.mytorch.text.tasks import LanguageModeling

MODES: dict[str, list[str]] = {
    "one": [],
    "recomputed": ["--checkpoint-activations"],
    "streamed": ["--layerwise", "stream"],
    "ddp": ["--parallel", "ddp"],
    "fsdp": ["--parallel", "fsdp"],
    "both": ["--parallel", "fsdp", "--checkpoint-activations"],
}
VOCABULARY = 65


@dataclass(frozen=True)
class Config(TrainConfig):
    """One mode, in this process or under torchrun."""

    data: str = "random tokens"
    batch_size: int = 16
    steps: int = 5
    dim: int = 384
    depth: int = 6
    length: int = 256


class PeakMemory:
    """`with PeakMemory(device) as peak: ...; peak.bytes`, beyond what was held before."""

    def __init__(self, where: torch.device, streamed: bool) -> None:
        self.on_gpu, self.streamed = where.type == "cuda", streamed

    def __enter__(self) -> "PeakMemory":
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
        elif self.streamed:  # its files are in memory as long as there is room: only the rest counts, as often as one can look
            self.before, self.most, self.over = self._memory("RssAnon"), 0, threading.Event()
            self.thread = threading.Thread(target=self._watch, daemon=True)
            self.thread.start()
        else:
            self.before = self._memory("VmRSS")
            Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # begins a new VmHWM
        return self

    def __exit__(self, *_: Any) -> None:
        if self.on_gpu:
            most = torch.cuda.max_memory_allocated()
        elif self.streamed:
            self.over.set()
            self.thread.join()
            most = self.most
        else:
            most = self._memory("VmHWM")
        self.bytes = most - self.before

    def _watch(self) -> None:
        while not self.over.wait(0.002):
            self.most = max(self.most, self._memory("RssAnon"))

    def _memory(self, kind: str) -> int:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(status.partition(f"{kind}:")[2].split()[0]) * 1024


def loopback_bytes() -> int:
    """Return what went through the loopback device since the machine started."""
    return int(Path("/proc/net/dev").read_text(encoding="utf-8").partition("lo:")[2].split()[0])


def measure(config: Config) -> None:
    """One mode; rank 0 prints what it found as JSON."""
    seed_everything(config.seed)
    where = device(config.device)
    ids = torch.randint(VOCABULARY, (config.batch_size, config.length + 1))[rank() :: world_size()].to(where)
    batch = {"tokens": ids[:, :-1].contiguous(), "targets": ids[:, 1:].contiguous()}
    train(dataclasses.replace(config, depth=1, layerwise="none"), batch, steps=1)  # what libraries hold from now on
    with PeakMemory(where, config.layerwise == "stream") as peak:
        parameters, seconds, sent = train(config, batch, config.steps)
    if is_main():
        found = {"parameters": parameters, "seconds": median(seconds[2:]), "bytes": peak.bytes}
        print(json.dumps(found | {"sent": median(sent[2:]) / world_size()}), flush=True)


def train(config: Config, batch: Batch, steps: int) -> tuple[int, list[float], list[int]]:
    """Return parameters; seconds and bytes over the loopback of each step."""
    model = build("char", dim=config.dim, depth=config.depth, num_heads=config.dim // 64, max_length=config.length)
    parameters = count_parameters(model)
    trainer = Trainer(model.train(), LanguageModeling(), adamw(1e-3, fused=True), constant(), config)
    seconds, sent = [], []
    for _ in range(steps):
        started, before = time.perf_counter(), loopback_bytes()
        trainer.step([batch])
        synchronize(trainer.device)
        seconds.append(time.perf_counter() - started)
        sent.append(loopback_bytes() - before)
    return parameters, seconds, sent


def run(mode: str, flags: Sequence[str], ranks: int) -> dict[str, Any]:
    """Return what `measure` prints in a separate process, or in `ranks` of them."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    several = torchrun if "--parallel" in MODES[mode] else []
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, *several, "-m", "dl.benchmarks.scale", "--one", "--out", folder, *MODES[mode], *flags]
        environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = common.parser(__spec__.name, "Speed, memory and communication of ways to train large models.")
    parser.add_argument("--only", type=common.some_of(MODES), default=list(MODES), help="modes to measure, separated by commas")
    parser.add_argument("--depths", default="6", help="numbers of blocks of the network, separated by commas")
    parser.add_argument("--dim", type=int, default=384, help="width of the network")
    parser.add_argument("--batch-size", type=int, default=16, help="sequences of 256 tokens per step, over all ranks")
    parser.add_argument("--steps", type=int, default=5, help="steps of each mode, of which two warm up")
    parser.add_argument("--ranks", type=int, default=max(2, torch.cuda.device_count()), help="processes of the parallel modes")
    parser.add_argument("--plan", action="store_true", help="print the tables for 8 and 64 GPUs instead")
    return common.parse(parser, argv)


@command(parse)
def main(options: argparse.Namespace) -> None:
    if options.plan:
        print(plan())
        return
    about, rows = common.about_this_machine(options.command), []
    for depth in map(int, options.depths.split(",")):
        for mode in options.only:
            flags = {"dim": options.dim, "depth": depth, "batch-size": options.batch_size, "steps": options.steps}
            found = run(mode, [word for name, value in flags.items() for word in (f"--{name}", str(value))], options.ranks)
            sizes = Sizes(options.dim, depth, VOCABULARY, found["parameters"], options.batch_size * 256)
            ranks = options.ranks if "--parallel" in MODES[mode] else 1
            expected = {"expected_bytes": memory(mode, sizes, ranks), "expected_sent": communication(mode, sizes, ranks)}
            rows.append({"mode": mode, "depth": depth, "ranks": ranks, **found, **expected})
            print(line(rows[-1], options.batch_size * 256), flush=True)
    asked = {name: str(getattr(options, name)) for name in ("depths", "dim", "batch_size", "steps", "ranks")}
    write(about | {"options": asked, "rows": rows}, options.out)


def line(row: dict[str, Any], tokens: int) -> str:
    """Return a row as readable text."""
    speed = f"{tokens / row['seconds']:8,.0f} tokens/s"
    held = f"{row['bytes'] / 2**20:7,.0f} MiB (formula {row['expected_bytes'] / 2**20:7,.0f})"
    sent = f"{row['sent'] / 2**20:6,.0f} MiB sent (formula {row['expected_sent'] / 2**20:6,.0f})" if row["ranks"] > 1 else ""
    return f"{row['mode']:11} depth {row['depth']:2}  {row['ranks']} rank(s)  {speed}  {held}  {sent}"


if __name__ == "__main__":
    if "--one" in sys.argv:
        sys.argv.remove("--one")
        launch(measure, Config)
    else:
        sys.exit(main())
