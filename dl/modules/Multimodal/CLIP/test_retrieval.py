"""Recall as an error: ranks, ties, equal images, any split into batches."""

import math

import pytest
import torch

from dl.modules.Multimodal.CLIP.figure import retrieved
from dl.modules.Multimodal.CLIP.retrieval import MeanError, RetrievalError, table, wrong_before
from dl.mytorch.data.images.emoji import sample


def test_wrong_answers_before_the_right_one_are_counted() -> None:
    scores = torch.tensor([[0.9, 0.1, 0.2], [0.5, 0.4, 0.3], [0.3, 0.2, 0.1]])
    assert wrong_before(scores, torch.eye(3), torch.arange(3)).tolist() == [0, 1, 2]


def test_a_tie_is_lost_so_that_a_network_that_knows_nothing_finds_nothing() -> None:
    same = torch.ones(6, 4)
    assert wrong_before(same, same, torch.arange(6)).tolist() == [5] * 6
    assert wrong_before(same * math.nan, same, torch.arange(6)).tolist() == [5] * 6


def test_the_name_of_an_equal_image_is_right_too() -> None:
    scores = torch.tensor([[0.1, 0.9, 0.5], [0.9, 0.1, 0.5], [0.2, 0.3, 0.1]])
    assert wrong_before(scores, torch.eye(3), torch.tensor([7, 7, 1])).tolist() == [0, 0, 2]


@pytest.mark.parametrize("size", [1, 4, 10])
def test_errors_are_of_all_examples_however_they_are_cut(size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    outputs = {name: torch.randn(10, 3, generator=generator) for name in ("image", "en")} | {"groups": torch.arange(10)}
    errors = [RetrievalError("image", "en", 1), RetrievalError("en", "image", 5)]
    both = MeanError([RetrievalError("image", "en", 1), RetrievalError("en", "image", 5)])
    for start in range(0, 10, size):
        for metric in (*errors, both):
            metric.update({name: tensor[start : start + size] for name, tensor in outputs.items()})
    expected = [
        (wrong_before(outputs[a], outputs[b], outputs["groups"]) >= k).double().mean().item()
        for a, b, k in (("image", "en", 1), ("en", "image", 5))
    ]
    assert [metric.compute() for metric in errors] == expected and both.compute() == sum(expected) / 2
    both.reset()
    assert math.isnan(both.compute())


def test_a_table_has_the_recall_of_each_category() -> None:
    found = {name: torch.eye(4) for name in ("image", "en", "zh")} | {"groups": torch.arange(4)}
    found["en"] = torch.eye(4)[[0, 1, 3, 2]]
    lines = table(found, ["a", "a", "b", "b"]).splitlines()
    assert [line.split()[:4] for line in lines[1:]] == [
        ["all", "(4)", "50.0", "/"], ["a", "(2)", "100.0", "/"], ["b", "(2)", "0.0", "/"]
    ]  # fmt: skip


@pytest.mark.slow
def test_a_page_shows_a_green_frame_around_right_images() -> None:
    emoji = sample()
    found = {"image": torch.eye(24), "en": torch.eye(24), "groups": torch.arange(24)}
    page = retrieved(found, emoji, "en")
    assert page.shape[0] == 3 and 0 <= page.min() <= page.max() <= 1
    green = (page[1] > page[0] + 0.3) & (page[1] > page[2] + 0.3)
    assert green.any() and not torch.equal(page, retrieved({**found, "en": torch.eye(24).flip(0)}, emoji, "en"))
