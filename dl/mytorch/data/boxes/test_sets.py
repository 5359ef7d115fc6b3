"""Sets by name: what their batches hold, what is refused."""

from pathlib import Path
from typing import Any

import pytest

from dl.mytorch.config import UserError
from dl.mytorch.data.boxes.batches import real
from dl.mytorch.data.boxes.sets import BoxConfig, box_set, box_splits


def config(folder: Path, **flags: Any) -> BoxConfig:
    return BoxConfig(out=str(folder / "run"), **{"batch_size": 4, **flags})


def test_scenes_come_normalised_with_a_padding_of_zero(tmp_path: Path) -> None:
    data, about = box_splits(config(tmp_path)), box_set(config(tmp_path))
    assert len(about.classes) == 5 and about.has_masks and about.channels == 3
    batch = next(data.train.batches())
    assert batch["images"].is_floating_point() and batch["images"].shape[2] % 32 == 0
    padding = ~real(batch["sizes"], *batch["images"].shape[-2:])
    assert padding.any() and batch["images"].movedim(1, -1)[padding].eq(0).all()
    assert batch["masks"].shape[:2] == batch["labels"].shape == batch["boxes"].shape[:2]
    assert {tuple(batch["images"].shape[1:]) for batch, _ in zip(data.val.batches(), range(3))} == {(3, 128, 128)}


def test_all_changes_of_training_leave_boxes_with_sides_and_a_padding_of_zero(tmp_path: Path) -> None:
    data = box_splits(config(tmp_path, vflip=True, turns=True, zoom=0.5, jitter=0.3), stride=16)
    for batch, _ in zip(data.train.batches(), range(3)):
        held = batch["labels"] >= 0
        assert (batch["boxes"][held][:, :2] < batch["boxes"][held][:, 2:]).all() and not batch["boxes"][~held].any()
        assert (batch["boxes"][..., 2:] <= batch["sizes"].flip(1)[:, None]).all()
        padding = ~real(batch["sizes"], *batch["images"].shape[-2:])
        assert batch["images"].movedim(1, -1)[padding].eq(0).all()
        assert batch["images"].shape[2] % 16 == batch["images"].shape[3] % 16 == 0
        assert max(batch["images"].shape[2:]) - int(batch["sizes"].max()) < 16


def test_an_unknown_set_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such set of images with boxes"):
        config(tmp_path, data="cifar10")
