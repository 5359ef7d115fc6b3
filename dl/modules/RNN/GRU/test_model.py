"""The GRU against its equations; what it shares with the other recurrent networks is in ../test_language_models.py."""

import torch
from torch import Tensor, nn

from dl.modules.RNN.GRU import train
from dl.modules.RNN.GRU.model import GRULanguageModel, build
from dl.modules.RNN.task import StreamModeling
from dl.modules.RNN.testing import STREAM_RUN, Scores, stream_batch, tiny_streams, tokens
from dl.mytorch import testing
from dl.mytorch.introspect import count_parameters


def cell(x: Tensor, h: Tensor, W: Tensor, U: Tensor, b: Tensor, d: Tensor) -> Tensor:
    """Section 2.3, equations 5 to 8, with the reset gate after the matrix: x (B, dim), h (B, C) -> h' (B, C)."""
    (W_r, W_z, W_n), (U_r, U_z, U_n), (b_r, b_z, b_n), (d_r, d_z, d_n) = (p.chunk(3) for p in (W, U, b, d))
    r = torch.sigmoid(x @ W_r.T + b_r + h @ U_r.T + d_r)
    z = torch.sigmoid(x @ W_z.T + b_z + h @ U_z.T + d_z)
    n = torch.tanh(x @ W_n.T + b_n + r * (h @ U_n.T + d_n))
    return z * h + (1 - z) * n


class PaperTwin(nn.Module):
    """The language model token by token from the equations, without a line of torch's recurrent layers."""

    def __init__(self, model: GRULanguageModel) -> None:
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
                x = h[layer] = cell(x, h[layer], W, U, b, d)
            scores.append(x @ self.output[0].T + self.output[1])
        return torch.stack(scores, dim=1)


def test_network_is_its_equations_in_outputs_gradients_and_steps() -> None:
    model = build("tiny")
    testing.assert_same_as(Scores(model), PaperTwin(model), tokens(), tolerance=1e-10)


def test_networks_have_these_parameters() -> None:
    assert count_parameters(build("char")) == 65 * 64 + 3 * 320 * (64 + 320 + 2) + 65 * (320 + 1)
    head, tails = 2002 * 320, (320 + 8000) * 80 + (320 + 23_278) * 20
    assert count_parameters(build("word")) == 33_278 * 256 + 3 * 320 * (256 + 320 + 2) + head + tails


test_standard = testing.standard_checks(
    build,
    train.main,
    train.Config(steps=6, accumulate=2, **STREAM_RUN),
    stream_batch,
    splits=lambda config: tiny_streams(),
    task=lambda: StreamModeling(None),
    variants=[{}, {"cutoffs": (4,)}, {"dim": 8, "tied": True}],
    inputs=lambda: (tokens(),),
    output=Scores,
    overfit=[testing.Overfit({"hidden_dim": 16}, lr=2e-2, below=0.2)],
)
