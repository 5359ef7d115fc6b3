"""Folders of pictures: every kind of picture, every kind of damage, every layout."""

import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dl.mytorch.config import UserError
from dl.mytorch.data import Batch, ImageConfig, centre_square, folder, image_set, image_splits, images, read_image
from dl.mytorch.data.augment import random_flip

# Two rows of three pixels: red green blue, black grey white.
PIXELS = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[0, 0, 0], [128, 128, 128], [255, 255, 255]]], np.uint8)
COLOURS = torch.from_numpy(PIXELS).permute(2, 0, 1)
GREYS = torch.tensor([[76, 150, 29], [0, 128, 255]], dtype=torch.uint8).expand(3, 2, 3)  # ITU-R 601: 0.299, 0.587, 0.114


def saved(image: Image.Image, path: Path, **options: Any) -> Path:
    image.save(path, **options)
    return path


# ---- one picture ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".ppm"])
def test_colours_are_read_as_they_were_saved(suffix: str, tmp_path: Path) -> None:
    image = read_image(saved(Image.fromarray(PIXELS), tmp_path / f"a{suffix}"))
    assert image.dtype == torch.uint8 and image.is_contiguous() and torch.equal(image, COLOURS)


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_lossy_pictures_come_out_nearly_as_they_went_in(suffix: str, tmp_path: Path) -> None:
    ramp = np.broadcast_to(np.arange(0, 256, 8, dtype=np.uint8)[None, :, None], (16, 32, 3))
    image = read_image(saved(Image.fromarray(ramp.copy()), tmp_path / f"a{suffix}", quality=95))
    assert image.shape == (3, 16, 32)
    assert (image.int() - torch.from_numpy(ramp.copy()).permute(2, 0, 1).int()).abs().max() <= 4


@pytest.mark.parametrize("mode", ["L", "LA", "I;16", "RGBX", "P"])
def test_other_modes_become_three_channels(mode: str, tmp_path: Path) -> None:
    image = Image.fromarray(PIXELS)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
        assert image.mode == "I;16"
    elif mode == "P":
        image = image.quantize(6)
    else:
        image = image.convert(mode)
    expected = COLOURS if mode in ("RGBX", "P") else GREYS
    assert torch.equal(read_image(saved(image, tmp_path / ("a.tif" if mode == "RGBX" else "a.png"))), expected)


def test_floats_are_from_0_to_1(tmp_path: Path) -> None:
    floats = np.array([[0, 0.5, 1]], np.float32)
    assert read_image(saved(Image.fromarray(floats), tmp_path / "a.tif")).tolist() == [[[0, 128, 255]]] * 3
    for wrong in (floats * 255, floats - 0.1, floats * np.nan):
        path = saved(Image.fromarray(wrong), tmp_path / "b.tif")
        with pytest.raises(UserError, match=r"b.tif cannot be read: its floats are from .*, not from 0 to 1: save it as bytes"):
            read_image(path)


def test_one_bit_becomes_black_and_white(tmp_path: Path) -> None:
    image = read_image(saved(Image.fromarray(np.array([[True, False]])), tmp_path / "a.png"))
    assert image.tolist() == [[[255, 0]]] * 3


def test_cmyk_becomes_red_green_and_blue(tmp_path: Path) -> None:
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # no cyan: red
    read = read_image(saved(image, tmp_path / "a.jpg", quality=100))
    assert (read.float().mean((1, 2)) - torch.tensor([255.0, 0.0, 0.0])).abs().max() < 6


def test_what_is_transparent_becomes_white(tmp_path: Path) -> None:
    pixels = np.array([[[255, 0, 0, 255], [255, 0, 0, 0], [0, 0, 0, 51]]], np.uint8)
    image = read_image(saved(Image.fromarray(pixels), tmp_path / "a.png"))
    assert image[:, 0].T.tolist() == [[255, 0, 0], [255, 255, 255], [204, 204, 204]]
    palette = Image.fromarray(PIXELS).quantize(6)
    image = read_image(saved(palette, tmp_path / "b.png", transparency=palette.getpixel((0, 0))))
    assert image[:, 0, 0].tolist() == [255] * 3 and torch.equal(image[:, :, 1:], COLOURS[:, :, 1:])


# EXIF's orientation: how the stored rows and columns have to be turned to stand upright.
UPRIGHT = {
    1: lambda x: x,
    2: lambda x: x.flip(2),
    3: lambda x: x.flip(1, 2),
    4: lambda x: x.flip(1),
    5: lambda x: x.transpose(1, 2),
    6: lambda x: x.rot90(-1, (1, 2)),
    7: lambda x: x.flip(1, 2).transpose(1, 2),
    8: lambda x: x.rot90(1, (1, 2)),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_pictures_stand_upright(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(Image.fromarray(PIXELS), tmp_path / "a.png", exif=exif)
    assert torch.equal(read_image(path), UPRIGHT[orientation](COLOURS))


def test_one_pixel_is_a_picture(tmp_path: Path) -> None:
    path = saved(Image.new("RGB", (1, 1), (1, 2, 3)), tmp_path / "a.png")
    assert read_image(path).flatten().tolist() == [1, 2, 3]
    assert centre_square(read_image(path), 5).flatten(1).T.unique(dim=0).tolist() == [[1, 2, 3]]


def damaged(kind: str, path: Path) -> str:
    """Make `path` what cannot be read; a part of what is said of it."""
    content = saved(Image.fromarray(PIXELS.repeat(40, 0).repeat(40, 1)), path).read_bytes()
    if kind == "missing":
        path.unlink()
        return "there is no such file"
    if kind == "folder":
        path.unlink()
        path.mkdir()
        return "is a folder"
    contents = {
        "empty": (b"", "is empty"),
        "cut off": (content[: len(content) * 2 // 3], "cannot be read"),
        "two bytes": (content[:2], "not a picture"),
        "a web page": (b"<!DOCTYPE html><html>Not Found</html>", "not a picture"),
    }
    path.write_bytes(contents[kind][0])
    return contents[kind][1]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".gif", ".bmp", ".tif"])
@pytest.mark.parametrize("kind", ["missing", "folder", "empty", "cut off", "two bytes", "a web page"])
def test_what_is_no_picture_is_refused_in_one_line(kind: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    cause = damaged(kind, path)
    with pytest.raises(UserError) as refused:
        read_image(path)
    message = str(refused.value)
    assert message.startswith(str(path)) and "\n" not in message
    assert cause in message or kind == "cut off"  # a short BMP, say, is no picture at all


def test_a_picture_of_too_many_pixels_is_refused_with_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(Image.new("1", (100, 100)), tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5000)  # up to twice of that is a warning only
    assert read_image(path).shape == (3, 100, 100)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4999)
    with pytest.raises(UserError, match=r"a.png cannot be read: .*10000 pixels"):
        read_image(path)


@pytest.mark.parametrize(("height", "width"), [(4, 4), (4, 7), (9, 4), (1, 200)])
def test_the_square_is_the_middle(height: int, width: int) -> None:
    image = torch.arange(3 * height * width).remainder(256).to(torch.uint8).view(3, height, width)
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    assert torch.equal(centre_square(image, side), image[:, top : top + side, left : left + side])


def test_a_smaller_square_is_a_mean_of_pixels_not_a_choice() -> None:
    stripes = torch.tensor([0, 255], dtype=torch.uint8).repeat(33).expand(3, 66, 66)  # 1 pixel wide; each third one is 0 or 255
    assert (centre_square(stripes, 22).float() - 127.5).abs().max() < 20
    assert centre_square(stripes, 22).shape == (3, 22, 22)


# ---- a folder of them ----------------------------------------------------------------------------------------------


def picture(path: Path, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return saved(Image.new("RGB", (8, 6), (value, value, value)), path)


def fill(root: Path, counts: dict[str, int]) -> Path:
    """`counts` pictures in each folder below `root`."""
    for name, count in counts.items():
        for i in range(count):
            picture(root / name / f"{i:03}.png", value=i)
    return root


def config(root: Path, **changes: Any) -> ImageConfig:
    return ImageConfig("unused", f"folder:{root}", **({"batch_size": 16, "image_size": 4} | changes))


def names(splits: Any) -> list[list[str]]:
    """Which pictures each split holds, as "cats/003"."""
    return [[f"{path.parent.name}/{path.stem}" for path, _ in loader.dataset.pictures] for loader in splits]


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
    stems = [int(path.stem) for path, _ in splits.test.dataset.pictures]  # which is also how they are filled
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


def test_pictures_of_trains_are_no_part_of_the_set(tmp_path: Path) -> None:
    root = fill(tmp_path, {"train": 10, "tram": 10})
    assert image_set(config(root)).classes == ("train", "tram")
    assert len(names(image_splits(config(root)))[0]) == 16


def test_a_class_of_one_picture_is_trained_on(tmp_path: Path) -> None:
    train, val, test = names(image_splits(config(fill(tmp_path, {"a": 5, "b": 1, "c": 2}))))
    assert sorted(name[0] for name in train) == ["a", "a", "a", "b", "c", "c"]
    assert [name[0] for name in val] == [name[0] for name in test] == ["a"]


def test_other_files_are_passed_over_and_links_are_followed(tmp_path: Path) -> None:
    root = fill(tmp_path / "set", {"a": 4, "b": 4})
    for name in ("notes.txt", "Thumbs.db", ".hidden.png", "LABELS", "imageNotFound.gif"):
        (root / "a" / name).write_text("no picture")
    (root / "a" / "deeper.png").mkdir()
    (root / "README.md").write_text("of the set")
    (root / "b" / "link.JPG").symlink_to(picture(tmp_path / "elsewhere.jpg"))
    (root / "c").symlink_to(fill(tmp_path, {"more": 4}) / "more", target_is_directory=True)
    splits = image_splits(config(root))
    assert image_set(config(root)).classes == ("a", "b", "c")
    assert len(sum(names(splits), [])) == 13
    assert sum(len(batch["labels"]) for loader in splits for batch in loader.batches()) == 13


def test_workers_give_the_same_batches(tmp_path: Path) -> None:
    root = fill(tmp_path, {"a": 12, "b": 12})
    alone, helped = (image_splits(config(root, num_workers=n, batch_size=5, flip=True, crop=1)).train for n in (0, 2))
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
        ({"a": 5, "b": 0, "c": 0}, "no pictures to train on of b, c"),
        ({"a": 1, "b": 1}, "none are left for val and test"),
        ({"train/a": 5, "train/b": 5, "val/a": 0}, "none are left for val"),
        ({"train/a": 5, "train/b": 5, "test/a": 1, "test/d": 1}, "classes that are not in train: d"),
        ({"a": 5, "b": 5, "val/a": 1, "val/b": 1}, "no pictures to train on of val"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else None,
)
def test_a_folder_that_cannot_be_meant_is_refused_in_one_line(counts: dict[str, int], cause: str, tmp_path: Path) -> None:
    for name in counts:
        (tmp_path / name).mkdir(parents=True)
    fill(tmp_path, counts)
    picture(tmp_path / "beside.png")
    with pytest.raises(UserError, match=cause) as refused:
        image_splits(config(tmp_path))
    assert str(tmp_path) in str(refused.value) and "\n" not in str(refused.value)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere", picture(tmp_path / "file.png")):
        with pytest.raises(UserError, match=f"{path}: there is no such folder"):
            config(path)


def test_pictures_that_are_none_are_counted_and_named_before_training(tmp_path: Path) -> None:
    root = fill(tmp_path, {"a": 9, "b": 9})
    bad = [root / "a" / f"bad{i}.jpg" for i in range(4)]
    for path in bad:
        path.write_bytes(b"no picture")
    (root / "b" / "lost.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(UserError) as refused:
        image_splits(config(root))
    message = str(refused.value)
    assert message.startswith("5 of 23 pictures") and "; and 2 more" in message and "\n" not in message
    assert sum(str(path) in message for path in [*bad, root / "b" / "lost.png"]) == 3


@pytest.mark.parametrize("workers", [0, 1])
def test_a_picture_that_is_cut_off_ends_training_with_one_line(workers: int, tmp_path: Path) -> None:
    root = fill(tmp_path, {"a": 5, "b": 5})
    for path in root.glob("*/*.png"):
        saved(Image.effect_noise((64, 64), 50), path)
        path.write_bytes(path.read_bytes()[:900])
    splits = image_splits(config(root, num_workers=workers))  # the beginnings are those of pictures
    with pytest.raises(UserError, match=r"\.png cannot be read: ") as refused:
        next(splits.val.batches())
    assert str(refused.value).startswith(str(tmp_path)) and "\n" not in str(refused.value)
    assert not multiprocessing.active_children()


def test_auto_augment_has_the_policy_of_photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(images, "auto_augment", lambda policy: asked.append(policy) or random_flip())
    image_splits(config(fill(tmp_path, {"a": 3, "b": 3}), auto_augment=True))
    assert asked == ["imagenet"]


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, {"set/a": 3, "set/b": 3})
    monkeypatch.setenv("HOME", str(tmp_path))
    assert image_set(config(Path("~/set"))).classes == ("a", "b")


def test_hidden_names_and_unknown_suffixes_are_none_of_the_known() -> None:
    assert {".jpg", ".jpeg", ".png"} <= folder.SUFFIXES and all(suffix == suffix.lower() for suffix in folder.SUFFIXES)
