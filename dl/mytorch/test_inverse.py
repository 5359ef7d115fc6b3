"""The way back of converters of weights."""

import pytest
import torch
from torch import nn

from dl.mytorch.inverse import inverse


class Joined(nn.Module):
    """One matrix for two layers, a tied output, a statistic."""

    def __init__(self) -> None:
        super().__init__()
        self.both = nn.Parameter(torch.randn(3, 8))
        self.table = nn.Embedding(5, 3)
        self.output = nn.Linear(3, 5, bias=False)
        self.output.weight = self.table.weight
        self.norm = nn.BatchNorm1d(3)


class Apart(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(3, 4, bias=False), nn.Linear(3, 4, bias=False)
        self.table = nn.Parameter(torch.randn(5, 3))
        self.norm = nn.BatchNorm1d(3)


def convert(reference: Joined) -> Apart:
    model, (left, right) = Apart(), reference.both.chunk(2, dim=1)
    model.left.weight.data, model.right.weight.data = left.T.clone(), right.T.clone()
    model.table.data = reference.table.weight.data
    model.norm.load_state_dict(reference.norm.state_dict())
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_renamed_turned_cut_and_tied_comes_back(dtype: torch.dtype) -> None:
    model = Apart().to(dtype)
    model.norm.running_mean += 2.5  # type: ignore[operator]
    back = inverse(convert, Joined(), model)
    assert back.both.dtype == dtype and back.output.weight is back.table.weight
    again = convert(back).state_dict()
    assert all(torch.equal(weight, again[name]) for name, weight in model.state_dict().items())
    assert torch.get_default_dtype() == torch.float32


def test_a_converter_that_computes_has_no_way_back() -> None:
    def halves(reference: Joined) -> Apart:
        model = convert(reference)
        model.table.data = model.table.data / 2
        return model

    with pytest.raises(ValueError, match="table is computed by the converter"):
        inverse(halves, Joined(), Apart())


def test_a_network_of_other_weights_is_refused() -> None:
    wide, more = Apart(), Joined()
    wide.table = nn.Parameter(torch.zeros(6, 3))
    with pytest.raises(ValueError, match=r"Joined has no table of the shape \(6, 3\)"):
        inverse(convert, Joined(), wide)
    more.scale = nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match=r"a weight of the shape \(2,\) that is not here"):
        inverse(convert, more, Apart())
