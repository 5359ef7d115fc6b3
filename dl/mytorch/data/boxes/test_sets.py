"""Sets by name: what their batches hold, what is refused."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from dl.mytorch.config import UserError
from dl.mytorch.data.boxes.batches import real
from dl.mytorch.data.boxes.sets import BoxConfig, box_set, box_splits, prepare
from dl.mytorch.data.images.imagefile import read_image
from dl.mytorch.data.split import record_names


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


def test_classes_of_a_run_are_known_when_its_images_are_gone(tmp_path: Path) -> None:
    record_names(("cat", "dog"), tmp_path)
    for kind, has_masks in (("voc", False), ("masks", True)):
        gone = BoxConfig(out=str(tmp_path), data=f"{kind}:{tmp_path / 'gone'}")
        assert box_set(gone)[:3] == (3, ("cat", "dog"), has_masks)


def test_one_image_is_prepared_as_those_of_the_set(tmp_path: Path) -> None:
    options = config(tmp_path, data="bccd-sample", batch_size=1, size=100)
    data = box_splits(options, stride=16)
    batch = next(data.val.batches())
    one = prepare(read_image(data.val.dataset.files[0].image), options, stride=16)
    assert one.keys() == {"images", "sizes"} and all(torch.equal(value, batch[name]) for name, value in one.items())


@pytest.mark.parametrize("name", ["scenes", "bccd-sample"])
def test_a_set_can_be_sent_to_worker_processes(name: str, tmp_path: Path) -> None:
    dataset = box_splits(config(tmp_path, data=name)).train.dataset
    copy = pickle.loads(pickle.dumps(dataset))
    assert all(torch.equal(value, copy[1][key]) for key, value in dataset[1].items())


def test_an_unknown_set_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such set of images with boxes"):
        config(tmp_path, data="cifar10")
