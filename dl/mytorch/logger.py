"""How a run went: numbers into its folder, onto its charts and to the terminal. Only rank 0 writes."""

import math
import platform
from pathlib import Path
from typing import Any, Callable

import torch
from torch import Tensor, nn

from dl.mytorch import system
from dl.mytorch.config import TrainConfig
from dl.mytorch.distributed import is_main
from dl.mytorch.files import check, read_recorded_json, write_recorded_json
from dl.mytorch.progress import Progress

QUANTITIES = {str: (float, None)}  # None for what is no finite number, which JSON does not have
RECORDS = [{"epoch": int, "step": int, "lr?": float, "train?": QUANTITIES, "val?": QUANTITIES, "test?": QUANTITIES}]
SPEED = {"device": str, **dict.fromkeys(("seconds", "training_seconds", "examples_per_second"), float)}
SPEED |= {"examples": int, "peak_memory_bytes": (int, None), "finished?": bool}  # the last, of a run that is over
SPEED |= {"unit?": str, "items?": int, "items_per_second?": float}  # what a task counts, as "token", and how many


class History(list):
    """One record per evaluation, oldest first; the test's record last. It is `history.json`.

    A record: {"epoch", "step", "lr", "train": {quantity: mean}, "val": {quantity: mean}}; the last one has "test"
    instead, and the epoch and step of the checkpoint that was tested. A mean that is no finite number is None.
    """

    @classmethod
    def of(cls, records: list[dict[str, Any]], where: str) -> "History":
        """Return the history that a checkpoint holds. Raises `UserError`, naming `where`, when it is none."""
        records = [{k: finite(v) if isinstance(v, dict) else v for k, v in record.items()} for record in records]
        return cls(check(records, RECORDS, where, "history"))

    @property
    def test(self) -> dict[str, float] | None:
        """Return what the test gave, or None before it."""
        return self[-1].get("test") if self else None

    def best(self, monitor: str = "loss") -> dict[str, Any] | None:
        """Return the record with the lowest validation `monitor`, the first of equals; None if no evaluation measured it."""
        measured = (record for record in self if record.get("val", {}).get(monitor) is not None)
        return min(measured, key=lambda record: record["val"][monitor], default=None)

    def line(self) -> str:
        """Return the newest record in a line."""
        record = self[-1]
        parts = [f"epoch {record['epoch']:3d}", f"step {record['step']:6d}"]
        for split in ("train", "val", "test"):
            if split in record:
                parts += [split + "".join(f"  {name} {_number(name, value)}" for name, value in record[split].items())]
        return " | ".join(parts)

    def table(self, monitor: str = "loss") -> str:
        """Return the best checkpoint on each split, as readable text."""
        best = self.best(monitor)
        rows = {"train": best["train"], "validation": best["val"]} | ({"test": self.test} if self.test else {})
        names = list(best["val"])
        wide = max(14, *(len(name) + 2 for name in names))
        lines = [f"best checkpoint: epoch {best['epoch']}, step {best['step']}"]
        lines += [" " * 12 + "".join(f"{name:>{wide}}" for name in names)]
        for split, means in rows.items():
            numbers = (_number(name, means[name]) if name in means else "" for name in names)
            lines += [f"{split:<12}" + "".join(f"{number:>{wide}}" for number in numbers)]
        return "\n".join(lines)


def _number(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2%}" if name.endswith("error") else f"{value:.4f}"


def read_history(path: Path) -> History:
    """Return the history of a run. Raises `UserError` when the file is damaged or changed."""
    return History(read_recorded_json(path, RECORDS))


def finite(means: dict[str, float]) -> dict[str, float | None]:
    """`means` as a record has them: None for NaN (nothing was counted) and infinity (a perplexity that overflows)."""
    return {name: None if value in (math.inf, -math.inf) or value != value else value for name, value in means.items()}


def device_name(device: torch.device) -> str:
    """Return what a reader of a table calls the device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    return device.type


def peak_memory(device: torch.device) -> int:
    """Return bytes that this process, or its CUDA device, has held at most."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else system.peak_memory()


class Logger:
    """JSON files, the progress bar and, with `plots`, the charts of one run. On other ranks than 0 it does nothing."""

    def __init__(self, out: Path, step: int, total_steps: int, plots: bool = True) -> None:
        self.out = out
        self.charts = None
        if plots and is_main():
            from dl.mytorch.charts import Charts  # and with it matplotlib

            self.charts = Charts(out, step)
        self.progress = Progress(total_steps, done=step, shown=is_main())
        earlier = out / "speed.json"
        self.earlier = read_recorded_json(earlier, SPEED) if earlier.exists() and step else {}
        self.was_finished = self.earlier.get("finished", False)  # before this session, the same on all ranks

    def __enter__(self) -> "Logger":
        return self

    def __exit__(self, *_: Any) -> None:
        self.progress.close()
        if self.charts is not None:
            self.charts.close()

    def say(self, text: str) -> None:
        """A line for the person at the terminal, above the progress bar."""
        if is_main():
            self.progress.write(text)

    def scalars(self, split: str, values: dict[str, float | None], step: int) -> None:
        """Add points to the charts of `split`: "train", "val" or "test"."""
        if self.charts is not None:
            self.charts.scalars(split, values, step)

    def history(self, history: History) -> None:
        """Rewrite history.json."""
        if is_main():
            write_recorded_json(history, self.out / "history.json")

    def evaluated(self, history: History, shown: dict[str, Tensor | str], best: bool) -> None:
        """Write the newest record into history.json, onto the charts and to the terminal; `shown` is the task's preview."""
        self.history(history)
        if self.charts is not None:
            self.charts.evaluated(history[-1], shown)
        self.say(history.line() + ("  best" if best else ""))

    def finished(self, history: History, shown: dict[str, Tensor | str], config: TrainConfig, monitor: str = "loss") -> None:
        """Draw the figures and write the history once more, at the end; `shown` is the task's report."""
        paths = [] if self.charts is None else self.charts.finished(history, shown, config, monitor)
        self.history(history)  # last: a run whose history has a test is finished
        if paths:
            self.say("\n".join(["figures:", *(f"  {path}" for path in paths)]))

    def summary(self, model: nn.Module, step: Callable[[nn.Module, Any], Any], batch: dict[str, Tensor]) -> None:
        """Write summary.txt from a pass of one example; a model that does not take it is a `UserError`. All ranks call it."""
        from dl.mytorch import introspect

        text = introspect.summarize_step(model, step, batch)
        if is_main():
            (self.out / "summary.txt").write_text(text + "\n", encoding="utf-8")

    def speed(self, device: torch.device, unit: str, finished: bool = False, **sums: float) -> None:
        """Rewrite speed.json: this session's figures and, in the `sums`, those of the sessions before it.

        The sums: `seconds`, of them `training_seconds`; `examples` and `items`, which are counted in the task's `unit`.
        """
        if is_main():
            sums = {name: round(value + self.earlier.get(name, 0), 2) for name, value in sums.items()}
            taken = max(sums["training_seconds"], 1e-9)
            rates = {f"{name}_per_second": round(sums[name] / taken, 1) for name in ("examples", "items")}
            most = max(peak_memory(device), self.earlier.get("peak_memory_bytes", 0))
            speed = {"device": device_name(device), **sums, **rates, "unit": unit, "peak_memory_bytes": most}
            write_recorded_json(speed | ({"finished": True} if finished else {}), self.out / "speed.json")
