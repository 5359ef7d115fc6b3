"""Views against torchvision at given parameters, by hand, and what they draw."""

from types import ModuleType

import pytest
import torch
from torch import Tensor

from dl.mytorch.data.loader import Transform
from dl.mytorch.data.views import (
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    color_jitter,
    gaussian_blur,
    grey,
    random_blur,
    random_grey,
    random_resized_crop,
    resized_crop,
)

COLOURS = torch.tensor([[255.0, 0, 0], [0, 255, 0], [0, 0, 255], [200, 100, 50], [80, 80, 80], [0, 0, 0], [10, 255, 255]])


def random_images(count: int = 6, height: int = 9, width: int = 12, channels: int = 3) -> Tensor:
    return 255 * torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(1))


def applied(step: Transform, images: Tensor, seed: int = 0) -> Tensor:
    return step({"images": images}, torch.Generator().manual_seed(seed))["images"]


@pytest.mark.parametrize("channels", [1, 3])
def test_colours_are_torchvision_s_at_each_image_s_parameter(torchvision: ModuleType, channels: int) -> None:
    functional = torchvision.transforms.functional
    images = random_images(channels=channels)
    if channels == 3:
        images[0, :, 0, :7] = COLOURS.T
    for change, reference, factors in (
        (adjust_brightness, functional.adjust_brightness, (0.0, 0.5, 1.0, 1.3, 2.0, 4.0)),
        (adjust_contrast, functional.adjust_contrast, (0.0, 0.5, 1.0, 1.3, 2.0, 4.0)),
        (adjust_saturation, functional.adjust_saturation, (0.0, 0.5, 1.0, 1.3, 2.0, 4.0)),
        (adjust_hue, functional.adjust_hue, (-0.5, -0.3, 0.0, 0.1, 0.31, 0.5)),
    ):
        found = change(images, torch.tensor(factors))
        expected = torch.stack([255 * reference(image / 255, factor) for image, factor in zip(images, factors)])
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-3, msg=change.__name__)


def test_crops_and_blurs_are_torchvision_s_at_each_image_s_parameter(torchvision: ModuleType) -> None:
    functional = torchvision.transforms.functional
    images = random_images().double()
    boxes = torch.tensor([[0, 0, 9, 12], [2, 3, 1, 1], [4, 0, 5, 7], [0, 9, 9, 3], [3, 4, 2, 5], [8, 0, 1, 12]])
    expected = [functional.resized_crop(image, *box, [9, 12]) for image, box in zip(images, boxes.tolist())]
    torch.testing.assert_close(resized_crop(images, boxes), torch.stack(expected), rtol=0, atol=1e-9)
    sigmas = [0.1, 0.3, 0.7, 1.0, 1.5, 2.0]
    for size in (3, 5):
        expected = [functional.gaussian_blur(image, size, sigma) for image, sigma in zip(images, sigmas)]
        torch.testing.assert_close(gaussian_blur(images, torch.tensor(sigmas), size), torch.stack(expected), rtol=0, atol=1e-4)


def test_colours_by_hand() -> None:
    pixel = COLOURS[3].view(1, 3, 1, 1)  # (200, 100, 50)
    assert grey(pixel).item() == pytest.approx(0.2989 * 200 + 0.587 * 100 + 0.114 * 50)  # 124.18
    assert adjust_brightness(pixel, torch.tensor([1.5])).flatten().tolist() == [255, 150, 75]
    torch.testing.assert_close(
        adjust_saturation(pixel, torch.tensor([0.5])).flatten(), torch.tensor([162.09, 112.09, 87.09]), rtol=1e-5, atol=0
    )
    shifted = adjust_hue(pixel, torch.tensor([1 / 3]))  # each colour becomes the next
    torch.testing.assert_close(shifted.flatten(), torch.tensor([50.0, 200, 100]), rtol=1e-5, atol=0)


def test_a_crop_by_hand_reads_nothing_beyond_its_box() -> None:
    image = torch.tensor([[0.0, 10, 20, 900]]).view(1, 1, 1, 4)
    found = resized_crop(image, torch.tensor([[0, 1, 1, 2]])).flatten()
    torch.testing.assert_close(found, torch.tensor([10, 12.5, 17.5, 20]), rtol=1e-5, atol=0)


JITTER = color_jitter(0.4, 0.4, 0.4, 0.1)
EACH = [
    *(pytest.param(JITTER, id="jitter"), pytest.param(random_resized_crop(), id="crop")),
    *(pytest.param(random_blur(1.0, 3), id="blur"), pytest.param(random_grey(0.5), id="grey")),
]


@pytest.mark.parametrize("view", EACH)
def test_equal_images_of_a_batch_get_different_views_and_the_generator_alone_decides(view: Transform) -> None:
    images = random_images(1).expand(8, -1, -1, -1)
    found = applied(view, images)
    assert len(found.flatten(1).unique(dim=0)) >= 2 and (found - found[:1]).abs().amax() > 1
    torch.manual_seed(5)
    assert torch.equal(found, applied(view, images)) and not torch.equal(found, applied(view, images, seed=1))
    assert found.min() >= 0 and found.max() <= 255


def test_as_many_images_change_as_the_probability_says() -> None:
    images = random_images(400, 5, 5)
    for make in (lambda p: color_jitter(0.8, 0, 0, 0, p), random_grey, lambda p: random_blur(p, 3, (1.0, 2.0))):
        for probability, low, high in ((0.0, 0, 0), (0.3, 80, 160), (1.0, 400, 400)):
            changed = ((applied(make(probability), images) - images).abs() > 1e-3).flatten(1).any(1).sum()
            assert low <= changed <= high, probability


def test_crops_have_the_shares_and_the_ratios_that_were_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    monkeypatch.setattr("dl.mytorch.data.views.resized_crop", lambda images, boxes: seen.append(boxes) or images)
    applied(random_resized_crop((0.2, 0.5)), torch.zeros(2000, 1, 100, 100))
    top, left, tall, wide = seen[0].unbind(1)
    share, ratio = tall * wide / 1e4, wide / tall
    assert 0.19 < share.min() < 0.22 and 0.48 < share.max() < 0.51 and abs(share.mean() - 0.35) < 0.02
    assert 0.73 < ratio.min() < 0.78 and 1.28 < ratio.max() < 1.36 and abs(ratio.log().mean()) < 0.02
    assert min(top.min(), left.min()) == 0 and (top + tall).max() == 100 and (left + wide).max() == 100
    applied(random_resized_crop((2.0, 3.0)), torch.zeros(2, 1, 7, 9))  # no such box is in the image
    assert seen[1].tolist() == [[0, 0, 7, 9]] * 2


def test_bytes_become_floats_and_stay_as_they_are() -> None:
    images = random_images(4).byte()
    applied(JITTER, before := images.clone())
    assert torch.equal(before, images) and applied(JITTER, images).dtype == torch.float32
