"""Folders of images: every layout, every kind of damage."""

import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from dl.mytorch.config import UserError
from dl.mytorch.data import Batch, ImageConfig, image_set, image_splits, split
from dl.mytorch.data.augment import random_flip
from dl.mytorch.data.images import sets


def image(path: Path, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), (value, value, value)).save(path)
    return path


def fill(root: Path, counts: dict[str, int]) -> Path:
    """`counts` images in each folder below `root`."""
    for name, count in counts.items():
        for i in range(count):
            image(root / name / f"{i:03}.png", value=i)
    return root


def config(root: Path, **changes: Any) -> ImageConfig:
    return ImageConfig(data=f"folder:{root}", **({"out": "unused", "batch_size": 16, "image_size": 4} | changes))


def names(splits: Any) -> list[list[str]]:
    """Which images each split holds, as "cats/003"."""
    return [[f"{path.parent.name}/{path.stem}" for path, _ in loader.dataset.files] for loader in splits]


def test_a_folder_for_each_class_is_a_set_of_images(tmp_path: Path) -> None:
    root = fill(tmp_path, {"dogs": 30, "cats": 20, ".hidden": 2, "__MACOSX": 2})
    about = image_set(config(root))
    assert about[:4] == (3, 4, ("cats", "dogs"), True)
    train, val, test = names(image_splits(config(root)))
    assert [name.partition("/")[0] for name in val] == [name.partition("/")[0] for name in test] == 2 * ["cats"] + 3 * ["dogs"]
    assert len(train) == 40
    everything = {f"{kind}/{i:03}" for kind, count in (("cats", 20), ("dogs", 30)) for i in range(count)}
    assert set(train) | set(val) | set(test) == everything and len(train + val + test) == 50


def test_batches_are_squares_standardised_like_imagenet_s(tmp_path: Path) -> None:
    splits = image_splits(config(fill(tmp_path, {"a": 12, "b": 10})))
    mean, std = (torch.tensor(numbers) for numbers in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    for loader in splits:
        batch = next(loader.batches())
        assert batch["images"].shape[1:] == (3, 4, 4) and batch["labels"].dtype == torch.int64
    stems = [int(path.stem) for path, _ in splits.test.dataset.files]  # which is also how they are filled
    expected = (torch.tensor(stems)[:, None] / 255 - mean) / std
    torch.testing.assert_close(next(splits.test.batches())["images"][:, :, 1, 2], expected, atol=1e-5, rtol=0)
    assert next(splits.test.batches())["labels"].tolist() == [0, 1]


def test_the_seed_alone_draws_what_is_held_out(tmp_path: Path) -> None:
    root = fill(tmp_path, {"a": 30, "b": 30})
    first = names(image_splits(config(root, seed=1)))
    torch.rand(3)
    assert first == names(image_splits(config(root, seed=1)))
    assert first[1] != names(image_splits(config(root, seed=2)))[1]


def test_parts_that_are_there_are_taken_whole_and_others_come_from_train(tmp_path: Path) -> None:
    root = fill(tmp_path, {"train/ants": 20, "train/bees": 10, "val/ants": 3, "val/bees": 1, "other": 2})
    train, val, test = names(image_splits(config(root)))
    assert val == ["ants/000", "ants/001", "ants/002", "bees/000"]
    assert [name.partition("/")[0] for name in test] == ["ants", "ants", "bees"] and len(train) == 27
    fill(root, {"test/bees": 2})
    train, val, test = names(image_splits(config(root)))
    assert test == ["bees/000", "bees/001"] and len(train) == 30
    assert image_set(config(root)).classes == ("ants", "bees")


@pytest.mark.parametrize("name", ["valid", "validation"])
def test_the_part_that_validates_has_other_names_too(name: str, tmp_path: Path) -> None:
    parts = {"train": 12, name: 4, "test": 4}
    root = fill(tmp_path, {f"{part}/{kind}": count for part, count in parts.items() for kind in ("ants", "bees")})
    assert [len(part) for part in names(image_splits(config(root)))] == [24, 8, 8]
    fill(root, {"val/ants": 1})
    with pytest.raises(UserError, match=f"holds val and {name}, which all mean one part: keep one"):
        image_splits(config(root))


def test_images_of_trains_are_no_part_of_the_set(tmp_path: Path) -> None:
    root = fill(tmp_path, {"train": 10, "tram": 10})
    assert image_set(config(root)).classes == ("train", "tram")
    assert len(names(image_splits(config(root)))[0]) == 16


def test_a_class_of_one_image_is_trained_on(tmp_path: Path) -> None:
    train, val, test = names(image_splits(config(fill(tmp_path, {"a": 5, "b": 1, "c": 2}))))
    assert sorted(name[0] for name in train) == ["a", "a", "a", "b", "c", "c"]
    assert [name[0] for name in val] == [name[0] for name in test] == ["a"]


def test_other_files_are_passed_over_and_links_are_followed(tmp_path: Path) -> None:
    root = fill(tmp_path / "set", {"a": 4, "b": 4})
    for name in ("notes.txt", "Thumbs.db", ".hidden.png", "LABELS", "imageNotFound.gif"):
        (root / "a" / name).write_text("no image", encoding="utf-8")
    (root / "a" / "deeper.png").mkdir()
    (root / "README.md").write_text("of the set", encoding="utf-8")
    (root / "b" / "link.JPG").symlink_to(image(tmp_path / "elsewhere.jpg"))
    (root / "c").symlink_to(fill(tmp_path, {"more": 4}) / "more", target_is_directory=True)
    splits = image_splits(config(root))
    assert image_set(config(root)).classes == ("a", "b", "c")
    assert len(sum(names(splits), [])) == 13
    assert sum(len(batch["labels"]) for loader in splits for batch in loader.batches()) == 13


def test_workers_give_the_same_batches(tmp_path: Path) -> None:
    root = fill(tmp_path, {"a": 12, "b": 12})
    alone, helped = (image_splits(config(root, num_workers=n, batch_size=5, hflip=True, crop=1)).train for n in (0, 2))
    for own, other in zip(alone.batches(1), helped.batches(1), strict=True):
        assert torch.equal(own["images"], other["images"]) and torch.equal(own["labels"], other["labels"])


def test_training_images_are_changed_as_bytes(tmp_path: Path) -> None:
    def white(batch: Batch, generator: torch.Generator) -> Batch:
        assert batch["images"].dtype == torch.uint8
        return batch | {"images": torch.full_like(batch["images"], 255)}

    splits = image_splits(config(fill(tmp_path, {"a": 5, "b": 5})), white)
    assert all((batch["images"] > 2).all() for batch in splits.train.batches())
    assert all((batch["images"] < 0).all() for batch in splits.val.batches())


@pytest.mark.parametrize(
    ("counts", "cause"),
    [
        ({}, "no folders"),
        ({"a": 5}, "the one class a"),
        ({"train/a": 5, "other": 5}, "the one class a"),
        ({"a": 5, "b": 0, "c": 0}, "no images to train on of b, c"),
        ({"a": 1, "b": 1}, "none are left for val and test"),
        ({"train/a": 5, "train/b": 5, "val/a": 0}, "none are left for val"),
        ({"train/a": 5, "train/b": 5, "test/a": 1, "test/d": 1}, "classes that are not in train: d"),
        ({"a": 5, "b": 5, "val/a": 1, "val/b": 1}, "holds val and no train: move"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else None,
)
def test_a_folder_that_cannot_be_meant_is_refused_in_one_line(counts: dict[str, int], cause: str, tmp_path: Path) -> None:
    for name in counts:
        (tmp_path / name).mkdir(parents=True)
    fill(tmp_path, counts)
    image(tmp_path / "beside.png")
    with pytest.raises(UserError, match=cause) as refused:
        image_splits(config(tmp_path))
    assert str(tmp_path) in str(refused.value) and "\n" not in str(refused.value)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere", image(tmp_path / "file.png")):
        with pytest.raises(UserError, match=f"{path}: there is no such folder"):
            config(path)


def test_images_that_are_none_are_counted_and_named_before_training(tmp_path: Path) -> None:
    root = fill(tmp_path, {"a": 9, "b": 9})
    bad = [root / "a" / f"bad{i}.jpg" for i in range(4)]
    for path in bad:
        path.write_bytes(b"no image")
    (root / "b" / "lost.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(UserError) as refused:
        image_splits(config(root))
    message = str(refused.value)
    assert message.startswith("5 of 23 images") and "; and 2 more" in message and "\n" not in message
    assert sum(str(path) in message for path in [*bad, root / "b" / "lost.png"]) == 3


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_is_cut_off_ends_training_with_one_line(workers: int, tmp_path: Path) -> None:
    root = fill(tmp_path, {"a": 5, "b": 5})
    for path in root.glob("*/*.png"):
        Image.effect_noise((64, 64), 50).save(path)
        path.write_bytes(path.read_bytes()[:900])
    splits = image_splits(config(root, num_workers=workers))  # the beginnings are those of images
    with pytest.raises(UserError, match=r"\.png cannot be read: ") as refused:
        next(splits.val.batches())
    assert str(refused.value).startswith(str(tmp_path)) and "\n" not in str(refused.value)
    assert not multiprocessing.active_children()


def test_auto_augment_has_the_policy_of_photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(sets, "auto_augment", lambda policy: asked.append(policy) or random_flip())
    image_splits(config(fill(tmp_path, {"a": 3, "b": 3}), auto_augment=True))
    assert asked == ["imagenet"]


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, {"set/a": 3, "set/b": 3})
    monkeypatch.setenv("HOME", str(tmp_path))
    assert image_set(config(Path("~/set"))).classes == ("a", "b")


def test_images_in_folders_of_a_class_are_its_own(tmp_path: Path) -> None:
    root = fill(tmp_path, {"a": 8, "a/more/of/it": 8, "a/.hidden": 3, "b/x": 8, "b/y": 8})
    train, val, test = names(image_splits(config(root)))
    assert len(train + val + test) == 32 and image_set(config(root)).classes == ("a", "b")
    (root / "b" / "x" / "again").symlink_to(root / "b", target_is_directory=True)
    with pytest.raises(UserError, match="again is a link to a folder that it is in"):
        image_splits(config(root))


def test_the_one_folder_of_an_unpacked_archive_is_looked_into(tmp_path: Path) -> None:
    fill(tmp_path, {"published/train/a": 5, "published/train/b": 5, "published/val/a": 1, "__MACOSX/a": 1})
    assert image_set(config(tmp_path)).classes == ("a", "b")
    assert [len(part) for part in names(image_splits(config(tmp_path)))] == [8, 1, 2]


def test_a_class_called_val_is_no_part(tmp_path: Path) -> None:
    fill(tmp_path, {"val": 5, "val/more": 5, "other": 10})
    assert image_set(config(tmp_path)).classes == ("other", "val")
    assert sum(len(part) for part in names(image_splits(config(tmp_path)))) == 20


@pytest.mark.skipif(os.name == "nt" or os.uname().sysname == "Darwin", reason="names are Unicode on this system")
def test_a_class_whose_name_is_not_utf_8_is_refused_before_training(tmp_path: Path) -> None:
    root = fill(tmp_path, {"tea": 5})
    os.mkdir(os.fsencode(root) + b"/caf\xe9")
    with pytest.raises(UserError, match=r"the folder b'caf\\xe9' has no name in UTF-8: rename it"):
        config(root)


def test_a_run_is_not_resumed_with_other_images(tmp_path: Path) -> None:
    """Each would be split again, so that the test could hold what was trained on."""
    root = fill(tmp_path / "set", {"a": 30, "b": 30})
    of_run = config(root, out=str(tmp_path))
    first = image_splits(of_run)
    split.record_split(first.split, tmp_path)
    assert names(image_splits(of_run)) == names(first)
    added = image(root / "a" / "000a.png")
    with pytest.raises(UserError, match=r"not what the run in .* was begun with \(1 new, a/000a.png first\)"):
        image_splits(of_run)
    assert len(image_splits(config(root, out=str(tmp_path), fresh=True)).split["train"]) == 49
    added.rename(root / "b" / "000a.png")
    (root / "b" / "003.png").unlink()
    with pytest.raises(UserError, match=r"\(1 new, b/000a.png first; 1 gone, b/003.png first\)"):
        image_splits(of_run)
    (root / "b" / "000a.png").rename(root / "b" / "003.png")
    assert names(image_splits(of_run)) == names(first)
    with pytest.raises(UserError, match="its parts are others"):
        split.record_split(first.split | {"val": first.split["test"], "test": first.split["val"]}, tmp_path)
