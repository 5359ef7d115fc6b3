"""Seq2Seq sentence by sentence from torch's cells, padded and packed and one by one; its laws; the recipe."""

from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dl.modules.RNN.Seq2Seq import train
from dl.modules.RNN.Seq2Seq.model import Seq2Seq, build, run_packed, turn_round
from dl.modules.RNN.testing import example, pairs_batch, splits
from dl.mytorch import testing
from dl.mytorch.introspect import count_parameters, without_values
from dl.mytorch.text.decoding import beam_search, greedy_search
from dl.mytorch.text.tasks import Seq2Seq as Seq2SeqTask
from dl.mytorch.text.testing import BEGIN, END, LENGTHS, sources

CHO = {"layer": nn.GRU, "depth": 1, "reverse": False, "context": True}
KINDS = pytest.mark.parametrize("options", [{}, CHO], ids=["sutskever", "cho"])


class CellTwin(nn.Module):
    """The same weights, word by word through torch's cells, each sentence by itself and without its padding."""

    def __init__(self, model: Seq2Seq) -> None:
        super().__init__()
        self.reverse, self.context = model.reverse, model.context
        self.weights = nn.ParameterList(p.detach().clone() for p in model.parameters())
        self.names = [name for name, _ in model.named_parameters()]
        self.cell = torch.lstm_cell if isinstance(model.encoder, nn.LSTM) else torch.gru_cell

    def stack(self, part: str, x: Tensor, states: list[Any], named: dict[str, Tensor]) -> Tensor:
        for i, state in enumerate(states):
            weights = [named[f"{part}.{kind}_l{i}"] for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
            states[i] = self.cell(x, state, *weights)
            x = states[i][0] if isinstance(states[i], tuple) else states[i]
        return x

    def forward(self, source: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        named = dict(zip(self.names, self.weights))
        width, depth = named["encoder.weight_hh_l0"].shape[1], sum("encoder.weight_hh" in name for name in named)
        scores = []
        for words, said, padding in zip(source, target, mask):
            words = words[~padding].flip(0) if self.reverse else words[~padding]
            zero = named["output.weight"].new_zeros(1, width)
            states: list[Any] = [(zero, zero) if self.cell is torch.lstm_cell else zero] * depth
            for word in words:
                summary = self.stack("encoder", named["source_embedding.weight"][word][None], states, named)
            row = []
            for word in said:
                x = named["embedding.weight"][word][None]
                hidden = self.stack("decoder", torch.cat([x, summary], 1) if self.context else x, states, named)
                features = torch.cat([hidden, summary], 1) if self.context else hidden
                row.append(features @ named["output.weight"].T + named["output.bias"])
            scores.append(torch.cat(row))
        return torch.stack(scores)


@KINDS
def test_padded_packed_and_one_by_one_runs_agree_in_outputs_gradients_and_steps(options: dict[str, Any]) -> None:
    model = build("tiny", **options)
    testing.assert_same_as(model, CellTwin(model), *example(), tolerance=1e-10)
    source, target, mask = example()
    for i, length in enumerate(LENGTHS):  # float32
        alone = model(source[i : i + 1, :length], target[i : i + 1])
        torch.testing.assert_close(model(source, target, mask)[i : i + 1], alone, rtol=0, atol=1e-6)


def test_a_packed_layer_stops_where_padding_begins_in_both_directions() -> None:
    layer, x = nn.GRU(4, 5, 2, bidirectional=True, batch_first=True), torch.randn(3, 6, 4)
    mask = torch.arange(6) >= torch.tensor(LENGTHS)[:, None]
    outputs, last = run_packed(layer, x, mask)
    for i, length in enumerate(LENGTHS):
        alone, final = layer(x[i : i + 1, :length])
        torch.testing.assert_close(outputs[i : i + 1, :length], alone, rtol=0, atol=1e-6)
        torch.testing.assert_close(last[:, i : i + 1], final, rtol=0, atol=1e-6)
        assert not outputs[i, length:].any()
    assert run_packed(layer, x[:0], mask[:0])[0].shape == (0, 6, 10)  # a rank without a row


def test_sources_are_turned_round_up_to_their_padding() -> None:
    rows = torch.tensor([[1, 2, 3], [4, 0, 0], [5, 6, 0]])
    assert turn_round(rows, rows == 0).tolist() == [[3, 2, 1], [4, 0, 0], [6, 5, 0]]
    assert turn_round(rows[:1], None).tolist() == [[3, 2, 1]]
    model, (source, target, mask) = build("tiny"), example()
    plain = build("tiny", reverse=False)
    plain.load_state_dict(model.state_dict())
    torch.testing.assert_close(plain(turn_round(source, mask), target, mask), model(source, target, mask))


def test_paper_s_network_has_384_million_parameters() -> None:
    """Section 3.4: 384M parameters, of which 64M are recurrent connections, 32M on each side."""
    with without_values():
        model, cho = build("sutskever"), build("cho")
    matrices = [sum(p.numel() for p in side.parameters() if p.ndim == 2) for side in (model.encoder, model.decoder)]
    assert matrices == [32_000_000, 32_000_000]
    assert count_parameters(model) == 384_000_000 + 2 * 4 * 8000 + 80_000  # biases
    gru = [3 * 1000 * (width + 1000 + 2) for width in (100, 1100)]
    assert count_parameters(cho) == 2 * 15_000 * 100 + sum(gru) + 15_000 * (2000 + 1)


@pytest.mark.parametrize("size", [(7, 1), (3, 9)])
@KINDS
def test_logits_have_one_row_per_target_token_which_depends_on_those_before(size: tuple[int, int], options: dict) -> None:
    model = build("tiny", vocabulary_size=11, **options).eval()
    source, target = torch.randint(4, 9, (2, size[0])), torch.randint(4, 9, (2, size[1]))
    assert model(source, target).shape == (2, size[1], 11)
    testing.assert_causal(lambda target: model(source, target), target.repeat(1, 2), target.repeat(1, 2) - 1, tolerance=1e-6)


def test_initial_weights_are_uniform_within_0_08() -> None:
    assert all(0.07 < p.abs().max() <= 0.08 for p in build("small").parameters())


@KINDS
def test_searches_with_a_state_are_those_that_read_all_again(options: dict[str, Any]) -> None:
    model = build("tiny", **options).eval()
    for parameter in model.parameters():
        parameter.data *= 12  # sentences that vary and end
    source = sources()
    for never_ends, search in product((False, True), (greedy_search, partial(beam_search, num_beams=3))):
        if never_ends:
            model.output.bias.data[END] = -1e3
        found = [search(model, source, bos_id=BEGIN, eos_id=END, max_extra_tokens=6, cached=cached) for cached in (True, False)]
        assert found[0] == found[1] and (all(found[0]) or not never_ends)


# ---- the recipe ----------------------------------------------------------------------------------------------------


test_standard = testing.standard_checks(
    build,
    train.main,
    train.Config(model="tiny", epochs=1, batch_size=12, dropout=0.2),
    pairs_batch,
    splits=splits,
    task=Seq2SeqTask,
    variants=[{}, CHO],
    inputs=example,
    overfit=[testing.Overfit({"hidden_dim": 24, **options}, lr=3e-2, below=0.2) for options in ({}, CHO)],
)


def test_history_holds_bleu_beside_the_losses(tmp_path: Path, no_figures: None) -> None:
    config = train.Config(out=str(tmp_path), model="tiny", steps=1, batch_size=12)
    tested = train.main(config, splits(config)).test
    assert sorted(tested) == ["bleu_error", "loss", "perplexity", "top1_error"]


def test_recipe_refuses_impossible_flags() -> None:
    wrong = [("dropout", 1.0), ("min_count", 0), ("num_beams", 0), ("num_beams", 10**9), ("label_smoothing", 1.0)]
    for name, value in wrong:
        with pytest.raises(ValueError, match=f"--{name.replace('_', '-')} has to be"):
            train.Config(**{name: value})
