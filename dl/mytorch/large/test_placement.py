"""Tests of placement.py for one process. Two ranks are in dl/mytorch/test_two_ranks.py."""

from torch import nn

from dl.mytorch.large import placement


def test_alone_a_model_is_called_as_it_is() -> None:
    model = nn.BatchNorm1d(2)
    assert placement.parallelize(model, "ddp") is model
    with placement.no_sync(model):
        pass
