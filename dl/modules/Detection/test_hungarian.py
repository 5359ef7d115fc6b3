"""The pairing against all pairings, with padding, more boxes than queries, and costs that are not finite."""

import importlib.util
import itertools
import math
import sys

import pytest
import torch

from dl.modules.Detection.hungarian import assign
from dl.mytorch.config import UserError

assigned = pytest.mark.skipif(
    importlib.util.find_spec("scipy") is None, reason='boxes are assigned by scipy: pip install -e ".[detection]"'
)


@assigned
def test_the_pairing_is_that_of_least_cost_and_padding_rows_get_nothing() -> None:
    greedy_is_wrong = torch.tensor([[[1.0, 2.0], [2.0, 10.0]]])
    assert assign(greedy_is_wrong, torch.ones(1, 2, dtype=torch.bool)).tolist() == [[1, 0]]
    cost = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    real = torch.tensor([[True, False, True, True], [False] * 4, [False, True, False, False]])
    queries = assign(cost, real)
    assert torch.equal(queries >= 0, real)
    for costs, rows, chosen in zip(cost, real, queries):
        columns = rows.nonzero()[:, 0]
        pairings = [costs[list(p), columns].sum() for p in itertools.permutations(range(5), len(columns))]
        assert costs[chosen[rows], columns].sum() == min(pairings)


@assigned
def test_of_more_boxes_than_queries_some_get_none_and_costs_that_are_not_finite_are_last() -> None:
    cost = torch.tensor([[[3.0, 1.0, 2.0]]])
    assert assign(cost, torch.ones(1, 3, dtype=torch.bool)).tolist() == [[-1, 0, -1]]
    for bad in (math.nan, math.inf, -math.inf):
        cost = torch.tensor([[[bad, 1.0], [2.0, 9.0]]])
        assert assign(cost, torch.ones(1, 2, dtype=torch.bool)).tolist() == [[1, 0]], bad


def test_without_scipy_the_line_says_what_to_install_and_no_box_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    cost = torch.zeros(1, 2, 1)
    with pytest.raises(UserError, match=r'by scipy: pip install -e "\.\[detection\]"'):
        assign(cost, torch.tensor([[True]]))
    assert assign(cost, torch.tensor([[False]])).tolist() == [[-1]]
