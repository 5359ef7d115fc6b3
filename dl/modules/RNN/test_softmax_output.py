"""The two output layers against torch's loss and torch's adaptive softmax."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dl.modules.RNN.softmax_output import AdaptiveSoftmax, SoftmaxOutput
from dl.mytorch import testing

FEATURES = torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(0))
TARGETS = torch.tensor([[0, 3, 4, 5, 11], [12, 19, 1, 2, 7], [19, 18, 0, 4, 13]])


def twins() -> tuple[AdaptiveSoftmax, nn.AdaptiveLogSoftmaxWithLoss]:
    own, reference = AdaptiveSoftmax(16, 20, (4, 12)), nn.AdaptiveLogSoftmaxWithLoss(16, 20, (4, 12))
    reference.load_state_dict(dict(zip(reference.state_dict(), own.state_dict().values(), strict=True)))
    return own, reference


class Flat(nn.Module):
    """torch's, for more than one row of targets."""

    def __init__(self, reference: nn.AdaptiveLogSoftmaxWithLoss) -> None:
        super().__init__()
        self.reference = reference

    def forward(self, features: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return self.reference(features.flatten(0, -2), targets.flatten()).output.view_as(targets)


def test_adaptive_softmax_is_torch_s_in_outputs_gradients_and_steps() -> None:
    own, reference = twins()
    testing.assert_same_as(own, Flat(reference), FEATURES, TARGETS, tolerance=1e-10)


def test_probabilities_of_all_classes_sum_up_to_one_and_are_those_of_the_targets() -> None:
    own, reference = (layer.double() for layer in twins())
    features = FEATURES.double()
    every = own(features)
    torch.testing.assert_close(every.exp().sum(-1), torch.ones(3, 5).double())
    torch.testing.assert_close(every.flatten(0, 1), reference.log_prob(features.flatten(0, 1)), rtol=0, atol=1e-10)
    torch.testing.assert_close(every.gather(-1, TARGETS[..., None])[..., 0], own(features, TARGETS), rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    "make", [lambda: SoftmaxOutput(16, 20), lambda: AdaptiveSoftmax(16, 20, (4, 12))], ids=["full", "adaptive"]
)
def test_log_probabilities_of_targets_are_those_of_the_softmax_and_0_where_there_is_none(make: type) -> None:
    layer, targets = make(), TARGETS.clone()
    targets[1, 1:3] = -100
    expected = -F.cross_entropy(layer(FEATURES).flatten(0, 1), targets.flatten(), reduction="none").view(3, 5)
    found = layer(FEATURES, targets)
    torch.testing.assert_close(found, expected)
    assert found[1, 1:3].tolist() == [0, 0] and (found < 0).sum() == 13


def test_clusters_without_a_target_take_part_with_a_gradient_of_0() -> None:
    layer = AdaptiveSoftmax(16, 20, (4, 12))
    layer(FEATURES[:1, :2], TARGETS[:1, :2]).sum().backward()
    assert not any(p.grad.any() for p in layer.tails.parameters()) and layer.head.weight.grad.any()
