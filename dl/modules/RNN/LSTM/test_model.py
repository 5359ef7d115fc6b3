"""The LSTM against its equations; what it shares with the other recurrent networks is in ../test_language_models.py."""

import torch
from torch import Tensor, nn

from dl.modules.RNN.LSTM import train
from dl.modules.RNN.LSTM.model import PRESETS, LSTMLanguageModel, build
from dl.modules.RNN.task import StreamModeling
from dl.modules.RNN.testing import STREAM_RUN, Scores, stream_batch, tiny_streams, tokens
from dl.mytorch import testing
from dl.mytorch.introspect import count_parameters, without_values


def cell(x: Tensor, h: Tensor, c: Tensor, W: Tensor, U: Tensor, b: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    """One step: x (B, dim), h and c (B, C) -> h' and c' (B, C)."""
    (W_i, W_f, W_g, W_o), (U_i, U_f, U_g, U_o), (b_i, b_f, b_g, b_o), (d_i, d_f, d_g, d_o) = (p.chunk(4) for p in (W, U, b, d))
    i = torch.sigmoid(x @ W_i.T + b_i + h @ U_i.T + d_i)
    f = torch.sigmoid(x @ W_f.T + b_f + h @ U_f.T + d_f)
    g = torch.tanh(x @ W_g.T + b_g + h @ U_g.T + d_g)
    o = torch.sigmoid(x @ W_o.T + b_o + h @ U_o.T + d_o)
    c = f * c + i * g
    return o * torch.tanh(c), c


class PaperTwin(nn.Module):
    """The language model token by token from the equations, without a line of torch's recurrent layers."""

    def __init__(self, model: LSTMLanguageModel) -> None:
        super().__init__()
        self.embedding = nn.Parameter(model.embedding.weight.detach().clone())
        self.layers = nn.ModuleList(
            nn.ParameterList(p.detach().clone() for p in layer) for layer in model.recurrent.all_weights
        )
        self.output = nn.ParameterList(p.detach().clone() for p in model.output.parameters())

    def forward(self, tokens: Tensor) -> Tensor:
        (batch, length), width = tokens.shape, self.layers[0][1].shape[1]
        h, c = ([self.embedding.new_zeros(batch, width)] * len(self.layers) for _ in range(2))
        scores = []
        for t in range(length):
            x = self.embedding[tokens[:, t]]
            for layer, (W, U, b, d) in enumerate(self.layers):
                x, c[layer] = cell(x, h[layer], c[layer], W, U, b, d)
                h[layer] = x
            scores.append(x @ self.output[0].T + self.output[1])
        return torch.stack(scores, dim=1)


def test_network_is_its_equations_in_outputs_gradients_and_steps() -> None:
    model = build("tiny")
    testing.assert_same_as(Scores(model), PaperTwin(model), tokens(), tolerance=1e-10)


def test_networks_have_these_parameters() -> None:
    """20 and 66 million: Zaremba et al., table 1 of Merity et al. 2017."""
    with without_values():
        counts = {preset: count_parameters(build(preset)) for preset in PRESETS}
    for size, width, millions in (("small", 200, 5), ("medium", 650, 20), ("large", 1500, 66)):
        assert counts[f"zaremba_{size}"] == 2 * 10_000 * width + 10_000 + 2 * 4 * width * (2 * width + 2)
        assert round(counts[f"zaremba_{size}"] / 1e6) == millions
    assert counts["char"] == 65 * 64 + 4 * 256 * (64 + 256 + 2) + 65 * (256 + 1)
    assert counts["char_wide"] == 65 * 128 + 4 * 384 * (128 + 384 + 2) + 65 * (384 + 1) == 822_849


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
    overfit=[testing.Overfit({"hidden_dim": 16}, lr=4e-2, below=0.2)],
)
