"""Tests of dtensor.py for one process. Two ranks are in test_two_ranks.py and test_shards.py."""

import copy

from torch import nn

from dl.mytorch.dtensor import distribute_like, full_state_dict, local


def test_what_is_in_one_piece_passes_through() -> None:
    model = nn.Linear(2, 3)
    state = {"weights": model.state_dict(), "rest": [1, (2, 3), None]}
    assert full_state_dict(copy.copy(state)) == state
    assert local(model.weight) is model.weight and distribute_like(model.weight, 5) == 5
