"""Average precision of a run as a table."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dl.cli.testing import make_run
from dl.modules.Detection import score, testing
from dl.mytorch.data import Loader, Splits
from dl.mytorch.data.boxes.sets import BoxSet
from dl.mytorch.layers.boxes import Detections

DATA = testing.scenes(masks=True)  # of four boxes, all of them small


class Knows(nn.Module):
    """Finds all boxes of the class 0 and none of others; masks lack two of three rows of pixels."""

    def detect(self, images: Tensor, sizes: Tensor) -> list[Detections]:
        found = []
        for image in images:
            i = int((DATA["images"] == image).flatten(1).all(1).nonzero())
            mine = DATA["labels"][i] == 0
            masks = DATA["masks"][i][mine] & (torch.arange(48) % 3 == 0)[:, None]
            found.append(Detections(DATA["boxes"][i][mine], DATA["labels"][i][mine], torch.ones(int(mine.sum())), masks))
        return found


def cells(text: str) -> list[list[str]]:
    return [line.rsplit(maxsplit=4) for line in text.splitlines() if "--" not in line]


def test_each_class_and_each_size_has_a_row() -> None:
    seen = score.see(Knows(), Loader(DATA, 2))
    bright, dark = ((DATA["labels"] == i).sum().item() for i in range(2))
    assert bright and dark
    assert cells(score.table(seen, testing.CLASSES)) == [
        ["boxes", "number", "AP@0.5", "AP@0.75", "AP"],
        ["bright", str(bright), "100.0%", "100.0%", "100.0%"],
        ["dark", str(dark), "0.0%", "0.0%", "0.0%"],
        ["mean", "4", "50.0%", "50.0%", "50.0%"],
        ["mean, small", "4", "50.0%", "50.0%", "50.0%"],
        ["mean, medium", "0", "-", "-", "-"],
        ["mean, large", "0", "-", "-", "-"],
    ]
    assert cells(score.table(seen, testing.CLASSES, masks=True))[1] == ["bright", str(bright), "0.0%", "0.0%", "0.0%"]


def test_the_command_scores_the_test_images(tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run", "Detection/FCOS", data="scenes")
    about = BoxSet(3, testing.CLASSES, True, lambda batch, _: batch)
    monkeypatch.setattr(score, "box_set", lambda _: about)
    monkeypatch.setattr(score, "box_splits", lambda _: Splits(Loader(DATA, 3), Loader(DATA, 3), Loader(DATA, 3)))
    monkeypatch.setattr(score.Run, "model", lambda _: Knows())
    assert score.main([str(run)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("3 test images of scenes\n\nboxes") and "\n\nmasks" in said
