"""What all that learn without labels measure."""

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from dl.modules.SelfSupervised.task import Collapse, SelfSupervised
from dl.modules.SelfSupervised.testing import byte_images, byte_splits
from dl.modules.SelfSupervised.views import ViewsConfig, bank, make_view, two_views, view_splits
from dl.mytorch.config import UserError
from dl.mytorch.data import Loader
from dl.mytorch.data.images.cifar import STANDARD_TEN


@dataclass(frozen=True)
class Config(ViewsConfig):
    out: str = "unused"


def collapse(embeddings: Tensor, parts: int = 1) -> float:
    metric = Collapse(embeddings.shape[1])
    for part in embeddings.chunk(parts):
        metric.update({"embeddings": part})
    return metric.compute()


def test_equal_embeddings_have_collapsed_and_evenly_spread_ones_have_not() -> None:
    assert collapse(torch.tensor([[3.0, 4.0]]).repeat(9, 1)) == pytest.approx(1, abs=1e-7)
    axes = torch.cat([torch.eye(4), -torch.eye(4)])
    assert collapse(axes) == pytest.approx(0, abs=1e-7) and collapse(7 * axes, 3) == pytest.approx(0, abs=1e-7)
    half = torch.cat([axes[:, :4], torch.zeros(8, 12)], dim=1)  # in 4 of 16 dimensions
    assert collapse(half) == pytest.approx(1 - math.sqrt(4 / 16), abs=1e-7)
    assert math.isnan(Collapse(3).compute())


def test_spread_is_that_of_its_definition() -> None:
    embeddings = torch.randn(50, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.5
    unit = embeddings / embeddings.norm(dim=1, keepdim=True)
    expected = 1 - math.sqrt(6) * unit.std(0, unbiased=False).mean().item()
    assert collapse(embeddings) == collapse(embeddings, 1) == pytest.approx(expected, abs=1e-6)
    assert collapse(embeddings, 7) == pytest.approx(expected, abs=1e-6)


class Identity(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def represent(self, images: Tensor) -> Tensor:
        return self.weight * images.flatten(1)


def test_training_images_vote_for_the_class_of_an_image() -> None:
    images = torch.eye(4).view(4, 1, 2, 2)
    task = SelfSupervised(Loader({"images": images, "labels": torch.tensor([0, 0, 1, 1])}, 3), dim=2, k=1)
    model = Identity()
    with torch.no_grad():
        task.begin_evaluation(model)
        features, labels = model.represent(images[:3] + 0.1), torch.tensor([0, 1, 1])
        assert task.wrong(features, labels).tolist() == [0, 1, 0]
        assert task.wrong(features[:0], labels[:0]).tolist() == []  # of a rank without images
    assert list(task.metrics()) == ["knn_error", "collapse"] and list(task.train_metrics()) == ["collapse"]


def test_views_of_an_image_differ_and_so_do_those_of_equal_images() -> None:
    images = byte_images(1)["images"].expand(6, -1, -1, -1)
    batch = {"images": images, "labels": torch.arange(6)}
    views = two_views(make_view(Config()), STANDARD_TEN)(batch, torch.Generator().manual_seed(0))
    both = torch.cat([views["first"], views["second"]])
    assert len(both.flatten(1).unique(dim=0)) == 12 and views["first"].shape == images.shape
    assert torch.equal(views["images"], STANDARD_TEN(batch, torch.Generator())["images"])
    assert "images" not in two_views(make_view(Config()))(batch, torch.Generator())


def test_without_any_change_a_view_is_the_image() -> None:
    config = Config(min_scale=1.0, color=0.0, grey=0.0, hflip=False)
    batch = byte_images(3)
    crops = make_view(config)(batch, torch.Generator().manual_seed(0))["images"]
    whole = STANDARD_TEN(batch, torch.Generator())["images"]
    assert ((crops - whole).abs() < 0.02).flatten(1).all(1).any()  # boxes of another ratio than the image's do not fit


def test_training_sees_views_and_evaluation_the_images_too() -> None:
    config, plain = Config(), STANDARD_TEN
    splits = view_splits(config, two_views(make_view(config)), two_views(make_view(config), plain), byte_splits())
    train, val, test = (next(iter(loader.batches())) for loader in splits if loader)
    assert train.keys() == {"first", "second", "labels"}
    assert val.keys() == test.keys() == {"first", "second", "images", "labels"}
    known = torch.cat([batch["images"] for batch in bank(Config(), splits).batches()])
    assert torch.equal(known, STANDARD_TEN(splits.train.dataset, torch.Generator())["images"])


@pytest.mark.parametrize(
    "flags", [{"crop": 4}, {"mixup": 0.1}, {"min_scale": 0.0}, {"color": 2.0}, {"grey": -0.1}, {"blur": 1.1}]
)
def test_what_is_no_part_of_a_view_is_refused(flags: dict) -> None:
    with pytest.raises(UserError, match="--" + next(iter(flags)).replace("_", "-")):
        Config(**flags)
