"""The simple recurrent network against its equations; the tests of all recurrent networks are in ../test_language_models.py."""

import torch
from torch import Tensor, nn

from dl.modules.RNN.RNN import train
from dl.modules.RNN.RNN.model import RNNLanguageModel, build
from dl.modules.RNN.task import StreamModeling
from dl.modules.RNN.testing import STREAM_RUN, Scores, stream_batch, tiny_streams, tokens
from dl.mytorch import testing
from dl.mytorch.introspect import count_parameters


class PaperTwin(nn.Module):
    """The language model token by token from the equations, without a line of torch's recurrent layers."""

    def __init__(self, model: RNNLanguageModel) -> None:
        super().__init__()
        self.embedding = nn.Parameter(model.embedding.weight.detach().clone())
        self.layers = nn.ModuleList(
            nn.ParameterList(p.detach().clone() for p in layer) for layer in model.recurrent.all_weights
        )
        self.output = nn.ParameterList(p.detach().clone() for p in model.output.parameters())

    def forward(self, tokens: Tensor) -> Tensor:
        (batch, length), width = tokens.shape, self.layers[0][1].shape[1]
        h = [self.embedding.new_zeros(batch, width)] * len(self.layers)
        scores = []
        for t in range(length):
            x = self.embedding[tokens[:, t]]
            for layer, (W, U, b, d) in enumerate(self.layers):
                x = h[layer] = torch.tanh(x @ W.T + b + h[layer] @ U.T + d)
            scores.append(x @ self.output[0].T + self.output[1])
        return torch.stack(scores, dim=1)


def test_network_is_its_equations_in_outputs_gradients_and_steps() -> None:
    model = build("tiny")
    testing.assert_same_as(Scores(model), PaperTwin(model), tokens(), tolerance=1e-10)


def test_networks_have_these_parameters() -> None:
    assert count_parameters(build("char")) == 65 * 64 + 512 * (64 + 512 + 2) + 65 * (512 + 1)
    head, tails = 2002 * 512, (512 + 8000) * 128 + (512 + 23_278) * 32
    assert count_parameters(build("word")) == 33_278 * 256 + 512 * (256 + 512 + 2) + head + tails


test_standard = testing.standard_checks(
    build,
    train.main,
    train.Config(steps=6, **STREAM_RUN),
    stream_batch,
    splits=lambda config: tiny_streams(),
    task=lambda: StreamModeling(None),
    variants=[{}, {"cutoffs": (4,)}, {"dim": 8, "tied": True}],
    inputs=lambda: (tokens(),),
    output=Scores,
    overfit=[testing.Overfit({"hidden_dim": 16, **options}, lr=2e-2, below=0.2) for options in ({}, {"cutoffs": (4,)})],
)
