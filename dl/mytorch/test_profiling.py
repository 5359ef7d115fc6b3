import json
from pathlib import Path

import torch

from dl.mytorch.profiling import WARM, profiler


def test_the_steps_behind_the_first_five_are_profiled(tmp_path: Path) -> None:
    with profiler(tmp_path, 2) as profiling:
        for _ in range(WARM + 4):
            torch.mm(torch.ones(8, 8), torch.ones(8, 8))
            profiling.step()
    assert "aten::mm" in (tmp_path / "profile.txt").read_text(encoding="utf-8")
    events = json.loads((tmp_path / "profile.json").read_text(encoding="utf-8"))["traceEvents"]
    assert sum(event.get("name") == "aten::mm" for event in events) == 2
