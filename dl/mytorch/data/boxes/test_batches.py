"""Batches are padded as stated; masks give boxes that are not empty."""

import torch

from dl.mytorch.data.boxes.batches import mask_boxes, padded, real


def test_a_batch_is_padded_to_its_largest_image_rounded_up_to_the_stride() -> None:
    wide = {
        "images": torch.full((3, 10, 33), 7, dtype=torch.uint8),
        "boxes": torch.tensor([[1.0, 2, 3, 4], [0, 0, 33, 10]]),
        "labels": torch.tensor([1, 0]),
        "masks": torch.ones(2, 10, 33, dtype=torch.bool),
        "crowd": torch.tensor([True, False]),
    }
    empty = {name: value[:0] if name != "images" else value[:, :, :20].repeat(1, 2, 1) for name, value in wide.items()}
    empty["masks"] = torch.zeros(0, 20, 20, dtype=torch.bool)
    batch = padded([wide, empty], stride=16)
    assert batch["images"].shape == (2, 3, 32, 48) and batch["masks"].shape == (2, 2, 32, 48)
    assert batch["sizes"].tolist() == [[10, 33], [20, 20]]
    assert batch["labels"].tolist() == [[1, 0], [-1, -1]] and batch["boxes"][1].eq(0).all() and not batch["crowd"][1].any()
    assert torch.equal(batch["images"][:, 0] == 7, real(batch["sizes"], 32, 48))
    assert torch.equal(batch["masks"][0, 1], real(batch["sizes"], 32, 48)[0]) and not batch["masks"][1].any()
    alone = padded([empty])
    assert alone["images"].shape == (1, 3, 20, 20)
    assert alone["labels"].tolist() == [[-1]] and alone["boxes"].shape == (1, 1, 4) and alone["masks"].shape == (1, 1, 20, 20)
    assert padded([empty], canvas=(21, 40))["images"].shape == (1, 3, 21, 40)


def test_the_box_of_a_mask_ends_after_its_last_pixel_and_that_of_no_pixel_is_zero() -> None:
    masks = torch.zeros(3, 4, 5, dtype=torch.bool)
    masks[0, 1, 0] = True  # torchvision.ops.masks_to_boxes gives [0, 1, 0, 1]
    masks[1] = True
    assert mask_boxes(masks).tolist() == [[0, 1, 1, 2], [0, 0, 5, 4], [0, 0, 0, 0]]
