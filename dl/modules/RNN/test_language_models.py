"""What RNN, GRU and LSTM have in common as language models, and AWD-LSTM where it says so."""

from types import ModuleType

import pytest
import torch

from dl.modules.RNN.AWDLSTM import model as awd_lstm
from dl.modules.RNN.GRU import model as gru
from dl.modules.RNN.LSTM import model as lstm
from dl.modules.RNN.RNN import model as rnn
from dl.modules.RNN.testing import Scores, stream_batch, tokens
from dl.mytorch import testing
from dl.mytorch.from_scratch.layers.swap import from_scratch
from dl.mytorch.introspect import count_parameters

each = pytest.mark.parametrize("network", [rnn, gru, lstm], ids=["RNN", "GRU", "LSTM"])


@pytest.mark.parametrize("size", [(2, 5), (4, 1)])
@pytest.mark.parametrize("preset", ["tiny", "char"])
@each
def test_scores_have_one_row_for_each_token(network: ModuleType, preset: str, size: tuple[int, int]) -> None:
    output = network.build(preset, vocab_size=13)(tokens(*size))
    assert output.scores.shape == (*size, 13)
    options = network.PRESETS[preset]
    shape = (size[0], options.get("depth", 1), options["hidden_dim"])
    assert [part.shape for part in output.state] == [shape] * (2 if network is lstm else 1)


@each
def test_scores_with_targets_are_their_log_probabilities(network: ModuleType) -> None:
    model, batch = network.build("tiny"), stream_batch()
    expected = model(batch["tokens"]).scores.log_softmax(-1).gather(-1, batch["targets"][..., None])[..., 0]
    torch.testing.assert_close(model(batch["tokens"], targets=batch["targets"]).scores, expected)


@each
def test_a_score_depends_on_the_tokens_before_alone(network: ModuleType) -> None:
    model = Scores(network.build("tiny")).eval()
    testing.assert_causal(model, tokens(), (tokens() + 1) % 11, tolerance=1e-6)


@each
def test_tied_weights_are_one_matrix_and_need_one_width(network: ModuleType) -> None:
    model = network.build("tiny", dim=8, tied=True)
    assert model.output.weight is model.embedding.weight
    assert count_parameters(model) == count_parameters(network.build("tiny", dim=8)) - 11 * 8
    for options in ({}, {"dim": 8, "cutoffs": (4,)}):
        with pytest.raises(ValueError, match="tied weights need"):
            network.build("tiny", tied=True, **options)


def test_dropout_acts_on_what_goes_up_and_never_on_what_goes_on() -> None:
    model = rnn.build("tiny", dropout=0.999999)
    output = model(tokens())
    assert not output.dropped.any()
    torch.testing.assert_close(output.scores, model.output.bias.expand_as(output.scores))
    lower = output.state[0][:, 0]  # its input is 0, its state is not
    bias = model.recurrent.bias_ih_l0 + model.recurrent.bias_hh_l0
    state = torch.zeros(3, 8)
    for _ in range(7):
        state = torch.tanh(state @ model.recurrent.weight_hh_l0.T + bias)
    torch.testing.assert_close(lower, state)


@each
def test_dropout_is_of_embeddings_between_layers_and_of_the_last_layer(network: ModuleType) -> None:
    model = network.build("tiny", dropout=0.5)
    assert model.dropout.p == model.recurrent.dropout == 0.5
    assert network.build("tiny", dropout=0.5, depth=1).recurrent.dropout == 0


@each
def test_initial_weights_are_uniform_within_their_bounds(network: ModuleType) -> None:
    model = network.build("char")
    assert 0.0999 < model.embedding.weight.abs().max() <= 0.1
    assert 0.999 < model.recurrent.weight_hh_l0.abs().max() * network.PRESETS["char"]["hidden_dim"] ** 0.5 <= 1


def test_initial_weights_of_zaremba_are_uniform_within_one_bound() -> None:
    model = lstm.build("char", init_bound=0.05)
    assert all(0.045 < p.abs().max() <= 0.05 for p in model.parameters())


@pytest.mark.parametrize("network", [rnn, gru, lstm, awd_lstm], ids=["RNN", "GRU", "LSTM", "AWD-LSTM"])
def test_networks_build_from_our_own_layers_and_give_the_same_scores(network: ModuleType) -> None:
    model, batch = network.build("tiny").double().eval(), stream_batch()
    with from_scratch():
        own = network.build("tiny").double().eval()
        own.load_state_dict(model.state_dict())
        first = own(batch["tokens"])
        second = own(batch["tokens"], first.state)
    recurrent = own.layers[0].layer if network is awd_lstm else own.recurrent
    assert type(recurrent).__module__.startswith("dl.mytorch.from_scratch.layers")
    expected = model(batch["tokens"], model(batch["tokens"]).state)
    torch.testing.assert_close(second.scores, expected.scores, rtol=0, atol=1e-10)
    assert not torch.allclose(second.scores, first.scores)  # the state is carried over
