"""Changes to batches against their definitions."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dl.mytorch.data.augment import compose, normalize, random_crop, random_flip
from dl.mytorch.data.loader import Augment, Batch


def byte_batch(count: int = 64, channels: int = 3, height: int = 5, width: int = 6) -> Batch:
    generator = torch.Generator().manual_seed(5)
    images = torch.randint(1, 256, (count, channels, height, width), dtype=torch.uint8, generator=generator)
    return {"images": images, "labels": torch.arange(count)}


def applied(step: Augment, batch: Batch, seed: int = 0) -> Tensor:
    return step(batch, torch.Generator().manual_seed(seed))["images"]


def test_normalize_is_its_formula_channel_by_channel() -> None:
    mean, std = [0.1, 0.5, 0.9], [0.2, 0.3, 0.4]
    batch = byte_batch()
    result = applied(normalize(mean, std), batch)
    assert result.dtype == torch.float32
    for channel in range(3):
        expected = (batch["images"][:, channel].double() / 255 - mean[channel]) / std[channel]
        torch.testing.assert_close(result[:, channel].double(), expected, atol=1e-6, rtol=1e-6)


def test_normalize_by_hand() -> None:
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 1, 1, 3)
    result = applied(normalize([0.2], [0.4]), {"images": images})
    torch.testing.assert_close(result.flatten(), torch.tensor([-0.5, 0.0, 2.0]), atol=1e-6, rtol=0)


def windows(image: Tensor, padding: int) -> dict[tuple[int, int], Tensor]:
    """Every window of an image (C, H, W) with zeros around it, by its offset."""
    _, height, width = image.shape
    padded = F.pad(image, [padding] * 4)
    offsets = range(2 * padding + 1)
    return {(top, left): padded[:, top : top + height, left : left + width] for top in offsets for left in offsets}


def test_every_crop_is_a_window_of_its_padded_image_and_every_offset_occurs() -> None:
    batch = byte_batch(count=300)
    result = applied(random_crop(2), batch)
    seen = []
    for image, crop in zip(batch["images"], result):
        matching = [offset for offset, window in windows(image, 2).items() if torch.equal(window, crop)]
        assert len(matching) == 1  # one offset for all channels
        seen += matching
    assert set(seen) == {(top, left) for top in range(5) for left in range(5)}
    assert result.dtype == torch.uint8 and result.shape == batch["images"].shape


def test_without_padding_a_crop_is_the_image() -> None:
    batch = byte_batch(4)
    assert torch.equal(applied(random_crop(0), batch), batch["images"])


def test_about_half_of_the_images_are_mirrored_and_the_others_untouched() -> None:
    images = byte_batch(count=400)["images"]
    result = applied(random_flip(), {"images": images})
    mirrored = [torch.equal(new, old.flip(-1)) for new, old in zip(result, images)]
    untouched = [torch.equal(new, old) for new, old in zip(result, images)]
    assert all(a != b for a, b in zip(mirrored, untouched))
    assert 160 <= sum(mirrored) <= 240  # 200 +- 4 standard deviations


STEPS = {"normalize": normalize([0.5] * 3, [0.5] * 3), "crop": random_crop(2), "flip": random_flip()}
STEPS["all"] = compose(STEPS["crop"], STEPS["flip"], STEPS["normalize"])


@pytest.mark.parametrize("name", STEPS)
def test_the_generator_alone_decides(name: str) -> None:
    batch = byte_batch()
    first = applied(STEPS[name], batch, seed=1)
    torch.rand(9)
    assert torch.equal(first, applied(STEPS[name], batch, seed=1))
    if name != "normalize":
        assert not torch.equal(first, applied(STEPS[name], batch, seed=2))


@pytest.mark.parametrize("name", STEPS)
def test_inputs_and_labels_stay_untouched(name: str) -> None:
    batch = byte_batch()
    images, labels = batch["images"].clone(), batch["labels"].clone()
    result = STEPS[name](batch, torch.Generator().manual_seed(0))
    assert torch.equal(batch["images"], images) and set(batch) == {"images", "labels"}
    assert torch.equal(result["labels"], labels)


@pytest.mark.parametrize("name", STEPS)
def test_an_empty_batch_stays_empty(name: str) -> None:
    assert applied(STEPS[name], byte_batch(0)).shape == (0, 3, 5, 6)


def test_compose_runs_in_order_from_one_stream() -> None:
    def append_draw(batch: Batch, generator: torch.Generator) -> Batch:
        return {"images": torch.cat([batch["images"], torch.rand(1, generator=generator)])}

    def double(batch: Batch, generator: torch.Generator) -> Batch:
        return {"images": batch["images"] * 2}

    result = applied(compose(append_draw, double, append_draw), {"images": torch.zeros(0)})
    a, b = torch.rand(1, generator=(stream := torch.Generator().manual_seed(0))), torch.rand(1, generator=stream)
    assert torch.equal(result, torch.cat([2 * a, b]))
