"""The made-up data of the tests: repeatable, of one kind in all splits, and learnable."""

import torch

from dl.mytorch.data import Splits, synthetic


def test_images_have_the_sizes_asked_for() -> None:
    batch = synthetic.images(12, num_classes=4, channels=3, size=8)
    assert batch["images"].shape == (12, 3, 8, 8) and batch["images"].dtype == torch.float32
    assert batch["labels"].shape == (12,) and set(batch["labels"].tolist()) <= set(range(4))


def test_the_same_seed_gives_the_same_images_and_another_seed_others() -> None:
    first, again, other = (synthetic.images(20, seed=seed) for seed in (3, 3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["images"], other["images"]) and not torch.equal(first["labels"], other["labels"])


def test_global_randomness_is_not_used() -> None:
    before = torch.get_rng_state()
    first = synthetic.images(5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert torch.equal(synthetic.images(5)["images"], first["images"])


def test_the_nearest_mean_image_of_training_tells_the_classes_of_the_test(tiny_images: Splits) -> None:
    train, test = (loader.dataset for loader in (tiny_images.train, tiny_images.test))
    means = torch.stack([train["images"][train["labels"] == c].mean(0).flatten() for c in range(10)])
    guesses = torch.cdist(test["images"].flatten(1), means).argmin(1)
    assert (guesses == test["labels"]).float().mean() > 0.9


def test_splits_have_sizes_that_no_batch_divides(tiny_images: Splits, tiny_color_images: Splits) -> None:
    for splits, shape in ((tiny_images, (1, 28, 28)), (tiny_color_images, (3, 32, 32))):
        assert [loader.num_examples for loader in splits] == [50, 17, 19]
        assert next(splits.train.batches())["images"].shape == (16, *shape)
        assert splits.train.shuffle and not splits.val.shuffle and not splits.test.shuffle
