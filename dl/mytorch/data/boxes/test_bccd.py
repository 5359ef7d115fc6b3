"""The bundled sample of BCCD is what was published; the full set comes as an archive."""

import io
import urllib.request
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dl.mytorch import torchvision_compat
from dl.mytorch.config import UserError
from dl.mytorch.data import sources
from dl.mytorch.data.boxes import bccd
from dl.mytorch.data.boxes.sets import BoxConfig, box_set, box_splits


def test_the_sample_has_the_published_boxes_at_any_size(tmp_path: Path) -> None:
    config = BoxConfig(out=str(tmp_path), data="bccd-sample", batch_size=4, size=120)
    data = box_splits(config)
    assert [len(part) for part in data.split.values()] == [16, 4, 8] and data.names == box_set(config).classes == bccd.CLASSES
    labels = torch.cat([file.labels for loader in data for file in loader.dataset.files])
    assert labels.bincount().tolist() == [33, 454, 30]
    batch = next(data.val.batches())
    assert batch["images"].shape == (4, 3, 128, 160) and batch["sizes"].tolist() == [[120, 160]] * 4
    held = batch["labels"] >= 0
    assert (batch["boxes"][held][:, :2] < batch["boxes"][held][:, 2:]).all() and not batch["crowd"].any()


def test_changed_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in bccd.LISTS:
        (tmp_path / "bccd" / part).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "bccd" / part).write_text("BloodImage_00000\n", encoding="utf-8")
    monkeypatch.setattr(sources, "DATA", tmp_path)
    with pytest.raises(UserError, match="does not hold the published files of bccd"):
        bccd.bccd("bccd")


def test_the_published_archive_is_unpacked_into_the_folder_of_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name in (*bccd.LISTS, "JPEGImages/1.jpg"):
            archive.writestr(f"BCCD_Dataset-{bccd._COMMIT}/BCCD/{name}", "1\n")
        archive.writestr(f"BCCD_Dataset-{bccd._COMMIT}/README.md", "")
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: io.BytesIO(packed.getvalue()))
    monkeypatch.setattr(sources, "DATA", tmp_path)
    monkeypatch.setattr(torchvision_compat, "import_torchvision", lambda: SimpleNamespace(datasets=None))
    assert sources.get("bccd", bccd.SOURCES["bccd"]) == tmp_path / "bccd"
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["1.jpg", "test.txt", "train.txt", "val.txt"]
