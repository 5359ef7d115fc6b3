import json
from pathlib import Path

import pytest

from dl.benchmarks import diffusion
from dl.mytorch.introspect import count_parameters


@pytest.mark.slow
@pytest.mark.parity
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # diffusers' use of numpy
def test_the_benchmark_records_what_it_measured(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("diffusers")
    out = tmp_path / "results" / "diffusion.json"
    words = ["--rounds", "1", "--batch-size", "2", "--samples", "1", "--steps", "2", "--sample-rounds", "1"]
    diffusion.main([*words, "--out", str(out)])
    record = json.loads(out.read_text(encoding="utf-8"))
    assert {"command", "commit", "device", "load_average", "versions"} < record.keys()
    for quantity in ("training_images_per_second", "seconds_to_sample"):
        assert record[quantity].keys() == set(diffusion.NAMES)
        assert all(len(figures) == 1 and figures[0] > 0 for figures in record[quantity].values())
    assert "of diffusers, one head" in capsys.readouterr().out
    assert len({count_parameters(diffusion.network(name)) for name in diffusion.NAMES}) == 1
