"""Folders of images and masks: what is read, what is refused, with one line; ISBI 2012 as it is published."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dl.mytorch.config import UserError
from dl.mytorch.data import sources
from dl.mytorch.data.images import isbi, masks
from dl.mytorch.data.images.masks import MaskConfig, MaskFile, class_values, mask_set, mask_splits, padded

RANDOM = np.random.default_rng(0)


def save(folder: Path, name: str, mask: np.ndarray, mode: str = "L", suffix: str = "") -> None:
    for inside in ("images", "masks"):
        (folder / inside).mkdir(parents=True, exist_ok=True)
    Image.fromarray(RANDOM.integers(0, 256, (*mask.shape[:2], 3), dtype=np.uint8)).save(folder / "images" / f"{name}.png")
    Image.fromarray(mask.astype(np.uint8)).convert(mode).save(folder / "masks" / f"{name}{suffix}.png")


def halves(low: int, high: int, shape: tuple[int, int] = (8, 10)) -> np.ndarray:
    mask = np.full(shape, low)
    mask[shape[0] // 2 :] = high
    return mask


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten images of two sizes."""
    for i in range(10):
        save(tmp_path / "set", str(i), halves(0, 255, (8, 10) if i % 2 else (12, 6)), suffix="_mask" if i > 5 else "")
    return tmp_path / "set"


def config(folder: Path, **flags: Any) -> MaskConfig:
    return MaskConfig(out=str(folder.parent / "run"), data=f"masks:{folder}", batch_size=3, window=6, elastic=0.0, **flags)


def test_a_folder_gives_windows_to_train_on_and_full_images_to_test(folder: Path) -> None:
    data = mask_splits(config(folder), margin=1, weigh=lambda mask: 1 + mask.float())
    assert data.names == ("0", "255") and [len(part) for part in data.split.values()] == [8, 1, 1]
    batches = list(data.train.batches())
    assert [len(batch["images"]) for batch in batches] == [3, 3, 2]
    assert batches[0].keys() == {"images", "masks", "weights"}
    assert batches[0]["images"].shape == (3, 3, 8, 8) and batches[0]["masks"].shape == (3, 6, 6)
    assert torch.equal(batches[0]["weights"], 1 + batches[0]["masks"].float())
    (test,) = data.test.batches()
    assert test["images"].shape[2:] == test["masks"].shape[1:] and test["images"].is_floating_point()
    names = [name for part in data.split.values() for name in part]
    assert len(set(names)) == 10 and names[0].startswith("images/")
    assert mask_splits(config(folder)).split == data.split != mask_splits(config(folder, seed=1)).split


def test_parts_in_folders_of_their_own_are_kept(tmp_path: Path) -> None:
    for part, count in (("train", 3), ("val", 1), ("test", 2)):
        for i in range(count):
            save(tmp_path / "set" / part, str(i), halves(0, 1))
    data = mask_splits(config(tmp_path / "set"))
    assert [len(part) for part in data.split.values()] == [3, 1, 2]
    assert data.split["test"] == [
        "test/images/0.png",
        "test/images/1.png",
    ]


@pytest.mark.parametrize(
    ("values", "mode", "expected"),
    [
        ([0, 255], "L", (0, 255)),
        ([0, 1], "L", (0, 1)),
        ([0, 3, 255], "L", (0, 3)),
        ([0, 255], "1", (0, 1)),
        ([0, 255], "RGB", (0, 255)),
        ([2, 9], "P", (2, 9)),
    ],
)
def test_classes_are_the_values_of_masks(tmp_path: Path, values: list[int], mode: str, expected: tuple[int, ...]) -> None:
    mask = np.array(values)[RANDOM.integers(0, len(values), (9, 9))]
    save(tmp_path, "a", mask, "L" if mode == "P" else mode)
    if mode == "P":
        image = Image.new("P", (9, 9))
        image.putdata(mask.flatten().tolist())
        image.putpalette([i for value in range(256) for i in (255 - value, value, 7)])
        image.save(tmp_path / "masks" / "a.png")
    file = MaskFile(tmp_path / "images" / "a.png", tmp_path / "masks" / "a.png")
    assert class_values([file]) == expected
    found = masks.MaskFiles([file], expected)[0]["masks"]
    ids = {value: place for place, value in enumerate(expected)} | ({255: 255} if expected == (0, 3) else {255: 1})
    assert torch.equal(found, torch.tensor([ids[int(value)] for value in mask.flatten()], dtype=torch.uint8).view(9, 9))


def test_examples_of_two_sizes_are_padded_with_what_does_not_count() -> None:
    examples = [{"images": torch.ones(3, h, w), "masks": torch.ones(h, w).byte()} for h, w in ((2, 5), (4, 3))]
    batch = padded(examples)
    assert batch["sizes"].tolist() == [[2, 5], [4, 3]] and batch["images"].shape == (2, 3, 4, 5)
    assert (batch["masks"] == 1).sum((1, 2)).tolist() == [10, 12] and (batch["masks"] == 255).sum() == 18
    assert batch["images"].sum((1, 2, 3)).tolist() == [30, 36]


def spoil(folder: Path, how: str) -> None:
    mask = folder / "masks" / "1.png"
    if how == "missing":
        mask.unlink()
    elif how == "size":
        Image.fromarray(halves(0, 255, (10, 8)).astype(np.uint8)).save(mask)
    elif how == "colour":
        Image.fromarray(RANDOM.integers(0, 256, (8, 10, 3), dtype=np.uint8)).save(mask)
    elif how == "broken":
        mask.write_bytes(mask.read_bytes()[:40])
    elif how == "one class":
        for path in (folder / "masks").iterdir():
            Image.fromarray(np.zeros(np.array(Image.open(path)).shape, np.uint8)).save(path)
    elif how == "no folder":
        (folder / "masks").rename(folder / "other")


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("missing", "1 images in .*images have no mask in .*masks, 1 first"),
        ("size", "1.png is 8 x 10, its image 10 x 8"),
        ("colour", "1.png cannot be read: a mask has one value from 0 to 255 for each pixel"),
        ("broken", "1.png cannot be read|1.png is not an image"),
        ("one class", r"have one class, \(0,\): there have to be two"),
        ("no folder", "needs folders images and masks"),
    ],
)
def test_what_cannot_be_trained_on_is_refused_with_one_line(folder: Path, how: str, says: str) -> None:
    spoil(folder, how)
    with pytest.raises(UserError, match=says) as caught:
        mask_splits(config(folder))
    assert "\n" not in str(caught.value)


def test_a_value_that_training_lacks_is_refused(tmp_path: Path) -> None:
    for part, high in (("train", 1), ("val", 1), ("test", 2)):
        save(tmp_path / "set" / part, "a", halves(0, high))
    with pytest.raises(UserError, match="a.png has the value 2, which no mask of training has"):
        list(mask_splits(config(tmp_path / "set")).test.batches())
    with pytest.raises(UserError, match="no such set of images with masks; there are isbi2012 and masks:PATH"):
        MaskConfig(out="runs", data="isbi")


def test_a_run_whose_images_are_gone_knows_its_classes(folder: Path) -> None:
    from dl.mytorch.data.split import record_names

    asked = config(folder)
    assert mask_set(asked).classes == ("0", "255")
    (folder.parent / "run").mkdir()
    record_names(("road", "sky", "tree"), folder.parent / "run")
    folder.rename(folder.parent / "moved")
    assert mask_set(asked).classes == ("road", "sky", "tree")


@pytest.fixture
def slices(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Files as ISBI's: 30 of 4 x 4, whose checksums are the published ones."""
    (tmp_path / "image").mkdir()
    (tmp_path / "label").mkdir()
    for name in isbi.FILES:
        number = int(Path(name).stem)
        values = np.full((4, 4), number, np.uint8) if "image" in name else halves(0, 255, (4, 4)).astype(np.uint8)
        Image.fromarray(values).save(tmp_path / name)
        content = (tmp_path / name).read_bytes()
        monkeypatch.setitem(isbi.FILES, name, sources.hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest())
    monkeypatch.setattr(isbi, "SOURCE", isbi.SOURCE._replace(places=(tmp_path,)))
    return tmp_path


def test_slices_of_isbi_are_split_by_place(slices: Path) -> None:
    weighed: list[Tensor] = []

    def weigh(mask: Tensor) -> Tensor:
        weighed.append(mask)
        return mask.float()

    data = mask_splits(MaskConfig(out="runs", data="isbi2012", batch_size=4, window=4, elastic=0.0), weigh=weigh)
    assert [loader.num_examples for loader in data] == [22, 3, 5] and data.names == ("membrane", "cell")
    assert len(weighed) == 22  # once for each mask
    images, labels = isbi.isbi2012()
    assert images[:, 0, 0, 0].tolist() == list(range(30)) and labels.unique().tolist() == [0, 1]
    (tested, *_) = data.test.batches()
    torch.testing.assert_close(tested["images"], torch.full((1, 1, 4, 4), (25 / 255 - 0.5) / 0.17))


def test_a_changed_slice_is_refused(slices: Path) -> None:
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(slices / "label" / "3.png")
    with pytest.raises(UserError, match="3.png is not the published file"):
        isbi.isbi2012()
