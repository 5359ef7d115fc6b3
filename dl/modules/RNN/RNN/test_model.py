"""The simple recurrent network against its equation, its laws, and the parts that GRU and LSTM share with it."""

from typing import Any, Callable

import pytest
import torch
from torch import Tensor, nn

from dl.modules.RNN.RNN.model import PRESETS, RecurrentLanguageModel, build
from dl.modules.RNN.task import StreamModeling
from dl.mytorch import testing
from dl.mytorch.data import Batch
from dl.mytorch.introspect import count_parameters

# W x + b, U h + b, state -> state, of which the first part is the output
Step = Callable[[Tensor, Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]]


def tokens(batch: int = 3, length: int = 7) -> Tensor:
    return torch.randint(11, (batch, length), generator=torch.Generator().manual_seed(batch))


def stream_batch() -> Batch:
    """Three streams that begin."""
    read = tokens(3, 8)
    return {"tokens": read[:, :-1], "targets": read[:, 1:], "begins": torch.ones(3, dtype=torch.bool)}


class Twin(nn.Module):
    """A language model token by token from the equation of its layer, without a line of torch's recurrent layers."""

    def __init__(self, model: RecurrentLanguageModel, step: Step, num_states: int) -> None:
        super().__init__()
        self.step, self.num_states = step, num_states
        self.embedding = nn.Parameter(model.embedding.weight.detach().clone())
        self.layers = nn.ModuleList(
            nn.ParameterList(p.detach().clone() for p in layer) for layer in model.recurrent.all_weights
        )
        self.output = nn.ParameterList(p.detach().clone() for p in model.output.parameters())

    def forward(self, tokens: Tensor) -> Tensor:
        width = self.layers[0][1].shape[1]
        states = [(self.embedding.new_zeros(len(tokens), width),) * self.num_states for _ in self.layers]
        scores = []
        for t in range(tokens.shape[1]):
            x = self.embedding[tokens[:, t]]
            for i, (w, u, w_bias, u_bias) in enumerate(self.layers):
                states[i] = self.step(x @ w.T + w_bias, states[i][0] @ u.T + u_bias, states[i])
                x = states[i][0]
            scores.append(x @ self.output[0].T + self.output[1])
        return torch.stack(scores, dim=1)


class Scores(nn.Module):
    """Only the scores of a language model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model(tokens).scores


def elman(x: Tensor, h: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (torch.tanh(x + h),)


def test_network_is_its_equation_in_outputs_gradients_and_steps() -> None:
    model = build("tiny")
    testing.assert_same_as(Scores(model), Twin(model, elman, 1), tokens(), tolerance=1e-10)


def test_networks_have_these_parameters() -> None:
    assert count_parameters(build("char")) == 65 * 64 + 512 * (64 + 512 + 2) + 65 * (512 + 1)
    head, tails = 2002 * 512, (512 + 8000) * 128 + (512 + 23_278) * 32
    assert count_parameters(build("word")) == 33_278 * 256 + 512 * (256 + 512 + 2) + head + tails


@pytest.mark.parametrize("size", [(2, 5), (4, 1)])
@pytest.mark.parametrize("preset", ["tiny", "char"])
def test_scores_have_one_row_for_each_token(preset: str, size: tuple[int, int]) -> None:
    output = build(preset, vocab_size=13)(tokens(*size))
    assert output.scores.shape == (*size, 13)
    assert [part.shape for part in output.state] == [(size[0], PRESETS[preset].get("depth", 1), PRESETS[preset]["hidden_dim"])]


def test_scores_with_targets_are_their_log_probabilities() -> None:
    model, batch = build("tiny"), stream_batch()
    expected = model(batch["tokens"]).scores.log_softmax(-1).gather(-1, batch["targets"][..., None])[..., 0]
    torch.testing.assert_close(model(batch["tokens"], targets=batch["targets"]).scores, expected)


def test_a_score_depends_on_the_tokens_before_alone_and_on_its_own_row() -> None:
    model = Scores(build("tiny")).eval()
    testing.assert_causal(model, tokens(), (tokens() + 1) % 11)
    testing.assert_batch_independent(model, tokens())


def test_tied_weights_are_one_matrix_and_need_one_width() -> None:
    model = build("tiny", dim=8, tied=True)
    assert model.output.weight is model.embedding.weight
    assert count_parameters(model) == count_parameters(build("tiny", dim=8)) - 11 * 8
    for options in ({}, {"dim": 8, "cutoffs": (4,)}):
        with pytest.raises(ValueError, match="tied weights need"):
            build("tiny", tied=True, **options)


def test_dropout_acts_on_what_goes_up_and_never_on_what_goes_on() -> None:
    model = build("tiny", dropout=0.999999)
    output = model(tokens())
    assert not output.dropped.any()
    torch.testing.assert_close(output.scores, model.output.bias.expand_as(output.scores))
    lower = output.state[0][:, 0]  # its input is 0, its state is not
    bias = model.recurrent.bias_ih_l0 + model.recurrent.bias_hh_l0
    state = torch.zeros(3, 8)
    for _ in range(7):
        state = torch.tanh(state @ model.recurrent.weight_hh_l0.T + bias)
    torch.testing.assert_close(lower, state)


def test_initial_weights_are_uniform_within_their_bounds() -> None:
    model = build("char")
    assert 0.0999 < model.embedding.weight.abs().max() <= 0.1
    assert 0.999 < model.recurrent.weight_hh_l0.abs().max() * 512**0.5 <= 1
    model = build("char", init_bound=0.05)
    assert all(0.045 < p.abs().max() <= 0.05 for p in model.parameters())


@pytest.mark.parametrize("options", [{}, {"cutoffs": (4,)}, {"dim": 8, "tied": True}], ids=["full", "adaptive", "tied"])
def test_every_parameter_gets_a_gradient(options: dict[str, Any]) -> None:
    testing.assert_gradients_flow(build("tiny", **options), stream_batch(), StreamModeling(None))


@pytest.mark.parametrize("options", [{}, {"cutoffs": (4,)}], ids=["full", "adaptive"])
def test_one_batch_is_learnt_by_heart(options: dict[str, Any]) -> None:
    model = build("tiny", hidden_dim=16, **options)
    testing.assert_overfits(model, stream_batch(), StreamModeling(None), lr=2e-2, below=0.2)
