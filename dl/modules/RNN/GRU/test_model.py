"""The GRU against its equations; what it shares with the simple network is tested there."""

import torch
from torch import Tensor

from dl.modules.RNN.GRU.model import build
from dl.modules.RNN.RNN.test_model import Scores, Twin, stream_batch, tokens
from dl.modules.RNN.task import StreamModeling
from dl.mytorch import testing
from dl.mytorch.introspect import count_parameters


def gated(x: Tensor, h: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Section 2.3, equations 5 to 8, with the reset gate behind the matrix."""
    (x_r, x_z, x_n), (h_r, h_z, h_n) = x.chunk(3, 1), h.chunk(3, 1)
    z = torch.sigmoid(x_z + h_z)
    return (z * state[0] + (1 - z) * torch.tanh(x_n + torch.sigmoid(x_r + h_r) * h_n),)


def test_network_is_its_equations_in_outputs_gradients_and_steps() -> None:
    model = build("tiny")
    testing.assert_same_as(Scores(model), Twin(model, gated, 1), tokens(), tolerance=1e-10)


def test_networks_have_these_parameters() -> None:
    assert count_parameters(build("char")) == 65 * 64 + 3 * 320 * (64 + 320 + 2) + 65 * (320 + 1)
    head, tails = 2002 * 320, (320 + 8000) * 80 + (320 + 23_278) * 20
    assert count_parameters(build("word")) == 33_278 * 256 + 3 * 320 * (256 + 320 + 2) + head + tails


def test_scores_have_one_row_for_each_token_which_depends_on_those_before() -> None:
    model = Scores(build("tiny")).eval()
    assert model(tokens(2, 5)).shape == (2, 5, 11) and model(tokens(4, 1)).shape == (4, 1, 11)
    testing.assert_causal(model, tokens(), (tokens() + 1) % 11)
    testing.assert_batch_independent(model, tokens())


def test_every_parameter_gets_a_gradient_and_one_batch_is_learnt_by_heart() -> None:
    testing.assert_gradients_flow(build("tiny"), stream_batch(), StreamModeling(None))
    testing.assert_overfits(build("tiny", hidden_dim=16), stream_batch(), StreamModeling(None), lr=2e-2, below=0.2)
