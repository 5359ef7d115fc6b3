"""Rows of ranks with a gradient, in one process; test_two_ranks.py has two."""

import pytest
import torch

from dl.mytorch import gathering
from dl.mytorch.gathering import gather_with_gradient


def test_one_process_has_its_rows_and_their_graph() -> None:
    rows = torch.ones(3, 2, requires_grad=True)
    everyone, start = gather_with_gradient(rows * 2)
    everyone.sum().backward()
    assert start == 0 and everyone.shape == (3, 2) and (rows.grad == 2).all()


def test_a_rank_s_rows_get_the_gradients_that_all_ranks_have_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is rank 1 of two; rank 0 has one row, and the gradient of its loss is 10 everywhere."""
    monkeypatch.setattr(gathering, "data_world_size", lambda: 2)
    monkeypatch.setattr(gathering, "data_rank", lambda: 1)
    monkeypatch.setattr(gathering, "all_gather", lambda rows: torch.cat([torch.ones_like(rows[:1]), rows.detach()]))
    monkeypatch.setattr(gathering, "all_reduce_sum", lambda gradient: gradient + 10)
    rows = torch.full((2, 2), 5.0, requires_grad=True)
    everyone, start = gather_with_gradient(rows)
    (everyone * torch.arange(3.0)[:, None]).sum().backward()
    assert start == 1 and everyone.tolist() == [[1, 1], [5, 5], [5, 5]]
    assert rows.grad is not None and rows.grad.tolist() == [[11, 11], [12, 12]]
