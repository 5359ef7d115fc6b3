"""AWD-LSTM against torch's layers, dropout by dropout; its penalties."""

import pytest
import torch
from torch import Tensor, nn

from dl.modules.RNN.AWDLSTM import train
from dl.modules.RNN.AWDLSTM.model import AWDLSTM, EmbeddingDropout, LockedDropout, WeightDrop, build
from dl.modules.RNN.task import StreamModeling
from dl.modules.RNN.testing import STREAM_RUN, Scores, stream_batch, tiny_streams, tokens
from dl.mytorch import testing
from dl.mytorch.introspect import count_parameters, without_values

NO_DROPOUT = dict.fromkeys(["dropout", "input_dropout", "hidden_dropout", "word_dropout", "weight_dropout"], 0.0)


class TorchStack(nn.Module):
    """AWD-LSTM without dropout, from torch's layers."""

    def __init__(self, model: AWDLSTM) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.layers = nn.ModuleList(nn.LSTM(a, b, batch_first=True) for a, b in ((6, 9), (9, 9), (9, 6)))
        self.bias = nn.ParameterList([torch.empty(11)])
        for own, other in zip(self.parameters(), model.parameters(), strict=True):
            own.data.copy_(other.data)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x)[0]
        return x @ self.embedding.weight.T + self.bias[0]


@pytest.mark.parametrize("training", [True, False])
def test_awd_lstm_without_dropout_is_torch_s_stack(training: bool) -> None:
    model = build("tiny", **(NO_DROPOUT if training else {}))
    model.output.bias.data.normal_()
    parameters = dict(model.named_parameters())
    assert list(parameters)[0] == "embedding.weight" and list(parameters)[-1] == "output.bias"
    testing.assert_same_as(Scores(model), TorchStack(model), tokens(), tolerance=1e-10, train=training)


def test_the_paper_s_network_has_33_million_parameters() -> None:
    """Table 2."""
    with without_values():
        count = count_parameters(build("awd"))
    lstm = [4 * b * (a + b + 2) for a, b in ((400, 1150), (1150, 1150), (1150, 400))]
    assert count == 33_278 * (400 + 1) + sum(lstm) == 33_556_078


def test_scores_have_one_row_for_each_token_which_depends_on_those_before() -> None:
    model = Scores(build("tiny")).eval()
    assert model(tokens(2, 5)).shape == (2, 5, 11) and model(tokens(4, 1)).shape == (4, 1, 11)
    testing.assert_causal(model, tokens(), (tokens() + 1) % 11, tolerance=1e-6)


def test_whole_words_are_left_out_wherever_they_are() -> None:
    layer, read = EmbeddingDropout(11, 4, 0.4), torch.arange(11).repeat(3, 2)
    ratio = layer(read) / nn.functional.embedding(read, layer.weight)  # (3, 22, 4)
    assert torch.equal(ratio, ratio[:1, :11].repeat(3, 2, 1)) and ((ratio - ratio[..., :1]).abs() < 1e-6).all()
    kept = ratio[0, :11, 0] != 0
    torch.testing.assert_close(ratio[0, :11, 0], kept / 0.6)
    assert 0 < kept.sum() < 11
    assert torch.equal(layer.eval()(read), nn.functional.embedding(read, layer.weight))


def test_locked_dropout_has_one_mask_for_all_of_time_and_another_for_each_row() -> None:
    mask = LockedDropout(0.5)(torch.ones(4, 6, 20))
    assert torch.equal(mask, mask[:, :1].expand_as(mask)) and set(mask.unique().tolist()) == {0, 2}
    assert len({tuple(row.tolist()) for row in mask[:, 0]}) == 4
    assert torch.equal(LockedDropout(0.5).eval()(mask), mask)


def test_weight_drop_is_an_lstm_whose_recurrent_weights_are_dropped() -> None:
    layer, x = WeightDrop(nn.LSTM(3, 5, batch_first=True), 0.5), torch.randn(2, 4, 3)
    torch.manual_seed(1)
    found, _ = layer(x, None)
    torch.manual_seed(1)
    dropped = nn.functional.dropout(layer.layer.weight_hh_l0, 0.5)
    reference = nn.LSTM(3, 5, batch_first=True)
    reference.load_state_dict(layer.layer.state_dict() | {"weight_hh_l0": dropped})
    torch.testing.assert_close(found, reference(x)[0])
    found.square().sum().backward()
    zero = layer.layer.weight_hh_l0.grad == 0
    assert torch.equal(zero, dropped == 0) and 0.2 < zero.float().mean() < 0.8
    torch.testing.assert_close(layer.eval()(x, None)[0], layer.layer(x)[0])


def test_the_last_layer_s_penalties_are_those_of_section_4_6() -> None:
    model, batch = build("tiny").eval(), stream_batch()
    output = model(batch["tokens"], None, batch["targets"])
    losses = [StreamModeling(None, alpha, beta).step(model, batch).loss for alpha, beta in ((0, 0), (2, 0), (0, 3))]
    hidden = output.hidden
    torch.testing.assert_close(losses[0], -output.scores.mean())
    torch.testing.assert_close(losses[1] - losses[0], 2 * hidden.pow(2).mean())
    torch.testing.assert_close(losses[2] - losses[0], 3 * (hidden[:, 1:] - hidden[:, :-1]).pow(2).mean())
    assert StreamModeling(None, 2.0, 3.0).eval_step(model, batch).loss == losses[0]
    model.train()
    torch.manual_seed(0)
    dropped = model(batch["tokens"]).dropped
    torch.manual_seed(0)
    plain = StreamModeling(None).step(model, batch).loss
    torch.manual_seed(0)
    torch.testing.assert_close(StreamModeling(None, 1.0).step(model, batch).loss - plain, dropped.pow(2).mean())


test_standard = testing.standard_checks(
    build,
    train.main,
    train.Config(steps=6, optimizer="adamw", grad_clip=1.0, **STREAM_RUN),
    stream_batch,
    splits=lambda config: tiny_streams(),
    task=lambda: StreamModeling(None, 1.0, 1.0),
    inputs=lambda: (tokens(),),
    output=Scores,
    overfit=[testing.Overfit({"dim": 12, **NO_DROPOUT}, task=lambda: StreamModeling(None), lr=4e-2, below=0.2)],
)
