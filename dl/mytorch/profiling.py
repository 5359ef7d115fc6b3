"""`--profile N`: torch's profiler over some steps of a training."""

from pathlib import Path
from typing import Any

import torch

WARM = 5  # steps before: the first ones allocate, compile and choose algorithms


def profiler(out: Path, steps: int) -> torch.profiler.profile:
    """Return a profiler, whose `step` is to be called after each step, of `steps` after the first few.

    profile.txt in `out` has the most expensive operations, profile.json a trace of all calls, for https://ui.perfetto.dev.
    """

    def write(profiled: Any) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        table = profiled.key_averages().table(sort_by=f"self_{device}_time_total", row_limit=25)
        (out / "profile.txt").write_text(table, encoding="utf-8")
        profiled.export_chrome_trace(str(out / "profile.json"))
        print(
            f"{steps} steps profiled: {out / 'profile.txt'}; {out / 'profile.json'} opens in https://ui.perfetto.dev",
            flush=True,
        )

    schedule = torch.profiler.schedule(wait=WARM - 1, warmup=1, active=steps, repeat=1)
    return torch.profiler.profile(schedule=schedule, on_trace_ready=write)
