"""Probes by hand, against their definitions, and on what they can and cannot tell apart."""

import math

import pytest
import torch
from torch.nn import functional as F

from dl.mytorch import probes
from dl.mytorch.probes import fit_linear, knn_classes, linear_classes, nearest, share_of_each_class, vote


def test_votes_of_neighbours_weigh_by_their_cosine() -> None:
    bank = torch.tensor([[2.0, 0], [0.6, 0.8], [3, 4], [0, -1]])
    labels, query = torch.tensor([0, 1, 1, 2]), torch.tensor([[5.0, 0]])
    cosines, rows = nearest(query, bank, 3)
    torch.testing.assert_close(cosines, torch.tensor([[1, 0.6, 0.6]])) and set(rows[0].tolist()) == {0, 1, 2}
    for temperature, expected in ((0.1, 0), (1.0, 1)):  # e^10 > 2 e^6, e < 2 e^0.6
        assert vote(cosines, labels[rows], temperature).item() == expected
    assert nearest(query, bank, 100)[1].shape == (1, 4)  # as many as there are
    assert vote(torch.ones(1, 2), torch.tensor([[2, 1]])).item() == 1


def test_classes_of_neighbours_are_those_of_the_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    bank, queries = torch.randn(50, 6, generator=generator), torch.randn(300, 6, generator=generator)
    labels = torch.randint(4, (50,), generator=generator)
    expected = []
    for query in queries:
        cosines = F.cosine_similarity(query[None], bank)
        nearest = cosines.argsort(descending=True)[:7]
        votes = [sum(math.exp(cosines[i] / 0.1) for i in nearest if labels[i] == label) for label in range(4)]
        expected.append(max(range(4), key=votes.__getitem__))
    assert knn_classes(queries, bank, labels, 7).tolist() == expected


def test_a_linear_probe_finds_the_least_of_its_loss() -> None:
    generator = torch.Generator().manual_seed(0)
    features, labels = torch.randn(40, 3, generator=generator), torch.randint(3, (40,), generator=generator)
    head = fit_linear(features, labels, 3, decay=0.1).requires_grad_()
    loss = F.cross_entropy(features @ head[:-1] + head[-1], labels) + 0.05 * head[:-1].square().sum()
    loss.backward()
    assert head.grad is not None and head.grad.abs().max() < 1e-4


def test_a_linear_probe_separates_what_a_plane_separates_whatever_the_units(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(200, 2, generator=generator)
    labels = (features @ torch.tensor([1.0, -1]) > 0.3).long()
    stretched = features * torch.tensor([1e4, 1e-4]) + 7
    asked: list[float] = []
    fit = probes.fit_linear
    monkeypatch.setattr(probes, "fit_linear", lambda *given: asked.append(given[-1]) or fit(*given))
    with torch.no_grad():
        found = linear_classes(stretched[150:], stretched[:150], labels[:150])
    assert (found != labels[150:]).float().mean() < 0.05
    assert asked[:-1] == list(probes.DECAYS) and asked[-1] in probes.DECAYS


def test_a_share_of_the_labels_is_that_of_each_class_and_of_the_seed() -> None:
    labels = torch.arange(10).repeat_interleave(40)[torch.randperm(400, generator=torch.Generator().manual_seed(0))]
    rows = share_of_each_class(labels, 0.1)
    assert labels[rows].bincount().tolist() == [4] * 10 and len(rows.unique()) == 40
    assert torch.equal(rows, share_of_each_class(labels, 0.1)) and not torch.equal(rows, share_of_each_class(labels, 0.1, 1))
    assert labels[share_of_each_class(labels, 0.001)].tolist() == list(range(10))
