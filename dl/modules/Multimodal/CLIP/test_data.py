"""Pairs: texts that are drawn, images that move, parts that share no image."""

import pytest
import torch

from dl.modules.Multimodal.CLIP import train
from dl.modules.Multimodal.CLIP.data import Pairs, collate, jittered, moved, named, split
from dl.modules.Multimodal.CLIP.tokens import byte_ids
from dl.mytorch.data.images.emoji import sample


def bytes_of(text: str) -> list[int]:
    return byte_ids(text, 40)


def test_a_text_is_a_name_or_tags_or_both_in_either_language() -> None:
    emoji = sample()
    pairs = Pairs(emoji, bytes_of, label_share=0.5)
    torch.manual_seed(0)
    texts = {bytes(pairs[0][1][1:-1]).decode() for _ in range(300)}
    en, zh = {"red circle", "red", "circle", "red circle, red", "circle, red"}, {"红圆", "红", "圆", "红圆, 圆, 红"}
    assert en | zh <= texts and len(texts) == 2 * len({"a b", "a", "b", "a, b", "b, a", "*, a", "*, b", "*, a, b", "*, b, a"})
    pairs.label_share = 1.0
    assert {bytes(pairs[0][1][1:-1]).decode() for _ in range(50)} == {"red circle", "红圆"}


def test_examples_are_padded_to_the_longest() -> None:
    emoji = sample()
    batch = collate([(emoji.images[0], [1, 2]), (emoji.images[1], [3, 4, 5])])
    assert batch["tokens"].tolist() == [[1, 2, 0], [3, 4, 5]] and batch["images"].shape == (2, 3, 16, 16)


def test_equal_images_are_one_group() -> None:
    emoji = sample()
    emoji.digests[3] = emoji.digests[1]
    groups = named(emoji, bytes_of)["groups"].tolist()
    assert groups[3] == groups[1] and len(set(groups)) == 23


def test_images_move_each_by_itself_onto_white_and_are_never_mirrored() -> None:
    images = torch.full((2, 3, 16, 16), 255, dtype=torch.uint8)
    images[:, :, 6:9, 6:9] = 0
    moves = moved(rotate=0.0, zoom=0.0, shift=0.25)({"images": images}, torch.Generator().manual_seed(0))["images"]
    assert not torch.equal(moves[0], moves[1])
    torch.testing.assert_close((255 - moves).sum((1, 2, 3)), torch.full((2,), 3 * 9 * 255.0))  # all of it is still there
    still = moved(rotate=0.0, zoom=0.0, shift=0.0)({"images": images}, torch.Generator())["images"]
    torch.testing.assert_close(still, images.float(), rtol=0, atol=1e-3)


def test_a_quarter_turn_turns_rows_into_columns_and_a_zoom_enlarges(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.full((1, 3, 8, 8), 255.0)
    images[:, :, 0] = 0  # a line on top
    monkeypatch.setattr(torch, "rand", lambda *shape, generator: torch.tensor([1.0, 0.5, 0.5, 0.5])[:, None])
    turned = moved(rotate=90.0, zoom=0.0, shift=0.0)({"images": images}, torch.Generator())["images"]
    assert (turned < 128).sum() == 3 * 8 and (turned[0, 0, :, 0] < 128).all() | (turned[0, 0, :, 7] < 128).all()
    square = torch.full((1, 3, 8, 8), 255.0)
    square[:, :, 3:5, 3:5] = 0
    monkeypatch.setattr(torch, "rand", lambda *shape, generator: torch.tensor([0.5, 1.0, 0.5, 0.5])[:, None])
    larger = moved(rotate=0.0, zoom=1.0, shift=0.0)({"images": square}, torch.Generator())["images"]
    assert (larger[0, 0] < 128).sum() == 16


def test_contrast_and_brightness_differ_between_images_and_stay_in_range() -> None:
    images = torch.randint(256, (2, 3, 8, 8), dtype=torch.uint8)
    images[1] = images[0]
    changed = jittered(0.5)({"images": images}, torch.Generator().manual_seed(0))["images"]
    assert not torch.equal(changed[0], changed[1]) and 0 <= changed.min() <= changed.max() <= 255
    torch.testing.assert_close(jittered(0.0)({"images": images}, torch.Generator())["images"], images.float())


def test_of_the_sample_each_held_out_colour_and_shape_was_seen_in_another() -> None:
    found = split(train.Config(data="emoji-sample"), 16)
    assert {part: len(emoji.bases) for part, emoji in found.items()} == {"train": 16, "val": 4, "test": 4}
    seen = {word for name in found["train"].labels["en"] for word in name.split()}
    assert {word for part in ("val", "test") for name in found[part].labels["en"] for word in name.split()} <= seen
