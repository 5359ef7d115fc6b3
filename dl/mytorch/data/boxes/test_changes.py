"""Images, boxes and masks change together: what is mirrored twice is the same, and a mask keeps the box that it had."""

import pytest
import torch
from torch import Tensor

from dl.mytorch.data.boxes.batches import fit, mask_boxes, padded, real, select
from dl.mytorch.data.boxes.changes import random_scale, random_symmetry, rescale, symmetry, turn
from dl.mytorch.data.boxes.testing import rectangles
from dl.mytorch.data.images.windows import jitter

Batch = dict[str, Tensor]
YES, NO = torch.tensor([True, True, True]), torch.tensor([False, False, False])


@pytest.fixture(scope="module")
def batch() -> Batch:
    """Three images of different sizes, the second without boxes; masks are rectangles, and images show them."""
    return padded(
        [
            rectangles(12, 20, [[1, 2, 6, 9], [10, 0, 20, 4]], [0, 1]),
            rectangles(16, 8, [], []),
            rectangles(9, 15, [[0, 0, 15, 9]], [2]),
        ],
        stride=8,
    )


def equal(first: Batch, second: Batch) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def consistent(batch: Batch) -> None:
    """Boxes are those of their masks and in their images; rows of no box and padding are 0."""
    held = batch["labels"] >= 0
    assert torch.equal(batch["boxes"][held], mask_boxes(batch["masks"])[held])
    assert not batch["boxes"][~held].any() and not batch["masks"][~held].any()
    assert (batch["boxes"][held][:, :2] < batch["boxes"][held][:, 2:]).all()
    padding = ~real(batch["sizes"], *batch["images"].shape[-2:])
    assert not batch["images"].movedim(1, -1)[padding].any() and not batch["masks"].movedim(1, -1)[padding].any()
    shown = (batch["images"][:, 0] // 100 == 1) | ~real(batch["sizes"], *batch["images"].shape[-2:])
    assert torch.equal(shown, batch["masks"].any(1) | padding)  # the image has gone the same way


def test_mirroring_twice_and_turning_four_times_is_the_identity(batch: Batch) -> None:
    once = symmetry(batch, YES, NO)
    assert not equal(once, batch) and equal(symmetry(once, YES, NO), batch)
    assert equal(symmetry(symmetry(batch, NO, YES), NO, YES), batch)
    quarter = torch.ones(3, dtype=torch.long)
    half = turn(turn(batch, quarter), quarter)
    assert equal(half, fit(turn(batch, 2 * quarter))) and equal(half, fit(symmetry(batch, YES, YES)))
    assert equal(turn(turn(half, quarter), quarter), fit(batch))
    assert equal(turn(turn(batch, quarter), 3 * quarter), fit(batch))


def test_mirroring_left_to_right_moves_x_and_upside_down_moves_y(batch: Batch) -> None:
    left, up = symmetry(batch, YES, NO), symmetry(batch, NO, YES)
    assert left["boxes"][0].tolist() == [[14, 2, 19, 9], [0, 0, 10, 4]]
    assert up["boxes"][0].tolist() == [[1, 3, 6, 10], [10, 8, 20, 12]]
    clockwise = turn(batch, torch.tensor([1, 1, 0]))
    assert clockwise["sizes"].tolist() == [[20, 12], [8, 16], [9, 15]]
    assert clockwise["boxes"][0].tolist() == [[3, 1, 10, 6], [8, 10, 12, 20]]
    for changed in (batch, left, up, clockwise, turn(batch, torch.tensor([3, 2, 1]))):
        consistent(changed)


def test_each_example_is_changed_by_what_was_drawn_for_it(batch: Batch) -> None:
    change = random_symmetry(hflip=True, vflip=True, turns=True)
    results = [change(batch, torch.Generator().manual_seed(seed)) for seed in range(40)]
    assert equal(results[0], change(batch, torch.Generator().manual_seed(0)))
    assert len({tuple(result["boxes"][0].flatten().tolist()) for result in results}) == 8
    assert {tuple(result["sizes"].flatten().tolist()) for result in results} == {(12, 20, 16, 8, 9, 15), (20, 12, 8, 16, 15, 9)}
    for result in results:
        consistent(result)
    assert equal(random_symmetry()(batch, torch.Generator()), batch)


def test_scaling_by_one_changes_nothing_and_by_two_is_exact(batch: Batch) -> None:
    same = rescale(batch, torch.ones(3), torch.rand(3, 2))
    assert equal(same, fit(batch))
    larger = rescale(batch, torch.full((3,), 2.0), torch.tensor([[0.0, 0.0]] * 2 + [[1.0, 1.0]]))
    assert larger["labels"].tolist() == [[0], [-1], [2]]  # the second box of the first image is outside of the cut
    assert larger["boxes"][0].tolist() == [[2, 4, 12, 12]]
    assert larger["boxes"][2, 0].tolist() == [0, 0, 15, 9] and larger["sizes"].tolist() == batch["sizes"].tolist()
    smaller = rescale(batch, torch.full((3,), 0.5), torch.rand(3, 2))
    assert smaller["sizes"].tolist() == [[6, 10], [8, 4], [4, 7]]
    assert smaller["boxes"][0].tolist() == [[0.5, 1, 3, 4.5], [5, 0, 10, 2]]
    assert smaller["boxes"][2, 0].tolist() == [0, 0, 7, 4] and smaller["masks"][2, 0, :4, :7].all()


def test_a_box_of_which_less_than_the_share_is_left_is_dropped_with_label_and_mask() -> None:
    example = rectangles(10, 10, [[0, 0, 5, 5], [4, 0, 10, 5], [8, 8, 10, 10]], [3, 4, 5])
    doubled = torch.tensor([2.0]), torch.zeros(1, 2)  # what is left is the quarter at the upper left
    assert rescale(padded([example]), *doubled)["labels"].tolist() == [[3]]  # 1/6 of the second is left
    kept = rescale(padded([example]), *doubled, visible=0.15)
    assert kept["labels"].tolist() == [[3, 4]] and kept["boxes"][0, 1].tolist() == [8, 0, 10, 10]
    assert torch.equal(kept["boxes"], mask_boxes(kept["masks"]))


def test_boxes_keep_their_order_and_sides_after_any_scaling(batch: Batch) -> None:
    change = random_scale(1.0)
    for seed in range(30):
        result = change(batch, torch.Generator().manual_seed(seed))
        held = result["labels"] >= 0
        assert (result["boxes"][held][:, :2] < result["boxes"][held][:, 2:]).all()
        assert (result["boxes"][..., 2:] <= result["sizes"].flip(1)[:, None]).all() and (result["boxes"] >= 0).all()
        assert result["masks"].flatten(2).any(2)[held].all()
        assert (mask_boxes(result["masks"])[held] - result["boxes"][held]).abs().max() <= 1


def test_dropping_a_box_drops_its_label_and_mask_and_leaves_semantic_masks_alone() -> None:
    example = rectangles(8, 8, [[0, 0, 2, 2], [2, 2, 4, 4], [4, 4, 8, 8]], [0, 1, 2])
    semantic = torch.arange(64).view(1, 8, 8)
    batch = padded([example]) | {"semantic": semantic}
    result = select(batch, torch.tensor([[True, False, True]]))
    assert result["labels"].tolist() == [[0, 2]] and result["boxes"].tolist() == [[[0, 0, 2, 2], [4, 4, 8, 8]]]
    assert torch.equal(result["masks"], batch["masks"][:, [0, 2]]) and result["semantic"] is semantic
    none = select(batch, torch.zeros(1, 3, dtype=torch.bool))
    assert none["labels"].tolist() == [[-1]] and none["boxes"].tolist() == [[[0, 0, 0, 0]]] and not none["masks"].any()


def test_the_part_of_a_rank_may_be_empty(batch: Batch) -> None:
    none = {name: value[:0] for name, value in batch.items()}
    for change in (random_symmetry(True, True, True), random_scale(0.5), jitter(0.2, 0.1)):
        assert len(change(none, torch.Generator())["images"]) == 0


def test_padding_does_not_count_in_the_mean_about_which_contrast_changes() -> None:
    image = torch.randint(50, 200, (1, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    small = {"images": image, "sizes": torch.tensor([[8, 8]])}
    large = {"images": torch.nn.functional.pad(image, (0, 8, 0, 24)), "sizes": torch.tensor([[8, 8]])}
    alone, beside = (jitter(0.5, 0.1)(batch, torch.Generator().manual_seed(1))["images"] for batch in (small, large))
    assert (alone.int() - beside[:, :, :8, :8].int()).abs().max() <= 1 and not torch.equal(alone, image)
