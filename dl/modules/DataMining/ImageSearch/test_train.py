"""The losses of metric learning against numbers worked out by hand, and their recipe."""

import math
from pathlib import Path

import pytest
import torch

from dl.modules.DataMining.ImageSearch import task, train
from dl.mytorch import plot, testing
from dl.mytorch.data import Loader, Splits, synthetic


def test_contrastive_loss_by_hand() -> None:
    """Three of class 0, of which one is at a right angle, and one of class 1, which is alone and no anchor."""
    embeddings = torch.tensor([[2.0, 0], [0.5, 0], [0, 3], [-1, 0]])
    loss, count = task.contrastive(embeddings, torch.tensor([0, 0, 0, 1]), temperature=1.0)
    first = math.log(math.e + 1 + 1 / math.e) - 0.5  # similarities 1, 0 and -1, of which the first two are positive
    third = math.log(3)  # three of 0
    assert loss.item() == pytest.approx((2 * first + third) / 3) and count == 3


def test_triplet_loss_by_hand() -> None:
    """Two of class 0 at a right angle, the nearest negatives at 45 degrees of both, the next opposite of the first."""
    embeddings = torch.tensor([[2.0, 0], [0, 3], [1, 1], [-1, 0]])
    loss, count = task.triplet(embeddings, torch.tensor([0, 0, 1, 2]), margin=2.5)
    first = 2 - 4 + 2.5  # the negative at 45 degrees is nearer than the positive, the opposite one farther
    second = 2 - 2 + 2.5  # none is farther: the farthest, at a right angle
    assert loss.item() == pytest.approx((first + second) / 2) and count == 2


@pytest.mark.parametrize("loss", list(task.LOSSES))
def test_gradients_are_finite_for_twins_and_0_for_a_batch_without_pairs(loss: str) -> None:
    embeddings = torch.randn(4, 3)
    embeddings[1] = embeddings[0]
    for labels, moved in (([0, 0, 1, 1], True), ([0, 1, 2, 3], False)):
        leaf = embeddings.clone().requires_grad_()
        value, count = task.LOSSES[loss](leaf, torch.tensor(labels))
        value.backward()
        assert leaf.grad.isfinite().all() and bool(leaf.grad.any()) == moved and int(count) == 4 * moved


@pytest.mark.parametrize("loss", list(task.LOSSES))
def test_images_of_a_class_come_near_each_other(loss: str) -> None:
    batch = synthetic.images(24, num_classes=4)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 8))
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(40):
        optimizer.zero_grad()
        task.MetricLearning(loss).step(model, batch).loss.backward()
        optimizer.step()
    distances = torch.cdist(model(batch["images"]), model(batch["images"])).fill_diagonal_(math.inf)
    assert (batch["labels"][distances.argmin(1)] == batch["labels"]).all()


def test_the_preview_shows_the_first_kernels_where_there_are_any() -> None:
    convolution = torch.nn.Conv2d(3, 8, 3)
    learning = task.MetricLearning("triplet")
    assert learning.preview(torch.nn.Linear(3, 8)) == {}
    shown = learning.preview(torch.nn.Sequential(convolution, torch.nn.Conv2d(8, 4, 3)))
    assert shown.keys() == {"kernels"} and torch.equal(shown["kernels"], plot.kernels(convolution.weight))


def config(out: Path, **flags: object) -> train.Config:
    same = {"precision": "fp32", "channels_last": False, "batch_size": 16, "epochs": 1}
    return train.Config(out=str(out), data="fashion_mnist-sample", model="tiny", **same, **flags)


def test_recipe_resumes_exactly(tmp_path: Path, no_figures: None) -> None:
    sets = [Loader(synthetic.images(48, seed=i), 16, shuffle=i == 0) for i in range(3)]
    testing.assert_resumes_exactly(train.main, config(tmp_path, embedding=6), lambda: Splits(*sets))


def test_labels_that_would_be_blended_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--mixup has to be 0"):
        config(tmp_path, mixup=0.2)
    assert train.build_model(config(tmp_path, embedding=6)).head.out_features == 6
