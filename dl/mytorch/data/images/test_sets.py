"""Sets of images by name, and what a config's flags do to the training images, and to no others."""

from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dl.mytorch import Trainer, seed_everything, testing
from dl.mytorch.command_line import parse
from dl.mytorch.config import UserError
from dl.mytorch.data import Batch, ImageConfig, Loader, Splits, fashion_mnist, image_set, image_splits, sources
from dl.mytorch.data.augment import signed
from dl.mytorch.data.images import idx, sets
from dl.mytorch.layers import sequential
from dl.mytorch.optim import constant, sgd
from dl.mytorch.tasks import Classification

SAMPLE = "fashion_mnist-sample"


@pytest.fixture(autouse=True, scope="module")
def _unpack_once() -> Iterator[None]:
    """The sample's files, which most tests here read several times."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "read_bytes", cache(sources.read_bytes))
        yield


def config(data: str = SAMPLE, **changes: Any) -> ImageConfig:
    return ImageConfig("unused", data, batch_size=32, **changes)


def first(loader: Loader) -> Tensor:
    return next(loader.batches())["images"]


def plain(changed: ImageConfig) -> Tensor:
    """The training images that the first batch of `changed` is made from."""
    return first(image_splits(config(seed=changed.seed)).train)


@pytest.mark.parametrize("name", sets.NAMES.split(", "))
def test_every_name_describes_its_set(name: str) -> None:
    about = image_set(config(name))
    assert (about.channels, about.size) == ((1, 28) if "mnist" in name else (3, 32))
    assert len(set(about.classes)) == len(about.classes) == (100 if name == "cifar100" else 10)
    assert about.flip_invariant == (about.classes != idx.DIGITS)
    assert name in sets.SOURCES


@pytest.mark.parametrize("name", sets.NAMES.split(", "))
def test_every_name_is_loaded_by_its_own_function(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    function = name.removesuffix("-sample")
    monkeypatch.setattr(sets, function, lambda config, augment, to_input: (function, config.data))
    assert image_splits(config(name)) == (function, name)


@pytest.mark.parametrize("name", ["imagenet", "mnist-sample", "-sample", "", "fashion_mnist-sample-sample", "Fashion_MNIST"])
def test_another_name_is_refused_in_one_line_that_has_those_there_are(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="fashion_mnist, fashion_mnist-sample, mnist"):
        config(name)
    with pytest.raises(SystemExit) as ended:
        parse(ImageConfig, ["--out", "x", f"--data={name}"])
    message = capsys.readouterr().err
    assert ended.value.code == 2 and f"--data {name}: no such set of images" in message and message.count("\n") == 1


def test_help_lists_the_sets(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(ImageConfig, ["--help"])
    assert sets.NAMES in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    "changes",
    [
        *({"label_smoothing": 1.0}, {"label_smoothing": -0.1}, {"crop": -1}, {"crop": 29}, {"crop": 10**18}),
        *({"image_size": 0}, {"image_size": -4}, {"image_size": 10**18}),
        *({"erase": 1.1}, {"erase": -0.1}, {"mixup": -1.0}, {"mixup": 1e-300}, {"cutmix": -0.5}, {"cutmix": 1e308}),
    ],
    ids=str,
)
def test_a_value_that_cannot_be_meant_is_refused_by_its_flag(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="--" + next(iter(changes)).replace("_", "-")):
        config(**changes)


def test_a_set_is_loaded_by_its_name() -> None:
    by_name, by_function = image_splits(config()), fashion_mnist(config())
    for own, other in zip(by_name, by_function, strict=True):
        assert torch.equal(first(own), first(other))


def test_flips_mirror_images_of_training_only() -> None:
    flipped = config(hflip=True)
    splits, before = image_splits(flipped), plain(flipped)
    same = [torch.equal(new, old) for new, old in zip(first(splits.train), before)]
    mirrored = [torch.equal(new, old.flip(-1)) for new, old in zip(first(splits.train), before)]
    assert all(a or b for a, b in zip(same, mirrored)) and any(same) and any(mirrored)
    assert torch.equal(first(splits.val), first(image_splits(config()).val))
    assert torch.equal(first(splits.test), first(image_splits(config()).test))


def test_sets_that_a_mirror_changes_are_not_flipped(monkeypatch: pytest.MonkeyPatch) -> None:
    about = sets.IMAGE_SETS[SAMPLE]._replace(flip_invariant=False)
    monkeypatch.setattr(sets, "IMAGE_SETS", sets.IMAGE_SETS | {SAMPLE: about})
    assert torch.equal(first(image_splits(config(hflip=True)).train), plain(config()))


def test_crops_are_windows_of_training_images_padded_as_bytes() -> None:
    cropped = config(crop=1)
    black = plain(cropped).min()
    padded = F.pad(plain(cropped), [1] * 4, value=black.item())
    windows = [padded[..., top : top + 28, left : left + 28] for top in range(3) for left in range(3)]
    new = first(image_splits(cropped).train)
    assert all(any(torch.equal(new[i], window[i]) for window in windows) for i in range(len(new)))
    assert not torch.equal(new, plain(cropped))
    assert torch.equal(first(image_splits(cropped).test), first(image_splits(config()).test))


def test_a_recipe_s_own_change_comes_last_and_sees_bytes() -> None:
    def white(batch: Batch, generator: torch.Generator) -> Batch:
        assert batch["images"].dtype == torch.uint8
        return batch | {"images": torch.full_like(batch["images"], 255)}

    splits = image_splits(config(crop=2), white)
    torch.testing.assert_close(first(splits.train).unique(), torch.tensor([(1 - 0.2860) / 0.3530]))
    assert len(first(splits.val).unique()) > 1


# ---- erasing, mixing, AutoAugment ----------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{"mixup": 1.0}, {"cutmix": 1.0}, {"mixup": 0.5, "cutmix": 0.5}], ids=str)
def test_mixed_batches_have_targets_in_training_only(changes: dict[str, Any]) -> None:
    mixed = config(**changes)
    splits = image_splits(mixed)
    batch = next(splits.train.batches())
    assert batch["targets"].shape == (32, 10) and ((batch["targets"] > 0).sum(1) > 1).any()
    assert torch.equal(batch["labels"], next(image_splits(config()).train.batches())["labels"])
    assert not torch.equal(batch["images"], plain(mixed))
    assert "targets" not in next(splits.val.batches()) and "targets" not in next(splits.test.batches())


def test_with_both_each_batch_is_mixed_in_one_of_the_two_ways() -> None:
    splits, own = image_splits(config(mixup=1.0, cutmix=1.0)), image_splits(config())
    kinds = []
    for batch, before in zip(islice(splits.train.batches(), 40), own.train.batches()):
        kinds.append(bool((batch["images"] == before["images"]).any(0).all()))  # CutMix leaves pixels as they were
    assert 8 < sum(kinds) < 32


def test_erasing_is_for_training_images_with_its_probability() -> None:
    erased = config(erase=0.5)
    changed = (first(image_splits(erased).train) != plain(erased)).flatten(1).any(1)
    assert 6 <= changed.sum() <= 26
    assert torch.equal(first(image_splits(erased).test), first(image_splits(config()).test))


@pytest.mark.parametrize("name", [SAMPLE, "mnist", "cifar10", "cifar100", "svhn"])
def test_auto_augment_has_the_policy_of_the_nearest_set(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(sets, "auto_augment", asked.append)
    monkeypatch.setattr(sets, name.removesuffix("-sample"), lambda config, augment, to_input: None)
    image_splits(config(name, auto_augment=True))
    assert asked == ["svhn" if name in ("mnist", "svhn") else "cifar10"]


def test_images_come_to_the_network_as_a_recipe_wants_them() -> None:
    for split in image_splits(config(hflip=True, crop=2), to_input=signed):
        images = first(split)
        assert images.dtype == torch.float32 and images.min() == -1 and images.max() == 1


def test_a_run_with_every_change_resumes_exactly(tmp_path: Path, no_figures: None) -> None:
    every = {"crop": 2, "hflip": True, "auto_augment": True, "erase": 0.5, "mixup": 0.2, "cutmix": 1.0, "label_smoothing": 0.1}

    def main(config: ImageConfig, data: Splits) -> Any:
        seed_everything(config.seed)
        model = sequential(flat=nn.Flatten(), fc=nn.Linear(784, 10))
        task = Classification(config.label_smoothing, image_set(config).classes)
        return Trainer(model, task, sgd(config.lr), constant(), config).fit(data)

    config = ImageConfig(str(tmp_path), SAMPLE, steps=6, batch_size=16, lr=0.01, **every)
    testing.assert_resumes_exactly(main, config, lambda: image_splits(config))


def test_an_image_is_prepared_as_the_images_of_its_set_were() -> None:
    about = image_set(config())
    image = fashion_mnist(config()).test.dataset["images"][0]  # grey: the same in all three colours
    prepared = sets.prepare(image.expand(3, -1, -1), about)
    torch.testing.assert_close(prepared, first(fashion_mnist(config()).test)[:1], atol=1e-5, rtol=0)


def test_a_photograph_becomes_a_grey_square_of_the_size_that_was_trained() -> None:
    photograph = torch.zeros(3, 60, 90, dtype=torch.uint8)
    photograph[1] = 255  # pure green
    prepared = sets.prepare(photograph, image_set(config()))
    assert prepared.shape == (1, 1, 28, 28)
    torch.testing.assert_close(prepared, torch.full_like(prepared, (0.587 - 0.2860) / 0.3530))
    assert sets.prepare(photograph, image_set(config("cifar10"))).shape == (1, 3, 32, 32)
