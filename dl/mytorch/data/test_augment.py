"""Changes to batches against their definitions."""

from types import ModuleType

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dl.mytorch import testing
from dl.mytorch.data.augment import (
    auto_augment,
    compose,
    cutmix,
    either,
    mixup,
    normalize,
    random_crop,
    random_erasing,
    random_flip,
)
from dl.mytorch.data.loader import Batch, Transform
from dl.mytorch.distributed import rng_state

pytestmark = pytest.mark.usefixtures("torchvision")  # which auto_augment imports


def byte_batch(count: int = 64, channels: int = 3, height: int = 5, width: int = 6) -> Batch:
    generator = torch.Generator().manual_seed(5)
    images = torch.randint(1, 256, (count, channels, height, width), dtype=torch.uint8, generator=generator)
    return {"images": images, "labels": torch.arange(count)}


def applied(step: Transform, batch: Batch, seed: int = 0) -> Tensor:
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


# ---- Random Erasing ------------------------------------------------------------------------------------------------


def rectangle(mask: Tensor) -> tuple[int, int, int, int]:
    """Top, left, height and width of the one full rectangle that a mask (H, W) is."""
    rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
    top, left, height, width = int(rows[0]), int(columns[0]), len(rows), len(columns)
    assert mask[top : top + height, left : left + width].all() and mask.sum() == height * width
    return top, left, height, width


def erased_rectangles(count: int, height: int, width: int, probability: float = 1.0) -> list[tuple[int, int, int, int]]:
    black = torch.zeros(count, 3, height, width, dtype=torch.uint8)
    noisy = applied(random_erasing(probability), {"images": black}).any(1)  # of 3 bytes of noise, all are 0 once in 16 million
    return [rectangle(mask) for mask in noisy if mask.any()]


@pytest.mark.parametrize(("height", "width"), [(40, 40), (30, 60)])
def test_erased_rectangles_have_the_areas_and_the_aspects_of_the_paper(height: int, width: int) -> None:
    found = erased_rectangles(2000, height, width)
    assert len(found) == 2000
    shares = torch.tensor([tall * wide / (height * width) for _, _, tall, wide in found])
    whole = [(tall, wide) for _, _, tall, wide in found if tall < height and wide < width]
    aspects = torch.tensor([tall / wide for tall, wide in whole if min(tall, wide) >= 8])
    assert 0.015 < shares.min() < 0.03 and 0.38 < shares.max() < 0.42  # from 0.02 to 0.4, but for whole pixels
    assert 0.19 < shares.mean() < 0.22  # uniform: 0.21, less the sides that are cut
    assert 0.27 < aspects.min() < 0.36 and 2.8 < aspects.max() < 3.8  # from 0.3 to 1 / 0.3
    tops, lefts = zip(*[(top, left) for top, left, _, _ in found])
    assert min(tops) == min(lefts) == 0
    assert max(top + tall for top, _, tall, _ in found) == height and max(left + wide for _, left, _, wide in found) == width


def test_the_probability_is_that_of_an_image_to_be_erased() -> None:
    assert erased_rectangles(200, 20, 20, probability=0.0) == []
    assert 420 < len(erased_rectangles(1600, 20, 20, probability=0.3)) < 540  # 480 +- 3.3 standard deviations


def test_what_is_erased_is_uniform_noise_and_the_rest_is_untouched() -> None:
    white = torch.full((300, 1, 30, 30), 255, dtype=torch.uint8)
    result = applied(random_erasing(1.0), {"images": white})
    noise = result[result != 255].float()
    assert result.dtype == torch.uint8 and 0.15 < len(noise) / white.numel() < 0.25
    assert noise.min() == 0 and noise.max() == 254 and abs(noise.mean() - 127) < 1
    assert abs(noise.std() - 254 / 12**0.5) < 1


# ---- mixup and CutMix ----------------------------------------------------------------------------------------------


def one_label_each(count: int, channels: int = 3, height: int = 12, width: int = 16) -> Batch:
    """Image i is filled with 10 * i and has the label i: a pixel tells whose it is."""
    images = (10 * torch.arange(count, dtype=torch.uint8)).view(-1, 1, 1, 1).expand(count, channels, height, width)
    return {"images": images, "labels": torch.arange(count)}


def with_partners(step: Transform, batch: Batch, seed: int) -> tuple[Batch, float, Tensor]:
    """The changed batch, the share of an image's own label in its targets, and whose label has the rest."""
    result = step(batch, torch.Generator().manual_seed(seed))
    own = result["targets"].diagonal()
    rest = result["targets"] - own.diag()
    partners = torch.where(rest.sum(1) > 0, rest.argmax(1), torch.arange(len(own)))
    shares = own[partners != torch.arange(len(own))]
    assert (result["targets"].sum(1) - 1).abs().max() < 1e-6
    assert (rest > 0).sum(1).max() <= 1 and (shares == shares[:1]).all()
    return result, shares[0].item() if len(shares) else 1.0, partners


@pytest.mark.parametrize("channels", [1, 3])
def test_mixup_is_its_formula_with_one_lambda_for_the_batch(channels: int) -> None:
    batch = one_label_each(8, channels)
    for seed in range(20):
        result, share, partners = with_partners(mixup(1.0, 8), batch, seed)
        expected = share * batch["images"].float() + (1 - share) * batch["images"].float()[partners]
        torch.testing.assert_close(result["images"], expected)
        assert sorted(partners.tolist()) == list(range(8))  # each image is pasted into one


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_lambda_has_the_mean_and_the_variance_of_beta(alpha: float) -> None:
    step, batch, generator = mixup(alpha, 6), one_label_each(6, 1, 1, 1), torch.Generator()
    targets = torch.stack([step(batch, generator.manual_seed(seed))["targets"] for seed in range(800)])
    shares = targets.diagonal(dim1=1, dim2=2).amin(1)  # an image that is its own partner has all of its label
    variance = 1 / (4 * (2 * alpha + 1))
    assert abs(shares.mean() - 0.5) < 4 * (variance / 800) ** 0.5
    assert shares.var().item() == pytest.approx(variance, rel=0.15)


@pytest.mark.parametrize("channels", [1, 3])
def test_cutmix_pastes_one_box_and_labels_have_the_share_of_their_pixels(channels: int) -> None:
    batch = one_label_each(8, channels)
    whole = 0
    for seed in range(200):
        result, share, partners = with_partners(cutmix(1.0, 8), batch, seed)
        pasted = result["images"] != batch["images"]
        boxes = {rectangle(mask[0]) for i, mask in enumerate(pasted) if partners[i] != i and share < 1}
        assert len(boxes) <= 1 and result["images"].dtype == torch.uint8
        for top, left, tall, wide in boxes:
            assert share == pytest.approx(1 - tall * wide / (12 * 16))
            box = (..., slice(top, top + tall), slice(left, left + wide))
            assert torch.equal(result["images"][box], batch["images"][partners][box])
            if top > 0 and left > 0 and top + tall < 12 and left + wide < 16:  # not cut at an edge: the image's own shape
                whole += 1
                assert abs(tall / 12 - wide / 16) <= 2 / 12
    assert whole > 20


def test_cutmix_pastes_what_beta_says_less_what_is_cut_at_the_edges() -> None:
    step, batch = cutmix(1.0, 5), one_label_each(5, 1, 128, 128)
    shares = torch.tensor([with_partners(step, batch, seed)[1] for seed in range(500)])
    # A box of side s = sqrt(1 - lambda) keeps s - s^2 / 4 of it on average; for a uniform lambda the mean of the area, the
    # square of that, is 1/2 - 1/2 * 2/5 + 1/16 * 1/3. A box of whole pixels is 1/100 smaller.
    assert abs(shares.mean() - (1 - (1 / 2 - 1 / 5 + 1 / 48))) < 0.025


def test_one_image_is_mixed_with_itself() -> None:
    batch = byte_batch(1)
    for step in (mixup(1.0, 5), cutmix(1.0, 5)):
        result = step({**batch, "labels": torch.tensor([3])}, torch.Generator().manual_seed(0))
        torch.testing.assert_close(result["images"], batch["images"].to(result["images"].dtype))
        torch.testing.assert_close(result["targets"], torch.tensor([[0.0, 0.0, 0.0, 1.0, 0.0]]))


def test_either_is_one_of_the_two_by_the_flip_of_a_coin() -> None:
    a, b = (lambda batch, generator, name=name: {"name": name} for name in "ab")
    generator = torch.Generator().manual_seed(0)
    names = [either(a, b)({}, generator)["name"] for _ in range(400)]
    assert set(names) == {"a", "b"} and 160 <= names.count("a") <= 240


# ---- AutoAugment ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["cifar10", "svhn", "imagenet"])
def test_auto_augment_is_torchvision_s_from_a_seed_of_the_batch(policy: str, torchvision: ModuleType) -> None:
    batch = byte_batch(6, height=16, width=16)
    result = applied(auto_augment(policy), batch, seed=3)
    transforms = torchvision.transforms
    change = transforms.AutoAugment(transforms.AutoAugmentPolicy(policy), fill=128)
    torch.manual_seed(int(torch.randint(2**32, (), generator=torch.Generator().manual_seed(3))))
    assert torch.equal(result, torch.stack([change(image) for image in batch["images"]]))
    assert not torch.equal(result, batch["images"])


@pytest.mark.parametrize("policy", ["cifar10", "svhn", "imagenet"])
def test_auto_augment_moves_no_black_into_a_grey_image(policy: str) -> None:
    grey = {"images": torch.full((200, 3, 16, 16), 128, dtype=torch.uint8), "labels": torch.zeros(200)}
    assert applied(auto_augment(policy), grey).min() > 0


# ---- laws of all ---------------------------------------------------------------------------------------------------


def auto(batch: Batch, generator: torch.Generator) -> Batch:
    return auto_augment("cifar10")(
        batch, generator
    )  # made here, and not when tests are collected: torchvision is slow to import


STEPS = {
    **{"normalize": normalize([0.5] * 3, [0.5] * 3), "crop": random_crop(2), "flip": random_flip()},
    **{"erase": random_erasing(0.7), "mixup": mixup(1.0, 64), "cutmix": cutmix(1.0, 64), "auto": auto},
}
STEPS["all"] = compose(*(STEPS[name] for name in ("flip", "crop", "auto", "erase", "mixup", "normalize")))


@pytest.mark.parametrize("name", STEPS)
def test_the_generator_alone_decides(name: str) -> None:
    batch = byte_batch()
    first = applied(STEPS[name], batch, seed=1)
    torch.rand(9)
    assert torch.equal(first, applied(STEPS[name], batch, seed=1))
    if name != "normalize":
        assert not torch.equal(first, applied(STEPS[name], batch, seed=2))


@pytest.mark.parametrize("name", STEPS)
def test_global_randomness_is_left_alone(name: str) -> None:
    before = rng_state()
    applied(STEPS[name], byte_batch())
    testing.assert_same_state(rng_state(), before, "randomness")


@pytest.mark.parametrize("name", STEPS)
def test_inputs_and_labels_stay_untouched(name: str) -> None:
    batch = byte_batch()
    images, labels = batch["images"].clone(), batch["labels"].clone()
    result = STEPS[name](batch, torch.Generator().manual_seed(0))
    assert torch.equal(batch["images"], images) and set(batch) == {"images", "labels"}
    assert torch.equal(result["labels"], labels)


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("count", [0, 1])
def test_a_batch_of_one_image_or_none_keeps_its_shape(name: str, count: int) -> None:
    result = STEPS[name](byte_batch(count), torch.Generator().manual_seed(0))
    assert result["images"].shape == (count, 3, 5, 6)
    assert "targets" not in result or result["targets"].shape == (count, 64)


@pytest.mark.parametrize("name", [name for name in STEPS if name not in ("normalize", "all")])
def test_images_of_one_channel_are_changed_too(name: str) -> None:
    assert applied(STEPS[name], byte_batch(16, channels=1)).shape == (16, 1, 5, 6)


def test_compose_runs_in_order_from_one_stream() -> None:
    def append_draw(batch: Batch, generator: torch.Generator) -> Batch:
        return {"images": torch.cat([batch["images"], torch.rand(1, generator=generator)])}

    def double(batch: Batch, generator: torch.Generator) -> Batch:
        return {"images": batch["images"] * 2}

    result = applied(compose(append_draw, double, append_draw), {"images": torch.zeros(0)})
    a, b = torch.rand(1, generator=(stream := torch.Generator().manual_seed(0))), torch.rand(1, generator=stream)
    assert torch.equal(result, torch.cat([2 * a, b]))
