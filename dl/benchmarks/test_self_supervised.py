import json
from pathlib import Path

import pytest
import torch

from dl.benchmarks import self_supervised
from dl.modules.SelfSupervised.SimCLR.loss import nt_xent


def test_our_views_are_two_of_each_image_epoch_after_epoch(tmp_path: Path) -> None:
    images = torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8)
    batches = self_supervised.our_views(images, self_supervised.config(str(tmp_path)))
    seen = [next(batches) for _ in range(5)]  # four make an epoch
    assert all(batch[name].shape == (2, 3, 32, 32) for batch in seen for name in ("first", "second"))
    assert not torch.equal(seen[0]["first"], seen[0]["second"]) and not torch.equal(seen[0]["first"], seen[4]["first"])


@pytest.mark.parity
def test_both_begin_with_the_same_loss_of_the_same_views(tmp_path: Path) -> None:
    pytest.importorskip("lightly")
    settings, views = self_supervised.config(str(tmp_path)), torch.randn(2, 6, 3, 32, 32)
    theirs = self_supervised.lightly_s_step("tiny", settings, self_supervised.repeated(list(views)))()
    model = self_supervised.network("tiny").train()
    assert nt_xent(model(views[0]), model(views[1]), settings.temperature).item() == pytest.approx(theirs, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parity
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # diffusers' use of numpy
def test_the_benchmark_records_what_it_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("lightly")
    pytest.importorskip("diffusers")
    out = tmp_path / "self_supervised.json"
    words = ["--rounds", "1", "--batch-size", "4", "--model", "tiny", "--widths", "4", "8", "--out", str(out)]
    assert self_supervised.main(words) == 0
    record = json.loads(out.read_text(encoding="utf-8"))
    assert {"command", "commit", "device", "load_average", "versions", "clock", "batch_size"} < record.keys()
    found = record["images_per_second"]
    assert tuple(found) == self_supervised.TASKS
    assert all(len(figures) == 1 and figures[0] > 0 for speeds in found.values() for figures in speeds.values())
    assert [list(speeds) for speeds in found.values()] == [["lightly", "ours"]] * 2 + [["diffusers", "ours"]] * 2
    assert "of lightly" in capsys.readouterr().out
