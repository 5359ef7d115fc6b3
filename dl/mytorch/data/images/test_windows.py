"""Images and masks are changed by one map of coordinates: worked places, symmetries, borders, padded batches."""

import pytest
import torch
from torch import Tensor

from dl.mytorch.data import Loader
from dl.mytorch.data.images import windows
from dl.mytorch.data.images.windows import bilinear, elastic_field, jitter, mirrored, nearest, random_windows, window

NONE = torch.zeros(1, 3, dtype=torch.bool)
ONE = torch.ones(1)


def batch(count: int = 4, height: int = 12, width: int = 16) -> dict[str, Tensor]:
    """Images whose pixel says where it is, and masks that say the same."""
    places = torch.arange(height * width, dtype=torch.uint8).view(1, height, width).expand(count, -1, -1).contiguous()
    return {"images": places[:, None], "masks": places, "weights": places / 2}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def at(symmetry: list[bool], x: Tensor) -> Tensor:
    """An image (S, S) after one symmetry."""
    centre = torch.full((1, 2), (len(x) - 1) / 2)
    return nearest(x[None], window(centre, len(x), torch.tensor([symmetry]), ONE))[0]


def test_symmetries_are_those_of_a_square_and_a_flip_twice_is_the_identity() -> None:
    x = torch.arange(25).view(5, 5)
    assert torch.equal(at([True, False, False], x), x.flip(0))
    assert torch.equal(at([False, True, False], x), x.flip(1))
    assert torch.equal(at([False, False, True], x), x.T)
    assert torch.equal(at([False, True, True], x), x.T.flip(1)) or torch.equal(at([False, True, True], x), x.flip(1).T)
    for flip in ([True, False, False], [False, True, False], [False, False, True]):
        assert torch.equal(at(flip, at(flip, x)), x)
    bits = [[a, b, c] for a in (False, True) for b in (False, True) for c in (False, True)]
    assert len({tuple(at(symmetry, x).flatten().tolist()) for symmetry in bits}) == 8


def test_crops_flips_scaling_and_deformation_move_image_mask_and_weights_together() -> None:
    """An image of constant patches: where it has the value of a patch, so has its mask."""
    patches = torch.randint(0, 2, (8, 4, 5), generator=generator(3), dtype=torch.uint8).repeat_interleave(8, 1)
    masks = patches.repeat_interleave(8, 2)
    images = (masks * 200)[:, None]
    change = random_windows(24, scale=(0.8, 1.25), elastic=2.0)
    changed = change({"images": images, "masks": masks, "weights": masks * 0.5}, generator())
    sure = (changed["images"][:, 0] == 0) | (changed["images"][:, 0] == 200)
    assert sure.float().mean() > 0.7
    assert torch.equal(changed["images"][:, 0][sure], changed["masks"][sure] * 200)
    assert torch.equal(changed["weights"], changed["masks"] * 0.5)
    assert not torch.equal(changed["masks"][0], masks[0, :24, :24])


def test_a_window_without_scaling_is_a_copy_of_pixels() -> None:
    given = batch()
    changed = random_windows(7, flips=False)(given, generator())
    assert changed["images"].shape == (4, 1, 7, 7) and changed["images"].dtype == torch.uint8
    assert torch.equal(changed["images"][:, 0], changed["masks"])
    for mask in changed["masks"]:
        top, left = divmod(int(mask[0, 0]), 16)
        assert torch.equal(mask, given["masks"][0, top : top + 7, left : left + 7])
    assert torch.equal(given["masks"], batch()["masks"])  # nothing is written in place


def test_each_place_of_a_window_is_as_likely_as_the_others() -> None:
    given = {name: tensor.expand(600, *tensor.shape[1:]) for name, tensor in batch(1, 6, 7).items()}
    corners = random_windows(5, flips=False)(given, generator())["masks"][:, 0, 0]
    found, counts = corners.unique(return_counts=True)
    assert found.tolist() == [0, 1, 2, 7, 8, 9] and counts.min() > 60


def test_the_margin_of_a_window_is_mirrored_and_the_mask_is_its_middle() -> None:
    changed = random_windows(12, margin=3, flips=False)(batch(1, 12, 12), generator())
    image = changed["images"][0, 0]
    assert image.shape == (18, 18) and torch.equal(image[3:15, 3:15], changed["masks"][0])
    assert torch.equal(image[2], image[4]) and torch.equal(image[0], image[6]) and torch.equal(image[17], image[11])


@pytest.mark.parametrize(
    ("size", "expected"), [(4, [2, 1, 0, 1, 2, 3, 2, 1, 0]), (1, [0] * 9), (2, [0, 1, 0, 1, 0, 1, 0, 1, 0])]
)
def test_coordinates_are_mirrored_as_often_as_it_takes(size: int, expected: list[int]) -> None:
    rows = torch.arange(-2.0, 7.0)
    found = mirrored(torch.stack([rows, rows], dim=-1)[None], torch.tensor([[size, size]]))
    assert found[0, :, 0].tolist() == found[0, :, 1].tolist() == expected


def test_displacements_are_the_drawn_ones_at_the_nine_points_of_the_grid() -> None:
    field = elastic_field(2, 9, 10.0, generator(5))
    drawn = torch.randn(2, 2, 3, 3, generator=generator(5)) * 10
    torch.testing.assert_close(field[:, ::4, ::4], drawn.permute(0, 2, 3, 1))
    many = elastic_field(4000, 3, 10.0, generator())
    assert abs(many.mean()) < 0.3 and many.std().item() == pytest.approx(10, abs=0.2)


def test_the_same_displacement_everywhere_shifts_image_and_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    shift = torch.tensor([2.0, -1.0])  # down, left
    monkeypatch.setattr(windows, "elastic_field", lambda count, side, std, generator: shift.expand(count, side, side, 2))
    given = batch(1, 12, 12)
    changed = random_windows(12, flips=False, elastic=10.0)(given, generator())
    assert torch.equal(changed["masks"][0, :10, 1:], given["masks"][0, 2:, :11])
    assert torch.equal(changed["images"][:, 0], changed["masks"])


def test_scaling_by_two_shows_a_quarter_of_the_image() -> None:
    ramp = torch.arange(12.0).view(1, 1, 1, 12).expand(1, 1, 12, 12)
    found = bilinear(ramp, window(torch.full((1, 2), 5.5), 12, NONE, ONE * 2))
    torch.testing.assert_close(found[0, 0, 0], 5.5 + (torch.arange(12) - 5.5) / 2)


def test_a_mask_gets_no_new_classes() -> None:
    masks = torch.tensor([0, 7, 255])[torch.randint(3, (4, 20, 20), generator=generator(1))].to(torch.uint8)
    changed = random_windows(16, scale=(0.5, 2.0), elastic=5.0)({"images": masks[:, None], "masks": masks}, generator())
    assert set(changed["masks"].unique().tolist()) <= {0, 7, 255} and changed["masks"].dtype == torch.uint8


def test_padding_is_never_in_a_window() -> None:
    """An example smaller than the window is mirrored, whatever its batch was padded with."""
    given = batch(2, 12, 16)
    images, masks = given["images"].clone(), given["masks"].clone()
    images[1, :, 5:] = masks[1, 5:] = 250
    images[1, :, :, 9:] = masks[1, :, 9:] = 250
    given = {"images": images, "masks": masks, "sizes": torch.tensor([[12, 16], [5, 9]])}
    for seed in range(5):
        changed = random_windows(8, elastic=4.0, scale=(0.7, 1.4))(given, generator(seed))
        assert changed["masks"].max() < 250 and changed["images"][1].max() < 250 and "sizes" not in changed


def test_jitter_changes_grey_values_image_by_image_and_nothing_else() -> None:
    given = batch()
    changed = jitter(0.2, 0.1)(given, generator())
    assert torch.equal(changed["masks"], given["masks"]) and changed["images"].dtype == torch.uint8
    assert len({image.float().mean().item() for image in changed["images"]}) == 4
    assert torch.equal(jitter(0.0, 0.0)(given, generator())["images"], given["images"])


def test_a_batch_is_changed_in_the_same_way_whenever_it_is_asked_for() -> None:
    loader = Loader(batch(6), 3, shuffle=True, seed=1, transform=random_windows(8, elastic=2.0))
    first, again = list(loader.batches(2)), list(loader.batches(2, start=1))
    assert torch.equal(first[1]["images"], again[0]["images"]) and torch.equal(first[1]["masks"], again[0]["masks"])
    assert not torch.equal(first[0]["masks"], next(iter(loader.batches(3)))["masks"])
