"""The speed of a training between one point of its curve and the next."""

import time
from typing import TYPE_CHECKING, Any

import torch

from dl.mytorch.distributed import all_reduce_sum, is_main, world_size
from dl.mytorch.logger import peak_memory
from dl.mytorch.metrics import Metrics
from dl.mytorch.profiling import profiler

if TYPE_CHECKING:
    from dl.mytorch.trainer import Trainer


class Rates:
    """Examples or tokens a second, the share of what the device can compute, the memory that was held at most.

    The share needs the FLOPs of an example, which are in the summary.txt of the run's folder, and a twentieth of a second
    to measure the peak. It is left out for several processes, and with `--no-plots`. Inside `with`, `--profile` profiles.
    """

    def __init__(self, trainer: "Trainer") -> None:
        config, out = trainer.config, trainer.out
        self.summary, self.device, self.unit = out / "summary.txt", trainer.device, trainer.task.unit
        self.measured = config.plots and world_size() == 1 and self.unit != "node"  # nodes share a pass over their graph
        self.dtype = torch.bfloat16 if trainer.step.precision.taken == "bf16" else torch.float32
        self.peak, self.items = 0.0, 0
        self.profiler = profiler(out, config.profile) if config.profile and is_main() else None
        self.restart(trainer.done_before, 0.0)

    def __enter__(self) -> "Rates":
        if self.profiler is not None:
            self.profiler.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self.profiler is not None:
            self.profiler.__exit__(*error)

    def step(self) -> None:
        """One more step of training is done."""
        if self.profiler is not None:
            self.profiler.step()

    def restart(self, examples: int, evaluation_seconds: float) -> None:
        """Count from now on; so far there were so many examples, and so many seconds that were no training."""
        self.examples, self.started = examples, time.perf_counter() - evaluation_seconds

    def count(self, metrics: Metrics) -> None:
        """Add to `items`, which this session has trained on, those that the training's `metrics` are about."""
        self.items += round(all_reduce_sum(metrics.by_name["loss"].sums.cpu().double())[1].item())

    def point(self, items: float, examples: int, evaluation_seconds: float) -> dict[str, float]:
        """Return the figures since the last point, or the last `restart`, with `items` since then; and restart."""
        taken = max(time.perf_counter() - evaluation_seconds - self.started, 1e-9)
        rates = {f"rate/{self.unit}s_per_second": items / taken, "rate/memory_gb": peak_memory(self.device) / 1e9}
        if self.measured and self.summary.exists():
            from dl.mytorch import introspect

            self.peak = self.peak or introspect.peak_flops(self.device, self.dtype, seconds=0.05)
            # A backward pass counts as two forward ones.
            flops = 3 * introspect.flops_of(self.summary) * (examples - self.examples) / taken
            rates["rate/share_of_peak"] = flops / self.peak
        self.restart(examples, evaluation_seconds)
        return rates

    def shown(self, values: dict[str, float]) -> str:
        """Return the rates among `values` as readable text: "1,240 examples/s, 31 % of the peak, 0.4 GB"."""
        words = [f"{values[f'rate/{self.unit}s_per_second']:,.0f} {self.unit}s/s"]
        if "rate/share_of_peak" in values:
            words.append(f"{100 * values['rate/share_of_peak']:.0f} % of the peak")
        return ", ".join([*words, f"{values['rate/memory_gb']:.1f} GB"])
